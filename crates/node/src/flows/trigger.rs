//! Requests that start runs of a Flow, or ask what became of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;
use tulle_model::flow::expression::NESTING;
use tulle_model::flow::history::{Outcome, RunName};
use tulle_model::json_bounds::{is_text_deeper, is_within};
use tulle_model::name::NamespacedName;
use tulle_proxy::{Arrived, RUN};
use tulle_wire::flow as wire;

use super::FlowNode;
use super::book::{reference, run_id};
use super::served::{Flow, HttpTrigger};
use crate::control::explain_status;

/// How long the server may take to begin a run.
const START: Duration = Duration::from_secs(10);
/// The longest wait that the server is asked for at once.
const ASKED: Duration = Duration::from_secs(30);
/// The longest name that a caller may give a run, in bytes.
const LONGEST_NAME: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Under which path runs are asked for.
const RUNS: &str = "/runs/";

/// Answers a request that has come for a Flow. `place` is one of those for its requests that begin a run; `waits` has those for
/// requests that wait for the end of one.
pub(super) async fn answer(
    node: Arc<FlowNode>,
    flow: Arc<Flow>,
    arrived: Arrived,
    place: OwnedSemaphorePermit,
    waits: Arc<Semaphore>,
) {
    let Arrived { caller, head, body, end, mut answer, .. } = arrived;
    let caller = caller.map(|caller| caller.to_string()).unwrap_or_default();
    let looks_up = head.uri.path().strip_prefix(RUNS).filter(|_| head.method == Method::GET);
    let response = match looks_up {
        // Whoever has no identity cannot be told from others.
        Some(_) if caller.is_empty() => Err(unknown()),
        Some(run) => looked_up(&node, &flow, caller, run).await,
        None if [Method::HEAD, Method::OPTIONS].contains(&head.method) => Err(no_start(&head.method)),
        None => {
            let wait = flow.trigger.as_ref().map_or(Duration::ZERO, |trigger| trigger.wait_within(end));
            let prefers = Preferences::of(&head.headers);
            let until = Instant::now() + prefers.wait.map_or(wait, |prefers| prefers.min(wait));
            match started(&node, &flow, &caller, head, body).await {
                Ok(begun) => {
                    drop(place);
                    let end = ended(&node, &caller, begun, until, (&prefers, &waits));
                    tokio::select! {
                        response = end => response,
                        // Nobody reads the answer.
                        () = answer.closed() => return,
                    }
                }
                Err(refused) => Err(refused),
            }
        }
    };
    // Who is gone has started it all the same.
    let _ = answer.send(response.unwrap_or_else(|refused| refused.response()));
}

/// An answer in problem details (RFC 9457).
struct Problem {
    status: StatusCode,
    detail: String,
    run: Option<Arc<str>>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), run: None }
    }

    fn response(self) -> Response<Bytes> {
        let title = self.status.canonical_reason().unwrap_or_default();
        let fields = json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        problem(self.status, &fields, self.run.as_deref())
    }
}

fn problem(status: StatusCode, fields: &Value, run: Option<&str>) -> Response<Bytes> {
    json_response(status, fields, "application/problem+json", run)
}

fn json_response(
    status: StatusCode,
    value: &Value,
    kind: &'static str,
    run: Option<&str>,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(run) = run.and_then(|run| HeaderValue::try_from(run).ok()) {
        response.headers_mut().insert(RUN, run);
    }
    response
}

/// A run that there is.
struct BegunRun {
    run: RunName,
    /// Tells what comes of it, where this node carries it out to its end.
    end: Option<BoxFuture<'static, Option<Outcome>>>,
}

/// What the client prefers (RFC 7240, section 4).
#[derive(Debug, Default, PartialEq, Eq)]
struct Preferences {
    /// `respond-async`: it does not wait.
    is_async: bool,
    /// `wait`: it waits for so long.
    wait: Option<Duration>,
}

impl Preferences {
    fn of(headers: &http::HeaderMap) -> Self {
        let all = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let mut prefers = Self::default();
        for preference in all.flat_map(|value| value.split(',')) {
            let token = preference.split(';').next().unwrap_or_default();
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => prefers.is_async = true,
                "wait" => {
                    let seconds = value.trim().trim_matches('"').parse().ok();
                    prefers.wait = prefers.wait.or(seconds.map(Duration::from_secs));
                }
                _ => {}
            }
        }
        prefers
    }
}

