//! What comes over a link as bytes (a bare CONNECT) for a port that services declare to carry HTTP: requests, each of
//! which the node of the application sees, or nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::name::WorkloadName;
use tulle_model::port_settings::Http1Settings;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Peer, Upgrade};

use super::apps::{nowhere, read_head, read_to_end, script};
use super::mesh::{Authority, Node, eventually, identity};
use crate::believer::peer;

const SOON: Duration = Duration::from_secs(5);
const NOTHING: Duration = Duration::from_millis(50);

/// Tells each head that it gets. It answers a request, takes a body of five bytes with a request to leave HTTP, and echoes one byte then.
async fn app() -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let (heads, heard) = mpsc::channel(16);
    let address = script(move |mut stream| {
        let heads = heads.clone();
        async move {
            let mut head = read_head(&mut stream).await;
            if !head.to_lowercase().contains("upgrade: websocket") {
                let _ = heads.send(head).await;
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            }
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            head.push_str(std::str::from_utf8(&body).unwrap());
            let _ = heads.send(head).await;
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
        }
    })
    .await;
    (address, heard)
}

/// Tells a node that a port of its workload is `c`'s, which declares HTTP/1.
fn declare(node: &mut Node, workload: &str, port: u16, preserve_case: bool) {
    node.tell(workload, &[("c", port, Http1Settings { preserve_case, ..Http1Settings::DEFAULT })]);
}

/// A node that asks for `c`, and the node of its workload, whose port carries HTTP/1.
async fn nodes(address: std::net::SocketAddr, preserve_case: bool) -> (Node, Node, std::net::SocketAddr) {
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    let endpoint = far.add_workload(&authority, "c-0", &[address.port()]);
    declare(&mut far, "c-0", address.port(), preserve_case);
    near.add_service("c", AppProtocol::Http1, vec![endpoint]);
    near.change_port("c", |port| port.http1.preserve_case = preserve_case);
    let listener = near.listen("c").await;
    (near, far, listener)
}

const UPGRADE: &str = "POST /chat?x=1 HTTP/1.1\r\nHost: c\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Odd: 1\r\nContent-Length: 5\r\n\r\nhello";

/// It goes in a bare CONNECT, as an extended one cannot say where a body ends, or in which letters it is written.
#[tokio::test]
async fn an_upgrade_with_a_body_is_a_request_to_the_node_of_the_application() {
    for preserve_case in [false, true] {
        let (address, mut heads) = app().await;
        let (_near, far, listener) = nodes(address, preserve_case).await;
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("POST /chat?x=1 HTTP/1.1\r\n") && head.ends_with("\r\n\r\nhello"), "{head}");
        assert_eq!(head.contains("X-Odd: 1\r\n"), preserve_case, "{head}");
        assert_eq!(answer.contains("\r\nUpgrade: "), preserve_case, "{answer}");
        let visits = far.proxy().visits().await;
        let upgrade = Upgrade { method: Method::POST, path: "/chat".to_owned() };
        assert_eq!((visits.len(), &visits[0].peer), (1, &Peer::Mesh(identity("a"))));
        assert_eq!(visits[0].upgrade.as_ref(), Some(&upgrade));
        stream.write_all(b"x").await.unwrap();
        assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), b'x');
        assert_eq!(read_to_end(&mut stream).await, "");
        drop(stream);
        eventually(|| (far.proxy().in_flight(&visits[0].workload) == 0).then_some(())).await;
    }
}

