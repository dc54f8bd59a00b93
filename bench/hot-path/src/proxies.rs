//! The counted process: the proxies of two nodes with one worker each, whose state is written by hand.

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tulle_identity::Svid;
use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{
    Endpoint, EndpointSet, HttpRouteTable, Known, MeshSettings, PeerNode, PortConfig, PortMapping,
    ServiceConfig, SessionKey, Snapshot,
};
use tulle_proxy::budget::Budget;
use tulle_proxy::certificate::WorkloadCertificate;
use tulle_proxy::state::{LocalWorkload, NodeState, StateCell};
use tulle_proxy::{Bounds, Capture, Config, Proxy, Purpose, Sockets};

use crate::kind::Kind;
use crate::rules::Rules;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SERVICE_PORT: u16 = 80;

/// Starts the proxies, prints where the client finds the service, and calls [`edge_of_window`] for every
/// line of stdin.
pub fn run(kind: Kind, rules: Rules, application: SocketAddr) -> Result<()> {
    // Not one of the proxies' runtimes: it only hands listeners to them.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (_nodes, entry) = runtime.block_on(start(kind, rules, application))?;
    println!("{entry}");
    for (count, line) in std::io::stdin().lock().lines().enumerate() {
        line?;
        edge_of_window(count);
        println!("counted");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Where callgrind is told to write what it has counted, and to begin anew (`measure::callgrind`).
#[inline(never)]
fn edge_of_window(count: usize) {
    black_box(count);
}

async fn start(kind: Kind, rules: Rules, application: SocketAddr) -> Result<(Vec<Node>, SocketAddr)> {
    let authority = Authority::new()?;
    let client = authority.issue("client")?;
    let server = authority.issue("server")?;
    let server_identity = server.identity.clone();
    let mut near = Node::start("near").await?;
    let mut nodes = Vec::new();
    near.run(client);
    let (name, link) = if kind == Kind::Http1OneNode {
        near.run(LocalWorkload { ports: vec![application.port()], ..server });
        (near.name.clone(), near.link)
    } else {
        let mut far = Node::start("far").await?;
        far.run(LocalWorkload { ports: vec![application.port()], ..server });
        let found = (far.name.clone(), far.link);
        nodes.push(far);
        found
    };
    near.know(
        kind,
        rules.compile(&service(), SERVICE_PORT)?,
        Endpoint {
            workload: Some(workload("server")),
            node: Some(PeerNode { name, link }),
            address: ANY_PORT.ip(),
            ports: vec![PortMapping { service_port: SERVICE_PORT, target_port: application.port() }],
            identity: Some(server_identity),
        },
    );
    if let Some(config) = rules.workload(&workload("server"), "client")? {
        for node in [&mut near].into_iter().chain(&mut nodes) {
            let snapshot = Arc::make_mut(&mut node.state.snapshot);
            snapshot.workloads.insert(workload("server"), config.clone());
            node.cell.publish(node.state.clone());
        }
    }
    let capture = Capture::Service { service: service(), port: SERVICE_PORT };
    let purpose = Purpose::Outbound { workload: workload("client"), capture };
    let entry = near.proxy.listen(Sockets::bind(purpose, ANY_PORT, near.proxy.workers())?).await?;
    nodes.push(near);
    Ok((nodes, entry))
}

fn workload(account: &str) -> WorkloadName {
    WorkloadName::new("default", format!("{account}-0"))
}

fn service() -> ServiceName {
    ServiceName::new("default", "server")
}

/// One node: a proxy, and the state that it is handed.
struct Node {
    proxy: Proxy,
    name: Arc<str>,
    link: SocketAddr,
    cell: Arc<StateCell>,
    state: NodeState,
    _demanded: mpsc::Receiver<ServiceName>,
}

impl Node {
    async fn start(name: &str) -> Result<Self> {
        let name: Arc<str> = name.into();
        let cell = StateCell::new(NodeState::default());
        let (demand, demanded) = mpsc::channel(16);
        let bounds = Bounds::default();
        let node = name.clone();
        let budget = Budget::unlimited();
        let proxy = Proxy::start(Config {
            node,
            workers: 1,
            bounds,
            state: cell.clone(),
            demand,
            budget,
            clock: Default::default(),
            expired: mpsc::channel(1).0,
            unknown_keys: mpsc::channel(1).0,
            marked: false,
        })?;
        let link = proxy.listen(Sockets::bind(Purpose::Links, ANY_PORT, proxy.workers())?).await?;
        Ok(Self { proxy, name, link, cell, state: NodeState::default(), _demanded: demanded })
    }

    fn run(&mut self, workload: LocalWorkload) {
        self.state.workloads.insert(workload.name.clone(), Arc::new(workload));
        self.cell.publish(self.state.clone());
    }

    /// Tells the node of the service and its only endpoint.
    fn know(&mut self, kind: Kind, http_routes: HttpRouteTable, endpoint: Endpoint) {
        let port = PortConfig {
            number: SERVICE_PORT,
            name: "".into(),
            protocol: kind.protocol(),
            http_routes,
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let config = ServiceConfig::new(service(), vec![port]);
        let set = EndpointSet::new(service(), vec![(Arc::new(endpoint), 0)]);
        let mut snapshot = Snapshot { generation: 1, ..Snapshot::default() };
        let session_key = Some(SessionKey([0; SessionKey::LENGTH]));
        snapshot.mesh = Arc::new(MeshSettings { session_key, ..MeshSettings::default() });
        snapshot.services.insert(service(), Known::Present(Arc::new(config)));
        snapshot.endpoints.insert(service(), Arc::new(set));
        self.state.snapshot = Arc::new(snapshot);
        self.cell.publish(self.state.clone());
    }
}

/// The authority that signs the certificates of both workloads.
struct Authority {
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "hot-path");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self { domain: TrustDomain::new("bench.test")?, issuer: Issuer::new(params, key), root })
    }

    /// A workload with that identity, without ports.
    fn issue(&self, account: &str) -> Result<LocalWorkload> {
        let identity = SpiffeId::workload(&self.domain, "default", account)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let end = SystemTime::now() + Duration::from_secs(24 * 3600);
        params.not_after = end.into();
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow!("{e}"))?;
        let svid = Svid::new(vec![leaf.der().clone()], key, std::slice::from_ref(&self.root))?;
        let certificate = WorkloadCertificate::new(svid, Arc::default());
        Ok(LocalWorkload {
            name: workload(account),
            service: account.into(),
            identity,
            app_address: ANY_PORT.ip(),
            ports: Vec::new(),
            certificate: Some(Arc::new(certificate)),
            draining: false,
            in_process: None,
            outside: None,
        })
    }
}
