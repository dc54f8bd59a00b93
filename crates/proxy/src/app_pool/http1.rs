//! HTTP/1.1 connections to applications: taken by a request, and given back when its answer was read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use super::places::{Given, Place, offer};
use super::stream::AppStream;
use super::{ATTEMPTS, Pool, is_idempotent};
use crate::budget::Account;
use crate::crowded;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::http1::client::{Answer, Failed, Http1Connection, Outgoing, Rest, exchange};
use crate::originate::Speaks;

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
/// How long what a process still takes of a request after its response may take, before its connection is
/// not kept.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// The connections to one address that wait for requests.
#[derive(Default)]
pub(super) struct Kept {
    /// The latest used last.
    connections: VecDeque<IdleConnection>,
    /// Whether the application keeps connections, as one that carried a second request proves.
    proven: bool,
}

/// A connection that waits for a request.
pub(super) struct IdleConnection {
    pub connection: Http1Connection<AppStream>,
    opened: Instant,
    since: Instant,
    keep: Duration,
}

impl Kept {
    /// Takes the connection for the next request, which is `account`'s, if that has a share left. One that is
    /// found dead says that the application closes them.
    fn take(&mut self, repeatable: bool, account: &Rc<Account>) -> Option<IdleConnection> {
        while !self.connections.is_empty() {
            let trusted = repeatable || self.proven;
            // The oldest has had the most time to show that it is kept.
            let mut next = if trusted { self.connections.pop_back() } else { self.connections.pop_front() }?;
            let age = next.since.elapsed();
            if !next.connection.io_mut().is_quiet() {
                self.proven &= age >= FRESH;
                continue;
            }
            if !trusted && age < PROOF {
                self.connections.push_front(next);
                return None;
            }
            if age >= if repeatable { next.keep } else { next.keep.min(FRESH) } {
                continue;
            }
            if next.connection.io_mut().place().as_mut().is_some_and(|place| place.take(account)) {
                return Some(next);
            }
            // It is there for others.
            if trusted {
                self.connections.push_back(next);
            } else {
                self.connections.push_front(next);
            }
            return None;
        }
        None
    }

    /// Closes what is dead, or idle for too long; whether anything is left.
    pub fn sweep(&mut self) -> bool {
        self.connections
            .retain_mut(|idle| idle.since.elapsed() < idle.keep && idle.connection.io_mut().is_quiet());
        !self.connections.is_empty()
    }
}

