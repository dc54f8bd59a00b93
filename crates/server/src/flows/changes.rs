//! What has become of runs of late, for who watches. Numbers grow with each change, over restarts of the server, too; of old ones there is nothing.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{RunHeader, RunName};

/// How many are kept.
const KEPT: usize = 8_192;

#[derive(Debug, Clone, PartialEq)]
pub enum RunChange {
    Began(RunHeader),
    Now(RunHeader),
    Gone(RunName),
}

#[derive(Debug)]
pub struct RunChanges {
    /// Each with its number; the last one's is that of `latest`.
    kept: Mutex<VecDeque<RunChange>>,
    latest: watch::Sender<u64>,
    /// The number that this server began with.
    first: u64,
}

impl RunChanges {
    /// `now`: in milliseconds. There are fewer changes than that.
    pub(super) fn new(now: u64) -> Self {
        Self { kept: Mutex::default(), latest: watch::Sender::new(now), first: now }
    }

    pub(super) fn tell(&self, change: RunChange) {
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(change);
        self.latest.send_modify(|latest| *latest += 1);
    }

    /// The number of the latest one.
    pub fn latest(&self) -> u64 {
        *self.latest.borrow()
    }

    /// Wakes with each.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Those after one, with their numbers; `None`: they are not known any more.
    pub fn after(&self, number: u64) -> Option<Vec<(u64, RunChange)>> {
        let kept = self.kept.lock();
        let latest = *self.latest.borrow();
        let before = latest.checked_sub(kept.len() as u64)?;
        if number < before.max(self.first) || number > latest {
            return None;
        }
        let numbered = kept.iter().zip(before + 1..).map(|(change, number)| (number, change.clone()));
        Some(numbered.filter(|(at, _)| *at > number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_known_for_a_while() {
        let changes = RunChanges::new(1_000);
        let gone = |run: usize| {
            RunChange::Gone(RunName { namespace: "a".into(), flow: "b".into(), run: run.to_string().into() })
        };
        assert_eq!((changes.latest(), changes.after(1_000), changes.after(999)), (1_000, Some(vec![]), None));
        for run in 0..KEPT + 2 {
            changes.tell(gone(run));
        }
        let latest = changes.latest();
        assert_eq!(latest, 1_000 + KEPT as u64 + 2);
        assert_eq!(changes.after(latest - 1), Some(vec![(latest, gone(KEPT + 1))]));
        assert_eq!(changes.after(1_002).map(|all| all.len()), Some(KEPT));
        for unknown in [0, 1_001, latest + 1] {
            assert_eq!(changes.after(unknown), None);
        }
    }
}
