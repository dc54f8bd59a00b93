//! The node's own socket, `$TULLE_HOME/node.sock`: HTTP with JSON for commands on the same host.
//!
//! | request | |
//! |---|---|
//! | `POST /v1/workloads` | adds a workload ([`WorkloadSpec`]); the first line of the answer is a [`Running`], and the workload lives for as long as the answer is read, and a further line asks for an end of its processes |
//! | `POST /v1/workloads/again` | adds a workload again that an earlier process of the node has started ([`Again`]); like the above |
//! | `PUT /v1/workloads/{namespace}/{name}/running` | `true` or `false`: whether its process runs |
//! | `POST /v1/workloads/{namespace}/{name}/drain` | has it take no new requests, and returns when none is in flight: `true`, or `false` at the deadline |
//! | `POST /v1/drain` | the same for all workloads (`"drain"`); takes it back (`"undo"`); has who has started processes end them (`"stop"`), and returns how long they may take, in milliseconds |
//! | `GET /v1/workloads/{namespace}/{name}` | a [`WorkloadStatus`](crate::workloads::WorkloadStatus) |
//! | `GET /v1/services/{namespace}` | [`ServicesOfNamespace`](crate::ServicesOfNamespace), as the server says |
//! | `GET /v1/status` | a [`NodeStatus`](crate::status::NodeStatus) |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tulle_model::name::WorkloadName;
use tulle_proxy::descriptors::Spare;
use tulle_sys::family::Member;

use crate::control::services::services_of;
use crate::status::StatusSource;
use crate::workloads::{Before, Running, WorkloadSpec};

/// How many connections there may be; every workload that was added here has one.
const MOST_CONNECTIONS: usize = 4096;

/// How large a request may be.
const MOST_REQUEST_BYTES: usize = 1 << 20;

/// How long a client may take to send a request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long what is in flight may take to finish when a workload goes.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// The same where its owner is gone: without him its processes are not to go on for long.
const LOST_DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long the server's word on a new workload is waited for.
const VERDICT_DEADLINE: Duration = Duration::from_secs(2);

/// A workload whose process an earlier process of the node has started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Again {
    pub spec: WorkloadSpec,
    #[serde(flatten)]
    pub before: Before,
}

/// What a node is to do with its workloads ([`Action::Drain`] and so on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    /// No new requests, no new workloads.
    Drain,
    /// As before.
    Undo,
    /// Who has started processes ends them.
    Stop,
}

type HttpResponse = Response<BoxBody<Bytes, Infallible>>;

