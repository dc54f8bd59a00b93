//! The time that certificates are held against, which is the mesh's and not this host's: see
//! [`tulle_model::clock`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use std::sync::Arc;
use tokio::sync::watch;
use tulle_model::clock::Anchor;

/// The mesh's time: this host's own until the server has told its. Everybody reads it without a lock.
#[derive(Debug, Default)]
pub struct MeshClock {
    anchor: ArcSwapOption<Anchor>,
    /// Counts how often it was set to another time.
    set: watch::Sender<u64>,
}

impl MeshClock {
    /// Takes note of an answer of the server: asked and answered at these times of
    /// [`MeshClock::steady`], with that time of the server (milliseconds since the epoch).
    pub fn measured(&self, asked: i64, answered: i64, server: i64) {
        let Some(new) = Anchor::measure(asked, answered, server) else { return };
        let old = self.anchor.load().as_deref().copied();
        let anchor = old.map_or(new, |old| old.after(new));
        if Some(anchor) != old {
            let before = self.unix_millis();
            self.anchor.store(Some(Arc::new(anchor)));
            if before.abs_diff(self.unix_millis()) >= 1000 {
                self.set.send_modify(|n| *n += 1);
            }
        }
    }

    /// Milliseconds of a clock that nobody sets, and that goes on while the host is suspended.
    pub fn steady() -> i64 {
        // Every Linux since 2.6.39 has it.
        let up = tulle_sys::since_boot().unwrap_or_default();
        i64::try_from(up.as_millis()).unwrap_or(i64::MAX)
    }

    /// Milliseconds since the epoch.
    pub fn unix_millis(&self) -> i64 {
        match &*self.anchor.load() {
            Some(anchor) => Self::steady().saturating_add(anchor.offset),
            None => wall_millis(),
        }
    }

    /// Seconds since the epoch.
    pub fn unix_time(&self) -> i64 {
        self.unix_millis().div_euclid(1000)
    }

    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.unix_millis().try_into().unwrap_or(0))
    }

    /// By how many milliseconds this host's wall clock is ahead of the mesh's (negative: behind), and
    /// how exact that is. `None` while the server has not told its time.
    pub fn wall_ahead(&self) -> Option<(i64, u64)> {
        let anchor = self.anchor.load_full()?;
        let mesh = Self::steady().saturating_add(anchor.offset);
        Some((wall_millis().saturating_sub(mesh), anchor.uncertainty))
    }

    /// Changes when it is set by a second or more.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.set.subscribe();
        changes.mark_unchanged();
        changes
    }
}

impl TimeProvider for MeshClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.unix_time().try_into().unwrap_or(0))))
    }
}

/// What this host's wall clock says, in milliseconds since the epoch.
pub fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hosts_until_the_server_has_told_its() {
        let clock = MeshClock::default();
        assert!(clock.unix_millis().abs_diff(wall_millis()) < 1000 && clock.wall_ahead().is_none());
        let mut changes = clock.changes();
        let steady = MeshClock::steady();
        clock.measured(steady, steady + 10, wall_millis() - 3_600_000);
        let (ahead, uncertainty) = clock.wall_ahead().unwrap();
        assert!(ahead.abs_diff(3_600_000) < 1000 && uncertainty == 5, "{ahead}");
        assert!(clock.unix_millis().abs_diff(wall_millis() - 3_600_000) < 1000);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        clock.measured(steady, steady + 10, wall_millis() - 3_600_000);
        assert!(!changes.has_changed().unwrap(), "the same again");
    }
}
