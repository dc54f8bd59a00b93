//! The Workload API of a node against a real server in this process, with explicit capture: this process is the workload's, as
//! the one that has added it.
#![allow(clippy::unwrap_used, reason = "a test that fails is what it is for")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tulle_node::capture::CaptureWish;
use tulle_node::client::{HeldWorkload, NodeClient};
use tulle_node::workloads::WorkloadSpec;
use tulle_node::{Bounds, Node, NodeConfig};
use tulle_server::{Server, ServerConfig};
use tulle_wire::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tulle_wire::spiffe::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest,
    X509BundlesRequest, X509svidRequest,
};

const SOON: Duration = Duration::from_secs(10);
const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";

fn config(home: &Path, server: String, token: Option<String>) -> NodeConfig {
    NodeConfig {
        home: home.to_owned(),
        name: "n1".into(),
        server,
        token,
        link_listen: "127.0.0.1:0".parse().unwrap(),
        link_address: None,
        admin_listen: None,
        capture: CaptureWish::Explicit,
        keep_workloads: true,
        starts_services: false,
        workers: 1,
        bounds: Bounds::default(),
    }
}

async fn start(server: &Server, home: &Path) -> Node {
    let token = server.local_join_token(vec!["shop/*".into()]).await.unwrap();
    let config = config(home, server.node_address.to_string(), Some(token.text));
    let node = Node::start(config).await.unwrap();
    assert!(node.connected(SOON).await);
    node
}

async fn add(home: &Path, name: &str) -> HeldWorkload {
    let spec = json!({ "namespace": "shop", "name": name, "service": name, "serviceAccount": name });
    let spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
    NodeClient::new(home).add(&spec).await.unwrap()
}

/// Where the API is, as its workloads are told.
fn socket(held: &HeldWorkload) -> PathBuf {
    let variables = &held.running().environment;
    let (_, value) = variables.iter().find(|(name, _)| name == "SPIFFE_ENDPOINT_SOCKET").unwrap();
    value.strip_prefix("unix://").unwrap().into()
}

async fn connect(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap();
    SpiffeWorkloadApiClient::new(channel)
}

fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

fn token(audiences: &[&str], id: &str) -> Request<JwtsvidRequest> {
    let audience = audiences.iter().map(|&a| a.to_owned()).collect();
    ask(JwtsvidRequest { audience, spiffe_id: id.to_owned() })
}

fn validate(audience: &str, svid: &str) -> Request<ValidateJwtsvidRequest> {
    ask(ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() })
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(SOON, stream.message()).await.expect("nothing comes")
}

