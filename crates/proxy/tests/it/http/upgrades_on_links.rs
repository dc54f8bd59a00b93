//! Upgrades between two nodes: what the node of the application sees, with peers of this version and of others.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Peer, Upgrade};

use super::apps::{read_head, read_to_end, script};
use super::departing::acceptor;
use super::mesh::{Authority, Node, Way, eventually, identity, path};
use crate::believer::peer;

const SOON: Duration = Duration::from_secs(5);
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";

/// Tells each head that it gets, answers with `answer`, and echoes one byte.
async fn app(answer: String) -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let (heads, heard) = mpsc::channel(16);
    let address = script(move |mut stream| {
        let (heads, answer) = (heads.clone(), answer.clone());
        async move {
            let head = read_head(&mut stream).await;
            let _ = heads.send(head).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            if let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
            }
        }
    })
    .await;
    (address, heard)
}

async fn ask(address: std::net::SocketAddr, method: &str, more: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} /chat?x=1 HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\nupgrade: websocket\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
    (stream, answer)
}

async fn expect_echo(stream: &mut TcpStream) {
    stream.write_all(b"x").await.unwrap();
    assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn the_node_of_the_application_sees_a_request_and_its_path() {
    for way in [Way::SameNode, Way::Link] {
        for (method, expected) in [("GET", Method::GET), ("POST", Method::POST)] {
            let (address, mut heads) = app(format!("{SWITCHED}\r\n")).await;
            let path = path(way, AppProtocol::Http1, address).await;
            let (mut stream, answer) = ask(path.address, method, "").await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{way:?} {answer}");
            expect_echo(&mut stream).await;
            let node = if way == Way::Link { &path.far } else { &path.near };
            let visits = node.proxy().visits().await;
            assert_eq!(visits.len(), 1, "{way:?}");
            assert_eq!(visits[0].peer, Peer::Mesh(identity("a")), "{way:?}");
            let upgrade = Upgrade { method: expected, path: "/chat".to_owned() };
            assert_eq!(visits[0].upgrade.as_ref(), Some(&upgrade), "{way:?}");
            let head = heads.recv().await.unwrap();
            assert!(head.starts_with(&format!("{method} /chat?x=1 HTTP/1.1\r\n")), "{way:?} {head}");
            assert_eq!(read_to_end(&mut stream).await, "", "{way:?}");
            drop(stream);
            let name = &visits[0].workload;
            eventually(|| (node.proxy().in_flight(name) == 0).then_some(())).await;
        }
    }
}

/// A node of another version does not say that it takes extended CONNECT, and is sent none.
#[tokio::test]
async fn a_peer_that_takes_no_extended_connect_gets_a_tunnel() {
    let (address, mut heads) = app(format!("{SWITCHED}\r\n")).await;
    let authority = Authority::new();
    let acceptor = acceptor(&authority);
    let (asked, mut seen) = mpsc::channel(16);
    let link = script(move |io: TcpStream| {
        let (acceptor, asked) = (acceptor.clone(), asked.clone());
        async move {
            let Ok(io) = acceptor.accept(io).await else { return };
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let extended = request.extensions().get::<h2::ext::Protocol>().is_some();
                asked.send((request.method().clone(), extended)).await.unwrap();
                tokio::spawn(async move {
                    let mut to = respond.send_response(http::Response::new(()), false).unwrap();
                    let mut from = request.into_body();
                    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
                    tokio::spawn(async move {
                        while let Some(Ok(data)) = from.data().await {
                            let _ = from.flow_control().release_capacity(data.len());
                            write.write_all(&data).await.unwrap();
                        }
                    });
                    let mut bytes = vec![0; 1024];
                    while let Ok(count @ 1..) = read.read(&mut bytes).await {
                        to.send_data(Bytes::copy_from_slice(&bytes[..count]), false).unwrap();
                    }
                    let _ = to.send_data(Bytes::new(), true);
                });
            }
        }
    })
    .await;
    let mut near = Node::start("near", &authority).await;
    let mut far = Node::start("far", &authority).await;
    let mut endpoint = far.add_workload(&authority, "c-0", &[address.port()]);
    endpoint.node.as_mut().unwrap().link = link;
    near.add_service("c", AppProtocol::Http1, vec![endpoint]);
    let (mut stream, answer) = ask(near.listen("c").await, "GET", "").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    expect_echo(&mut stream).await;
    assert_eq!(seen.recv().await.unwrap(), (Method::CONNECT, false));
    assert!(heads.recv().await.unwrap().starts_with("GET /chat?x=1 HTTP/1.1\r\n"));
}

