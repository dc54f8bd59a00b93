//! The API: Kubernetes-style REST over TLS, so that `kubectl` and other clients of Kubernetes work.
//!
//! A request goes through [`Api::handle`]: who asks ([`user`]), what the path is about ([`path`]), whether he may ([`caller`]), in which form
//! the answer is wanted ([`accept`], [`render`]), then [`read`], [`watch`] or [`write`], which call
//! [`crate::objects`]. Failures are `Status` objects ([`status`]). What was changed, and who was refused, is written down ([`record`]).

mod accept;
#[cfg(test)]
mod asked;
mod body;
mod caller;
mod delete_options;
mod discovery;
mod flow_run_watch;
mod flow_runs;
mod foretold;
mod history;
mod nodes;
mod openapi;
mod path;
mod protobuf;
mod read;
mod record;
mod render;
mod reply;
mod review;
mod selector;
mod serve;
mod status;
mod tokens;
mod user;
mod users;
mod watch;
mod write;

use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tulle_model::registry::KindId;

use self::accept::AnswerForm;
use self::body::RequestBody;
use self::caller::Caller;
use self::path::{Query, Route, Target};
use self::render::Rendering;
use self::reply::Reply;
use self::status::Failure;
use self::user::User;
use self::write::WriteRequest;
use crate::objects::Objects;
use crate::views::Views;

/// Watches at once, of all clients.
const WATCHES: usize = 2048;

