//! Runs of Flows: shown as objects that nobody writes, started, and told what to do.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tulle_model::flow::history::Outcome;
use tulle_model::flow::scope::RunInfo;
use tulle_model::kinds::flow_run::{FLOW, FlowRunError};
use tulle_model::name::NamespacedName;
use tulle_model::registry::KindId;

use super::body::{self, RequestBody};
use super::caller::Caller;
use super::path::{Query, Target};
use super::render::Rendering;
use super::reply::{self, Reply};
use super::selector::Selector;
use super::status::Failure;
use crate::flows::{Begun, Flows, FlowsError, NewStart, RunHeader, RunName, RunState, RunWish};
use crate::objects::ObjectError;
use crate::timestamp::{at, at_millis};
use crate::views::Views;

/// How many runs are looked at together.
const PAGE: usize = 500;

/// How many runs a list has at most; of the rest its `continue` tells.
const MOST_LISTED: usize = 10_000;

/// What is done to a run, or to a Flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunAction {
    /// `flows/run`
    Start,
    Suspend,
    Resume,
    Cancel,
    Retry,
    /// `flowruns/history`
    History,
}

impl RunAction {
    pub(super) fn named(plural: &str, name: &str) -> Option<Self> {
        Some(match (plural, name) {
            ("flows", "run") => Self::Start,
            ("flowruns", "suspend") => Self::Suspend,
            ("flowruns", "resume") => Self::Resume,
            ("flowruns", "cancel") => Self::Cancel,
            ("flowruns", "retry") => Self::Retry,
            ("flowruns", "history") => Self::History,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Start => "run",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::History => "history",
        }
    }

    /// As roles name it.
    pub(super) fn verb(self) -> &'static str {
        if self == Self::History { "get" } else { "create" }
    }

    /// The subresources of a kind.
    pub(super) fn of(kind: KindId) -> &'static [Self] {
        match kind {
            KindId::Flow => &[Self::Start],
            KindId::FlowRun => &[Self::Suspend, Self::Resume, Self::Cancel, Self::Retry, Self::History],
            _ => &[],
        }
    }
}

/// The body of `POST flows/NAME/run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRunBody {
    #[serde(default)]
    input: Value,
    /// The name that the caller gives the run: it is started once.
    #[serde(default)]
    id: Option<String>,
}

/// The body of `POST flowruns/NAME/retry`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryBody {
    /// The reference of a task: a JSON pointer into the workflow.
    from: String,
}

/// A run as an object, without what it is about.
pub(super) fn object(header: &RunHeader, version: u64) -> Value {
    let kind = KindId::FlowRun.kind();
    let RunHeader { name, state, started, ended, caller, account, runner, entries, .. } = header;
    let mut object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "resourceVersion": version.to_string(), "creationTimestamp": at(started / 1_000) },
        "spec": { "flow": *name.flow, "serviceAccount": **account },
        "status": { "state": state.name(), "entries": entries },
    });
    named(&mut object, name);
    if !caller.is_empty() {
        object["spec"]["caller"] = json!(**caller);
    }
    let status = &mut object["status"];
    if *state != RunState::Queued {
        status["startedAt"] = at_millis(*started).into();
    }
    if let Some(ended) = ended {
        status["endedAt"] = at_millis(*ended).into();
    }
    if let RunState::Waiting { until } = state {
        status["waitsUntil"] = at_millis(*until).into();
    }
    if !runner.is_empty() {
        status["runner"] = json!(**runner);
    }
    object
}

/// What there is of one that is gone.
pub(super) fn gone(name: &RunName, version: u64) -> Value {
    let kind = KindId::FlowRun.kind();
    let mut object = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "resourceVersion": version.to_string() },
        "spec": { "flow": *name.flow },
    });
    named(&mut object, name);
    object
}

fn named(object: &mut Value, RunName { namespace, flow, run }: &RunName) {
    let metadata = &mut object["metadata"];
    metadata["namespace"] = json!(**namespace);
    metadata["name"] = json!(**run);
    // No two have the same.
    metadata["uid"] = json!(**run);
    metadata["labels"] = json!({ FLOW: **flow });
}

/// With its input, and what came of it.
async fn whole(flows: &Flows, header: &RunHeader) -> Result<Value, Failure> {
    let RunInfo { input, .. } = flows.book().info(&header.name).await?;
    let mut object = object(header, flows.changes().latest());
    object["spec"]["input"] = (*input).clone();
    if header.state.is_over() {
        match flows.book().outcome(&header.name).await? {
            Some(Outcome::Completed(output)) => object["status"]["output"] = (*output).clone(),
            Some(Outcome::Faulted(fault)) => object["status"]["error"] = json!(FlowRunError::from(&fault)),
            Some(Outcome::Cancelled) | None => {}
        }
    }
    Ok(object)
}

