//! A watch: first from the log, then from the writer's broadcast.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::{Event, Inner, StoreError, read};

/// All writes under a prefix, in their order, none left out and none twice.
///
/// It holds at most a bounded number of events. A reader that is slower than the writers is
/// served from the log; only when the log has dropped what comes next does it fail with
/// [`StoreError::Compacted`], and the reader must list again.
#[derive(Debug)]
pub struct Watch {
    inner: Arc<Inner>,
    prefix: String,
    /// Every matching write up to this revision is in `pending` or was returned.
    read_to: u64,
    /// Read, but not yet returned.
    pending: VecDeque<Event>,
    receiver: broadcast::Receiver<Arc<[Event]>>,
    /// Whether the log may hold writes after `read_to` that `receiver` will not bring.
    behind: bool,
}

impl Watch {
    pub(super) async fn open(inner: Arc<Inner>, prefix: &str, revision: u64) -> Result<Self, StoreError> {
        let receiver = inner.events.subscribe();
        let mut watch = Self {
            inner,
            prefix: prefix.to_owned(),
            read_to: revision,
            pending: VecDeque::new(),
            receiver,
            behind: true,
        };
        watch.read_log().await?;
        Ok(watch)
    }

    /// The next write. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, StoreError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            self.fill().await?;
        }
    }

    /// The next write, and what is there already of those behind it: at most so many. Cancelling the
    /// future loses nothing.
    pub async fn next_batch(&mut self, most: usize) -> Result<Vec<Event>, StoreError> {
        let mut batch = vec![self.next().await?];
        while batch.len() < most {
            match self.pending.pop_front() {
                Some(event) => batch.push(event),
                // Whatever goes wrong is found again by the next call.
                None if self.behind => break,
                None => match self.receiver.try_recv() {
                    Ok(events) => self.take(&events),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => self.behind = true,
                    Err(_) => break,
                },
            }
        }
        Ok(batch)
    }

    /// Waits until there may be something in `pending`.
    async fn fill(&mut self) -> Result<(), StoreError> {
        if self.behind {
            return self.read_log().await;
        }
        match self.receiver.recv().await {
            Ok(batch) => self.take(&batch),
            Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
            Err(broadcast::error::RecvError::Closed) => return Err(StoreError::Closed),
        }
        Ok(())
    }

    /// The revision up to which every matching write has been returned.
    pub fn position(&self) -> u64 {
        self.pending.front().map_or(self.read_to, |next| next.revision - 1)
    }

    fn take(&mut self, batch: &[Event]) {
        // The writer does not know all that was written.
        self.behind |= batch.is_empty();
        for event in batch {
            if event.revision <= self.read_to {
                continue;
            }
            self.read_to = event.revision;
            if event.key.starts_with(&self.prefix) {
                self.pending.push_back(event.clone());
            }
        }
    }

    /// Reads a stretch of the log. Subscribing comes first, so nothing falls between the two.
    async fn read_log(&mut self) -> Result<(), StoreError> {
        self.receiver = self.receiver.resubscribe();
        let replay = self.inner.read(|database| read::replay(database, &self.prefix, self.read_to)).await?;
        self.read_to = replay.position;
        self.behind = !replay.complete;
        self.pending.extend(replay.events);
        Ok(())
    }
}
