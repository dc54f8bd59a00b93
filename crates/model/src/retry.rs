//! Whether a failed attempt at a request or connection is followed by another. How many of them a service may get is
//! the affair of its [budget](crate::retry_budget).

use std::time::Duration;

use crate::snapshot::Retry;

/// Attempts at one request. Answers of workloads that are stopping and waits for links don't count.
pub(crate) const ATTEMPTS: u32 = 3;
/// With them, so many.
const ATTEMPTS_IN_ALL: u32 = 10;
/// How often a request may be sent back for nobody's fault, and how long it then waits at first; that doubles.
const SENT_BACK: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
/// How long another attempt waits at least where a route asks for retries and not for how long; that doubles.
pub(crate) const BACKOFF: Duration = Duration::from_millis(25);
/// How often it doubles.
const DOUBLINGS: u32 = 4;

/// How an attempt failed, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It has certainly not reached the application.
    Unsent,
    /// The same, and it says nothing of the service: a workload was stopping, a link was not open yet.
    Uncounted,
    /// It has perhaps reached the application, and does no harm when it is done twice.
    Harmless,
    /// Another attempt would fare no better, or do harm.
    Final,
}

/// What is remembered of the attempts at one request or connection, besides how many there were.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tries {
    /// Those that say nothing of the service.
    uncounted: u32,
    /// Those that were sent back for nobody's fault, which are not among those made.
    sent_back: u32,
}

impl Tries {
    /// Whether another attempt may follow the one that failed, which was the `made`th; apart from the budget. `asked`: what
    /// the rule says of it.
    pub fn may_repeat(&mut self, made: u32, failure: Failure, asked: Option<&Retry>) -> bool {
        match failure {
            Failure::Final => return false,
            Failure::Uncounted => self.uncounted += 1,
            Failure::Unsent | Failure::Harmless => {}
        }
        let most = asked.and_then(|retry| retry.attempts).map_or(ATTEMPTS, |retries| retries + 1);
        made - self.uncounted.min(made) < most && made < ATTEMPTS_IN_ALL.max(most)
    }

    /// An attempt was sent back for nobody's fault, and is not counted among those made. How long the next one waits;
    /// `None`: there is none.
    pub fn sent_back(&mut self) -> Option<Duration> {
        self.sent_back += 1;
        (self.sent_back <= SENT_BACK).then(|| PAUSE * (1 << self.sent_back))
    }
}

impl Retry {
    /// Whether an answer with that status is to be had again.
    pub fn wants(&self, status: u16) -> bool {
        self.codes.contains(&status)
    }

    /// How long the attempt after `made` others waits: at least the back-off, which doubles with each, and half of that more by
    /// chance, so that what failed together is not tried again together.
    pub fn pause(&self, made: u32, random: u64) -> Duration {
        let least = self.backoff.unwrap_or(BACKOFF) * (1 << made.saturating_sub(1).min(DOUBLINGS));
        least + least.mul_f64(0.5 * (random as f64 / u64::MAX as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_says_how_often_and_how_long() {
        let retry = |attempts, backoff| Retry { codes: vec![503, 429], attempts, backoff };
        let count = |retry: &Retry| {
            let mut tries = Tries::default();
            (1..100).find(|made| !tries.may_repeat(*made, Failure::Unsent, Some(retry)))
        };
        for (attempts, made) in [(None, ATTEMPTS), (Some(0), 1), (Some(1), 2), (Some(10), 11)] {
            assert_eq!(count(&retry(attempts, None)), Some(made));
        }
        let second = Duration::from_secs(1);
        let given = retry(None, Some(second));
        for (made, doubled) in [(1, 1), (2, 2), (3, 4), (5, 16), (9, 16)] {
            assert_eq!(given.pause(made, 0), second * doubled);
            assert_eq!(given.pause(made, u64::MAX), second * doubled + second * doubled / 2);
        }
        assert_eq!(retry(None, None).pause(1, 0), BACKOFF);
        assert!(given.wants(429) && !given.wants(500));
    }

    #[test]
    fn attempts_are_limited() {
        let count = |failure| {
            let mut tries = Tries::default();
            (1..100).find(|made| !tries.may_repeat(*made, failure, None))
        };
        assert_eq!(count(Failure::Final), Some(1));
        assert_eq!(count(Failure::Unsent), Some(ATTEMPTS));
        assert_eq!(count(Failure::Harmless), Some(ATTEMPTS));
        assert_eq!(count(Failure::Uncounted), Some(ATTEMPTS_IN_ALL));
    }

    #[test]
    fn a_wait_does_not_count_and_the_attempts_beside_it_do() {
        let mut tries = Tries::default();
        assert!(tries.may_repeat(1, Failure::Uncounted, None));
        assert!((2..=ATTEMPTS).all(|made| tries.may_repeat(made, Failure::Unsent, None)));
        assert!(!tries.may_repeat(ATTEMPTS + 1, Failure::Unsent, None));
    }

    #[test]
    fn what_is_sent_back_for_nobodys_fault_waits_longer_each_time_and_not_for_ever() {
        let mut tries = Tries::default();
        let pauses: Vec<Duration> = std::iter::from_fn(|| tries.sent_back()).take(100).collect();
        assert_eq!(pauses.len(), SENT_BACK as usize);
        assert_eq!(pauses[0], 2 * PAUSE);
        assert!(pauses.windows(2).all(|two| two[1] == 2 * two[0]), "{pauses:?}");
    }
}
