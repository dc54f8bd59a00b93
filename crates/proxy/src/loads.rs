//! What a worker has in flight to each endpoint, for balancing.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::rc::Rc;

use tulle_model::snapshot::{Endpoint, FastMap};

/// What this worker has in flight to each port of an endpoint, by a hash of what tells them apart (see
/// [`Loads::key`]). Only what has something in flight is held.
///
/// The names themselves are not held: to clone and drop them with every request would touch counters that
/// all workers share. Two with the same hash would count as one, which harms nothing but the balance.
#[derive(Default)]
pub struct Loads(Rc<RefCell<FastMap<u64, u64>>>);

impl Loads {
    /// The node is part of it because two nodes may use the same loopback address.
    pub fn key(&self, endpoint: &Endpoint, target_port: u16) -> u64 {
        let node = endpoint.node.as_ref().map(|node| &*node.name);
        self.0.borrow().hasher().hash_one((node, endpoint.address, target_port))
    }

    pub fn of(&self, key: u64) -> u64 {
        self.0.borrow().get(&key).copied().unwrap_or(0)
    }

    pub fn begin(&self, key: u64) -> LoadGuard {
        *self.0.borrow_mut().entry(key).or_default() += 1;
        LoadGuard { loads: self.0.clone(), key }
    }
}

/// Something in flight to an endpoint, until it is dropped.
pub struct LoadGuard {
    loads: Rc<RefCell<FastMap<u64, u64>>>,
    key: u64,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.loads.borrow_mut().entry(self.key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
