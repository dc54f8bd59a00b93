//! Both nodes of a link write a line of what passes between them: the caller's who called which service, the
//! destination's which peer came to which workload.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::snapshot::AppProtocol;

use super::apps::{read_head, read_to_end, script};
use super::mesh::{Authority, Node, eventually};
use crate::mesh::{echo, logged};

/// No other test has it.
const GENERATION: u64 = 90_211;
const PEER: &str = "direction=\"inbound\" source=spiffe://mesh.test/ns/default/sa/a destination=default/";

/// Two nodes with an access log.
async fn mesh() -> (Authority, Node, Node) {
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    for node in [&mut near, &mut far] {
        Arc::make_mut(&mut node.state.snapshot).generation = GENERATION;
        node.change_mesh(|mesh| mesh.access_log = true);
    }
    (authority, near, far)
}

async fn says(side: &str, parts: &[&str]) {
    let generation = format!(" generation={GENERATION} ");
    let line = [&[side, &*generation], parts].concat();
    eventually(|| logged(&line).then_some(())).await;
}

#[tokio::test]
async fn a_request_and_an_upgrade_are_logged_with_what_passed() {
    let app = script(|mut stream| async move {
        let head = read_head(&mut stream).await;
        if head.starts_with("POST ") {
            stream.read_exact(&mut [0; 3]).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            return;
        }
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(switched.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (authority, mut near, mut far) = mesh().await;
    let endpoint = far.add_workload(&authority, "both-0", &[app.port()]);
    near.add_service("both", AppProtocol::Http1, vec![endpoint]);
    let address = near.listen("both").await;

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "POST /both HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyes";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("no"));
    let passed = ["path=\"/both\"", "status=503 result=\"failure\" security=\"mtls\" attempts=1"];
    let bytes = "bytes_sent=3 bytes_received=2 end=\"complete\"";
    says("direction=\"outbound\" source=default/a destination=default/both ", &[passed[0], passed[1], bytes])
        .await;
    let at = format!("workload=default/both-0 protocol=\"http\" port={} ", app.port());
    says(PEER, &[&at, passed[0], passed[1], bytes, "method=\"POST\" authority=\"c\" "]).await;

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        "GET /both-upgraded HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    stream.write_all(b"hi").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    assert!(!logged(&["path=\"/both-upgraded\""]), "not before it ends");
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    let passed =
        ["path=\"/both-upgraded\"", "status=101 result=\"success\" security=\"mtls\"", "method=\"GET\""];
    let bytes = "bytes_sent=2 bytes_received=5 end=\"complete\"";
    for side in ["direction=\"outbound\" ", PEER] {
        says(side, &[&passed[..], &[bytes]].concat()).await;
    }
}

#[tokio::test]
async fn a_connection_of_bytes_is_logged_and_why_there_is_none() {
    let (authority, mut near, mut far) = mesh().await;
    let app = echo().await;
    let (_held, dead) = super::apps::nowhere();
    for (service, port) in [("both-bytes", app.port()), ("both-dead", dead.port())] {
        let endpoint = far.add_workload(&authority, service, &[port]);
        near.add_service(service, AppProtocol::Tcp, vec![endpoint]);
    }
    let mut stream = TcpStream::connect(near.listen("both-bytes").await).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    let passed = ["protocol=\"tcp\"", "result=\"success\" security=\"mtls\" attempts=1"];
    let bytes = "bytes_sent=4 bytes_received=4 end=\"complete\"";
    says(PEER, &["workload=default/both-bytes ", passed[0], passed[1], bytes]).await;

    // It is reset, as early as that may be.
    if let Ok(mut stream) = TcpStream::connect(near.listen("both-dead").await).await {
        assert!(stream.read_u8().await.is_err());
    }
    let refused = ["reason=\"connect-failed\"", "result=\"failure\" security=\"-\""];
    for side in ["direction=\"outbound\" source=default/a destination=default/both-dead ", PEER] {
        says(side, &[refused[0], refused[1], &*format!("detail=\"cannot connect to {dead}: ")]).await;
    }
    // What nobody asked for is not there either.
    assert!(!logged(&[PEER, "workload=default/both-dead ", "result=\"success\""]));
}

/// Where it is for nobody, too.
#[tokio::test]
async fn a_stream_that_is_let_in_by_nobody_is_logged() {
    let (authority, mut near, mut far) = mesh().await;
    let app = echo().await;
    let endpoint = far.add_workload(&authority, "both-gone", &[app.port()]);
    near.add_service("both-gone", AppProtocol::Http1, vec![endpoint]);
    far.drain_workload("both-gone");
    let mut stream = TcpStream::connect(near.listen("both-gone").await).await.unwrap();
    stream.write_all(b"GET /both-gone HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 503 "));
    let why =
        ["path=\"/both-gone\"", "reason=\"draining\" detail=\"default/both-gone is stopping\"", "status=503"];
    let decided = |effect| format!("Workload/default/both-gone status.conditions[Ready] {effect}");
    for (side, effect) in [("direction=\"outbound\" source=default/a ", "failed"), (PEER, "refused")] {
        says(side, &[&why[..], &[&*decided(effect)]].concat()).await;
    }
}
