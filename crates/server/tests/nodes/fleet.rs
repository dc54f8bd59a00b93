//! Reports, and the workloads that nodes hold.

use std::time::Duration;

use serde_json::json;
use tonic::Code;
use tulle_model::registry::KindId;
use tulle_model::telemetry::{LATENCY_BUCKETS, latency_bucket};
use tulle_server::fleet::{EvictError, Leases};
use tulle_server::objects::{Part, WriteOptions};
use tulle_server::store::{Precondition, Store};
use tulle_server::views::NewToken;
use tulle_server::{Server, ServerConfig, StartError};
use tulle_wire::node::{Edge, NodeClock, NodeReport, Telemetry};

use crate::client::{TestNode, TestServer, service, workload};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_holds_only_what_it_may_and_the_rest_is_refused() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["shop/cart"]).await;
    server
        .put(
            KindId::Workload,
            "shop",
            json!({ "metadata": { "namespace": "shop", "name": "mine" }, "spec": { "address": "10.0.0.1" } }),
        )
        .await;
    let mut reports = node
        .report(vec![
            workload("shop", "cart-0", "cart", true),
            workload("shop", "till-0", "till", true),
            workload("shop", "mine", "cart", true),
        ])
        .await;
    let refused = loop {
        let reply = reports.reply().await.unwrap();
        if !reply.refused.is_empty() {
            break reply.refused;
        }
    };
    let message = |name: &str| refused.iter().find(|r| r.name == name).map(|r| r.message.clone()).unwrap();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(message("till-0").contains("may run shop/cart"), "{}", message("till-0"));
    assert!(message("mine").contains("written by hand"), "{}", message("mine"));
    server
        .until(KindId::Workload, "shop", "cart-0", |o| o["status"]["conditions"][0]["status"] == "True")
        .await;
    assert!(server.get(KindId::Workload, "shop", "till-0").await.is_none());

    reports.workloads(vec![workload("shop", "cart-1", "cart", false)]).await;
    server
        .until(KindId::Workload, "shop", "cart-1", |o| {
            o["status"]["conditions"][0]["message"] == "the probe fails"
        })
        .await;
    server.until(KindId::Workload, "shop", "cart-0", |o| o.is_null()).await;
    let nodes = server.server.views().nodes().nodes;
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].connected);
    assert_eq!(nodes[0].workloads[0].name, "cart-1");

    reports.send(NodeReport { leaving: true, ..Default::default() }).await;
    server.until(KindId::Workload, "shop", "cart-1", |o| o.is_null()).await;
    assert_eq!(server.get(KindId::Workload, "shop", "mine").await.unwrap()["spec"]["address"], "10.0.0.1");
}

fn stale(object: &serde_json::Value) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let stale = conditions.iter().find(|c| c["type"] == "Stale" && c["status"] == "True")?;
    Some(stale["lastTransitionTime"].as_str().unwrap().to_owned())
}

fn config(home: &std::path::Path, forget_stale: Duration) -> ServerConfig {
    let leases = Leases { lease: Duration::from_millis(1500), forget_stale, ..Leases::default() };
    ServerConfig { leases, ..ServerConfig::local(home) }
}

