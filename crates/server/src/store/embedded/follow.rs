//! Where a watch gets its writes: first from the log, then from the writer's broadcast.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::super::event::Reading;
use super::{Event, Inner, StoreError, read};

/// What a watch follows.
#[derive(Debug)]
pub(in crate::store) struct EmbeddedFollow {
    inner: Arc<Inner>,
    receiver: broadcast::Receiver<Arc<[Event]>>,
    /// Whether the log may hold writes that `receiver` will not bring.
    behind: bool,
}

impl EmbeddedFollow {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let receiver = inner.events.subscribe();
        Self { inner, receiver, behind: true }
    }

    /// Waits until there may be more.
    pub(in crate::store) async fn fill(&mut self, read: &mut Reading) -> Result<(), StoreError> {
        if self.behind {
            return self.read_log(read).await;
        }
        match self.receiver.recv().await {
            Ok(batch) => self.take(read, &batch),
            Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
            Err(broadcast::error::RecvError::Closed) => return Err(StoreError::Closed),
        }
        Ok(())
    }

    /// Takes what is in the log, or was told by the writer already; false where there is no more of it.
    pub(in crate::store) async fn fill_ready(&mut self, read: &mut Reading) -> Result<bool, StoreError> {
        if self.behind {
            self.read_log(read).await?;
            return Ok(true);
        }
        match self.receiver.try_recv() {
            Ok(batch) => self.take(read, &batch),
            Err(broadcast::error::TryRecvError::Lagged(_)) => self.behind = true,
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    fn take(&mut self, read: &mut Reading, batch: &[Event]) {
        // The writer does not know all that was written.
        self.behind |= batch.is_empty();
        for event in batch {
            if event.revision <= read.to {
                continue;
            }
            read.to = event.revision;
            if event.key.starts_with(&read.prefix) {
                read.pending.push_back(event.clone());
            }
        }
    }

    /// Reads a stretch of the log. Subscribing comes first, so nothing falls between the two.
    pub(in crate::store) async fn read_log(&mut self, read: &mut Reading) -> Result<(), StoreError> {
        self.receiver = self.receiver.resubscribe();
        let replay = self.inner.read(|database| read::replay(database, &read.prefix, read.to)).await?;
        read.to = replay.position;
        self.behind = !replay.complete;
        read.pending.extend(replay.events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::Embedded;
    use super::*;

    #[test]
    fn what_was_read_in_the_log_is_not_taken_again_when_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::create(&folder.path().join("store.redb"), "/owner", b"").unwrap();
        let mut follow = embedded.follow();
        let mut read = Reading { prefix: "/x/".to_owned(), to: 5, pending: VecDeque::new() };
        let event = |revision, key: &str| Event { revision, key: key.into(), value: None, previous: None };
        let batch = [event(4, "/x/a"), event(5, "/x/b"), event(6, "/x/c"), event(7, "/y")];
        follow.take(&mut read, &batch);
        assert_eq!((read.pending.make_contiguous(), read.to), (&mut [event(6, "/x/c")][..], 7));
    }
}
