//! How much a run may take.

use std::ops::RangeInclusive;

/// The bounds of each run that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunBounds {
    /// How many tasks it may begin.
    pub tasks: u32,
    /// How many bytes of JSON may go from task to task, the input included.
    pub document: usize,
    /// How many bytes its history may have in the store.
    pub history: usize,
}

impl Default for RunBounds {
    fn default() -> Self {
        Self { tasks: 10_000, document: 256 << 10, history: 50 << 20 }
    }
}

const TASKS: RangeInclusive<u32> = 1..=100_000;
const DOCUMENT: RangeInclusive<usize> = 1 << 10..=1 << 20;
const HISTORY: RangeInclusive<usize> = 1 << 20..=64 << 20;

/// A bound that no server is started with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidBounds {
    #[error("a run may begin (`--flow-max-tasks`) 1 to 100000 tasks")]
    Tasks,
    #[error("a document between tasks (`--flow-max-document`) may have 1k to 1M")]
    Document,
    #[error("the history of a run (`--flow-max-history`) may have 1M to 64M")]
    History,
}

impl RunBounds {
    /// Checks a number of tasks: 1 to 100,000.
    pub fn check_tasks(tasks: u32) -> Result<u32, InvalidBounds> {
        if TASKS.contains(&tasks) { Ok(tasks) } else { Err(InvalidBounds::Tasks) }
    }

    /// Checks how large a document may be: 1 KiB to 1 MiB.
    pub fn check_document(bytes: usize) -> Result<usize, InvalidBounds> {
        if DOCUMENT.contains(&bytes) { Ok(bytes) } else { Err(InvalidBounds::Document) }
    }

    /// Checks how large a history may be: 1 MiB to 64 MiB.
    pub fn check_history(bytes: usize) -> Result<usize, InvalidBounds> {
        if HISTORY.contains(&bytes) { Ok(bytes) } else { Err(InvalidBounds::History) }
    }

    /// Checks all.
    pub fn check(&self) -> Result<(), InvalidBounds> {
        Self::check_tasks(self.tasks)?;
        Self::check_document(self.document)?;
        Self::check_history(self.history).map(drop)
    }
}
