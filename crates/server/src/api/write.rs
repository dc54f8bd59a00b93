//! Writing objects: create, replace, patch, delete.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};

use super::body;
use super::caller::{Caller, named_by_selector};
use super::delete_options;
use super::foretold;
use super::path::{Query, Target};
use super::render::Rendering;
use super::reply::{self, Reply};
use super::selector::Selector;
use super::status::Failure;
use crate::flows::Flows;
use crate::objects::patch::{self, Patch};
use crate::objects::{
    DeleteOptions, ObjectError, Objects, Part, UnknownFields, WriteOptions, Written, check_deletable,
};

/// A request that writes.
pub(super) struct WriteRequest<'a> {
    pub(super) caller: &'a Caller,
    pub(super) objects: &'a Objects,
    pub(super) flows: &'a Flows,
    pub(super) target: &'a Target,
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
    pub(super) rendering: Rendering,
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// The media types of patches.
pub(super) const PATCHES: [&str; 4] = [JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH];

impl WriteRequest<'_> {
    /// `POST`
    pub(super) async fn create(&self, content: &[u8]) -> Result<Reply, Failure> {
        let object = body::new_object(self.headers, content)?;
        let options = self.options()?;
        let kind = self.target.kind;
        let written = self.objects.create(kind, self.target.namespace(), object, &options).await?;
        Ok(self.written(written, &options).await)
    }

    /// `PUT`
    pub(super) async fn replace(&self, name: &str, content: &[u8]) -> Result<Reply, Failure> {
        let object = body::object(self.headers, content)?;
        let options = self.options()?;
        let (kind, namespace) = (self.target.kind, self.target.namespace());
        let written =
            self.objects.modify(kind, namespace, name, &options, |_| Ok(self.tried(object.clone()))).await?;
        Ok(self.written(written, &options).await)
    }

    /// `PATCH`
    pub(super) async fn patch(&self, name: &str, content: &[u8]) -> Result<Reply, Failure> {
        let (kind, namespace) = (self.target.kind, self.target.namespace());
        let patch = match body::media_type(self.headers).as_str() {
            APPLY_PATCH => return self.apply(name, body::yaml(content)?).await,
            JSON_PATCH => Patch::json(content)?,
            MERGE_PATCH => Patch::Merge(body::json(content)?),
            STRATEGIC_MERGE_PATCH => Patch::StrategicMerge(body::json(content)?),
            other => return Err(Failure::unsupported_media_type(other, &PATCHES)),
        };
        let options = self.options()?;
        let written = self
            .objects
            .modify(kind, namespace, name, &options, |current| {
                patch::apply(kind, current, &patch).map(|object| self.tried(object))
            })
            .await?;
        Ok(self.written(written, &options).await)
    }

    /// Server-side apply.
    async fn apply(&self, name: &str, config: Value) -> Result<Reply, Failure> {
        if self.query.get("fieldManager").is_none() {
            return Err(Failure::bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let options = self.options()?;
        let force = self.query.flag("force");
        let (kind, namespace) = (self.target.kind, self.target.namespace());
        if kind.id == KindId::Node {
            self.objects.require(kind, namespace, name).await?;
        }
        let written = self.objects.apply(kind, namespace, name, config, &options, force).await?;
        Ok(self.written(written, &options).await)
    }

    /// `DELETE` of one object.
    pub(super) async fn delete(&self, name: &str, content: &[u8]) -> Result<Reply, Failure> {
        let options = self.delete_options(content)?;
        let (kind, namespace) = (self.target.kind, self.target.namespace());
        self.caller.check_comes_back(kind, name)?;
        // They go as soon as it is gone.
        let warnings = foretold::runs_lost(self.flows, kind, namespace, name);
        let deleted = self.objects.delete(kind, namespace, name, &options).await?;
        if !options.dry_run {
            self.caller.deleted(kind, &deleted.object, deleted.gone).await;
        }
        // As in Kubernetes, a Service that is gone is shown once more.
        let mut response = if !deleted.gone || kind.id == KindId::Service {
            let shown = self.caller.visible("get", self.target, name, deleted.object);
            reply::json(StatusCode::OK, &self.rendering.object(kind, shown))
        } else {
            self::deleted(kind, name, &deleted.object)
        };
        reply::warn(&mut response, &warnings);
        Ok(response)
    }

    /// `DELETE` of all objects that the selectors match.
    pub(super) async fn delete_collection(&self, content: &[u8]) -> Result<Reply, Failure> {
        let options = self.delete_options(content)?;
        let selector = Selector::parse(self.query, self.target.kind)?;
        let kind = self.target.kind;
        let named = named_by_selector(self.target, "list", self.query).unwrap_or_default();
        let list = self.objects.list(kind, self.target.namespace.as_deref()).await?;
        let (mut items, mut warnings) = (Vec::new(), Vec::new());
        let text =
            |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let chosen: Vec<Value> = list.items.into_iter().filter(|object| selector.matches(object)).collect();
        // All, or nothing where one of them must stay.
        chosen.iter().try_for_each(|object| check_deletable(kind, &text(object, "name")))?;
        chosen.iter().try_for_each(|object| self.caller.check_comes_back(kind, &text(object, "name")))?;
        for object in chosen {
            let (namespace, name) = (text(&object, "namespace"), text(&object, "name"));
            let lost = foretold::runs_lost(self.flows, kind, &namespace, &name);
            match self.objects.delete(kind, &namespace, &name, &options).await {
                Ok(deleted) => {
                    if !options.dry_run {
                        self.caller.deleted(kind, &deleted.object, deleted.gone).await;
                    }
                    warnings.extend(lost);
                    items.push(self.caller.visible("list", self.target, &named, deleted.object));
                }
                // Somebody else was faster.
                Err(ObjectError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let metadata = json!({ "resourceVersion": self.objects.revision().await?.to_string() });
        let mut response = reply::json(StatusCode::OK, &self.rendering.list(kind, items, metadata));
        reply::warn(&mut response, &warnings);
        Ok(response)
    }

    /// What an attempt at a write wants.
    fn tried(&self, object: Value) -> Value {
        self.caller.tries();
        object
    }

    async fn written(&self, written: Written, options: &WriteOptions) -> Reply {
        if !options.dry_run {
            self.caller.wrote(self.target, &written.object).await;
        }
        let mut warnings = written.warnings;
        if !self.target.status {
            warnings.extend(self.foretold(&written.object).await);
        }
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let name = written.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let shown = self.caller.visible("get", self.target, &name, written.object);
        let mut response = reply::json(code, &self.rendering.object(self.target.kind, shown));
        reply::warn(&mut response, &warnings);
        response
    }

    /// What is to be told of an object beside others. Nothing is where these cannot be read: it is written all the same.
    async fn foretold(&self, object: &Value) -> Vec<String> {
        let told = match self.target.kind.id {
            KindId::AuthorizationPolicy => foretold::of_policy(self.objects, object).await,
            KindId::HttpRoute | KindId::GrpcRoute | KindId::TlsRoute | KindId::TcpRoute => {
                foretold::of_route(self.objects, self.target.kind, object).await
            }
            KindId::Service | KindId::Flow => foretold::of_name(self.objects, self.target.kind, object).await,
            _ => return Vec::new(),
        };
        told.unwrap_or_default()
    }

    fn options(&self) -> Result<WriteOptions, Failure> {
        let unknown_fields = match self.query.get("fieldValidation") {
            None | Some("Warn") => UnknownFields::Warn,
            Some("Strict") => UnknownFields::Strict,
            Some("Ignore") => UnknownFields::Ignore,
            Some(other) => {
                return Err(Failure::bad_request(format!(
                    "fieldValidation must be Strict, Warn or Ignore, not \"{other}\""
                )));
            }
        };
        Ok(WriteOptions {
            manager: self.manager()?,
            part: if self.target.status { Part::Status } else { Part::Object },
            unknown_fields,
            dry_run: delete_options::dry_run(self.query.all("dryRun"))?,
            write_check: Some(self.caller.write_check(self.target)),
        })
    }

    /// Who writes: the parameter `fieldManager`, else the first word of the `User-Agent`.
    fn manager(&self) -> Result<String, Failure> {
        if let Some(manager) = self.query.get("fieldManager") {
            if manager.len() > 128 || manager.chars().any(char::is_control) {
                return Err(Failure::bad_request("fieldManager must be at most 128 printable characters"));
            }
            return Ok(manager.to_owned());
        }
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let word: String =
            agent.unwrap_or_default().split('/').next().unwrap_or_default().chars().take(128).collect();
        Ok(if word.is_empty() { "unknown".to_owned() } else { word })
    }

    pub(super) fn delete_options(&self, content: &[u8]) -> Result<DeleteOptions, Failure> {
        delete_options::read(&body::delete_options(self.headers, content)?, self.query)
    }
}

/// Says that an object is gone.
pub(super) fn deleted(kind: &Kind, name: &str, object: &Value) -> Reply {
    let mut details = json!({ "name": name, "kind": kind.plural, "uid": object["metadata"]["uid"] });
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    });
    reply::json(StatusCode::OK, &status)
}
