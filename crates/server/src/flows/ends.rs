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
    waiting: Mutex<HashMap<RunName, Arc<Notify>>>,
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
        let end = waiting.entry(run.clone()).or_default().clone();
        Some(Waiter { ends: self, run: run.clone(), end })
    }

    pub(super) fn tell(&self, run: &RunName) {
        if let Some(end) = self.waiting.lock().get(run) {
            end.notify_waiters();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.ends.waiting.lock();
        // This one's, and that in the map.
        if waiting.get(&self.run).is_some_and(|end| Arc::strong_count(end) <= 2) {
            waiting.remove(&self.run);
        }
    }
}
