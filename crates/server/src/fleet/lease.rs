//! What becomes of a silent node's workloads.
//!
//! A server that hears nothing of a node cannot tell whether it is dead or merely cut off, and whether it
//! is that node that is cut off or the server itself. So nothing that may still serve is taken away. States
//! of a node:
//!
//! - *leased*: it was heard within the lease. Connected, or silent for less than that.
//! - *stale*: the lease has run out. Its Workload objects stay, with the condition `Stale` and the time
//!   since when, which outlives the server; callers decide by what they reach themselves
//!   (`tulle_model::staleness`).
//! - *gone*: it said goodbye, was evicted, or was stale for too long; its workloads were removed. It is
//!   shown for a while.
//!
//! The lease itself is the store's ([`crate::store::Store::grant_lease`]). Where the store has none to give, the time
//! since the node was heard counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;
use tulle_model::name::WorkloadName;
use tulle_wire::node::{NodeInfo, Workload};

use super::clocks::NodeClocks;
use super::workloads::{self, HeldWorkloads};
use super::{Fleet, KnownNode, Message, NodeTask, Record};
use crate::enrolment::EnrolmentError;
use crate::objects::ObjectError;
use crate::store::StoreError;
use crate::timestamp::{self, seconds};

/// How long a node may be silent before its workloads are stale.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long workloads may be stale before they are removed.
pub const FORGET_STALE: Duration = Duration::from_secs(24 * 3600);
/// How long a node may be silent before its runs of Flows are given to others.
pub const FLOW_LEASE: Duration = Duration::from_secs(2);
/// How long a node that is gone is still shown.
const SHOWN: Duration = Duration::from_secs(3600);
/// How long workloads that were stale when the server started are kept at least: nobody has listened to their node before, and
/// the clock may have been set.
const KEPT_AFTER_START: Duration = Duration::from_secs(600);

/// How long a node may be silent, and with what consequence.
#[derive(Debug, Clone, Copy)]
pub struct Leases {
    /// Until its workloads are stale.
    pub lease: Duration,
    /// Until stale workloads are removed.
    pub forget_stale: Duration,
    /// Until its runs of Flows are given to other nodes.
    pub flow_lease: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self { lease: LEASE, forget_stale: FORGET_STALE, flow_lease: FLOW_LEASE }
    }
}

/// The shortest and the longest lease.
const LEAST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);
/// The shortest one of runs: what a host that is busy takes to say a word.
const LEAST_FLOW_LEASE: Duration = Duration::from_millis(500);
/// How long stale workloads may be kept at most: ten years.
const LONGEST_STALE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A time that no server is started with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidLeases {
    #[error("the lease of nodes (`--lease`) must be 1s to 1h")]
    Lease,
    #[error("stale workloads are kept (`--forget-stale`) for 10 years (87600h) at most")]
    ForgetStale,
    #[error("the lease of runs of Flows (`--flow-lease`) must be 500ms to 1h")]
    FlowLease,
}

impl Leases {
    /// Checks a lease: 1 s to 1 h.
    pub fn check_lease(lease: Duration) -> Result<Duration, InvalidLeases> {
        if (LEAST_LEASE..=LONGEST_LEASE).contains(&lease) { Ok(lease) } else { Err(InvalidLeases::Lease) }
    }

    /// Checks for how long stale workloads are kept: 10 years at most.
    pub fn check_forget_stale(time: Duration) -> Result<Duration, InvalidLeases> {
        if time <= LONGEST_STALE { Ok(time) } else { Err(InvalidLeases::ForgetStale) }
    }

    /// Checks the lease of runs: 500 ms to 1 h.
    pub fn check_flow_lease(lease: Duration) -> Result<Duration, InvalidLeases> {
        let good = (LEAST_FLOW_LEASE..=LONGEST_LEASE).contains(&lease);
        if good { Ok(lease) } else { Err(InvalidLeases::FlowLease) }
    }

