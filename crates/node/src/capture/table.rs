//! A node's nftables table: every change of it is one transaction, and it is known whether it is still what was made of it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tulle_sys::nft::{self, NftError};
use tulle_sys::nft_watch::{self, Change, Heard};

use crate::backoff::{Backoff, Pace};

/// How many changes of our own are known by the process that made them, until what the kernel said of them has been heard.
const OWN_CHANGES: usize = 1024;

/// How soon rules that could not be made are tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long after the last time something is made anew at once that somebody takes away again and again.
const QUIET: Duration = Duration::from_secs(60);

pub(super) struct NftTable {
    name: String,
    /// The processes that have changed the rules for us, and when they ended.
    own: VecDeque<(u32, Instant)>,
    /// The rules' generation in which the table was what we had made of it, where that is known.
    generation: Option<u32>,
    retry: Backoff,
    retry_at: Option<Instant>,
    /// What is missing, or in doubt, and not refused by the system.
    repairs: Pace,
    repair_at: Option<Instant>,
}

impl NftTable {
    /// One of which nothing was made yet.
    pub fn new(name: String) -> Self {
        Self {
            name,
            own: VecDeque::new(),
            generation: None,
            retry: Backoff::new(RETRY.0, RETRY.1),
            retry_at: None,
            repairs: Pace::new(RETRY.0, RETRY.1, QUIET),
            repair_at: None,
        }
    }

    /// Changes it.
    pub fn apply(&mut self, script: &str) -> Result<(), NftError> {
        let known = self.generation;
        let before = nft_watch::generation().ok();
        self.run(script)?;
        // If all that was changed since the table was known, was changed now.
        self.generation = next_generation(before).filter(|_| known.is_some() && known == before);
        Ok(())
    }

    /// Puts another table in the place of the one that there is.
    pub fn replace(&mut self, script: &str) -> Result<(), NftError> {
        let before = nft_watch::generation().ok();
        self.run(script)?;
        self.generation = next_generation(before);
        Ok(())
    }

    /// Runs nft for a node.
    fn run(&mut self, script: &str) -> Result<(), NftError> {
        let mut process = None;
        let applied = nft::apply(script, |started| process = Some(started));
        // Nobody looks at these meanwhile.
        self.own.extend(process.map(|process| (process, Instant::now())));
        if self.own.len() > OWN_CHANGES {
            self.own.pop_front();
        }
        applied
    }

    /// It is being made anew.
    pub fn begins(&mut self) {
        self.repair_at = None;
    }

    /// It was made anew: all of it, or it has to be tried again.
    pub fn was_made(&mut self, whole: bool) {
        self.retry_at = (!whole).then(|| Instant::now() + self.retry.delay(1.0));
        if whole {
            self.retry.reset();
        }
    }

    /// Whether it has to be made anew now: by what the kernel said of it, as these cgroups of it are not there any more, or as
    /// it could not be made.
    pub fn is_due(&mut self, heard: &Heard, lost: &[PathBuf]) -> bool {
        let now = Instant::now();
        let foreign = heard.changes.iter().any(|change| match change {
            Change::By(process) => !self.own.iter().any(|(own, _)| own == process),
            Change::Missed => false,
        });
        if let Some(until) = heard.until {
            // A later process may have the same number.
            self.own.retain(|(_, ended)| *ended >= until);
        }
        if foreign {
            tracing::warn!("somebody else has changed the nftables table {}: it is made anew", self.name);
        }
        let doubtful = heard.changes.contains(&Change::Missed) && !self.is_as_made();
        if (doubtful || !lost.is_empty()) && self.repair_at.is_none() {
            if doubtful {
                tracing::warn!(
                    "more was changed at once than the kernel could tell: the nftables table {} is made anew",
                    self.name
                );
            }
            for cgroup in lost {
                tracing::warn!("somebody has removed the cgroup {}: it is made anew", cgroup.display());
            }
            self.repair_at = Some(now + self.repairs.delay(now, 1.0));
        }
        foreign || [self.retry_at, self.repair_at].into_iter().flatten().any(|at| at <= now)
    }

    /// Whether it is known to be what was made of it.
    fn is_as_made(&self) -> bool {
        self.generation.is_some() && nft_watch::generation().ok() == self.generation
    }
}

/// The rules' present generation, if it is the next one after `before`: nobody else has changed any rules meanwhile.
fn next_generation(before: Option<u32>) -> Option<u32> {
    let next = before?.wrapping_add(1);
    (nft_watch::generation().ok()? == next).then_some(next)
}
