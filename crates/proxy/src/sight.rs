//! Which nodes this one hears on links of its own: what the server does not hear of may be reached from
//! here all the same ([`tulle_model::staleness`]).
//!
//! What is heard on links is written down by all workers in one place, which a request's path sees by a
//! copy of its worker's, and only where something is stale.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tulle_model::snapshot::FastMap;
use tulle_model::staleness::REACHED_SECONDS;

const REACHED: Duration = Duration::from_secs(REACHED_SECONDS);
/// How old a worker's copy may be.
const COPY: Duration = Duration::from_millis(250);

/// When nodes were last heard, by the address where they take links.
#[derive(Debug, Default)]
pub struct Heard(Mutex<FastMap<SocketAddr, Instant>>);

impl Heard {
    /// Something came from a node on a link.
    pub fn note(&self, node: SocketAddr, now: Instant) {
        let mut heard = self.0.lock();
        // What is too old to matter is dropped, so that it holds no more than there are links.
        heard.retain(|_, at| now.duration_since(*at) < REACHED);
        heard.insert(node, now);
    }

    /// A node does not answer any more.
    pub fn lost(&self, node: SocketAddr) {
        self.0.lock().remove(&node);
    }
}

/// One worker's sight of it.
pub struct Sight {
    heard: Arc<Heard>,
    copy: RefCell<FastMap<SocketAddr, Instant>>,
    copied: Cell<Option<Instant>>,
}

impl Sight {
    pub fn new(heard: Arc<Heard>) -> Self {
        Self { heard, copy: RefCell::default(), copied: Cell::new(None) }
    }

    /// What all workers have heard.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Whether something was heard of a node lately.
    pub fn reaches(&self, node: SocketAddr, now: Instant) -> bool {
        if self.copied.get().is_none_or(|at| now.duration_since(at) >= COPY) {
            self.copied.set(Some(now));
            self.copy.borrow_mut().clone_from(&self.heard.0.lock());
        }
        self.copy.borrow().get(&node).is_some_and(|at| now.duration_since(*at) < REACHED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_reached_for_ten_seconds_after_its_last_word() {
        let node: SocketAddr = "192.0.2.1:15008".parse().unwrap();
        let sight = Sight::new(Arc::default());
        let start = Instant::now();
        assert!(!sight.reaches(node, start));
        sight.heard().note(node, start);
        assert!(sight.reaches(node, start + COPY), "by the next copy");
        assert!(sight.reaches(node, start + REACHED - Duration::from_millis(1)));
        assert!(!sight.reaches(node, start + REACHED));
        sight.heard().note(node, start + REACHED);
        sight.heard().lost(node);
        assert!(!sight.reaches(node, start + REACHED + COPY));
    }

    #[test]
    fn it_holds_nothing_that_is_too_old_to_matter() {
        let heard = Heard::default();
        let start = Instant::now();
        for i in 0..1000u16 {
            heard.note(SocketAddr::from(([192, 0, 2, 1], i)), start + Duration::from_millis(100) * i.into());
        }
        assert!(heard.0.lock().len() <= 101);
    }
}
