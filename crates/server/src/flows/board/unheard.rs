//! Runs of which nothing was heard since their runners have them: the answer that gave one may be lost.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Board, RunName, RunnerNote};

/// How many runners are told again at once: they are to take that in.
const MOST_TOLD: usize = 256;
/// By what the time grows after which one is told again, and how often it does.
const GROWS: u32 = 2;
const MOST_GROWTHS: u32 = 6;

/// In the order in which they were given.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    new: Vec<(RunName, u64)>,
    due: VecDeque<Due>,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    run: RunName,
    lease: u64,
    told: u32,
}

impl Unheard {
    pub(super) fn add(&mut self, run: &RunName, lease: u64) {
        self.new.push((run.clone(), lease));
    }
}

impl Board {
    /// A node asks for a run that it has, or adds to it.
    pub(in crate::flows) fn hear_of(&mut self, run: &RunName) {
        if let Some(carried) = self.runs.get_mut(run) {
            carried.is_heard = true;
        }
    }

    /// Tells runners again of runs of which nothing was heard for a lease. Who has one leaves it at that.
    pub(in crate::flows) fn tell_again(&mut self, now: Instant, lease: Duration) {
        let Unheard { new, due } = &mut self.unheard;
        let new = new.drain(..).map(|(run, number)| Due { at: now + lease, run, lease: number, told: 0 });
        due.extend(new);
        let mut left = Vec::new();
        while left.len() < MOST_TOLD
            && let Some(next) = due.pop_front_if(|next| next.at <= now)
        {
            let Some(carried) = self.runs.get_mut(&next.run) else { continue };
            if carried.is_heard || carried.is_orphan || carried.lease != next.lease {
                continue;
            }
            if let Some(runner) = self.runners.get_mut(&carried.taker.node) {
                runner.tell(RunnerNote::Given(next.run.clone(), next.lease, carried.wanted.all()));
            }
            let told = (next.told + 1).min(MOST_GROWTHS);
            left.push(Due { at: now + lease * GROWS.pow(told), told, ..next });
        }
        // Behind those that are due before.
        for again in left {
            let place = due.partition_point(|other| other.at <= again.at);
            due.insert(place, again);
        }
    }
}
