//! The node's name server. Every workload has one of its own, so that the caller's namespace is
//! known: it answers the mesh's names with virtual addresses, and forwards the rest to the host's
//! name servers.

mod answer;
mod listen;
mod upstream;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tulle_model::host::mesh_host;
use tulle_model::name::ServiceName;

use self::answer::{Parsed, Query};
pub use self::listen::DnsListener;
use self::upstream::{Asked, Transport, Upstream};
use crate::control::discovery::{Directory, Found};
use crate::keeper::Keeper;
use crate::node_state::StatePublisher;
use crate::passage::Known;
use crate::vips::{VirtualAddresses, is_virtual};

/// How long the server may take to say whether a name of the mesh exists.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// The same for a name that may as well be one of the world outside: it must not get slow.
const UNCERTAIN_DEADLINE: Duration = Duration::from_millis(500);

/// How long the rules of capture may take to let an address through.
const RULES_DEADLINE: Duration = Duration::from_secs(1);

/// Answers queries; shared by all workloads of the node.
pub struct Resolver {
    directory: Directory,
    addresses: Arc<Addresses>,
    upstream: Upstream,
}

/// A workload that asks.
struct Caller {
    namespace: String,
    /// Its questions that wait for the host's name servers.
    asked: Asked,
}

/// The virtual addresses, and their way to the proxy.
pub struct Addresses {
    /// Held for moments only.
    table: Mutex<VirtualAddresses>,
    /// Held while an assignment is written.
    assigning: Mutex<()>,
    state: Arc<StatePublisher>,
    keeper: Keeper,
    /// What the rules of capture let through.
    known: Known,
}

impl Addresses {
    /// Publishes the assignments that are on disk.
    pub fn new(
        table: VirtualAddresses,
        state: Arc<StatePublisher>,
        keeper: Keeper,
        known: Known,
    ) -> Arc<Self> {
        state.update(|s| s.virtual_addresses = table.iter().map(|(a, n)| (a, n.clone())).collect());
        Arc::new(Self { table: Mutex::new(table), assigning: Mutex::default(), state, keeper, known })
    }

    /// The address of a service. The proxy knows it when this returns.
    pub async fn of(self: &Arc<Self>, service: &ServiceName) -> std::io::Result<Ipv4Addr> {
        if let Some(address) = self.table.lock().get(service) {
            return Ok(address);
        }
        let this = self.clone();
        let service = service.clone();
        // The assignment is written to disk, where that takes it, before anybody sees it; meanwhile others are answered.
        let assigning = spawn_blocking(move || {
            let _one_at_a_time = this.assigning.lock();
            if let Some(address) = this.table.lock().get(&service) {
                return Ok(address);
            }
            let assignment = this.table.lock().assign(&service)?;
            assignment.keep(&this.keeper);
            this.table.lock().enter(&assignment);
            this.state.update(|s| {
                s.virtual_addresses.insert(assignment.address.into(), service);
            });
            Ok(assignment.address)
        });
        assigning.await.map_err(std::io::Error::other)?
    }

    /// The address of a service that there is, once connections to it are let through.
    async fn reachable(self: &Arc<Self>, service: &ServiceName) -> std::io::Result<Ipv4Addr> {
        let address = self.of(service).await?;
        let mut known = self.known.clone();
        let let_through = known.wait_for(|known| known.as_ref().is_none_or(|known| known.lead_to(address)));
        // A client that gets no answer is no better off.
        let _ = timeout(RULES_DEADLINE, let_through).await;
        Ok(address)
    }

    fn service(&self, address: Ipv4Addr) -> Option<ServiceName> {
        self.table.lock().service(address).cloned()
    }
}

impl Resolver {
    pub fn new(directory: Directory, addresses: Arc<Addresses>) -> Arc<Self> {
        Arc::new(Self { directory, addresses, upstream: Upstream::of_host() })
    }

    /// The answer to the message `query` of `caller`; `None` where it deserves none.
    async fn resolve(&self, query: &[u8], caller: &Caller, transport: Transport) -> Option<Bytes> {
        let query = match Query::parse(query) {
            Parsed::Query(query) => query,
            Parsed::Refuse(answer) => return Some(answer),
            Parsed::Ignore => return None,
        };
        if let Some(address) = query.reverse_of() {
            if is_virtual(address) {
                return Some(query.pointer(self.addresses.service(address)));
            }
            return Some(self.forward(&query, caller, transport).await);
        }
        if query.is_localhost() {
            return Some(query.address(Ipv4Addr::LOCALHOST));
        }
        let name = query.name();
        let Some(host) = mesh_host(&name, &caller.namespace) else {
            // Malformed names of the mesh, and single labels, are nobody else's business.
            if is_internal(&name) {
                return Some(query.no_such_name());
            }
            return Some(self.forward(&query, caller, transport).await);
        };
        let internal = host.certain || !name.trim_end_matches('.').contains('.');
        let wait = match (internal, self.directory.is_connected()) {
            (true, _) => ANSWER_DEADLINE,
            (false, true) => UNCERTAIN_DEADLINE,
            (false, false) => Duration::ZERO,
        };
        match self.directory.find(&host.service, wait).await {
            Found::Present(_) if !query.wants_address() => Some(query.no_data()),
            Found::Present(_) => match self.addresses.reachable(&host.service).await {
                Ok(address) => Some(query.address(address)),
                Err(e) => {
                    tracing::warn!("{} gets no virtual address: {e}", host.service);
                    Some(query.error(ResponseCode::ServFail))
                }
            },
            Found::Absent if internal => Some(query.no_such_name()),
            Found::Unknown if internal => Some(query.error(ResponseCode::ServFail)),
            Found::Absent | Found::Unknown => Some(self.forward(&query, caller, transport).await),
        }
    }

    async fn forward(&self, query: &Query<'_>, caller: &Caller, transport: Transport) -> Bytes {
        match self.upstream.ask(query, transport, &caller.asked).await {
            Some(answer) => answer,
            None => query.error(ResponseCode::ServFail),
        }
    }
}

/// Whether a name that can be no service's must not leave the host nevertheless.
fn is_internal(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    !name.is_empty() && !name.contains('.')
        || matches!(last, "mesh" | "svc" | "localhost")
        || name.ends_with(".svc.cluster.local")
}

#[cfg(test)]
mod tests;