async fn require(flows: &Flows, namespace: &str, run: &str) -> Result<RunHeader, Failure> {
    let found = flows.find(namespace, run).await?;
    let missing = || ObjectError::NotFound { kind: KindId::FlowRun.kind(), name: run.to_owned() };
    found.ok_or_else(|| missing().into())
}

/// `GET` and `DELETE` of runs; `watch` is another's.
pub(super) async fn answer(
    views: &Views,
    caller: &Caller,
    target: &Target,
    request: &Parts,
    rendering: Rendering,
) -> Result<Reply, Failure> {
    let flows = views.flows();
    let query = Query::parse(request.uri.query());
    match (&request.method, &target.name) {
        (&Method::GET, Some(name)) => {
            let header = require(flows, target.namespace(), name).await?;
            let object = whole(flows, &header).await?;
            Ok(reply::json(StatusCode::OK, &rendering.object(target.kind, object)))
        }
        (&Method::GET, None) => list(flows, target, &query, rendering).await,
        (&Method::DELETE, Some(name)) => {
            let header = require(flows, target.namespace(), name).await?;
            if query.get("dryRun").is_none() {
                flows.forget(&header).await?;
                caller.note(json!({ "run": *header.name.run, "flow": *header.name.flow }));
            }
            let object = object(&header, flows.changes().latest());
            Ok(reply::json(StatusCode::OK, &rendering.object(target.kind, object)))
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

async fn list(flows: &Flows, target: &Target, query: &Query, rendering: Rendering) -> Result<Reply, Failure> {
    let selector = Selector::parse(query, target.kind)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MOST_LISTED).min(MOST_LISTED);
    let invalid = || Failure::bad_request("continue key is not valid: it is not one that this server made");
    let namespace = target.namespace.as_deref();
    let mut past = match query.get("continue") {
        Some(token) => Some(decode_continue(token, namespace).ok_or_else(invalid)?),
        None => None,
    };
    // From before the list: what is seen twice is the same.
    let version = flows.changes().latest();
    let flow = selector.label(FLOW).filter(|_| namespace.is_some());
    let mut items = Vec::new();
    let more = loop {
        let page = flows.book().list(namespace, flow, past.as_ref(), PAGE).await?;
        let (mut headers, mut is_full) = (page.headers.into_iter(), false);
        for header in headers.by_ref() {
            let object = object(&header, version);
            if selector.matches(&object) {
                items.push(object);
            }
            past = Some(header.name);
            if items.len() >= limit {
                is_full = true;
                break;
            }
        }
        let rest = headers.len() > 0 || page.next.is_some();
        if is_full || !rest {
            break is_full && rest;
        }
        past = page.next;
    };
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let Some(past) = past.filter(|_| more) {
        metadata["continue"] = encode_continue(&past, namespace).into();
    }
    Ok(reply::json(StatusCode::OK, &rendering.list(target.kind, items, metadata)))
}

/// The token by which a client asks for the rest of a list. Nothing keeps a client from making one: it names a namespace only
/// where the list is of all.
fn encode_continue(past: &RunName, namespace: Option<&str>) -> String {
    let RunName { namespace: of, flow, run } = past;
    let token = if namespace.is_some() { json!([flow, run]) } else { json!([of, flow, run]) };
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn decode_continue(token: &str, namespace: Option<&str>) -> Option<RunName> {
    let parts: Vec<Arc<str>> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (namespace, flow, run) = match (namespace, &parts[..]) {
        (Some(namespace), [flow, run]) => (namespace.into(), flow.clone(), run.clone()),
        (None, [namespace, flow, run]) => (namespace.clone(), flow.clone(), run.clone()),
        _ => return None,
    };
    Some(RunName { namespace, flow, run })
}

/// What a subresource is asked for.
pub(super) async fn act(
    views: &Views,
    caller: &Caller,
    (namespace, name, action): (&str, &str, RunAction),
    request: &Parts,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    let flows = views.flows();
    if action == RunAction::History {
        if request.method != Method::GET {
            return Err(Failure::method_not_allowed());
        }
        let query = Query::parse(request.uri.query());
        let first = query.number("first")?.unwrap_or_default();
        let first =
            u32::try_from(first).map_err(|_| Failure::bad_request("first: it is no number of an entry"))?;
        return history(flows, &require(flows, namespace, name).await?, first).await;
    }
    if request.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let content = body.read().await?;
    let content = match content.is_empty() {
        true => json!({}),
        false => {
            body::check_type(&request.headers, &body::OBJECTS)?;
            body::object(&request.headers, &content)?
        }
    };
    if action == RunAction::Start {
        return start(flows, caller, NamespacedName::new(namespace, name), content).await;
    }
    let header = require(flows, namespace, name).await?;
    let run = &header.name;
    match action {
        RunAction::Cancel => flows.cancel(run).await?,
        RunAction::Suspend => flows.command(run, RunWish::Suspend).await?,
        RunAction::Resume => flows.command(run, RunWish::Resume).await?,
        RunAction::Retry | RunAction::Start | RunAction::History => {
            let RetryBody { from } = serde_json::from_value(content).map_err(|error| {
                Failure::bad_request(format!("the body must be {{\"from\": \"/do/0/TASK\"}}: {error}"))
            })?;
            flows.command(run, RunWish::Retry(from.into())).await?;
        }
    }
    caller.note(json!({ "run": *header.name.run, "flow": *header.name.flow, "action": action.name() }));
    let object = whole(flows, &require(flows, namespace, name).await?).await?;
    Ok(reply::json(StatusCode::OK, &object))
}

/// `201`: it begins, or waits for its turn; `200`: the caller has started it before.
async fn start(
    flows: &Arc<Flows>,
    caller: &Caller,
    flow: NamespacedName,
    content: Value,
) -> Result<Reply, Failure> {
    let NewRunBody { input, id } = serde_json::from_value(content).map_err(|error| {
        Failure::bad_request(format!("the body must be {{\"input\": …, \"id\": \"NAME\"}}: {error}"))
    })?;
    let started = NewStart { flow, caller: caller.user.name.as_str().into(), input, given: id };
    // To its end, though the client leaves.
    let starting = {
        let flows = flows.clone();
        tokio::spawn(async move { flows.start_run(started, None).await })
    };
    let begun = starting.await.map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
    })??;
    let (code, run) = match begun {
        Begun::New { header, .. } | Begun::Elsewhere(header) | Begun::Queued(header) => {
            caller.note(json!({ "run": *header.name.run, "flow": *header.name.flow, "action": "run" }));
            (StatusCode::CREATED, header.name)
        }
        Begun::Before(run) => (StatusCode::OK, run),
        Begun::Otherwise(run) => {
            let message = format!(
                "the run {} was started under that id with another input; choose another id",
                run.run
            );
            return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message));
        }
    };
    let header = flows.book().header(&run).await?;
    Ok(reply::json(code, &whole(flows, &header).await?))
}