async fn started(
    node: &Arc<FlowNode>,
    flow: &Flow,
    caller: &str,
    head: http::request::Parts,
    body: Bytes,
) -> Result<BegunRun, Problem> {
    let name = &flow.name;
    let Some(trigger) = &flow.trigger else {
        let why = format!("the Flow {name} has no `spec.trigger.http`: no request starts it");
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    };
    let given = given(&head.headers)?;
    if given.is_some() && caller.is_empty() {
        let why = "Idempotency-Key is for callers of the mesh: others cannot be told from each other";
        return Err(Problem::new(StatusCode::BAD_REQUEST, why));
    }
    let input = input(trigger, &head, &body)?;
    let most = node.served.most_document();
    if !is_within(&input, most) {
        let why = format!("the input of the Flow {name} has at most {} KiB", most >> 10);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    drop((head, body));
    let request = wire::StartRunRequest {
        namespace: name.namespace.as_ref().to_owned(),
        flow: name.name.as_ref().to_owned(),
        caller: caller.to_owned(),
        input: input.to_string().into(),
        given,
        uid: flow.uid.clone(),
        generation: flow.generation,
    };
    let mut client = node.server.flows();
    let answer = timeout(START, client.start(request)).await;
    let unsure = "the server gives no answer: whether the run begins is not known; asked for again under one \
                  Idempotency-Key it begins once";
    let answer = answer.map_err(|_| unavailable(unsure))?;
    let answer = answer.map_err(|status| refused(name, &status))?.into_inner();
    let broken = || unavailable("the server's answer makes no sense");
    let run = run_id(answer.run.ok_or_else(broken)?);
    let end = match answer.started.ok_or_else(broken)? {
        wire::start_run_response::Started::New(new) => {
            Some(node.begin(&run, new, flow).map_err(|why| unavailable(&why))?.boxed())
        }
        wire::start_run_response::Started::Otherwise(_) => {
            let why = format!(
                "the run {} of the Flow {name} was started under this Idempotency-Key with another input",
                run.run
            );
            let run = Some(run.run);
            return Err(Problem { run, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why) });
        }
        wire::start_run_response::Started::Queued(_) | wire::start_run_response::Started::Before(_) => None,
    };
    Ok(BegunRun { run, end })
}

/// What became of a run until then, or that it goes on: also where too many wait already.
async fn ended(
    node: &FlowNode,
    caller: &str,
    begun: BegunRun,
    until: Instant,
    (prefers, waits): (&Preferences, &Semaphore),
) -> Result<Response<Bytes>, Problem> {
    let BegunRun { run, end } = begun;
    if prefers.is_async {
        let mut response = accepted(&run);
        response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
        return Ok(response);
    }
    let Ok(_place) = waits.try_acquire() else { return Ok(accepted(&run)) };
    let told = match end {
        Some(end) => timeout_at(until, end).await,
        None => Ok(None),
    };
    let outcome = match told {
        // It is forgotten for as long as it waits, or somebody else has it.
        Ok(None) => awaited(node, &run, caller, until).await?,
        told => told.ok().flatten(),
    };
    Ok(outcome.map_or_else(|| accepted(&run), |outcome| answered(&run, outcome)))
}

async fn looked_up(
    node: &FlowNode,
    flow: &Flow,
    caller: String,
    run: &str,
) -> Result<Response<Bytes>, Problem> {
    let NamespacedName { namespace, name } = flow.name.clone();
    let run = RunName { namespace, flow: name, run: run.into() };
    if run.run.is_empty() || run.run.contains('/') {
        return Err(Problem::new(StatusCode::NOT_FOUND, no_run(&run)));
    }
    let outcome = awaited(node, &run, &caller, Instant::now()).await?;
    Ok(outcome.map_or_else(|| accepted(&run), |outcome| answered(&run, outcome)))
}

/// What has become of a run by then; `None`: it is not over, or too many wait for theirs already.
async fn awaited(
    node: &FlowNode,
    run: &RunName,
    caller: &str,
    end: Instant,
) -> Result<Option<Outcome>, Problem> {
    // Those who wait share the connection with what carries runs on.
    let place = node.waiting.try_acquire();
    let end = if place.is_ok() { end } else { Instant::now() };
    loop {
        let wait = end.saturating_duration_since(Instant::now()).min(ASKED);
        let request = wire::OutcomeRequest {
            run: Some(reference(run)),
            caller: caller.to_owned(),
            wait_millis: u64::try_from(wait.as_millis()).unwrap_or_default(),
        };
        let mut client = node.server.flows();
        let answer = timeout(wait + START, client.outcome(request)).await;
        let answer = answer.map_err(|_| unavailable("the server gives no answer"))?;
        let answer = match answer {
            Ok(answer) => answer,
            // Too many wait there: it is as over as it was.
            Err(status) if status.code() == Code::ResourceExhausted => return Ok(None),
            Err(status) if status.code() == Code::NotFound => {
                return Err(Problem::new(StatusCode::NOT_FOUND, no_run(run)));
            }
            Err(status) => return Err(unavailable(&explain_status(&status))),
        };
        if let Some(outcome) = answer.into_inner().outcome {
            let outcome = serde_json::from_slice(&outcome);
            return outcome.map(Some).map_err(|_| unavailable("the server's answer makes no sense"));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
    }
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "runs are shown to who has started them, by the identity of the mesh")
}

