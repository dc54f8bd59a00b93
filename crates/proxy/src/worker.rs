//! One worker: what everything that runs on its thread shares.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{Known, ServiceConfig};

use crate::app_pool::AppPool;
use crate::drain::Drain;
use crate::endpoints::Loads;
use crate::link::client::LinkPool;
use crate::metrics::{InFlight, WorkerMetrics};
use crate::outbound::Learned;
use crate::state::{Demand, LocalWorkload, NodeState, StateCell};
use crate::tls::TlsCache;

/// How long a first use of a service waits for the node to learn of it.
const DEMAND_DEADLINE: Duration = Duration::from_secs(2);

/// The context of one worker thread. It never leaves its thread: `Rc` and `RefCell` do.
pub struct Worker {
    pub index: usize,
    /// This node's name, as endpoints carry it.
    pub node: Arc<str>,
    pub state: Arc<StateCell>,
    pub metrics: WorkerMetrics,
    /// Links to other nodes.
    pub links: LinkPool,
    /// HTTP connections to this node's processes, and to plain destinations.
    pub apps: AppPool,
    /// Requests and connections in flight by endpoint, which balancing looks at.
    pub loads: Loads,
    /// Says when this worker is to finish what it has and take nothing new.
    pub drain: Drain,
    /// Every connection taken is spawned on it; a drain waits for it to be empty.
    pub connections: TaskTracker,
    pub(crate) demand: Demand,
    pub(crate) learned: RefCell<Learned>,
    pub(crate) server_tls: TlsCache,
    pub(crate) limits: crate::link::server::HandshakeLimits,
    random: Cell<u64>,
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
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            node: config.node.clone(),
            state: config.state.clone(),
            metrics,
            links: LinkPool::default(),
            apps: AppPool::default(),
            loads: Loads::default(),
            drain,
            connections: TaskTracker::new(),
            demand: config.demand.clone(),
            learned: RefCell::default(),
            server_tls: TlsCache::default(),
            limits: Default::default(),
            random: Cell::new(rand::random::<u64>() | 1),
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
        match self.state.load().snapshot.services.get(name) {
            Some(Known::Present(service)) => return Lookup::Present(service.clone()),
            Some(Known::Absent) => return Lookup::Absent,
            None => {}
        }
        let mut changes = self.state.subscribe();
        if self.demand.try_send(name.clone()).is_err() {
            return Lookup::Unknown;
        }
        let answer = async {
            loop {
                match self.state.load().snapshot.services.get(name) {
                    Some(Known::Present(service)) => return Lookup::Present(service.clone()),
                    Some(Known::Absent) => return Lookup::Absent,
                    None => {}
                }
                if changes.changed().await.is_err() {
                    return Lookup::Unknown;
                }
            }
        };
        tokio::time::timeout(DEMAND_DEADLINE, answer).await.unwrap_or(Lookup::Unknown)
    }

    /// Counts one request or connection to a workload's process until it is dropped.
    pub fn in_flight(&self, workload: &WorkloadName) -> InFlight {
        self.metrics.in_flight(workload)
    }
}