/// All that it takes to go through a run again, or the part of it from an entry on: `?first=`, which is behind another part.
async fn history(flows: &Flows, header: &RunHeader, first: u32) -> Result<Reply, Failure> {
    let (mut answer, part) = if first == 0 {
        let loaded = flows.book().load(&header.name, false).await?;
        let run = whole(flows, &loaded.header).await?;
        (json!({ "run": run, "info": loaded.info, "workflow": *loaded.workflow }), loaded.part)
    } else {
        let part = flows.book().history(&header.name, first).await?;
        (json!({ "run": whole(flows, header).await? }), part)
    };
    answer["entries"] = json!(part.entries);
    answer["more"] = json!(part.has_more);
    Ok(reply::json(StatusCode::OK, &answer))
}

impl From<FlowsError> for Failure {
    fn from(error: FlowsError) -> Self {
        let message = error.to_string();
        let (code, reason) = match error {
            FlowsError::NotFound(_) | FlowsError::NoFlow(_) => (StatusCode::NOT_FOUND, "NotFound"),
            FlowsError::Lost(_)
            | FlowsError::Contended(_)
            | FlowsError::Refused(_)
            | FlowsError::TooDeep(_) => (StatusCode::CONFLICT, "Conflict"),
            FlowsError::Invalid(_) | FlowsError::TooLarge(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            FlowsError::TooMany(_) => return Self::too_many_requests(message),
            FlowsError::NoRunner(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            FlowsError::Unreadable { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            FlowsError::Objects(error) => return error.into(),
            FlowsError::Store(error) => return ObjectError::from(error).into(),
        };
        Self::new(code, reason, message)
    }
}

#[cfg(test)]
mod tests;
