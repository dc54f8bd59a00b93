//! A node as the server sees it, with nothing behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};
use tulle_identity::{Expected, Peers, Svid, tls};
use tulle_model::registry::KindId;
use tulle_server::objects::WriteOptions;
use tulle_server::{Server, ServerConfig};
use tulle_wire::node::node_service_client::NodeServiceClient;
use tulle_wire::node::{
    Certificate, JoinRequest, ListServicesRequest, ListServicesResponse, NodeInfo, NodeReport,
    ReadKeysRequest, ReportReply, SignJwtRequest, SignRequest, Workload, WorkloadPort, Workloads,
};
use tulle_wire::type_url::WORKLOAD;
use tulle_wire::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tulle_wire::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// How long anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server with a home of its own.
pub struct TestServer {
    pub server: Server,
    pub home: tempfile::TempDir,
}

impl TestServer {
    pub async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
        Self { server, home }
    }

    pub async fn token(&self, identities: &[&str]) -> String {
        let identities = identities.iter().map(|&i| i.to_owned()).collect();
        self.server.local_join_token(identities).await.unwrap().text
    }

    /// A node that has joined with the right to these identities.
    pub async fn node(&self, name: &str, identities: &[&str]) -> TestNode {
        let token = self.token(identities).await;
        TestNode::join(self.server.node_address, name, &token).await.unwrap()
    }

    /// A node that runs the workload `idle/NAME`, for as long as the reports are kept: it may ask for Services.
    pub async fn busy_node(&self, name: &str, identities: &[&str]) -> (TestNode, Reports) {
        let node = self.node(name, identities).await;
        let reports = node.report(vec![workload("idle", name, "idle", true)]).await;
        node.until_told(&format!("idle/{name}")).await;
        (node, reports)
    }

    pub async fn put(&self, kind: KindId, namespace: &str, object: Value) {
        if !namespace.is_empty() {
            self.server.objects.ensure_namespace(namespace).await.unwrap();
        }
        let options = WriteOptions::controller();
        self.server.objects.put(kind.kind(), namespace, object, &options).await.unwrap();
    }

    pub async fn get(&self, kind: KindId, namespace: &str, name: &str) -> Option<Value> {
        self.server.objects.get(kind.kind(), namespace, name).await.unwrap()
    }

    /// Waits until `holds` is true of an object.
    pub async fn until(&self, kind: KindId, namespace: &str, name: &str, holds: impl Fn(&Value) -> bool) {
        let revision = self.server.objects.revision().await.unwrap();
        let mut watch = self.server.objects.watch_all(revision).await.unwrap();
        let wait = async {
            while !holds(&self.get(kind, namespace, name).await.unwrap_or_default()) {
                watch.next().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!(
                "{kind:?} {namespace}/{name} is {:#}",
                self.get(kind, namespace, name).await.unwrap_or_default()
            );
        }
    }
}

pub fn service(namespace: &str, name: &str, port: u16) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": port, "appProtocol": "http" }] },
    })
}

pub fn route(namespace: &str, name: &str, parent: &str, backends: &[(&str, u32)]) -> Value {
    let backends: Vec<_> =
        backends.iter().map(|(name, weight)| json!({ "name": name, "port": 80, "weight": weight })).collect();
    json!({
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": parent }],
            "rules": [{ "backendRefs": backends }],
        },
    })
}

pub fn workload(namespace: &str, name: &str, app: &str, ready: bool) -> Workload {
    Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        address: "10.1.2.3".to_owned(),
        service_account: app.to_owned(),
        ports: vec![WorkloadPort { name: String::new(), port: 80, target_port: 80 }],
        ready,
        reason: if ready { String::new() } else { "the probe fails".to_owned() },
        certificate_not_after: 0,
    }
}

/// A node's identity and where its server is.
#[derive(Clone)]
pub struct TestNode {
    pub name: String,
    pub server: SocketAddr,
    pub certificate: Certificate,
    pub key: Arc<KeyPair>,
    /// Of the host's kernel.
    pub boot_id: String,
    /// Of its process.
    pub instance: String,
}

pub fn signing_request() -> (Arc<KeyPair>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    (Arc::new(key), csr)
}

