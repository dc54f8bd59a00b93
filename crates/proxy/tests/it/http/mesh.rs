//! A mesh of one or two nodes for a test to build.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tulle_identity::Svid;
use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::port_settings::Http1Settings;
use tulle_model::snapshot::{
    AccessPolicy, AppProtocol, Endpoint, EndpointSet, HttpRouteTable, Known, MeshSettings, PeerNode,
    PortConfig, PortMapping, Selected, ServedPort, ServiceConfig, WorkloadConfig,
};
use tulle_proxy::budget::Budget;
use tulle_proxy::certificate::WorkloadCertificate;
use tulle_proxy::state::{LocalWorkload, NodeState, StateCell};
use tulle_proxy::{Bounds, Capture, Config, EdgeCounts, Proxy, Purpose};

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The certificate authority of a test's mesh.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certificate(&self, identity: &SpiffeId) -> Arc<WorkloadCertificate> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let svid = Svid::new(vec![leaf.der().clone()], key, std::slice::from_ref(self.0.der())).unwrap();
        Arc::new(WorkloadCertificate::new(svid, Arc::default()))
    }
}

pub fn identity(name: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", name).unwrap()
}

/// One node and its proxy.
pub struct Node {
    pub name: Arc<str>,
    pub proxy: Arc<Proxy>,
    pub cell: Arc<StateCell>,
    pub state: NodeState,
    pub link: SocketAddr,
    pub budget: Arc<Budget>,
}

impl Node {
    /// A node with a workload `a` that calls others.
    pub async fn start(name: &str, authority: &Authority) -> Self {
        Self::bounded(name, authority, Bounds::default()).await
    }

    /// One that may take no more than that.
    pub async fn start_with(name: &str, authority: &Authority, budget: Arc<Budget>) -> Self {
        Self::with(name, authority, budget, Bounds::default()).await
    }

    /// One within other bounds than the defaults.
    pub async fn bounded(name: &str, authority: &Authority, bounds: Bounds) -> Self {
        Self::with(name, authority, Budget::unlimited(), bounds).await
    }

    /// One within both.
    pub async fn with(name: &str, authority: &Authority, budget: Arc<Budget>, bounds: Bounds) -> Self {
        crate::mesh::capture_logs();
        let mut state = NodeState::default();
        let source = workload(authority, "a", &[]);
        state.workloads.insert(source.name.clone(), Arc::new(source));
        let cell = StateCell::new(state.clone());
        let (demand, mut asked) = mpsc::channel::<ServiceName>(16);
        // What is not there when it is asked for does not exist.
        let answering = cell.clone();
        tokio::spawn(async move {
            while let Some(service) = asked.recv().await {
                let mut state = NodeState::clone(&answering.load());
                Arc::make_mut(&mut state.snapshot).services.entry(service).or_insert(Known::Absent);
                answering.publish(state);
            }
        });
        let config = Config {
            node: name.into(),
            workers: 1,
            bounds,
            state: cell.clone(),
            demand,
            budget: budget.clone(),
            clock: Default::default(),
            expired: mpsc::channel(1).0,
            unknown_keys: mpsc::channel(1).0,
            marked: false,
        };
        let proxy = Proxy::start(config).unwrap();
        let link = crate::mesh::listen(&proxy, Purpose::Links).await;
        Self { name: name.into(), proxy: Arc::new(proxy), cell, state, link, budget }
    }

    /// Another proxy with the same state, as the next process of the node has.
    pub fn next_proxy(&self, workers: usize) -> Proxy {
        let config = Config {
            node: self.name.as_ref().into(),
            workers,
            bounds: Bounds::default(),
            state: self.cell.clone(),
            demand: mpsc::channel(1).0,
            budget: self.budget.clone(),
            clock: Default::default(),
            expired: mpsc::channel(1).0,
            unknown_keys: mpsc::channel(1).0,
            marked: false,
        };
        Proxy::start(config).unwrap()
    }

    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Makes what was changed in `state` known to the proxy.
    pub fn publish(&self) {
        self.cell.publish(self.state.clone());
    }