/// A server, and the home of a node beside it.
async fn served(folder: &Path) -> (Server, PathBuf) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = Server::start(ServerConfig::local(folder.join("s"))).await.unwrap();
    (server, folder.join("n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gets_what_its_workload_has_and_nothing_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let (server, home) = served(folder.path()).await;
    let node = start(&server, &home).await;
    let cart = add(&home, "cart").await;
    let path = socket(&cart);
    let mut api = connect(&path).await;

    let mut svids = api.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let svid = next(&mut svids).await.unwrap().unwrap().svids.remove(0);
    assert_eq!(svid.spiffe_id, CART);
    let leaf = tulle_identity::Certificate::read(&CertificateDer::from(svid.x509_svid.to_vec()));
    assert_eq!(leaf.unwrap().identity.unwrap().as_str(), CART);
    let mut bundles = api.fetch_x509_bundles(ask(X509BundlesRequest {})).await.unwrap().into_inner();
    let roots = next(&mut bundles).await.unwrap().unwrap().bundles;
    assert_eq!(roots["spiffe://mesh.local"], svid.bundle);

    let fetched = async |api: &mut SpiffeWorkloadApiClient<Channel>, audiences: &[&str]| {
        let mut svids = api.fetch_jwtsvid(token(audiences, CART)).await.unwrap().into_inner().svids;
        (svids.len() == 1).then(|| svids.remove(0).svid).unwrap()
    };
    let both = fetched(&mut api, &["b", "a"]).await;
    assert_eq!(fetched(&mut api, &["a", "b", "a"]).await, both, "it is signed anew");
    let one = fetched(&mut api, &["a"]).await;
    assert_ne!(one, both);
    let checked = api.validate_jwtsvid(validate("b", &both)).await.unwrap().into_inner();
    assert_eq!(checked.spiffe_id, CART);
    assert!(
        ["sub", "aud", "exp", "iat"].iter().all(|name| checked
            .claims
            .as_ref()
            .unwrap()
            .fields
            .contains_key(*name))
    );
    let mut keys = api.fetch_jwt_bundles(ask(JwtBundlesRequest {})).await.unwrap().into_inner();
    let set = next(&mut keys).await.unwrap().unwrap().bundles["spiffe://mesh.local"].clone();
    let domain = tulle_model::identity::TrustDomain::new("mesh.local").unwrap();
    let set = tulle_identity::jwt_svid::JwtKeys::read(&set).unwrap();
    set.check(&one, "a", &domain, std::time::SystemTime::now()).unwrap();

    // What is asked for in another way.
    let long = "x".repeat(2000);
    for (asked, expected) in [
        (token(&["a"], ""), Code::Ok),
        (token(&["a"], "spiffe://mesh.local/ns/shop/sa/till"), Code::PermissionDenied),
        (token(&["a"], "cart"), Code::InvalidArgument),
        (token(&[], ""), Code::InvalidArgument),
        (token(&[""], ""), Code::InvalidArgument),
        (token(&["x"; 9], ""), Code::InvalidArgument),
        (token(&[&long], ""), Code::InvalidArgument),
        (Request::new(token(&["a"], "").into_inner()), Code::InvalidArgument),
    ] {
        assert_eq!(code(api.fetch_jwtsvid(asked).await), expected);
    }
    for (asked, expected) in [
        (validate("c", &both), Code::InvalidArgument),
        (validate("", &both), Code::InvalidArgument),
        (validate("a", ""), Code::InvalidArgument),
        (validate("a", "a.b.c"), Code::InvalidArgument),
        (validate("a", &"x".repeat(100_000)), Code::OutOfRange),
    ] {
        assert_eq!(code(api.validate_jwtsvid(asked).await), expected);
    }
    assert_eq!(code(api.fetch_x509svid(Request::new(X509svidRequest {})).await), Code::InvalidArgument);
    assert_eq!(code(api.fetch_witsvid(ask(WitsvidRequest::default())).await), Code::Unimplemented);
    assert_eq!(code(api.fetch_wit_bundles(ask(WitBundlesRequest {})).await), Code::Unimplemented);

    // Without the server what is there goes on.
    server.shutdown().await;
    assert_eq!(fetched(&mut api, &["a"]).await, one);
    assert_eq!(code(api.fetch_jwtsvid(token(&["new"], "")).await), Code::Unavailable);
    assert_eq!(code(api.validate_jwtsvid(validate("a", &one)).await), Code::Ok);

    // Streams end with their workload; then this process is of none.
    drop(cart);
    assert_eq!(code(next(&mut svids).await), Code::PermissionDenied);
    assert_eq!(code(next(&mut bundles).await), Code::PermissionDenied);
    assert_eq!(code(next(&mut keys).await), Code::PermissionDenied);
    for mut api in [api, connect(&path).await] {
        assert_eq!(code(api.fetch_x509svid(ask(X509svidRequest {})).await), Code::PermissionDenied);
        assert_eq!(code(api.fetch_x509_bundles(ask(X509BundlesRequest {})).await), Code::PermissionDenied);
        assert_eq!(code(api.fetch_jwtsvid(token(&["a"], "")).await), Code::PermissionDenied);
        assert_eq!(code(api.fetch_jwt_bundles(ask(JwtBundlesRequest {})).await), Code::PermissionDenied);
        assert_eq!(code(api.validate_jwtsvid(validate("a", &one)).await), Code::PermissionDenied);
    }
    node.shutdown(SOON).await;
    assert!(!path.exists());
}

/// A node that is started again has the keys of tokens from disk, and its workloads their certificates.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_needs_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let (server, home) = served(folder.path()).await;
    let node = start(&server, &home).await;
    let cart = add(&home, "cart").await;
    let mut api = connect(&socket(&cart)).await;
    let signed = api.fetch_jwtsvid(token(&["a"], "")).await.unwrap().into_inner().svids.remove(0).svid;
    let mut svids = api.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let before = next(&mut svids).await.unwrap().unwrap();
    let address = server.node_address.to_string();
    server.shutdown().await;
    node.shutdown(SOON).await;
    drop(cart);

    let node = Node::start(config(&home, address, None)).await.unwrap();
    let cart = add(&home, "cart").await;
    let mut api = connect(&socket(&cart)).await;
    let mut svids = api.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    assert!(next(&mut svids).await.unwrap().unwrap() == before);
    assert_eq!(code(api.validate_jwtsvid(validate("a", &signed)).await), Code::Ok);
    drop(cart);
    node.shutdown(SOON).await;
}
