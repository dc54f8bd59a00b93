//! The nodes, as their reports show them, and the Workload objects that they hold.
//!
//! One task a node owns all that concerns it, so its writes are in order. [`lease`] has the states of a
//! node. Any report heals: the workloads reported last are written again. A server that starts gives every
//! node that holds workloads a fresh lease. Two nodes of one name: [`newcomer`].

mod clocks;
mod lease;
mod newcomer;
mod node_objects;
mod permitted;
mod told;
mod view;
mod workloads;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tulle_model::name::WorkloadName;
use tulle_model::stamp::Stamp;
use tulle_wire::node::{NodeInfo, NodeReport, RefusedWorkload, ReportReply, Workload};

use self::newcomer::{Fenced, Newcomer, Replies, Waiting};
use crate::audit::Audit;
use crate::enrolment::Enrolment;
use crate::events::Events;
use crate::flows::KnownFlows;
use crate::metrics::Metrics;
use crate::objects::{ObjectError, Objects};
use crate::store::{Lease, Store};
use crate::summaries::Summaries;
use crate::telemetry::RollUp;

use self::clocks::NodeClocks;
pub use self::lease::{EvictError, InvalidLeases, LEASE, Leases};
use self::lease::{LeaseState, Stale};
pub(crate) use self::node_objects::is_asked_for;
use self::permitted::problem;
pub use self::view::{NodeView, NodeWorkloadView};
use self::workloads::{HeldWorkloads, HoldingNode, Lost};

/// How many messages may wait for a node's task; a stream that brings more waits.
const MAILBOX: usize = 16;
/// How many workloads a node may hold.
const WORKLOADS_LIMIT: usize = 10_000;

/// How long objects that the store did not take are waited with, at first and at most.
const LEAST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What a node's task is told.
enum Message {
    /// A report stream opened. The newest one counts, unless the one before answers, or may be frozen.
    Opened(Newcomer),
    Report {
        session: u64,
        report: NodeReport,
    },
    Closed {
        session: u64,
    },
    /// Something is in [`KnownNode::lost`].
    Lost,
    /// Somebody says that it is gone for good.
    Evict {
        /// And may not come back with the certificate that it has.
        revoked: bool,
        done: oneshot::Sender<Result<usize, EvictError>>,
    },
}

/// What is known of a node, shared with the views.
#[derive(Debug, Clone)]
struct Record {
    info: NodeInfo,
    connected: bool,
    last_heard: Instant,
    config_age_seconds: u64,
    config_generation: u64,
    /// When the two above were said.
    config_heard: Instant,
    /// By how many milliseconds its clock is ahead of this host's (negative: behind), where it is known.
    clock_ahead: Option<i64>,
    workloads: Arc<[Workload]>,
    /// Since when they are stale, in seconds since the epoch.
    stale_since: Option<i64>,
    refused: Arc<[RefusedWorkload]>,
    fenced: Option<Fenced>,
    /// It has said goodbye.
    left: bool,
}

/// All nodes.
pub struct Fleet {
    objects: Objects,
    /// Has the leases.
    store: Store,
    enrolment: Enrolment,
    /// For the workloads that stand for them.
    flows: KnownFlows,
    events: Arc<Events>,
    audit: Audit,
    metrics: Arc<Metrics>,
    leases: Leases,
    started: Instant,
    /// Of this host's kernel; empty where it does not say.
    boot_id: String,
    nodes: Mutex<HashMap<Arc<str>, KnownNode>>,
    /// Nodes whose workloads are to take no traffic.
    drained: Mutex<HashSet<Arc<str>>>,
    roll_up: Mutex<RollUp>,
    summaries: Mutex<Summaries>,
    sessions: AtomicU64,
    /// A node has come or gone: its object says so at once.
    nodes_changed: Notify,
    stop: CancellationToken,
}

struct KnownNode {
    mailbox: mpsc::Sender<Message>,
    record: Option<Record>,
    lost: Lost,
}

