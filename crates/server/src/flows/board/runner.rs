//! A process that carries out runs, as the board knows it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tulle_model::stamp::Stamp;

use super::{RunnerNote, allows};
use crate::flows::RunName;

/// A process that carries out runs.
#[derive(Debug)]
pub(in crate::flows) struct Runner {
    pub(in crate::flows) instance: Arc<str>,
    /// The namespaces of whose Flows; `*` for all.
    pub(super) spaces: Arc<[String]>,
    pub(super) most: usize,
    pub(super) heard: Instant,
    /// None: it is not connected.
    pub(super) link: Option<Link>,
    /// It ends when what is under way there has ended.
    pub(super) is_leaving: bool,
    pub(super) runs: HashSet<RunName>,
    /// What it was given, and cannot read. Others may.
    pub(super) unreadable: HashSet<RunName>,
}

/// How many runs are kept in mind that a runner cannot read. One that cannot read more is given no runs any more.
pub(super) const MOST_UNREADABLE: usize = 10_000;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: u64,
    /// Of the certificate with which the stream was opened: others may join under the node's name.
    pub(super) stamp: Option<Stamp>,
    pub(super) notes: mpsc::Sender<RunnerNote>,
}

impl Runner {
    pub(super) fn is_heard(&self, now: Instant, lease: Duration) -> bool {
        now < self.heard + lease
    }

    /// Whether it is there, and its grant is for that namespace.
    pub(super) fn may_have(&self, namespace: &str, now: Instant, lease: Duration) -> bool {
        self.link.is_some() && self.is_heard(now, lease) && allows(&self.spaces, namespace)
    }

    /// Tells it something; one that does not read is cut off.
    pub(super) fn tell(&mut self, note: RunnerNote) {
        if let Some(link) = &self.link
            && link.notes.try_send(note).is_err()
        {
            self.link = None;
        }
    }
}
