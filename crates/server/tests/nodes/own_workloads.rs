//! What a node is told of the workloads that it runs, and no other node is.

use prost::Message;
use serde_json::json;
use tulle_model::registry::KindId;
use tulle_wire::discovery::Workload;
use tulle_wire::node::NodeReport;
use tulle_wire::type_url::WORKLOAD;
use tulle_wire::xds::DeltaDiscoveryResponse;

use crate::client::{TestServer, service, workload};

const CART: &str = "shop/cart-0";

fn told(response: &DeltaDiscoveryResponse) -> Workload {
    Workload::decode(response.resources[0].resource.as_ref().unwrap().value.as_slice()).unwrap()
}

/// That the workload is not there, as far as the node can tell.
fn denies(response: &DeltaDiscoveryResponse) -> bool {
    response.removed_resources == [CART]
        && response.resources.is_empty()
        && response.resource_errors.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_follows_what_applies_to_its_workload() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let mut stream = node.discover().await;
    // Before the server has heard of it.
    stream.subscribe(WORKLOAD, &[CART], &[]).await;
    assert_eq!(stream.next().await.removed_resources, [CART]);
    let mut reports = node.report(vec![workload("shop", "cart-0", "cart", false)]).await;
    reports.reply().await.unwrap();
    assert_eq!(told(&stream.next().await).services, []);
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let selected = told(&stream.next().await).services;
    assert_eq!((selected[0].name.as_str(), selected[0].ports[0].target_port), ("cart", 80));
    let mesh =
        json!({ "metadata": { "name": "default" }, "spec": { "inboundCapture": { "enabled": true } } });
    server.put(KindId::Mesh, "", mesh).await;
    assert!(told(&stream.next().await).inbound_capture);
    // It is gone with the workload.
    reports.workloads(vec![]).await;
    assert_eq!(stream.next().await.removed_resources, [CART]);
}

/// As a node would that was taken over by somebody.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_told_nothing_whatever_it_tries() {
    let server = TestServer::start().await;
    let (owner, thief) = (server.node("n1", &["*"]).await, server.node("n2", &["*"]).await);
    let mut reports = owner.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    reports.reply().await.unwrap();
    let mut own = owner.discover().await;
    own.subscribe(WORKLOAD, &[CART], &[]).await;
    let version = own.next_present().await.resources[0].version.clone();

    // By its name.
    let mut stream = thief.discover().await;
    stream.subscribe(WORKLOAD, &[CART], &[]).await;
    assert!(denies(&stream.next().await));
    // Among others, and as if it had been told before: a guess is not confirmed.
    stream.subscribe(WORKLOAD, &[CART], &[(CART, &version)]).await;
    assert!(denies(&stream.next().await));
    // It says that it runs it, too.
    let mut claim = thief.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    while claim.reply().await.unwrap().refused.is_empty() {}
    stream.subscribe(WORKLOAD, &[CART], &[]).await;
    assert!(denies(&stream.next().await));
    // What changes is told to the owner alone.
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    assert_eq!(told(&own.next().await).services.len(), 1);
    stream.assert_quiet().await;

    // Once it is its own, it is told; who had it before is told that it has it no more.
    reports.send(NodeReport { leaving: true, ..Default::default() }).await;
    assert_eq!(own.next().await.removed_resources, [CART]);
    claim.workloads(vec![workload("shop", "cart-0", "cart", false)]).await;
    assert_eq!(told(&stream.next_present().await).name, "cart-0");
    // That it is another one's now is nothing to hear.
    own.assert_quiet().await;
}

/// So that a node asks a server for nothing that it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_which_types_it_knows() {
    let server = TestServer::start().await;
    let stream = server.node("n1", &["*"]).await.discover().await;
    let known: Vec<_> = stream.known.split(", ").collect();
    assert!(known.contains(&WORKLOAD), "{known:?}");
}
