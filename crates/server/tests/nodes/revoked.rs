//! A node that is revoked: what it was issued counts no longer, and the others are told.

use prost::Message;
use tonic::Code;
use tulle_identity::Certificate;
use tulle_model::stamp::Stamp;
use tulle_wire::discovery::Mesh;
use tulle_wire::node::SignRequest;
use tulle_wire::node::node_service_client::NodeServiceClient;
use tulle_wire::type_url::MESH;

use crate::client::{Discovery, TestNode, TestServer, signing_request};

/// The stamps that the next form of the mesh's settings names.
async fn told(stream: &mut Discovery) -> Vec<u64> {
    let response = stream.next_present().await;
    let resource = response.resources[0].resource.as_ref().unwrap();
    Mesh::decode(&*resource.value).unwrap().revoked
}

async fn stamp_of_a_workload(node: &TestNode, identity: &str) -> Stamp {
    let certificate = node.sign(identity).await.unwrap();
    let leaf = rustls_pki_types::CertificateDer::from(certificate.chain[0].to_vec());
    Certificate::read(&leaf).unwrap().stamp.unwrap()
}

fn stamp_of(node: &TestNode) -> Stamp {
    node.svid().stamp().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificates_of_a_revoked_node_are_named_to_the_others_and_refused_here() {
    let server = TestServer::start().await;
    let (lost, other) = (server.node("n1", &["shop/*"]).await, server.node("n2", &["shop/*"]).await);
    let identity = "spiffe://mesh.local/ns/shop/sa/cart";
    let stamp = stamp_of(&lost);
    assert_eq!(stamp_of_a_workload(&lost, identity).await, stamp);
    assert_ne!(stamp_of_a_workload(&other, identity).await, stamp);
    let mut stream = other.discover().await;
    stream.subscribe(MESH, &["default"], &[]).await;
    assert_eq!(told(&mut stream).await, [0; 0]);
    let mut own = lost.discover().await;
    // A connection that stands, to ask on again later.
    let channel = lost.channel().await;

    server.server.views().revoke("n1").await.unwrap();
    assert_eq!(told(&mut stream).await, [stamp.0]);
    let ended = loop {
        match own.response().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");

    // Somebody joins under the name. What was stolen before does not count for that.
    let again = server.node("n1", &["shop/*"]).await;
    assert_ne!(stamp_of(&again), stamp);
    assert_ne!(stamp_of_a_workload(&again, identity).await, stamp);
    let (_, csr) = signing_request();
    let request = SignRequest { identity: identity.to_owned(), csr: csr.into(), ..SignRequest::default() };
    let standing = NodeServiceClient::new(channel).sign(request).await.err().map(|status| status.code());
    assert_eq!(standing, Some(Code::PermissionDenied));
    let anew = lost.sign(identity).await.err().map(|status| status.code());
    assert_eq!(anew, Some(Code::PermissionDenied));
    assert!(lost.try_discover().await.is_err());
    assert!(again.try_discover().await.is_ok());
}
