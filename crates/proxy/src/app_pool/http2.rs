//! HTTP/2 connections to applications, which requests share.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{ATTEMPTS, Pool, chain};
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::{Body, Event, Gate};
use crate::http::{LocalExecutor, Timer, headers};
use crate::worker::connect;

/// HTTP/2 connections to one address.
const MAX_SHARED: usize = 16;
/// How long an HTTP/2 connection without streams is kept.
const MAX_SHARED_IDLE_TIME: Duration = Duration::from_secs(60);
/// HTTP/2 peers on other hosts are asked whether they live while streams wait for them.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// The HTTP/2 connections to one address.
#[derive(Default)]
pub(super) struct Shared {
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

impl Pool {
    pub(super) async fn request_http2(
        self: &Rc<Self>,
        address: SocketAddr,
        head: &Parts,
        body: Body,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut head = head.clone();
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
}

impl Shared {
    /// Closes what is dead, or idle for too long; whether anything is left.
    pub fn sweep(&self) -> bool {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| {
            let idle = c.streams.get() == 0 && c.used.get().elapsed() >= MAX_SHARED_IDLE_TIME;
            !idle && !c.sender.is_closed()
        });
        !connections.is_empty()
    }

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

/// A failure on a connection that stood.
fn lost(address: SocketAddr, error: &hyper::Error, unsent: bool) -> UpstreamError {
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