/// What is asked in passing is to order nothing.
fn no_start(method: &Method) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} starts no run: POST does, or GET"))
}

fn no_run(run: &RunName) -> String {
    format!(
        "the Flow {} has no run {} that you have started; runs are forgotten after a while (spec.history)",
        run.of_flow(),
        run.run
    )
}

/// Nothing is known of runs without the server.
fn unavailable(why: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("flows-unavailable: {why}"))
}

fn refused(name: &NamespacedName, status: &tonic::Status) -> Problem {
    let why = explain_status(status);
    match status.code() {
        Code::ResourceExhausted => Problem::new(StatusCode::TOO_MANY_REQUESTS, why),
        Code::NotFound => Problem::new(StatusCode::NOT_FOUND, format!("there is no Flow {name} any more")),
        Code::FailedPrecondition => Problem::new(StatusCode::LOOP_DETECTED, why),
        Code::InvalidArgument => Problem::new(StatusCode::BAD_REQUEST, why),
        Code::PermissionDenied => Problem::new(StatusCode::FORBIDDEN, why),
        _ => unavailable(&why),
    }
}

/// The name that a caller gives the run.
fn given(headers: &http::HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |why: &str| Problem::new(StatusCode::BAD_REQUEST, format!("Idempotency-Key {why}"));
    if values.next().is_some() {
        return Err(wrong("is there twice"));
    }
    let text = value.to_str().map_err(|_| wrong("is no text"))?.trim();
    // A quoted text (RFC 8941) is the same as it without quotes.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > LONGEST_NAME {
        return Err(wrong(&format!("has to have from 1 to {LONGEST_NAME} characters")));
    }
    Ok(Some(text.to_owned()))
}

/// The run's input.
fn input(trigger: &HttpTrigger, head: &http::request::Parts, body: &Bytes) -> Result<Value, Problem> {
    let parsed = match body.is_empty() {
        true => Value::Null,
        false if is_text_deeper(body, NESTING) => {
            let why = format!("the body has more than {NESTING} arrays and objects within one another");
            return Err(Problem::new(StatusCode::BAD_REQUEST, why));
        }
        false => serde_json::from_slice(body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body is to be JSON, and is not: {error}"))
        })?,
    };
    if !trigger.request {
        return Ok(parsed);
    }
    let mut query: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
        query.entry(name.into_owned()).or_default().push(value.into());
    }
    let one = |mut values: Vec<Value>| match values.len() {
        1 => values.remove(0),
        _ => Value::Array(values),
    };
    let query: serde_json::Map<_, _> = query.into_iter().map(|(name, values)| (name, one(values))).collect();
    let named = trigger.headers.iter().filter_map(|name| {
        let values: Vec<_> = head.headers.get_all(name).iter().collect();
        let texts = values.iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        (!values.is_empty()).then(|| (name.clone(), texts.collect::<Vec<_>>().join(", ").into()))
    });
    Ok(json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": query,
        "headers": named.collect::<serde_json::Map<_, _>>(),
        "body": parsed,
    }))
}

/// That a run goes on, and where it is to be asked for.
fn accepted(run: &RunName) -> Response<Bytes> {
    let place = format!("{RUNS}{}", run.run);
    let value = json!({ "run": run.run, "location": place });
    let mut response = json_response(StatusCode::ACCEPTED, &value, "application/json", Some(&run.run));
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

/// What came of a run.
fn answered(run: &RunName, outcome: Outcome) -> Response<Bytes> {
    match outcome {
        Outcome::Completed(output) => {
            json_response(StatusCode::OK, &output, "application/json", Some(&run.run))
        }
        Outcome::Faulted(fault) => {
            let status = StatusCode::from_u16(fault.status)
                .ok()
                .filter(|status| status.is_client_error() || status.is_server_error());
            problem(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &fault.value(), Some(&run.run))
        }
        Outcome::Cancelled => {
            let why = format!("the run {} was cancelled", run.run);
            Problem { run: Some(run.run.clone()), ..Problem::new(StatusCode::CONFLICT, why) }.response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read() {
        for (values, is_async, wait) in [
            (&[][..], false, None),
            (&["respond-async"][..], true, None),
            (&["Respond-Async; a=b, wait=2"], true, Some(2)),
            (&["return=minimal", "wait=\"10\""], false, Some(10)),
            (&["wait=2", "wait=9"], false, Some(2)),
            (&["wait=soon", "respond-asynchronously"], false, None),
        ] {
            let mut headers = http::HeaderMap::new();
            for value in values {
                headers.append(PREFER, HeaderValue::from_static(value));
            }
            let expected = Preferences { is_async, wait: wait.map(Duration::from_secs) };
            assert_eq!(Preferences::of(&headers), expected, "{values:?}");
        }
    }
}
