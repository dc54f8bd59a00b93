//! Which endpoint takes the next request or connection.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tulle_model::balance;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{Endpoint, EndpointSet, FastMap};

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// One port of one endpoint. The node is part of it because two nodes may use the same loopback address.
#[derive(Clone, PartialEq, Eq, Hash)]
struct LoadKey {
    node: Option<Arc<str>>,
    address: IpAddr,
    port: u16,
}

/// What this worker has in flight to each endpoint. Only endpoints with something in flight are held.
#[derive(Default)]
pub struct Loads(Rc<RefCell<FastMap<LoadKey, Rc<Cell<u64>>>>>);

impl Loads {
    fn of(&self, key: &LoadKey) -> u64 {
        self.0.borrow().get(key).map_or(0, |count| count.get())
    }

    fn begin(&self, key: LoadKey) -> LoadGuard {
        let count = self.0.borrow_mut().entry(key.clone()).or_default().clone();
        count.set(count.get() + 1);
        LoadGuard { loads: self.0.clone(), key, count }
    }
}

/// Something in flight to an endpoint, until it is dropped.
pub struct LoadGuard {
    loads: Rc<RefCell<FastMap<LoadKey, Rc<Cell<u64>>>>>,
    key: LoadKey,
    count: Rc<Cell<u64>>,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let left = self.count.get() - 1;
        self.count.set(left);
        if left == 0 {
            self.loads.borrow_mut().remove(&self.key);
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
    /// Chooses among the endpoints of `service` that answer for its port `port`, by power of two
    /// choices, without those in `exclude` (what was tried already). `None`: there is none.
    pub fn pick(&self, service: &ServiceName, port: u16, exclude: &[Arc<Endpoint>]) -> Option<Picked> {
        let set = self.state.load().snapshot.endpoints.get(service)?.clone();
        self.pick_from(&set, port, exclude)
    }

    /// As [`Worker::pick`], from a set at hand.
    pub fn pick_from(&self, set: &EndpointSet, port: u16, exclude: &[Arc<Endpoint>]) -> Option<Picked> {
        let endpoints = &set.endpoints;
        let load = |i: usize| key(&endpoints[i], port).map_or(u64::MAX, |key| self.loads.of(&key));
        let unusable = |i: usize| {
            let endpoint = &endpoints[i];
            endpoint.target_port(port).is_none() || exclude.iter().any(|tried| tried == endpoint)
        };
        let best = &endpoints[balance::pick(endpoints.len(), load, self.random(), unusable)?];
        let load = self.loads.begin(key(best, port)?);
        Some(Picked { endpoint: best.clone(), target_port: best.target_port(port)?, load })
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

fn key(endpoint: &Endpoint, service_port: u16) -> Option<LoadKey> {
    Some(LoadKey {
        node: endpoint.node.as_ref().map(|node| node.name.clone()),
        address: endpoint.address,
        port: endpoint.target_port(service_port)?,
    })
}
