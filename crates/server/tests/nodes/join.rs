//! Who gets in, and what they may ask for.

use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use tonic::Code;
use tulle_server::{Server, ServerConfig};
use tulle_wire::node::node_service_client::NodeServiceClient;
use tulle_wire::node::{JoinRequest, SignRequest, SignResponse};

use crate::client::{TestNode, TestServer, connect, named_by, signing_request};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_gets_the_identities_of_its_token() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["shop/cart", "bank/*"]).await;

    let certificate = node.sign("spiffe://mesh.local/ns/shop/sa/cart").await.unwrap();
    let now =
        i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    assert!((3590..=3600).contains(&(certificate.not_after - now)), "an hour");
    assert!((290..=310).contains(&(now - certificate.not_before)), "five minutes back");
    let leaf = CertificateDer::from(certificate.chain[0].to_vec());
    let identity = tulle_identity::Certificate::read(&leaf).unwrap().identity.unwrap();
    assert_eq!(identity.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
    node.sign("spiffe://mesh.local/ns/bank/sa/any").await.unwrap();
    node.sign("spiffe://mesh.local/node/n1").await.unwrap();

    for foreign in [
        "spiffe://mesh.local/ns/shop/sa/till",
        "spiffe://other.local/ns/shop/sa/cart",
        "spiffe://mesh.local/node/n2",
        "spiffe://mesh.local/server",
    ] {
        let refused = node.sign(foreign).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{foreign}");
        assert!(refused.message().contains("it may ask for shop/cart, bank/*"), "{}", refused.message());
    }
    let nonsense = node.sign("cart").await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_of_a_request_is_used() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["shop/cart"]).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["admin.example.com".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://mesh.local/server".try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    let mut client = NodeServiceClient::new(node.channel().await);
    let identity = "spiffe://mesh.local/ns/shop/sa/cart".to_owned();
    let request = SignRequest { identity: identity.clone(), csr: csr.clone().into(), ..Default::default() };
    let SignResponse { certificate } = client.sign(request).await.unwrap().into_inner();
    let der = certificate.unwrap().chain[0].clone();
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!leaf.is_ca());
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1, "{names:?}");

    let mut forged = csr;
    *forged.last_mut().unwrap() ^= 1;
    for bad in [forged, b"nonsense".to_vec(), vec![0x30; 20_000]] {
        let request = SignRequest { identity: identity.clone(), csr: bad.into(), ..Default::default() };
        assert_eq!(client.sign(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_once_and_a_wrong_one_never() {
    let server = TestServer::start().await;
    let address = server.server.node_address;
    let token = server.token(&["*"]).await;
    let wrong = format!("{}{}", &token[..token.len() - 1], if token.ends_with('0') { '1' } else { '0' });
    let refused = TestNode::join(address, "n1", &wrong).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    TestNode::join(address, "n1", &token).await.unwrap();
    let refused = TestNode::join(address, "n2", &token).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("used already"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_use_one_token_at_once_one_gets_in() {
    let server = TestServer::start().await;
    let token = server.token(&["*"]).await;
    let joins = (0..8).map(|i| {
        let (address, token) = (server.server.node_address, token.clone());
        tokio::spawn(async move { TestNode::join(address, &format!("n{i}"), &token).await.is_ok() })
    });
    let mut joined = 0;
    for join in joins.collect::<Vec<_>>() {
        joined += usize::from(join.await.unwrap());
    }
    assert_eq!(joined, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_of_this_mesh_there_is_nothing_but_join() {
    let server = TestServer::start().await;
    let address = server.server.node_address;
    let node = server.node("n1", &["*"]).await;
    let sign = |channel| async move {
        let (_, csr) = signing_request();
        let identity = "spiffe://mesh.local/ns/shop/sa/cart".to_owned();
        NodeServiceClient::new(channel)
            .sign(SignRequest { identity, csr: csr.into(), ..Default::default() })
            .await
    };

    let anonymous = connect(address, node.servers(), None).await.unwrap();
    let refused = sign(anonymous).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("join first"), "{}", refused.message());

    // A workload's certificate is none of a node's.
    let (key, csr) = signing_request();
    let request = SignRequest {
        identity: "spiffe://mesh.local/ns/shop/sa/cart".to_owned(),
        csr: csr.into(),
        ..Default::default()
    };
    let signed = NodeServiceClient::new(node.channel().await).sign(request).await.unwrap();
    let workload = TestNode { certificate: signed.into_inner().certificate.unwrap(), key, ..node.clone() };
    let refused = sign(workload.channel().await).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // A certificate of another mesh, with the same names.
    let other = TestServer::start().await;
    let stranger = other.node("n1", &["*"]).await;
    let failed = match connect(address, node.servers(), Some(&stranger.svid())).await {
        // TLS 1.3: the client learns of the refusal when it first reads.
        Ok(channel) => sign(channel).await.is_err(),
        Err(_) => true,
    };
    assert!(failed);
    node.sign("spiffe://mesh.local/ns/shop/sa/cart").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_knows_its_nodes_and_keeps_its_trust_domain() {
    let TestServer { server, home } = TestServer::start().await;
    let first = TestServer { server, home };
    let node = first.node("n1", &["shop/cart"]).await;
    let TestServer { server, home } = first;
    server.shutdown().await;

    let kubeconfig = std::fs::read_to_string(home.path().join("kubeconfig")).unwrap();
    let mut other = ServerConfig::local(home.path());
    other.trust_domain = "other.local".to_owned();
    let refused = Server::start(other).await.err().unwrap().to_string();
    assert!(refused.contains("mesh.local"), "{refused}");

    let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
    let node = TestNode { server: server.node_address, ..node };
    node.sign("spiffe://mesh.local/ns/shop/sa/cart").await.unwrap();
    let again = std::fs::read_to_string(home.path().join("kubeconfig")).unwrap();
    let line = |text: &str, field: &str| text.lines().find(|l| l.contains(field)).map(str::to_owned).unwrap();
    for field in ["certificate-authority-data", "client-certificate-data", "client-key-data"] {
        assert_eq!(line(&kubeconfig, field), line(&again, field));
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_certificate_may_send_little() {
    let server = TestServer::start().await;
    let token = server.token(&["*"]).await;
    let channel = connect(server.server.node_address, named_by(&token), None).await.unwrap();
    let (_, csr) = signing_request();
    let join = |token: String| JoinRequest { token, node: "n1".to_owned(), csr: csr.clone().into() };
    let mut client = NodeServiceClient::new(channel);
    let refused = client.join(join("x".repeat(1000))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let cut = client.join(join("x".repeat(1 << 20))).await.unwrap_err();
    assert!(cut.message().is_empty() || !cut.message().contains("token"), "{cut}");
    let channel = connect(server.server.node_address, named_by(&token), None).await.unwrap();
    NodeServiceClient::new(channel).join(join(token)).await.unwrap();
}
