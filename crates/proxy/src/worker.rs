//! One worker: the ways that requests and connections take on its thread.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::Semaphore;

use crate::app_pool::AppPool;
use crate::budget::{Account, Resource, cost};
use crate::config::Config;
use crate::connect::Callee;
use crate::inquiry::{Finding, Inquiry};
use crate::link::client::LinkPool;
use crate::local::Local;
use crate::mirrors::Mirrors;
use crate::origins::Origins;
use crate::pair::PairEnd;
use crate::peer::Peer;
use crate::silent::SilentPeers;
use crate::state::LocalWorkload;
use crate::turn::Rules;

/// Clients that are refused for lack of memory or descriptors, and told so, at a time.
const FAREWELLS: usize = 16;

/// The pools and doors of one thread, and what they share.
pub struct Worker {
    pub local: Rc<Local>,
    /// Links to other nodes.
    pub links: Rc<LinkPool>,
    /// HTTP connections to this node's processes.
    pub apps: AppPool,
    /// HTTP connections to plain destinations.
    pub plain: AppPool,
    /// The same in TLS, to the outside.
    pub(crate) origins: Origins,
    /// Copies of requests that are under way.
    pub(crate) mirrors: Rc<Mirrors>,
    /// Where this proxy listens: no destination of anybody.
    pub(crate) listening: RefCell<Vec<SocketAddr>>,
    /// Peers that came to open a link and have not said a whole ClientHello yet, by address; and those whose
    /// handshake is under way.
    pub(crate) silent: SilentPeers<IpAddr>,
    pub(crate) handshakes: SilentPeers<IpAddr>,
    /// Places for clients that are refused, and told why.
    pub(crate) farewells: Arc<Semaphore>,
    /// Serves the other end of a pair (see [`crate::inside`]).
    pub(crate) read_inside: ReadInside,
    /// Asks somebody else about a request (see [`crate::http::external`]).
    pub(crate) ask_external: AskExternal,
}

/// Reads the requests of a workload that come to a port of one of this node, which an account pays for.
pub(crate) type ReadInside =
    fn(Rc<Worker>, Peer, Arc<LocalWorkload>, u16, PairEnd, Rc<Account>) -> LocalBoxFuture<'static, ()>;

/// Asks about a request that is to enter a workload; an error says, as a part of a sentence about who is asked, why nothing comes of it.
pub(crate) type AskExternal =
    for<'a> fn(&'a Rc<Worker>, Inquiry<'a>) -> LocalBoxFuture<'a, Result<Finding, String>>;

impl Worker {
    pub(crate) fn new(
        local: Rc<Local>,
        config: &Config,
        read_inside: ReadInside,
        ask_external: AskExternal,
    ) -> Rc<Self> {
        let waiting = Rules::new(config.bounds.waiting, local.metrics.registry().clone());
        let pool = |callee| {
            AppPool::new(callee, &config.budget, config.workers, waiting.clone(), local.sweep.clone())
        };
        Rc::new(Self {
            links: LinkPool::new(local.clone(), waiting.clone()),
            apps: pool(Callee::Process),
            plain: pool(local.elsewhere),
            origins: Origins::new(local.clock.clone(), local.elsewhere),
            local,
            mirrors: Rc::default(),
            listening: RefCell::default(),
            silent: SilentPeers::new(handshakes_at_once(config)),
            handshakes: SilentPeers::new(handshakes_at_once(config)),
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
            read_inside,
            ask_external,
        })
    }

    /// One that serves nothing yet, for tests of what it decides.
    #[cfg(test)]
    pub(crate) fn idle(node: &str, state: crate::state::NodeState) -> Rc<Self> {
        Self::logging(node, state, crate::access_log::channel().0)
    }

    /// The same; its access log goes there.
    #[cfg(test)]
    pub(crate) fn logging(
        node: &str,
        state: crate::state::NodeState,
        access_log: tokio::sync::mpsc::Sender<Box<crate::access_log::LogEntry>>,
    ) -> Rc<Self> {
        let config = Config {
            node: node.into(),
            workers: 1,
            bounds: crate::Bounds::default(),
            state: crate::state::StateCell::new(state),
            demand: tokio::sync::mpsc::channel(1).0,
            budget: crate::budget::Budget::unlimited(),
            clock: Arc::default(),
            expired: tokio::sync::mpsc::channel(1).0,
            unknown_keys: tokio::sync::mpsc::channel(1).0,
            marked: false,
        };
        let drain = crate::drain::DrainSignal::new().1;
        let metrics = crate::metrics::WorkerMetrics::new(Arc::default());
        let local = Local::new(&config, metrics, drain, Arc::default(), access_log);
        let nobody = |_: &'_ _, _: Inquiry<'_>| -> LocalBoxFuture<'_, _> {
            Box::pin(std::future::ready(Err(String::new())))
        };
        Self::new(local, &config, |_, _, _, _, _, _| Box::pin(std::future::ready(())), nobody)
    }

    /// Whether a connection to `address` would come back to this proxy.
    pub(crate) fn is_own_listener(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listening.borrow().iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == ip || (own.ip().is_unspecified() && ip.is_loopback()))
        })
    }
}

/// How many handshakes this worker has room for, and silent peers beside them: fewer than the bound where the
/// budget is small, so that the oldest makes way before there is no memory or descriptor for the newest.
fn handshakes_at_once(config: &Config) -> usize {
    let share = |of, each: u64| config.budget.total(of) / 16 / config.workers.max(1) as u64 / each;
    let affordable = share(Resource::Memory, cost::HANDSHAKE as u64).min(share(Resource::Descriptors, 1));
    usize::try_from(affordable)
        .map_or(config.bounds.link_handshakes, |few| few.min(config.bounds.link_handshakes))
}
