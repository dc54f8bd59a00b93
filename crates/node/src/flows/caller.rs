//! Calls of runs, which the proxy makes as the identity of their Flow.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tulle_flow::runner::{CallAnswer, Caller, OutgoingCall};
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::history::RunName;
use tulle_proxy::{FlowStep, OwnCall, OwnCallError, Proxy, REASON};

use super::served::ServedFlows;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How long to wait before the proxy is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// And before it is asked for what the server may have told by then.
const LATER: Duration = Duration::from_millis(200);

/// A node that was started, or has its server back, hears of the mesh for so long before it says of something that it is not there.
const SETTLING: Duration = Duration::from_secs(3);
/// What the mesh answers of what it may not have heard of yet.
const UNHEARD_OF: [&str; 3] = ["unknown-service", "no-endpoints", "connect-failed"];

/// Services that were started together with the node take a while until they are ready.
const BOOT: Duration = Duration::from_secs(60);
const STARTING_UP: [&str; 2] = ["no-endpoints", "connect-failed"];

pub(super) struct MeshCaller {
    pub proxy: Arc<Proxy>,
    pub served: Arc<ServedFlows>,
    /// Since when the server tells this node of the mesh; `None`: it does not just now.
    pub told: watch::Receiver<Option<Instant>>,
    /// When this node was started.
    pub started: Instant,
}

impl MeshCaller {
    /// Whether an answer says that something is not there which may be soon: the server may not have told this node of it yet, or it
    /// is being started. Nothing has been sent anywhere then.
    fn may_come(&self, answer: &Response<Bytes>) -> bool {
        let reason = answer.headers().get(REASON).and_then(|reason| reason.to_str().ok());
        reason.is_some_and(|reason| {
            UNHEARD_OF.contains(&reason) && self.told.borrow().is_none_or(|since| since.elapsed() < SETTLING)
                || STARTING_UP.contains(&reason) && self.started.elapsed() < BOOT
        })
    }
}

/// Says since when the server tells this node of the mesh, for as long as this is polled.
pub(super) async fn follow(mut connected: watch::Receiver<bool>, told: watch::Sender<Option<Instant>>) {
    loop {
        let is_connected = *connected.borrow_and_update();
        told.send_if_modified(|since| {
            let changes = since.is_some() != is_connected;
            if changes {
                *since = is_connected.then(Instant::now);
            }
            changes
        });
        if connected.changed().await.is_err() {
            return;
        }
    }
}

impl Caller for MeshCaller {
    async fn call(&self, call: OutgoingCall) -> Result<CallAnswer, Fault> {
        let OutgoingCall { run, path, method, uri, shown_path, mut headers, body, most_answer, within } =
            call;
        let end = Instant::now() + within;
        // A Flow that has just come has no certificate yet.
        let flow = run.of_flow();
        let ready = timeout_at(end, self.served.ready(&flow)).await;
        let Ok(workload) = ready else {
            let why = format!("this node has no certificate for the Flow {flow}");
            return Err(FaultKind::Communication.fault(why));
        };
        let trace = traced(&mut headers, &run);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let step = FlowStep { run: run.run.clone(), task: path, shown_path };
        loop {
            let call = OwnCall {
                workload: workload.clone(),
                step: step.clone(),
                request: request.clone(),
                most_answer,
                time: end.saturating_duration_since(Instant::now()),
            };
            match self.proxy.call(call).await {
                Ok(answer) if self.may_come(&answer) && Instant::now() + LATER < end => sleep(LATER).await,
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    return Ok(CallAnswer { status: head.status, headers: head.headers, body, trace });
                }
                // Nothing was sent, and it goes better in a moment.
                Err(OwnCallError::Busy | OwnCallError::NoWorkload(_)) if Instant::now() + PAUSE < end => {
                    sleep(PAUSE).await;
                }
                // What becomes of the run is for who takes it over.
                Err(OwnCallError::Stopping) => std::future::pending().await,
                Err(OwnCallError::TooLarge(most)) => {
                    return Err(FaultKind::Runtime.fault(format!("the answer is over {most} bytes")));
                }
                Err(OwnCallError::Late(_)) => {
                    return Err(FaultKind::Timeout.fault(format!("there was no answer within {within:?}")));
                }
                Err(other) => return Err(FaultKind::Communication.fault(other.to_string())),
            }
        }
    }
}

/// The id of the trace that a call is part of (W3C Trace Context, level 1): the author's, or one of the whole run.
fn traced(headers: &mut http::HeaderMap, run: &RunName) -> Option<Arc<str>> {
    if let Some(given) = headers.get(TRACEPARENT) {
        let id = given.to_str().ok()?.split('-').nth(1)?;
        // Anything else is none, and shows whatever the author has put there.
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_id.then(|| id.into());
    }
    let half = |which: u8| {
        let mut hasher = DefaultHasher::new();
        (which, &run.namespace, &run.flow, &run.run).hash(&mut hasher);
        hasher.finish()
    };
    // An id of zeros is none.
    let id = format!("{:016x}{:016x}", half(0) | 1, half(1));
    let parent = format!("00-{id}-{:016x}-01", rand::random::<u64>() | 1);
    headers.insert(TRACEPARENT, HeaderValue::try_from(parent).ok()?);
    Some(id.into())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn calls_of_a_run_are_of_one_trace() {
        let run = |run: &str| RunName { namespace: "shop".into(), flow: "order".into(), run: run.into() };
        let trace = |run: &RunName| {
            let mut headers = HeaderMap::new();
            let id = traced(&mut headers, run).unwrap();
            let parent = headers[TRACEPARENT].to_str().unwrap().to_owned();
            assert!(parent.len() == 55 && parent.starts_with(&format!("00-{id}-")), "{parent}");
            (id, parent)
        };
        let (first, again, other) = (trace(&run("r1")), trace(&run("r1")), trace(&run("r2")));
        assert_eq!(first.0, again.0);
        assert_ne!(first.1, again.1);
        assert_ne!(first.0, other.0);
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(given))]);
        assert_eq!(traced(&mut headers, &run("r1")).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(headers[TRACEPARENT], given);
    }
}