impl Pool {
    pub(super) async fn request_http1(
        self: &Rc<Self>,
        address: SocketAddr,
        head: &Parts,
        mut body: Body,
        caller: &Caller,
    ) -> Result<Response<Body>, UpstreamError> {
        let account = &caller.account;
        let outgoing = Outgoing { head, upgrade: None, caller };
        let repeatable = is_idempotent(&head.method) && body.is_end_stream();
        for attempt in 1.. {
            let kept = if attempt < ATTEMPTS { self.take_idle(address, repeatable, account) } else { None };
            let reused = kept.is_some();
            let (opened, outcome) = match kept {
                Some(IdleConnection { mut connection, opened, .. }) => {
                    connection.io_mut().pay(account);
                    (opened, exchange(connection, outgoing, body).await)
                }
                None => Box::pin(self.next_exchange(address, outgoing, body, repeatable)).await?,
            };
            match outcome {
                Ok(answer) => {
                    if reused {
                        self.set_proven(address, true);
                    }
                    return Ok(self.keep_when_over(address, opened, answer));
                }
                Err(Failed { shed: Some(shed), .. }) => {
                    return Err(UpstreamError { safe_to_retry: false, ..UpstreamError::shed(shed) });
                }
                Err(Failed { why, oversized: true, .. }) => {
                    let message = format!("the answer of {address} cannot be passed on: {why}");
                    return Err(UpstreamError::after_sending(
                        UpstreamErrorKind::AnswerHeadersTooLarge,
                        message,
                    ));
                }
                Err(Failed { why, stalled: true, .. }) => {
                    let message = format!("{address}: {why}");
                    return Err(UpstreamError::after_sending(UpstreamErrorKind::Timeout, message));
                }
                Err(Failed { why, answered: true, .. }) => {
                    let message = format!("the answer of {address} cannot be passed on: {why}");
                    return Err(UpstreamError::bad_answer(message));
                }
                Err(Failed { why, unsent, .. }) => {
                    let safe = unsent.is_some();
                    if reused {
                        self.set_proven(address, false);
                        if !safe {
                            // It died under the request, perhaps because the application was closing it, and those
                            // that have rested for longer with it: another attempt takes a new one.
                            self.close_idle(address);
                        }
                    }
                    body = match unsent {
                        // The connection was dead before anything was sent.
                        Some(unsent) if attempt < ATTEMPTS => unsent,
                        _ => return Err(lost(address, &why, safe)),
                    };
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Sends a request on the next connection that there may be: a new one, or one that is given back.
    async fn next_exchange(
        self: &Rc<Self>,
        address: SocketAddr,
        outgoing: Outgoing<'_>,
        body: Body,
        repeatable: bool,
    ) -> Result<(Instant, Result<Answer<AppStream>, Failed>), UpstreamError> {
        let make_room = || {
            let oldest =
                self.idle.borrow_mut().get_mut(&address).and_then(|kept| kept.connections.pop_front());
            drop(oldest);
        };
        let given = self.places.enter(address, &outgoing.caller.account, make_room).await;
        let place = match given.map_err(UpstreamError::shed)? {
            Given::Place(place) => place,
            Given::Connection(IdleConnection { mut connection, opened, .. }) => {
                // Trusted as one that is taken from those that are idle is.
                let trusted = repeatable || self.idle.borrow().get(&address).is_some_and(|kept| kept.proven);
                match connection.io_mut().place().take_if(|_| !trusted) {
                    Some(place) => place,
                    None => return Ok((opened, exchange(connection, outgoing, body).await)),
                }
            }
        };
        self.first_exchange(address, outgoing, body, place).await
    }

    /// Sends a request on a new connection.
    async fn first_exchange(
        self: &Rc<Self>,
        address: SocketAddr,
        outgoing: Outgoing<'_>,
        body: Body,
        place: Place,
    ) -> Result<(Instant, Result<Answer<AppStream>, Failed>), UpstreamError> {
        let opened = Instant::now();
        let first = async {
            self.make_room_when_asked();
            let cost = self.dialer.cost();
            let seat = outgoing.caller.account.seat(cost).map_err(UpstreamError::shed)?;
            let socket = self.dialer.connect(address, Speaks::Http1).await?;
            let stream = AppStream::new(socket, (seat, cost), place);
            let connection = Http1Connection::new(stream, self.progress.clone());
            Ok((opened, exchange(connection, outgoing, body).await))
        };
        crowded::first_answer(address, first).await
    }

    fn take_idle(
        &self,
        address: SocketAddr,
        repeatable: bool,
        account: &Rc<Account>,
    ) -> Option<IdleConnection> {
        self.idle.borrow_mut().get_mut(&address)?.take(repeatable, account)
    }

    fn close_idle(&self, address: SocketAddr) {
        if let Some(kept) = self.idle.borrow_mut().get_mut(&address) {
            kept.connections.clear();
        }
    }

    /// Notes whether the application keeps its connections.
    fn set_proven(&self, address: SocketAddr, proven: bool) {
        if let Some(kept) = self.idle.borrow_mut().get_mut(&address) {
            kept.proven = proven;
        }
    }

    /// Gives the connection back once the response has been read to its end: at once, if it is there.
    fn keep_when_over(
        self: &Rc<Self>,
        address: SocketAddr,
        opened: Instant,
        answer: Answer<AppStream>,
    ) -> Response<Body> {
        let keep = match answer.keep_seconds {
            Some(seconds) => {
                Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)).min(MAX_IDLE_TIME)
            }
            None => MAX_IDLE_TIME,
        };
        let pool = Rc::downgrade(self);
        answer.into_response(move |rest: Rest<AppStream>| {
            let Some(pool) = pool.upgrade() else { return };
            if keep.is_zero() {
                return;
            }
            match rest.ready() {
                Ok(connection) => {
                    pool.put_idle(
                        address,
                        IdleConnection { connection, opened, since: Instant::now(), keep },
                    );
                }
                Err(rest) => {
                    tokio::task::spawn_local(async move {
                        match timeout(SETTLE_DEADLINE, rest.finish()).await {
                            Ok(Some(connection)) => {
                                let idle = IdleConnection { connection, opened, since: Instant::now(), keep };
                                pool.put_idle(address, idle);
                            }
                            _ => pool.set_proven(address, false),
                        }
                    });
                }
            }
        })
    }

    fn put_idle(self: &Rc<Self>, address: SocketAddr, connection: IdleConnection) {
        if self.crowded.borrow().get(&address).is_some_and(|since| connection.opened < *since) {
            return;
        }
        let Some(connection) = offer(connection) else { return };
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
}

/// A failure on a connection that stood.
fn lost(address: SocketAddr, why: &str, unsent: bool) -> UpstreamError {
    let message = format!("the connection to {address} broke before it answered: {why}");
    if unsent {
        UpstreamError::safe(UpstreamErrorKind::ConnectionLost, message)
    } else {
        UpstreamError::after_sending(UpstreamErrorKind::ConnectionLost, message)
    }
}