async fn restart(server: TestServer, node: &mut TestNode, config: ServerConfig) -> TestServer {
    let TestServer { server, home } = server;
    server.shutdown().await;
    let server = TestServer { server: Server::start(config).await.unwrap(), home };
    node.server = server.server.node_address;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_nodes_workloads_go_stale_and_stay() {
    let home = tempfile::tempdir().unwrap();
    let config = || config(home.path(), Duration::from_secs(3600));
    let server = Server::start(config()).await.unwrap();
    let mut server = TestServer { server, home: tempfile::tempdir().unwrap() };
    let mut node = server.node("n1", &["*"]).await;
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let object = async |server: &TestServer| server.get(KindId::Workload, "shop", "cart-0").await.unwrap();
    let uid = object(&server).await["metadata"]["uid"].clone();

    // A reconnect within the lease changes nothing, nor does a restart of the server.
    drop(reports);
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    assert_eq!(object(&server).await["metadata"]["uid"], uid);
    drop(reports);
    server = restart(server, &mut node, config()).await;
    assert!(stale(&object(&server).await).is_none());
    let shown = server.server.views().nodes().nodes;
    assert!(shown[0].name == "n1" && !shown[0].connected && shown[0].workloads[0].name == "cart-0");

    // Nobody comes back: the lease that the restart granted runs out.
    let start = std::time::Instant::now();
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_some()).await;
    assert!(start.elapsed() > Duration::from_millis(700), "{:?}", start.elapsed());
    let since = stale(&object(&server).await);
    assert_eq!(
        object(&server).await["status"]["conditions"][0]["status"],
        "True",
        "it is as ready as it was"
    );
    assert!(server.server.views().nodes().nodes[0].workloads[0].stale_seconds.is_some());
    assert!(server.server.views().metrics().await.contains("\ntulle_server_workloads_stale 1\n"));

    // Since when outlives a restart.
    server = restart(server, &mut node, config()).await;
    assert_eq!(stale(&object(&server).await), since);
    assert!(server.server.views().metrics().await.contains("\ntulle_server_workloads_stale 1\n"));
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(stale(&object(&server).await), since, "the lease that the restart granted has run out");

    // A node that comes back heals.
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_none()).await;
    // So does the next word on a stream that was silent.
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_some()).await;
    assert!(!server.server.views().nodes().nodes[0].connected);
    reports.send(NodeReport::default()).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_none()).await;
    // The view follows the store.
    let healed = async {
        loop {
            let shown = server.server.views().nodes().nodes;
            if shown[0].connected && shown[0].workloads[0].stale_seconds.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healed).await.expect("the view shows it");
    assert_eq!(object(&server).await["metadata"]["uid"], uid, "it was never gone");
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_for_too_long_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(config(home.path(), Duration::from_secs(3))).await.unwrap();
    let server = TestServer { server, home: tempfile::tempdir().unwrap() };
    let node = server.node("n1", &["*"]).await;
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    drop(reports);
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_some()).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| o.is_null()).await;
    // The view follows the store.
    let gone = async {
        while !server.server.views().metrics().await.contains("\ntulle_server_workloads_stale 0\n") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the view shows it");
    let _reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null() && stale(o).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_come_back_is_evicted_and_a_connected_one_is_not() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(config(home.path(), Duration::from_secs(3600))).await.unwrap();
    let server = TestServer { server, home: tempfile::tempdir().unwrap() };
    let views = server.server.views();
    assert!(matches!(views.evict("n1").await, Err(EvictError::Unknown(_))));
    let node = server.node("n1", &["*"]).await;
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    assert!(matches!(views.evict("n1").await, Err(EvictError::Connected(_))));
    drop(reports);
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_some()).await;
    assert_eq!(views.evict("n1").await.unwrap(), 1);
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_none());
    // If it lives after all, it is taken in again.
    let _reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_grant_cannot_be_read_is_told_to_try_again_and_loses_nothing() {
    let TestServer { server, home } = TestServer::start().await;
    let token = server.local_join_token(vec!["*".to_owned()]).await.unwrap().text;
    let mut node = TestNode::join(server.node_address, "n1", &token).await.unwrap();
    let running = TestServer { server, home };
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    running.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    drop(reports);
    let TestServer { server, home } = running;
    server.shutdown().await;
    let store = Store::open(&home.path().join("server/store.redb")).unwrap();
    store.put("/tulle/nodes/n1", b"damaged".to_vec(), Precondition::Any).await.unwrap();
    drop(store);
    let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
    node.server = server.node_address;
    let server = TestServer { server, home };
    let mut again = node.report(vec![]).await;
    let refused = [
        again.reply_at_all().await.unwrap_err(),
        node.try_discover().await.err().unwrap(),
        node.sign("spiffe://mesh.local/node/n1").await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_revoked_may_nothing_with_the_certificate_that_it_has() {
    let server = TestServer::start().await;
    let views = server.server.views();
    assert!(matches!(views.revoke("n1").await, Err(EvictError::Unknown(_))));
    let node = server.node("n1", &["*"]).await;
    let mut reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    let mut discovery = node.discover().await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let token =
        NewToken { identities: vec!["*".into()], flows: vec![], node: Some("n1".into()), ttl_seconds: None };
    let token = views.create_token(token).await.unwrap().token;

    assert_eq!(views.revoke("n1").await.unwrap(), 1);
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_none() && views.nodes().nodes.is_empty());
    let refused = |status: &tonic::Status| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("join again"), "{status}");
    };
    let end = loop {
        if let Err(status) = reports.reply_at_all().await {
            break status;
        }
    };
    refused(&end);
    // What was said before may still be on its way.
    let end = loop {
        if let Err(status) = discovery.response().await {
            break status;
        }
    };
    refused(&end);
    for _ in 0..2 {
        refused(&node.sign("spiffe://mesh.local/ns/shop/sa/cart").await.unwrap_err());
        refused(&node.sign("spiffe://mesh.local/node/n1").await.unwrap_err());
        let mut again = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
        refused(&again.reply_at_all().await.unwrap_err());
        refused(&node.try_discover().await.err().unwrap());
    }
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_none());
    // Nor by a token that names it and was made before.
    assert!(TestNode::join(node.server, "n1", &token).await.is_err());
    assert!(matches!(views.revoke("n1").await, Err(EvictError::Unknown(_))));

    let node = server.node("n1", &["*"]).await;
    let _reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    node.discover().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over_what_is_stale() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(config(home.path(), Duration::from_secs(3600))).await.unwrap();
    let server = TestServer { server, home: tempfile::tempdir().unwrap() };
    let (one, two) = (server.node("n1", &["*"]).await, server.node("n2", &["*"]).await);
    let first = one.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    drop(first);
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_some()).await;
    let _second = two.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server
        .until(KindId::Workload, "shop", "cart-0", |o| {
            o["spec"]["node"]["name"] == "n2" && stale(o).is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_server_tell_each_other_their_time() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let mut reports = node.report(Vec::new()).await;
    reports.reply().await.unwrap();
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let clock = NodeClock { steady_millis: 77, unix_millis: now() + 3_600_000, ahead_millis: None };
    reports.send(NodeReport { clock: Some(clock), ..Default::default() }).await;
    let told = loop {
        if let Some(clock) = reports.reply().await.unwrap().clock {
            break clock;
        }
    };
    assert_eq!(told.asked_millis, 77);
    assert!(told.unix_millis.abs_diff(now()) < 60_000);
    let shown = &server.server.views().nodes().nodes[0];
    assert!((3500.0..3700.0).contains(&shown.clock_ahead_seconds.unwrap()));
    assert!(shown.clock_problem.as_ref().unwrap().contains("1h ahead of the server's"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_nodes_workload_is_not_taken_over() {
    let server = TestServer::start().await;
    let (one, two) = (server.node("n1", &["*"]).await, server.node("n2", &["*"]).await);
    let first = one.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let mut second = two.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    let refused = loop {
        let reply = second.reply().await.unwrap();
        if let Some(refused) = reply.refused.first() {
            break refused.message.clone();
        }
    };
    assert!(refused.contains("node `n1` runs it"), "{refused}");
    first.send(NodeReport { leaving: true, ..Default::default() }).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| o.is_null()).await;
    second.workloads(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| o["spec"]["node"]["name"] == "n2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_runs_comes_back_when_its_object_is_deleted() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let uid = |o: &serde_json::Value| o["metadata"]["uid"].clone();
    let first = uid(&server.get(KindId::Workload, "shop", "cart-0").await.unwrap());
    let objects = &server.server.objects;
    objects.delete(KindId::Workload.kind(), "shop", "cart-0", &Default::default()).await.unwrap();
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null() && uid(o) != first).await;
    drop(reports);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_and_metrics_show_what_nodes_count() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let node = server.node("n1", &["shop/*"]).await;
    let mut reports = node.report(Vec::new()).await;
    let telemetry = |requests: u64| {
        let mut latency_buckets = vec![0; LATENCY_BUCKETS];
        latency_buckets[latency_bucket(0.002)] = requests;
        let edge = Edge {
            source_namespace: "shop".to_owned(),
            source: "web".to_owned(),
            destination_namespace: "shop".to_owned(),
            destination: "cart".to_owned(),
            protocol: "http".to_owned(),
            requests,
            failures: requests / 10,
            latency_buckets,
            ..Default::default()
        };
        // Of what it may not run it is not believed, nor of what comes from outside to others.
        let outside = Edge { source: "external".to_owned(), source_namespace: String::new(), ..edge.clone() };
        let of_bank = Edge { source_namespace: "bank".to_owned(), ..edge.clone() };
        let to_bank = Edge { destination_namespace: "bank".to_owned(), ..outside };
        let edges = if requests == 0 { Vec::new() } else { vec![edge, of_bank, to_bank] };
        let telemetry =
            Telemetry { edges, config_age_seconds: 5, config_generation: 7, ..Default::default() };
        NodeReport { telemetry: Some(telemetry), ..Default::default() }
    };
    for requests in [0, 10, 50] {
        reports.send(telemetry(requests)).await;
    }
    for _ in 0..5 {
        reports.reply().await.unwrap();
    }
    let edges = serde_json::to_value(server.server.views().edges()).unwrap();
    assert_eq!(edges["windowSeconds"], 10);
    assert_eq!(edges["edges"].as_array().map(Vec::len), Some(1), "{edges}");
    let edge = &edges["edges"][0];
    assert_eq!(edge["source"], json!({ "namespace": "shop", "name": "web" }));
    assert_eq!((edge["requests"].as_u64(), edge["successRate"].as_f64()), (Some(50), Some(0.9)));
    assert_eq!(edge["security"], "mTLS");
    let nodes = serde_json::to_value(server.server.views().nodes()).unwrap();
    assert_eq!(nodes["nodes"][0]["configGeneration"], 7);
    let metrics = server.server.views().metrics().await;
    assert!(metrics.contains("\ntulle_server_nodes_connected 1\n"), "{metrics}");
    assert!(metrics.contains("\ntulle_server_joins_total 1\n"), "{metrics}");
    assert!(metrics.contains("\ntulle_server_edges_refused_total 4\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_deleted_of_a_nodes_workloads_comes_back() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let names: Vec<_> = (0..100).map(|i| format!("cart-{i}")).collect();
    let workloads = names.iter().map(|name| workload("shop", name, "cart", true)).collect();
    let _reports = node.report(workloads).await;
    let uid = |object: &serde_json::Value| object["metadata"]["uid"].as_str().map(str::to_owned);
    let mut before = Vec::new();
    for name in &names {
        server.until(KindId::Workload, "shop", name, |o| !o.is_null()).await;
        before.push(uid(&server.get(KindId::Workload, "shop", name).await.unwrap()));
    }
    let objects = &server.server.objects;
    let delete = |name: String| async move {
        objects.delete(KindId::Workload.kind(), "shop", &name, &Default::default()).await.unwrap();
    };
    futures_util::future::join_all(names.iter().cloned().map(delete)).await;
    for (name, before) in names.iter().zip(before) {
        server.until(KindId::Workload, "shop", name, |o| !o.is_null() && uid(o) != before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_with_times_that_it_cannot_keep() {
    let home = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(24 * 3600);
    for (lease, forget_stale) in
        [(Duration::ZERO, day), (Duration::MAX, day), (Duration::from_secs(10), Duration::MAX)]
    {
        let leases = Leases { lease, forget_stale, ..Leases::default() };
        let started = Server::start(ServerConfig { leases, ..ServerConfig::local(home.path()) }).await;
        assert!(matches!(started, Err(StartError::Leases(_))), "{leases:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_off_for_long_does_not_take_away_what_it_has_not_listened_for() {
    let home = tempfile::tempdir().unwrap();
    let config = || config(home.path(), Duration::from_secs(24 * 3600));
    let server = Server::start(config()).await.unwrap();
    let mut server = TestServer { server, home: tempfile::tempdir().unwrap() };
    let mut node = server.node("n1", &["*"]).await;
    let names = ["cart-0", "cart-1"];
    let reports = node.report(names.map(|name| workload("shop", name, "cart", true)).to_vec()).await;
    for name in names {
        server.until(KindId::Workload, "shop", name, |o| !o.is_null()).await;
    }
    drop(reports);
    // One is left as stale since long before the server was switched off.
    let long_ago = "2001-01-01T00:00:00Z";
    let mark = |current: &serde_json::Value| {
        let mut object = current.clone();
        object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let conditions = object["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != "Stale");
        let stale = json!({ "type": "Stale", "status": "True", "reason": "NodeSilent", "message": "", "lastTransitionTime": long_ago });
        conditions.push(stale);
        Ok(object)
    };
    let options = WriteOptions::controller().with_part(Part::Whole);
    server.server.objects.modify(KindId::Workload.kind(), "shop", "cart-0", &options, mark).await.unwrap();
    server = restart(server, &mut node, config()).await;
    server.until(KindId::Workload, "shop", "cart-1", |o| stale(o).is_some()).await;
    assert!(server.server.views().metrics().await.contains("\ntulle_server_leases_expired_total 1\n"));
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let since = async |name| stale(&server.get(KindId::Workload, "shop", name).await.expect("it is kept"));
    assert_eq!(since("cart-0").await.unwrap(), long_ago);
    assert!(since("cart-1").await.unwrap().as_str() > "2020", "one workload's time is another's");
    // The node comes back.
    let _reports = node.report(names.map(|name| workload("shop", name, "cart", true)).to_vec()).await;
    for name in names {
        server.until(KindId::Workload, "shop", name, |o| stale(o).is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_node_is_shown_no_more_and_one_that_counts_to_the_end_does_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(config(home.path(), Duration::from_secs(3600))).await.unwrap();
    let server = TestServer { server, home: tempfile::tempdir().unwrap() };
    let node = server.node("n1", &["*"]).await;
    let mut reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let telemetry = Telemetry { config_age_seconds: u64::MAX, ..Default::default() };
    reports.send(NodeReport { telemetry: Some(telemetry), ..Default::default() }).await;
    while server.server.views().nodes().nodes[0].config_age_seconds != u64::MAX {
        reports.reply().await.unwrap();
    }
    // Its stream stands, and is silent.
    server.until(KindId::Workload, "shop", "cart-0", |o| stale(o).is_some()).await;
    assert_eq!(server.server.views().nodes().nodes[0].config_age_seconds, u64::MAX);
    assert_eq!(server.server.views().evict("n1").await.unwrap(), 1);
    assert!(server.server.views().nodes().nodes.is_empty());
}
