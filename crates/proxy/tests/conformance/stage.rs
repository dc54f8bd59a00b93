//! A mesh on which many cases run beside each other, each with an application of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{AppProtocol, Endpoint, PeerNode, PortMapping};
use tulle_proxy::Bounds;
use tulle_proxy::state::LocalWorkload;

use super::believer::{believer, provider};
use super::exchange::{Sending, exchange};
use super::http_mesh::{Authority, Node, Way, identity};
use super::recorder;
use super::table::Case;

/// Cases that run at a time.
const PLACES: usize = 24;

/// How clients and applications are connected, in the words of the tables.
pub const WAYS: [(&str, Way, AppProtocol); 3] = [
    ("same-node", Way::SameNode, AppProtocol::Http1),
    ("link", Way::Link, AppProtocol::Http1),
    ("undeclared", Way::Link, AppProtocol::Detect),
];

pub struct Stage {
    authority: Authority,
    nodes: Mutex<Nodes>,
    entries: Vec<SocketAddr>,
    protocol: AppProtocol,
}

struct Nodes {
    near: Node,
    far: Node,
    /// Without its ports.
    endpoint: Endpoint,
    way: Way,
    ports: Vec<u16>,
}

impl Stage {
    pub async fn new(way: Way, protocol: AppProtocol) -> Arc<Self> {
        let authority = Authority::new();
        // However little the machine gives to this test.
        let bounds = Bounds { link_handshake: Duration::from_secs(60), ..Bounds::default() };
        let mut near = Node::bounded("near", &authority, bounds.clone()).await;
        let mut far = Node::bounded("far", &authority, bounds).await;
        let node = if way == Way::Link { &mut far } else { &mut near };
        let endpoint = node.add_workload(&authority, "c-0", &[]);
        let mut entries = Vec::new();
        for place in 0..PLACES {
            near.add_service(&service(place), protocol, Vec::new());
            entries.push(near.listen(&service(place)).await);
        }
        let nodes = Nodes { near, far, endpoint, way, ports: vec![0; PLACES] };
        let stage = Self { authority, nodes: Mutex::new(nodes), entries, protocol };
        stage.warm_up().await;
        Arc::new(stage)
    }

    /// Has the links opened that are used: the first request waits for them no longer than a second.
    async fn warm_up(&self) {
        let http2 = self.protocol == AppProtocol::Http2;
        let app = if http2 { recorder::ok_http2().await } else { recorder::ok().await };
        let entry = self.put(0, app.address);
        for _ in 0..30 {
            let request = b"GET / HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n";
            let answer = exchange(entry, request, Sending::default()).await;
            if answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 ")) {
                return;
            }
        }
        panic!("the mesh does not come up");
    }

    /// A link to the node of the applications, of a peer that may have one.
    pub async fn link(&self) -> TlsStream<TcpStream> {
        let certificate = self.authority.certificate(&identity("a"));
        let address = self.nodes.lock().unwrap().far.link;
        let connector = believer(Some(&certificate));
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("c.default.mesh.test").unwrap();
        connector.connect(name, stream).await.unwrap()
    }

    /// What accepts links as the node of the applications would.
    pub fn acceptor(&self) -> TlsAcceptor {
        let certificate = self.authority.certificate(&identity("c"));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.svid().key().clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Puts what takes links at `link` behind a place, as the node of an application.
    pub fn put_node(&self, place: usize, link: SocketAddr) -> SocketAddr {
        let mut nodes = self.nodes.lock().unwrap();
        let mapping = PortMapping { service_port: 80, target_port: 80 };
        let node = PeerNode { name: format!("odd-{}", link.port()).into(), link };
        let endpoint = Endpoint { ports: vec![mapping], node: Some(node), ..nodes.endpoint.clone() };
        nodes.near.add_service(&service(place), self.protocol, vec![endpoint]);
        self.entries[place]
    }

    /// Puts an application behind a place; says where its clients connect to.
    pub fn put(&self, place: usize, app: SocketAddr) -> SocketAddr {
        let mut nodes = self.nodes.lock().unwrap();
        let Nodes { near, far, endpoint, way, ports } = &mut *nodes;
        ports[place] = app.port();
        let node = if *way == Way::Link { far } else { &mut *near };
        let name = WorkloadName::new("default", "c-0");
        let old = &node.state.workloads[&name];
        let workload = LocalWorkload {
            name: old.name.clone(),
            service: old.service.clone(),
            identity: old.identity.clone(),
            app_address: old.app_address,
            ports: ports.clone(),
            certificate: old.certificate.clone(),
            draining: false,
            in_process: None,
            outside: None,
        };
        node.state.workloads.insert(name, Arc::new(workload));
        node.publish();
        let mapping = PortMapping { service_port: 80, target_port: app.port() };
        let endpoint = Endpoint { ports: vec![mapping], ..endpoint.clone() };
        near.add_service(&service(place), self.protocol, vec![endpoint]);
        self.entries[place]
    }
}

fn service(place: usize) -> String {
    format!("c{place}")
}

/// Runs all cases, some at a time. `run` is given a place on the stage; what is wrong is told at the end, all of it.
pub async fn all<F, R>(cases: Vec<Case>, run: F)
where
    F: Fn(Case, usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<(), String>> + Send + 'static,
{
    let count = cases.len();
    let cases = Arc::new(Mutex::new(cases.into_iter()));
    let mut places = JoinSet::new();
    for place in 0..PLACES {
        let (cases, run) = (cases.clone(), run.clone());
        places.spawn(async move {
            let mut wrong = Vec::new();
            loop {
                let Some(case) = cases.lock().unwrap().next() else { return wrong };
                let name = case.name.clone();
                if let Err(why) = run(case, place).await {
                    wrong.push(format!("{name}\n    {why}"));
                }
            }
        });
    }
    let mut wrong = places.join_all().await.concat();
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
}
