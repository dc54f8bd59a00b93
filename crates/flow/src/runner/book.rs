//! Where histories of runs are kept, as who carries runs out sees it.

use std::future::Future;
use std::sync::Arc;

use serde_json::Value;
use tulle_model::flow::history::{HistoryEntry, Outcome};
use tulle_model::flow::scope::Millis;

/// Which run it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId {
    pub namespace: Arc<str>,
    pub flow: Arc<str>,
    pub run: Arc<str>,
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
    /// It is to be given to somebody again at that time.
    Waits(Millis),
    /// It is to be given to somebody when it is resumed.
    Suspended,
    Ends(Millis, Outcome),
}

#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The run is another one's by now.
    #[error("somebody else carries the run out by now")]
    Lost,
    /// It may go well another time.
    #[error("histories cannot be reached: {0}")]
    Later(String),
}

/// Keeps histories. It says how a call went within a bounded time.
pub trait Book: Send + Sync + 'static {
    /// Adds to a history: for good, where it is `Ok`. The same may be added again, where it is not known what became of it.
    fn append(&self, run: &RunId, append: &Append) -> impl Future<Output = Result<(), BookError>> + Send;

    /// The Secrets that the run's workflow lists and its account may read: by name and key, texts.
    fn secrets(&self, run: &RunId, lease: u64) -> impl Future<Output = Result<Value, BookError>> + Send;
}