/// Serves until the task is aborted; goes on with each listener of `later` in place of the one before.
pub(crate) async fn serve(
    mut listener: UnixListener,
    mut later: mpsc::Receiver<UnixListener>,
    source: Arc<StatusSource>,
) {
    let mut spare = Spare::new();
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(new) = later.recv() => {
                listener = new;
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) if Spare::is_wanted(&e) && spare.turn_away(&listener).await => continue,
            Err(e) => {
                tracing::debug!("a connection to the node's socket is not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let source = source.clone();
        // The kernel's word: who waits for the answer is who has opened the connection.
        let owner = stream.peer_cred().ok().and_then(|peer| Member::of(u32::try_from(peer.pid()?).ok()?));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let source = source.clone();
                async move { Ok::<_, Infallible>(answer(request, source, owner).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = connection.await {
                tracing::debug!("a connection to the node's socket failed: {e}");
            }
            drop(slot);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    source: Arc<StatusSource>,
    owner: Option<Member>,
) -> HttpResponse {
    let path = request.uri().path().to_owned();
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match (request.method().clone(), segments.as_slice()) {
        // It may look at all sockets of this host.
        (Method::GET, ["v1", "status"]) => match spawn_blocking(move || source.status()).await {
            Ok(status) => value(&status),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the status cannot be found out"),
        },
        (Method::POST, ["v1", "workloads"]) => match body::<WorkloadSpec>(request).await {
            Ok(spec) => add(Wanted { spec, owner, again: None }, source).await,
            Err(answer) => answer,
        },
        (Method::POST, ["v1", "workloads", "again"]) => match body::<Again>(request).await {
            Ok(Again { spec, before }) => add(Wanted { spec, owner, again: Some(before) }, source).await,
            Err(answer) => answer,
        },
        (Method::GET, ["v1", "workloads", namespace, name]) => {
            let name = WorkloadName::new(*namespace, *name);
            source.workloads.status(&name).map_or_else(|| unknown(&name), |status| value(&status))
        }
        (Method::GET, ["v1", "services", namespace]) => match services_of(&source.server, namespace).await {
            Ok(services) => value(&services),
            Err(why) => error(StatusCode::BAD_GATEWAY, &format!("{why:#}")),
        },
        (Method::PUT, ["v1", "workloads", namespace, name, "running"]) => {
            let name = WorkloadName::new(*namespace, *name);
            match (body::<bool>(request).await, source.workloads.process(&name)) {
                (Err(answer), _) => answer,
                (_, None) => unknown(&name),
                (Ok(runs), Some(process)) => {
                    process.send_modify(|process| process.set(runs));
                    value(&runs)
                }
            }
        }
        (Method::POST, ["v1", "workloads", namespace, name, "drain"]) => {
            let name = WorkloadName::new(*namespace, *name);
            if source.workloads.process(&name).is_none() {
                return unknown(&name);
            }
            value(&source.workloads.drain(&name, DRAIN_DEADLINE).await)
        }
        (Method::POST, ["v1", "drain"]) => match body::<Action>(request).await {
            Ok(Action::Drain) => value(&source.workloads.drain_all(DRAIN_DEADLINE).await),
            Ok(Action::Undo) => {
                source.workloads.undrain();
                value(&true)
            }
            Ok(Action::Stop) => {
                value(&u64::try_from(source.workloads.ask_to_stop().as_millis()).unwrap_or(u64::MAX))
            }
            Err(answer) => answer,
        },
        _ => error(
            StatusCode::NOT_FOUND,
            "there is nothing of that name; is this command of the same version?",
        ),
    }
}

/// A workload that somebody wants to have.
struct Wanted {
    spec: WorkloadSpec,
    owner: Option<Member>,
    /// What its process knows already.
    again: Option<Before>,
}

/// The workload stays until the client does not read any more.
async fn add(wanted: Wanted, source: Arc<StatusSource>) -> HttpResponse {
    let (reply, added) = oneshot::channel();
    let adding = source.clone();
    // A client that goes away meanwhile ends this future, and what is half made could not be unmade.
    tokio::spawn(async move {
        let result = enter(wanted, &adding).await;
        if let Err(Ok(running)) = reply.send(result) {
            leave(running, &adding).await;
        }
    });
    let running = match added.await {
        Ok(Ok(running)) => running,
        Ok(Err(e)) => return error(StatusCode::BAD_REQUEST, &format!("{e:#}")),
        Err(_) => return error(StatusCode::INTERNAL_SERVER_ERROR, "the workload cannot be added"),
    };
    let mut line = serde_json::to_vec(&running).unwrap_or_default();
    line.push(b'\n');
    let (sender, receiver) = mpsc::channel(1);
    let first = sender.try_send(Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
    debug_assert!(first.is_ok(), "it has room for one");
    let name = WorkloadName::new(running.namespace.as_str(), running.name.as_str());
    let asked = source.workloads.asked_to_stop(&name);
    tokio::spawn(async move {
        let ask = async {
            if let Some(mut asked) = asked
                && asked.wait_for(|asked| *asked).await.is_ok()
            {
                let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"\"stop\"\n")))).await;
            }
            sender.closed().await;
        };
        tokio::select! {
            () = ask => {}
            () = sender.closed() => {}
        }
        leave(running, &source).await;
    });
    let body = StreamBody::new(ReceiverStream::new(receiver)).boxed();
    respond(StatusCode::OK, body)
}

/// Adds a workload, unless the server refuses it. One that starts with the server down is taken: the
/// server's word is on the node's status later.
async fn enter(wanted: Wanted, source: &StatusSource) -> anyhow::Result<Running> {
    let Wanted { spec, owner, again } = wanted;
    let name = WorkloadName::new(spec.namespace.as_str(), spec.name.as_str());
    if let Some(before) = again {
        return source.workloads.add_again(owner, spec, before).await;
    }
    let running = source.workloads.add_for(owner, spec).await?;
    // Without the server, its last word on the node stands.
    let wait = if *source.server.connected().borrow() { VERDICT_DEADLINE } else { Duration::ZERO };
    let refusal = source.workloads.refusal(&name, wait).await;
    if let Some(why) = refusal {
        source.workloads.remove(&name).await;
        anyhow::bail!("the server refuses the workload {name}: {why}");
    }
    Ok(running)
}

async fn leave(running: Running, source: &StatusSource) {
    let name = WorkloadName::new(running.namespace, running.name);
    source.workloads.end(&name, LOST_DRAIN_DEADLINE).await;
}

async fn body<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, HttpResponse> {
    let invalid = |why: String| error(StatusCode::BAD_REQUEST, &why);
    let reading = Limited::new(request.into_body(), MOST_REQUEST_BYTES).collect();
    let bytes = match timeout(REQUEST_DEADLINE, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return Err(invalid(e.to_string())),
        Err(_) => return Err(invalid("the request came too slowly".to_owned())),
    };
    serde_json::from_slice(&bytes).map_err(|e| invalid(format!("the request makes no sense: {e}")))
}

fn unknown(name: &WorkloadName) -> HttpResponse {
    error(StatusCode::NOT_FOUND, &format!("there is no workload {name} on this node"))
}

fn error(status: StatusCode, message: &str) -> HttpResponse {
    respond(status, full(&json!({ "error": message })))
}

fn value(value: &impl Serialize) -> HttpResponse {
    respond(StatusCode::OK, full(value))
}

fn full(value: &impl Serialize) -> BoxBody<Bytes, Infallible> {
    // The values are of our own types, which always can be written.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    Full::new(bytes.into()).boxed()
}

fn respond(status: StatusCode, body: BoxBody<Bytes, Infallible>) -> HttpResponse {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
