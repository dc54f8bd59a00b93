//! What is kept of a run.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fault::Fault;
use super::run::RunEvent;
use super::scope::Millis;
use crate::name::NamespacedName;

/// What has happened in a run, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    pub at: Millis,
    pub event: RunEvent,
    /// Which of the run's calls or timers it is about, as [`super::run::RunStep::path`]: for who looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    /// The call that was answered: for who looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallRecord>,
    /// Calls that nobody waits for since: for who looks at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut_off: Vec<CutOffCall>,
}

/// A call that had been sent, and was given up before its answer was there. What was called may have done it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutOffCall {
    /// As [`HistoryEntry::path`].
    pub path: Arc<str>,
    #[serde(flatten)]
    pub made: CallRecord,
}

/// How a call was made. What is secret in it is shown as `***`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    pub began: Millis,
    pub method: Arc<str>,
    pub endpoint: Arc<str>,
    /// `None`: there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The request's trace (W3C Trace Context, `trace-id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Arc<str>>,
}

/// Which run it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunName {
    pub namespace: Arc<str>,
    pub flow: Arc<str>,
    pub run: Arc<str>,
}

impl RunName {
    /// The Flow that it is a run of.
    pub fn of_flow(&self) -> NamespacedName {
        NamespacedName::new(self.namespace.clone(), self.flow.clone())
    }
}

/// What is added to a history.
#[derive(Debug, Clone)]
pub struct Append {
    /// The number of the lease under which it is added.
    pub lease: u64,
    /// The number of the first entry: how many there are before it.
    pub first: u32,
    pub entries: Vec<HistoryEntry>,
    /// What the run has come to with them.
    pub checkpoint: Option<Vec<u8>>,
    pub then: Then,
}

/// How it goes on with a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Then {
    GoesOn,
    /// Nobody need have it in memory until then.
    Waits(Millis),
    /// Until somebody resumes it.
    Suspended,
    Ends(Millis, Outcome),
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Completed(Arc<Value>),
    Faulted(Fault),
    Cancelled,
}

/// What of a history has led to where the run is: without that from which it was gone back ([`RunEvent::Retried`]). Each entry with
/// its number in the history, whose first entry is `first`.
pub fn lasting(first: u32, entries: &[HistoryEntry]) -> Vec<(u32, &HistoryEntry)> {
    let mut parts = Vec::new();
    let mut end = entries.len();
    loop {
        let retried = entries[..end].iter().enumerate().rev().find_map(|(at, entry)| match entry.event {
            RunEvent::Retried { entries, .. } => Some((at, entries)),
            _ => None,
        });
        let (from, next) = retried.map_or((0, 0), |(at, until)| {
            // Never forward, whatever it says.
            (at, at.min(until.saturating_sub(first) as usize))
        });
        parts.push(from..end);
        if retried.is_none() {
            break;
        }
        end = next;
    }
    let parts = parts.into_iter().rev().flatten();
    parts.map(|at| (first.saturating_add(at as u32), &entries[at])).collect()
}

impl HistoryEntry {
    /// One that says nothing for people.
    pub fn new(at: Millis, event: RunEvent) -> Self {
        Self { at, event, path: None, call: None, cut_off: Vec::new() }
    }
}
