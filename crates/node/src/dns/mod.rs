//! The node's name server. Every workload has one of its own, so that the caller's namespace is
//! known: it answers the mesh's names with virtual addresses, and forwards the rest to the host's
//! name servers, where egress lets the workload know of it.

mod answer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod listen;
mod outside;
mod upstream;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tulle_model::apart;
use tulle_model::host::{endpoint_host, is_between, is_mesh_only, mesh_host, port_host};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{Known, ServiceConfig, Shape};
use tulle_proxy::resolved::NameTable;

use self::answer::{Alias, Parsed, Place, Query};
pub use self::listen::DnsListener;
use self::upstream::{Asked, Transport, Upstream};
use crate::capture::Destinations;
use crate::control::discovery::{Directory, Found};
use crate::dialer::Dialer;
use crate::keeper::Keeper;
use crate::node_state::StatePublisher;
use crate::passage;
use crate::vips::{MOST_APART, VirtualAddresses, is_virtual};

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

/// How many names may stand for another one in a row.
const MOST_ALIASES: usize = 8;

/// How many endpoints of a headless service an answer has.
const MOST_ADDRESSES: usize = 128;

/// What the mesh says of a name.
enum Answer {
    Addresses(Vec<Ipv4Addr>),
    Places(Vec<Place>),
    /// It is another name for this one.
    Alias(String),
    NoData,
    NoSuchName,
    /// It may be somebody else's name.
    Elsewhere,
    Failure,
}

/// A workload that asks.
struct Caller {
    /// What was resolved for it outside of the mesh.
    resolved: NameTable,
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
    known: passage::Known,
}

impl Addresses {
    /// Publishes the assignments that are on disk.
    pub fn new(
        table: VirtualAddresses,
        state: Arc<StatePublisher>,
        keeper: Keeper,
        known: passage::Known,
    ) -> Arc<Self> {
        state.update(|s| s.virtual_addresses = table.iter().map(|(a, n)| (a, n.clone())).collect());
        Arc::new(Self { table: Mutex::new(table), assigning: Mutex::default(), state, keeper, known })
    }

    /// The addresses of services, in their order. The proxy knows them when this returns.
    ///
    /// # Errors
    /// Where all addresses are taken.
    pub async fn of(self: &Arc<Self>, services: &[ServiceName]) -> io::Result<Vec<Ipv4Addr>> {
        if let Some(addresses) = self.table.lock().all(services) {
            return Ok(addresses);
        }
        let this = self.clone();
        let services = services.to_vec();
        // The assignment is written to disk, where that takes it, before anybody sees it; meanwhile others are answered.
        let assigning = spawn_blocking(move || {
            let _one_at_a_time = this.assigning.lock();
            this.make_room(&services);
            let assignment = this.table.lock().assign(&services)?;
            if let Some(assignment) = assignment {
                assignment.keep(&this.keeper);
                this.table.lock().enter(&assignment);
                this.state.update(|s| {
                    let new = assignment.new.into_iter().map(|(service, address)| (address.into(), service));
                    s.virtual_addresses.extend(new);
                });
            }
            let all = this.table.lock().all(&services);
            all.ok_or_else(|| io::Error::other("the virtual address was given to another one meanwhile"))
        });
        assigning.await.map_err(io::Error::other)?
    }

    /// Takes addresses of endpoints back that are gone, where the next ones are endpoints' and too many have one.
    fn make_room(&self, next: &[ServiceName]) {
        let table = self.table.lock();
        let is_new =
            |service: &&ServiceName| apart::parent(service).is_some() && table.get(service).is_none();
        let new = next.iter().filter(is_new).count();
        if new == 0 || table.apart() + new <= MOST_APART {
            return;
        }
        drop(table);
        let now = arc_swap::Guard::into_inner(self.state.cell().load());
        let is_there =
            |name: &ServiceName| matches!(now.snapshot.services.get(name), Some(Known::Present(_)));
        let back = self.table.lock().take_back(is_there);
        self.state.update(|state| {
            for address in back {
                state.virtual_addresses.remove(&address.into());
            }
        });
    }

