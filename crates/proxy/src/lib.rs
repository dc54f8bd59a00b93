//! The data plane. It is handed a [`state::NodeState`] (snapshot, workloads, certificates) and
//! listeners to serve; it knows no server, no store and no file.
//!
//! Every worker is a thread with a current-thread runtime, listeners (`SO_REUSEPORT`), connection
//! pools and counters of its own: a request never leaves the worker that accepted it.

mod access_log;
mod app_pool;
mod attempts;
mod boxed;
pub mod budget;
pub mod certificate;
mod client_hello;
pub mod clock;
mod config;
mod connect;
mod crowded;
mod departing;
pub mod descriptors;
mod destination;
mod detection;
mod drain;
mod endpoints;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod http2;
mod in_process;
mod inbound;
mod inquiry;
mod inside;
mod link;
mod listener;
mod local;
mod mesh_headers;
pub mod metrics;
mod mirrors;
mod opaque;
mod originate;
mod origins;
mod outbound;
mod outside;
mod pace;
mod pair;
mod peer;
mod pieces;
mod plain_inbound;
mod progress;
mod reach;
mod reason;
mod repeatable;
mod reset;
pub mod resolved;
mod revocable;
mod security;
mod sight;
pub mod silent;
mod sockets;
pub mod state;
mod sweep;
mod tcp;
mod thread;
mod tls;
mod token_seal;
mod turn;
mod uri;
mod view;
mod worker;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::summary::Summary;

use crate::budget::Budget;
use crate::http::own_calls::WaitingCall;
use crate::metrics::{Edge, Protocol, Rejection, WorkerMetrics, WorkerRegistry};
use crate::reason::Verdict;
use crate::sight::Heard;
use crate::state::{LocalWorkload, NodeState};
use crate::thread::Command;

pub use crate::config::{Bounds, Capture, Config};
pub use crate::http::own_calls::{OwnCall, OwnCallError};
pub use crate::in_process::{Arrived, FlowStep, InProcess};
pub use crate::inbound::visits::{Upgrade, Visit};
pub use crate::mesh_headers::{REASON, RUN};
pub use crate::metrics::EdgeCounts;
pub use crate::peer::Peer;
pub use crate::progress::Deadlines;
pub use crate::security::Security;
pub use crate::sockets::{Purpose, Sockets};
pub use crate::turn::Waiting;

/// How long the last lines of the access log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running proxy. Every call may come from any thread. Dropping it ends all connections at once.
pub struct Proxy {
    workers: Vec<mpsc::Sender<Command>>,
    /// Where each worker takes calls of applications within this process, and whose turn it is.
    calls: Vec<mpsc::Sender<WaitingCall>>,
    next_call: AtomicUsize,
    registries: Vec<Arc<WorkerRegistry>>,
    /// Those that write the access log, one for each worker.
    logs: Mutex<Vec<JoinHandle<()>>>,
    /// What is counted for no worker; its registry is the last one.
    passed_by: Mutex<WorkerMetrics>,
    budget: Arc<Budget>,
}

impl Proxy {
    /// Starts the workers, at least one. To be called within a runtime of Tokio, which writes the access log.
    pub fn start(config: Config) -> io::Result<Proxy> {
        let count = config.workers.max(1);
        let budget = config.budget.clone();
        let config = Arc::new(config);
        let heard = Arc::new(Heard::default());
        let mut registries: Vec<Arc<WorkerRegistry>> = (0..count).map(|_| Arc::default()).collect();
        let mut logs = Vec::with_capacity(count);
        let started: Vec<_> = registries
            .iter()
            .enumerate()
            .map(|(index, registry)| {
                let (lines, waiting) = access_log::channel();
                logs.push(waiting);
                thread::start(index, config.clone(), registry.clone(), heard.clone(), lines)
            })
            .collect::<io::Result<_>>()?;
        let (workers, calls) = started.into_iter().unzip();
        let logs = logs.into_iter().map(|waiting| tokio::spawn(access_log::write(waiting))).collect();
        let passed_by: Arc<WorkerRegistry> = Arc::default();
        registries.push(passed_by.clone());
        let passed_by = Mutex::new(WorkerMetrics::new(passed_by));
        let next_call = AtomicUsize::new(0);
        Ok(Proxy { workers, calls, next_call, registries, logs: Mutex::new(logs), passed_by, budget })
    }

    /// How many workers accept connections: for so many, sockets are to be bound.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Accepts at these sockets until [`Proxy::close`] is called with their address, which this returns.
    ///
    /// # Errors
    /// Where this proxy listens at their address already, or drains.
    pub async fn listen(&self, sockets: Sockets) -> io::Result<SocketAddr> {
        let (address, purpose) = (sockets.address(), sockets.purpose().clone());
        let dealt = sockets.deal(self.workers.len())?;
        for (place, (worker, sockets)) in self.workers.iter().zip(dealt).enumerate() {
            let (done, result) = oneshot::channel();
            let command = Command::Listen { purpose: purpose.clone(), address, sockets, done };
            let sent = worker.send(command).await.is_ok();
            let result = result.await.ok().filter(|_| sent).unwrap_or_else(|| Err(thread::stopping()));
            if let Err(error) = result {
                tell(&self.workers[..place], |done| Command::Close { address, done }).await;
                return Err(error);
            }
        }
        Ok(address)
    }

