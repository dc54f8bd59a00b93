//! What has entered the workloads of this node and is still there, on one worker: who, where, and let in by which
//! configuration, so that a later one can end what it no longer allows.
//!
//! An entry is there for as long as the request or connection that it is for, and costs what a few pointers do: there
//! are no more of them than of those, which the budget bounds.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use http::request::Parts;
use slab::Slab;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::FastMap;

use crate::metrics::{Count, WorkerMetrics};
use crate::state::{LocalWorkload, NodeState};

/// Who comes to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A workload of the mesh: its certificate says so or, on the same node, whose connection it is.
    Mesh(SpiffeId),
    /// Somebody outside of the mesh, in plain, from that address.
    Plain(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(identity) => identity.fmt(f),
            Self::Plain(address) => address.fmt(f),
        }
    }
}

/// Who wants to go in, and where.
#[derive(Clone, Copy)]
pub(crate) struct Entrance<'a> {
    pub peer: &'a Peer,
    pub workload: &'a Arc<LocalWorkload>,
    pub port: u16,
}

/// Something that has entered a workload and is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub peer: Peer,
    pub workload: WorkloadName,
    pub port: u16,
    /// Of the configuration that let it in ([`tulle_model::snapshot::Snapshot::generation`]).
    pub generation: u64,
    /// What an upgrade asked for. Of requests it is not kept: they are over soon.
    pub upgrade: Option<Upgrade>,
}

/// A request to leave HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub method: Method,
    pub path: String,
}

/// What has entered by one worker.
#[derive(Default)]
pub struct Visits {
    open: RefCell<Slab<Entry>>,
    /// By address: nothing else is at that of one that is held.
    served: RefCell<FastMap<*const LocalWorkload, Rc<Served>>>,
}

struct Entry {
    peer: Peer,
    served: Rc<Served>,
    port: u16,
    generation: u64,
    upgrade: Option<Box<Upgrade>>,
}

/// A workload that is visited, and how much is in flight to it.
struct Served {
    workload: Arc<LocalWorkload>,
    in_flight: Arc<Count>,
}

/// Keeps a visit written down, and counts it as in flight, until it is dropped.
pub struct Entered {
    visits: Rc<Visits>,
    key: usize,
}

impl Visits {
    pub(super) fn enter(
        self: &Rc<Self>,
        metrics: &WorkerMetrics,
        Entrance { peer, workload, port }: Entrance<'_>,
        generation: u64,
    ) -> Entered {
        let served = self.served(metrics, workload);
        served.in_flight.add(1);
        let key = self.open.borrow_mut().insert(Entry {
            peer: peer.clone(),
            served,
            port,
            generation,
            upgrade: None,
        });
        Entered { visits: self.clone(), key }
    }

    fn served(&self, metrics: &WorkerMetrics, workload: &Arc<LocalWorkload>) -> Rc<Served> {
        let mut served = self.served.borrow_mut();
        let known = served.entry(Arc::as_ptr(workload)).or_insert_with(|| {
            let in_flight = metrics.in_flight(&workload.name);
            Rc::new(Served { workload: workload.clone(), in_flight })
        });
        known.clone()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Visit> {
        let visit = |(_, entry): (usize, &Entry)| Visit {
            peer: entry.peer.clone(),
            workload: entry.served.workload.name.clone(),
            port: entry.port,
            generation: entry.generation,
            upgrade: entry.upgrade.as_deref().cloned(),
        };
        self.open.borrow().iter().map(visit).collect()
    }

    /// Forgets workloads that are gone or have changed, and gives back what memory a busy time took. To be asked from
    /// time to time.
    pub fn forget(&self, state: &NodeState) {
        self.served.borrow_mut().retain(|address, served| {
            let now = state.workloads.get(&served.workload.name);
            Rc::strong_count(served) > 1 || now.is_some_and(|now| Arc::as_ptr(now) == *address)
        });
        let mut open = self.open.borrow_mut();
        if open.len() < open.capacity() / 4 {
            open.shrink_to_fit();
        }
    }
}

impl Entered {
    /// It may be there for long: what it asked for is kept.
    pub(super) fn stays(&self, head: &Parts) {
        if let Some(entry) = self.visits.open.borrow_mut().get_mut(self.key) {
            let upgrade = Upgrade { method: head.method.clone(), path: head.uri.path().to_owned() };
            entry.upgrade = Some(Box::new(upgrade));
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = self.visits.open.borrow_mut().try_remove(self.key);
        if let Some(entry) = left {
            entry.served.in_flight.subtract(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tulle_model::identity::TrustDomain;

    use super::*;

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", account).unwrap()
    }

    fn workload(name: &str) -> Arc<LocalWorkload> {
        Arc::new(LocalWorkload {
            name: WorkloadName::new("default", name),
            service: name.into(),
            identity: identity(name),
            app_address: Ipv4Addr::LOCALHOST.into(),
            ports: vec![80],
            certificate: None,
            draining: false,
        })
    }

    /// Entries are asked for in another order than they were made.
    #[test]
    fn what_has_entered_is_there_until_it_leaves() {
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (a, b) = (workload("a"), workload("b"));
        let (mesh, plain) = (Peer::Mesh(identity("x")), Peer::Plain("192.0.2.1:5".parse().unwrap()));
        let visit = |peer: &Peer, workload: &str, generation| Visit {
            peer: peer.clone(),
            workload: WorkloadName::new("default", workload),
            port: 80,
            generation,
            upgrade: None,
        };
        let enter = |peer, workload, generation| {
            visits.enter(&metrics, Entrance { peer, workload, port: 80 }, generation)
        };
        let first = enter(&mesh, &a, 1);
        let second = enter(&plain, &b, 1);
        let third = enter(&mesh, &a, 2);
        let in_flight = |of: &Arc<LocalWorkload>| metrics.registry().in_flight(&of.name);
        assert_eq!((in_flight(&a), in_flight(&b)), (2, 1));
        drop(first);
        assert_eq!(visits.list(), [visit(&plain, "b", 1), visit(&mesh, "a", 2)]);
        drop(third);
        assert_eq!((in_flight(&a), in_flight(&b)), (0, 1));
        drop(second);
        assert_eq!((visits.list(), in_flight(&b)), (vec![], 0));
    }

    /// What is renewed goes on counting where the one before did.
    #[test]
    fn workloads_that_are_gone_are_forgotten_when_nothing_is_in_flight() {
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (old, new) = (workload("a"), workload("a"));
        let peer = Peer::Mesh(identity("x"));
        let enter = |workload| visits.enter(&metrics, Entrance { peer: &peer, workload, port: 80 }, 1);
        let mut state = NodeState::default();
        state.workloads.insert(new.name.clone(), new.clone());
        let (first, second) = (enter(&old), enter(&new));
        assert_eq!(metrics.registry().in_flight(&new.name), 2);
        let known = |state| {
            visits.forget(state);
            visits.served.borrow().len()
        };
        assert_eq!(known(&state), 2);
        drop(first);
        assert_eq!(known(&state), 1);
        drop(second);
        assert_eq!(known(&state), 1);
        assert_eq!(known(&NodeState::default()), 0);
    }

    #[test]
    fn a_busy_time_leaves_no_memory_taken() {
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (peer, workload) = (Peer::Mesh(identity("x")), workload("a"));
        let entrance = Entrance { peer: &peer, workload: &workload, port: 80 };
        let many: Vec<_> = (0..1000).map(|_| visits.enter(&metrics, entrance, 1)).collect();
        drop(many);
        visits.forget(&NodeState::default());
        assert_eq!(visits.open.borrow().capacity(), 0);
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    }
}
