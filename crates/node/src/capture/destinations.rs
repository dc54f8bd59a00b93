//! What the rules know of destinations, so that a connection that can lead nowhere is refused as a closed port refuses it,
//! and is not accepted first: programs ask whether a service is there by connecting to it.
//!
//! A virtual address is let through to the proxy as a whole as long as nothing is known of its service (the proxy asks for
//! it), else port by port. To the outside, the mesh's egress policy decides; the proxy is needed where that is `Listed`, and at the
//! ports at which it originates TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tulle_model::apart;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{EgressPolicy, Known, Snapshot};
use tulle_proxy::state::NodeState;

/// How many ports the rules tell apart. Services beyond are the proxy's matter, as those of which nothing is known.
const MOST_PORTS: usize = 1 << 16;

/// What can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destinations {
    pub(super) egress: Egress,
    /// The addresses of services that are known, those without a port among them.
    pub(super) services: BTreeSet<Ipv4Addr>,
    /// Addresses that are let through whatever the port.
    pub(super) unlearned: BTreeSet<Ipv4Addr>,
    /// Ports that are let through.
    pub(super) offered: BTreeSet<(Ipv4Addr, u16)>,
    /// Ports of services that take bytes, with nobody to take them.
    pub(super) deserted: BTreeSet<(Ipv4Addr, u16)>,
    /// The workloads for which TLS is originated to the outside, and the ports of all of them.
    originating: BTreeSet<WorkloadName>,
    pub(super) originated: BTreeSet<u16>,
    /// Those of which the server has said for whom it is, where it is for somebody.
    told: BTreeSet<WorkloadName>,
}

/// What the rules do with what leaves the mesh of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    Nothing,
    /// TCP, by the proxy.
    Listed,
    Freely,
    /// Freely, but for TCP to ports at which TLS is originated: that goes by the proxy.
    InTls,
}

/// What may leave the mesh, of which workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Egress {
    everywhere: EgressPolicy,
    namespaces: BTreeMap<Arc<str>, EgressPolicy>,
    /// Until the server has spoken, what began before goes on.
    is_told: bool,
    pub(super) originates_tls: bool,
}

impl Egress {
    fn of(snapshot: &Snapshot) -> Self {
        let mesh = &snapshot.mesh;
        if snapshot.mesh_untold {
            // What wants to leave waits for that at the proxy.
            let (everywhere, namespaces) = (EgressPolicy::Listed, BTreeMap::new());
            return Self { everywhere, namespaces, is_told: false, originates_tls: false };
        }
        let mut namespaces = mesh.egress_namespaces.clone();
        namespaces.retain(|_, policy| *policy != mesh.egress);
        Self { everywhere: mesh.egress, namespaces, is_told: true, originates_tls: mesh.originates_tls }
    }

    fn of_workload(&self, workload: &WorkloadName) -> EgressPolicy {
        self.namespaces.get(&workload.namespace).copied().unwrap_or(self.everywhere)
    }

    /// Whether what a workload began past the proxy may not go on.
    pub(super) fn ends_what_began(&self, workload: &WorkloadName) -> bool {
        self.is_told && self.of_workload(workload) != EgressPolicy::Allow
    }

    /// The same of any.
    pub(super) fn ends_what_anybody_began(&self) -> bool {
        self.is_told && (self.everywhere != EgressPolicy::Allow || !self.namespaces.is_empty())
    }

    /// What holds for all of them, where the rules need not tell them apart.
    pub(super) fn of_all(&self) -> Option<EgressPolicy> {
        let is_one = self.namespaces.is_empty() && !self.originates_tls;
        Some(self.everywhere).filter(|all| is_one && *all != EgressPolicy::Listed)
    }
}

/// What holds for a workload; nothing of it leaves until something is known.
pub(super) fn egress_of(known: Option<&Arc<Destinations>>, workload: &WorkloadName) -> Leaving {
    known.map_or(Leaving::Nothing, |known| known.leaving(workload))
}

