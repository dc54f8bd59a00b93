//! A mesh of a few nodes, with certificates made on the spot and state that a test writes by hand.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};
use tulle_identity::Svid;
use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{
    AppProtocol, Endpoint, EndpointSet, Known, PeerNode, PortConfig, PortMapping, ServiceConfig, Snapshot,
};
use tulle_model::stamp::{Stamp, UNIQUE};
use tulle_proxy::budget::Budget;
use tulle_proxy::certificate::WorkloadCertificate;
use tulle_proxy::state::{LocalWorkload, NodeState, StateCell};
use tulle_proxy::{Bounds, Capture, Config, Proxy, Purpose, Sockets};

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The port that services of these tests have.
pub const PORT: u16 = 80;

/// A certificate authority of one trust domain.
pub struct Ca {
    pub domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    pub fn new(domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { domain: TrustDomain::new(domain).unwrap(), issuer: Issuer::new(params, key), root }
    }

    pub fn identity(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(&self.domain, "default", account).unwrap()
    }

    /// A certificate with that identity and the CA's own root as trust anchor.
    pub fn issue(&self, identity: &SpiffeId) -> WorkloadCertificate {
        self.issue_for(identity, Duration::from_secs(3600))
    }

    pub fn issue_for(&self, identity: &SpiffeId, life: Duration) -> WorkloadCertificate {
        self.issue_until(identity, SystemTime::now() + life)
    }

    pub fn issue_until(&self, identity: &SpiffeId, end: SystemTime) -> WorkloadCertificate {
        self.sign(identity, None, end, std::slice::from_ref(&self.root))
    }

    /// A certificate that is issued to a node with that stamp.
    pub fn issue_to(&self, stamp: Stamp, identity: &SpiffeId) -> WorkloadCertificate {
        let end = SystemTime::now() + Duration::from_secs(3600);
        self.sign(identity, Some(stamp), end, std::slice::from_ref(&self.root))
    }

    /// A certificate that comes with the root of another authority as well.
    pub fn issue_trusting(&self, identity: &SpiffeId, other: &Self) -> WorkloadCertificate {
        let end = SystemTime::now() + Duration::from_secs(3600);
        self.sign(identity, None, end, &[self.root.clone(), other.root.clone()])
    }

    fn sign(
        &self,
        identity: &SpiffeId,
        stamp: Option<Stamp>,
        end: SystemTime,
        roots: &[CertificateDer<'static>],
    ) -> WorkloadCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = end.into();
        params.serial_number = stamp.map(|stamp| SerialNumber::from_slice(&stamp.serial([7; UNIQUE])));
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let svid = Svid::new(vec![leaf.der().clone()], key, roots).unwrap();
        WorkloadCertificate::new(svid, Arc::default())
    }
}

/// One node: a proxy and the state that it is handed.
pub struct Node {
    pub proxy: Proxy,
    pub state: Arc<StateCell>,
    pub link: SocketAddr,
    pub name: Arc<str>,
    edited: NodeState,
    _demanded: mpsc::Receiver<ServiceName>,
}

impl Node {
    pub async fn start(name: &str, workers: usize) -> Self {
        Self::bounded(name, workers, Bounds::default()).await
    }

    pub async fn bounded(name: &str, workers: usize, bounds: Bounds) -> Self {
        capture_logs();
        let state = StateCell::new(NodeState::default());
        let (demand, demanded) = mpsc::channel(16);
        let budget = Budget::unlimited();
        let config = Config {
            node: name.into(),
            workers,
            bounds,
            state: state.clone(),
            demand,
            budget,
            clock: Default::default(),
            expired: mpsc::channel(1).0,
            unknown_keys: mpsc::channel(1).0,
            marked: false,
        };
        let proxy = Proxy::start(config).unwrap();
        let link = listen(&proxy, Purpose::Links).await;
        Self { proxy, state, link, name: name.into(), edited: NodeState::default(), _demanded: demanded }
    }

    /// Changes the node's state and publishes it.
    pub fn edit(&mut self, change: impl FnOnce(&mut NodeState)) {
        change(&mut self.edited);
        self.state.publish(self.edited.clone());
    }

    /// Adds a workload `name`-0 of the service account `name`, whose process has `ports`.
    pub fn run(&mut self, name: &str, ports: &[u16], certificate: WorkloadCertificate) -> WorkloadName {
        let identity = certificate.svid().identity().clone();
        self.run_as(name, ports, identity, certificate)
    }

    /// The same for a workload that is another than its certificate says.
    pub fn run_as(
        &mut self,
        name: &str,
        ports: &[u16],
        identity: SpiffeId,
        certificate: WorkloadCertificate,
    ) -> WorkloadName {
        let workload = WorkloadName::new("default", format!("{name}-0"));
        let local = LocalWorkload {
            name: workload.clone(),
            service: name.into(),
            identity,
            app_address: LOOPBACK,
            ports: ports.to_vec(),
            certificate: Some(Arc::new(certificate)),
            draining: false,
            in_process: None,
            outside: None,
        };
        self.edit(|state| {
            state.workloads.insert(local.name.clone(), Arc::new(local));
        });
        workload
    }

