//! HTTP/2 connections to applications, which requests share.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::Response;
use http::request::Parts;
use tokio::time::Instant;

use super::Pool;
use crate::budget::{Account, Seat, Shed, cost};
use crate::departing::{Departing, Ending, Exit};
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::request::request;
use crate::http::{FIELD_LIMIT, HEADER_LIMIT};
use crate::http2::{Connection, Ended, Handle, Limits, Line, Plain, RequestFields, WhenReset, until_dead};
use crate::originate::{AppSocket, Speaks};
use crate::progress::Side;
use crate::sweep::Sweep;
use crate::turn::Turn;

/// What an application may send us on one connection.
const LIMITS: Limits = Limits {
    stream_window: 1 << 20,
    connection_window: 8 << 20,
    frame: 64 << 10,
    header_list: HEADER_LIMIT as u32,
    fields: FIELD_LIMIT as u32,
    streams: 0,
    // Netty sends those away who reset 200 streams in half a minute.
    resets: 100,
    resets_per_second: 3,
    when_reset: WhenReset::Leave,
    extended_connect: false,
    names: &[],
};
/// HTTP/2 connections to one address.
const MAX_SHARED: usize = 16;
/// And beside them, those that take no new streams and have some left.
const MAX_DEPARTING: usize = 64;
/// How long an HTTP/2 connection without streams is kept.
const MAX_SHARED_IDLE_TIME: Duration = Duration::from_secs(60);
/// HTTP/2 peers on other hosts are asked whether they live; gRPC's servers send those away who ask more often
/// than every five minutes.
const PING_INTERVAL: Duration = Duration::from_secs(310);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// How long an application may take to close a connection that we have ended.
const LINGER: Duration = Duration::from_secs(1);

/// How long nothing is dialed after that failed, where connections are open.
const DIAL_PAUSE: Duration = Duration::from_secs(1);

/// The HTTP/2 connections to one address.
#[derive(Default)]
pub(super) struct SharedConnections {
    connections: RefCell<Vec<SharedConnection>>,
    departing: Departing,
    /// Who waits for a stream on any of them.
    line: Rc<Line>,
    dialing: Cell<bool>,
    /// How many dials have failed for all that waited, and the last failure.
    failures: Cell<u64>,
    failure: RefCell<Option<UpstreamError>>,
    /// Since when nothing more can be opened beside what is open.
    refused: Cell<Option<Instant>>,
}

/// A connection that is given out. What runs it holds its seat.
struct SharedConnection {
    handle: Handle,
    used: Cell<Instant>,
    exit: Exit,
}

impl Pool {
    pub(super) async fn request_http2(
        self: &Rc<Self>,
        address: SocketAddr,
        head: &Parts,
        body: Body,
        caller: &Caller,
    ) -> Result<Response<Body>, UpstreamError> {
        let Caller { account, asker } = caller;
        let place = async |turn: &mut Turn| {
            let connection = self.place(address, account, turn).await?;
            Ok(connection.paid_by(account))
        };
        request(&self.rules, &address, place, &RequestFields::new(head, &[]), body, asker).await
    }

    /// A connection with room for a stream, to be opened at once.
    async fn place(
        self: &Rc<Self>,
        address: SocketAddr,
        account: &Rc<Account>,
        turn: &mut Turn,
    ) -> Result<Handle, UpstreamError> {
        let shared = self.shared.borrow_mut().entry(address).or_default().clone();
        if turn.is_now(&shared.line)
            && let Some(found) = shared.with_room()
        {
            return Ok(found);
        }
        Box::pin(self.wait_for_place(address, account, &shared, turn)).await
    }

    async fn wait_for_place(
        self: &Rc<Self>,
        address: SocketAddr,
        account: &Rc<Account>,
        shared: &Rc<SharedConnections>,
        turn: &mut Turn,
    ) -> Result<Handle, UpstreamError> {
        // Opens what is missing for those who stand in line, at the expense of the one who asks first.
        let dial = || {
            if shared.wants_another() {
                let seat = account.seat(self.dialer.cost() + cost::HTTP2)?;
                tokio::task::spawn_local(self.clone().dial(address, Dialing::begin(shared), seat));
            }
            Ok(())
        };
        let failures = shared.failures.get();
        let look = || {
            if shared.failures.get() != failures {
                return shared.failure.borrow().clone().map(Err);
            }
            let Some(found) = shared.with_room() else {
                let shed: Shed = dial().err().filter(|_| shared.connections.borrow().is_empty())?;
                // The next one may have a share left.
                shared.line.call();
                return Some(Err(UpstreamError::shed(shed)));
            };
            if !shared.line.is_empty() {
                match shared.room() {
                    ..=1 => drop(dial()),
                    room => shared.line.call_for(room - 1),
                }
            }
            Some(Ok(found))
        };
        // Others may be before this one, so that it does not look at once.
        if !shared.line.is_free() {
            let _ = dial();
        }
        turn.wait(&self.rules, &shared.line, account, &address, look).await
    }