    /// Checks all.
    pub fn check(&self) -> Result<(), InvalidLeases> {
        Self::check_lease(self.lease)?;
        Self::check_flow_lease(self.flow_lease)?;
        Self::check_forget_stale(self.forget_stale).map(drop)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseState {
    Leased,
    Stale,
    Gone,
}

/// Why a node is not evicted.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    #[error("no node `{0}` is known")]
    Unknown(String),
    #[error("the node `{0}` is connected: stop it first, or it would be back with its next report")]
    Connected(String),
    #[error("{left} workloads of the node `{node}` could not be removed; the server's log says why")]
    Unfinished { node: String, left: usize },
    /// Asked again, it is all that is left to do.
    #[error("the node `{node}` is removed, but not its object; delete it again: {error}")]
    Remembered { node: String, error: ObjectError },
    #[error(transparent)]
    NotRevoked(#[from] EnrolmentError),
}

/// A workload that is stale.
#[derive(Debug)]
pub(super) struct Stale {
    /// Since when, in seconds since the epoch.
    since: i64,
    /// Whether its time is of the past: of an earlier process, or of before the node was heard.
    recorded: bool,
    /// Whether it is so in the store.
    marked: bool,
    /// When it is removed; none where its node is heard, or its lease runs.
    until: Option<Instant>,
}

impl Stale {
    /// Its node is heard, and has not yet said that it runs.
    pub(super) fn is_heard(&mut self) {
        self.until = None;
        self.recorded = true;
    }
}

/// What a server that starts finds of a node's stale workloads.
pub(super) fn recorded(held: &HeldWorkloads) -> HashMap<WorkloadName, Stale> {
    let stale = |&since| Stale { since, recorded: true, marked: false, until: None };
    held.stale.iter().map(|(name, since)| (name.clone(), stale(since))).collect()
}

/// How long a workload that is stale since a time, in seconds since the epoch, is still kept once the lease has run out. Wall
/// time counts for one of an earlier process, but not alone: the server may have been off for most of it.
fn kept(since: i64, recorded: bool, now: u64, forget: Duration) -> Duration {
    let age = Duration::from_secs(now.saturating_sub(u64::try_from(since).unwrap_or(0)));
    let left = forget.saturating_sub(age);
    if recorded { left.max(forget.min(KEPT_AFTER_START)) } else { left }
}

/// What is shown of a node that has not been heard since the server started.
pub(super) fn record_of(node: &str, held: &HeldWorkloads) -> Record {
    let now = Instant::now();
    Record {
        info: NodeInfo {
            name: node.to_owned(),
            link_address: held.link_address.clone(),
            ..NodeInfo::default()
        },
        connected: false,
        last_heard: now,
        config_age_seconds: 0,
        config_generation: 0,
        config_heard: now,
        clock_ahead: None,
        workloads: held.workloads.clone().into(),
        stale_since: held.stale.values().copied().min().filter(|_| held.stale.len() == held.workloads.len()),
        refused: Arc::default(),
        fenced: None,
        left: false,
    }
}

impl Fleet {
    /// Removes a node that does not come back, and its workloads; returns how many. One that does come back
    /// is taken in again, unless it was `revoked`: then it is removed although it is connected.
    pub async fn evict(&self, node: &str, revoked: bool) -> Result<usize, EvictError> {
        let unknown = || EvictError::Unknown(node.to_owned());
        // One that only asked, and was refused, is not known; but one that waits to be admitted has to hear that it is revoked.
        let known = |known: &KnownNode| {
            let is_shown = known.record.is_some();
            (revoked || is_shown).then(|| (is_shown, known.mailbox.clone()))
        };
        let known = self.nodes.lock().get(node).and_then(known);
        let (is_shown, mailbox) = known.ok_or_else(unknown)?;
        let (done, answer) = oneshot::channel();
        mailbox.send(Message::Evict { revoked, done }).await.map_err(|_| unknown())?;
        match answer.await.map_err(|_| unknown())? {
            Ok(0) if !is_shown => Err(unknown()),
            evicted => evicted,
        }
    }
}

impl NodeTask {
    /// For a node that has not been heard; `held` is what the store has of it.
    pub(super) fn new(fleet: Arc<Fleet>, node: Arc<str>, held: &HeldWorkloads) -> Self {
        Self {
            deadline: Instant::now() + fleet.leases.lease,
            fleet,
            node,
            session: None,
            waiting: None,
            closed_at: None,
            instance: String::new(),
            boot_id: String::new(),
            link_address: String::new(),
            reported: Vec::new(),
            held: held.names().map(|name| (name, None)).collect(),
            refused: Vec::new(),
            foreign: HashSet::new(),
            unfinished: false,
            clock: NodeClocks::default(),
            retry_at: Instant::now(),
            retry: Duration::ZERO,
            lease: None,
            state: LeaseState::Leased,
            failing: false,
            stale: recorded(held),
        }
    }

    /// Has the lease go on from now, or begin.
    pub(super) async fn prolong(&mut self) {
        let store = &self.fleet.store;
        let alive = match &self.lease {
            Some(lease) => store.keep_alive(lease).await,
            None => Ok(false),
        };
        let granted = match alive {
            Ok(true) => return,
            Ok(false) => store.grant_lease(&self.node, self.fleet.leases.lease).await,
            Err(error) => Err(error),
        };
        match granted {
            Ok(lease) => self.lease = Some(lease),
            Err(error) => self.without_lease(&error),
        }
    }

    /// Waits until the lease has run out.
    pub(super) async fn lease_ended(&self) -> Result<(), StoreError> {
        self.fleet.store.lease_ended(&self.node).await
    }

    /// Has this task's own time count, where the store does not answer for a lease.
    pub(super) fn without_lease(&mut self, error: &StoreError) {
        // Once for each trouble.
        if self.lease.take().is_some() {
            tracing::warn!(node = %self.node, %error, "the store keeps no lease for a node: its own time counts");
        }
        self.deadline = Instant::now() + self.fleet.leases.lease;
    }

    /// What is due at the deadline; true where the task ends.
    pub(super) async fn deadline_passed(&mut self, messages: &mpsc::Receiver<Message>) -> bool {
        match self.state {
            LeaseState::Leased => self.expire().await,
            LeaseState::Stale => self.remove_due().await,
            LeaseState::Gone => return self.forget(messages),
        }
        false
    }

    pub(super) async fn expire(&mut self) {
        // Its stream may still be open: the next report heals.
        self.update(|record| record.connected = false);
        if !self.failing {
            self.fleet.metrics.leases_expired.add(1);
        }
        if self.held.is_empty() {
            self.update(|record| record.workloads = Arc::default());
            return self.gone().await;
        }
        let Leases { lease, forget_stale, .. } = self.fleet.leases;
        let (now, time) = (Instant::now(), seconds(SystemTime::now()));
        let since = time.saturating_sub(lease.as_secs()).try_into().unwrap_or(i64::MAX);
        self.stale.retain(|name, _| self.held.contains_key(name));
        for name in self.held.keys() {
            let stale = Stale { since, recorded: false, marked: false, until: None };
            let stale = self.stale.entry(name.clone()).or_insert(stale);
            let left = kept(stale.since, stale.recorded, time, forget_stale);
            stale.until.get_or_insert(now + left);
        }
        let stale_since = self.stale.values().map(|stale| stale.since).min();
        if !self.failing {
            tracing::warn!(
                node = %self.node, workloads = self.held.len(),
                "nothing was heard of the node for longer than its lease: its workloads are stale since {}",
                timestamp::at(stale_since.unwrap_or(since))
            );
        }
        // Its next report writes them all.
        self.held.values_mut().for_each(|written| *written = None);
        self.update(|record| record.stale_since = stale_since);
        let unmarked = self.stale.iter().filter(|(_, stale)| !stale.marked);
        let unmarked: Vec<_> = self
            .some_first(unmarked.map(|(name, stale)| (name.clone(), timestamp::at(stale.since))).collect());
        let mut failed = None;
        for (name, result) in workloads::mark_stale(&self.fleet.objects, &self.node, &unmarked).await {
            match (result, self.stale.get_mut(&name)) {
                (Ok(()), Some(stale)) => stale.marked = true,
                (Ok(()), None) => {}
                (Err(error), _) => failed = Some(error),
            }
        }
        match failed {
            None if self.stale.values().all(|stale| stale.marked) => {
                self.succeeded();
                self.state = LeaseState::Stale;
                self.deadline = self.next_removal();
            }
            // The store takes writing again: the rest at once.
            None => self.deadline = now,
            Some(error) => {
                if !self.failing {
                    tracing::warn!(node = %self.node, %error, "cannot mark all workloads as stale; trying again");
                }
                self.failed();
            }
        }
    }

    /// Of what is tried again, one alone while the store takes nothing.
    fn some_first<T>(&self, mut all: Vec<T>) -> Vec<T> {
        if self.failing && self.fleet.objects.trouble().is_some() {
            all.truncate(1);
        }
        all
    }

    fn succeeded(&mut self) {
        self.failing = false;
        self.retry = Duration::ZERO;
    }

    /// Tries again later, and later each time.
    fn failed(&mut self) {
        self.failing = true;
        self.retry = self.longer_retry();
        self.deadline = Instant::now() + self.retry;
    }

    /// When the next of the stale workloads is removed.
    fn next_removal(&self) -> Instant {
        let next = self.stale.values().filter_map(|stale| stale.until).min();
        next.unwrap_or_else(|| Instant::now() + self.fleet.leases.lease)
    }

    /// Removes what was stale for too long.
    async fn remove_due(&mut self) {
        let now = Instant::now();
        let due = self.stale.iter().filter(|(_, stale)| stale.until.is_some_and(|until| until <= now));
        let due = self.some_first(due.map(|(name, _)| name.clone()).collect());
        if !self.failing && !due.is_empty() {
            tracing::info!(node = %self.node, workloads = due.len(), "removing workloads: they were stale for too long");
        }
        self.delete(&due).await;
        if due.iter().any(|name| self.held.contains_key(name)) {
            return self.failed();
        }
        if self.held.is_empty() {
            return self.gone().await;
        }
        self.deadline = self.next_removal();
        if self.deadline > now {
            self.succeeded();
        }
        let shown = |w: &Workload| {
            let name = WorkloadName::new(w.namespace.as_str(), w.name.as_str());
            self.held.contains_key(&name)
        };
        let stale_since = self.stale.values().map(|stale| stale.since).min();
        self.update(|record| {
            record.workloads = record.workloads.iter().filter(|w| shown(w)).cloned().collect();
            record.stale_since = stale_since;
        });
    }

    /// A node that was stale has been heard again, and its workloads are written.
    pub(super) fn is_back(&mut self) {
        if !self.stale.is_empty() {
            self.stale.clear();
            tracing::info!(node = %self.node, "the node is heard again");
            self.update(|record| record.stale_since = None);
        }
    }

    /// Its workloads were removed; what could not be is tried again.
    pub(super) async fn gone(&mut self) {
        if let Some(lease) = self.lease.take()
            && let Err(error) = self.fleet.store.revoke_lease(&lease).await
        {
            tracing::debug!(node = %self.node, %error, "a lease runs on that is not needed any more");
        }
        if self.held.is_empty() {
            self.succeeded();
            self.state = LeaseState::Gone;
            self.stale.clear();
            self.deadline = Instant::now() + SHOWN;
            self.update(|record| {
                record.workloads = Arc::default();
                record.stale_since = None;
                record.connected = false;
            });
        } else {
            self.state = LeaseState::Stale;
            let (now, time) = (Instant::now(), seconds(SystemTime::now()).try_into().unwrap_or(i64::MAX));
            for name in self.held.keys() {
                let stale = Stale { since: time, recorded: false, marked: false, until: None };
                self.stale.entry(name.clone()).or_insert(stale).until = Some(now);
            }
            self.failed();
        }
    }

    pub(super) async fn evict(&mut self, revoked: bool) -> Result<usize, EvictError> {
        if !revoked && self.session.is_some() && self.state == LeaseState::Leased {
            return Err(EvictError::Connected(self.node.to_string()));
        }
        // If it lives after all, it opens another stream, with all that it runs.
        let told = || {
            if revoked {
                EnrolmentError::not_known(&self.node).into()
            } else {
                Status::aborted("the node was evicted")
            }
        };
        if let Some((_, replies)) = self.session.take() {
            let _ = replies.try_send(Err(told()));
        }
        if revoked && let Some(waiting) = self.waiting.take() {
            let _ = waiting.newcomer.admitted.send(Err(told()));
        }
        let count = self.held.len();
        self.reported.clear();
        self.remove_all("the node was evicted").await;
        self.gone().await;
        match self.held.len() {
            0 => {
                // Nothing is shown of it any more.
                if let Some(known) = self.fleet.nodes.lock().get_mut(&self.node) {
                    known.record = None;
                }
                self.deadline = Instant::now();
                Ok(count)
            }
            left => Err(EvictError::Unfinished { node: self.node.to_string(), left }),
        }
    }

    /// Ends the task of a node that is long gone, unless something has just come for it.
    fn forget(&mut self, messages: &mpsc::Receiver<Message>) -> bool {
        let mut nodes = self.fleet.nodes.lock();
        let idle = messages.is_empty() && messages.sender_strong_count() <= 1;
        if idle {
            nodes.remove(&self.node);
            self.fleet.roll_up.lock().forget(&self.node);
        } else {
            self.deadline = Instant::now() + SHOWN;
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tonic::Code;
    use tulle_wire::node::NodeReport;

    use super::*;

    use super::super::newcomer::tests::{WAITS, connected, newcomer, refused, told, workload};

    const HOUR: u64 = 3600;
    const DAY: Duration = Duration::from_secs(24 * HOUR);

    #[test]
    fn stale_workloads_of_before_a_start_are_kept_for_a_while_whatever_the_clock_says() {
        let now = 1_800_000_000;
        let kept = |age: u64, recorded, forget| kept((now - age) as i64, recorded, now, forget);
        // The server was off for longer than that, or its clock is years ahead.
        assert_eq!(kept(25 * HOUR, true, DAY), KEPT_AFTER_START);
        assert_eq!(kept(20 * 365 * 24 * HOUR, true, DAY), KEPT_AFTER_START);
        assert_eq!(kept(HOUR, true, DAY), DAY - Duration::from_secs(HOUR));
        // A clock that was set back makes nothing older.
        assert_eq!(super::kept(now as i64 + 1000, true, now, DAY), DAY);
        assert_eq!(kept(10, false, DAY), DAY - Duration::from_secs(10));
        let short = Duration::from_secs(60);
        assert_eq!(kept(HOUR, true, short), short);
        assert_eq!(kept(10, false, Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_a_lease_from_when_it_is_heard_until_it_leaves() {
        let (mut task, _read) = connected().await;
        let is_leased = async |task: &NodeTask| task.lease_ended().now_or_never().is_none();
        assert!(is_leased(&task).await);
        let (start, lease) = (Instant::now(), task.fleet.leases.lease);
        for _ in 0..3 {
            tokio::time::sleep(lease / 2).await;
            task.take_report(NodeReport::default()).await;
        }
        task.lease_ended().await.unwrap();
        assert_eq!(start.elapsed(), lease / 2 * 3 + lease);
        // One that was lost is begun anew.
        task.take_report(NodeReport::default()).await;
        assert!(is_leased(&task).await);
        task.take_report(NodeReport { leaving: true, ..NodeReport::default() }).await;
        assert!(!is_leased(&task).await && task.lease.is_none() && task.state == LeaseState::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_reports_is_removed_only_where_it_is_revoked_and_whoever_waits_is_told() {
        let denied = refused(Code::PermissionDenied);
        // What its stream is told, and who waits for its place; none of it where it is not removed.
        for (revoked, state, of_stream, of_waiting) in [
            (false, LeaseState::Leased, None, WAITS),
            (true, LeaseState::Leased, Some(Code::PermissionDenied), denied),
            (false, LeaseState::Stale, Some(Code::Aborted), WAITS),
            (true, LeaseState::Stale, Some(Code::PermissionDenied), denied),
        ] {
            let (mut task, mut read) = connected().await;
            task.reported = vec![workload()];
            task.write().await;
            task.state = state;
            let (waits, _read, mut answer) = newcomer(2, "i2", "b2");
            task.opened(waits).await;
            assert_ne!(read.try_recv().unwrap().unwrap().ping, 0);
            let result = task.evict(revoked).await;
            let said = read.try_recv().ok().map(|reply| reply.unwrap_err().code());
            assert_eq!((said, told(&mut answer)), (of_stream, of_waiting), "{revoked} {state:?}");
            let removed = of_stream.is_some();
            match result {
                Ok(count) => assert!(removed && count == 1 && task.state == LeaseState::Gone),
                Err(EvictError::Connected(node)) => assert!(!removed && node == "n1"),
                Err(error) => panic!("{error}"),
            }
            let objects = &task.fleet.objects;
            let kind = tulle_model::registry::KindId::Workload.kind();
            assert_eq!(objects.get(kind, "default", "w").await.unwrap().is_none(), removed);
            assert_eq!(task.session.is_none(), removed);
            assert_eq!(task.fleet.nodes.lock()["n1"].record.is_none(), removed);
        }
        // One that is not connected goes.
        let (mut task, _read) = connected().await;
        task.closed().await;
        assert!(matches!(task.evict(false).await, Ok(0)));
    }
}
