//! The time that runs go by.

use std::future::Future;
use std::time::{Duration, SystemTime};

use tulle_model::flow::scope::Millis;

/// A clock, and who wakes by it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Millis;

    /// Returns at that time, or somewhat before.
    fn sleep_until(&self, at: Millis) -> impl Future<Output = ()> + Send;
}

/// The clock of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

/// How long it is slept at most before the clock is looked at again: it may have been set.
const LONGEST: Millis = 10_000;

impl Clock for WallClock {
    fn now(&self) -> Millis {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
    }

    async fn sleep_until(&self, at: Millis) {
        let left = at.saturating_sub(self.now()).min(LONGEST);
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
}
