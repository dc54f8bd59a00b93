//! The application, and who notices when the door to it closes and opens: in this process, so that all have one clock.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// What feels a change.
pub const WHAT: [&str; 4] = ["a request", "a connection", "a WebSocket", "a call of gRPC"];
/// How soon somebody who was held off tries again, and requests follow each other.
const PAUSE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(5);
/// RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLBmiTxaQ9kYGzzhZRbK+xOo=";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Serves HTTP, WebSockets and calls at one port, bytes at another.
pub struct Application {
    pub requests: u16,
    pub bytes: u16,
    _runtime: Runtime,
}

impl Application {
    pub fn serve() -> Self {
        let runtime = runtime();
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let port = listener.local_addr().unwrap().port();
            let _entered = runtime.enter();
            (tokio::net::TcpListener::from_std(listener).unwrap(), port)
        };
        let ((of_requests, requests), (of_bytes, bytes)) = (listen(), listen());
        runtime.spawn(async move {
            while let Ok((stream, _)) = of_requests.accept().await {
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let served =
                        builder.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer));
                    // A client may go.
                    let _ = served.await;
                });
            }
        });
        runtime.spawn(async move {
            while let Ok((stream, _)) = of_bytes.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        Self { requests, bytes, _runtime: runtime }
    }
}

async fn echo(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite) {
    let (mut from, mut to) = tokio::io::split(stream);
    // A client may go.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// One message of gRPC, and then nothing.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::data(first)))))
    }
}

async fn answer(
    mut request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                echo(TokioIo::new(upgraded)).await;
            }
        });
        let answer = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", ACCEPT);
        return Ok(answer.body(Empty::new().boxed_unsync()).unwrap());
    }
    if request.headers().get("content-type") == Some(&HeaderValue::from_static("application/grpc")) {
        let body = Endless(Some(Bytes::from_static(&[0, 0, 0, 0, 0])));
        let answer = Response::builder().header("content-type", "application/grpc");
        return Ok(answer.body(body.boxed_unsync()).unwrap());
    }
    Ok(Response::new(Full::from("ok").boxed_unsync()))
}

/// Whether somebody was let in when it was last seen, and since when.
type Felt = (bool, Instant);

/// Those who notice.
pub struct Watchers {
    felt: Vec<watch::Receiver<Felt>>,
    tasks: Vec<JoinHandle<()>>,
    /// Calls that ended with status 7 after they were let in.
    denied_calls: watch::Receiver<usize>,
    runtime: Runtime,
}

impl Watchers {
    pub fn start(web: u16, calls: u16, bytes: u16) -> Self {
        let runtime = runtime();
        let (tells, felt): (Vec<_>, Vec<_>) =
            WHAT.iter().map(|_| watch::channel((false, Instant::now()))).unzip();
        let mut tells = tells.into_iter();
        let mut tell = || tells.next().unwrap();
        let (count, denied_calls) = watch::channel(0);
        let tasks = vec![
            runtime.spawn(requests(web, tell())),
            runtime.spawn(connections(bytes, "", tell())),
            runtime.spawn(connections(web, "websocket", tell())),
            runtime.spawn(streams(calls, tell(), count)),
        ];
        Self { felt, tasks, denied_calls, runtime }
    }

    /// Waits until all are let in, or none is; returns since when each. `None`: it took too long.
    pub fn wait_until_all(&mut self, allowed: bool, patience: Duration) -> Option<Vec<Instant>> {
        let felt = &mut self.felt;
        self.runtime.block_on(async {
            let mut since = Vec::new();
            for felt in felt {
                let now = timeout(patience, felt.wait_for(|felt| felt.0 == allowed)).await.ok()?.ok()?;
                since.push(now.1);
            }
            Some(since)
        })
    }

    /// For a failure: who is let in.
    pub fn state(&self) -> String {
        let felt = self.felt.iter().map(|felt| felt.borrow().0);
        WHAT.iter().zip(felt).map(|(what, felt)| format!("{what}: {felt}; ")).collect()
    }

