//! What a proxy is handed: the node's state, as one immutable value that is replaced as a whole.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tulle_model::identity::SpiffeId;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{FastMap, Snapshot};

use crate::budget::Payer;
use crate::certificate::WorkloadCertificate;
use crate::in_process::InProcess;
use crate::peer::Peer;
use crate::resolved::ResolvedNames;

/// All that the proxy works from.
#[derive(Clone, Default)]
pub struct NodeState {
    pub snapshot: Arc<Snapshot>,
    /// The workloads that this node runs.
    pub workloads: FastMap<WorkloadName, Arc<LocalWorkload>>,
    /// The virtual addresses that the node's DNS has given to services.
    pub virtual_addresses: FastMap<IpAddr, ServiceName>,
    /// The names that it has resolved outside of the mesh: not replaced with the rest.
    pub resolved: Arc<ResolvedNames>,
}

/// A workload of this node.
pub struct LocalWorkload {
    pub name: WorkloadName,
    /// What telemetry calls it: the service that it is an instance of.
    pub service: Arc<str>,
    pub identity: SpiffeId,
    /// Where its process listens.
    pub app_address: IpAddr,
    pub ports: Vec<u16>,
    /// `None` until the first one was issued: it takes no links and opens none until then.
    pub certificate: Option<Arc<WorkloadCertificate>>,
    /// It is stopping: what is in flight is finished, new requests are refused as safe to retry elsewhere.
    pub draining: bool,
    /// What takes its requests, where that is part of this process: it is a Flow's, which `service` names.
    pub in_process: Option<InProcess>,
    /// It is no workload, but somebody outside of the mesh who came to a published port from there.
    pub outside: Option<SocketAddr>,
}

impl LocalWorkload {
    /// As workloads of this node see it come.
    pub fn peer(&self) -> Peer {
        match self.outside {
            None => Peer::Mesh(self.identity.clone()),
            Some(address) => Peer::Plain(address),
        }
    }

    /// Who pays for what it sends.
    pub fn payer(&self) -> Payer {
        match self.outside {
            None => Payer::Workload(self.name.clone()),
            Some(_) => Payer::Outside,
        }
    }

    /// The service that it is an instance of.
    pub fn service_name(&self) -> ServiceName {
        ServiceName::new(&*self.name.namespace, &*self.service)
    }
}

/// Holds the current [`NodeState`]. The node publishes, the workers read without a lock.
pub struct StateCell {
    current: ArcSwap<NodeState>,
    /// Counts the publications.
    version: AtomicU64,
    changed: watch::Sender<u64>,
}

impl StateCell {
    pub fn new(state: NodeState) -> Arc<Self> {
        let (current, version) = (ArcSwap::from_pointee(state), AtomicU64::new(0));
        Arc::new(Self { current, version, changed: watch::Sender::new(0) })
    }

    /// Counts up with every publication, after it.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn load(&self) -> arc_swap::Guard<Arc<NodeState>> {
        self.current.load()
    }

    /// Replaces the state and wakes those who wait for a change.
    pub fn publish(&self, state: NodeState) {
        self.current.store(Arc::new(state));
        self.version.fetch_add(1, Ordering::Release);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Counts the publications; await `changed()` on it, then `load()` again.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Asks the node for a service that is not in the snapshot. The answer is a published state that
/// has it, as present or absent. Full means that the node is overwhelmed: treat as unknown for now.
pub type Demand = mpsc::Sender<ServiceName>;

/// Tells the node of identities whose certificate a peer has refused because of its age: they are renewed
/// at once. Full means that it has been told of enough.
pub type Expired = mpsc::Sender<SpiffeId>;

/// Tells the node of sets of keys, by where the server has them from, in which one is missing that a token names: they are read
/// anew. Full means that it has been told of enough.
pub type UnknownKeys = mpsc::Sender<Arc<str>>;
