//! Two nodes of one name: a clone is kept out, a node that starts again is not.

use std::time::{Duration, Instant};

use tonic::Code;
use tulle_model::registry::KindId;
use tulle_wire::node::NodeReport;

use crate::client::{Reports, TestServer, workload};

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
    assert!(server.get(KindId::Workload, "shop", "cart-9").is_none(), "the clone took over");
    assert!(server.get(KindId::Workload, "shop", "cart-0").is_some());
    let metrics = server.server.views().metrics();
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
