//! How much of what is allowed, but costs us more than the peer, a peer may do: resets of streams that
//! were just opened (CVE-2023-44487), mistakes that make us reset streams (CVE-2025-8671), PINGs, SETTINGS
//! and empty frames (CVE-2019-9512, -9515, -9518). Each has a burst, and so much a second.

use std::time::Duration;

/// An allowance that fills up with time.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    burst: u32,
    per_second: u32,
    left: u32,
    /// When it was last filled up, as the time since any fixed moment.
    filled: Duration,
}

impl TokenBucket {
    pub(crate) const fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, per_second, left: burst, filled: Duration::ZERO }
    }

    /// How much is left, as of the last time it was filled up.
    pub(crate) fn left(&self) -> usize {
        self.left as usize
    }

    pub(crate) fn is_full(&self) -> bool {
        self.left == self.burst
    }

    /// Takes one; whether there was one left. `now` must not run backwards.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        self.fill(now);
        let there = self.left > 0;
        self.left = self.left.saturating_sub(1);
        there
    }

    /// Adds what the time has brought. `now` must not run backwards.
    pub(crate) fn fill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.filled).as_millis() * u128::from(self.per_second) / 1000;
        if gained > 0 {
            self.left = self.burst.min(self.left.saturating_add(gained.min(u128::from(u32::MAX)) as u32));
            self.filled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_so_much_a_second() {
        let mut budget = TokenBucket::new(10, 100);
        assert!(budget.is_full() && budget.left() == 10);
        assert!(budget.take(Duration::ZERO) && !budget.is_full() && budget.left() == 9);
        let mut budget = TokenBucket::new(10, 100);
        let mut taken = |now| (0..1000).filter(|_| budget.take(Duration::from_millis(now))).count();
        assert_eq!(taken(0), 10);
        assert_eq!(taken(9), 0);
        assert_eq!(taken(50), 5);
        assert_eq!(taken(10_000), 10);
    }
}
