//! Which endpoint takes the next request or connection.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;
use tulle_model::balance;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{Endpoint, EndpointSet, FastMap};
use tulle_model::staleness::{self, Facts};

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// What this worker has in flight to each port of an endpoint, by a hash of what tells them apart (see
/// [`Loads::key`]). Only what has something in flight is held.
///
/// The names themselves are not held: to clone and drop them with every request would touch counters that
/// all workers share. Two with the same hash would count as one, which harms nothing but the balance.
#[derive(Default)]
pub struct Loads(Rc<RefCell<FastMap<u64, u64>>>);

impl Loads {
    /// The node is part of it because two nodes may use the same loopback address.
    fn key(&self, endpoint: &Endpoint, target_port: u16) -> u64 {
        let node = endpoint.node.as_ref().map(|node| &*node.name);
        self.0.borrow().hasher().hash_one((node, endpoint.address, target_port))
    }

    fn of(&self, key: u64) -> u64 {
        self.0.borrow().get(&key).copied().unwrap_or(0)
    }

    fn begin(&self, key: u64) -> LoadGuard {
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

/// The endpoint chosen, and its port for the service's.
pub struct Picked {
    pub endpoint: Arc<Endpoint>,
    pub target_port: u16,
    /// Keep it for as long as the request or connection lasts.
    pub load: LoadGuard,
}

impl Worker {
    /// Chooses among the endpoints of `service` that answer for its port `port`, by power of two choices, one
    /// that was not tried: of those that are well; or else of those that the server does not hear of and this
    /// node does not reach; or else of those that did not take connections lately. `None`: there is none.
    pub fn pick(&self, service: &ServiceName, port: u16, tried: &[Arc<Endpoint>]) -> Option<Picked> {
        let state = self.state.load();
        let set = state.snapshot.endpoints.get(service)?;
        // Nearly always nothing is in trouble, nor stale; then the clock is not asked.
        if set.stale_since.is_empty() && !self.health.has_troubled() {
            return self.pick_from(set, port, |i| tried.contains(&set.endpoints[i]));
        }
        self.pick_ranked(set, port, tried)
    }

    /// As [`Worker::pick`], where not all endpoints are as good.
    #[cold]
    fn pick_ranked(&self, set: &EndpointSet, port: u16, tried: &[Arc<Endpoint>]) -> Option<Picked> {
        let now = Instant::now();
        let last = self.last_ranked(set, now);
        let is_last = |i: usize| last.get(i).copied().unwrap_or(false);
        let was_tried = |i: usize| tried.contains(&set.endpoints[i]);
        let avoided = |i: usize| self.health.avoids(&set.endpoints[i], now);
        // What this node has seen fail counts for more than what the server has not heard.
        self.pick_from(set, port, |i| was_tried(i) || avoided(i) || is_last(i))
            .or_else(|| self.pick_from(set, port, |i| was_tried(i) || avoided(i)))
            .or_else(|| self.pick_from(set, port, |i| was_tried(i) || is_last(i)))
            .or_else(|| self.pick_from(set, port, was_tried))
    }

    /// Which endpoints rank last, because the server does not hear of their node and neither does this
    /// one; empty where none does.
    fn last_ranked(&self, set: &EndpointSet, now: Instant) -> Vec<bool> {
        if !staleness::ranks(set.stale(), set.endpoints.len()) {
            return Vec::new();
        }
        let facts = set.endpoints.iter().enumerate().map(|(i, endpoint)| Facts {
            stale: set.stale_since(i) != 0,
            reached: self.is_local(endpoint)
                || endpoint.node.as_ref().is_some_and(|node| self.sight.reaches(node.link, now)),
        });
        facts.map(staleness::is_last).collect()
    }

    /// As [`Worker::pick`], from a set at hand and without those in `exclude`.
    fn pick_from(&self, set: &EndpointSet, port: u16, exclude: impl Fn(usize) -> bool) -> Option<Picked> {
        let endpoints = &set.endpoints;
        let load = |i: usize| {
            let endpoint = &endpoints[i];
            let target = endpoint.target_port(port);
            target.map_or(u64::MAX, |target| self.loads.of(self.loads.key(endpoint, target)))
        };
        let unusable = |i: usize| endpoints[i].target_port(port).is_none() || exclude(i);
        let best = &endpoints[balance::pick(endpoints.len(), load, self.random(), unusable)?];
        let target_port = best.target_port(port)?;
        let load = self.loads.begin(self.loads.key(best, target_port));
        Some(Picked { endpoint: best.clone(), target_port, load })
    }

    /// Whether the endpoint is a workload of this node, which is reached inside the process.
    pub fn is_local(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_ref().is_some_and(|node| node.name == self.node)
    }

    /// The workload of this node behind such an endpoint. The hand-over checks what a link's handshake
    /// would have: that it is who was promised.
    pub(crate) fn hand_over(&self, endpoint: &Endpoint) -> Result<Arc<LocalWorkload>, UpstreamError> {
        let Some(workload) = endpoint.workload.as_ref().and_then(|name| self.workload(name)) else {
            let message = format!("the workload at {} is no longer on this node", endpoint.address);
            return Err(UpstreamError::safe(UpstreamErrorKind::Refused, message));
        };
        if endpoint.identity.as_ref() != Some(&workload.identity) {
            let message = format!("wrong identity: {} is not who was promised", workload.name);
            return Err(UpstreamError::safe(UpstreamErrorKind::Tls, message));
        }
        Ok(workload)
    }
}
