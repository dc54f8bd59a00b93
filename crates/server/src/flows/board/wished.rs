//! What is wanted of a run since its runner has it.

use super::RunWish;

/// The last of each: whether it is to be suspended, that it is to be cancelled, and from where on it is retried. There are no more,
/// however often people say so.
#[derive(Debug, Default)]
pub(super) struct Wished {
    /// In the order in which they were last said.
    all: Vec<RunWish>,
    /// How many of the first ones its runner was told together with the run.
    given: usize,
}

/// Of two wishes that are alike the later one counts.
fn are_alike(one: &RunWish, other: &RunWish) -> bool {
    let of_state = |wish: &RunWish| matches!(wish, RunWish::Suspend | RunWish::Resume);
    of_state(one) && of_state(other) || std::mem::discriminant(one) == std::mem::discriminant(other)
}

impl Wished {
    pub(super) fn add(&mut self, wish: RunWish) {
        if let Some(at) = self.all.iter().position(|before| are_alike(before, &wish)) {
            self.all.remove(at);
            self.given -= usize::from(at < self.given);
        }
        self.all.push(wish);
    }

    /// All, for a runner that is told of the run.
    pub(super) fn give(&mut self) -> Vec<RunWish> {
        self.given = self.all.len();
        self.all.clone()
    }

    /// Nobody was told any of it.
    pub(super) fn take_back(&mut self) {
        self.given = 0;
    }

    /// Those that came after the run was given.
    pub(super) fn since(&self) -> &[RunWish] {
        self.all.get(self.given..).unwrap_or_default()
    }
}