    /// Ends them. Returns how many calls ended with status 7 after they were let in.
    pub fn stop(self) -> usize {
        self.tasks.iter().for_each(JoinHandle::abort);
        *self.denied_calls.borrow()
    }
}

fn feel(tell: &watch::Sender<Felt>, allowed: bool) {
    tell.send_if_modified(|felt| {
        let differs = felt.0 != allowed;
        if differs {
            *felt = (allowed, Instant::now());
        }
        differs
    });
}

/// Requests, one after the other on a connection that stays.
async fn requests(port: u16, tell: watch::Sender<Felt>) {
    let mut connection = None;
    loop {
        let answered = async {
            let sender = match &mut connection {
                Some(open) => open,
                None => {
                    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
                    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.ok()?;
                    tokio::spawn(driver);
                    connection.insert(sender)
                }
            };
            sender.ready().await.ok()?;
            let request = Request::get("/").header("host", "web").body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.ok()?;
            let status = answer.status();
            answer.collect().await.ok()?;
            Some(status)
        };
        match timeout(PATIENCE, answered).await.ok().flatten() {
            Some(StatusCode::OK) => feel(&tell, true),
            Some(StatusCode::FORBIDDEN) => feel(&tell, false),
            // No endpoint yet.
            Some(_) => {}
            None => connection = None,
        }
        sleep(PAUSE).await;
    }
}

/// One connection after the other, of bytes or of a WebSocket, each open until it is ended.
async fn connections(port: u16, upgrade: &str, tell: watch::Sender<Felt>) {
    loop {
        if let Some(mut stream) = timeout(PATIENCE, open(port, upgrade)).await.ok().flatten() {
            feel(&tell, true);
            // Nothing comes but its end.
            let _ = stream.read(&mut [0]).await;
        }
        feel(&tell, false);
        sleep(PAUSE).await;
    }
}

/// A connection that has carried something both ways.
async fn open(port: u16, upgrade: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    if !upgrade.is_empty() {
        let head = format!(
            "GET /socket HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\
             sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.ok()?);
        }
        if !answer.starts_with(b"HTTP/1.1 101 ") {
            return None;
        }
    }
    stream.write_all(b"ping").await.ok()?;
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.ok()?;
    (&back == b"ping").then_some(stream)
}

/// One call after the other on a connection that stays, each open until it is ended.
async fn streams(port: u16, tell: watch::Sender<Felt>, denied: watch::Sender<usize>) {
    let mut connection = None;
    loop {
        if call(port, &mut connection, &tell).await == Some(true) {
            denied.send_modify(|count| *count += 1);
        }
        feel(&tell, false);
        sleep(PAUSE).await;
    }
}

/// Whether it was let in and ended with status 7; `None`: it was not let in, or there is no connection.
async fn call(
    port: u16,
    connection: &mut Option<http2::SendRequest<Empty<Bytes>>>,
    tell: &watch::Sender<Felt>,
) -> Option<bool> {
    let sender = match connection.take() {
        Some(open) if !open.is_closed() => connection.insert(open),
        _ => {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
            let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
            tokio::spawn(driver);
            connection.insert(sender)
        }
    };
    let request = Request::post("http://calls/test.Service/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let asked = sender.send_request(request.body(Empty::new()).unwrap());
    let answer = timeout(PATIENCE, asked).await.ok()?.ok()?;
    if answer.headers().contains_key("grpc-status") {
        return None;
    }
    let mut body = answer.into_body();
    timeout(PATIENCE, body.frame()).await.ok()??.ok()?;
    feel(tell, true);
    let last = body.frame().await?.ok()?;
    Some(
        last.trailers_ref()
            .is_some_and(|trailers| trailers.get("grpc-status") == Some(&HeaderValue::from_static("7"))),
    )
}
