//! How many runs each Flow has, and whether one more may begin.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::name::NamespacedName;

use super::{Board, NoTaker, RunName, Taker};
use crate::flows::known::KnownFlow;

/// How many runs of a Flow may wait for their turn.
pub(in crate::flows) const MOST_QUEUED: usize = 10_000;

/// What is counted of a Flow's runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowTally {
    /// They have begun, and are not over.
    pub open: usize,
    pub queued: usize,
    /// They are over, and kept.
    pub over: usize,
    /// Since this server's start, as all below.
    pub started: u64,
    pub completed: u64,
    pub faulted: u64,
    pub cancelled: u64,
    pub refused: u64,
}

impl FlowTally {
    /// What becomes of its runs where the Flow of that name is deleted; `None`: there are none.
    pub fn lost_with(&self, flow: &NamespacedName) -> Option<String> {
        let are = |count: usize| if count == 1 { "is" } else { "are" };
        let under_way = self.open.saturating_add(self.queued);
        let all = under_way.saturating_add(self.over);
        let cancelled = match under_way {
            0 => String::new(),
            count => format!("{count} under way {} cancelled, and ", are(count)),
        };
        let told = || {
            format!("the runs of the Flow {flow} go with it: {cancelled}{all} in all {} forgotten", are(all))
        };
        (all > 0).then(told)
    }
}

impl Board {
    pub(in crate::flows) fn tally(&mut self, flow: &NamespacedName) -> &mut FlowTally {
        self.flows.entry(flow.clone()).or_default()
    }

    pub(in crate::flows) fn tallies(&self) -> &BTreeMap<NamespacedName, FlowTally> {
        &self.flows
    }

    /// Forgets what was counted of a Flow that is gone, and of which there are no runs.
    pub(in crate::flows) fn forget_flow(&mut self, flow: &NamespacedName) {
        self.flows.remove(flow);
        self.waiting.remove(flow);
    }

    /// A run is counted as open, and the store has failed while it was to say so.
    pub(in crate::flows) fn set_unsure(&mut self, run: &RunName) {
        self.unsure.insert(run.clone());
    }

    pub(in crate::flows) fn is_unsure(&self, run: &RunName) -> bool {
        self.unsure.contains(run)
    }

    /// A run that waited for its turn is counted as open, once; it `is_sure`, or the store has failed meanwhile.
    pub(in crate::flows) fn begins(&mut self, run: &RunName, was_unsure: bool, is_sure: bool) {
        if !is_sure {
            self.set_unsure(run);
        }
        let flow = run.of_flow();
        let tally = self.tally(&flow);
        if !was_unsure {
            tally.open += 1;
            tally.started += 1;
            tally.queued = tally.queued.saturating_sub(1);
        }
        let has_more = tally.queued > 0;
        self.has_queue(&flow, has_more);
    }

    /// A run that is over is counted as open: it is to go on.
    pub(in crate::flows) fn reopens(&mut self, run: &RunName) {
        let tally = self.tally(&run.of_flow());
        tally.over = tally.over.saturating_sub(1);
        tally.open += 1;
    }

    /// It does not.
    pub(in crate::flows) fn stays_over(&mut self, run: &RunName) {
        self.drop_run(run);
        let tally = self.tally(&run.of_flow());
        tally.open = tally.open.saturating_sub(1);
        tally.over += 1;
    }

    /// The store has it as open. Whether that was unsure.
    pub(in crate::flows) fn set_sure(&mut self, run: &RunName) -> bool {
        self.unsure.remove(run)
    }

    /// The store has not, of one that was unsure; it `is_over`, or not there at all.
    pub(in crate::flows) fn was_not_begun(&mut self, run: &RunName, is_over: bool) {
        if self.unsure.remove(run) {
            let tally = self.tally(&run.of_flow());
            tally.open = tally.open.saturating_sub(1);
            tally.over += usize::from(is_over);
        }
    }

    /// How a run is to begin: whoever takes it up, or none where it waits for its turn. The Flow's count has it from now on.
    ///
    /// # Errors
    /// Where there are too many, why.
    pub(in crate::flows) fn admit(
        &mut self,
        run: &RunName,
        flow: &KnownFlow,
        first: Option<&str>,
        now: Instant,
        lease: Duration,
    ) -> Result<Option<Taker>, Refusal> {
        let tally = *self.tally(&flow.name);
        let refused = |board: &mut Self, refusal| {
            board.tally(&flow.name).refused += 1;
            Err(refusal)
        };
        if let Some(limit) = flow.limit
            && (tally.open >= limit as usize || tally.queued > 0)
        {
            if !flow.queues {
                return refused(self, Refusal::Limit(limit));
            }
            if tally.queued >= MOST_QUEUED {
                return refused(self, Refusal::Queue(limit));
            }
            self.tally(&flow.name).queued += 1;
            self.waiting.insert(flow.name.clone());
            return Ok(None);
        }
        match self.take_up(run, &flow.account, first, now, lease) {
            Ok(taker) => {
                self.tally(&flow.name).open += 1;
                Ok(Some(taker))
            }
            Err(NoTaker::Nobody) => refused(self, Refusal::Nobody),
            Err(NoTaker::Full | NoTaker::Taken | NoTaker::Unreadable) => refused(self, Refusal::Full),
        }
    }

    /// The Flows with runs that wait for their turn.
    pub(in crate::flows) fn with_queue(&self) -> Vec<(NamespacedName, FlowTally)> {
        self.waiting.iter().filter_map(|flow| Some((flow.clone(), *self.flows.get(flow)?))).collect()
    }

    pub(in crate::flows) fn has_queue(&mut self, flow: &NamespacedName, queued: bool) {
        if queued {
            self.waiting.insert(flow.clone());
        } else {
            self.waiting.remove(flow);
        }
    }

    /// Whether somebody waits for room.
    pub(in crate::flows) fn wants_room(&self) -> bool {
        !self.orphans.is_empty() || !self.waiting.is_empty()
    }
}

/// Why a run is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::flows) enum Refusal {
    /// So many go on.
    Limit(u32),
    /// So many go on, and too many wait.
    Queue(u32),
    /// No runner has room.
    Full,
    /// There is no runner.
    Nobody,
}
