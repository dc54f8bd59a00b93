//! A node against a real server in this process, with explicit capture, so that nothing needs root.
#![allow(clippy::unwrap_used, reason = "a test that fails is what it is for")]

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::name::ServiceName;
use tulle_node::capture::CaptureWish;
use tulle_node::client::NodeClient;
use tulle_node::supervise::{Event, Process, Restart};
use tulle_node::workloads::{Port, UpstreamService, WorkloadSpec};
use tulle_node::{Bounds, Node, NodeConfig};
use tulle_server::{Server, ServerConfig};

const SOON: Duration = Duration::from_secs(10);

fn crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn config(home: &Path, server: &Server, token: Option<String>) -> NodeConfig {
    NodeConfig {
        home: home.to_owned(),
        name: "n1".into(),
        server: server.node_address.to_string(),
        token,
        link_listen: "127.0.0.1:0".parse().unwrap(),
        link_address: None,
        admin_listen: Some("127.0.0.1:0".parse().unwrap()),
        capture: CaptureWish::Explicit,
        keep_workloads: true,
        starts_services: false,
        workers: 1,
        bounds: Bounds::default(),
    }
}

fn spec(name: &str, port: u16) -> WorkloadSpec {
    let spec = json!({
        "namespace": "shop",
        "name": name,
        "service": "c",
        "labels": { "app": "c" },
        "serviceAccount": "c",
    });
    let mut spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
    spec.ports = vec![Port { name: String::new(), port, target_port: Some(80) }];
    spec
}

async fn started(server: &Server, home: &Path) -> Node {
    let token = server.local_join_token(vec!["*".into()]).await.unwrap();
    let node = Node::start(config(home, server, Some(token.text))).await.unwrap();
    assert!(node.connected(SOON).await);
    node
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what} does not happen"));
}