/// Whether the application has switched, and with what method it is asked, nobody says but the two nodes.
#[tokio::test]
async fn what_nodes_say_of_an_upgrade_is_believed_of_nobody_else() {
    for way in [Way::SameNode, Way::Link] {
        let answer = "HTTP/1.1 200 OK\r\ntulle-switched: websocket\r\ncontent-length: 2\r\n\r\nhi";
        let (address, mut heads) = app(answer.to_owned()).await;
        let path = path(way, AppProtocol::Http1, address).await;
        let forged = "tulle-method: DELETE\r\ntulle-switched: websocket\r\ntulle-workload: default/x\r\n";
        let (mut stream, answer) = ask(path.address, "GET", forged).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{way:?} {answer}");
        assert!(!answer.contains("tulle-"), "{way:?} {answer}");
        let mut body = [0; 2];
        timeout(SOON, stream.read_exact(&mut body)).await.unwrap().unwrap();
        assert_eq!(&body, b"hi", "{way:?}");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\n") && !head.contains("tulle-"), "{way:?} {head}");
    }
}

/// Nothing of it comes to the application.
#[tokio::test]
async fn a_peer_cannot_leave_http_for_what_no_client_may() {
    let authority = Authority::new();
    let (address, mut heads) = app(format!("{SWITCHED}\r\n")).await;
    let mut far = Node::start("far", &authority).await;
    far.add_workload(&authority, "c-0", &[address.port()]);
    let mut client = peer(&authority.certificate(&identity("a")), far.link).await;
    while !client.is_extended_connect_protocol_enabled() {
        client = client.ready().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut asks = async |port: u16, protocol: &'static str, method: Option<&str>| {
        let mut request = Request::connect("http://c/chat")
            .header("tulle-workload", "default/c-0")
            .header("tulle-port", port)
            .header("tulle-app-version", "1");
        if let Some(method) = method {
            request = request.header("tulle-method", method);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        let (answer, _body) = client.send_request(request, false).unwrap();
        let answer = timeout(SOON, answer).await.unwrap().unwrap();
        let reason = answer.headers().get("tulle-reason").map(|reason| reason.to_str().unwrap().to_owned());
        (answer.status(), reason)
    };
    for (protocol, method, status, reason) in [
        ("h2c", Some("GET"), StatusCode::BAD_REQUEST, "bad-request"),
        ("websocket", Some("CONNECT"), StatusCode::BAD_REQUEST, "bad-request"),
        ("websocket", Some("a b"), StatusCode::BAD_REQUEST, "bad-request"),
        ("x", None, StatusCode::NOT_IMPLEMENTED, "unsupported"),
    ] {
        let got = asks(address.port(), protocol, method).await;
        assert_eq!(got, (status, Some(reason.to_owned())), "{protocol} {method:?}");
    }
    // A port that the workload does not offer.
    let got = asks(address.port().wrapping_add(1), "websocket", Some("GET")).await;
    assert_eq!(got, (StatusCode::SERVICE_UNAVAILABLE, Some("connect-failed".to_owned())));
    assert!(heads.try_recv().is_err());
    assert_eq!(asks(address.port(), "websocket", Some("GET")).await, (StatusCode::OK, None));
    assert!(heads.recv().await.unwrap().starts_with("GET /chat HTTP/1.1\r\n"));
}