    /// Opens one more connection. It goes on if all who wait for it give up.
    async fn dial(self: Rc<Self>, address: SocketAddr, dialing: Dialing, seat: Seat) {
        let shared = dialing.0.clone();
        let connected = self.dialer.connect(address, Speaks::Http2).await;
        drop(dialing);
        match connected {
            Ok(stream) => {
                let mut connection = Connection::client(Plain(stream), LIMITS, LINGER);
                if let Some(account) = seat.account() {
                    connection = connection.charged(account.clone());
                }
                let handle = connection.handle();
                handle.serve(&shared.line);
                let (exit, ending) = Exit::new();
                let driven =
                    drive(address, connection, Rc::downgrade(&shared), self.progress.clone(), seat, ending);
                tokio::task::spawn_local(driven);
                shared.refused.set(None);
                let kept = SharedConnection { handle, used: Cell::new(Instant::now()), exit };
                shared.connections.borrow_mut().push(kept);
                self.sweep();
                shared.line.call();
            }
            Err(error) => shared.fail(error),
        }
    }
}

/// Somebody opens a connection, until it is dropped.
struct Dialing(Rc<SharedConnections>);

impl Dialing {
    fn begin(shared: &Rc<SharedConnections>) -> Self {
        shared.dialing.set(true);
        Self(shared.clone())
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.dialing.set(false);
    }
}

async fn drive(
    address: SocketAddr,
    mut connection: Connection<Plain<AppSocket>>,
    shared: Weak<SharedConnections>,
    sweep: Rc<Sweep>,
    // It is a descriptor until it is closed, whoever still uses it.
    _seat: Seat,
    mut ending: Ending,
) {
    let (handle, received) = (connection.handle(), connection.received());
    let kept = handle.clone();
    let _watched = sweep.watch(&handle, Side::Application);
    let dead = async {
        // A process of this host that hangs, in a debugger perhaps, is no reason to break its connections.
        if address.ip().is_loopback() {
            std::future::pending::<()>().await;
        }
        until_dead(handle, received, PING_INTERVAL, PING_DEADLINE, || {}).await;
    };
    tokio::select! {
        ended = poll_fn(|cx| connection.poll(cx, |_, _, _| {})) => {
            if !kept.is_settled() && let Some(shared) = shared.upgrade() {
                // It was of no use to anybody, and the next would be none either.
                let message = format!("{address} closed the connection before it said anything: {ended}");
                shared.fail(UpstreamError::safe(UpstreamErrorKind::ConnectionLost, message));
            }
            if !matches!(ended, Ended::Closed) {
                tracing::debug!(%address, "connection to an application ended: {ended}");
            }
        }
        () = dead => tracing::debug!(%address, "an application does not answer pings"),
        () = ending.told() => {
            tracing::debug!(%address, "an application goes away too often: the oldest connection is ended");
        }
    }
}

impl SharedConnections {
    /// Closes what is dead, or idle for too long; whether anything is left.
    pub fn sweep(&self) -> bool {
        self.part(|c| {
            c.handle.shrink();
            if c.handle.streams() > 0 {
                c.used.set(Instant::now());
            }
            c.handle.is_open() && c.used.get().elapsed() < MAX_SHARED_IDLE_TIME
        });
        !self.connections.borrow().is_empty() || self.departing.len() > 0
    }

    /// Gives out no longer what is not `fit`: it ends with its last stream.
    fn part(&self, fit: impl Fn(&SharedConnection) -> bool) {
        for connection in self.connections.borrow_mut().extract_if(.., |connection| !fit(connection)) {
            connection.handle.go_away();
            self.departing.add(connection.exit, MAX_DEPARTING);
        }
    }

    fn with_room(&self) -> Option<Handle> {
        let connections = self.connections.borrow();
        let free = connections.iter().filter(|c| c.handle.has_room());
        let connection = free.min_by_key(|c| c.handle.open_streams())?;
        connection.used.set(Instant::now());
        Some(connection.handle.clone())
    }

    /// How many streams can be opened now.
    fn room(&self) -> usize {
        self.connections.borrow().iter().map(|c| c.handle.room()).fold(0, usize::saturating_add)
    }

    /// Whether one more connection should be opened for those that wait.
    fn wants_another(&self) -> bool {
        self.part(|c| c.handle.is_open());
        let connections = self.connections.borrow();
        let refused = self.refused.get().is_some_and(|since| since.elapsed() < DIAL_PAUSE);
        !self.dialing.get()
            && connections.len() < MAX_SHARED
            && (!refused || connections.is_empty())
            // What one allows that has just been opened is not known yet.
            && connections.iter().all(|c| c.handle.is_settled() && !c.handle.has_room())
    }

    /// No further connection could be opened. Who waits goes on to do so where some are open.
    fn fail(&self, error: UpstreamError) {
        self.refused.set(Some(Instant::now()));
        if self.connections.borrow().iter().any(|c| c.handle.is_open()) {
            return;
        }
        self.failures.set(self.failures.get() + 1);
        *self.failure.borrow_mut() = Some(error);
        self.line.call_all();
    }
}
