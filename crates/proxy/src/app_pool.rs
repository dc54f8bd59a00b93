//! HTTP connections of one worker to processes of this node, and to plain destinations.
//!
//! HTTP/1.1 connections carry one request at a time and wait idle for the next, the latest used first.
//! HTTP/2 connections are shared; another one is opened when all have as many streams as the peer
//! allows. An idle connection may die at any moment: it is checked before it is used, a request that it
//! did not take goes to another, and one that it lost is repeated on a fresh one where that is safe.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};
use tulle_model::snapshot::FastMap;

use crate::app_stream::AppStream;
use crate::crowded;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::{Body, Event, Gate};
use crate::http::headers::{self, AppVersion};
use crate::http::{LocalExecutor, Timer};
use crate::worker::connect;

/// Idle connections kept for one address.
const MAX_IDLE: usize = 128;
/// How long an idle connection is kept, unless the application says that it keeps it for less. Below the
/// 5 s after which the servers of Node.js, uvicorn and Apache close theirs.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// The same for requests that cannot be repeated if the application closes just then.
const FRESH: Duration = Duration::from_millis(1500);
/// So long an idle connection has to live before a request that cannot be repeated trusts it, where no
/// connection to the address has carried a second request yet: some servers close after each answer
/// without saying so.
const PROOF: Duration = Duration::from_millis(50);
/// Addresses whose connections are not kept.
const MAX_CROWDED: usize = 1024;
/// HTTP/2 connections to one address.
const MAX_SHARED: usize = 16;
/// How long an HTTP/2 connection without streams is kept.
const MAX_SHARED_IDLE_TIME: Duration = Duration::from_secs(60);
/// HTTP/2 peers on other hosts are asked whether they live while streams wait for them.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// How long what a process sends after its response may take to end, before its connection is not kept.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
/// Attempts on connections that turn out to be dead.
const ATTEMPTS: usize = 4;

#[derive(Default)]
pub struct AppPool(Rc<Pool>);

#[derive(Default)]
struct Pool {
    idle: RefCell<FastMap<SocketAddr, Kept>>,
    shared: RefCell<FastMap<SocketAddr, Rc<Shared>>>,
    sweeping: Cell<bool>,
    /// Connections to these addresses are not kept if they were opened before.
    crowded: RefCell<FastMap<SocketAddr, Instant>>,
    making_room: Cell<bool>,
}

/// The HTTP/1.1 connections to one address that wait for requests.
#[derive(Default)]
struct Kept {
    /// The latest used last.
    connections: VecDeque<Idle>,
    /// Whether the application keeps connections, as one that carried a second request proves.
    proven: bool,
}

impl Kept {
    /// Takes the connection for the next request. One that is found dead says that the application
    /// closes them.
    fn take(&mut self, repeatable: bool) -> Option<Idle> {
        while !self.connections.is_empty() {
            let trusted = repeatable || self.proven;
            // The oldest has had the most time to show that it is kept.
            let next = if trusted { self.connections.pop_back() } else { self.connections.pop_front() }?;
            let age = next.since.elapsed();
            if !next.sender.is_ready() {
                self.proven &= age >= FRESH;
                continue;
            }
            if !trusted && age < PROOF {
                self.connections.push_front(next);
                return None;
            }
            if age < if repeatable { next.keep } else { next.keep.min(FRESH) } {
                return Some(next);
            }
        }
        None
    }
}

/// An HTTP/1.1 connection that waits for a request.
struct Idle {
    sender: http1::SendRequest<Body>,
    opened: Instant,
    since: Instant,
    keep: Duration,
}

/// The HTTP/2 connections to one address.
#[derive(Default)]
struct Shared {
    connections: RefCell<Vec<SharedConnection>>,
    /// Held by the one who opens the next connection: the others wait for it, and share its failure.
    dialing: tokio::sync::Mutex<Option<(Instant, UpstreamError)>>,
}

struct SharedConnection {
    sender: http2::SendRequest<Body>,
    /// How many streams the peer allows at a time.
    room: Rc<Cell<usize>>,
    streams: Rc<Cell<usize>>,
    used: Cell<Instant>,
}

