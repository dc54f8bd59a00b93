//! When requests are due.
//!
//! With a rate the schedule is fixed beforehand, and a request's latency counts from when it was due:
//! a slow answer that keeps the next requests waiting is theirs too. Who counts from sending forgets
//! exactly the requests that suffered (coordinated omission).

use crate::event::SECOND;

/// When requests are due.
pub enum Pace {
    /// As soon as there is a connection for them.
    FlatOut,
    /// Evenly, so many a second.
    Rate {
        /// The time of the first.
        start: u64,
        /// How many a second.
        rate: f64,
        /// How many were taken.
        taken: u64,
    },
}

impl Pace {
    /// The pace from `start` on.
    pub fn new(start: u64, rate: Option<f64>) -> Self {
        rate.map_or(Pace::FlatOut, |rate| Pace::Rate { start, rate, taken: 0 })
    }

    /// When the next request is due; `None` when it always is.
    pub fn next(&self) -> Option<u64> {
        match *self {
            Pace::FlatOut => None,
            // From the start each time, so that roundings do not add up.
            Pace::Rate { start, rate, taken } => Some(start + (taken as f64 * SECOND as f64 / rate) as u64),
        }
    }

    /// Forgets what was due before `at`.
    pub fn skip_to(&mut self, at: u64) {
        if let Pace::Rate { start, rate, taken } = self {
            let before = at.saturating_sub(*start) as f64 * *rate / SECOND as f64;
            *taken = (*taken).max(before.ceil() as u64);
        }
    }

    /// Takes the next request if it is due, and answers since when.
    pub fn take(&mut self, now: u64) -> Option<u64> {
        let due = self.next().unwrap_or(now);
        if due > now {
            return None;
        }
        if let Pace::Rate { taken, .. } = self {
            *taken += 1;
        }
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_and_from_the_schedule() {
        let mut pace = Pace::new(1_000, Some(2_000.0));
        assert_eq!(pace.take(999), None);
        assert_eq!(pace.take(1_000), Some(1_000));
        assert_eq!(pace.take(1_001), None);
        assert_eq!(pace.next(), Some(501_000));
        // Late by two: both count from when they were due.
        assert_eq!(pace.take(1_600_000), Some(501_000));
        assert_eq!(pace.take(1_600_000), Some(1_001_000));
    }

    #[test]
    fn what_was_skipped_is_not_due_any_more() {
        let mut pace = Pace::new(0, Some(10.0));
        pace.skip_to(SECOND);
        assert_eq!(pace.take(2 * SECOND), Some(SECOND));
        pace.skip_to(SECOND / 2);
        assert_eq!(pace.take(2 * SECOND), Some(SECOND + SECOND / 10));
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let mut pace = Pace::new(0, Some(3.0));
        for _ in 0..3_000_000 {
            assert!(pace.take(u64::MAX).is_some());
        }
        assert_eq!(pace.next(), Some(1_000_000 * SECOND));
    }

    #[test]
    fn flat_out_something_is_always_due() {
        let mut pace = Pace::new(0, None);
        assert_eq!((pace.next(), pace.take(5)), (None, Some(5)));
    }
}
