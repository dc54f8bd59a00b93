//! Two nodes of one name: a clone is kept out, a node that starts again is not.

use std::time::{Duration, Instant};

use tonic::Code;
use tulle_model::registry::KindId;
use tulle_wire::node::NodeReport;

use tulle_server::fleet::{EvictError, Leases};
use tulle_server::{Server, ServerConfig};

use crate::client::{PATIENCE, Reports, TestNode, TestServer, workload};

/// Answers pings, as a node that runs does, until it is dropped.
fn answer(mut reports: Reports) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(reply) = reports.reply_at_all().await {
            if reply.ping != 0 {
                reports.send(NodeReport { pong: reply.ping, ..Default::default() }).await;
            }
        }
    })
}

fn fenced(server: &TestServer) -> Option<u64> {
    let nodes = server.server.views().nodes().nodes;
    nodes[0].fenced.as_ref().map(|fenced| {
        assert!(fenced.peer.starts_with("127.0.0.1:"), "{fenced:?}");
        fenced.last_seen_seconds
    })
}

/// Waits until the server has seen that the first node's stream has ended.
async fn until_closed(server: &TestServer) {
    let closed = async {
        while server.server.views().nodes().nodes[0].connected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_fenced_while_the_node_answers_and_admitted_when_it_is_gone() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let original = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let original = answer(original);
    for _ in 0..3 {
        // The same certificate and key, as in the image of a machine.
        let mut clone = node.report(vec![workload("shop", "cart-9", "cart", true)]).await;
        let refused = clone.reply_at_all().await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        assert!(refused.message().contains("10.1.2.3:15008"), "{refused}");
        assert!(refused.message().contains("--name"), "{refused}");
    }
    assert!(fenced(&server).is_some());
    assert!(server.get(KindId::Workload, "shop", "cart-9").await.is_none(), "the clone took over");
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_some());
    let metrics = server.server.views().metrics().await;
    assert!(metrics.contains("\ntulle_server_nodes_fenced_total 3\n"), "{metrics}");

    original.abort();
    let _ = original.await;
    let mut replacement = node.report(vec![workload("shop", "cart-9", "cart", true)]).await;
    replacement.reply().await.unwrap();
    server.until(KindId::Workload, "shop", "cart-9", |o| !o.is_null()).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| o.is_null()).await;
    assert!(fenced(&server).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_replaced_and_many_newcomers_do_not_prolong_that() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let mut silent = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let start = Instant::now();
    let mut dropped = Vec::new();
    let mut newest = loop {
        let mut newcomer = node.report(vec![workload("shop", "cart-1", "cart", true)]).await;
        match tokio::time::timeout(Duration::from_millis(700), newcomer.reply_at_all()).await {
            Ok(Ok(_)) => break newcomer,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => dropped.push(newcomer),
        }
        assert!(start.elapsed() < Duration::from_secs(8), "it waits for ever");
    };
    server.until(KindId::Workload, "shop", "cart-1", |o| !o.is_null()).await;
    // The one before is told, after what it was asked.
    let end = loop {
        match silent.reply_at_all().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Aborted, "{end}");
    // An answer that comes from the stream that was left is nobody's.
    silent.try_send(NodeReport { pong: 1, ..Default::default() });
    newest.send(NodeReport::default()).await;
    newest.reply().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_gets_no_certificate_while_the_node_is_there() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["*"]).await;
    let identities = ["spiffe://mesh.local/ns/shop/sa/cart", "spiffe://mesh.local/node/n1"];
    // Nobody bears the name yet.
    node.sign(identities[0]).await.unwrap();
    let mut original = node.report(vec![]).await;
    original.reply().await.unwrap();
    let original = answer(original);
    let instance = "2".to_owned();
    let clones = [
        TestNode { instance: instance.clone(), boot_id: "boot-of-the-clone".to_owned(), ..node.clone() },
        TestNode { instance, ..node.clone() },
    ];
    for identity in identities {
        node.sign(identity).await.unwrap();
        for clone in &clones {
            let refused = clone.sign(identity).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            // Nobody has asked who runs: it may be the node, whose host has just booted anew.
            assert!(refused.message().contains("still connected"), "{refused}");
            assert!(!refused.message().contains("remove"), "{refused}");
        }
    }
    // The same host starts it again; a clone may have seen no more than a hiccup.
    original.abort();
    let _ = original.await;
    until_closed(&server).await;
    clones[1].sign(identities[0]).await.unwrap();
    assert_eq!(clones[0].sign(identities[0]).await.unwrap_err().code(), Code::Unavailable);
    let later = async {
        while clones[0].sign(identities[0]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), later).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_of_the_server_the_node_has_its_name_and_not_who_comes_first() {
    let mut server = with_lease(Duration::from_secs(4)).await;
    let mut node = server.node("n1", &["*"]).await;
    hear(&node).await;
    // Nobody waits for the end of the first lease.
    for (lease, original_comes) in [(Duration::from_secs(60), true), (Duration::from_secs(4), false)] {
        let start = Instant::now();
        server = server.start_again(lease).await;
        node.server = server.server.node_address;
        let clone = clone_of(&node);
        let identity = "spiffe://mesh.local/ns/shop/sa/cart";
        let mut reports = clone.report(vec![]).await;
        let unsigned = clone.sign(identity).await.unwrap_err();
        assert_eq!(unsigned.code(), Code::Unavailable, "{unsigned}");
        if original_comes {
            let early = tokio::time::timeout(Duration::from_millis(2500), reports.reply_at_all()).await;
            assert!(early.is_err(), "the clone was answered: {early:?}");
            // Before it has reported.
            node.sign(identity).await.unwrap();
            let mut original = node.report(vec![]).await;
            original.reply().await.unwrap();
            let original = answer(original);
            assert_eq!(reports.reply().await.unwrap_err().code(), Code::AlreadyExists);
            original.abort();
        } else {
            // It is the node on another boot.
            reports.reply().await.unwrap();
            assert!(start.elapsed() >= lease, "{:?}", start.elapsed());
            clone.sign(identity).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_node_that_the_server_has_not_heard_loses_its_place_with_the_nodes_revocation() {
    let lease = Duration::from_secs(4);
    let mut server = with_lease(lease).await;
    let mut node = server.node("n1", &["*"]).await;
    hear(&node).await;
    let start = Instant::now();
    server = server.start_again(lease).await;
    node.server = server.server.node_address;
    let mut waiting = clone_of(&node).report(vec![workload("shop", "cart-9", "cart", true)]).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting.reply_at_all()).await.is_err());
    assert!(server.server.views().nodes().nodes.is_empty(), "it is shown");
    server.server.views().revoke("n1").await.unwrap();
    let told = waiting.reply().await.unwrap_err();
    assert_eq!(told.code(), Code::PermissionDenied, "{told}");
    assert!(start.elapsed() < lease, "it was told only when the lease had run out");
    // No more is known of it than before.
    assert!(matches!(server.server.views().revoke("n1").await, Err(EvictError::Unknown(_))));
}

/// Has the server hear a node, and keep from which boot.
async fn hear(node: &TestNode) {
    let mut reports = node.report(vec![]).await;
    for _ in 0..3 {
        // What is kept of its opening is kept when a later report is answered.
        reports.reply().await.unwrap();
        reports.send(NodeReport::default()).await;
    }
}

fn clone_of(node: &TestNode) -> TestNode {
    TestNode { instance: "2".into(), boot_id: "boot-of-the-clone".into(), ..node.clone() }
}

/// A server with a lease that is longer than the patience with a node that starts again.
async fn with_lease(lease: Duration) -> TestServer {
    let home = tempfile::tempdir().unwrap();
    let leases = Leases { lease, ..Leases::default() };
    let server = Server::start(ServerConfig { leases, ..ServerConfig::local(home.path()) }).await.unwrap();
    TestServer { server, home }
}

impl TestServer {
    /// The same server, started anew.
    async fn start_again(self, lease: Duration) -> Self {
        let Self { server, home } = self;
        server.shutdown().await;
        let leases = Leases { lease, ..Leases::default() };
        let server =
            Server::start(ServerConfig { leases, ..ServerConfig::local(home.path()) }).await.unwrap();
        Self { server, home }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hiccup_of_the_node_does_not_give_its_name_to_a_clone() {
    let server = with_lease(Duration::from_secs(10)).await;
    let mut node = server.node("n1", &["*"]).await;
    let original = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    node.boot_id = "boot-of-the-clone".to_owned();
    let mut clone = node.report(vec![workload("shop", "cart-9", "cart", true)]).await;
    // The node is frozen for longer than a restart is waited with, and reads what it was asked only then.
    let early = tokio::time::timeout(Duration::from_millis(3500), clone.reply_at_all()).await;
    assert!(early.is_err(), "the clone was answered: {early:?}");
    let original = answer(original);
    let refused = clone.reply().await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert!(server.get(KindId::Workload, "shop", "cart-0").await.is_some());
    assert!(server.get(KindId::Workload, "shop", "cart-9").await.is_none(), "the clone took over");

    // Its connection is lost, and a clone is there before it has another.
    original.abort();
    let _ = original.await;
    until_closed(&server).await;
    let mut clone = node.report(vec![workload("shop", "cart-9", "cart", true)]).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), clone.reply_at_all()).await.is_err());
    node.boot_id = "boot-1".to_owned();
    let mut again = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    again.reply().await.unwrap();
    let again = answer(again);
    let refused = clone.reply().await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert!(server.get(KindId::Workload, "shop", "cart-9").await.is_none(), "the clone took over");
    again.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_boot_takes_the_place_of_a_node_whose_lease_has_run_out() {
    let server = with_lease(Duration::from_secs(4)).await;
    let mut node = server.node("n1", &["*"]).await;
    let start = Instant::now();
    let _silent = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    node.boot_id = "boot-2".to_owned();
    let mut rebooted = node.report(vec![workload("shop", "cart-1", "cart", true)]).await;
    rebooted.reply().await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    server.until(KindId::Workload, "shop", "cart-1", |o| !o.is_null()).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| o.is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_does_not_displace_the_node_that_waits_for_its_own_older_stream() {
    let server = with_lease(Duration::from_secs(10)).await;
    let mut node = server.node("n1", &["*"]).await;
    let _lost = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    server.until(KindId::Workload, "shop", "cart-0", |o| !o.is_null()).await;
    let mut again = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    // It is there first.
    assert!(tokio::time::timeout(Duration::from_millis(300), again.reply_at_all()).await.is_err());
    node.boot_id = "boot-of-the-clone".to_owned();
    let mut clone = node.report(vec![workload("shop", "cart-9", "cart", true)]).await;
    let refused = clone.reply().await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    again.reply().await.unwrap();
    assert!(server.get(KindId::Workload, "shop", "cart-9").await.is_none(), "the clone took over");
}
