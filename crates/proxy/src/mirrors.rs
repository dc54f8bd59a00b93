//! What is known of those who get copies of requests, by who sends them: a service that does not keep up takes no places of
//! others, and after some failures in a row is left alone for a while. What a copy costs, its caller waits for as well.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::FastMap;

/// Copies from one workload to one service that may be under way in a worker.
const MOST: usize = 128;
/// How many copies in a row a service fails to take before it is left alone.
const FAILURES: u32 = 5;
/// For how long at first. Each copy that is tried after, and fails, doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);
/// From how many on those are forgotten that nothing is under way to, so long after the last failure.
const MANY: usize = 256;
const REMEMBERED: Duration = LONGEST_PAUSE.saturating_mul(2);

/// Those of a worker.
#[derive(Default)]
pub(crate) struct Mirrors(RefCell<FastMap<(WorkloadName, ServiceName), Mirror>>);

#[derive(Default)]
struct Mirror {
    under_way: usize,
    /// In a row.
    failures: u32,
    failed_at: Option<Instant>,
    pause: Option<Pause>,
    /// Whether a copy is under way that tries whether the pause is over.
    is_tried: bool,
}

impl Mirror {
    /// Whether it is to be remembered without a copy under way.
    fn is_remembered(&self) -> bool {
        self.under_way > 0 || self.failed_at.is_some_and(|at| at.elapsed() < REMEMBERED)
    }
}

#[derive(Clone, Copy)]
struct Pause {
    length: Duration,
    until: Instant,
}

impl Pause {
    fn begin(length: Duration) -> Self {
        Self { length, until: Instant::now() + length }
    }
}

/// Why a copy is not sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// As many as may be are under way.
    Full,
    /// The last ones were not taken.
    Paused,
}

/// A copy that is under way.
pub(crate) struct MirrorPlace {
    of: Rc<Mirrors>,
    key: (WorkloadName, ServiceName),
    /// It tries whether copies are taken again.
    tries: bool,
}

impl MirrorPlace {
    /// Takes a place for a copy, unless there is none.
    pub fn take(of: &Rc<Mirrors>, source: &WorkloadName, service: &ServiceName) -> Result<Self, NoPlace> {
        let key = (source.clone(), service.clone());
        let mut mirrors = of.0.borrow_mut();
        if mirrors.len() >= MANY {
            mirrors.retain(|_, mirror| mirror.is_remembered());
        }
        let mirror = mirrors.entry(key.clone()).or_default();
        if mirror.under_way == MOST {
            return Err(NoPlace::Full);
        }
        let tries = match &mirror.pause {
            Some(pause) if mirror.is_tried || Instant::now() < pause.until => return Err(NoPlace::Paused),
            pause => pause.is_some(),
        };
        mirror.is_tried |= tries;
        mirror.under_way += 1;
        Ok(Self { of: of.clone(), key, tries })
    }

    /// Says whether the copy was taken: all of it, and in time.
    pub fn ended(self, taken: bool) {
        let mut mirrors = self.of.0.borrow_mut();
        let Some(mirror) = mirrors.get_mut(&self.key) else { return };
        if taken {
            mirror.failures = 0;
            mirror.pause = None;
            return;
        }
        mirror.failures = mirror.failures.saturating_add(1);
        mirror.failed_at = Some(Instant::now());
        match &mut mirror.pause {
            None if mirror.failures >= FAILURES => mirror.pause = Some(Pause::begin(FIRST_PAUSE)),
            Some(pause) if self.tries => *pause = Pause::begin(LONGEST_PAUSE.min(pause.length * 2)),
            _ => {}
        }
    }
}

impl Drop for MirrorPlace {
    fn drop(&mut self) {
        let mut mirrors = self.of.0.borrow_mut();
        let Some(mirror) = mirrors.get_mut(&self.key) else { return };
        mirror.under_way -= 1;
        if self.tries {
            mirror.is_tried = false;
        }
        if mirror.under_way == 0 && mirror.failures == 0 {
            mirrors.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(Rc<Mirrors>, WorkloadName, ServiceName);

    impl Pair {
        fn new() -> Self {
            Self(Rc::default(), WorkloadName::new("shop", "web"), ServiceName::new("shop", "shadow"))
        }

        fn take(&self) -> Result<MirrorPlace, NoPlace> {
            MirrorPlace::take(&self.0, &self.1, &self.2)
        }

        /// Copies, one after the other, that all end so.
        fn copies(&self, count: u32, taken: bool) {
            (0..count).for_each(|_| self.take().ok().unwrap().ended(taken));
        }

        fn is_paused(&self) -> bool {
            self.take().err() == Some(NoPlace::Paused)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_no_copies_is_tried_less_and_less_often() {
        let pair = Pair::new();
        pair.copies(FAILURES, false);
        let mut pause = FIRST_PAUSE;
        while pause < LONGEST_PAUSE * 4 {
            assert!(pair.is_paused());
            tokio::time::advance(pause.min(LONGEST_PAUSE) - Duration::from_millis(1)).await;
            assert!(pair.is_paused(), "{pause:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            let tried = pair.take().ok().unwrap();
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(pair.is_paused(), "one is tried, and no more, however long that takes");
            tried.ended(false);
            pause *= 2;
        }
        tokio::time::advance(LONGEST_PAUSE).await;
        pair.copies(1, true);
        assert!(pair.0.0.borrow().is_empty(), "nothing is left of it");
        pair.copies(FAILURES - 1, false);
        assert!(!pair.is_paused(), "failures count anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_says_nothing_of_the_service_is_followed_by_another() {
        let pair = Pair::new();
        pair.copies(FAILURES, false);
        tokio::time::advance(FIRST_PAUSE).await;
        for _ in 0..3 {
            drop(pair.take().ok().unwrap());
        }
        pair.copies(1, true);
        assert!(pair.0.0.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_forgotten() {
        let mirrors = Rc::<Mirrors>::default();
        let copy = |source: usize, failures| {
            let (source, shadow) =
                (WorkloadName::new("shop", format!("w{source}")), ServiceName::new("shop", "s"));
            for _ in 0..failures {
                MirrorPlace::take(&mirrors, &source, &shadow).ok().unwrap().ended(false);
            }
        };
        (0..MANY).for_each(|source| copy(source, FAILURES));
        copy(MANY, 1);
        assert_eq!(mirrors.0.borrow().len(), MANY + 1, "they are left alone, still");
        tokio::time::advance(REMEMBERED).await;
        copy(MANY + 1, 1);
        assert_eq!(mirrors.0.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn some_failures_pause_nothing_and_those_of_before_a_pause_do_not_lengthen_it() {
        let pair = Pair::new();
        for _ in 0..3 {
            pair.copies(FAILURES - 1, false);
            pair.copies(1, true);
        }
        let under_way: Vec<_> = (0..MOST).map(|_| pair.take().ok().unwrap()).collect();
        assert_eq!(pair.take().err(), Some(NoPlace::Full));
        under_way.into_iter().for_each(|copy| copy.ended(false));
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(!pair.is_paused());
    }
}
