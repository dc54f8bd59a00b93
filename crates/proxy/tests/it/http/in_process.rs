//! Workloads whose application is part of the process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{
    AppProtocol, ExternalConfig, ExternalPort, OutsideProtocol, ServerName, WorkloadConfig,
};
use tulle_proxy::state::LocalWorkload;
use tulle_proxy::{Arrived, FlowStep, InProcess, OwnCall, OwnCallError};

use super::apps::{self, app, exchange, read_head};
use super::filtered::route;
use super::mesh::{Authority, LOOPBACK, Node, Way, eventually, identity, path};
use crate::mesh::logged;

/// Has a workload's application be part of this process.
fn take_in(node: &mut Node, name: &str, most_body: usize, waiting: usize) -> mpsc::Receiver<Arrived> {
    let never = [node.link].into();
    let (within, arrivals) = InProcess::new(waiting, most_body, never);
    let name = WorkloadName::new("default", name);
    let old = &node.state.workloads[&name];
    let taken = LocalWorkload {
        name: old.name.clone(),
        service: old.service.clone(),
        identity: old.identity.clone(),
        app_address: LOOPBACK,
        ports: old.ports.clone(),
        certificate: old.certificate.clone(),
        draining: false,
        in_process: Some(within),
        outside: None,
    };
    node.state.workloads.insert(name, Arc::new(taken));
    node.publish();
    arrivals
}

fn call(uri: &str, body: &'static str) -> OwnCall {
    OwnCall {
        workload: WorkloadName::new("default", "a"),
        step: FlowStep { run: "r1".into(), task: "/do/0/pay".into(), shown_path: None },
        request: Request::post(uri).body(Bytes::from_static(body.as_bytes())).unwrap(),
        most_answer: 1000,
        time: Duration::from_secs(5),
    }
}

fn text(answer: &Response<Bytes>) -> &str {
    std::str::from_utf8(answer.body()).unwrap()
}

