//! Whose certificates are taken back before their time: the stamps ([`tulle_model::stamp`]) of nodes that were revoked. They
//! are in the store, so that a start of the server forgets none, and leave when all that was signed with them has expired.
//!
//! Where the store takes no writes, a node is revoked all the same: the stamp is kept in memory and written when there is room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tulle_model::stamp::{Revoked, Stamp};

use crate::ca::mesh::NODE_LIFETIME;
use crate::store::{Precondition, Store, StoreError};
use crate::timestamp::seconds;

/// Outside of the API's keys; the value is when it leaves, in seconds since the epoch.
const REVOKED: &str = "/tulle/revoked/";

/// The stamps that are revoked; clones share them.
#[derive(Clone)]
pub struct Revocations {
    store: Store,
    known: watch::Sender<KnownStamps>,
}

#[derive(Debug, Default)]
struct KnownStamps {
    stamps: BTreeMap<Stamp, RevokedStamp>,
    revoked: Arc<Revoked>,
}

#[derive(Debug, Clone, Copy)]
struct RevokedStamp {
    /// When it leaves, in seconds since the epoch.
    until: u64,
    written: bool,
}

impl KnownStamps {
    /// Changes the list; whether it is another one now.
    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<Stamp, RevokedStamp>)) -> bool {
        change(&mut self.stamps);
        while self.stamps.len() > Revoked::MOST
            && let Some(first) = self.stamps.iter().min_by_key(|(_, entry)| entry.until)
        {
            let (stamp, _) = (*first.0, first.1);
            tracing::error!(%stamp, "more than {} nodes were revoked within a day: the first of them counts no longer", Revoked::MOST);
            self.stamps.remove(&stamp);
        }
        let now = Revoked::of(self.stamps.keys().copied());
        let differs = *self.revoked != now;
        if differs {
            self.revoked = now.into();
        }
        differs
    }
}

impl Revocations {
    /// Knows none before [`Revocations::load`].
    pub fn new(store: Store) -> Self {
        Self { store, known: watch::Sender::new(KnownStamps::default()) }
    }

    /// Reads what the store has.
    pub async fn load(&self) -> Result<(), StoreError> {
        let kept = self.store.list(REVOKED, None, usize::MAX).await?.items;
        let read = kept.into_iter().filter_map(|(key, stored)| {
            let stamp = key.strip_prefix(REVOKED)?.parse().ok()?;
            let until = std::str::from_utf8(&stored.value).ok()?.parse().ok()?;
            Some((stamp, RevokedStamp { until, written: true }))
        });
        self.known.send_if_modified(|known| known.change(|stamps| stamps.extend(read)));
        Ok(())
    }

    /// Those of now.
    pub fn list(&self) -> Arc<Revoked> {
        self.known.borrow().revoked.clone()
    }

    /// Wakes whoever has to tell them to nodes.
    pub fn changes(&self) -> Changes {
        Changes(self.known.subscribe())
    }

    /// Takes back what was signed with these. Counts from now on; what cannot be written is tried again by
    /// [`Revocations::sweep`].
    pub async fn add(&self, stamps: &[Stamp], now: SystemTime) {
        // Nothing that was signed for a node lives longer.
        let until = seconds(now + NODE_LIFETIME);
        let entry = RevokedStamp { until, written: false };
        self.known.send_if_modified(|known| {
            known.change(|known| known.extend(stamps.iter().map(|&stamp| (stamp, entry))))
        });
        self.write().await;
    }

    /// Removes what has expired, and writes what could not be written before.
    pub async fn sweep(&self, now: SystemTime) {
        let now = seconds(now);
        let over = |entry: &RevokedStamp| now >= entry.until;
        let known = self.known.borrow().stamps.clone();
        for stamp in known.iter().filter(|(_, entry)| over(entry)).map(|(stamp, _)| stamp) {
            // Where it is not there, or the store fails, the next start removes it.
            let _ = self.store.delete(&key(*stamp), Precondition::Any).await;
        }
        self.known.send_if_modified(|known| known.change(|stamps| stamps.retain(|_, entry| !over(entry))));
        self.write().await;
    }

    async fn write(&self) {
        let unwritten: Vec<_> = {
            let known = self.known.borrow();
            known.stamps.iter().filter(|(_, e)| !e.written).map(|(&stamp, e)| (stamp, e.until)).collect()
        };
        for (stamp, until) in unwritten {
            match self.store.put(&key(stamp), until.to_string(), Precondition::Any).await {
                Ok(_) => {
                    self.known.send_if_modified(|known| {
                        if let Some(entry) = known.stamps.get_mut(&stamp) {
                            entry.written = true;
                        }
                        false
                    });
                }
                Err(error) => {
                    tracing::error!(
                        %error,
                        "that a node was revoked cannot be written: a start of the server would forget its certificates"
                    );
                    return;
                }
            }
        }
    }
}

/// Changes of the list.
pub struct Changes(watch::Receiver<KnownStamps>);

impl Changes {
    /// Waits until it is another one. Never returns where it cannot change any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn key(stamp: Stamp) -> String {
    format!("{REVOKED}{stamp}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn stamps(revocations: &Revocations) -> Vec<u64> {
        revocations.list().iter().map(|stamp| stamp.0).collect()
    }

    #[tokio::test]
    async fn what_is_revoked_outlives_a_start_and_leaves_when_it_has_expired() {
        let store = Store::in_memory();
        let now = SystemTime::now();
        let revocations = Revocations::new(store.clone());
        let mut changes = revocations.changes();
        revocations.add(&[Stamp(7), Stamp(3)], now).await;
        assert!(changes.changed().now_or_never().is_some());
        revocations.add(&[Stamp(7)], now).await;
        assert!(changes.changed().now_or_never().is_none(), "it says the same");
        revocations.add(&[Stamp(5)], now + Duration::from_secs(60)).await;
        assert_eq!(stamps(&revocations), [3, 5, 7]);

        let again = Revocations::new(store.clone());
        again.load().await.unwrap();
        assert_eq!(stamps(&again), [3, 5, 7]);
        again.sweep(now + NODE_LIFETIME - Duration::from_secs(2)).await;
        assert_eq!(stamps(&again), [3, 5, 7]);
        again.sweep(now + NODE_LIFETIME + Duration::from_secs(2)).await;
        assert_eq!(stamps(&again), [5]);
        let last = Revocations::new(store);
        last.load().await.unwrap();
        assert_eq!(stamps(&last), [5]);
    }

    #[tokio::test]
    async fn there_are_so_many_and_the_first_leave() {
        let revocations = Revocations::new(Store::in_memory());
        let now = SystemTime::now();
        revocations.add(&[Stamp(u64::MAX)], now).await;
        let later: Vec<_> = (0..Revoked::MOST as u64).map(Stamp).collect();
        let entry = RevokedStamp { until: seconds(now) + 2 * NODE_LIFETIME.as_secs(), written: true };
        revocations.known.send_if_modified(|known| {
            known.change(|stamps| stamps.extend(later.iter().map(|&stamp| (stamp, entry))))
        });
        assert!(!revocations.list().includes(Some(Stamp(u64::MAX))));
        assert_eq!(revocations.list().iter().count(), Revoked::MOST);
    }
}
