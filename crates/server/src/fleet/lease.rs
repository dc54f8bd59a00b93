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

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;
use tulle_wire::node::NodeInfo;

use super::workloads::{self, Held};
use super::{Fleet, Message, NodeTask, Record};
use crate::grpc::enrolment::seconds;

/// How long a node may be silent before its workloads are stale.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long workloads may be stale before they are removed.
pub const FORGET_STALE: Duration = Duration::from_secs(24 * 3600);
/// How long a node that is gone is still shown.
const SHOWN: Duration = Duration::from_secs(3600);
/// How long after a failure of the store its writes are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a node may be silent, and with what consequence.
#[derive(Debug, Clone, Copy)]
pub struct Leases {
    /// Until its workloads are stale.
    pub lease: Duration,
    /// Until stale workloads are removed.
    pub forget_stale: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self { lease: LEASE, forget_stale: FORGET_STALE }
    }
}

/// The shortest and the longest lease.
const LEAST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);
/// How long stale workloads may be kept at most: ten years.
const LONGEST_STALE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A time that no server is started with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidLeases {
    #[error("the lease of nodes (`--lease`) must be 1s to 1h")]
    Lease,
    #[error("stale workloads are kept (`--forget-stale`) for 10 years (87600h) at most")]
    ForgetStale,
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

    /// Checks both.
    pub fn check(&self) -> Result<(), InvalidLeases> {
        Self::check_lease(self.lease)?;
        Self::check_forget_stale(self.forget_stale).map(drop)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
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
}

/// What is shown of a node that has not been heard since the server started.
pub(super) fn record_of(node: &str, held: &Held) -> Record {
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
        stale_since: held.stale_since,
        refused: Arc::default(),
        fenced: None,
    }
}

impl Fleet {
    /// Removes a node that does not come back, and its workloads; returns how many. One that does come back
    /// is taken in again.
    pub async fn evict(&self, node: &str) -> Result<usize, EvictError> {
        let unknown = || EvictError::Unknown(node.to_owned());
        let mailbox = self.nodes.lock().get(node).map(|known| known.mailbox.clone());
        let (done, answer) = oneshot::channel();
        mailbox.ok_or_else(unknown)?.send(Message::Evict { done }).await.map_err(|_| unknown())?;
        answer.await.map_err(|_| unknown())?
    }
}

impl NodeTask {
    /// What is due at the deadline; true where the task ends.
    pub(super) async fn deadline_passed(&mut self, messages: &mpsc::Receiver<Message>) -> bool {
        let lease = self.fleet.leases.lease;
        let late = Instant::now().duration_since(self.deadline);
        match self.state {
            // This process was stopped, or the host suspended: it was the one who did not listen.
            State::Leased if late >= lease / 2 => self.deadline = Instant::now() + lease,
            State::Leased => self.expire().await,
            State::Stale => {
                self.remove_all("they were stale for too long").await;
                self.gone();
            }
            State::Gone => return self.forget(messages),
        }
        false
    }

    async fn expire(&mut self) {
        self.fleet.metrics.leases_expired.add(1);
        // Its stream may still be open: the next report heals.
        self.update(|record| record.connected = false);
        if self.held.is_empty() {
            self.update(|record| record.workloads = Arc::default());
            return self.gone();
        }
        let now = seconds(SystemTime::now());
        let since = match self.stale_since {
            // Of before a restart; the clock may have been set back since.
            Some(since) => u64::try_from(since).unwrap_or(0).min(now),
            None => now.saturating_sub(self.fleet.leases.lease.as_secs()),
        };
        let text = jiff::Timestamp::from_second(since.try_into().unwrap_or(i64::MAX)).unwrap_or_default();
        let text = text.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let names: Vec<_> = self.held.keys().cloned().collect();
        tracing::warn!(
            node = %self.node, workloads = names.len(),
            "nothing was heard of the node for longer than its lease: its workloads are stale since {text}"
        );
        // Its next report writes them all.
        self.held.values_mut().for_each(|written| *written = None);
        self.stale_since = i64::try_from(since).ok();
        let stale_since = self.stale_since;
        self.update(|record| record.stale_since = stale_since);
        match workloads::mark_stale(&self.fleet.objects, &self.node, &names, &text).await {
            Ok(()) => {
                self.state = State::Stale;
                let age = Duration::from_secs(now - since);
                self.deadline = Instant::now() + self.fleet.leases.forget_stale.saturating_sub(age);
            }
            Err(error) => {
                tracing::warn!(node = %self.node, %error, "cannot mark all workloads as stale; trying again");
                self.deadline = Instant::now() + RETRY;
            }
        }
    }

    /// A node that was stale has been heard again, and its workloads are written.
    pub(super) fn is_back(&mut self) {
        if self.stale_since.take().is_some() {
            tracing::info!(node = %self.node, "the node is heard again");
            self.update(|record| record.stale_since = None);
        }
    }

    /// Its workloads were removed; what could not be is tried again.
    pub(super) fn gone(&mut self) {
        if self.held.is_empty() {
            self.state = State::Gone;
            self.stale_since = None;
            self.deadline = Instant::now() + SHOWN;
            self.update(|record| {
                record.workloads = Arc::default();
                record.stale_since = None;
                record.connected = false;
            });
        } else {
            self.state = State::Stale;
            self.deadline = Instant::now() + RETRY;
        }
    }

    pub(super) async fn evict(&mut self) -> Result<usize, EvictError> {
        if self.session.is_some() && self.state == State::Leased {
            return Err(EvictError::Connected(self.node.to_string()));
        }
        // If it lives after all, it opens another stream, with all that it runs.
        if let Some((_, replies)) = self.session.take() {
            let _ = replies.try_send(Err(Status::aborted("the node was evicted")));
        }
        let count = self.held.len();
        self.reported.clear();
        self.remove_all("the node was evicted").await;
        self.gone();
        match self.held.len() {
            0 => {
                // Nothing is shown of it any more.
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
