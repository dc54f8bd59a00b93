//! A watch: the writes under a prefix, as a back end brings them.

use std::collections::VecDeque;

use super::event::Reading;
use super::{Event, Store, StoreError, embedded, memory};

/// All writes under a prefix, in their order, none left out and none twice. Those of one transaction follow each other.
///
/// It holds at most a bounded number of events. A reader that is slower than the writers is served from what the
/// store remembers; only when it has forgotten what comes next does the watch fail with
/// [`StoreError::Compacted`], and the reader must list again.
#[derive(Debug)]
pub struct Watch {
    read: Reading,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Embedded(embedded::EmbeddedFollow),
    Memory(memory::MemoryFollow),
}

impl Watch {
    pub(super) async fn open(store: &Store, prefix: &str, revision: u64) -> Result<Self, StoreError> {
        let mut read = Reading { prefix: prefix.to_owned(), to: revision, pending: VecDeque::new() };
        let source = match store {
            Store::Embedded(embedded) => {
                let mut source = embedded.follow();
                source.read_log(&mut read).await?;
                Source::Embedded(source)
            }
            Store::Memory(memory) => {
                let mut source = memory.follow();
                source.fill_ready(&mut read)?;
                Source::Memory(source)
            }
        };
        Ok(Self { read, source })
    }

    /// The next write. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, StoreError> {
        loop {
            if let Some(event) = self.read.pending.pop_front() {
                return Ok(event);
            }
            self.fill().await?;
        }
    }

    /// The next write, and what is there already of those behind it: at most so many. Cancelling the
    /// future loses nothing.
    pub async fn next_batch(&mut self, most: usize) -> Result<Vec<Event>, StoreError> {
        while self.read.pending.is_empty() {
            self.fill().await?;
        }
        while self.read.pending.len() < most {
            let more = match &mut self.source {
                Source::Embedded(source) => source.fill_ready(&mut self.read).await,
                Source::Memory(source) => source.fill_ready(&mut self.read),
            };
            // What is wrong is found again by the next call.
            if !more.unwrap_or(false) {
                break;
            }
        }
        let most = most.min(self.read.pending.len());
        Ok(self.read.pending.drain(..most).collect())
    }

    /// Waits until there may be something in `pending`.
    async fn fill(&mut self) -> Result<(), StoreError> {
        match &mut self.source {
            Source::Embedded(source) => source.fill(&mut self.read).await,
            Source::Memory(source) => source.fill(&mut self.read).await,
        }
    }

    /// The revision up to which every matching write has been returned, and from which another watch goes on. Between
    /// two writes of one transaction it may be one from before it.
    pub fn position(&self) -> u64 {
        self.read.pending.front().map_or(self.read.to, |next| next.revision - 1)
    }
}
