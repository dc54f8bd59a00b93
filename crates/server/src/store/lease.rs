//! Leases of back ends that are one server's alone: in memory, as they are worth nothing without the server that
//! listens, which grants them anew when it starts. Nothing of them is written: a thousand nodes would be
//! hundreds of commits a second.
//!
//! A lease runs out where somebody looks, who is late after this process was stopped or the host suspended: it was
//! the one who did not listen, and the lease runs anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A hold on a name for a while. It goes on for as long as it is kept alive in time.
#[derive(Debug)]
pub struct Lease {
    name: Arc<str>,
    /// Which of all that were granted.
    id: u64,
}

/// The leases of a server; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct LeaseTable {
    held: Arc<Mutex<HashMap<Arc<str>, Held>>>,
    granted: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    time: Duration,
    deadline: Instant,
    /// It was taken back, or the name has another one.
    void: CancellationToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.void.cancel();
    }
}

impl LeaseTable {
    pub(super) fn grant(&self, name: &str, time: Duration) -> Lease {
        let name: Arc<str> = name.into();
        let id = self.granted.fetch_add(1, Ordering::Relaxed);
        let held = Held { id, time, deadline: Instant::now() + time, void: CancellationToken::new() };
        self.held.lock().insert(name.clone(), held);
        Lease { name, id }
    }

    pub(super) fn keep_alive(&self, lease: &Lease) -> bool {
        let now = Instant::now();
        let mut leases = self.held.lock();
        let held = leases.get_mut(&lease.name).filter(|held| held.id == lease.id && now < held.deadline);
        if let Some(held) = held {
            held.deadline = now + held.time;
            return true;
        }
        false
    }

    pub(super) fn revoke(&self, lease: &Lease) {
        let mut leases = self.held.lock();
        if leases.get(&lease.name).is_some_and(|held| held.id == lease.id) {
            leases.remove(&lease.name);
        }
    }

    pub(super) async fn ended(&self, name: &str) {
        loop {
            let held = self.held.lock().get(name).map(|held| (held.deadline, held.void.clone()));
            let Some((deadline, void)) = held else { return };
            tokio::select! {
                () = void.cancelled() => {}
                () = sleep_until(deadline) => self.look(name),
            }
        }
    }

    /// Ends a lease that has run out.
    fn look(&self, name: &str) {
        let now = Instant::now();
        let mut leases = self.held.lock();
        let Some(held) = leases.get_mut(name).filter(|held| held.deadline <= now) else { return };
        if now - held.deadline >= held.time / 2 {
            held.deadline = now + held.time;
        } else {
            leases.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_did_not_listen_holds_nothing_against_who_spoke() {
        let time = Duration::from_secs(10);
        for (late, ends_after) in [(0, 10_000), (4_999, 14_999), (5_000, 25_000), (3_600_000, 3_620_000)] {
            let (leases, start) = (LeaseTable::default(), Instant::now());
            leases.grant("n1", time);
            // Nothing runs meanwhile.
            tokio::time::advance(time + Duration::from_millis(late)).await;
            leases.ended("n1").await;
            assert_eq!(start.elapsed(), Duration::from_millis(ends_after), "{late} ms late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_look_is_told_all_the_same_that_a_lease_is_over() {
        let leases = LeaseTable::default();
        let lease = leases.grant("n1", Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!leases.keep_alive(&lease));
    }
}
