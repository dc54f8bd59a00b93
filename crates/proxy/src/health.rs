//! Endpoints that did not take connections lately, as one worker has seen it: they are passed over for
//! a while, unless there is no other.
//!
//! A failed connect, a refused link or the word that a workload is stopping trips it: for a second, then
//! twice as long each time, at most 30 s. One whose link takes long to open is passed over for a second,
//! which counts as no failure. The first success afterwards heals it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::snapshot::{Endpoint, FastMap};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// What is remembered of endpoints that are gone is dropped beyond that.
const MAX_TROUBLED: usize = 1024;

/// The endpoints in trouble.
#[derive(Default)]
pub struct Health(RefCell<FastMap<Arc<Endpoint>, Trouble>>);

struct Trouble {
    failures: u32,
    until: Instant,
}

impl Trouble {
    fn fail(&mut self, now: Instant) {
        // What failed while it was avoided anyway was under way before, and says nothing new.
        if self.until <= now || self.failures == 0 {
            let pause = FIRST.saturating_mul(1 << self.failures.min(5)).min(LONGEST);
            self.failures += 1;
            self.until = now + pause;
        }
    }
}

impl Health {
    /// The endpoint did not take a request or connection.
    pub fn failed(&self, endpoint: &Arc<Endpoint>, now: Instant) {
        self.with(endpoint, now, |trouble| trouble.fail(now));
    }

    /// The link to the endpoint is not open yet after the time that a request waits for it.
    pub fn slow(&self, endpoint: &Arc<Endpoint>, now: Instant) {
        self.with(endpoint, now, |trouble| trouble.until = trouble.until.max(now + FIRST));
    }

    fn with(&self, endpoint: &Arc<Endpoint>, now: Instant, act: impl FnOnce(&mut Trouble)) {
        let mut troubled = self.0.borrow_mut();
        if troubled.len() >= MAX_TROUBLED {
            troubled.retain(|_, trouble| trouble.until > now);
        }
        act(troubled.entry(endpoint.clone()).or_insert_with(|| Trouble { failures: 0, until: now }));
    }

    /// The endpoint answered.
    pub fn worked(&self, endpoint: &Arc<Endpoint>) {
        let mut troubled = self.0.borrow_mut();
        if !troubled.is_empty() {
            troubled.remove(endpoint);
        }
    }

    /// Whether there is any to pass over, now or later.
    pub fn has_troubled(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// Whether to pass over the endpoint now.
    pub fn avoids(&self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        self.0.borrow().get(endpoint).is_some_and(|trouble| trouble.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint {
            workload: None,
            node: None,
            address: [127, 0, 0, 1].into(),
            ports: Vec::new(),
            identity: None,
        })
    }

    #[test]
    fn pauses_double_until_it_works() {
        let health = Health::default();
        let endpoint = endpoint();
        let avoided = |now| health.avoids(&endpoint, now);
        let mut now = Instant::now();
        assert!(!avoided(now));
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            health.failed(&endpoint, now);
            health.failed(&endpoint, now);
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(avoided(now), "{seconds}");
            now += Duration::from_millis(1);
            assert!(!avoided(now), "{seconds}");
        }
        health.failed(&endpoint, now);
        health.worked(&endpoint);
        assert!(!avoided(now));
        health.failed(&endpoint, now);
        assert!(!avoided(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_link_that_takes_long_is_passed_over_and_charged_with_nothing() {
        let health = Health::default();
        let endpoint = endpoint();
        let now = Instant::now();
        for seconds in [0, 1, 2] {
            let now = now + Duration::from_secs(seconds);
            health.slow(&endpoint, now);
            assert!(health.avoids(&endpoint, now + Duration::from_millis(999)));
            assert!(!health.avoids(&endpoint, now + Duration::from_secs(1)), "{seconds}");
        }
        // Its end is the first failure, though it is passed over at that moment.
        let end = now + Duration::from_millis(2500);
        health.failed(&endpoint, end);
        assert!(health.avoids(&endpoint, end + Duration::from_millis(999)));
        assert!(!health.avoids(&endpoint, end + Duration::from_secs(1)));
    }
}