    /// What this proxy listens at, once more: who is given these sockets gets the connections that this proxy does not accept
    /// any more, once it drains. None is lost in between.
    ///
    /// # Errors
    /// Where there are no descriptors left.
    pub async fn sockets(&self) -> io::Result<Vec<Sockets>> {
        let mut all: BTreeMap<SocketAddr, Sockets> = BTreeMap::new();
        for of_worker in self.tell(|done| Command::Sockets { done }).await {
            for sockets in of_worker? {
                match all.entry(sockets.address()) {
                    Entry::Occupied(mut known) => known.get_mut().join(sockets),
                    Entry::Vacant(place) => drop(place.insert(sockets)),
                }
            }
        }
        Ok(all.into_values().filter(|sockets| !sockets.is_empty()).collect())
    }

    /// Stops accepting at `address`; connections that are open go on, those that the kernel has already
    /// accepted among them.
    pub async fn close(&self, address: SocketAddr) {
        self.tell(|done| Command::Close { address, done }).await;
    }

    /// Returns when [`Proxy::in_flight`] counts all that was begun with a state before the current one.
    pub async fn settle(&self) {
        self.tell(|done| Command::Settle { done }).await;
    }

    /// Has a request made as a workload of this node, and its answer read whole. Dropping this lets go of it.
    ///
    /// # Errors
    /// Why it has no answer.
    pub async fn call(&self, call: OwnCall) -> Result<Response<Bytes>, OwnCallError> {
        let turn = self.next_call.fetch_add(1, Ordering::Relaxed) % self.calls.len();
        let (answer, answered) = oneshot::channel();
        match self.calls[turn].try_send(WaitingCall { call, answer }) {
            Ok(()) => answered.await.unwrap_or(Err(OwnCallError::Stopping)),
            Err(TrySendError::Full(_)) => Err(OwnCallError::Busy),
            Err(TrySendError::Closed(_)) => Err(OwnCallError::Stopping),
        }
    }

    /// Requests and connections in flight to `workload`'s process, over all workers.
    pub fn in_flight(&self, workload: &WorkloadName) -> u64 {
        self.registries.iter().map(|worker| worker.in_flight(workload)).sum()
    }

    /// What has entered workloads of this node and is still there, over all workers.
    pub async fn visits(&self) -> Vec<Visit> {
        self.tell(|done| Command::Visits { done }).await.into_iter().flatten().collect()
    }

    /// What was counted since the start, one row for each edge, over all workers.
    pub fn edges(&self) -> Vec<EdgeCounts> {
        metrics::edge_counts(&self.registries)
    }

    /// What was asked of workloads since it was last taken: each distinct summary, and every ten minutes those that are seen again.
    /// Nobody else gets it.
    pub fn take_summaries(&self) -> Vec<Summary> {
        self.registries.iter().flat_map(|worker| std::mem::take(&mut *worker.summaries.lock())).collect()
    }

    /// Counts connections of a workload to the outside that did not come to the proxy: those that were connected, and
    /// those that were refused there.
    pub fn count_outside(&self, source: &LocalWorkload, connected: u64, failed: u64) {
        let destination = ServiceName::new("", metrics::EXTERNAL);
        for (security, verdict, count) in
            [(Security::Plaintext, Verdict::Success, connected), (Security::Unsent, Verdict::Failure, failed)]
        {
            if count > 0 {
                let edge = Edge::new(source, &destination, Protocol::Tcp, security);
                self.passed_by.lock().edge(&edge).connections(verdict, count);
            }
        }
    }

    /// Forgets what was counted so for workloads that are gone, as workers do for themselves. To be called now and then.
    pub fn forget_passed_by(&self, state: &NodeState) {
        self.passed_by.lock().forget(Instant::now(), state);
    }

    /// Counts connections that were refused before they came to the proxy.
    pub fn count_rejected(&self, why: Rejection, count: u64) {
        self.passed_by.lock().counts().rejections[why as usize].add(count);
    }

    /// All metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        metrics::exposition::text(&self.registries, &self.budget)
    }

    /// Whether it has drained, and serves nothing more. What it has counted stays.
    pub fn is_drained(&self) -> bool {
        self.workers.iter().all(mpsc::Sender::is_closed)
    }

    /// Stops accepting, says so on links and connections, lets what is in flight finish, and closes what is left at the
    /// deadline. The proxy serves nothing more then. Whoever asks for it once more waits for the first.
    pub async fn drain(&self, deadline: Duration) {
        self.tell(|done| Command::Drain { deadline, done }).await;
        // What the workers said last is written.
        let logs = std::mem::take(&mut *self.logs.lock());
        let _ = timeout(LAST_LINES, futures_util::future::join_all(logs)).await;
    }

    async fn tell<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        tell(&self.workers, command).await
    }
}

/// Tells workers, and waits until all have done it; with what they say.
async fn tell<T>(
    workers: &[mpsc::Sender<Command>],
    command: impl Fn(oneshot::Sender<T>) -> Command,
) -> Vec<T> {
    let mut answers = Vec::with_capacity(workers.len());
    for worker in workers {
        let (done, answer) = oneshot::channel();
        if worker.send(command(done)).await.is_ok() {
            answers.push(answer);
        }
    }
    let mut said = Vec::with_capacity(answers.len());
    for answer in answers {
        said.extend(answer.await);
    }
    said
}