/// A stream on a shared connection, until it is dropped.
struct StreamGuard(Rc<Cell<usize>>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Methods whose repetition does no more than one request (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

impl AppPool {
    /// Sends a request of the inner form (see [`headers::normalize_request`]) to `address`. The response
    /// is as the peer sent it.
    pub async fn request(
        &self,
        address: SocketAddr,
        version: AppVersion,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        match version {
            AppVersion::Http1 => self.0.request_http1(address, request).await,
            AppVersion::Http2 => self.0.request_http2(address, request).await,
        }
    }
}

impl Pool {
    async fn request_http1(
        self: &Rc<Self>,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let (mut head, body) = request.into_parts();
        headers::for_http1(&mut head, body.size_hint().exact());
        let gate = head.extensions.remove::<Gate>();
        let repeatable = is_idempotent(&head.method) && body.is_end_stream();
        let mut request = Request::from_parts(head, body);
        if let Some(gate) = gate.clone() {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == http::StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        for attempt in 1.. {
            let kept = if attempt < ATTEMPTS { self.take_idle(address, repeatable) } else { None };
            let reused = kept.is_some();
            let spare = (reused && repeatable).then(|| copy_of(&request));
            let (sender, opened, outcome) = match kept {
                Some(Idle { mut sender, opened, .. }) => {
                    let outcome = sender.try_send_request(request).await;
                    (sender, opened, outcome)
                }
                None => {
                    let opened = Instant::now();
                    let first = async {
                        let mut sender = self.dial_http1(address).await?;
                        let outcome = sender.try_send_request(request).await;
                        Ok::<_, UpstreamError>((sender, opened, outcome))
                    };
                    crowded::first_answer(address, first).await?
                }
            };
            match outcome {
                Ok(response) => {
                    if let Some(gate) = gate {
                        gate.refuse();
                    }
                    if reused {
                        self.set_proven(address, true);
                    }
                    return Ok(self.keep_when_over(address, sender, opened, response));
                }
                Err(mut error) => {
                    if reused {
                        self.set_proven(address, false);
                    }
                    match (error.take_message(), spare) {
                        // The connection was dead before anything was sent.
                        (Some(unsent), _) if attempt < ATTEMPTS => request = unsent,
                        // It died under the request, perhaps because the application was closing it.
                        (None, Some(copy)) if attempt < ATTEMPTS && !error.error().is_timeout() => {
                            request = copy
                        }
                        (unsent, _) => return Err(lost(address, error.error(), unsent.is_some())),
                    }
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    fn take_idle(&self, address: SocketAddr, repeatable: bool) -> Option<Idle> {
        self.idle.borrow_mut().get_mut(&address)?.take(repeatable)
    }

    /// Notes whether the application keeps its connections.
    fn set_proven(&self, address: SocketAddr, proven: bool) {
        if let Some(kept) = self.idle.borrow_mut().get_mut(&address) {
            kept.proven = proven;
        }
    }

    async fn dial_http1(
        self: &Rc<Self>,
        address: SocketAddr,
    ) -> Result<http1::SendRequest<Body>, UpstreamError> {
        self.make_room_when_asked();
        let stream = connect(address).await?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(AppStream::new(stream)))
            .await
            .map_err(|error| lost(address, &error, true))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "connection to an application ended");
            }
        });
        Ok(sender)
    }

    /// Gives the connection back once the response has been read to its end.
    fn keep_when_over(
        self: &Rc<Self>,
        address: SocketAddr,
        sender: http1::SendRequest<Body>,
        opened: Instant,
        response: Response<Incoming>,
    ) -> Response<Body> {
        let keep = match headers::keep_alive_timeout(response.headers()) {
            Some(seconds) => {
                Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)).min(MAX_IDLE_TIME)
            }
            None => MAX_IDLE_TIME,
        };
        let pool = Rc::downgrade(self);
        let mut held = Some(sender);
        let mut give_back = move || {
            let (Some(mut sender), Some(pool)) = (held.take(), pool.upgrade()) else { return };
            if keep.is_zero() {
                return;
            }
            tokio::task::spawn_local(async move {
                match timeout(SETTLE_DEADLINE, sender.ready()).await {
                    Ok(Ok(())) => {
                        pool.put_idle(address, Idle { sender, opened, since: Instant::now(), keep })
                    }
                    _ => pool.set_proven(address, false),
                }
            });
        };
        response.map(|body| {
            Body::from(body).observed(move |event| {
                // Otherwise dropping the sender closes the connection.
                if matches!(event, Event::End) {
                    give_back();
                }
            })
        })
    }

    fn put_idle(self: &Rc<Self>, address: SocketAddr, connection: Idle) {
        if self.crowded.borrow().get(&address).is_some_and(|since| connection.opened < *since) {
            return;
        }
        {
            let mut idle = self.idle.borrow_mut();
            let connections = &mut idle.entry(address).or_default().connections;
            if connections.len() >= MAX_IDLE {
                connections.pop_front();
            }
            connections.push_back(connection);
        }
        self.sweep();
    }

    async fn request_http2(
        self: &Rc<Self>,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let (mut head, body) = request.into_parts();
        headers::for_http2(&mut head);
        if let Some(gate) = head.extensions.remove::<Gate>() {
            // A peer of HTTP/2 has flow control to say what it wants, and hyper keeps its 100 to itself.
            gate.open();
        }
        let mut request = Request::from_parts(head, body);
        for attempt in 1.. {
            let (mut sender, stream) = self.shared_connection(address).await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let response = response.map(|body| {
                        let mut stream = Some(stream);
                        Body::from(body).observed(move |event| {
                            if !matches!(event, Event::Data(_) | Event::Trailers(_)) {
                                stream.take();
                            }
                        })
                    });
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if attempt < ATTEMPTS => request = unsent,
                    unsent => return Err(lost(address, error.error(), unsent.is_some())),
                },
            }
        }
        unreachable!("the last attempt returns")
    }

    /// A shared connection with room for a stream; opens one if there is none.
    async fn shared_connection(
        self: &Rc<Self>,
        address: SocketAddr,
    ) -> Result<(http2::SendRequest<Body>, StreamGuard), UpstreamError> {
        let shared = self.shared.borrow_mut().entry(address).or_default().clone();
        if let Some(found) = shared.take_stream(false) {
            return Ok(found);
        }
        let asked = Instant::now();
        let mut dialing = shared.dialing.lock().await;
        if let Some(found) = shared.take_stream(false) {
            return Ok(found);
        }
        // One after the other, they would wait the longer the more they are.
        if let Some((_, error)) = dialing.as_ref().filter(|(failed, _)| *failed >= asked) {
            return Err(error.clone());
        }
        if shared.connections.borrow().len() >= MAX_SHARED
            && let Some(found) = shared.take_stream(true)
        {
            return Ok(found);
        }
        let stream = match connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                *dialing = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        // A process of this host that hangs, in a debugger perhaps, is no reason to break its connections.
        let watched = (!address.ip().is_loopback()).then_some(PING_INTERVAL);
        let handshake = http2::Builder::new(LocalExecutor)
            .timer(Timer::default())
            .keep_alive_interval(watched)
            .keep_alive_timeout(PING_DEADLINE)
            .max_header_list_size(crate::http::HEADER_LIMIT as u32)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(|error| lost(address, &error, true))?;
        let room = Rc::new(Cell::new(connection.current_max_send_streams()));
        let allowed = room.clone();
        tokio::task::spawn_local(async move {
            let ended = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                allowed.set(connection.current_max_send_streams());
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%address, %error, "connection to an application ended");
            }
        });
        let streams = Rc::new(Cell::new(1));
        let connection = SharedConnection {
            sender: sender.clone(),
            room,
            streams: streams.clone(),
            used: Cell::new(Instant::now()),
        };
        shared.connections.borrow_mut().push(connection);
        self.sweep();
        Ok((sender, StreamGuard(streams)))
    }

    /// Keeps no connection, for now, to a process that somebody waits for in vain.
    fn make_room_when_asked(self: &Rc<Self>) {
        if self.making_room.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        let mut waiting = crowded::waiting();
        tokio::task::spawn_local(async move {
            loop {
                let address = match waiting.recv().await {
                    Ok(address) => address,
                    // Who still waits asks again.
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                let Some(pool) = pool.upgrade() else { return };
                pool.idle.borrow_mut().remove(&address);
                let mut crowded = pool.crowded.borrow_mut();
                if crowded.len() >= MAX_CROWDED {
                    crowded.clear();
                }
                crowded.insert(address, Instant::now());
            }
        });
    }

    /// Closes what has been idle for too long, every second while there is anything.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(pool) = pool.upgrade() else { return };
                if pool.drop_expired() {
                    pool.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Whether nothing is left.
    fn drop_expired(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, kept| {
            kept.connections.retain(|c| c.since.elapsed() < c.keep && !c.sender.is_closed());
            !kept.connections.is_empty()
        });
        let mut shared = self.shared.borrow_mut();
        shared.retain(|_, shared| {
            let mut connections = shared.connections.borrow_mut();
            connections.retain(|c| {
                let idle = c.streams.get() == 0 && c.used.get().elapsed() >= MAX_SHARED_IDLE_TIME;
                !idle && !c.sender.is_closed()
            });
            !connections.is_empty() || Rc::strong_count(shared) > 1
        });
        idle.is_empty() && shared.is_empty()
    }
}

