//! The node's own socket, `$TULLE_HOME/node.sock`: HTTP with JSON for commands on the same host.
//!
//! | request | |
//! |---|---|
//! | `POST /v1/workloads` | adds a workload ([`WorkloadSpec`]); the first line of the answer is a [`Running`], and the workload lives for as long as the answer is read |
//! | `POST /v1/workloads/again` | adds a workload again that an earlier process of the node has started ([`Again`]); like the above |
//! | `PUT /v1/workloads/{namespace}/{name}/running` | `true` or `false`: whether its process runs |
//! | `POST /v1/workloads/{namespace}/{name}/drain` | has it take no new requests, and returns when none is in flight: `true`, or `false` at the deadline |
//! | `GET /v1/status` | a [`NodeStatus`](crate::status::NodeStatus) |

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
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
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tulle_model::name::WorkloadName;
use tulle_proxy::descriptors::Spare;

use crate::status::StatusSource;
use crate::workloads::{Running, WorkloadSpec};

/// The socket's name in `$TULLE_HOME`.
pub(crate) const SOCKET: &str = "node.sock";

/// How many connections there may be; every workload that was added here has one.
const MOST_CONNECTIONS: usize = 4096;

/// How large a request may be.
const MOST_REQUEST_BYTES: usize = 1 << 20;

/// How long a client may take to send a request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long what is in flight may take to finish when a workload goes.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// A client that went without a word cannot serve what is in flight for long.
const LOST_DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// How long the server's word on a new workload is waited for.
const VERDICT_DEADLINE: Duration = Duration::from_secs(2);

/// A workload whose process an earlier process of the node has started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Again {
    pub spec: WorkloadSpec,
    /// Those of its [`Running`].
    pub listeners: Vec<SocketAddr>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Opens the socket, for its owner only.
pub(crate) fn bind(home: &Path) -> anyhow::Result<UnixListener> {
    let path = home.join(SOCKET);
    // Nobody else can enter the folder where it is made; it moves when its mode is right.
    let temporary = home.join("node").join("sock.new");
    let bound = || {
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
        fs::rename(&temporary, &path)?;
        Ok::<_, std::io::Error>(listener)
    };
    bound().with_context(|| {
        format!("the node's socket {} cannot be opened (its path may have 107 bytes)", path.display())
    })
}

/// Serves until the task is aborted.
pub(crate) async fn serve(listener: UnixListener, source: Arc<StatusSource>) {
    let mut spare = Spare::new();
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) if Spare::is_wanted(&e) && spare.turn_away(&listener).await => continue,
            Err(e) => {
                tracing::debug!("a connection to the node's socket is not accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let source = source.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let source = source.clone();
                async move { Ok::<_, Infallible>(answer(request, source).await) }
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

async fn answer(request: Request<Incoming>, source: Arc<StatusSource>) -> Answer {
    let path = request.uri().path().to_owned();
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match (request.method().clone(), segments.as_slice()) {
        (Method::GET, ["v1", "status"]) => value(&source.status()),
        (Method::POST, ["v1", "workloads"]) => match body::<WorkloadSpec>(request).await {
            Ok(spec) => add(spec, None, source).await,
            Err(answer) => answer,
        },
        (Method::POST, ["v1", "workloads", "again"]) => match body::<Again>(request).await {
            Ok(Again { spec, listeners }) => add(spec, Some(listeners), source).await,
            Err(answer) => answer,
        },
        (Method::PUT, ["v1", "workloads", namespace, name, "running"]) => {
            let name = WorkloadName::new(*namespace, *name);
            match (body::<bool>(request).await, source.workloads.running(&name)) {
                (Err(answer), _) => answer,
                (_, None) => unknown(&name),
                (Ok(runs), Some(running)) => {
                    running.send_replace(runs);
                    value(&runs)
                }
            }
        }
        (Method::POST, ["v1", "workloads", namespace, name, "drain"]) => {
            let name = WorkloadName::new(*namespace, *name);
            if source.workloads.running(&name).is_none() {
                return unknown(&name);
            }
            value(&source.workloads.drain(&name, DRAIN_DEADLINE).await)
        }
        _ => error(
            StatusCode::NOT_FOUND,
            "there is nothing of that name; is this command of the same version?",
        ),
    }
}

/// The workload stays until the client does not read any more.
async fn add(spec: WorkloadSpec, again: Option<Vec<SocketAddr>>, source: Arc<StatusSource>) -> Answer {
    let (reply, added) = oneshot::channel();
    let adding = source.clone();
    // A client that goes away meanwhile ends this future, and what is half made could not be unmade.
    tokio::spawn(async move {
        let result = enter(spec, again, &adding).await;
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
    tokio::spawn(async move {
        sender.closed().await;
        leave(running, &source).await;
    });
    let body = StreamBody::new(ReceiverStream::new(receiver)).boxed();
    respond(StatusCode::OK, body)
}

/// Adds a workload, unless the server refuses it. One that starts with the server down is taken: the
/// server's word is on the node's status later.
async fn enter(
    spec: WorkloadSpec,
    again: Option<Vec<SocketAddr>>,
    source: &StatusSource,
) -> anyhow::Result<Running> {
    let name = WorkloadName::new(spec.namespace.as_str(), spec.name.as_str());
    if let Some(listeners) = again {
        return source.workloads.add_again(spec, listeners).await;
    }
    let running = source.workloads.add(spec).await?;
    let connected = *source.server.connected().borrow();
    let refusal = match connected {
        true => source.workloads.refusal(&name, VERDICT_DEADLINE).await,
        false => None,
    };
    if let Some(why) = refusal {
        source.workloads.remove(&name).await;
        anyhow::bail!("the server refuses the workload {name}: {why}");
    }
    Ok(running)
}

async fn leave(running: Running, source: &StatusSource) {
    let name = WorkloadName::new(running.namespace, running.name);
    source.workloads.drain(&name, LOST_DRAIN_DEADLINE).await;
    source.workloads.remove(&name).await;
}

async fn body<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let invalid = |why: String| error(StatusCode::BAD_REQUEST, &why);
    let reading = Limited::new(request.into_body(), MOST_REQUEST_BYTES).collect();
    let bytes = match timeout(REQUEST_DEADLINE, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return Err(invalid(e.to_string())),
        Err(_) => return Err(invalid("the request came too slowly".to_owned())),
    };
    serde_json::from_slice(&bytes).map_err(|e| invalid(format!("the request makes no sense: {e}")))
}

fn unknown(name: &WorkloadName) -> Answer {
    error(StatusCode::NOT_FOUND, &format!("there is no workload {name} on this node"))
}

fn error(status: StatusCode, message: &str) -> Answer {
    respond(status, full(&json!({ "error": message })))
}

fn value(value: &impl Serialize) -> Answer {
    respond(StatusCode::OK, full(value))
}

fn full(value: &impl Serialize) -> BoxBody<Bytes, Infallible> {
    // The values are of our own types, which always can be written.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    Full::new(bytes.into()).boxed()
}

fn respond(status: StatusCode, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
