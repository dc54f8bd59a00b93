//! Where histories of runs are kept, as who carries runs out sees it.

use std::future::Future;

use serde_json::Value;
use tulle_model::flow::history::{Append, RunName};

#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The run is another one's by now.
    #[error("somebody else carries the run out by now")]
    Lost,
    /// The history is as large as it may be; the text says how large.
    #[error("{0}")]
    Full(String),
    /// It may go well another time.
    #[error("histories cannot be reached: {0}")]
    Later(String),
}

/// Keeps histories. It says how a call went within a bounded time.
pub trait Book: Send + Sync + 'static {
    /// Adds to a history: for good, where it is `Ok`. The same may be added again, where it is not known what became of it.
    fn append(&self, run: &RunName, append: &Append) -> impl Future<Output = Result<(), BookError>> + Send;

    /// The Secrets that the run's workflow lists and its account may read: by name and key, texts.
    fn secrets(&self, run: &RunName, lease: u64) -> impl Future<Output = Result<Value, BookError>> + Send;
}
