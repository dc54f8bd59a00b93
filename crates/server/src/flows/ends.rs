//! Who waits for the end of a run.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::RunName;

/// How many may wait at once, of all runs.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Ends {
    waiting: Mutex<HashMap<RunName, Awaited>>,
}

#[derive(Debug, Default)]
struct Awaited {
    end: Arc<Notify>,
    /// How many wait for it.
    waiters: usize,
}

/// Somebody's place among those who wait for a run.
pub(super) struct Waiter<'e> {
    ends: &'e Ends,
    run: RunName,
    pub(super) end: Arc<Notify>,
}

impl Ends {
    /// Waits from now on; none where too many do. Whether it is over is to be looked at after this, and before it is waited.
    pub(super) fn wait(&self, run: &RunName) -> Option<Waiter<'_>> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MOST && !waiting.contains_key(run) {
            return None;
        }
        let awaited = waiting.entry(run.clone()).or_default();
        awaited.waiters += 1;
        Some(Waiter { ends: self, run: run.clone(), end: awaited.end.clone() })
    }

    pub(super) fn tell(&self, run: &RunName) {
        if let Some(awaited) = self.waiting.lock().get(run) {
            awaited.end.notify_waiters();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.ends.waiting.lock();
        if let Some(awaited) = waiting.get_mut(&self.run) {
            awaited.waiters -= 1;
            if awaited.waiters == 0 {
                waiting.remove(&self.run);
            }
        }
    }
}
