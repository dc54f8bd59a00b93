//! Room for what waits to be written by a thread: so many bytes, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whether who writes goes on.
#[derive(Default)]
pub struct RoomTaken {
    /// How often something was written.
    times: AtomicU64,
    /// Nothing has been written for as long as somebody has patience.
    stalled: AtomicBool,
}

impl RoomTaken {
    /// Something was written.
    pub fn note(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
    }

    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }
}

pub struct Room {
    bytes: Arc<Semaphore>,
    most: usize,
    /// How long nothing may be written before who waits is sent away.
    patience: Duration,
    taken: Arc<RoomTaken>,
}

impl Room {
    pub fn new(most: usize, patience: Duration, taken: &Arc<RoomTaken>) -> Self {
        Self { bytes: Arc::new(Semaphore::new(most)), most, patience, taken: taken.clone() }
    }

    /// Room that is there at once.
    pub fn try_take(&self, size: usize) -> Option<OwnedSemaphorePermit> {
        self.bytes.clone().try_acquire_many_owned(self.share(size)).ok()
    }

    /// Waits for room for as long as anything at all is written; once nothing is, what finds no room is sent away at once.
    pub async fn take(&self, size: usize) -> Option<OwnedSemaphorePermit> {
        let mut times = self.taken.times();
        loop {
            if self.taken.stalled.load(Ordering::Relaxed) {
                return self.try_take(size);
            }
            let room = self.bytes.clone().acquire_many_owned(self.share(size));
            match tokio::time::timeout(self.patience, room).await {
                // It is never closed.
                Ok(permit) => return permit.ok(),
                Err(_) => {
                    let now = self.taken.times();
                    self.taken.stalled.store(now == times, Ordering::Relaxed);
                    times = now;
                }
            }
        }
    }

    /// Whether half of it is free.
    pub fn is_half_free(&self) -> bool {
        self.bytes.available_permits() >= self.most / 2
    }

    /// What is larger than all of the room is alone in it.
    fn share(&self, size: usize) -> u32 {
        u32::try_from(size.clamp(1, self.most)).unwrap_or(u32::MAX)
    }
}