/// Whether the server has the workload, and calls it ready.
async fn server_says(server: &Server, name: &str) -> Option<bool> {
    let kind = tulle_model::registry::KINDS.iter().find(|k| k.kind == "Workload").unwrap();
    let object = server.objects.get(kind, "shop", name).await.ok()??;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Some(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_comes_and_goes() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let node = started(&server, &home).await;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut spec = spec("c-0", port);
    let d = ServiceName::new("shop", "d");
    spec.upstreams.push(UpstreamService { service: d, ports: vec![9092] });
    let (sender, mut events) = mpsc::channel(64);
    let process = Process {
        program: "sh".into(),
        arguments: vec!["-c".into(), "echo $D_SERVICE_HOST $http_proxy; exec sleep 60".into()],
        ..Default::default()
    };
    let process = node.workloads().run(spec.clone(), process, sender).await.unwrap();
    assert!(node.workloads().add(spec).await.unwrap_err().to_string().contains("already"));
    until("the workload is ready", async || server_says(&server, "c-0").await == Some(true)).await;
    let status = node.status();
    assert_eq!(status.workloads[0].identity, "spiffe://mesh.local/ns/shop/sa/c");
    assert!(status.workloads[0].certificate_not_after.is_some());
    let line = loop {
        if let Event::Line { text, .. } = events.recv().await.unwrap() {
            break text;
        }
    };
    assert!(line.starts_with("127.0.0.1 http://127.0.0.1:"), "{line}");

    process.stop(SOON, SOON).await;
    until("the workload is gone", async || server_says(&server, "c-0").await.is_none()).await;
    node.shutdown(SOON).await;
    assert!(!home.join("node.sock").exists());
    server.shutdown().await;
}

/// One request on a connection that stays open, and its whole answer.
async fn ask_for_health(stream: &mut TcpStream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert_ne!(timeout(SOON, stream.read_buf(&mut answer)).await.unwrap().unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_do_not_silence_the_admin_port() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let node = started(&server, &folder.path().join("n")).await;
    let address = node.admin_address().unwrap();
    // One that asks now and then outlives those that never do.
    let mut scraper = TcpStream::connect(address).await.unwrap();
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if n % 2 == 1 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ").await.unwrap();
        }
        silent.push(stream);
        if n % 20 == 0 {
            // Connections are accepted in the order of their arrival: its answer says that all before it are in.
            ask_for_health(&mut TcpStream::connect(address).await.unwrap()).await;
            ask_for_health(&mut scraper).await;
        }
    }
    ask_for_health(&mut TcpStream::connect(address).await.unwrap()).await;
    assert_eq!(silent.len(), 200);
    node.shutdown(SOON).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_is_not_ready_at_once() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let node = started(&server, &folder.path().join("n")).await;
    let mut spec = spec("c-0", 1);
    spec.ports.clear();
    let (sender, mut events) = mpsc::channel(64);
    let arguments = ["-c", "exec sleep 60"].map(Into::into).into();
    let process = Process { program: "sh".into(), arguments, restart: Restart::Never, ..Default::default() };
    let mut process = node.workloads().run(spec, process, sender).await.unwrap();
    until("the workload is ready", async || server_says(&server, "c-0").await == Some(true)).await;
    let Some(Event::Started { pid }) = events.recv().await else { panic!("it starts first") };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    process.ended().await;
    let status = node.status();
    assert!(!status.workloads[0].ready && status.workloads[0].reason.contains("not running"));
    until("the server knows", async || server_says(&server, "c-0").await == Some(false)).await;
    process.stop(SOON, SOON).await;
    node.shutdown(SOON).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_lives_as_long_as_its_connection_to_the_socket() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let node = started(&server, &home).await;
    let client = NodeClient::new(&home);
    let mut spec = spec("c-0", 1);
    spec.ports.clear();
    let held = client.add(&spec).await.unwrap();
    assert!(held.running().environment.iter().any(|(name, _)| name == "http_proxy"));
    assert!(client.add(&spec).await.err().unwrap().to_string().contains("already"));
    held.set_running(true).await.unwrap();
    until("the workload is ready", async || client.status().await.unwrap().workloads[0].ready).await;
    assert!(held.drain().await.unwrap());
    assert_eq!(client.status().await.unwrap().workloads[0].reason, "it is stopping");
    drop(held);
    until("the workload is gone", async || client.status().await.unwrap().workloads.is_empty()).await;

    let bad = WorkloadSpec { namespace: "No".into(), ..spec };
    assert!(client.add(&bad).await.err().unwrap().to_string().contains("namespace"));
    node.shutdown(SOON).await;
    assert!(client.status().await.unwrap_err().to_string().contains("tulle node"));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_finishes_what_its_workloads_have_begun() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let node = started(&server, &home).await;
    let mut spec = spec("c-0", 1);
    spec.ports.clear();
    // As a `tulle run` is, which stays connected when the node stops.
    let held = NodeClient::new(&home).add(&spec).await.unwrap();
    let proxy = held.running().listeners[0];

    let outside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = outside.local_addr().unwrap();
    let mut client = TcpStream::connect(proxy).await.unwrap();
    let request = format!("GET http://{address}/ HTTP/1.1\r\nhost: {address}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut connection, _) = timeout(SOON, outside.accept()).await.unwrap().unwrap();

    let mut stopping = tokio::spawn(node.shutdown(SOON));
    let ended = timeout(Duration::from_secs(1), &mut stopping).await;
    assert!(ended.is_err(), "it does not wait for the answer");
    connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with(b"late"), "{}", String::from_utf8_lossy(&answer));
    timeout(SOON, stopping).await.unwrap().unwrap();
    assert!(TcpStream::connect(proxy).await.is_err(), "the proxy has ended");
    drop(held);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_its_workload_is_added_leaves_nothing() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let node = started(&server, &home).await;
    server.shutdown().await;
    until("the server is missed", async || !node.status().connected).await;
    // Asking for the ports of a service takes two seconds now.
    let mut spec = spec("c-0", 1);
    spec.upstreams.push(UpstreamService { service: ServiceName::new("shop", "d"), ports: vec![] });
    let client = NodeClient::new(&home);
    let mut reports = node.workloads().reports();
    reports.mark_unchanged();
    let adding = timeout(Duration::from_millis(300), client.add(&spec)).await;
    assert!(adding.is_err(), "it takes longer");
    // It is added in the end, and removed as one whose client has gone.
    timeout(SOON, reports.changed()).await.unwrap().unwrap();
    let name = tulle_model::name::WorkloadName::new("shop", "c-0");
    until("it is removed", async || node.workloads().process(&name).is_none()).await;
    node.shutdown(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_with_the_server_down_from_what_it_has_on_disk() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let node = started(&server, &home).await;
    let mut spec = spec("c-0", 1);
    spec.ports.clear();
    // That d does not exist is worth knowing, too.
    let d = ServiceName::new("shop", "d");
    spec.upstreams.push(UpstreamService { service: d, ports: vec![] });
    node.workloads().add(spec.clone()).await.unwrap();
    until("the service is known", async || node.status().services > 0).await;
    until("it has a certificate", async || node.status().workloads[0].certificate_not_after.is_some()).await;
    let snapshot = home.join("node/snapshot.pb");
    // It may be there from before, without what the server has said of d.
    let has_d = |content: Vec<u8>| content.windows(6).any(|name| name == b"shop/d");
    until("the snapshot is on disk", async || std::fs::read(&snapshot).is_ok_and(has_d)).await;
    let same_home = Node::start(config(&home, &server, None)).await;
    assert!(same_home.err().unwrap().to_string().contains("another node"));
    node.shutdown(SOON).await;

    let config = config(&home, &server, None);
    server.shutdown().await;
    let node = Node::start(config).await.unwrap();
    assert!(!node.status().connected);
    assert!(node.status().services > 0);
    node.workloads().add(spec).await.unwrap();
    let name = tulle_model::name::WorkloadName::new("shop", "c-0");
    node.workloads().process(&name).unwrap().send_modify(|process| process.set(true));
    until("the workload is ready", async || node.status().workloads[0].ready).await;
    node.shutdown(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_needed_once_and_must_be_of_this_mesh() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let error = Node::start(config(&home, &server, None)).await.err().unwrap().to_string();
    assert!(error.contains("--token"), "{error}");
    // The root that a token names is checked before the token is sent.
    let foreign = format!("{}.id.secret", "00".repeat(32));
    let error = Node::start(config(&home, &server, Some(foreign))).await.err().unwrap().to_string();
    assert!(error.contains("another mesh"), "{error}");
    let token = server.local_join_token(vec!["*".into()]).await.unwrap().text;
    let mut parts: Vec<_> = token.split('.').collect();
    parts[2] = "wrong";
    let error = Node::start(config(&home, &server, Some(parts.join(".")))).await.err().unwrap().to_string();
    assert!(error.contains("refuses"), "{error}");

    let node = Node::start(config(&home, &server, Some(token.clone()))).await.unwrap();
    node.shutdown(SOON).await;
    // It is a node now: neither the used token nor its absence matter.
    for token in [Some(token), None] {
        let node = Node::start(config(&home, &server, token)).await.unwrap();
        assert!(node.connected(SOON).await);
        node.shutdown(SOON).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_used_and_one_that_is_refused_does_no_harm() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let narrow = server.local_join_token(vec!["shop/other".into()]).await.unwrap().text;
    let node = Node::start(config(&home, &server, Some(narrow.clone()))).await.unwrap();
    assert!(node.connected(SOON).await);
    node.workloads().add(spec("c-0", 1)).await.unwrap();
    let name = tulle_model::name::WorkloadName::new("shop", "c-0");
    let why = node.workloads().refusal(&name, SOON).await.unwrap();
    assert!(why.contains("it may run shop/other"), "{why}");
    assert!(node.status().workloads[0].reason.contains("the server refuses it"), "{:?}", node.status());
    node.shutdown(SOON).await;

    let wide = server.local_join_token(vec!["*".into()]).await.unwrap().text;
    let refused = format!("{}.0000000000000000.00", narrow.split('.').next().unwrap());
    for token in [wide, refused] {
        let node = Node::start(config(&home, &server, Some(token))).await.unwrap();
        assert!(node.connected(SOON).await);
        node.workloads().add(spec("c-0", 1)).await.unwrap();
        until("a certificate", async || node.status().workloads[0].certificate_not_after.is_some()).await;
        assert_eq!(node.workloads().refusal(&name, SOON).await, None);
        node.shutdown(SOON).await;
    }
    server.shutdown().await;
}

/// Makes a credential on disk look as if it were older than half of its life.
fn age(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let mut credential: serde_json::Value = serde_json::from_str(&text).unwrap();
    credential["notBefore"] = json!(0);
    let aged = credential.to_string();
    std::fs::write(file, &aged).unwrap();
    aged
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_and_the_old_ones_serve_meanwhile() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("s"))).await.unwrap();
    let home = folder.path().join("n");
    let files = ["node/node.json", "node/identities/shop.c.json"].map(|f| home.join(f));
    let node = started(&server, &home).await;
    let mut spec = spec("c-0", 1);
    spec.ports.clear();
    node.workloads().add(spec.clone()).await.unwrap();
    until("it has a certificate", async || files[1].exists()).await;
    node.shutdown(SOON).await;

    let aged = files.each_ref().map(|f| age(f));
    let node = Node::start(config(&home, &server, None)).await.unwrap();
    node.workloads().add(spec).await.unwrap();
    for (file, aged) in files.iter().zip(&aged) {
        until("it is renewed", async || std::fs::read_to_string(file).unwrap() != *aged).await;
    }
    // With the new certificate it is as good a node as with the old one.
    assert!(node.connected(SOON).await);
    let name = tulle_model::name::WorkloadName::new("shop", "c-0");
    node.workloads().process(&name).unwrap().send_modify(|process| process.set(true));
    until("the workload is ready", async || server_says(&server, "c-0").await == Some(true)).await;
    node.shutdown(SOON).await;
    server.shutdown().await;
}