impl Destinations {
    /// What the node knows.
    pub fn of(state: &NodeState) -> Self {
        let snapshot = &state.snapshot;
        let mut found = Self {
            egress: Egress::of(snapshot),
            services: BTreeSet::new(),
            unlearned: BTreeSet::new(),
            offered: BTreeSet::new(),
            deserted: BTreeSet::new(),
            originating: BTreeSet::new(),
            originated: BTreeSet::new(),
            told: BTreeSet::new(),
        };
        if snapshot.mesh.originates_tls {
            for (name, config) in &snapshot.workloads {
                found.told.insert(name.clone());
                let ports = config.originated_ports();
                if !ports.is_empty() {
                    found.originating.insert(name.clone());
                    found.originated.extend(ports);
                }
            }
        }
        // Of a service that is known, all endpoints are.
        let is_known_to_be_gone = |service: &ServiceName| {
            apart::parent(service).is_some_and(|parent| snapshot.services.contains_key(&parent))
        };
        for (address, service) in &state.virtual_addresses {
            let IpAddr::V4(address) = *address else { continue };
            match snapshot.services.get(service) {
                None if is_known_to_be_gone(service) => {}
                None => {
                    found.unlearned.insert(address);
                }
                Some(Known::Absent) => {}
                Some(Known::Present(config)) => {
                    found.services.insert(address);
                    let ports = found.offered.len() + found.deserted.len() + config.ports.len();
                    if ports > MOST_PORTS {
                        found.unlearned.insert(address);
                    } else {
                        for port in &config.ports {
                            let deserted = config.is_deserted(port, &snapshot.endpoints);
                            let ports = if deserted { &mut found.deserted } else { &mut found.offered };
                            ports.insert((address, port.number));
                        }
                    }
                }
            }
        }
        found
    }

    /// What the rules do with what leaves of a workload.
    pub(super) fn leaving(&self, workload: &WorkloadName) -> Leaving {
        match self.egress.of_workload(workload) {
            EgressPolicy::Deny => Leaving::Nothing,
            EgressPolicy::Listed => Leaving::Listed,
            // As the proxy has it: in plain it would go where TLS may be meant.
            EgressPolicy::Allow if self.egress.originates_tls && !self.told.contains(workload) => {
                Leaving::Listed
            }
            EgressPolicy::Allow if self.originating.contains(workload) => Leaving::InTls,
            EgressPolicy::Allow => Leaving::Freely,
        }
    }

    /// The ports at which connections to these addresses are refused, as nobody is there to take them.
    pub fn refused_at(&self, addresses: &BTreeSet<Ipv4Addr>) -> BTreeSet<(Ipv4Addr, u16)> {
        self.deserted.iter().filter(|(address, _)| addresses.contains(address)).copied().collect()
    }

