//! HTTP/2 connections to applications, which requests share.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{ATTEMPTS, Pool};
use crate::budget::{Account, Seat, cost};
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::HEADER_LIMIT;
use crate::http::body::{Body, Gate};
use crate::http::request::{Failed, request};
use crate::http2::{Connection, Ended, Handle, Limits, Plain, until_dead};
use crate::worker::connect_for;

/// What an application may send us on one connection.
const LIMITS: Limits = Limits {
    stream_window: 1 << 20,
    connection_window: 8 << 20,
    frame: 64 << 10,
    header_list: HEADER_LIMIT as u32,
    streams: 0,
    resets: 0,
    extended_connect: false,
};
/// HTTP/2 connections to one address.
const MAX_SHARED: usize = 16;
/// How long an HTTP/2 connection without streams is kept.
const MAX_SHARED_IDLE_TIME: Duration = Duration::from_secs(60);
/// HTTP/2 peers on other hosts are asked whether they live; gRPC's servers send those away who ask more often
/// than every five minutes.
const PING_INTERVAL: Duration = Duration::from_secs(310);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// How long an application may take to close a connection that we have ended.
const LINGER: Duration = Duration::from_secs(1);

/// The HTTP/2 connections to one address.
#[derive(Default)]
pub(super) struct Shared {
    connections: RefCell<Vec<SharedConnection>>,
    /// Held by the one who opens the next connection: the others wait for it, and share its failure.
    dialing: tokio::sync::Mutex<Option<(Instant, UpstreamError)>>,
}

struct SharedConnection {
    handle: Handle,
    used: Cell<Instant>,
    _seat: Seat,
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        self.handle.go_away();
    }
}

impl Pool {
    pub(super) async fn request_http2(
        self: &Rc<Self>,
        address: SocketAddr,
        head: &Parts,
        body: Body,
        account: &Rc<Account>,
    ) -> Result<Response<Body>, UpstreamError> {
        if let Some(gate) = head.extensions.get::<Gate>() {
            // A peer of HTTP/2 has flow control to say what it wants.
            gate.open();
        }
        let mut body = Some(body);
        for attempt in 1.. {
            let handle = self.shared_connection(address, account).await?;
            match request(&handle, head, &[], &mut body).await {
                Ok(response) => return Ok(response),
                // It was not sent, and the body is still there.
                Err(_) if attempt < ATTEMPTS && body.is_some() => {}
                Err(Failed { error, sent }) => {
                    let message = format!("the connection to {address} broke before it answered: {error}");
                    return Err(UpstreamError {
                        kind: UpstreamErrorKind::ConnectionLost,
                        safe_to_retry: !sent || error.is_unprocessed(),
                        message,
                    });
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// A connection with room for a stream, to be opened at once; dials if there is none.
    async fn shared_connection(
        self: &Rc<Self>,
        address: SocketAddr,
        account: &Rc<Account>,
    ) -> Result<Handle, UpstreamError> {
        let shared = self.shared.borrow_mut().entry(address).or_default().clone();
        if let Some(found) = shared.with_room() {
            return Ok(found);
        }
        let asked = Instant::now();
        let mut dialing = shared.dialing.lock().await;
        if let Some(found) = shared.with_room() {
            return Ok(found);
        }
        // One after the other, they would wait the longer the more they are.
        if let Some((_, error)) = dialing.as_ref().filter(|(failed, _)| *failed >= asked) {
            return Err(error.clone());
        }
        let busiest_first = shared.least_busy().filter(|_| shared.connections.borrow().len() >= MAX_SHARED);
        if let Some(full) = busiest_first {
            drop(dialing);
            // One that ends meanwhile fails the request before it is sent.
            let _ = full.ready().await;
            return Ok(full);
        }
        let (stream, mut seat) = match connect_for(account, address).await {
            Ok(opened) => opened,
            // The next one may have a share left.
            Err(error) if matches!(error.kind, UpstreamErrorKind::Shed(_)) => return Err(error),
            Err(error) => {
                *dialing = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        seat.resize(cost::APPLICATION + cost::HTTP2).map_err(UpstreamError::shed)?;
        let connection = Connection::client(Plain(stream), LIMITS, LINGER);
        let handle = connection.handle();
        tokio::task::spawn_local(drive(address, connection));
        let kept = SharedConnection { handle: handle.clone(), used: Cell::new(Instant::now()), _seat: seat };
        shared.connections.borrow_mut().push(kept);
        self.sweep();
        Ok(handle)
    }
}

async fn drive(address: SocketAddr, mut connection: Connection<Plain<TcpStream>>) {
    let (handle, received) = (connection.handle(), connection.received());
    let dead = async {
        // A process of this host that hangs, in a debugger perhaps, is no reason to break its connections.
        if address.ip().is_loopback() {
            std::future::pending::<()>().await;
        }
        until_dead(handle, received, PING_INTERVAL, PING_DEADLINE, || {}).await;
    };
    tokio::select! {
        ended = poll_fn(|cx| connection.poll(cx, |_, _, _| {})) => {
            if !matches!(ended, Ended::Closed) {
                tracing::debug!(%address, "connection to an application ended: {ended}");
            }
        }
        () = dead => tracing::debug!(%address, "an application does not answer pings"),
    }
}

impl Shared {
    /// Closes what is dead, or idle for too long; whether anything is left.
    pub fn sweep(&self) -> bool {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| {
            c.handle.shrink();
            if c.handle.streams() > 0 {
                c.used.set(Instant::now());
            }
            c.handle.is_open() && c.used.get().elapsed() < MAX_SHARED_IDLE_TIME
        });
        !connections.is_empty()
    }

    fn with_room(&self) -> Option<Handle> {
        let connections = self.connections.borrow();
        let free = connections.iter().filter(|c| c.handle.has_room());
        let connection = free.min_by_key(|c| c.handle.streams())?;
        connection.used.set(Instant::now());
        Some(connection.handle.clone())
    }

    fn least_busy(&self) -> Option<Handle> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| c.handle.is_open());
        connections.iter().min_by_key(|c| c.handle.streams()).map(|c| c.handle.clone())
    }
}
