//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from `least` to `most`, with jitter, so that many who failed together don't come back
/// together.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// After a success: the next failure waits shortly again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// Between half of the current step and all of it; `random` is from 0 to 1.
    pub fn delay(&mut self, random: f64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Waits for [`Backoff::delay`].
    pub async fn wait(&mut self) {
        let delay = self.delay(rand::random());
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        assert_eq!(backoff.delay(1.0), Duration::from_millis(100));
        assert_eq!(backoff.delay(0.0), Duration::from_millis(100));
        assert_eq!(backoff.delay(1.0), Duration::from_millis(300));
        backoff.reset();
        assert_eq!(backoff.delay(1.0), Duration::from_millis(100));
    }
}
