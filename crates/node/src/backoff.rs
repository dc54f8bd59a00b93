//! How long to wait before the next attempt.

use std::time::{Duration, Instant};

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

/// Spaces what must not be done in a hot loop, whether it succeeds or fails: at once after a quiet time,
/// later and later where it is wanted again and again.
#[derive(Debug)]
pub struct Pace {
    backoff: Backoff,
    quiet: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// Waits go from `least` to `most`; after `quiet`, which is longer, the next one is none.
    pub fn new(least: Duration, most: Duration, quiet: Duration) -> Self {
        Self { backoff: Backoff::new(least, most), quiet, last: None }
    }

    /// How long to wait at `now`; `random` is from 0 to 1.
    pub fn delay(&mut self, now: Instant, random: f64) -> Duration {
        let again = self.last.is_some_and(|last| now.duration_since(last) < self.quiet);
        let delay = if again { self.backoff.delay(random) } else { Duration::ZERO };
        if !again {
            self.backoff.reset();
        }
        self.last = Some(now + delay);
        delay
    }

    /// Waits for [`Pace::delay`].
    pub async fn turn(&mut self) {
        let delay = self.delay(Instant::now(), rand::random());
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

    #[test]
    fn what_is_wanted_all_the_time_is_done_ever_more_seldom() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(ms(200), ms(30_000), ms(120_000));
        let start = Instant::now();
        let mut now = start;
        let mut turns = 0;
        while now < start + ms(600_000) {
            now += pace.delay(now, 0.0);
            turns += 1;
        }
        assert!((10..60).contains(&turns), "{turns} turns in 10 minutes");
        now += ms(121_000);
        assert_eq!(pace.delay(now, 1.0), Duration::ZERO, "after a quiet time");
        assert_eq!(pace.delay(now, 1.0), ms(200));
    }
}
