//! Peers that are not let in, and what the log says of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::SingleCertAndKey;
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tulle_identity::Expected;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::certificate::WorkloadCertificate;

use crate::believer::{Believer, believer, provider};
use crate::mesh::{Ca, LOOPBACK, Pair, echo, eventually, expect_echo, expect_reset, logged};

/// Opens TLS to the far node's link port, and returns the client's address and whether the server let
/// it in.
async fn knock(
    pair: &Pair,
    name: &str,
    certificate: Option<WorkloadCertificate>,
) -> (String, Result<(), String>) {
    let connector = believer(certificate.as_ref());
    let tcp = TcpStream::connect(pair.far.link).await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let outcome = async {
        let mut tls = connector.connect(name, tcp).await?;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        let mut answer = [0; 9];
        tls.read_exact(&mut answer).await?;
        std::io::Result::Ok(())
    };
    let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await.expect("the server answers");
    (address, outcome.map_err(|e| e.to_string()))
}

async fn refused(
    pair: &Pair,
    name: &str,
    certificate: Option<WorkloadCertificate>,
    reason: &str,
    text: &str,
) {
    let (address, outcome) = knock(pair, name, certificate).await;
    assert!(outcome.is_err(), "{reason}: let in");
    let label = format!("result=\"{reason}\"");
    pair.far.metric_reaches("tulle_tls_handshakes_total", &["side=\"server\"", &label], 1.0).await;
    eventually(|| logged(&["WARN", &address, text])).await;
}

#[tokio::test]
async fn strangers_are_refused_and_the_log_says_why() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let name = "server.default.mesh.test";
    let client = pair.ca.identity("client");

    let (_, outcome) = knock(&pair, name, Some(pair.ca.issue(&client))).await;
    assert_eq!(outcome, Ok(()), "one of ours is let in");

    refused(&pair, name, None, "no-certificate", "no certificate").await;

    let other = Ca::new("other.test");
    let certificate = other.issue(&other.identity("client"));
    refused(&pair, name, Some(certificate), "foreign-trust-domain", "foreign trust domain").await;

    let forger = Ca::new("mesh.test");
    refused(&pair, name, Some(forger.issue(&client)), "unknown-issuer", "unknown issuer").await;

    let node = tulle_model::identity::SpiffeId::node(&pair.ca.domain, "n1").unwrap();
    let text = "wrong identity: expected a workload, got spiffe://mesh.test/node/n1";
    refused(&pair, name, Some(pair.ca.issue(&node)), "wrong-identity", text).await;

    let old = pair.ca.issue_until(&client, SystemTime::now() - Duration::from_secs(60));
    refused(&pair, name, Some(old), "invalid-certificate", "expired").await;

    let nobody = "nobody.default.mesh.test";
    let text = "no such workload here: the peer asked for `nobody.default.mesh.test`";
    refused(&pair, nobody, Some(pair.ca.issue(&client)), "no-such-workload", text).await;
}

/// The server has the right chain, and is not who discovery promised.
#[tokio::test]
async fn a_server_with_another_identity_is_refused() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    // The far node answers the SNI of `server` with a certificate for someone else.
    let wrong = pair.ca.issue(&pair.ca.identity("impostor"));
    let server = pair.ca.identity("server");
    pair.far.run_as("server", &[app.port()], server, wrong);
    expect_reset(pair.entry).await;
    let labels = ["side=\"client\"", "result=\"wrong-identity\""];
    pair.near.metric_reaches("tulle_tls_handshakes_total", &labels, 1.0).await;
    let expected =
        "expected spiffe://mesh.test/ns/default/sa/server, got spiffe://mesh.test/ns/default/sa/impostor";
    assert!(logged(&["WARN", &pair.far.link.to_string(), "wrong identity", expected]));
}

#[tokio::test]
async fn a_server_of_another_mesh_is_refused() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let forger = Ca::new("mesh.test");
    pair.far.run("server", &[app.port()], forger.issue(&pair.ca.identity("server")));
    expect_reset(pair.entry).await;
    let labels = ["side=\"client\"", "result=\"unknown-issuer\""];
    pair.near.metric_reaches("tulle_tls_handshakes_total", &labels, 1.0).await;
}

/// A link that was answered as one workload does not lead to another of the same node.
#[tokio::test]
async fn a_link_leads_only_to_the_identity_that_answered() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let secret = pair.far.run("secret", &[app.port()], pair.ca.issue(&pair.ca.identity("secret")));
    let lie = pair.far.endpoint(&secret, app.port(), pair.ca.identity("server"));
    pair.near.know("server", AppProtocol::Tcp, vec![lie]);
    expect_reset(pair.entry).await;
    eventually(|| logged(&["WARN", "default/secret-0", "wrong identity"])).await;
}

/// A renewed certificate is what new links see, from both sides; the old link's connections go on.
#[tokio::test]
async fn renewed_certificates_do_not_disturb() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let mut before = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut before, b"before").await;
    let (client, server) = (pair.ca.identity("client"), pair.ca.identity("server"));
    let renewed = [pair.ca.issue(&client), pair.ca.issue(&server)];
    let leaves = renewed.each_ref().map(|certificate| certificate.svid().key().cert[0].clone());
    let [client, server] = renewed;
    pair.near.run("client", &[], client);
    pair.far.run("server", &[app.port()], server);

    // The server's side, as a new link sees it.
    let knocking = believer(Some(&pair.ca.issue(&pair.ca.identity("client"))));
    let name = ServerName::try_from("server.default.mesh.test").unwrap();
    let tcp = TcpStream::connect(pair.far.link).await.unwrap();
    let seen = knocking.connect(name, tcp).await.unwrap();
    assert_eq!(seen.get_ref().1.peer_certificates().unwrap()[0], leaves[1]);
    // The client's side, as another node sees it.
    let (address, shown) = shows_its_certificate(&pair).await;
    let mut endpoint = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    endpoint.node.as_mut().unwrap().link = address;
    pair.near.know("server", AppProtocol::Tcp, vec![endpoint]);
    let attempt = TcpStream::connect(pair.entry).await.unwrap();
    let shown = tokio::time::timeout(Duration::from_secs(10), shown).await.expect("it is shown").unwrap();
    assert_eq!(shown, leaves[0]);
    drop(attempt);
    expect_echo(&mut before, b"still here").await;
}

/// The link port of a node that takes one handshake, and tells which certificate the client had.
async fn shows_its_certificate(pair: &Pair) -> (SocketAddr, JoinHandle<CertificateDer<'static>>) {
    let server = pair.ca.issue(&pair.ca.identity("server"));
    let shown = Arc::new(SingleCertAndKey::from(server.svid().key().clone()));
    let peers = server.svid().peers(Expected::Workload);
    let config = tulle_identity::tls::server(peers, shown, Arc::new(DefaultTimeProvider));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    });
    (address, shown)
}

/// TLS 1.3 with the hybrid key exchange is what two nodes agree on; nothing older is accepted.
#[tokio::test]
async fn only_tls_1_3_is_spoken() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let certificate = pair.ca.issue(&pair.ca.identity("client"));
    let connect = async |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Believer))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.svid().key().clone())));
        let mut config = config;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(pair.far.link).await.unwrap();
        let name = ServerName::try_from("server.default.mesh.test").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    let stream = connect(&[&rustls::version::TLS13]).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert!(connect(&[&rustls::version::TLS12]).await.is_err());
}
