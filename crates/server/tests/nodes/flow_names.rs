//! A Flow as nodes and people are told of it: its name in the mesh, and its status.

use prost::Message;
use serde_json::{Value, json};
use tulle_model::kinds::flow::{FLOW_LABEL, TRIGGER_PORT};
use tulle_model::registry::KindId;
use tulle_wire::discovery::{Endpoints, Service};
use tulle_wire::node::WorkloadPort;
use tulle_wire::type_url::{ENDPOINTS, SERVICE};
use tulle_wire::xds::DeltaDiscoveryResponse;

use crate::client::{TestServer, service, workload};

fn flow(port: u16) -> Value {
    let workflow = json!({
        "document": { "dsl": "1.0.3", "namespace": "shop", "name": "order", "version": "0.1.0" },
        "do": [{ "done": { "set": { "a": 1 } } }],
    });
    json!({
        "metadata": { "namespace": "shop", "name": "order" },
        "spec": { "workflow": workflow, "serviceAccount": "orders", "trigger": { "http": { "port": port } } },
    })
}

fn body<T: Message + Default>(response: &DeltaDiscoveryResponse) -> T {
    T::decode(response.resources[0].resource.as_ref().unwrap().value.as_slice()).unwrap()
}

/// Whether a condition is so: `True Accepted`.
fn is(object: &Value, kind: &str, state: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        condition["type"] == kind && format!("{} {}", text("status"), text("reason")) == state
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_called_by_its_name_where_a_node_carries_it_out() {
    let server = TestServer::start().await;
    let (node, _busy) = server.busy_node("n1", &["*"]).await;
    let mut stream = node.discover().await;
    stream.subscribe(SERVICE, &["shop/order"], &[]).await;
    assert_eq!(stream.next().await.removed_resources, ["shop/order"]);
    server.put(KindId::Flow, "shop", flow(8000)).await;
    let told: Service = body(&stream.next().await);
    assert_eq!((told.ports[0].number, told.ports[0].name.as_str()), (8000, "http"));
    let unmanned =
        |flow: &Value| is(flow, "Accepted", "True Accepted") && is(flow, "Programmed", "False NoRunner");
    server.until(KindId::Flow, "shop", "order", unmanned).await;

    let mut runner = workload("shop", "order-n1", "orders", true);
    runner.labels = [(FLOW_LABEL.to_owned(), "order".to_owned())].into();
    runner.ports = vec![WorkloadPort { name: TRIGGER_PORT.to_owned(), port: 15020, target_port: 15020 }];
    let mut reports = node.report(vec![runner]).await;
    reports.reply().await.unwrap();
    server.until(KindId::Flow, "shop", "order", |flow| is(flow, "Programmed", "True Programmed")).await;
    let mut stream = node.discover().await;
    stream.subscribe(ENDPOINTS, &["shop/order"], &[]).await;
    let told: Endpoints = body(&stream.next_present().await);
    assert!(told.endpoints[0].identity.ends_with("/ns/shop/sa/orders"), "{told:?}");
    assert_eq!(told.endpoints[0].ports[0].target_port, 15020);

    // It settles: what is written of it brings nothing new.
    let settled = server.get(KindId::Flow, "shop", "order").await.unwrap();
    assert_eq!(settled["status"]["conditions"][0]["observedGeneration"], 1);
    // A younger Service does not take its name, and is told.
    server.put(KindId::Service, "shop", service("shop", "order", 80)).await;
    server
        .until(KindId::Service, "shop", "order", |service| is(service, "Accepted", "False Conflicted"))
        .await;
    assert_eq!(server.get(KindId::Flow, "shop", "order").await.unwrap(), settled);
    let objects = &server.server.objects;
    objects.delete(KindId::Flow.kind(), "shop", "order", &Default::default()).await.unwrap();
    server.until(KindId::Service, "shop", "order", |service| is(service, "Accepted", "True Accepted")).await;
}