    /// Tells the node of a service with those endpoints for its only port.
    pub fn know(&mut self, name: &str, protocol: AppProtocol, endpoints: Vec<Endpoint>) {
        let service = ServiceName::new("default", name);
        let port = PortConfig {
            number: PORT,
            name: "".into(),
            protocol,
            http_routes: Default::default(),
            tls_routes: Default::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let config = ServiceConfig::new(service.clone(), vec![port]);
        let endpoints = endpoints.into_iter().map(|endpoint| (Arc::new(endpoint), 0)).collect();
        let set = EndpointSet::new(service.clone(), endpoints);
        self.edit(|state| {
            let mut snapshot = Snapshot::clone(&state.snapshot);
            snapshot.generation += 1;
            snapshot.services.insert(service.clone(), Known::Present(Arc::new(config)));
            snapshot.endpoints.insert(service, Arc::new(set));
            state.snapshot = Arc::new(snapshot);
        });
    }

    /// An endpoint on this node.
    pub fn endpoint(&self, workload: &WorkloadName, port: u16, identity: SpiffeId) -> Endpoint {
        Endpoint {
            workload: Some(workload.clone()),
            node: Some(PeerNode { name: self.name.clone(), link: self.link }),
            address: LOOPBACK,
            ports: vec![PortMapping { service_port: PORT, target_port: port }],
            identity: Some(identity),
        }
    }

    /// A listener of `workload` that stands for the only port of `service`.
    pub async fn outbound(&self, workload: &WorkloadName, service: &str) -> SocketAddr {
        let service = ServiceName::new("default", service);
        let capture = Capture::Service { service, port: PORT };
        listen(&self.proxy, Purpose::Outbound { workload: workload.clone(), capture }).await
    }

    /// The value of a metric whose line begins with `name` and has all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.proxy.metrics();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until that metric is at least `least`.
    pub async fn metric_reaches(&self, name: &str, labels: &[&str], least: f64) {
        eventually(|| self.metric(name, labels) >= least).await;
    }
}

/// Has a proxy listen at some port.
pub async fn listen(proxy: &Proxy, purpose: Purpose) -> SocketAddr {
    let sockets = Sockets::bind(purpose, SocketAddr::new(LOOPBACK, 0), proxy.workers()).unwrap();
    proxy.listen(sockets).await.unwrap()
}

/// Waits, for at most ten seconds, until `holds`.
pub async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to hold within ten seconds");
}

/// Two nodes: `client-0` on the first can call the service `server`, whose process on the second
/// listens at a port.
pub struct Pair {
    pub ca: Ca,
    pub near: Node,
    pub far: Node,
    pub client: WorkloadName,
    pub server: WorkloadName,
    /// Where the client finds the service.
    pub entry: SocketAddr,
}

impl Pair {
    pub async fn new(app: SocketAddr, protocol: AppProtocol) -> Self {
        Self::bounded(app, protocol, 2, Bounds::default()).await
    }

    pub async fn bounded(app: SocketAddr, protocol: AppProtocol, workers: usize, bounds: Bounds) -> Self {
        let ca = Ca::new("mesh.test");
        let mut near = Node::bounded("near", workers, bounds.clone()).await;
        let mut far = Node::bounded("far", workers, bounds).await;
        let client = near.run("client", &[], ca.issue(&ca.identity("client")));
        let server = far.run("server", &[app.port()], ca.issue(&ca.identity("server")));
        let endpoint = far.endpoint(&server, app.port(), ca.identity("server"));
        near.know("server", protocol, vec![endpoint]);
        let entry = near.outbound(&client, "server").await;
        Self { ca, near, far, client, server, entry }
    }
}

/// An application that gives every connection to `serve`.
pub async fn app<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// An application that sends back what it gets, and closes when its client does.
pub async fn echo() -> SocketAddr {
    app(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// Sends `text` and expects it back.
pub async fn expect_echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut back)).await;
    read.expect("no echo came in ten seconds").unwrap();
    assert_eq!(back, text);
}

/// Connects, and expects the connection to be reset at once.
pub async fn expect_reset(address: SocketAddr) {
    let outcome = async { TcpStream::connect(address).await?.read(&mut [0; 10]).await };
    let outcome = tokio::time::timeout(Duration::from_secs(10), outcome).await;
    assert!(outcome.expect("the connection was not reset in ten seconds").is_err());
}

static LOGS: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGS.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps warnings and the access log of all tests of this binary for [`logged`], and prints what the environment
/// asks for.
pub fn capture_logs() {
    let kept = EnvFilter::new("warn,tulle::access=info");
    let kept = fmt::layer().with_ansi(false).with_writer(|| Log).with_filter(kept);
    let printed = fmt::layer().with_test_writer().with_filter(EnvFilter::from_default_env());
    let _ = tracing_subscriber::registry().with(kept).with(printed).try_init();
}

/// Whether a line was logged that has all of `parts`. All tests of the binary log to the same place.
pub fn logged(parts: &[&str]) -> bool {
    let logs = LOGS.lock().unwrap();
    String::from_utf8_lossy(&logs).lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

/// What was logged since then, as far as it is whole lines, and how much was logged in all.
pub fn logged_since(begin: usize) -> (String, usize) {
    let logs = LOGS.lock().unwrap();
    let since = logs.get(begin..).unwrap_or_default();
    let whole = since.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (String::from_utf8_lossy(&since[..whole]).into_owned(), logs.len())
}