    /// Waits until the rules of capture refuse no connection to a service any more for want of whom the node knows by now.
    pub(crate) async fn rules_lead_to(&self, service: &ServiceName) {
        let state = self.state.cell().load();
        let of_service = state.virtual_addresses.iter().filter(|(_, of)| *of == service);
        let addresses = of_service.filter_map(|(address, _)| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let addresses = addresses.collect();
        let refused = Destinations::of(&state).refused_at(&addresses);
        drop(state);
        let mut known = self.known.clone();
        let follow = |known: &Option<Arc<Destinations>>| {
            known.as_ref().is_none_or(|known| known.refused_at(&addresses).is_subset(&refused))
        };
        // Who waits for it goes on then.
        let _ = timeout(RULES_DEADLINE, known.wait_for(follow)).await;
    }

    /// The addresses of services that there are, once connections to all of them are let through.
    async fn reachable(self: &Arc<Self>, services: &[ServiceName]) -> io::Result<Vec<Ipv4Addr>> {
        let addresses = self.of(services).await?;
        let mut known = self.known.clone();
        let lead_there = |known: &Option<Arc<Destinations>>| {
            known.as_ref().is_none_or(|known| addresses.iter().all(|address| known.lead_to(*address)))
        };
        // A client that gets no answer is no better off.
        let _ = timeout(RULES_DEADLINE, known.wait_for(lead_there)).await;
        Ok(addresses)
    }

    fn service(&self, address: Ipv4Addr) -> Option<ServiceName> {
        self.table.lock().service(address).cloned()
    }
}

impl Resolver {
    pub fn new(directory: Directory, addresses: Arc<Addresses>, dialer: Dialer) -> Arc<Self> {
        Arc::new(Self { directory, addresses, upstream: Upstream::of_host(dialer) })
    }

    /// The answer to the message `query` of `caller`; `None` where it deserves none.
    async fn resolve(&self, query: &[u8], caller: &Caller, transport: Transport) -> Option<Bytes> {
        let query = match Query::parse(query) {
            Parsed::Query(query) => query,
            Parsed::Refuse(answer) => return Some(answer),
            Parsed::Ignore => return None,
        };
        if let Some(address) = query.reverse_of()
            && is_virtual(address)
        {
            return Some(query.pointer(self.addresses.service(address)));
        }
        if query.is_above_virtual_addresses() {
            return Some(query.no_data(&[]));
        }
        if query.is_localhost() {
            return Some(query.addresses(&[], &[Ipv4Addr::LOCALHOST]));
        }
        let mut aliases: Vec<Alias> = Vec::new();
        let mut name = query.name();
        loop {
            return Some(match self.look_up(&name, &query, caller, !aliases.is_empty()).await {
                Answer::Alias(target) if aliases.len() < MOST_ALIASES => {
                    aliases.push(Alias { target: target.clone() });
                    if query.wants_alias() {
                        return Some(query.addresses(&aliases, &[]));
                    }
                    name = target;
                    continue;
                }
                Answer::Addresses(addresses) => query.addresses(&aliases, &addresses),
                Answer::Places(places) => query.places(&aliases, &places),
                Answer::NoData => query.no_data(&aliases),
                Answer::NoSuchName => query.no_such_name(&aliases),
                Answer::Elsewhere => self.outside(&query, &aliases, &name, caller, transport).await,
                Answer::Failure | Answer::Alias(_) => query.error(ResponseCode::ServFail),
            });
        }
    }

    /// What the mesh says of a name. Of the name that another one stands for, `is_target`, only those are the mesh's that can
    /// be nobody else's.
    async fn look_up(&self, name: &str, query: &Query<'_>, caller: &Caller, is_target: bool) -> Answer {
        let name = name.trim_end_matches('.');
        let (port, host) = match port_host(name) {
            Some((port, host)) => (Some(port), host),
            None => (None, name),
        };
        let namespace = &*caller.resolved.workload().namespace;
        let service = mesh_host(host, namespace).filter(|named| named.certain || !is_target);
        let endpoint = endpoint_host(host, namespace).filter(|_| !is_target);
        // Malformed names of the mesh, too, are nobody else's business.
        let mut internal = is_mesh_only(host) || is_between(host) || !is_target && is_local(host);
        let wait = match (internal, self.directory.is_connected()) {
            (true, _) => ANSWER_DEADLINE,
            (false, true) => UNCERTAIN_DEADLINE,
            (false, false) => Duration::ZERO,
        };
        let mut found = match service {
            Some(named) => self.find(&named.service, wait).await,
            None => Found::Absent,
        };
        if !matches!(found, Found::Present(_))
            && let Some(endpoint) = endpoint
        {
            match self.find(&endpoint, wait).await {
                Found::Absent => internal |= self.is_below_headless(&endpoint),
                other => found = other,
            }
        }
        match (found, port) {
            (Found::Present(config), None) => self.of_service(&config, query).await,
            (Found::Present(config), Some(port)) => self.of_port(&config, port, host, query).await,
            (Found::Absent, _) if is_between(name) => Answer::NoData,
            (Found::Absent, None) if internal && self.is_namespace(name, caller) => Answer::NoData,
            (Found::Absent, _) if internal => Answer::NoSuchName,
            (Found::Unknown, _) if internal => Answer::Failure,
            (Found::Absent | Found::Unknown, _) => Answer::Elsewhere,
        }
    }

    /// A service, or an endpoint of a headless one by itself: that one is known when its service is.
    async fn find(&self, service: &ServiceName, wait: Duration) -> Found {
        let Some(parent) = apart::parent(service) else { return self.directory.find(service, wait).await };
        match self.directory.find(&parent, wait).await {
            Found::Present(_) => self.directory.look(service).unwrap_or(Found::Absent),
            found => found,
        }
    }