    /// Changes the port of a service.
    pub fn change_port(&mut self, service: &str, change: impl FnOnce(&mut PortConfig)) {
        let snapshot = Arc::make_mut(&mut self.state.snapshot);
        let config = snapshot.services.get_mut(&service_name(service));
        let Some(Known::Present(config)) = config else { panic!("no service {service}") };
        change(&mut Arc::make_mut(config).ports[0]);
        self.publish();
    }

    /// Tells it which services select one of its workloads, which port of it is their port 80, and how that is spoken to.
    pub fn tell(&mut self, workload: &str, services: &[(&str, u16, Http1Settings)]) {
        let selected = |&(name, target_port, http1): &(&str, u16, Http1Settings)| {
            let port = ServedPort { service_port: 80, target_port, protocol: AppProtocol::Http1, http1 };
            Selected { by: service_name(name), ports: vec![port] }
        };
        let name = WorkloadName::new("default", workload);
        let services = services.iter().map(selected).collect();
        self.told(WorkloadConfig { services, ..WorkloadConfig::new(name) });
    }

    /// Has these policies apply to one of its workloads, which no service selects.
    pub fn authorize(&mut self, workload: &str, policies: Vec<AccessPolicy>) {
        let name = WorkloadName::new("default", workload);
        self.told(WorkloadConfig { policies: policies.into(), ..WorkloadConfig::new(name) });
    }

    /// What the server says of one of its workloads.
    pub fn told(&mut self, config: WorkloadConfig) {
        let snapshot = Arc::make_mut(&mut self.state.snapshot);
        snapshot.workloads.insert(config.name.clone(), Arc::new(config));
        self.publish();
    }

    /// Adds a service with port 80.
    pub fn add_service(&mut self, name: &str, protocol: AppProtocol, endpoints: Vec<Endpoint>) -> &mut Self {
        let service = service_name(name);
        let port = PortConfig {
            number: 80,
            name: "".into(),
            protocol,
            http_routes: HttpRouteTable::default(),
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let snapshot = Arc::make_mut(&mut self.state.snapshot);
        let config = ServiceConfig::new(service.clone(), vec![port]);
        snapshot.services.insert(service.clone(), Known::Present(Arc::new(config)));
        let endpoints = endpoints.into_iter().map(|endpoint| (Arc::new(endpoint), 0)).collect();
        let set = EndpointSet::new(service.clone(), endpoints);
        snapshot.endpoints.insert(service, Arc::new(set));
        self.publish();
        self
    }

    /// Has it know no more of a service than its endpoints, as of one that its workloads don't call.
    pub fn forget_service(&mut self, name: &str) {
        Arc::make_mut(&mut self.state.snapshot).services.remove(&service_name(name));
        self.publish();
    }

    pub fn change_mesh(&mut self, change: impl FnOnce(&mut MeshSettings)) {
        let snapshot = Arc::make_mut(&mut self.state.snapshot);
        change(Arc::make_mut(&mut snapshot.mesh));
        self.publish();
    }

    /// Whether the server has not said yet what holds for the mesh.
    pub fn has_not_heard_of_mesh(&mut self, untold: bool) {
        Arc::make_mut(&mut self.state.snapshot).mesh_untold = untold;
        self.publish();
    }

    /// Runs a workload here: its process listens at `ports`.
    pub fn add_workload(&mut self, authority: &Authority, name: &str, ports: &[u16]) -> Endpoint {
        let workload = workload(authority, name, ports);
        let endpoint = Endpoint {
            workload: Some(workload.name.clone()),
            node: Some(PeerNode { name: self.name.clone(), link: self.link }),
            address: LOOPBACK,
            ports: ports.iter().map(|&port| PortMapping { service_port: 80, target_port: port }).collect(),
            identity: Some(workload.identity.clone()),
        };
        self.state.workloads.insert(workload.name.clone(), Arc::new(workload));
        self.publish();
        endpoint
    }

    /// Marks a workload as stopping.
    pub fn drain_workload(&mut self, name: &str) {
        let name = WorkloadName::new("default", name);
        let old = &self.state.workloads[&name];
        let stopping = LocalWorkload {
            name: old.name.clone(),
            service: old.service.clone(),
            identity: old.identity.clone(),
            app_address: old.app_address,
            ports: old.ports.clone(),
            certificate: old.certificate.clone(),
            draining: true,
            in_process: None,
            outside: None,
        };
        self.state.workloads.insert(name, Arc::new(stopping));
        self.publish();
    }

    /// A listener of workload `a` that stands for port 80 of a service.
    pub async fn listen(&self, service: &str) -> SocketAddr {
        let capture = Capture::Service { service: service_name(service), port: 80 };
        self.listen_as(capture).await
    }

    pub async fn listen_as(&self, capture: Capture) -> SocketAddr {
        self.listen_for("a", capture).await
    }

    /// A listener of another workload.
    pub async fn listen_for(&self, name: &str, capture: Capture) -> SocketAddr {
        let workload = WorkloadName::new("default", name);
        crate::mesh::listen(self.proxy(), Purpose::Outbound { workload, capture }).await
    }

    /// The value of a metric whose line begins with `name` and has all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.proxy().metrics();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    pub fn edge(&self, destination: &str) -> Option<EdgeCounts> {
        self.proxy().edges().into_iter().find(|edge| &*edge.destination.name == destination)
    }

