//! Serves the HTTP connections of this node's workloads.
//!
//! A connection lives as long as its client likes, idle or not. It is closed when the client is slow to
//! finish the head of a request that it began, when it has closed its side and does not take the answer,
//! or when the worker drains, after what is in flight.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::http::body::{Body, Event, Gate};
use crate::http::forward::{self, Call, Refusal, Target};
use crate::http::headers::Malformed;
use crate::http::record::Record;
use crate::http::reply::{self, Reason, reply};
use crate::http::{HEADER_LIMIT, LocalExecutor, Timer, egress, headers, upgrade};
use crate::link::REASON;
use crate::outbound::HttpDestination;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// How long the head of an HTTP/1 request may take from its first byte on.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// An idle connection is closed after that.
const IDLE_DEADLINE: Duration = Duration::from_secs(3600);
/// How long a client that closed its side of an HTTP/1.1 connection may take no byte of its answer before
/// it is taken to be gone: the kernel does not tell one from the other.
const HALF_CLOSED_DEADLINE: Duration = Duration::from_secs(15);
/// Streams that a client may have open on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// HTTP/2 clients that are silent are asked whether they live.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_DEADLINE: Duration = Duration::from_secs(20);
/// Streams that a client reset before we looked at them (CVE-2023-44487), and that we reset for its
/// mistakes (CVE-2025-8671), before its connection is closed.
const MAX_PENDING_RESETS: usize = 50;
const MAX_LOCAL_RESETS: usize = 1024;

/// What the requests of one connection share.
struct Connection {
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    destination: HttpDestination,
    io: Arc<IoState>,
}