#[tokio::test]
async fn requests_are_handed_to_it_with_who_asks() {
    for way in [Way::SameNode, Way::Link] {
        let authority = Authority::new();
        let (mut near, mut far) =
            (Node::start("near", &authority).await, Node::start("far", &authority).await);
        let host = if way == Way::Link { &mut far } else { &mut near };
        let endpoint = host.add_workload(&authority, "c-0", &[80]);
        let mut arrivals = take_in(host, "c-0", 10, 1);
        near.add_service("c", AppProtocol::Http1, vec![endpoint]);
        let address = near.listen("c").await;
        let answering = tokio::spawn(async move {
            let Arrived { caller, port, head, body, end, answer } = arrivals.recv().await.unwrap();
            assert_eq!((caller, port, end), (Some(identity("a")), 80, None));
            assert_eq!((head.uri.path(), &*body), ("/x", &b"0123456789"[..]));
            let made = Response::builder()
                .status(StatusCode::CREATED)
                .header("tulle-run", "r1")
                .header("tulle-retry", "safe");
            let made = made.body("made".into()).unwrap();
            answer.send(made).unwrap();
            // The next one is there, and nobody takes it.
            arrivals
        });
        let post = |length: usize| {
            let body = &"01234567890"[..length];
            format!(
                "POST /x HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        let answer = exchange(address, &post(10)).await;
        assert!(answer.starts_with("HTTP/1.1 201") && answer.ends_with("made"), "{way:?}: {answer}");
        assert!(answer.contains("tulle-run: r1\r\n") && !answer.contains("tulle-retry"), "{way:?}: {answer}");
        let answer = exchange(address, &post(11)).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("over 10 bytes"), "{way:?}: {answer}");
        let arrivals = answering.await.unwrap();
        let waits = post(1);
        let waiting = tokio::spawn(async move { exchange(address, &waits).await });
        while arrivals.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = exchange(address, &post(1)).await;
        assert!(answer.starts_with("HTTP/1.1 429"), "{way:?}: {answer}");
        drop(arrivals);
        let answer = waiting.await.unwrap();
        assert!(answer.contains("tulle-reason: connection-lost"), "{way:?}: {answer}");
        let answer = exchange(address, &post(1)).await;
        assert!(answer.contains("tulle-reason: connect-failed"), "{way:?}: {answer}");
        let upgrade = "GET /x HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(upgrade.as_bytes()).await.unwrap();
        let head = read_head(&mut tcp).await;
        assert!(head.contains("tulle-reason: unsupported"), "{way:?}: {head}");
    }
}

#[tokio::test]
async fn it_knows_when_there_has_to_be_an_answer() {
    for way in [Way::SameNode, Way::Link] {
        let mut path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        let host = if way == Way::Link { &mut path.far } else { &mut path.near };
        let mut arrivals = take_in(host, "c-0", 10, 1);
        for (timeouts, most) in [("request: 9s, backendRequest: 4s", 4), ("request: 2s", 2)] {
            let rules = format!("  - timeouts: {{{timeouts}}}\n    backendRefs: [{{name: c, port: 80}}]\n");
            route(&mut path, &rules);
            let address = path.address;
            let asked = Instant::now();
            let asking = tokio::spawn(async move {
                exchange(
                    address,
                    "GET /x HTTP/1.1\r\nhost: c\r\nconnection: close\r\ntulle-time-left: 1\r\n\r\n",
                )
                .await
            });
            let Arrived { head, end, answer, .. } = arrivals.recv().await.unwrap();
            let (end, most) = (end.unwrap(), Duration::from_secs(most));
            // In whole milliseconds, and without the way.
            assert!(end + Duration::from_millis(1) >= asked + most, "{way:?} {timeouts}");
            assert!(end <= Instant::now() + most, "{way:?} {timeouts}");
            assert!(!head.headers.contains_key("tulle-time-left"), "{way:?}");
            answer.send(Response::new(Bytes::new())).unwrap();
            assert!(asking.await.unwrap().starts_with("HTTP/1.1 200"));
        }
    }
}

#[tokio::test]
async fn its_own_calls_go_the_way_of_any() {
    for way in [Way::Plain, Way::SameNode, Way::Link] {
        let mut path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        let proxy = path.near.proxy.clone();
        let gone = OwnCall { workload: WorkloadName::new("default", "gone"), ..call("http://c/", "") };
        assert!(matches!(proxy.call(gone).await, Err(OwnCallError::NoWorkload(_))));
        let _arrivals = take_in(&mut path.near, "a", 0, 1);
        path.near.change_mesh(|mesh| mesh.access_log = true);
        let secret = format!("http://c/secret-of-{way:?}");
        let step = FlowStep { shown_path: Some("/***".into()), ..call(&secret, "").step };
        let answer = proxy.call(OwnCall { step, ..call(&secret, "") }).await.unwrap();
        assert!(
            text(&answer).starts_with(&format!("POST /secret-of-{way:?} ")),
            "{way:?}: {}",
            text(&answer)
        );
        eventually(|| logged(&["outbound", "path=\"/***\"", "run=\"r1\""]).then_some(())).await;
        assert!(!logged(&["outbound", "/secret-of"]));
        path.near.change_mesh(|mesh| mesh.access_log = false);
        let answer = proxy.call(call("http://c/x", "hello")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(text(&answer).starts_with("POST /x HTTP/1.1\nhost: c\n"), "{way:?}: {}", text(&answer));
        assert!(text(&answer).ends_with("hello"), "{way:?}: {}", text(&answer));
        let short = OwnCall { most_answer: 5, ..call("http://c/x", "") };
        assert_eq!(proxy.call(short).await.unwrap_err(), OwnCallError::TooLarge(5));
        let answer = proxy.call(call("http://nobody/", "")).await.unwrap();
        assert_eq!(answer.headers()["tulle-reason"], "unknown-service", "{way:?}");
        let late = OwnCall { time: Duration::from_millis(20), ..call("http://c/slow", "") };
        assert!(matches!(proxy.call(late).await, Err(OwnCallError::Late(_))));
        let edge = path.near.edge_with("c", 3).await;
        assert_eq!(edge.failures, 0, "{way:?}");
    }
}

/// Where the Mesh lets other workloads go anywhere.
#[tokio::test]
async fn its_own_calls_reach_what_is_listed_outside_and_nothing_of_this_host() {
    let authority = Authority::new();
    let mut node = Node::start("near", &authority).await;
    let _arrivals = take_in(&mut node, "a", 0, 1);
    let external = ExternalConfig {
        name: "default/all".parse().unwrap(),
        hosts: vec![ServerName::new("localhost"), ServerName::new("*.localhost")],
        ranges: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        ports: [80, 443, node.link.port()].map(|port| ExternalPort::new(port, OutsideProtocol::Http)).into(),
        policies: Vec::new().into(),
    };
    let name = WorkloadName::new("default", "a");
    for lists in [false, true] {
        let external = if lists { vec![Arc::new(external.clone())] } else { Vec::new() };
        node.told(WorkloadConfig { external: external.into(), ..WorkloadConfig::new(name.clone()) });
        for host in [
            "127.0.0.1",
            "127.1.2.3",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "[::]",
            "localhost",
            "LOCALHOST.",
            "x.localhost",
            "169.254.169.254",
            "[fe80::1]",
            "224.0.0.1",
        ] {
            let answer = node.proxy().call(call(&format!("http://{host}/"), "")).await.unwrap();
            let reason = answer.headers()["tulle-reason"].to_str().unwrap().to_owned();
            assert!(
                ["egress-denied", "unknown-service"].contains(&&*reason),
                "{lists} {host}: {reason} {}",
                text(&answer)
            );
        }
        // Nothing is there, and nothing is to be sent there.
        if !lists {
            let answer = node.proxy().call(call("http://192.0.2.1/", "")).await.unwrap();
            assert_eq!(answer.headers()["tulle-reason"], "egress-denied");
            assert!(text(&answer).contains("a Flow reaches nothing else outside"), "{}", text(&answer));
        }
    }
}