/// In the same words as any other.
#[tokio::test]
async fn an_upgrade_that_does_not_get_through_says_why() {
    for draining in [true, false] {
        let (_held, dead) = nowhere();
        let (near, mut far, listener) = nodes(dead, false).await;
        if draining {
            far.drain_workload("c-0");
        }
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
        let reason = if draining { "draining" } else { "connect-failed" };
        let said = format!("tulle-reason: {reason}\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(&said), "{answer}");
        let counted = near.metric("tulle_requests_refused_total", &[&format!("reason=\"{reason}\"")]);
        assert_eq!(counted, 1, "{reason}");
        assert!(far.proxy().visits().await.is_empty());
    }
}

/// Any peer of the mesh may say what it likes there, and is another mesh's proxy perhaps.
#[tokio::test]
async fn what_a_peer_sends_as_bytes_is_a_request_or_refused() {
    let (address, mut heads) = app().await;
    let authority = Authority::new();
    let mut far = Node::start("far", &authority).await;
    far.add_workload(&authority, "c-0", &[address.port()]);
    declare(&mut far, "c-0", address.port(), false);
    let client = peer(&authority.certificate(&identity("a")), far.link).await;
    let says = async |port: u16, text: &'static [u8]| {
        let request = Request::connect(format!("{}:{port}", address.ip()));
        let (answer, mut to) = client.clone().send_request(request.body(()).unwrap(), false).unwrap();
        let _ = to.send_data(Bytes::from_static(text), false);
        let answer = timeout(SOON, answer).await.unwrap().unwrap();
        let (status, mut body, mut got) = (answer.status(), answer.into_body(), Vec::new());
        loop {
            match timeout(SOON, body.data()).await.unwrap() {
                Some(Ok(data)) => got.extend_from_slice(&data),
                Some(Err(error)) => return (status, Err(error.is_reset())),
                None => return (status, Ok(String::from_utf8(got).unwrap())),
            }
            if got.ends_with(b"hi") {
                let _ = to.send_data(Bytes::new(), true);
            }
        }
    };
    let forged = b"GET /x HTTP/1.1\r\nhost: c\r\ntulle-workload: default/x\r\n\r\n";
    let (status, answer) = says(address.port(), forged).await;
    let answer = answer.unwrap();
    assert!(status == StatusCode::OK && answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /x HTTP/1.1\r\n") && !head.contains("tulle-"), "{head}");
    let (_, answer) = says(address.port(), b"GET /x HTTP/1.1\r\nhost: c\r\ncontent-length: x\r\n\r\n").await;
    assert!(answer.as_ref().unwrap().starts_with("HTTP/1.1 400 "), "{answer:?}");
    assert_eq!(says(address.port(), b"SSH-2.0-x\r\n").await, (StatusCode::OK, Err(true)));
    assert_eq!(says(address.port() ^ 1, forged).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(timeout(NOTHING, heads.recv()).await.is_err(), "the application got something");
}

/// A connection may be older than what the node was told last.
#[tokio::test]
async fn each_request_is_held_against_the_workload_as_it_is_then() {
    for (what, reason) in [("closed", "connect-failed"), ("gone", "connect-failed"), ("stopping", "draining")]
    {
        let (address, mut heads) = app().await;
        let authority = Authority::new();
        let mut far = Node::start("far", &authority).await;
        far.add_workload(&authority, "c-0", &[address.port()]);
        declare(&mut far, "c-0", address.port(), false);
        let mut client = peer(&authority.certificate(&identity("a")), far.link).await;
        let request = Request::connect(address.to_string()).body(()).unwrap();
        let (answer, mut to) = client.send_request(request, false).unwrap();
        let mut body = timeout(SOON, answer).await.unwrap().unwrap().into_body();
        let mut asks = async |end: &[u8]| {
            to.send_data(Bytes::from_static(b"GET /x HTTP/1.1\r\nhost: c\r\n\r\n"), false).unwrap();
            let mut got = Vec::new();
            while !got.ends_with(end) {
                got.extend_from_slice(&timeout(SOON, body.data()).await.unwrap().unwrap().unwrap());
            }
            String::from_utf8(got).unwrap()
        };
        assert!(asks(b"hi").await.starts_with("HTTP/1.1 200 OK\r\n"), "{what}");
        heads.recv().await.unwrap();
        match what {
            "closed" => drop(far.add_workload(&authority, "c-0", &[address.port() ^ 1])),
            "gone" => drop(far.state.workloads.remove(&WorkloadName::new("default", "c-0"))),
            _ => far.drain_workload("c-0"),
        }
        far.publish();
        let answer = asks(b"\n").await;
        let said = format!("tulle-reason: {reason}\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(&said), "{what}: {answer}");
        assert!(timeout(NOTHING, heads.recv()).await.is_err(), "{what}: the application got it");
    }
}

/// Where all of it can be sent once more.
#[tokio::test]
async fn an_upgrade_whose_application_is_dead_goes_to_another() {
    let living = script(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let (_held, dead) = nowhere();
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    let mut endpoints = Vec::new();
    for (name, port) in [("c-0", living.port()), ("c-1", dead.port())] {
        endpoints.push(far.add_workload(&authority, name, &[port]));
        declare(&mut far, name, port, true);
    }
    near.add_service("c", AppProtocol::Http1, endpoints);
    let listener = near.listen("c").await;
    let retries = || near.metric("tulle_retries_total", &["destination=\"c\""]);
    for _ in 0..100 {
        let mut stream = TcpStream::connect(listener).await.unwrap();
        // In a bare CONNECT, for its method.
        let request = "HEAD / HTTP/1.1\r\nHost: c\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        if retries() > 0 {
            return;
        }
    }
    panic!("nothing was tried again");
}

/// What passes as bytes may be answered by the application as it likes, and is not the mesh's word.
#[tokio::test]
async fn an_application_does_not_speak_for_the_mesh() {
    let app = script(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 403 No\r\ntulle-reason: wrong-identity\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let authority = Authority::new();
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    let endpoint = far.add_workload(&authority, "c-0", &[app.port()]);
    near.add_service("c", AppProtocol::Http1, vec![endpoint]);
    let mut stream = TcpStream::connect(near.listen("c").await).await.unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("tulle-"), "{answer}");
}