/// Serves one connection (HTTP/1 or HTTP/2 by its preface) until it ends. `io` gives the bytes that
/// detection has read once more. Stops gracefully when `worker.drain` starts.
pub async fn serve<IO>(worker: Rc<Worker>, source: Arc<LocalWorkload>, io: IO, destination: HttpDestination)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::new(IoState::new());
    let cx = Rc::new(Connection { worker: worker.clone(), source, destination, io: state.clone() });
    let service = service_fn(move |request: Request<Incoming>| {
        let cx = cx.clone();
        async move {
            let busy = cx.io.begin_request();
            let mut busy = Some(busy);
            let response = answer(&cx, request).await;
            // Until the answer has passed.
            let response = response.map(|body| {
                body.observed(move |event| {
                    if !matches!(event, Event::Data(_) | Event::Trailers(_)) {
                        busy.take();
                    }
                })
            });
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(Timer::default())
        .half_close(true)
        .header_read_timeout(IDLE_DEADLINE)
        .max_buf_size(HEADER_LIMIT);
    builder
        .http2()
        .timer(Timer::default())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(HEADER_LIMIT as u32)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .enable_connect_protocol();
    let io = TokioIo::new(ClientIo { io, state: state.clone(), begin: Begin::Unknown, head: None, heads: 0 });
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut draining = pin!(worker.drain.wait());
    let mut gone = pin!(client_gone(&state));
    let mut told = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            () = draining.as_mut(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = gone.as_mut() => {
                tracing::debug!("the client of a half-closed connection takes nothing any more");
                return;
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %crate::app_pool::chain(&*error), "connection of a workload ended");
    }
}

/// Answers one request.
async fn answer(cx: &Rc<Connection>, mut request: Request<Incoming>) -> Response<Body> {
    let version = request.version();
    let on_upgrade = upgrade::wanted(&mut request);
    if on_upgrade.is_some() {
        cx.io.upgraded.store(true, Relaxed);
    }
    let (mut head, body) = request.into_parts();
    let explicit = cx.destination == HttpDestination::Proxy;
    // Before the head is brought into the inner form, in which one cannot tell any longer.
    let names_destination = head.uri.authority().is_some();
    let fallback = || match &cx.destination {
        HttpDestination::Service { service, port } => {
            format!("{}.{}:{port}", service.name, service.namespace)
        }
        HttpDestination::Proxy => String::new(),
    };
    let secure = explicit && head.uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    let malformed = match headers::normalize_request(&mut head, fallback) {
        Ok(()) if secure => Some(Malformed("for https the proxy is to be asked for a tunnel (CONNECT)")),
        checked => checked.err(),
    };
    let record = Record::begin(&cx.worker, &head);
    let outcome = match malformed {
        Some(problem) => Err(Refusal::new(Reason::BadRequest, problem.0.to_owned(), None)),
        None => {
            if explicit {
                headers::strip_proxy_only(&mut head.headers);
            }
            target(cx, &head, names_destination).await
        }
    };
    let (outcome, mut response) = match outcome {
        Err(refusal) => refusal.into_answer(),
        Ok(target) if explicit && head.method == Method::CONNECT && on_upgrade.is_some() => {
            return match on_upgrade {
                Some(wish) => upgrade::tunnel(&cx.worker, &cx.source, target, wish),
                None => reply(Reason::BadRequest, "nothing to tunnel"),
            };
        }
        Ok(target) => {
            let mut body = record.watch(body.into());
            if headers::expects_continue(&head.headers) && version == Version::HTTP_11 {
                let (gate, gated) = Gate::before(body);
                head.extensions.insert(gate);
                body = gated;
            }
            let call = Call { head, body, target };
            match on_upgrade {
                Some(wish) => upgrade::forward(&cx.worker, &cx.source, &record, call, wish).await,
                None => forward::forward(&cx.worker, &cx.source, &record, call).await,
            }
        }
    };
    if record.is_grpc() && response.headers().contains_key(REASON) {
        response = reply::for_grpc(response);
    }
    *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
    record.finish(&cx.worker, &cx.source, outcome, response)
}

async fn target(
    cx: &Connection,
    head: &http::request::Parts,
    names_destination: bool,
) -> Result<Target, Refusal> {
    let refuse = |reason, message: &str| Err(Refusal::new(reason, message.to_owned(), None));
    match &cx.destination {
        HttpDestination::Service { service, port } => {
            Ok(Target::Service { service: service.clone(), port: *port })
        }
        HttpDestination::Proxy if !names_destination => {
            refuse(Reason::BadRequest, "this is an HTTP proxy: the request target must be an absolute URI")
        }
        HttpDestination::Proxy => {
            let Some(authority) = head.uri.authority() else {
                return refuse(Reason::BadRequest, "the request does not say what host it is for");
            };
            let default_port = if head.method == Method::CONNECT { 443 } else { 80 };
            egress::destination(&cx.worker, &cx.source, authority, default_port).await
        }
    }
}

/// What is seen of a client's connection from beside hyper.
struct IoState {
    begun: Instant,
    /// Requests being answered.
    requests: AtomicUsize,
    /// Counts the heads that were read to their end.
    heads: AtomicU64,
    /// A request wished to leave HTTP: what comes now may be no heads any more.
    upgraded: AtomicBool,
    ended: AtomicBool,
    end: Notify,
    /// When something was last written, in milliseconds since `begun`.
    written: AtomicU64,
}

impl IoState {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            requests: AtomicUsize::new(0),
            heads: AtomicU64::new(0),
            upgraded: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            end: Notify::new(),
            written: AtomicU64::new(0),
        }
    }

    fn begin_request(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Relaxed);
        self.heads.fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    fn since_begin(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

/// A request being answered, until it is dropped.
struct Busy(Arc<IoState>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// Returns when a client that closed its side has not taken anything for a while.
async fn client_gone(state: &IoState) {
    while !state.ended.load(Relaxed) {
        state.end.notified().await;
    }
    let ended = state.since_begin();
    let limit = HALF_CLOSED_DEADLINE.as_millis() as u64;
    loop {
        let quiet = state.since_begin() - state.written.load(Relaxed).max(ended);
        if quiet >= limit {
            return;
        }
        sleep(Duration::from_millis(limit - quiet)).await;
    }
}

/// A client's connection: it fails when the head of a request that has begun does not end in time.
struct ClientIo<IO> {
    io: IO,
    state: Arc<IoState>,
    begin: Begin,
    /// Runs while the head of an HTTP/1 request is awaited. On HTTP/2 something comes in between
    /// requests, too.
    head: Option<Pin<Box<tokio::time::Sleep>>>,
    /// How many heads there were when that was last looked at.
    heads: u64,
}

/// What a connection began with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Unknown,
    Http1,
    Http2,
}

impl<IO: AsyncRead + Unpin> AsyncRead for ClientIo<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        let read = &buffer.filled()[before..];
        if this.begin == Begin::Unknown && !read.is_empty() {
            // Detection gives the first bytes all at once, or hyper asks for a few.
            this.begin = if read.starts_with(b"PRI") { Begin::Http2 } else { Begin::Http1 };
        }
        let idle = this.begin == Begin::Http1
            && this.state.requests.load(Relaxed) == 0
            && !this.state.upgraded.load(Relaxed);
        // A request may come and go between two reads: its head was not late.
        let heads = this.state.heads.load(Relaxed);
        if !idle || heads != this.heads {
            this.head = None;
            this.heads = heads;
        }
        match &polled {
            Poll::Ready(Ok(())) if read.is_empty() => {
                this.state.ended.store(true, Relaxed);
                this.state.end.notify_one();
            }
            Poll::Ready(Ok(())) if idle && this.head.is_none() => {
                this.head = Some(Box::pin(sleep(HEAD_DEADLINE)));
            }
            Poll::Pending => {
                if let Some(head) = &mut this.head
                    && head.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            Poll::Ready(_) => {}
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ClientIo<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, data);
        if polled.is_ready() && this.state.ended.load(Relaxed) {
            this.state.written.store(this.state.since_begin(), Relaxed);
        }
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        if polled.is_ready() && this.state.ended.load(Relaxed) {
            this.state.written.store(this.state.since_begin(), Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_has_no_heads_that_could_be_late() {
        let (mut client, io) = tokio::io::duplex(64);
        let state = Arc::new(IoState::new());
        let mut io = ClientIo { io, state: state.clone(), begin: Begin::Http1, head: None, heads: 0 };
        let mut buffer = [0; 64];
        state.upgraded.store(true, Relaxed);
        client.write_all(b"bytes").await.unwrap();
        assert!(io.read(&mut buffer).await.unwrap() > 0);
        let quiet = tokio::time::timeout(2 * HEAD_DEADLINE, io.read(&mut buffer)).await;
        assert!(quiet.is_err(), "it is still open");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_a_head_ends_with_the_head() {
        let (mut client, io) = tokio::io::duplex(64);
        let state = Arc::new(IoState::new());
        let mut io = ClientIo { io, state: state.clone(), begin: Begin::Unknown, head: None, heads: 0 };
        let mut buffer = [0; 64];
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(io.read(&mut buffer).await.unwrap() > 0);
        // Answered before anything else is read.
        drop(state.begin_request());
        let idle = tokio::time::timeout(2 * HEAD_DEADLINE, io.read(&mut buffer)).await;
        assert!(idle.is_err(), "an idle connection stays open");

        client.write_all(b"GET").await.unwrap();
        assert_eq!(io.read(&mut buffer).await.unwrap(), 3);
        let slow = tokio::time::timeout(2 * HEAD_DEADLINE, io.read(&mut buffer)).await;
        assert_eq!(slow.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
