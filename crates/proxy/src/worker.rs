//! One worker: what everything that runs on its thread shares.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio_util::task::TaskTracker;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{Known, ServiceConfig};

use crate::Bounds;
use crate::app_pool::AppPool;
use crate::budget::{Account, Accounts, Payer, Resource, Seat, cost};
use crate::clock::MeshClock;
use crate::detection::Learned;
use crate::drain::Drain;
use crate::endpoints::Loads;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::health::Health;
use crate::http::letters::Letters;
use crate::http::link_headers::LinkHeaders;
use crate::http::retry::Budgets;
use crate::link::client::LinkPool;
use crate::listener::FAREWELLS;
use crate::metrics::{InFlight, WorkerMetrics};
use crate::progress::Sweep;
use crate::reach::{Reach, Sight};
use crate::silent::SilentPeers;
use crate::state::{Demand, Expired, LocalWorkload, NodeState, StateCell};
use crate::tls::{TlsCache, TlsFailure};
use crate::turn::Rules;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long a first use of a service waits for the node to learn of it.
const DEMAND_DEADLINE: Duration = Duration::from_secs(2);

/// The same where the name is most likely one of the world outside: that must not get slow.
const UNCERTAIN_DEADLINE: Duration = Duration::from_millis(500);

/// How long such a name is not waited for again after one had no answer: the server may be away for longer.
const UNCERTAIN_PAUSE: Duration = Duration::from_secs(10);

/// How long a TCP connect may take.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// A process that is alive refuses at once or accepts, unless its backlog is full, and many have room for
/// a handful only: then the kernel tries again after one and three seconds.
const APP_CONNECT_DEADLINE: Duration = Duration::from_secs(4);
/// After how long a silence a peer on another host is asked whether it lives, and how often then.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const WARNINGS_PER_SECOND: u32 = 20;
/// Within a host nothing is lost and nothing queues, so what congestion control costs there is for nothing:
/// this one counts, and sets no timers.
pub(crate) const LOCAL_CONGESTION: &[u8] = b"reno";

/// The context of one worker thread. It never leaves its thread: `Rc` and `RefCell` do.
pub struct Worker {
    pub index: usize,
    /// This node's name, as endpoints carry it.
    pub node: Arc<str>,
    pub state: Arc<StateCell>,
    pub metrics: WorkerMetrics,
    /// What this worker has taken of the process' budget, and for whom.
    pub accounts: Accounts,
    /// Links to other nodes.
    pub links: LinkPool,
    /// HTTP connections to this node's processes, and to plain destinations.
    pub apps: AppPool,
    /// Requests and connections in flight by endpoint, which balancing looks at.
    pub loads: Loads,
    /// Endpoints that did not take connections lately.
    pub health: Health,
    /// Nodes that are heard on links.
    pub sight: Sight,
    /// How much of what it sends to each service may be retries.
    pub budgets: Budgets,
    /// What requests on links carry besides, by endpoint.
    pub(crate) link_headers: LinkHeaders,
    /// Says when this worker is to finish what it has and take nothing new.
    pub drain: Drain,
    /// Every connection taken is spawned on it; a drain waits for it to be empty.
    pub connections: TaskTracker,
    /// Where this proxy listens: no destination of anybody.
    pub(crate) listening: RefCell<Vec<SocketAddr>>,
    pub(crate) demand: Demand,
    /// The time that certificates are held against.
    pub(crate) clock: Arc<MeshClock>,
    pub(crate) expired: Expired,
    /// Whose messages keep their letters on the word of peers.
    pub(crate) letters: Letters,
    /// Finds peers that do not go on with what they began.
    pub(crate) sweep: Rc<Sweep>,
    pub(crate) learned: RefCell<Learned>,
    pub(crate) server_tls: TlsCache,
    /// Peers that came to open a link and have not said a whole ClientHello yet, by address; and those whose
    /// handshake is under way.
    pub(crate) silent: SilentPeers<IpAddr>,
    pub(crate) handshakes: SilentPeers<IpAddr>,
    /// Places for clients that are refused, and told why.
    pub(crate) farewells: Arc<Semaphore>,
    pub(crate) bounds: Bounds,
    /// When the server last had no answer about a name that is most likely the outside's.
    unanswered: Cell<Option<Instant>>,
    random: Cell<u64>,
    /// Warnings that peers can cause: the second they were last counted in, and how many.
    warnings: Cell<(Option<Instant>, u32)>,
}