    /// The edge, once it has counted so many requests.
    pub async fn edge_with(&self, destination: &str, requests: u64) -> EdgeCounts {
        eventually(|| self.edge(destination).filter(|edge| edge.requests >= requests)).await
    }
}

/// Waits until `look` finds something, at most 5 s.
pub async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come true within 5 s");
}

pub fn service_name(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

/// An endpoint that is no workload of the mesh.
pub fn plain(address: SocketAddr) -> Endpoint {
    Endpoint {
        workload: None,
        node: None,
        address: address.ip(),
        ports: vec![PortMapping { service_port: 80, target_port: address.port() }],
        identity: None,
    }
}

fn workload(authority: &Authority, name: &str, ports: &[u16]) -> LocalWorkload {
    let service = name.split('-').next().unwrap();
    let identity = identity(service);
    LocalWorkload {
        name: WorkloadName::new("default", name),
        service: service.into(),
        certificate: Some(authority.certificate(&identity)),
        identity,
        app_address: LOOPBACK,
        ports: ports.to_vec(),
        draining: false,
        in_process: None,
        outside: None,
    }
}

/// How client and application are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Plain,
    SameNode,
    Link,
}

pub const WAYS: [Way; 3] = [Way::Plain, Way::SameNode, Way::Link];

/// A client's node, an application as service `c`, and how to get there.
pub struct Path {
    pub near: Node,
    /// Lives as long as the test.
    pub far: Node,
    pub address: SocketAddr,
}

/// Puts the application at `app` behind service `c`.
pub async fn path(way: Way, protocol: AppProtocol, app: SocketAddr) -> Path {
    bounded_path(way, protocol, app, Bounds::default()).await
}

/// The same within other bounds than the defaults.
pub async fn bounded_path(way: Way, protocol: AppProtocol, app: SocketAddr, bounds: Bounds) -> Path {
    let authority = Authority::new();
    let mut near = Node::bounded("near", &authority, bounds.clone()).await;
    let mut far = Node::bounded("far", &authority, bounds).await;
    let endpoint = match way {
        Way::Plain => plain(app),
        Way::SameNode => near.add_workload(&authority, "c-0", &[app.port()]),
        Way::Link => far.add_workload(&authority, "c-0", &[app.port()]),
    };
    near.add_service("c", protocol, vec![endpoint]);
    let address = near.listen("c").await;
    Path { near, far, address }
}
