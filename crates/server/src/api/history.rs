//! What an object was, and putting it back.

use http::request::Parts;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tulle_model::rbac::{ApiAction, ResourceAction};

use super::body::{self, RequestBody};
use super::caller::Caller;
use super::path::Target;
use super::reply::{Reply, json, view};
use super::status::Failure;
use crate::audit::diff::redacted;
use crate::history::{Named, Present, Revision, uid_of};
use crate::objects::{ObjectError, WriteOptions};
use crate::views::Views;

/// The body of `POST`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    /// The number of a revision.
    to: u64,
}

/// `/tulle/v1alpha1/history/` and an object's path: `GET` shows its revisions, `POST` puts one back.
pub(super) async fn answer(
    views: &Views,
    caller: &Caller,
    target: &Target,
    request: &Parts,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    let name = target.name.as_deref().unwrap_or_default();
    let named = Named { kind: target.kind, namespace: target.namespace(), name };
    match request.method {
        Method::GET => {
            let present = present(views, named).await?;
            let revisions = views.history.revisions(named, &present).await.map_err(ObjectError::from)?;
            let shown = |revision: Revision| {
                let object = redacted(target.kind, revision.object.clone());
                json!(Revision { object, ..revision })
            };
            let revisions: Vec<Value> = revisions.into_iter().map(shown).collect();
            view(StatusCode::OK, &json!({ "revisions": revisions }))
        }
        Method::POST => {
            body::check_type(&request.headers, &body::OBJECTS)?;
            let wanted = body::object(&request.headers, &body.read().await?)?;
            let wanted: Rollback = serde_json::from_value(wanted).map_err(|error| {
                Failure::bad_request(format!("the body must be {{\"to\": REVISION}}: {error}"))
            })?;
            rollback(views, caller, target, named, wanted.to).await
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// What is there now of an object, and of its Namespace.
async fn present(views: &Views, named: Named<'_>) -> Result<Present, ObjectError> {
    let object = views.objects.get(named.kind, named.namespace, named.name).await?;
    let namespace_uid = views.namespace_uid(named.namespace).await?;
    Ok(Present { uid: object.as_ref().map(uid_of), namespace_uid })
}

/// A normal update, or creation of what is gone.
async fn rollback(
    views: &Views,
    caller: &Caller,
    target: &Target,
    named: Named<'_>,
    to: u64,
) -> Result<Reply, Failure> {
    let Named { kind, namespace, name } = named;
    let present = present(views, named).await?;
    let revision = views.history.revision(named, &present, to).await.map_err(ObjectError::from)?;
    let Some(revision) = revision else {
        let message = format!(
            "{} \"{name}\" has no revision {to}: `tulle history` shows those that are kept",
            kind.qualified_name()
        );
        return Err(Failure::new(StatusCode::NOT_FOUND, "NotFound", message));
    };
    let options = WriteOptions {
        manager: "tulle-rollback".to_owned(),
        write_check: Some(caller.write_check(target)),
        ..WriteOptions::controller()
    };
    let object = revision.object;
    let restored = |current: &Value| {
        if present.uid.as_ref() != Some(&uid_of(current)) {
            let message = "another object has taken its name meanwhile".to_owned();
            return Err(ObjectError::Conflict { kind, name: name.to_owned(), message });
        }
        caller.tries();
        let mut restored = object.clone();
        restored["apiVersion"] = kind.api_version().into();
        // What others wait for is theirs.
        restored["metadata"]["finalizers"] = current["metadata"]["finalizers"].clone();
        Ok(restored)
    };
    let written = match views.objects.modify(kind, namespace, name, &options, restored).await {
        Err(ObjectError::NotFound { .. }) => {
            let action = ResourceAction {
                verb: "create",
                group: kind.group,
                resource: kind.plural,
                namespace,
                name,
                ..ResourceAction::default()
            };
            caller.require(&ApiAction::Resource(action))?;
            let mut made = object.clone();
            made["apiVersion"] = kind.api_version().into();
            if let Some(metadata) = made["metadata"].as_object_mut() {
                metadata.remove("finalizers");
            }
            views.objects.create(kind, namespace, made, &options).await?
        }
        written => written?,
    };
    caller.puts_back();
    caller.wrote(target, &written.object).await;
    Ok(json(StatusCode::OK, &redacted(kind, written.object)))
}