/// What is known of a service.
pub enum Lookup {
    Present(Arc<ServiceConfig>),
    /// The server knows of no such service.
    Absent,
    /// No answer came in time.
    Unknown,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        config: &crate::Config,
        metrics: WorkerMetrics,
        drain: Drain,
        reach: Arc<Reach>,
    ) -> Rc<Self> {
        let waiting = Rules::new(config.bounds.waiting, metrics.registry().clone());
        let sweep = Sweep::new(config.bounds.deadlines, metrics.registry().clone());
        Rc::new(Self {
            index,
            node: config.node.clone(),
            state: config.state.clone(),
            links: LinkPool::new(config.clock.clone(), waiting.clone()),
            apps: AppPool::new(&config.budget, config.workers, waiting, sweep.clone()),
            sweep,
            metrics,
            accounts: Accounts::new(config.budget.clone()),
            loads: Loads::default(),
            health: Health::default(),
            sight: Sight::new(reach),
            budgets: Budgets::default(),
            link_headers: LinkHeaders::default(),
            drain,
            connections: TaskTracker::new(),
            listening: RefCell::default(),
            demand: config.demand.clone(),
            clock: config.clock.clone(),
            expired: config.expired.clone(),
            letters: Letters::default(),
            learned: RefCell::default(),
            server_tls: TlsCache::new(config.clock.clone()),
            silent: SilentPeers::new(handshakes_at_once(config)),
            handshakes: SilentPeers::new(handshakes_at_once(config)),
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
            bounds: config.bounds.clone(),
            unanswered: Cell::default(),
            random: Cell::new(rand::random::<u64>() | 1),
            warnings: Cell::default(),
        })
    }

    /// The state of this moment. Keep it for one decision, not for the life of a connection.
    pub fn now(&self) -> Arc<NodeState> {
        arc_swap::Guard::into_inner(self.state.load())
    }

    /// A workload of this node as it is now.
    pub fn workload(&self, name: &WorkloadName) -> Option<Arc<LocalWorkload>> {
        self.state.load().workloads.get(name).cloned()
    }

    /// One that serves nothing yet, for tests of what it decides.
    #[cfg(test)]
    pub(crate) fn idle(node: &str, state: crate::state::NodeState) -> Rc<Self> {
        let config = crate::Config {
            node: node.into(),
            workers: 1,
            bounds: crate::Bounds::default(),
            state: StateCell::new(state),
            demand: tokio::sync::mpsc::channel(1).0,
            budget: crate::budget::Budget::unlimited(),
            clock: Arc::default(),
            expired: tokio::sync::mpsc::channel(1).0,
        };
        let drain = crate::drain::DrainSignal::new().1;
        Self::new(0, &config, WorkerMetrics::new(Arc::default()), drain, Arc::default())
    }

    /// A random number, not for secrets (xorshift64*).
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The service of that name; asks the node for it at its first use.
    pub async fn service(&self, name: &ServiceName) -> Lookup {
        match self.known(name) {
            Some(found) => found,
            None => Box::pin(self.learn(name, DEMAND_DEADLINE)).await,
        }
    }

    /// The same for a name that is most likely one of the world outside.
    pub async fn uncertain_service(&self, name: &ServiceName) -> Lookup {
        if let Some(found) = self.known(name) {
            return found;
        }
        let paused = self.unanswered.get().is_some_and(|at| at.elapsed() < UNCERTAIN_PAUSE);
        let wait = if paused { Duration::ZERO } else { UNCERTAIN_DEADLINE };
        let found = Box::pin(self.learn(name, wait)).await;
        if !paused && matches!(found, Lookup::Unknown) {
            self.unanswered.set(Some(Instant::now()));
        }
        found
    }

    /// Asks the node for a service, and waits for the answer.
    async fn learn(&self, name: &ServiceName, wait: Duration) -> Lookup {
        if self.demand.try_send(name.clone()).is_err() {
            return Lookup::Unknown;
        }
        timeout(wait, self.answer(name)).await.unwrap_or(Lookup::Unknown)
    }

    /// Waits for the server's word about a service that was asked for.
    pub(crate) async fn answer(&self, name: &ServiceName) -> Lookup {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(found) = self.known(name) {
                return found;
            }
            if changes.changed().await.is_err() {
                return Lookup::Unknown;
            }
        }
    }

    /// What the node has heard of a service; `None` where it has not.
    pub(crate) fn known(&self, name: &ServiceName) -> Option<Lookup> {
        match self.state.load().snapshot.services.get(name)? {
            Known::Present(service) => Some(Lookup::Present(service.clone())),
            Known::Absent => Some(Lookup::Absent),
        }
    }

    /// Connects to port `port` of a workload of this node, for `account`. What is returned beside the
    /// connection counts it until it is dropped.
    pub async fn connect_app(
        &self,
        workload: &LocalWorkload,
        port: u16,
        account: &Rc<Account>,
    ) -> Result<(TcpStream, Counted), UpstreamError> {
        crate::inbound::admit(workload, port)?;
        let in_flight = self.in_flight(&workload.name);
        let address = SocketAddr::new(workload.app_address, port);
        let (tcp, seat) = connect_for(account, address).await?;
        Ok((tcp, Counted { _in_flight: Some(in_flight), _seat: Some(seat) }))
    }

    /// What this worker has taken for a workload of this node.
    pub fn account(&self, workload: &WorkloadName) -> Rc<Account> {
        self.accounts.of(&Payer::Workload(workload.clone()))
    }

    /// Has a certificate renewed that a peer refused because of its age.
    pub(crate) fn note_expired(&self, failure: &TlsFailure) {
        if let Some(identity) = &failure.expired {
            // Full: it has been told of enough.
            let _ = self.expired.try_send(identity.clone());
        }
    }

    /// Whether a warning that a peer can cause may be logged: a flood of them fills no disk.
    pub(crate) fn may_warn(&self) -> bool {
        let now = Instant::now();
        let (since, count) = self.warnings.get();
        match since {
            Some(since) if now - since < Duration::from_secs(1) => {
                self.warnings.set((Some(since), count.saturating_add(1)));
                count < WARNINGS_PER_SECOND
            }
            _ => {
                self.warnings.set((Some(now), 1));
                true
            }
        }
    }

    /// Whether a connection to `address` would come back to this proxy.
    pub(crate) fn is_own_listener(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listening.borrow().iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == ip || (own.ip().is_unspecified() && ip.is_loopback()))
        })
    }

    /// Counts one request or connection to a workload's process until it is dropped.
    pub fn in_flight(&self, workload: &WorkloadName) -> InFlight {
        self.metrics.in_flight(workload)
    }
}