    /// Whether this address is one of a service that is known.
    pub fn lead_to(&self, address: Ipv4Addr) -> bool {
        self.services.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::snapshot::{AppProtocol, EndpointSet, HttpRouteTable, PortConfig, ServiceConfig};

    use super::*;

    #[test]
    fn an_address_leads_where_its_service_does() {
        let names = ["unlearned", "gone", "http", "db", "db-0.db"].map(|name| ServiceName::new("shop", name));
        let mut state = NodeState::default();
        let address = |i: usize| Ipv4Addr::new(127, 64, 1, 1 + i as u8);
        for (i, name) in names.iter().enumerate() {
            state.virtual_addresses.insert(address(i).into(), name.clone());
        }
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(names[1].clone(), Known::Absent);
        let port = |number, protocol| PortConfig {
            number,
            name: "".into(),
            protocol,
            http_routes: HttpRouteTable::default(),
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        for (name, ports) in [
            (&names[2], vec![port(80, AppProtocol::Http1)]),
            (&names[3], vec![port(5432, AppProtocol::Tcp), port(9000, AppProtocol::Detect)]),
        ] {
            let config = ServiceConfig::new(name.clone(), ports);
            snapshot.services.insert(name.clone(), Known::Present(Arc::new(config)));
            snapshot.endpoints.insert(name.clone(), Arc::new(EndpointSet::new(name.clone(), Vec::new())));
        }
        state.snapshot = Arc::new(snapshot);
        let found = Destinations::of(&state);
        assert_eq!(found.unlearned, [address(0)].into());
        assert_eq!(found.offered, [(address(2), 80), (address(3), 9000)].into());
        assert_eq!(found.deserted, [(address(3), 5432)].into());
        assert_eq!(found.refused_at(&[address(2), address(3)].into()), [(address(3), 5432)].into());
        assert_eq!(found.refused_at(&[address(2)].into()), [].into());
        assert!([2, 3].iter().all(|&i| found.lead_to(address(i))));
        assert!(!found.lead_to(address(0)) && !found.lead_to(address(1)));
        assert!(!found.unlearned.contains(&address(4)), "an endpoint that has gone");
    }

    #[test]
    fn what_leaves_goes_by_the_proxy_until_the_server_has_said_what_may() {
        let workload = WorkloadName::new("shop", "web");
        for (mesh_untold, expected) in [(true, Leaving::Listed), (false, Leaving::Freely)] {
            let snapshot = Arc::new(Snapshot { mesh_untold, ..Snapshot::default() });
            let found = Destinations::of(&NodeState { snapshot, ..NodeState::default() });
            assert_eq!(found.leaving(&workload), expected);
            assert_eq!(found.egress.of_all().is_none(), mesh_untold);
        }
    }

    #[test]
    fn what_leaves_in_tls_goes_by_the_proxy() {
        use tulle_model::snapshot::{
            ExternalConfig, ExternalPort, MeshSettings, OriginatedRoots, OriginatedTls, OutsideProtocol,
            TlsAsker, WorkloadConfig,
        };
        let tls = OriginatedTls {
            by: TlsAsker::Policy("shop/p".parse().unwrap()),
            hostname: "api.example.com".into(),
            names: Vec::new(),
            roots: OriginatedRoots::System,
        };
        let port = |number, tls: Option<OriginatedTls>| ExternalPort {
            tls: tls.map(Arc::new),
            ..ExternalPort::new(number, OutsideProtocol::Http)
        };
        let external = ExternalConfig {
            name: "shop/api".parse().unwrap(),
            hosts: Vec::new(),
            ranges: Vec::new(),
            ports: vec![port(80, Some(tls)), port(8080, None)],
            policies: Vec::new().into(),
        };
        let [web, other, new] = ["web", "other", "new"].map(|name| WorkloadName::new("shop", name));
        let mut snapshot = Snapshot::default();
        let told =
            WorkloadConfig { external: vec![Arc::new(external)].into(), ..WorkloadConfig::new(web.clone()) };
        snapshot.workloads.insert(web.clone(), Arc::new(told));
        snapshot.workloads.insert(other.clone(), Arc::new(WorkloadConfig::new(other.clone())));
        let mut found = |egress, originates_tls| {
            snapshot.mesh = Arc::new(MeshSettings { egress, originates_tls, ..MeshSettings::default() });
            let state = NodeState { snapshot: Arc::new(snapshot.clone()), ..NodeState::default() };
            let found = Destinations::of(&state);
            let leaving = [&web, &other, &new].map(|name| found.leaving(name));
            (leaving, found.originated.iter().copied().collect::<Vec<_>>(), found.egress.of_all())
        };
        let (all, none) = ([Leaving::Freely; 3], Vec::new());
        assert_eq!(found(EgressPolicy::Allow, false), (all, none, Some(EgressPolicy::Allow)));
        let own = [Leaving::InTls, Leaving::Freely, Leaving::Listed];
        assert_eq!(found(EgressPolicy::Allow, true), (own, vec![80], None));
        assert_eq!(found(EgressPolicy::Listed, true).0, [Leaving::Listed; 3]);
        assert_eq!(found(EgressPolicy::Deny, true).0, [Leaving::Nothing; 3]);
    }

    #[test]
    fn ports_are_bounded() {
        let mut state = NodeState::default();
        let mut snapshot = Snapshot::default();
        for i in 0..2u8 {
            let name = ServiceName::new("shop", format!("s{i}"));
            state.virtual_addresses.insert(Ipv4Addr::new(127, 64, 1, i).into(), name.clone());
            let ports = (1..=40_000).map(|number| PortConfig {
                number,
                name: "".into(),
                protocol: AppProtocol::Detect,
                http_routes: HttpRouteTable::default(),
                tls_routes: Default::default(),
                tcp_route: None,
                http_only: false,
                http1: Default::default(),
                consumers: Vec::new(),
            });
            let config = ServiceConfig::new(name.clone(), ports.collect());
            snapshot.services.insert(name, Known::Present(Arc::new(config)));
        }
        state.snapshot = Arc::new(snapshot);
        let found = Destinations::of(&state);
        assert_eq!((found.offered.len(), found.unlearned.len(), found.services.len()), (40_000, 1, 2));
    }
}
