//! The time that runs go by: the mesh's, which is the server's, so that it is the same wherever a run goes on.

use std::sync::Arc;
use std::time::Duration;

use tulle_flow::runner::Clock;
use tulle_model::flow::scope::Millis;
use tulle_proxy::clock::MeshClock;

/// How long it is slept at most before the clock is looked at again: it may have been set.
const LONGEST: Millis = 10_000;

pub(super) struct ServersClock(pub Arc<MeshClock>);

impl Clock for ServersClock {
    fn now(&self) -> Millis {
        Millis::try_from(self.0.unix_millis()).unwrap_or_default()
    }

    async fn sleep_until(&self, at: Millis) {
        let left = at.saturating_sub(self.now()).min(LONGEST);
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
}
