//! What comes in plain, and what becomes of it.

mod policies;

use std::sync::Arc;

use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, FastMap, PathMatch, RequestConditions, WorkloadConfig,
};

use super::*;
use crate::budget::Payer;
use crate::metrics::edge_counts;
use crate::state::{LocalWorkload, NodeState};

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5);

fn worker(name: &WorkloadName) -> Rc<Worker> {
    let domain = TrustDomain::new("mesh.test").unwrap();
    let workload = LocalWorkload {
        name: name.clone(),
        service: "c".into(),
        identity: SpiffeId::workload(&domain, "shop", "c").unwrap(),
        app_address: Ipv4Addr::LOCALHOST.into(),
        // What it offers to the mesh is not all that it listens at.
        ports: vec![1],
        certificate: None,
        draining: false,
        in_process: None,
        outside: None,
    };
    let workloads: FastMap<_, _> = [(name.clone(), Arc::new(workload))].into_iter().collect();
    Worker::idle("n1", NodeState { workloads, ..NodeState::default() })
}

/// What an edge has: source, destination, security, and the counts of requests, failures, and bytes there and back.
fn edges(worker: &Worker) -> Vec<(String, String, &'static str, [u64; 4])> {
    let edges = edge_counts(&[worker.local.metrics.registry().clone()]);
    let row = |edge: crate::EdgeCounts| {
        let counts = [edge.requests, edge.failures, edge.bytes_sent, edge.bytes_received];
        assert_eq!(edge.protocol, "tcp");
        let source = format!("{}/{}", edge.source_namespace, edge.source);
        (source, edge.destination.to_string(), edge.security.as_str(), counts)
    };
    edges.into_iter().map(row).collect()
}

/// A client, and what a gate has accepted from it: its own address is that of the process, which is the listener.
async fn diverted() -> (TcpListener, TcpStream, TcpStream) {
    let process = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(process.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = process.accept().await.unwrap();
    (process, client, accepted)
}

#[tokio::test(flavor = "local")]
async fn a_connection_reaches_the_address_that_was_meant_and_is_counted_as_plaintext() {
    let name = WorkloadName::new("shop", "c-1");
    let worker = worker(&name);
    let (process, mut client, accepted) = diverted().await;
    let account = worker.local.accounts.of(&Payer::Outside);
    let serving = tokio::task::spawn_local(serve(worker.clone(), name.clone(), account, accepted, PEER));
    let (mut inner, _) = process.accept().await.unwrap();
    assert_eq!(worker.local.metrics.registry().in_flight(&name), 1);
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    inner.read_to_string(&mut heard).await.unwrap();
    inner.write_all(b"answer").await.unwrap();
    drop(inner);
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!((&*heard, &*said), ("ping", "answer"));
    serving.await.unwrap();
    assert_eq!(worker.local.metrics.registry().in_flight(&name), 0);
    assert_eq!(edges(&worker), [("/external".into(), "shop/c".into(), "plaintext", [1, 0, 4, 6])]);
}

#[tokio::test(flavor = "local")]
async fn what_cannot_enter_is_reset_and_nothing_of_it_left() {
    let (here, gone) = (WorkloadName::new("shop", "c-1"), WorkloadName::new("shop", "gone"));
    let unsent = ("/external".into(), "shop/c".into(), "-", [1, 1, 0, 0]);
    for (name, listens, why, counted) in [
        (&here, false, Rejection::ConnectFailed, vec![unsent]),
        (&gone, true, Rejection::NoWorkload, Vec::new()),
    ] {
        let worker = worker(&here);
        let (process, mut client, accepted) = diverted().await;
        let process = Some(process).filter(|_| listens);
        let account = worker.local.accounts.of(&Payer::Outside);
        serve(worker.clone(), name.clone(), account, accepted, PEER).await;
        let ended = client.read(&mut [0]).await.map_err(|e| e.kind());
        assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset), "{name}");
        assert_eq!(worker.local.metrics.counts().rejections[why as usize].get(), 1);
        assert_eq!(edges(&worker), counted);
        let reached = async { process.as_ref().unwrap().accept().await };
        let waited = tokio::time::timeout(std::time::Duration::ZERO, reached);
        assert!(!listens || waited.await.is_err(), "the process was reached");
    }
}

/// Where policies look at requests, each is asked for by itself, and who is denied learns no names.
#[tokio::test(flavor = "local")]
async fn requests_from_outside_are_read_where_policies_look_at_them() {
    let name = WorkloadName::new("shop", "c-1");
    let worker = worker(&name);
    let paths = vec![PathMatch::Prefix("/public".into())];
    let request = Some(Box::new(RequestConditions { paths, ..Default::default() }));
    let rules = vec![AccessRule { index: 0, sources: None, ports: None, request, when: None }];
    let policy = AccessPolicy {
        name: "shop/p".parse().unwrap(),
        action: Action::Allow,
        at: None,
        issuers: Vec::new(),
        rules,
        external: None,
    };
    let policies = vec![policy].into();
    let config = WorkloadConfig { inbound_capture: true, policies, ..WorkloadConfig::new(name.clone()) };
    let mut state = NodeState::clone(&worker.local.state.load());
    Arc::make_mut(&mut state.snapshot).workloads.insert(name.clone(), Arc::new(config));
    worker.local.state.publish(state);
    let ask = async |asked: &str, is_in: bool| {
        let (process, mut client, accepted) = diverted().await;
        let account = worker.local.accounts.of(&Payer::Outside);
        tokio::task::spawn_local(serve(worker.clone(), name.clone(), account, accepted, PEER));
        client.write_all(asked.as_bytes()).await.unwrap();
        if is_in {
            let (mut inner, _) = process.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = inner.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /public/x HTTP/1.1\r\nhost: c\r\n"), "{head:?}");
            inner.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nin").await.unwrap();
        }
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said).await;
        let reached = tokio::time::timeout(std::time::Duration::ZERO, process.accept()).await.is_ok();
        assert!(!reached, "{asked}");
        String::from_utf8(said).unwrap()
    };
    let said = ask("GET /public/x HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n", true).await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nin"), "{said}");
    for (path, status, reason) in
        [("/admin", "403", "denied"), ("/public/%2e%2e/admin", "400", "bad-request")]
    {
        let asked = format!("GET {path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n");
        let said = ask(&asked, false).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        assert!(said.contains(&format!("tulle-reason: {reason}\r\n")), "{said}");
        assert!(!said.contains("shop/p"), "{said}");
    }
    let said = ask("\x16\x03\x01\x02\x00 no HTTP\r\n\r\n", false).await;
    assert!(!said.contains(" 200 "), "{said}");
    let edges = edge_counts(&[worker.local.metrics.registry().clone()]);
    let rows: Vec<_> =
        edges.iter().map(|edge| (edge.protocol, edge.security.as_str(), edge.requests)).collect();
    assert!(rows.contains(&("http", "plaintext", 3)), "{rows:?}");
}

/// A gate that is spoken to by its own address would connect to itself.
#[tokio::test(flavor = "local")]
async fn a_gate_leads_to_no_gate() {
    let name = WorkloadName::new("shop", "c-1");
    let worker = worker(&name);
    let (process, mut client, accepted) = diverted().await;
    worker.listening.borrow_mut().push(process.local_addr().unwrap());
    let account = worker.local.accounts.of(&Payer::Outside);
    serve(worker.clone(), name, account, accepted, PEER).await;
    assert_eq!(client.read(&mut [0]).await.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(worker.local.metrics.counts().rejections[Rejection::Loop as usize].get(), 1);
}