impl KnownNode {
    fn remind(&self) {
        // With a full mailbox, the task looks after the messages that are in it.
        let _ = self.mailbox.try_send(Message::Lost);
    }
}

/// A report stream's hold on its node.
pub struct Session {
    fleet: Arc<Fleet>,
    node: Arc<str>,
    id: u64,
    mailbox: mpsc::Sender<Message>,
}

impl Fleet {
    /// Starts with a fresh lease for every node that holds workloads.
    pub async fn start(
        objects: Objects,
        store: Store,
        (enrolment, flows): (Enrolment, KnownFlows),
        (events, audit): (Arc<Events>, Audit),
        metrics: Arc<Metrics>,
        leases: Leases,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, ObjectError> {
        let held = workloads::held(&objects).await?;
        let fleet = Arc::new(Self {
            objects,
            store,
            enrolment,
            flows,
            events,
            audit,
            metrics,
            leases,
            started: Instant::now(),
            boot_id: tulle_sys::boot_id(),
            nodes: Mutex::default(),
            drained: Mutex::default(),
            roll_up: Mutex::default(),
            summaries: Mutex::default(),
            sessions: AtomicU64::new(0),
            nodes_changed: Notify::new(),
            stop,
        });
        for (node, held) in held {
            fleet.mailbox(&node, Some(held));
        }
        Ok(fleet)
    }

    /// Opens a report stream of a node, from the address `peer`, with a certificate of that stamp. Waits while an older stream of that
    /// name may still answer.
    ///
    /// # Errors
    /// Where it does, or the server stops.
    pub async fn open(
        self: &Arc<Self>,
        node: &Arc<str>,
        stamp: Option<Stamp>,
        info: NodeInfo,
        peer: String,
        replies: Replies,
    ) -> Result<Session, Status> {
        let stops = || Status::unavailable("the server stops");
        let id = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        loop {
            let mailbox = self.mailbox(node, None);
            let (admitted, admission) = oneshot::channel();
            let (info, peer, replies) = (info.clone(), peer.clone(), replies.clone());
            let newcomer = Newcomer { session: id, stamp, info, peer, replies, admitted };
            if mailbox.send(Message::Opened(newcomer)).await.is_ok() {
                admission.await.map_err(|_| stops())??;
                return Ok(Session { fleet: self.clone(), node: node.clone(), id, mailbox });
            }
            if self.stop.is_cancelled() {
                return Err(stops());
            }
            // A task that has just ended makes room for a new one.
            tokio::task::yield_now().await;
        }
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        let (now, time) = (Instant::now(), SystemTime::now());
        let nodes = self.nodes.lock();
        let drained = self.drained.lock();
        let view = |(name, known): (&Arc<str>, &KnownNode)| {
            Some(view::view(name, known.record.as_ref()?, drained.contains(name), now, time))
        };
        let mut views: Vec<_> = nodes.iter().filter_map(view).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// How many nodes are connected, how many workloads are stale, and how many edges are known.
    pub fn load(&self) -> (usize, usize, usize) {
        let nodes = self.nodes.lock();
        let records = || nodes.values().filter_map(|known| known.record.as_ref());
        let connected = records().filter(|r| r.connected).count();
        let stale = records().filter(|r| r.stale_since.is_some()).map(|r| r.workloads.len()).sum();
        (connected, stale, self.roll_up.lock().len())
    }

    /// Says that a Workload object was deleted; if the node still runs it, it is written again.
    pub fn deleted(&self, object: &serde_json::Value, name: WorkloadName) {
        let mut nodes = self.nodes.lock();
        if let Some(known) = workloads::holder(object).and_then(|node| nodes.get_mut(node)) {
            known.lost.names.insert(name);
            known.remind();
        }
    }

    /// Says that Workload objects may have been deleted unseen.
    pub fn missed_deletions(&self) {
        for known in self.nodes.lock().values_mut() {
            known.lost.any = true;
            known.remind();
        }
    }

    /// Whether another node may not take over what `node` holds.
    fn is_connected(&self, node: &str) -> bool {
        self.nodes.lock().get(node).and_then(|known| known.record.as_ref()).is_some_and(|r| r.connected)
    }

    fn second(&self) -> u64 {
        // From a minute on, so that windows never reach below zero.
        self.started.elapsed().as_secs() + 60
    }

    /// The mailbox of a node's task, which is started if need be.
    fn mailbox(self: &Arc<Self>, node: &Arc<str>, held: Option<HeldWorkloads>) -> mpsc::Sender<Message> {
        let mut nodes = self.nodes.lock();
        if let Some(known) = nodes.get(node)
            && !known.mailbox.is_closed()
        {
            return known.mailbox.clone();
        }
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let record = held.as_ref().map(|held| lease::record_of(node, held));
        nodes.insert(node.clone(), KnownNode { mailbox: mailbox.clone(), record, lost: Lost::default() });
        let task = NodeTask::new(self.clone(), node.clone(), &held.unwrap_or_default());
        tokio::spawn(task.run(messages));
        mailbox
    }
}

impl Session {
    /// Hands a report on. An error when the node's task is gone: the stream should end.
    pub async fn report(&self, report: NodeReport) -> Result<(), Status> {
        self.fleet.metrics.reports.add(1);
        self.mailbox
            .send(Message::Report { session: self.id, report })
            .await
            .map_err(|_| Status::unavailable("the server stops"))
    }

    /// Ends the stream: from now on the lease runs.
    pub async fn close(self) {
        let _ = self.mailbox.send(Message::Closed { session: self.id }).await;
        tracing::debug!(node = %self.node, "report stream closed");
    }
}

/// The task that owns a node.
struct NodeTask {
    fleet: Arc<Fleet>,
    node: Arc<str>,
    session: Option<(u64, Replies)>,
    /// Who may take the place of that.
    waiting: Option<Waiting>,
    /// When its stream ended without another.
    closed_at: Option<Instant>,
    instance: String,
    /// Of the kernel that it runs on; empty where it is not known.
    boot_id: String,
    link_address: String,
    /// The workloads of the latest report that has any.
    reported: Vec<Workload>,
    /// The Workload objects of this node, and what they were last written from.
    held: HashMap<WorkloadName, Option<(Workload, String)>>,
    /// What of the latest report is not taken.
    refused: Vec<RefusedWorkload>,
    /// What it has told of namespaces of others.
    foreign: HashSet<String>,
    /// Whether the objects are not yet what was reported: the next report tries again.
    unfinished: bool,
    clock: NodeClocks,
    /// Not before then, where it was the store that did not take them; and how long the wait was.
    retry_at: Instant,
    retry: Duration,
    /// What its reports keep alive; none where it has run out, or where the store does not grant one.
    lease: Option<Lease>,
    /// When something is due without a lease.
    deadline: Instant,
    state: LeaseState,
    /// Whether the store did not take what the lease's end asked of it.
    failing: bool,
    /// Those of its workloads that are stale in the store, or are about to be.
    stale: HashMap<WorkloadName, Stale>,
}

impl NodeTask {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let stop = self.fleet.stop.clone();
        self.recall_boot().await;
        self.prolong().await;
        loop {
            let deadline = tokio::time::sleep_until(self.deadline);
            let patience = self.waiting.as_ref().map(Waiting::due);
            tokio::select! {
                biased;
                // Whatever nodes hold stays: the next server grants them a fresh lease.
                () = stop.cancelled() => return,
                message = messages.recv() => match message {
                    Some(message) => {
                        self.take(message).await;
                        self.restore().await;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(patience.unwrap_or(self.deadline)), if patience.is_some() => {
                    self.look_at_waiting().await;
                }
                ended = self.lease_ended(), if self.lease.is_some() => match ended {
                    Ok(()) => {
                        self.lease = None;
                        self.expire().await;
                    }
                    Err(error) => self.without_lease(&error),
                },
                () = deadline, if self.lease.is_none() => {
                    if self.deadline_passed(&messages).await {
                        return;
                    }
                }
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Opened(newcomer) => self.opened(newcomer).await,
            Message::Report { session, report } => {
                if self.session.as_ref().is_none_or(|(current, _)| *current != session) {
                    return; // Of a stream that a newer one has replaced.
                }
                if let Some(waiting) = self.waiting.take_if(|waiting| waiting.is_answered_by(report.pong)) {
                    self.fence(waiting.newcomer);
                }
                self.take_report(report).await;
            }
            Message::Closed { session } => {
                if self.session.as_ref().is_some_and(|(current, _)| *current == session) {
                    self.closed().await;
                }
            }
            Message::Lost => {}
            Message::Evict { revoked, done } => {
                // Who asked may have gone away meanwhile.
                let _ = done.send(self.evict(revoked).await);
            }
        }
    }

    /// Writes again what others have deleted.
    async fn restore(&mut self) {
        let lost = match self.fleet.nodes.lock().get_mut(&self.node) {
            Some(known) => std::mem::take(&mut known.lost),
            None => return,
        };
        let mut missing = false;
        for (name, written) in &mut self.held {
            // Our own deletions have left `held` already.
            let gone =
                lost.names.contains(name) || lost.any && workloads::is_gone(&self.fleet.objects, name).await;
            missing |= (gone || lost.rewrite) && written.take().is_some();
        }
        if missing && self.state == LeaseState::Leased {
            self.write().await;
        }
    }

    async fn take_report(&mut self, report: NodeReport) {
        let revived = self.state != LeaseState::Leased || !self.stale.is_empty();
        self.heard().await;
        if let Some(clock) = report.clock {
            let ahead = self.clock.told(&self.node, &clock, SystemTime::now(), self.fleet.started.elapsed());
            self.update(|record| record.clock_ahead = Some(ahead));
        }
        if let Some(telemetry) = report.telemetry {
            let second = self.fleet.second();
            self.take_edges(telemetry.edges, second).await;
            self.take_summaries(telemetry.summaries, second);
            self.update(|record| {
                record.config_age_seconds = telemetry.config_age_seconds;
                record.config_generation = telemetry.config_generation;
                record.config_heard = Instant::now();
            });
        }
        if report.leaving {
            self.reported.clear();
            self.update(|record| {
                record.workloads = Arc::default();
                record.connected = false;
                record.left = true;
            });
            self.fleet.nodes_changed.notify_one();
            self.refused.clear();
            self.remove_all("the node leaves").await;
            self.gone().await;
            self.reply();
            return;
        }
        let set = report.workloads.is_some();
        if let Some(workloads) = report.workloads {
            self.reported = workloads.workloads;
        }
        if set || revived {
            let shown: Arc<[Workload]> = self.reported.clone().into();
            self.update(|record| record.workloads = shown);
        }
        if set || revived || self.unfinished && Instant::now() >= self.retry_at {
            self.write().await;
        }
        if revived {
            self.is_back();
        }
        self.reply();
    }

    /// Makes the objects what was reported last, as far as they are taken.
    async fn write(&mut self) {
        let mut refused = Vec::new();
        let mut wanted = HashMap::new();
        let Ok(grant) = self.fleet.enrolment.grant(&self.node).await else {
            // Nothing is taken away over what cannot be read.
            self.unfinished = true;
            self.retry = self.longer_retry();
            self.retry_at = Instant::now() + self.retry;
            return;
        };
        for workload in &self.reported {
            let name = WorkloadName::new(workload.namespace.as_str(), workload.name.as_str());
            let problem = match &grant {
                None => Some(format!("the node `{}` has not joined", self.node)),
                Some(grant) => problem(&self.node, grant, workload, &self.fleet.flows).or_else(|| {
                    let is_full = wanted.len() >= WORKLOADS_LIMIT;
                    is_full.then(|| format!("a node may hold {WORKLOADS_LIMIT} workloads"))
                }),
            };
            match problem {
                Some(message) => refused.push(workloads::refusal(&name, message)),
                None if wanted.insert(name.clone(), self.to_write(workload)).is_some() => {
                    refused.push(workloads::refusal(&name, "it is reported twice".to_owned()));
                }
                None => {}
            }
        }
        let link = self.link_address.clone();
        let gone: Vec<_> = self.held.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        let changed: Vec<_> = wanted
            .into_iter()
            .filter(|(name, workload)| {
                !self.held.get(name).is_some_and(|w| {
                    w.as_ref().is_some_and(|(w, l)| workloads::same(w, workload) && *l == link)
                })
            })
            .collect();
        let fleet = &self.fleet;
        let connected = |node: &str| fleet.is_connected(node);
        let holding = HoldingNode { node: &self.node, link_address: &link, connected: &connected };
        let written = workloads::write_all(&fleet.objects, &holding, changed).await;
        for (name, workload, result) in written {
            match result {
                Ok(()) => {
                    self.held.insert(name, Some((workload, link.clone())));
                }
                Err(message) => refused.push(workloads::refusal(&name, message)),
            }
        }
        self.delete(&gone).await;
        refused.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        for refusal in refused.iter().filter(|refusal| !self.refused.contains(refusal)) {
            self.fleet.metrics.workloads_refused.add(1);
            tracing::warn!(
                node = %self.node, workload = %format_args!("{}/{}", refusal.namespace, refusal.name),
                "refused a workload: {}", refusal.message
            );
            self.fleet.tell_refusal(&self.node, refusal).await;
        }
        self.unfinished = !refused.is_empty() || gone.iter().any(|name| self.held.contains_key(name));
        // A full disk is not asked with every report.
        let store_fails = self.unfinished && self.fleet.objects.trouble().is_some();
        self.retry = if store_fails { self.longer_retry() } else { Duration::ZERO };
        self.retry_at = Instant::now() + self.retry;
        self.refused = refused;
        let refused: Arc<[RefusedWorkload]> = self.refused.clone().into();
        self.update(|record| record.refused = refused);
    }

    async fn delete(&mut self, names: &[WorkloadName]) {
        let mut failed = None;
        for (name, result) in workloads::delete_all(&self.fleet.objects, &self.node, names).await {
            match result {
                Ok(()) => {
                    self.held.remove(&name);
                    self.stale.remove(&name);
                }
                // It stays in `held`, and is tried again.
                Err(error) => failed = failed.or(Some((name, error))),
            }
        }
        // Once for each trouble.
        if let Some((name, error)) = failed
            && !self.failing
        {
            tracing::warn!(node = %self.node, workload = %name, %error, "cannot remove workloads, such as this one; trying again");
        }
    }

    async fn remove_all(&mut self, why: &str) {
        let names: Vec<_> = self.held.keys().cloned().collect();
        if !names.is_empty() {
            tracing::info!(node = %self.node, workloads = names.len(), "removing the node's workloads: {why}");
            self.delete(&names).await;
        }
    }

    async fn heard(&mut self) {
        self.state = LeaseState::Leased;
        self.failing = false;
        self.stale.values_mut().for_each(Stale::is_heard);
        self.prolong().await;
        let now = Instant::now();
        self.update(|record| {
            record.last_heard = now;
            record.connected = true;
            record.left = false;
        });
    }

    /// How long to wait after another failure of the store.
    fn longer_retry(&self) -> Duration {
        (2 * self.retry).clamp(LEAST_RETRY, LONGEST_RETRY)
    }

    fn update(&self, change: impl FnOnce(&mut Record)) {
        let mut nodes = self.fleet.nodes.lock();
        if let Some(record) = nodes.get_mut(&self.node).and_then(|known| known.record.as_mut()) {
            change(record);
        }
    }

    fn reply(&mut self) {
        if let Some((_, replies)) = &self.session {
            let lease_seconds = self.fleet.leases.lease.as_secs().try_into().unwrap_or(u32::MAX);
            let (clock, refused) = (self.clock.answer(SystemTime::now()), self.refused.clone());
            // A node that does not read its replies goes without.
            let _ = replies.try_send(Ok(ReportReply { lease_seconds, refused, clock, ping: 0 }));
        }
    }
}
