//! What people want of a run, until its history shows it. It is kept in the run's header, so that what was answered is not lost with
//! whoever was to hear of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tulle_model::flow::history::HistoryEntry;
use tulle_model::flow::run::RunEvent;

/// What people want of a run that somebody carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunWish {
    Suspend,
    Resume,
    /// From the task on that this is the reference of.
    Retry(Arc<str>),
}

impl RunWish {
    /// Of two wishes that are alike the later one counts.
    fn is_like(&self, other: &Self) -> bool {
        matches!(self, Self::Retry(_)) == matches!(other, Self::Retry(_))
    }

    fn is_shown_by(&self, event: &RunEvent) -> bool {
        match self {
            Self::Suspend => *event == RunEvent::Suspended,
            Self::Resume => *event == RunEvent::Resumed,
            Self::Retry(_) => matches!(event, RunEvent::Retried { .. }),
        }
    }
}

/// All that is wanted of a run, in the order in which it was said: at most one of a kind, however often people say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunWishes(Vec<Said>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    wish: RunWish,
    /// The number of the lease at that time. Who has a later one was told together with the run.
    lease: u64,
}

impl RunWishes {
    pub(super) fn add(&mut self, wish: RunWish, lease: u64) {
        self.0.retain(|said| !said.wish.is_like(&wish));
        self.0.push(Said { wish, lease });
    }

    /// Takes over what was said to somebody else under a lease or a later one.
    pub(super) fn add_since(&mut self, others: &Self, lease: u64) {
        for said in others.0.iter().filter(|said| said.lease >= lease) {
            self.add(said.wish.clone(), said.lease);
        }
    }

    /// These are in the run's history now.
    pub(super) fn shown(&mut self, entries: &[HistoryEntry]) {
        self.0.retain(|said| !entries.iter().any(|entry| said.wish.is_shown_by(&entry.event)));
    }

    /// Who had the run under that lease leaves it: what it was told with the run has come to nothing.
    pub(super) fn left(&mut self, lease: u64) {
        self.0.retain(|said| said.lease >= lease);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn all(&self) -> Vec<RunWish> {
        self.0.iter().map(|said| said.wish.clone()).collect()
    }

    /// What was said since somebody has the run under a lease.
    pub(super) fn since(&self, lease: u64) -> impl Iterator<Item = RunWish> {
        self.0.iter().filter(move |said| said.lease >= lease).map(|said| said.wish.clone())
    }
}
