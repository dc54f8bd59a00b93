//! One port that serves HTTP/1.1, HTTP/2 without TLS and gRPC, and a stop that fails nobody.
//!
//! A stop has two stages. *Draining*: HTTP/2 connections get a GOAWAY, every HTTP/1.1 answer says
//! `connection: close`, new connections are still served, because who connects may not know yet.
//! *Closing*, once nobody has asked for a while: idle connections close and the rest finishes.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{FakeService, grpc};

pub type ReplyBody = UnsyncBoxBody<Bytes, hyper::Error>;
pub type Reply = Response<ReplyBody>;

/// Without a request for so long, a draining server takes itself for unused.
const QUIET: Duration = Duration::from_millis(250);
/// Draining ends then, used or not.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// What is still in flight then is cut.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    Draining,
    Closing,
}

pub struct Server {
    service: Arc<FakeService>,
    stage: watch::Sender<Stage>,
    in_flight: AtomicUsize,
    /// When a request last came or went.
    last: std::sync::Mutex<Instant>,
    connections: TaskTracker,
}

impl Server {
    pub fn new(service: Arc<FakeService>) -> Arc<Self> {
        Arc::new(Self {
            service,
            stage: watch::Sender::new(Stage::Serving),
            in_flight: AtomicUsize::new(0),
            last: std::sync::Mutex::new(Instant::now()),
            connections: TaskTracker::new(),
        })
    }

    /// Serves until `stop` is done, then drains; returns when the last connection is closed.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut stage = self.stage.subscribe();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        self.connections.spawn(self.clone().connection(stream));
                    }
                    // Out of descriptors, most likely: others may go soon.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                () = &mut stop, if *stage.borrow() == Stage::Serving => {
                    self.stage.send_replace(Stage::Draining);
                    self.touch();
                    tokio::spawn(self.clone().close_when_quiet());
                }
                _ = stage.wait_for(|s| *s == Stage::Closing) => break,
            }
        }
        drop(listener);
        self.connections.close();
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.connections.wait()).await;
    }

    async fn close_when_quiet(self: Arc<Self>) {
        let start = Instant::now();
        while start.elapsed() < DRAIN_LIMIT {
            let last = *self.last.lock().unwrap_or_else(|e| e.into_inner());
            if self.in_flight.load(Ordering::Acquire) == 0 && last.elapsed() >= QUIET {
                break;
            }
            tokio::time::sleep(QUIET / 10).await;
        }
        self.stage.send_replace(Stage::Closing);
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(|e| e.into_inner()) = Instant::now();
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let is_http2 = Arc::new(AtomicBool::new(false));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None).half_close(true);
        builder.http2().timer(TokioTimer::new());
        let service = service_fn(|request: Request<Incoming>| {
            if request.version() == Version::HTTP_2 {
                is_http2.store(true, Ordering::Relaxed);
            }
            let server = self.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut stage = self.stage.subscribe();
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                changed = stage.changed() => {
                    let now = *stage.borrow_and_update();
                    if changed.is_err() || now == Stage::Closing || is_http2.load(Ordering::Relaxed) {
                        connection.as_mut().graceful_shutdown();
                    }
                    if now == Stage::Closing {
                        break;
                    }
                }
            }
        }
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended with an error");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let http1 = request.version() < Version::HTTP_2;
        let mut reply = if request.uri().path() == "/healthz" {
            self.healthz()
        } else {
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            let _guard = InFlight(&self);
            self.service.reply(request).await
        };
        if http1 && *self.stage.borrow() != Stage::Serving {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    fn healthz(&self) -> Reply {
        match *self.stage.borrow() {
            Stage::Serving => text(StatusCode::OK, "ok\n".into()),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into()),
        }
    }
}

struct InFlight<'a>(&'a Server);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

pub fn text(status: StatusCode, body: String) -> Reply {
    let mut response = Response::new(Full::new(Bytes::from(body)).map_err(|e| match e {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    let mut json = serde_json::to_string(value).unwrap_or_default();
    json.push('\n');
    let mut response = text(status, json);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl FakeService {
    /// `/echo` gives the body back as it comes, `/request` tells the head of the request; gRPC calls and everything else
    /// are answered with what became of the upstreams.
    async fn reply(&self, request: Request<Incoming>) -> Reply {
        let is_grpc = request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(grpc::CONTENT.as_bytes()));
        let (parts, body) = request.into_parts();
        match parts.uri.path() {
            grpc::ECHO if is_grpc => return grpc::echo(body),
            "/echo" => {
                let mut response = Response::new(body.boxed_unsync());
                if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
                    response.headers_mut().insert(CONTENT_TYPE, kind.clone());
                }
                return response;
            }
            _ => {}
        }
        // A peer that stops in the middle of its body is its connection's business, not ours.
        let mut body = body;
        while let Some(Ok(_)) = body.frame().await {}
        match parts.uri.path() {
            "/request" => json(StatusCode::OK, &self.shown(&parts)),
            grpc::HEALTH if is_grpc => grpc::reply(&grpc::Health { status: 1 }),
            grpc::CALL if is_grpc => {
                let answer = self.call(&parts.headers).await;
                if answer.is_success() { grpc::reply(&answer) } else { grpc::fail(&answer) }
            }
            path if is_grpc => grpc::refuse(grpc::UNIMPLEMENTED, &format!("there is no method {path}")),
            _ => {
                let answer = self.call(&parts.headers).await;
                let status = u16::try_from(answer.status).ok().and_then(|s| StatusCode::from_u16(s).ok());
                json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &answer)
            }
        }
    }

    /// A request as it came, without its body.
    fn shown(&self, parts: &http::request::Parts) -> serde_json::Value {
        let headers = parts.headers.iter();
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect();
        serde_json::json!({
            "name": self.name, "method": parts.method.as_str(), "path": parts.uri.to_string(), "headers": headers,
        })
    }
}

/// Listens at `address`.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
