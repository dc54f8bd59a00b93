//! Who is refused at the nodes' port, and that they keep nobody else out.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpStream;
use tulle_identity::Svid;

use crate::client::{PATIENCE, TestNode, TestServer, connect};

/// Connects with a certificate that an authority of nobody's signed.
async fn knock(server: &TestServer, node: &TestNode, identity: &str) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let own = Svid::new(vec![certificate.der().clone()], key.into(), &node.roots()).unwrap();
    // With TLS 1.3 the client hears of it only after its side of the handshake.
    let _ = connect(server.server.node_address, node.servers(), Some(&own)).await;
}

/// Waits for a count other than zero: the client may try again by itself.
async fn counted(server: &TestServer, reason: &str) {
    let none = format!("\ntulle_server_connections_refused_total{{reason=\"{reason}\"}} 0\n");
    let counting = async {
        while server.server.views().metrics().await.contains(&none) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counted = tokio::time::timeout(PATIENCE, counting).await;
    assert!(counted.is_ok(), "{none} in {}", server.server.views().metrics().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_counted_with_its_reason() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    knock(&server, &node, "spiffe://mesh.local/node/n1").await;
    counted(&server, "unknown-issuer").await;
    knock(&server, &node, "spiffe://other.mesh/node/n1").await;
    counted(&server, "foreign-trust-domain").await;
    drop(TcpStream::connect(server.server.node_address).await.unwrap());
    counted(&server, "broken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_keep_no_node_out() {
    let server = TestServer::start().await;
    let mut silent = Vec::new();
    for _ in 0..1500 {
        silent.push(TcpStream::connect(server.server.node_address).await.unwrap());
    }
    // Less than the deadline of a handshake.
    let joining = tokio::time::timeout(Duration::from_secs(3), server.node("n1", &["*"])).await;
    assert!(joining.is_ok(), "the node had to wait for the silent ones");
    assert!(silent.len() == 1500);
}
