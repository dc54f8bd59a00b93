//! Whether an endpoint is passed over for a while, by what became of the attempts at it.
//!
//! A failed connect, a refused link or the word that a workload is stopping trips it: for a second, then
//! twice as long each time, at most 30 s. One whose link takes long to open is passed over for a second,
//! which counts as no failure. The first success afterwards heals it.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// What became of an attempt at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The application answered, after that time, with that status of HTTP.
    Answered { status: u16, latency: Duration },
    /// A connection of bytes, or an upgrade's, is open after that time.
    Connected { latency: Duration },
    /// It takes no requests or connections: nobody listens, or who is there is not who was promised.
    Unreachable,
    /// It is stopping.
    Draining,
    /// The way to it is not open yet.
    Pending,
    /// The request or connection was lost, or what came of it was no answer.
    Broken,
    /// It says nothing of the endpoint: what failed was the caller's affair, or nobody's.
    Void,
}

/// What is remembered of one endpoint. Times are since any fixed moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    failures: u32,
    until: Duration,
}

impl Health {
    /// Learns what became of an attempt that ends `now`.
    pub fn note(&mut self, outcome: AttemptOutcome, now: Duration) {
        match outcome {
            AttemptOutcome::Answered { .. } | AttemptOutcome::Connected { .. } => *self = Self::default(),
            AttemptOutcome::Unreachable | AttemptOutcome::Draining => self.fail(now),
            AttemptOutcome::Pending => self.until = self.until.max(now + FIRST),
            AttemptOutcome::Broken | AttemptOutcome::Void => {}
        }
    }

    fn fail(&mut self, now: Duration) {
        // What failed while it was passed over anyway was under way before, and says nothing new.
        if self.until <= now || self.failures == 0 {
            let pause = FIRST.saturating_mul(1 << self.failures.min(5)).min(LONGEST);
            self.failures += 1;
            self.until = now + pause;
        }
    }

    /// Until when it is passed over.
    pub fn until(&self) -> Duration {
        self.until
    }

    /// Whether to pass it over.
    pub fn avoids(&self, now: Duration) -> bool {
        self.until > now
    }

    /// Whether there is nothing to remember.
    pub fn is_well(&self) -> bool {
        self.failures == 0 && self.until == Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_until_it_works() {
        let mut health = Health::default();
        let mut now = Duration::from_secs(100);
        assert!(!health.avoids(now));
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            health.note(AttemptOutcome::Unreachable, now);
            health.note(AttemptOutcome::Draining, now);
            now += Duration::from_secs(seconds) - LATENCY;
            assert!(health.avoids(now), "{seconds}");
            now += LATENCY;
            assert!(!health.avoids(now), "{seconds}");
        }
        health.note(AttemptOutcome::Unreachable, now);
        health.note(AttemptOutcome::Connected { latency: LATENCY }, now);
        assert!(!health.avoids(now) && health.is_well());
        health.note(AttemptOutcome::Unreachable, now);
        assert!(!health.avoids(now + Duration::from_secs(1)));
        assert!(!health.is_well());
        // Whatever it answers: it is there.
        health.note(AttemptOutcome::Answered { status: 503, latency: LATENCY }, now);
        assert!(health.is_well());
    }

    #[test]
    fn a_link_that_takes_long_is_passed_over_and_charged_with_nothing() {
        let mut health = Health::default();
        let begin = Duration::from_secs(100);
        for seconds in [0, 1, 2] {
            let now = begin + Duration::from_secs(seconds);
            health.note(AttemptOutcome::Pending, now);
            assert!(health.avoids(now + Duration::from_millis(999)));
            assert!(!health.avoids(now + Duration::from_secs(1)), "{seconds}");
        }
        // Its end is the first failure, though it is passed over at that moment.
        let end = begin + Duration::from_millis(2500);
        health.note(AttemptOutcome::Unreachable, end);
        assert!(health.avoids(end + Duration::from_millis(999)));
        assert!(!health.avoids(end + Duration::from_secs(1)));
    }

    #[test]
    fn what_says_nothing_of_an_endpoint_changes_nothing() {
        let now = Duration::from_secs(100);
        for outcome in [AttemptOutcome::Broken, AttemptOutcome::Void] {
            let mut health = Health::default();
            health.note(outcome, now);
            assert!(health.is_well());
            health.note(AttemptOutcome::Unreachable, now);
            health.note(outcome, now);
            assert!(health.avoids(now));
        }
    }
}
