//! How many retries a caller may add to the load of a service that is in trouble: a share of the
//! requests of the last seconds, and a few a second besides, so that rare requests can be retried
//! at all. The defaults are those of Gateway API's retry budgets (GEP-3388).

use std::time::Duration;

/// Requests and retries of the last ten seconds. One for each caller and destination; the time
/// that it is given must not run backwards (if it does, it stands still).
#[derive(Debug, Clone)]
pub struct RetryBudget {
    percent: u32,
    minimum_per_second: u32,
    /// By second, modulo the window.
    seconds: [Second; WINDOW_SECONDS],
    /// The second that `seconds` was last brought up to.
    now: u64,
}

const WINDOW_SECONDS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    requests: u32,
    retries: u32,
}

impl Default for RetryBudget {
    /// 20 % and 10 a second.
    fn default() -> Self {
        Self::new(20, 10)
    }
}

impl RetryBudget {
    /// `percent` of the requests of the last ten seconds may be retries, and `minimum_per_second`
    /// over the same time besides.
    pub fn new(percent: u32, minimum_per_second: u32) -> Self {
        Self { percent, minimum_per_second, seconds: [Second::default(); WINDOW_SECONDS], now: 0 }
    }

    /// Counts a request (not its retries). `now` is the time since any fixed moment.
    pub fn record_request(&mut self, now: Duration) {
        let second = self.advance(now);
        second.requests = second.requests.saturating_add(1);
    }

    /// Whether one retry may be made now; if so, it is counted.
    pub fn try_retry(&mut self, now: Duration) -> bool {
        self.advance(now);
        let sum = |of: fn(&Second) -> u32| self.seconds.iter().map(|s| u64::from(of(s))).sum::<u64>();
        let share = sum(|s| s.requests) * u64::from(self.percent) / 100;
        let minimum = u64::from(self.minimum_per_second) * WINDOW_SECONDS as u64;
        if sum(|s| s.retries) >= share + minimum {
            return false;
        }
        self.advance(now).retries += 1;
        true
    }

    /// Forgets what left the window, and gives the current second.
    fn advance(&mut self, now: Duration) -> &mut Second {
        let now = now.as_secs().max(self.now);
        for passed in 0..(now - self.now).min(WINDOW_SECONDS as u64) {
            self.seconds[slot(now - passed)] = Second::default();
        }
        self.now = now;
        &mut self.seconds[slot(now)]
    }
}

fn slot(second: u64) -> usize {
    (second % WINDOW_SECONDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let mut budget = RetryBudget::new(20, 0);
        assert!(!budget.try_retry(Duration::ZERO));
        for i in 0..1000 {
            budget.record_request(Duration::from_millis(i));
        }
        let allowed = (0..1000).filter(|_| budget.try_retry(Duration::from_secs(1))).count();
        assert_eq!(allowed, 200);
        // Ten seconds later neither the requests nor the retries count.
        assert!(!budget.try_retry(Duration::from_secs(11)));
        budget = RetryBudget::new(20, 1);
        let allowed = (0..1000).filter(|_| budget.try_retry(Duration::from_secs(500))).count();
        assert_eq!(allowed, 10);
    }

    proptest! {
        /// Against a list of all that happened.
        #[test]
        fn counts_what_happened_in_the_window(
            steps in prop::collection::vec((0u64..4000, any::<bool>()), 0..300),
            percent in 0u32..150,
            minimum in 0u32..3,
        ) {
            let mut budget = RetryBudget::new(percent, minimum);
            let (mut requests, mut retries) = (VecDeque::new(), VecDeque::new());
            let mut now = Duration::ZERO;
            for (wait, is_retry) in steps {
                now += Duration::from_millis(wait);
                for events in [&mut requests, &mut retries] {
                    events.retain(|&second: &u64| second + 10 > now.as_secs());
                }
                if is_retry {
                    let allowed = requests.len() * percent as usize / 100 + minimum as usize * 10;
                    let expected = retries.len() < allowed;
                    prop_assert_eq!(budget.try_retry(now), expected);
                    if expected {
                        retries.push_back(now.as_secs());
                    }
                } else {
                    budget.record_request(now);
                    requests.push_back(now.as_secs());
                }
            }
        }
    }
}
