use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tulle_flow::runner::Clock;
use tulle_model::flow::scope::Millis;

/// A time of its own; clones share it.
#[derive(Clone)]
pub struct TestClock(Arc<Mutex<Time>>);

struct Time {
    now: Millis,
    sleepers: Vec<(Millis, oneshot::Sender<()>)>,
}

impl TestClock {
    pub fn new(now: Millis) -> Self {
        Self(Arc::new(Mutex::new(Time { now, sleepers: Vec::new() })))
    }

    /// When the next wakes who sleeps.
    pub fn next(&self) -> Option<Millis> {
        let mut time = self.0.lock();
        time.sleepers.retain(|(_, sleeper)| !sleeper.is_closed());
        time.sleepers.iter().map(|(at, _)| *at).min()
    }

    /// It is that time now.
    pub fn set(&self, now: Millis) {
        let mut time = self.0.lock();
        time.now = time.now.max(now);
        let (now, all) = (time.now, std::mem::take(&mut time.sleepers));
        for (at, sleeper) in all {
            if at <= now {
                let _ = sleeper.send(());
            } else {
                time.sleepers.push((at, sleeper));
            }
        }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        self.0.lock().now
    }

    async fn sleep_until(&self, at: Millis) {
        let (sleeper, woken) = oneshot::channel();
        {
            let mut time = self.0.lock();
            if at <= time.now {
                return;
            }
            time.sleepers.push((at, sleeper));
        }
        let _ = woken.await;
    }
}
