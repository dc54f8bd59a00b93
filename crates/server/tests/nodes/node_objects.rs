//! Node objects: what is known of a node, and what people want of it; and the events about it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tulle_model::registry::KindId;
use tulle_server::fleet::EvictError;
use tulle_server::objects::WriteOptions;
use tulle_wire::node::NodeReport;

use crate::client::{TestServer, service, workload};

fn ready(object: &Value) -> &Value {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|c| c["type"] == "Ready").map_or(&Value::Null, |c| &c["status"])
}

async fn drain(server: &TestServer, node: &str, drained: bool) {
    let options = WriteOptions::controller();
    let change = |current: &Value| {
        let mut node = current.clone();
        node["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        node["spec"] = json!({ "drained": drained });
        Ok(node)
    };
    server.server.objects.modify(KindId::Node.kind(), "", node, &options, change).await.unwrap();
}

/// Waits until there is an event about a node for that reason.
async fn event(server: &TestServer, reason: &str) -> Value {
    let wait = async {
        loop {
            let events = server.server.objects.list(KindId::Event.kind(), None).await.unwrap().items;
            let about = |e: &&Value| e["involvedObject"]["name"] == "n1" && e["reason"] == reason;
            if let Some(found) = events.iter().find(about) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("no event {reason}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_shown_drained_and_removed_as_an_object() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let node = server.node("n1", &["shop/cart"]).await;
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Node, "", "n1", |o| ready(o) == "True").await;
    let object = server.get(KindId::Node, "", "n1").await.unwrap();
    assert_eq!(object["status"]["addresses"][0]["type"], "Links");
    assert_eq!(object["status"].get("lastSeen"), None);
    assert_eq!(event(&server, "Joined").await["type"], "Normal");
    server.until(KindId::Workload, "shop", "cart-0", |o| ready(o) == "True").await;

    // Labels of people stay. Drained, nothing that it runs takes traffic, nor what it starts.
    drain(&server, "n1", true).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| ready(o) == "False").await;
    let why = server.get(KindId::Workload, "shop", "cart-0").await.unwrap();
    assert!(why["status"]["conditions"].to_string().contains("its node is drained"), "{why}");
    let two = vec![workload("shop", "cart-0", "cart", true), workload("shop", "cart-1", "cart", true)];
    reports.workloads(two).await;
    server.until(KindId::Workload, "shop", "cart-1", |o| ready(o) == "False").await;
    let view = &server.server.views().nodes().nodes[0];
    assert!(view.workloads.iter().all(|w| !w.ready && w.reason == "its node is drained"), "{view:?}");
    drain(&server, "n1", false).await;
    for name in ["cart-0", "cart-1"] {
        server.until(KindId::Workload, "shop", name, |o| ready(o) == "True").await;
    }

    let refused = server.server.views().evict("n1").await;
    assert!(matches!(refused, Err(EvictError::Connected(_))), "{refused:?}");
    assert!(server.get(KindId::Node, "", "n1").await.is_some());
    reports.send(NodeReport { leaving: true, ..Default::default() }).await;
    server
        .until(KindId::Node, "", "n1", |o| ready(o) == "False" && o["status"]["lastSeen"].is_string())
        .await;
    event(&server, "Left").await;
    drop(reports);
    let evicted = async {
        while server.server.views().evict("n1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), evicted).await.unwrap();
    assert!(server.get(KindId::Node, "", "n1").await.is_none());
    event(&server, "Removed").await;
    // It does not come back by itself.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(server.get(KindId::Node, "", "n1").await.is_none());
}

/// Whoever has started a node may drain it right away.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_as_soon_as_they_come() {
    const NODES: u32 = 8;
    let server = TestServer::start().await;
    let start = Instant::now();
    let mut reports = Vec::new();
    for number in 0..NODES {
        let name = format!("n{number}");
        let node = server.node(&name, &["*"]).await;
        reports.push(node.report(vec![]).await);
        server.until(KindId::Node, "", &name, |o| ready(o) == "True").await;
    }
    // Were they looked for once a second, each would wait for the next look.
    assert!(start.elapsed() < NODES * Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_has_no_object() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["shop/cart"]).await;
    let _reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Node, "", "n1", |o| ready(o) == "True").await;
    server.server.views().revoke("n1").await.unwrap();
    assert!(server.get(KindId::Node, "", "n1").await.is_none());
    assert_eq!(event(&server, "Revoked").await["type"], "Warning");
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_none());
}

/// Who looks for a workload that does not come finds out why, with kubectl as well.
#[tokio::test(flavor = "multi_thread")]
async fn workloads_that_are_refused_have_events() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let node = server.node("n1", &["shop/cart"]).await;
    let _reports = node
        .report(vec![workload("shop", "cart-9", "other", true), workload("nowhere", "x", "x", true)])
        .await;
    let found = async |reason: &str| {
        loop {
            let events = server.server.objects.list(KindId::Event.kind(), None).await.unwrap().items;
            if let Some(event) = events.iter().find(|event| event["reason"] == reason) {
                return event.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(20);
    let refused = tokio::time::timeout(patience, found("Refused")).await.expect("an event of the workload");
    let about = &refused["involvedObject"];
    assert_eq!(
        (&about["kind"], &about["namespace"], &about["name"]),
        (&json!("Workload"), &json!("shop"), &json!("cart-9"))
    );
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with("it is not taken from the node `n1`: ") && message.contains("shop/other"),
        "{message}"
    );
    // Where it has no namespace, it is said of the node.
    let refused =
        tokio::time::timeout(patience, found("RefusedWorkload")).await.expect("an event of the node");
    assert_eq!(
        (&refused["involvedObject"]["kind"], &refused["involvedObject"]["name"]),
        (&json!("Node"), &json!("n1"))
    );
    assert!(refused["message"].as_str().unwrap().contains("nowhere/x is not taken"), "{refused}");
}