impl TestNode {
    pub async fn join(server: SocketAddr, name: &str, token: &str) -> Result<Self, Status> {
        let channel = connect(server, named_by(token), None).await.unwrap();
        let (key, csr) = signing_request();
        let request = JoinRequest { token: token.to_owned(), node: name.to_owned(), csr: csr.into() };
        let response = NodeServiceClient::new(channel).join(request).await?.into_inner();
        assert_eq!(response.trust_domain, "mesh.local");
        Ok(Self {
            name: name.to_owned(),
            server,
            certificate: response.certificate.unwrap(),
            key,
            boot_id: "boot-1".to_owned(),
            instance: "1".to_owned(),
        })
    }

    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.certificate.roots.iter().map(|root| CertificateDer::from(root.to_vec())).collect()
    }

    pub fn svid(&self) -> Svid {
        let chain = self.certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        Svid::new(chain, key.into(), &self.roots()).unwrap()
    }

    /// The servers of its mesh.
    pub fn servers(&self) -> Peers {
        self.svid().peers(Expected::Server)
    }

    pub async fn channel(&self) -> Channel {
        connect(self.server, self.servers(), Some(&self.svid())).await.unwrap()
    }

    pub async fn sign(&self, identity: &str) -> Result<Certificate, Status> {
        let (_, csr) = signing_request();
        let request = SignRequest {
            identity: identity.to_owned(),
            csr: csr.into(),
            instance: self.instance.clone(),
            boot_id: self.boot_id.clone(),
        };
        let response = NodeServiceClient::new(self.channel().await).sign(request).await?;
        Ok(response.into_inner().certificate.unwrap())
    }

    pub async fn sign_jwt(&self, identity: &str) -> Result<String, Status> {
        let request = SignJwtRequest {
            identity: identity.to_owned(),
            audiences: vec!["a".to_owned()],
            instance: self.instance.clone(),
            boot_id: self.boot_id.clone(),
        };
        let response = NodeServiceClient::new(self.channel().await).sign_jwt(request).await?;
        Ok(response.into_inner().token)
    }

    pub async fn read_keys(&self, source: &str) -> Result<(), Status> {
        let request = ReadKeysRequest { source: source.to_owned() };
        NodeServiceClient::new(self.channel().await).read_keys(request).await.map(drop)
    }

    pub async fn list_services(
        &self,
        namespace: &str,
        most_ports: u32,
    ) -> Result<ListServicesResponse, Status> {
        let request = ListServicesRequest { namespace: namespace.to_owned(), most_ports };
        let answer = NodeServiceClient::new(self.channel().await).list_services(request).await;
        answer.map(Response::into_inner)
    }

    /// Waits until the server tells it of a workload that it runs.
    pub async fn until_told(&self, workload: &str) {
        let mut stream = self.discover().await;
        stream.subscribe(WORKLOAD, &[workload], &[]).await;
        stream.next_present().await;
    }

    pub fn info(&self) -> NodeInfo {
        NodeInfo {
            name: self.name.clone(),
            link_address: "10.1.2.3:15008".to_owned(),
            version: "test".to_owned(),
            capture_mode: "explicit".to_owned(),
            instance: self.instance.clone(),
            boot_id: self.boot_id.clone(),
        }
    }

    /// Opens a report stream and reports these workloads.
    pub async fn report(&self, workloads: Vec<Workload>) -> Reports {
        let (sender, receiver) = mpsc::channel(16);
        let first = NodeReport {
            info: Some(self.info()),
            workloads: Some(Workloads { workloads }),
            ..Default::default()
        };
        sender.send(first).await.unwrap();
        let replies = NodeServiceClient::new(self.channel().await)
            .report(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Reports { sender, replies }
    }

    pub async fn discover(&self) -> Discovery {
        self.try_discover().await.unwrap()
    }

    pub async fn try_discover(&self) -> Result<Discovery, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let response = AggregatedDiscoveryServiceClient::new(self.channel().await)
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await?;
        let known = response.metadata().get(tulle_wire::type_url::KNOWN);
        let known = known.map(|known| known.to_str().unwrap().to_owned()).unwrap_or_default();
        Ok(Discovery { sender, responses: response.into_inner(), known })
    }
}

/// An open report stream.
pub struct Reports {
    sender: mpsc::Sender<NodeReport>,
    replies: Streaming<ReportReply>,
}

impl Reports {
    pub async fn send(&self, report: NodeReport) {
        self.sender.send(report).await.unwrap();
    }

    pub async fn workloads(&self, workloads: Vec<Workload>) {
        self.send(NodeReport { workloads: Some(Workloads { workloads }), ..Default::default() }).await;
    }

    /// Sends if the stream still stands.
    pub fn try_send(&self, report: NodeReport) {
        let _ = self.sender.try_send(report);
    }

    pub async fn reply(&mut self) -> Result<ReportReply, Status> {
        tokio::time::timeout(PATIENCE, self.reply_at_all()).await.expect("a reply in time")
    }

    /// The next reply, however long it takes.
    pub async fn reply_at_all(&mut self) -> Result<ReportReply, Status> {
        Ok(self.replies.message().await?.expect("the stream goes on"))
    }
}

/// An open discovery stream.
pub struct Discovery {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// The types that the server says it knows.
    pub known: String,
}

impl Discovery {
    pub async fn send(&self, request: DeltaDiscoveryRequest) {
        self.sender.send(request).await.unwrap();
    }

    pub async fn subscribe(&self, type_url: &str, names: &[&str], versions: &[(&str, &str)]) {
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|&n| n.to_owned()).collect(),
            initial_resource_versions: versions.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect(),
            ..Default::default()
        })
        .await;
    }

    /// The next response, not yet confirmed.
    pub async fn response(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let next =
            tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response in time")?;
        Ok(next.expect("the stream goes on"))
    }

    pub async fn confirm(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        })
        .await;
    }

    pub async fn refuse(&self, response: &DeltaDiscoveryResponse, why: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(tulle_wire::xds::Status { code: 3, message: why.to_owned() }),
            ..Default::default()
        })
        .await;
    }

    /// The next response, confirmed.
    pub async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = self.response().await.unwrap();
        self.confirm(&response).await;
        response
    }

    /// The next response with resources, confirmed: what was just stored may not be compiled yet.
    pub async fn next_present(&mut self) -> DeltaDiscoveryResponse {
        loop {
            let response = self.next().await;
            if !response.resources.is_empty() {
                return response;
            }
        }
    }

    /// That nothing comes: everything that was published before has been sent.
    pub async fn assert_quiet(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(200), self.responses.message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}

/// The servers of the mesh whose root a join token names.
pub fn named_by(token: &str) -> Peers {
    let digits = token.split('.').next().unwrap();
    let bytes = (0..64).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
    Peers::pinned(bytes.collect::<Vec<_>>().try_into().unwrap())
}

/// Connects to a server, which must be one of those, as the owner of a certificate.
pub async fn connect(
    server: SocketAddr,
    servers: Peers,
    own: Option<&Svid>,
) -> Result<Channel, tonic::transport::Error> {
    let config = tls::client(servers, own, Arc::new(DefaultTimeProvider));
    let connector = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(server).await?;
            let name = ServerName::try_from("server.mesh.local").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Endpoint::from_static("http://server.mesh.local").connect_with_connector(connect).await
}