/// How many handshakes this worker has room for, and silent peers beside them: fewer than the bound where the
/// budget is small, so that the oldest makes way before there is no memory or descriptor for the newest.
fn handshakes_at_once(config: &crate::Config) -> usize {
    let share = |of, each: u64| config.budget.total(of) / 16 / config.workers.max(1) as u64 / each;
    let affordable = share(Resource::Memory, cost::HANDSHAKE as u64).min(share(Resource::Descriptors, 1));
    usize::try_from(affordable)
        .map_or(config.bounds.link_handshakes, |few| few.min(config.bounds.link_handshakes))
}

/// What a connection counts as, until it is dropped: in flight to a process, and in the budget.
#[derive(Default)]
pub struct Counted {
    _in_flight: Option<InFlight>,
    _seat: Option<Seat>,
}

impl From<Seat> for Counted {
    fn from(seat: Seat) -> Self {
        Self { _in_flight: None, _seat: Some(seat) }
    }
}

/// Opens a TCP connection in plain for somebody who has a share left.
pub async fn connect_for(
    account: &Rc<Account>,
    address: SocketAddr,
) -> Result<(TcpStream, Seat), UpstreamError> {
    let seat = account.seat(cost::APPLICATION).map_err(UpstreamError::shed)?;
    Ok((connect(address).await?, seat))
}

/// Opens a TCP connection in plain: within a second, or a little more on this host.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let local = address.ip().to_canonical().is_loopback();
    connect_within(address, if local { APP_CONNECT_DEADLINE } else { CONNECT_DEADLINE }).await
}

/// Opens a TCP connection in plain within `deadline`.
pub(crate) async fn connect_within(
    address: SocketAddr,
    deadline: Duration,
) -> Result<TcpStream, UpstreamError> {
    let local = address.ip().to_canonical().is_loopback();
    let why = match timeout(deadline, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => {
            prepare(&tcp, local);
            return Ok(tcp);
        }
        Ok(Err(error)) => format!("cannot connect to {address}: {error}"),
        Err(_) => format!("{address} did not accept a connection in {deadline:?}"),
    };
    Err(UpstreamError::safe(UpstreamErrorKind::Connect, why))
}

/// Sets a connection's options. Peers on other hosts may be gone without a word, and the one who would
/// ask by keep-alive is on the other side of this proxy.
pub(crate) fn prepare(tcp: &TcpStream, local: bool) {
    let _ = tcp.set_nodelay(true);
    if local {
        let _ = SockRef::from(tcp).set_tcp_congestion(LOCAL_CONGESTION);
    } else {
        let ask = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_INTERVAL);
        let _ = SockRef::from(tcp).set_tcp_keepalive(&ask);
    }
}
