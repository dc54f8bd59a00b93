//! HTTP connections of one worker to processes of this node, or to plain destinations: a pool each.
//!
//! HTTP/1.1 connections carry one request at a time and wait idle for the next, the latest used first.
//! HTTP/2 connections are shared; another one is opened when all have as many streams as the peer
//! allows. An idle connection may die at any moment: it is checked before it is used, a request that it
//! did not take goes to another, and one that it lost is repeated on a fresh one where that is safe.

mod http1;
mod http2;
mod places;
mod stream;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tulle_model::snapshot::FastMap;

use self::http1::Kept;
use self::http2::SharedConnections;
pub use self::places::Place;
use self::places::Places;
use crate::budget::{Budget, Resource, cost};
use crate::connect::{Callee, connect};
use crate::crowded;
use crate::error::UpstreamError;
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::headers::AppVersion;
use crate::originate::{AppSocket, Speaks, TlsDialer};
use crate::sweep::Sweep;
use crate::turn::Rules;

/// Addresses whose connections are not kept.
const MAX_CROWDED: usize = 1024;
/// HTTP/1 connections to one address from all workers, and at least from each.
const MAX_CONNECTIONS: u64 = 16 << 10;
const MIN_CONNECTIONS: usize = 128;
/// Attempts on connections that turn out to be dead.
const ATTEMPTS: usize = 4;

pub struct AppPool(Rc<Pool>);

/// Opens the connections of a pool.
enum Dialer {
    Plain(Callee),
    Tls(Rc<TlsDialer>),
}

struct Pool {
    dialer: Dialer,
    places: Rc<Places>,
    rules: Rules,
    progress: Rc<Sweep>,
    idle: RefCell<FastMap<SocketAddr, Kept>>,
    shared: RefCell<FastMap<SocketAddr, Rc<SharedConnections>>>,
    sweeping: Cell<bool>,
    /// Connections to these addresses are not kept if they were opened before.
    crowded: RefCell<FastMap<SocketAddr, Instant>>,
    making_room: Cell<bool>,
}

/// Methods whose repetition does no more than one request (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

impl AppPool {
    /// Of one of `workers`, which share what `budget` has of descriptors. All its connections are to such callees.
    pub(crate) fn new(
        callee: Callee,
        budget: &Budget,
        workers: usize,
        rules: Rules,
        progress: Rc<Sweep>,
    ) -> Self {
        let share = budget.total(Resource::Descriptors) / 4;
        let most = MAX_CONNECTIONS.min(share) as usize / workers.max(1);
        Self(Rc::new(Pool {
            dialer: Dialer::Plain(callee),
            places: Places::new(most.max(MIN_CONNECTIONS), rules.waiting()),
            rules,
            progress,
            idle: RefCell::default(),
            shared: RefCell::default(),
            sweeping: Cell::default(),
            crowded: RefCell::default(),
            making_room: Cell::default(),
        }))
    }

    /// One with the same bounds, whose connections are in that TLS.
    pub(crate) fn in_tls(&self, dialer: Rc<TlsDialer>) -> Self {
        let Pool { places, rules, progress, .. } = &*self.0;
        Self(Rc::new(Pool {
            dialer: Dialer::Tls(dialer),
            places: places.of_another(),
            rules: rules.clone(),
            progress: progress.clone(),
            idle: RefCell::default(),
            shared: RefCell::default(),
            sweeping: Cell::default(),
            crowded: RefCell::default(),
            making_room: Cell::default(),
        }))
    }

    /// Sends a request of the inner form (see
    /// [`normalize_request`](crate::http::headers::normalize_request)) to `address`. The response is as the
    /// peer sent it. `caller` is who sends the request.
    pub(crate) async fn request(
        &self,
        address: SocketAddr,
        version: AppVersion,
        head: &Parts,
        body: Body,
        caller: &Caller,
    ) -> Result<Response<Body>, UpstreamError> {
        match version {
            AppVersion::Http1 => self.0.request_http1(address, head, body, caller).await,
            AppVersion::Http2 => Box::pin(self.0.request_http2(address, head, body, caller)).await,
        }
    }
}

impl Dialer {
    async fn connect(&self, address: SocketAddr, speaks: Speaks) -> Result<AppSocket, UpstreamError> {
        match self {
            Self::Plain(callee) => connect(*callee, address).await.map(AppSocket::Plain),
            Self::Tls(dialer) => Box::pin(dialer.connect(address, speaks)).await.map(AppSocket::Tls),
        }
    }

    /// What a connection costs.
    fn cost(&self) -> usize {
        match self {
            Self::Plain(_) => cost::APPLICATION,
            Self::Tls(_) => cost::APPLICATION + cost::TLS,
        }
    }
}

impl Pool {
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
        idle.retain(|_, kept| kept.sweep());
        let mut shared = self.shared.borrow_mut();
        shared.retain(|_, shared| shared.sweep() || Rc::strong_count(shared) > 1);
        idle.is_empty() && shared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Accounts, Payer};
    use crate::http::asker::Asker;

    /// As many as ask at once learn at once that an address does not answer.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_failed_dial_is_shared() {
        // A full backlog: the kernel drops what comes beyond.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();

        let pool = AppPool::new(Callee::Process, &Budget::unlimited(), 1, Rules::default(), Rc::default());
        let begin = Instant::now();
        let (head, ()) = http::Request::get("http://c/").body(()).unwrap().into_parts();
        let account = Accounts::new(Budget::unlimited()).of(&Payer::Handshakes);
        let caller = Caller { account, asker: Asker::Nobody };
        let request = || pool.request(address, AppVersion::Http2, &head, Body::empty(), &caller);
        let (a, b, c) = tokio::join!(request(), request(), request());
        assert!([a, b, c].iter().all(|r| r.as_ref().is_err_and(|e| e.safe_to_retry)));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}
