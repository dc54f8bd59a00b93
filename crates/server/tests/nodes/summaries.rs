//! What was asked of workloads, as nodes tell it.

use tulle_model::name::NamespacedName;
use tulle_model::summary::{Callee, Summary, SummaryView, Wish};
use tulle_server::{Server, ServerConfig};
use tulle_wire::node::{Edge, NodeReport, Security, Telemetry};

use crate::client::{TestServer, workload};

fn summary(from: &str, namespace: &str, path: &str, seconds_ago: u64) -> tulle_wire::node::Summary {
    let summary = Summary {
        from: from.parse().unwrap(),
        to: Callee::Service(NamespacedName::new(namespace, "cart")),
        port: 80,
        asked: Wish::Http { method: "GET".into(), path: path.into() },
        allowed: true,
    };
    tulle_wire::node::Summary::new(&summary, seconds_ago)
}

fn telling(summaries: Vec<tulle_wire::node::Summary>, requests: u64) -> NodeReport {
    let from_outside = Edge {
        source: "external".to_owned(),
        destination_namespace: "shop".to_owned(),
        destination: "cart".to_owned(),
        security: Security::Plaintext.into(),
        protocol: "http".to_owned(),
        requests,
        ..Edge::default()
    };
    let telemetry = Telemetry { edges: vec![from_outside], summaries, ..Telemetry::default() };
    NodeReport { telemetry: Some(telemetry), ..NodeReport::default() }
}

fn asked(summaries: &[SummaryView]) -> Vec<(&str, &str)> {
    summaries.iter().map(|summary| (&*summary.source, summary.path.as_deref().unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_kept_of_where_the_node_runs_workloads_and_name_who_is_outside() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["shop/cart"]).await;
    let mut reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    let web = "spiffe://mesh.local/ns/shop/sa/web";
    let old = summary(web, "shop", "/old", 90_000);
    let mut spoilt = summary(web, "shop", "/spoilt", 0);
    spoilt.port = 70_000;
    let told = vec![
        summary(web, "shop", "/items/{x}", 3600),
        summary("192.0.2.7", "shop", "/", 1),
        summary("192.0.2.8", "shop", "/", 2000),
        summary(web, "bank", "/", 0),
        old,
        spoilt,
    ];
    reports.send(telling(told, 1)).await;
    reports.send(telling(Vec::new(), 5)).await;
    // Of the opening, and of each report.
    for _ in 0..4 {
        reports.reply().await.unwrap();
    }
    let views = server.server.views();
    let kept = views.summaries(None).summaries;
    assert_eq!(asked(&kept), [(web, "/items/{x}"), ("192.0.2.7", "/"), ("192.0.2.8", "/")]);
    let hour = kept[1].last_seen - kept[0].last_seen;
    assert!((3598..=3600).contains(&hour), "{hour}");
    assert_eq!(views.summaries(Some("bank")).summaries, []);
    assert_eq!(views.summaries(Some("shop")).summaries.len(), 3);
    // An address that came long ago is none of the edge's of this minute.
    let edges = views.edges().edges;
    let addresses: Vec<_> = edges.iter().flat_map(|edge| &edge.addresses).map(ToString::to_string).collect();
    assert_eq!((edges.len(), addresses), (1, vec!["192.0.2.7".to_owned()]));

    // A server that begins anew knows none, until it is told.
    let TestServer { server, home } = server;
    server.shutdown().await;
    let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
    assert_eq!(server.views().summaries(None).summaries, []);
}