impl Shared {
    /// `full`: also on a connection that has no room now; the request waits for it.
    fn take_stream(&self, full: bool) -> Option<(http2::SendRequest<Body>, StreamGuard)> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let connection = connections
            .iter()
            .filter(|c| full || c.streams.get() < c.room.get())
            .min_by_key(|c| c.streams.get())?;
        connection.streams.set(connection.streams.get() + 1);
        connection.used.set(Instant::now());
        Some((connection.sender.clone(), StreamGuard(connection.streams.clone())))
    }
}

/// A request without its body, which must be empty.
fn copy_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// A failure on a connection that stood.
pub fn lost(address: SocketAddr, error: &hyper::Error, unsent: bool) -> UpstreamError {
    let message = format!("the connection to {address} broke before it answered: {}", chain(error));
    if unsent || refused_unprocessed(error) {
        UpstreamError::safe(UpstreamErrorKind::ConnectionLost, message)
    } else {
        UpstreamError::after_sending(UpstreamErrorKind::ConnectionLost, message)
    }
}

/// The peer of an HTTP/2 connection says that it did not look at the request (RFC 9113, section 8.7).
fn refused_unprocessed(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            let gone = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (refused || gone);
        }
        source = error.source();
    }
    false
}

/// An error with what caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as ask at once learn at once that an address does not answer.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_failed_dial_is_shared() {
        // A full backlog: the kernel drops what comes beyond.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();

        let pool = AppPool::default();
        let begin = Instant::now();
        let request = || {
            let request = Request::get("http://c/").body(Body::empty()).unwrap();
            pool.request(address, AppVersion::Http2, request)
        };
        let (a, b, c) = tokio::join!(request(), request(), request());
        assert!([a, b, c].iter().all(|r| r.as_ref().is_err_and(|e| e.safe_to_retry)));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}
