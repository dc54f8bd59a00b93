//! What nodes subscribe to, and what becomes of routes.

use std::time::Instant;

use prost::Message;
use serde_json::Value;
use tonic::Code;
use tulle_model::registry::KindId;
use tulle_model::snapshot::MeshSettings;
use tulle_wire::discovery::{Endpoints, Mesh, Service};
use tulle_wire::type_url::{ENDPOINTS, MESH, SERVICE};
use tulle_wire::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use crate::client::{TestServer, route, service, workload};

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

fn body<T: Message + Default>(response: &DeltaDiscoveryResponse) -> T {
    T::decode(response.resources[0].resource.as_ref().unwrap().value.as_slice()).unwrap()
}

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["parents"][0]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

/// Else no session would be good on two nodes, or after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_given_one_key_for_sessions() {
    let server = TestServer::start().await;
    let mut keys = Vec::new();
    for name in ["n1", "n2"] {
        let mut stream = server.node(name, &["*"]).await.discover().await;
        stream.subscribe(MESH, &["default"], &[]).await;
        keys.push(MeshSettings::from(body::<Mesh>(&stream.next().await)).session_key);
    }
    assert!(keys[0].is_some() && keys[0] == keys[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_reaches_its_nodes_and_they_count_in_its_status() {
    let server = TestServer::start().await;
    let ((one, _of_one), (two, _of_two)) =
        (server.busy_node("n1", &["*"]).await, server.busy_node("n2", &["*"]).await);
    let (mut first, mut second) = (one.discover().await, two.discover().await);
    for stream in [&mut first, &mut second] {
        stream.subscribe(SERVICE, &["shop/cart"], &[]).await;
        let absent = stream.next().await;
        assert_eq!((absent.removed_resources, absent.resources.len()), (vec!["shop/cart".to_owned()], 0));
    }
    for name in ["cart", "cart-v2"] {
        server.put(KindId::Service, "shop", service("shop", name, 80)).await;
    }
    assert_eq!(names(&first.next().await), ["shop/cart"]);
    assert_eq!(names(&second.next().await), ["shop/cart"]);

    let start = Instant::now();
    server
        .put(KindId::HttpRoute, "shop", route("shop", "split", "cart", &[("cart", 9), ("cart-v2", 1)]))
        .await;
    let pushed = first.response().await.unwrap();
    let took = start.elapsed();
    assert!(took.as_millis() < 500, "{took:?}");
    let config: Service = body(&pushed);
    assert_eq!(config.ports[0].http_rules[0].backends.len(), 2);
    first.confirm(&pushed).await;
    let programmed = |object: &Value| condition(object, "Programmed");
    server
        .until(KindId::HttpRoute, "shop", "split", |o| {
            programmed(o)["message"] == "Programmed on 1 of 2 nodes"
                && programmed(o)["status"] == "False"
                && condition(o, "Accepted")["status"] == "True"
                && condition(o, "ResolvedRefs")["status"] == "True"
        })
        .await;
    let pushed = second.response().await.unwrap();
    second.refuse(&pushed, "no such thing").await;
    server
        .until(KindId::HttpRoute, "shop", "split", |o| {
            programmed(o)["reason"] == "Refused"
                && programmed(o)["message"]
                    .as_str()
                    .is_some_and(|m| m.contains("n2") && m.contains("no such thing"))
        })
        .await;
    server.put(KindId::HttpRoute, "shop", route("shop", "split", "cart", &[("cart-v2", 1)])).await;
    first.next().await;
    second.next().await;
    server
        .until(KindId::HttpRoute, "shop", "split", |o| {
            programmed(o)["message"] == "Programmed on 2 of 2 nodes"
                && programmed(o)["status"] == "True"
                && programmed(o)["observedGeneration"] == 2
        })
        .await;

    // The status settles: its own writes cause no further ones.
    let settled = server.get(KindId::HttpRoute, "shop", "split").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(server.get(KindId::HttpRoute, "shop", "split").await.unwrap(), settled);
    drop(second);
    server
        .until(KindId::HttpRoute, "shop", "split", |o| {
            programmed(o)["message"] == "Programmed on 1 of 1 nodes"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_only_what_changed() {
    let server = TestServer::start().await;
    for name in ["a", "b", "c"] {
        server.put(KindId::Service, "shop", service("shop", name, 80)).await;
    }
    let (node, _reports) = server.busy_node("n1", &["*"]).await;
    let mut stream = node.discover().await;
    stream.subscribe(SERVICE, &["shop/a", "shop/b", "shop/c"], &[]).await;
    let mut versions = std::collections::BTreeMap::new();
    while versions.len() < 3 {
        for resource in stream.next().await.resources {
            versions.insert(resource.name, resource.version);
        }
    }
    drop(stream);
    server.put(KindId::Service, "shop", service("shop", "b", 81)).await;
    let objects = &server.server.objects;
    objects.delete(KindId::Service.kind(), "shop", "c", &Default::default()).await.unwrap();

    let mut stream = node.discover().await;
    let known: Vec<_> = versions.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    stream.subscribe(SERVICE, &["shop/a", "shop/b", "shop/c"], &known).await;
    // The deletion may have been compiled just before or just after.
    let (mut updated, mut removed) = (Vec::new(), Vec::new());
    while updated.is_empty() || removed.is_empty() {
        let response = stream.next().await;
        updated.extend(response.resources.into_iter().map(|r| r.name));
        removed.extend(response.removed_resources);
    }
    assert_eq!((updated, removed), (vec!["shop/b".to_owned()], vec!["shop/c".to_owned()]));
    stream.assert_quiet().await;

    // Asked for again, it is sent again; after unsubscribing, not any more.
    stream.subscribe(SERVICE, &["shop/a"], &[]).await;
    assert_eq!(names(&stream.next().await), ["shop/a"]);
    stream
        .send(DeltaDiscoveryRequest {
            type_url: SERVICE.to_owned(),
            resource_names_unsubscribe: vec!["shop/a".to_owned()],
            ..Default::default()
        })
        .await;
    stream.subscribe(MESH, &["default"], &[]).await;
    assert_eq!(names(&stream.next().await), ["default"]);
    server.put(KindId::Service, "shop", service("shop", "a", 82)).await;
    stream.assert_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_the_workloads_that_are_ready() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let node = server.node("n1", &["shop/*"]).await;
    let mut stream = node.discover().await;
    // The answer waits for what the node says that it runs.
    stream.subscribe(ENDPOINTS, &["shop/cart"], &[]).await;
    let mut reports = node.report(vec![workload("shop", "cart-0", "cart", false)]).await;
    assert_eq!(reports.reply().await.unwrap().lease_seconds, 10);
    assert!(body::<Endpoints>(&stream.next_present().await).endpoints.is_empty());
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    stream.assert_quiet().await;
    let start = Instant::now();
    reports.workloads(vec![workload("shop", "cart-0", "cart", true)]).await;
    let endpoints: Endpoints = body(&stream.next().await);
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    let endpoint = &endpoints.endpoints[0];
    assert_eq!((endpoint.node.as_str(), endpoint.link_address.as_str()), ("n1", "10.1.2.3:15008"));
    assert_eq!(endpoint.identity, "spiffe://mesh.local/ns/shop/sa/cart");
    assert_eq!(endpoint.ports[0].target_port, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_subscriptions_come_in_pieces_and_strange_types_are_refused() {
    let server = TestServer::start().await;
    let (node, _reports) = server.busy_node("n1", &["*"]).await;
    let mut stream = node.discover().await;
    let asked: Vec<_> = (0..2000).map(|i| format!("shop/s{i}")).collect();
    let asked: Vec<_> = asked.iter().map(String::as_str).collect();
    stream.subscribe(SERVICE, &asked, &[]).await;
    let mut answered = 0;
    while answered < 2000 {
        let response = stream.next().await;
        assert!(response.removed_resources.len() <= 256);
        answered += response.removed_resources.len();
    }
    stream.subscribe("type.googleapis.com/envoy.config.cluster.v3.Cluster", &["x"], &[]).await;
    let refused = stream.response().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(SERVICE), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_among_many_services_is_there_in_a_tenth_of_a_second() {
    let server = TestServer::start().await;
    server.server.objects.ensure_namespace("shop").await.unwrap();
    let puts = (0..500).map(|i| {
        let objects = server.server.objects.clone();
        let object = service("shop", &format!("s{i}"), 80);
        tokio::spawn(async move {
            let options = tulle_server::objects::WriteOptions::controller();
            objects.create(KindId::Service.kind(), "shop", object, &options).await.unwrap();
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    let (node, _reports) = server.busy_node("n1", &["*"]).await;
    let mut stream = node.discover().await;
    stream.subscribe(SERVICE, &["shop/s7"], &[]).await;
    assert_eq!(body::<Service>(&stream.next_present().await).ports[0].number, 80);
    let mut fastest = std::time::Duration::MAX;
    // The best of a few: whatever else this machine does must not count.
    for port in 81..91 {
        let start = Instant::now();
        server.put(KindId::Service, "shop", service("shop", "s7", port)).await;
        let config: Service = body(&stream.next().await);
        fastest = fastest.min(start.elapsed());
        assert_eq!(config.ports[0].number, u32::from(port));
    }
    assert!(fastest.as_millis() < 100, "{fastest:?}");
    println!("from put to delta: {fastest:?}");
}
