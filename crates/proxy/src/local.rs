//! What everything that runs on one worker's thread shares, whatever it does there.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{Known, ServiceConfig};

use crate::access_log::LogEntry;
use crate::budget::{Account, Accounts};
use crate::clock::MeshClock;
use crate::config::{Bounds, Config};
use crate::connect::Callee;
use crate::destination::Standings;
use crate::drain::Drain;
use crate::inbound::summaries::Summaries;
use crate::inbound::tokens::Tokens;
use crate::inbound::visits::Visits;
use crate::metrics::WorkerMetrics;
use crate::revocable::Revocable;
use crate::sight::{Heard, Sight};
use crate::state::{Demand, Expired, LocalWorkload, NodeState, StateCell};
use crate::sweep::Sweep;
use crate::tls::TlsFailure;
use crate::view::View;

/// How long a first use of a service waits for the node to learn of it.
const DEMAND_DEADLINE: Duration = Duration::from_secs(2);

/// The same where the name is most likely one of the world outside: that must not get slow.
const UNCERTAIN_DEADLINE: Duration = Duration::from_millis(500);

/// How long such a name is not waited for again after one had no answer: the server may be away for longer.
const UNCERTAIN_PAUSE: Duration = Duration::from_secs(10);

const WARNINGS_PER_SECOND: u32 = 20;

/// It never leaves its thread: `Rc` and `Cell` do not.
pub struct Local {
    /// This node's name, as endpoints carry it.
    pub node: Arc<str>,
    pub state: Arc<StateCell>,
    pub metrics: WorkerMetrics,
    /// What this worker has taken of the process' budget, and for whom.
    pub accounts: Accounts,
    /// What has entered workloads of this node.
    pub visits: Rc<Visits>,
    /// What was asked of them.
    pub(crate) summaries: Rc<Summaries>,
    /// The state of now, as far as this worker has looked.
    view: RefCell<Rc<View>>,
    /// How the endpoints do that this worker sends to.
    pub(crate) standings: Rc<Standings>,
    /// When this worker began: what its destinations count time from.
    started: Instant,
    /// Nodes that are heard on links.
    pub sight: Sight,
    /// Links whose peers may be revoked.
    pub(crate) revocable: Revocable,
    /// Says when this worker is to finish what it has and take nothing new.
    pub drain: Drain,
    /// Every connection taken is spawned on it; a drain waits for it to be empty.
    pub connections: TaskTracker,
    access_log: mpsc::Sender<Box<LogEntry>>,
    pub(crate) demand: Demand,
    /// The time that certificates are held against.
    pub(crate) clock: Arc<MeshClock>,
    pub(crate) expired: Expired,
    pub(crate) tokens: Tokens,
    /// Finds peers that do not go on with what they began.
    pub(crate) sweep: Rc<Sweep>,
    pub(crate) bounds: Bounds,
    /// Who is not on this node.
    pub(crate) elsewhere: Callee,
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

impl Local {
    pub(crate) fn new(
        config: &Config,
        metrics: WorkerMetrics,
        drain: Drain,
        heard: Arc<Heard>,
        access_log: mpsc::Sender<Box<LogEntry>>,
    ) -> Rc<Self> {
        let standings = Rc::<Standings>::default();
        let sweep = Sweep::new(config.bounds.deadlines, metrics.registry().clone());
        Rc::new(Self {
            node: config.node.clone(),
            state: config.state.clone(),
            metrics,
            accounts: Accounts::new(config.budget.clone()),
            visits: Rc::default(),
            summaries: Rc::default(),
            view: RefCell::new(Rc::new(View::of(&config.state, standings.clone()))),
            standings,
            started: Instant::now(),
            sight: Sight::new(heard),
            revocable: Revocable::default(),
            drain,
            connections: TaskTracker::new(),
            access_log,
            demand: config.demand.clone(),
            clock: config.clock.clone(),
            expired: config.expired.clone(),
            tokens: Tokens::new(config.unknown_keys.clone()),
            sweep,
            bounds: config.bounds.clone(),
            elsewhere: Callee::Anybody { marked: config.marked },
            unanswered: Cell::default(),
            random: Cell::new(rand::random::<u64>() | 1),
            warnings: Cell::default(),
        })
    }

    /// The state of this moment. Keep it for one decision, not for the life of a connection.
    pub fn view(&self) -> Rc<View> {
        let mut view = self.view.borrow_mut();
        if let Some(renewed) = view.renewed(&self.state) {
            *view = Rc::new(renewed);
        }
        view.clone()
    }

    /// The state itself, for what takes a while.
    pub fn state_now(&self) -> Arc<NodeState> {
        self.view().state().clone()
    }

    /// How long this worker has been there at that time.
    pub fn since_start(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.started)
    }

    /// A workload of this node as it is now.
    pub fn workload(&self, name: &WorkloadName) -> Option<Arc<LocalWorkload>> {
        self.view().workloads.get(name).cloned()
    }

    /// Has a line of the access log written.
    pub(crate) fn log(&self, entry: Box<LogEntry>) {
        if self.access_log.try_send(entry).is_err() {
            self.metrics.counts().access_log_dropped.add(1);
        }
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
        match self.view().snapshot.services.get(name)? {
            Known::Present(service) => Some(Lookup::Present(service.clone())),
            Known::Absent => Some(Lookup::Absent),
        }
    }

    /// What this worker has taken for a workload of this node.
    pub fn account(&self, source: &LocalWorkload) -> Rc<Account> {
        self.accounts.of(&source.payer())
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
}

#[cfg(test)]
mod tests {
    use crate::access_log::{Asked, Initiator, LogEntry, Outline, WAITING};
    use crate::metrics::Protocol;
    use crate::state::NodeState;
    use crate::worker::Worker;

    /// Nobody reads them here.
    #[tokio::test(flavor = "local")]
    async fn lines_that_have_no_room_are_counted_and_waited_for_by_nobody() {
        let (lines, mut waiting) = crate::access_log::channel();
        let worker = Worker::logging("n1", NodeState::default(), lines);
        let line = || {
            let source = tulle_model::name::WorkloadName::new("default", "a");
            Box::new(LogEntry::new(
                Initiator::Workload(source),
                Protocol::Http,
                1,
                Asked::Part(Outline::default()),
            ))
        };
        for _ in 0..WAITING + 3 {
            worker.local.log(line());
        }
        assert_eq!(worker.local.metrics.counts().access_log_dropped.get(), 3);
        assert!(waiting.recv().await.is_some());
        worker.local.log(line());
        assert_eq!(worker.local.metrics.counts().access_log_dropped.get(), 3);
    }
}