    /// Whether a name is one of those that only endpoints of a service have.
    fn is_below_headless(&self, endpoint: &ServiceName) -> bool {
        let parent = apart::parent(endpoint).and_then(|parent| self.directory.look(&parent));
        matches!(parent, Some(Found::Present(config)) if config.shape == Shape::Headless)
    }

    /// Whether services have this name behind theirs.
    fn is_namespace(&self, name: &str, caller: &Caller) -> bool {
        let name = name.to_ascii_lowercase();
        *name == *caller.resolved.workload().namespace || self.directory.knows_namespace(&name)
    }

    async fn of_service(&self, config: &ServiceConfig, query: &Query<'_>) -> Answer {
        match &config.shape {
            Shape::Alias(target) => Answer::Alias(target.to_string()),
            _ if !query.wants_address() => Answer::NoData,
            Shape::Balanced => self.addresses_of(std::slice::from_ref(&config.name)).await,
            Shape::Headless => {
                let endpoints = self.endpoints_in_turn(config, |_| true);
                let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
                self.addresses_of(&names).await
            }
        }
    }

    /// As many endpoints of a headless service as an answer has.
    fn endpoints_in_turn(
        &self,
        config: &ServiceConfig,
        wanted: impl Fn(&ServiceConfig) -> bool,
    ) -> Vec<Arc<ServiceConfig>> {
        let mut endpoints = self.directory.endpoints_apart(config);
        endpoints.retain(|endpoint| wanted(endpoint));
        // So that each of them is somebody's first one.
        let first = rand::random_range(0..endpoints.len().max(1));
        endpoints.rotate_left(first);
        endpoints.truncate(MOST_ADDRESSES);
        endpoints
    }

    async fn addresses_of(&self, services: &[ServiceName]) -> Answer {
        if services.is_empty() {
            return Answer::NoData;
        }
        match self.addresses.reachable(services).await {
            Ok(addresses) => Answer::Addresses(addresses),
            Err(e) => {
                tracing::warn!("{} gets no virtual address: {e}", services[0]);
                Answer::Failure
            }
        }
    }

    /// Where a port of a service is (RFC 2782); without a port, what stands above all of them.
    async fn of_port(
        &self,
        config: &ServiceConfig,
        port: Option<String>,
        host: &str,
        query: &Query<'_>,
    ) -> Answer {
        let named = |config: &ServiceConfig, name: &str| {
            let mut ports = config.ports.iter().filter(|port| !port.name.is_empty());
            ports.find(|port| *port.name == *name).map(|port| port.number)
        };
        let has_names = config.ports.iter().any(|port| !port.name.is_empty());
        let Some(port) = port else {
            return if has_names { Answer::NoData } else { Answer::NoSuchName };
        };
        let Some(number) = named(config, &port) else { return Answer::NoSuchName };
        if !query.wants_places() {
            return Answer::NoData;
        }
        // As it was asked for, so that whoever does not know the mesh's own names need not.
        let lower = host.to_ascii_lowercase();
        let suffix = [".svc.cluster.local", ".svc"].into_iter().find(|suffix| lower.ends_with(suffix));
        let (services, ports): (Vec<_>, Vec<_>) = match config.shape {
            Shape::Headless => {
                let endpoints = self.endpoints_in_turn(config, |endpoint| named(endpoint, &port).is_some());
                let places = endpoints.iter();
                places.filter_map(|endpoint| Some((endpoint.name.clone(), named(endpoint, &port)?))).unzip()
            }
            _ => (vec![config.name.clone()], vec![number]),
        };
        let addresses = match self.addresses_of(&services).await {
            Answer::Addresses(addresses) => addresses,
            other => return other,
        };
        let places = services.iter().zip(ports).zip(addresses).map(|((service, port), address)| {
            let name = format!("{}.{}{}.", service.name, service.namespace, suffix.unwrap_or(".mesh"));
            Place { name, port, address }
        });
        Answer::Places(places.collect())
    }

    /// Asks the host's name servers, for the name itself or for what it stands for.
    async fn forward(
        &self,
        query: &Query<'_>,
        aliases: &[Alias],
        caller: &Caller,
        transport: Transport,
    ) -> Bytes {
        let failure = || query.error(ResponseCode::ServFail);
        let Some(alias) = aliases.last() else {
            return self.upstream.ask(query, transport, &caller.asked).await.unwrap_or_else(failure);
        };
        let Some(question) = query.about(&alias.target) else { return failure() };
        let Parsed::Query(question) = Query::parse(&question) else { return failure() };
        match self.upstream.ask(&question, transport, &caller.asked).await {
            Some(answer) => query.relayed(aliases, &answer).unwrap_or_else(failure),
            None => failure(),
        }
    }
}

/// Whether a name that can be no service's must not leave the host nevertheless: single labels, and those of this host
/// (RFC 6761, section 6.3).
fn is_local(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    !name.is_empty() && !name.contains('.') || last.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests;