/// The API; clones share it.
#[derive(Clone)]
pub struct Api {
    objects: Objects,
    views: Views,
    watches: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Api {
    pub fn new(objects: Objects, views: Views) -> Self {
        Self {
            objects,
            views,
            watches: Arc::new(Semaphore::new(WATCHES)),
            shutdown: CancellationToken::new(),
        }
    }

    fn with_shutdown(mut self, shutdown: CancellationToken) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Answers a request. `user` is none for clients that have not shown who they are.
    async fn handle(&self, user: Option<&User>, mut request: Request<Incoming>) -> Reply {
        let head = request.method() == Method::HEAD;
        if head {
            *request.method_mut() = Method::GET;
        }
        let (request, body) = request.into_parts();
        let mut body = RequestBody::new(body, &request.headers);
        let known = user.filter(|user| user.is_good(&self.views.access, SystemTime::now()));
        let mut caller = known.map(|user| Caller::new(user.clone(), self.views.access.clone()));
        let answer = self.answer(caller.as_mut(), &request, &mut body).await;
        let outcome = match &answer {
            Ok(reply) => (reply.status(), ""),
            Err(failure) => (failure.code, failure.message.as_str()),
        };
        record::record(&self.views, caller.as_ref(), &request, outcome).await;
        let reply = match answer {
            Ok(reply) => reply,
            Err(failure) => {
                if failure.code.is_server_error() {
                    tracing::warn!(code = failure.code.as_u16(), message = failure.message, "the API failed");
                }
                reply::failure(&failure)
            }
        };
        if head { reply::without_body(reply) } else { reply }
    }

    async fn answer(
        &self,
        caller: Option<&mut Caller>,
        request: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Failure> {
        let path = request.uri.path();
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        // As in Kubernetes, whether the server is there is no secret.
        match path {
            "/healthz" | "/livez" => return Ok(reply::text(StatusCode::OK, "ok")),
            "/readyz" => {
                return Ok(match self.views.ready().await {
                    Ok(()) => reply::text(StatusCode::OK, "ok"),
                    Err(why) => reply::text(StatusCode::SERVICE_UNAVAILABLE, why),
                });
            }
            "/version" => return Ok(reply::json(StatusCode::OK, &discovery::version())),
            _ => {}
        }
        let caller = caller.ok_or_else(Failure::unauthorized)?;
        caller.impersonate(&request.headers)?;
        let route = path::parse(path)?;
        let normal = route.path(path);
        caller::authorize(caller, &route, request, &normal)?;
        self.dispatch(caller, route, request, body).await
    }

    async fn dispatch(
        &self,
        caller: &Caller,
        route: Route,
        request: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Failure> {
        match route {
            Route::Objects(target) => self.objects(caller, &target, request, body).await,
            Route::Run { namespace, name, action } => {
                flow_runs::act(&self.views, caller, (&namespace, &name, action), request, body).await
            }
            Route::History(target) => history::answer(&self.views, caller, &target, request, body).await,
            Route::Review(review) => {
                if request.method != Method::POST {
                    return Err(Failure::method_not_allowed());
                }
                body::check_type(&request.headers, &body::NEW_OBJECTS)?;
                let object = body::new_object(&request.headers, &body.read().await?)?;
                if !object.is_object() {
                    return Err(Failure::bad_request("the body must be an object"));
                }
                review::answer(review, caller, object)
            }
            Route::Other(path) => self.other(caller, &path, request, body).await,
            _ if request.method != Method::GET => Err(Failure::method_not_allowed()),
            route => describe(&route, request),
        }
    }

    async fn objects(
        &self,
        caller: &Caller,
        target: &Target,
        request: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Failure> {
        if target.kind.id == KindId::FlowRun {
            return self.flow_runs(caller, target, request).await;
        }
        if target.kind.is_view() && request.method != Method::GET {
            return Err(Failure::method_not_allowed());
        }
        let query = Query::parse(request.uri.query());
        let rendering = Rendering::new(accept::form(&request.headers)?, &query)?;
        // What is not taken need not be sent whole.
        match request.method {
            Method::POST => body::check_type(&request.headers, &body::NEW_OBJECTS)?,
            Method::PUT => body::check_type(&request.headers, &body::OBJECTS)?,
            Method::PATCH => body::check_type(&request.headers, &write::PATCHES)?,
            _ => {}
        }
        let write = WriteRequest {
            caller,
            objects: &self.objects,
            flows: self.views.flows(),
            target,
            query: &query,
            headers: &request.headers,
            rendering,
        };
        match (&request.method, &target.name) {
            (&Method::GET, _) if query.flag("watch") => {
                let permit = self.watch_permit()?;
                let reading =
                    watch::WatchRequest { objects: &self.objects, caller, target, query: &query, rendering };
                watch::start(&reading, permit, self.shutdown.clone()).await
            }
            (&Method::GET, Some(name)) => read::get(&self.objects, target, name, rendering).await,
            (&Method::GET, None) => read::list(&self.objects, target, &query, rendering).await,
            (&Method::POST, None) if target.kind.id == KindId::Node => Err(nodes::not_made_so()),
            (&Method::DELETE, Some(name)) if target.kind.id == KindId::Node && !target.status => {
                nodes::delete(&self.views, &write, name, &body.read().await?).await
            }
            (&Method::DELETE, None) if target.kind.id == KindId::Node => Err(Failure::method_not_allowed()),
            (&Method::POST, None) if target.namespace.is_some() || !target.kind.namespaced => {
                write.create(&body.read().await?).await
            }
            (&Method::PUT, Some(name)) => write.replace(name, &body.read().await?).await,
            (&Method::PATCH, Some(name)) => write.patch(name, &body.read().await?).await,
            (&Method::DELETE, Some(name)) if !target.status => write.delete(name, &body.read().await?).await,
            (&Method::DELETE, None) => write.delete_collection(&body.read().await?).await,
            _ => Err(Failure::method_not_allowed()),
        }
    }

    async fn flow_runs(&self, caller: &Caller, target: &Target, request: &Parts) -> Result<Reply, Failure> {
        let query = Query::parse(request.uri.query());
        let rendering = Rendering::new(accept::form(&request.headers)?, &query)?;
        if request.method == Method::GET && query.flag("watch") {
            let (permit, shutdown) = (self.watch_permit()?, self.shutdown.clone());
            let reading = (target, &query, rendering);
            return flow_run_watch::start(self.views.flows(), caller, reading, permit, shutdown).await;
        }
        flow_runs::answer(&self.views, caller, target, request, rendering).await
    }

    fn watch_permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.watches.clone().try_acquire_owned().map_err(|_| {
            Failure::too_many_requests(format!(
                "the server has {WATCHES} watches open, which is the most it allows"
            ))
        })
    }

    async fn other(
        &self,
        caller: &Caller,
        path: &str,
        request: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Failure> {
        let get = request.method == Method::GET;
        match path {
            "tulle/v1alpha1/edges" if get => reply::view(StatusCode::OK, &self.views.edges()),
            "tulle/v1alpha1/destinations" if get => reply::view(StatusCode::OK, &self.views.destinations()),
            "tulle/v1alpha1/summaries" if get => {
                let query = Query::parse(request.uri.query());
                reply::view(StatusCode::OK, &self.views.summaries(query.get("namespace")))
            }
            "tulle/v1alpha1/nodes" if get => reply::view(StatusCode::OK, &self.views.nodes()),
            "tulle/v1alpha1/tokens" => tokens::collection(&self.views, caller, request, body).await,
            path if let Some(id) = path.strip_prefix("tulle/v1alpha1/tokens/") => {
                tokens::one(&self.views, caller, id, request).await
            }
            "tulle/v1alpha1/users" => users::certificate(&self.views, caller, request, body).await,
            "tulle/v1alpha1/usertokens" => users::tokens(&self.views, caller, request, body).await,
            path if let Some(id) = path.strip_prefix("tulle/v1alpha1/usertokens/") => {
                users::token(&self.views, caller, id, request).await
            }
            "tulle/v1alpha1/audit" if get => record::show(&self.views, request).await,
            path if let Some(node) = path.strip_prefix("tulle/v1alpha1/nodes/") => match request.method {
                Method::DELETE => {
                    let revoke = Query::parse(request.uri.query()).flag("revoke");
                    let workloads = nodes::remove(&self.views, caller, node, revoke).await?;
                    reply::view(StatusCode::OK, &serde_json::json!({ "workloads": workloads }))
                }
                _ => Err(Failure::method_not_allowed()),
            },
            "metrics" if get => Ok(reply::text(StatusCode::OK, self.views.metrics().await)),
            "" if get => {
                let paths = [
                    "/api",
                    "/apis",
                    "/healthz",
                    "/livez",
                    "/metrics",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/readyz",
                    "/version",
                ];
                Ok(reply::json(StatusCode::OK, &serde_json::json!({ "paths": paths })))
            }
            "tulle/v1alpha1/audit"
            | "tulle/v1alpha1/edges"
            | "tulle/v1alpha1/destinations"
            | "tulle/v1alpha1/summaries"
            | "tulle/v1alpha1/nodes"
            | "metrics"
            | "" => Err(Failure::method_not_allowed()),
            _ => Err(Failure::no_such_path()),
        }
    }
}

/// What the API serves, and the schemas of it.
fn describe(route: &Route, request: &Parts) -> Result<Reply, Failure> {
    if *route == Route::OpenApiV2 {
        let form = accept::openapi_v2(&request.headers)?;
        return Ok(reply::bytes(StatusCode::OK, form.content_type(), openapi::v2::get(form)));
    }
    let form = accept::form(&request.headers)?;
    let found = |value: Option<Value>| {
        value.map(|value| reply::json(StatusCode::OK, &value)).ok_or_else(Failure::no_such_path)
    };
    match (route, form) {
        (Route::CoreVersions | Route::Groups, AnswerForm::Discovery(version)) => {
            let content_type = match version {
                "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            };
            let list = discovery::aggregated(*route == Route::CoreVersions, version);
            Ok(reply::bytes(StatusCode::OK, content_type, list.to_string()))
        }
        (Route::CoreVersions, _) => found(Some(discovery::core_versions())),
        (Route::Groups, _) => found(Some(discovery::group_list())),
        (Route::Group(group), _) => found(discovery::group(group)),
        (Route::Resources { group, version }, _) => found(discovery::resources(group, version)),
        (Route::CustomResourceDefinitions, _) => found(Some(discovery::no_definitions())),
        (Route::OpenApi, _) => found(Some(openapi::index())),
        (Route::OpenApiDocument { group, version }, _) => {
            let (content, hash) = openapi::get(group, version).ok_or_else(Failure::no_such_path)?;
            let mut response = reply::bytes(StatusCode::OK, "application/json", content);
            // With its hash in the address a document never changes.
            let query = Query::parse(request.uri.query());
            if query.get("hash") == Some(hash) {
                let forever = http::HeaderValue::from_static("public, max-age=31536000, immutable");
                response.headers_mut().insert(http::header::CACHE_CONTROL, forever);
            }
            Ok(response)
        }
        _ => Err(Failure::no_such_path()),
    }
}
