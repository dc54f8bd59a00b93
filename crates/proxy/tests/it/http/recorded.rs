//! What is counted of connections that are opened for a client: upgrades and tunnels.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Capture, Security};

use super::apps::{self, read_head};
use super::mesh::{Authority, Node, WAYS, eventually, path, plain};
use crate::mesh::echo;

const UPGRADE: &str = "host: c\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// A listener that takes no more connections, as its backlog is full.
async fn crowded() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        held.push(stream);
    }
    (listener, held, address)
}

#[tokio::test]
async fn an_upgrade_takes_until_its_answer() {
    const SLOW: Duration = Duration::from_millis(200);
    for way in WAYS {
        let app = apps::script(|mut stream| async move {
            read_head(&mut stream).await;
            tokio::time::sleep(SLOW).await;
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{UPGRADE}");
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        client.write_all(format!("GET / HTTP/1.1\r\n{UPGRADE}").as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "), "{way:?}");
        path.near.edge_with("c", 1).await;
        let text = path.near.proxy().metrics();
        let took = text.lines().find_map(|line| {
            line.strip_prefix("tulle_request_duration_seconds_sum{")?.rsplit(' ').next()?.parse::<f64>().ok()
        });
        assert!(took.is_some_and(|took| took >= SLOW.as_secs_f64()), "{way:?}: {took:?}");
    }
}

#[tokio::test]
async fn what_is_given_up_while_it_connects_has_no_security() {
    let (_listener, _held, address) = crowded().await;
    let mut node = Node::start("near", &Authority::new()).await;
    node.add_service("c", AppProtocol::Http1, vec![plain(address)]);
    node.add_service("d", AppProtocol::Tcp, vec![plain(address)]);
    let proxy = node.listen_as(Capture::HttpProxy).await;
    for (destination, request) in [
        ("c", format!("GET http://c/ HTTP/1.1\r\n{UPGRADE}")),
        ("d", "CONNECT d:80 HTTP/1.1\r\nhost: d\r\n\r\n".to_owned()),
        ("external", format!("CONNECT {address} HTTP/1.1\r\nhost: x\r\n\r\n")),
    ] {
        let mut client = TcpStream::connect(proxy).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        // It has begun to connect.
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.set_zero_linger().unwrap();
        drop(client);
        let edge = node.edge_with(destination, 1).await;
        assert_eq!((edge.security, edge.requests, edge.refused), (Security::Unsent, 1, 1), "{destination}");
    }
}

#[tokio::test]
async fn a_tunnels_retries_are_counted_where_its_connection_is() {
    let (_held, dead) = apps::nowhere();
    let mut node = Node::start("near", &Authority::new()).await;
    node.add_service("c", AppProtocol::Tcp, vec![plain(dead), plain(echo().await)]);
    let proxy = node.listen_as(Capture::HttpProxy).await;
    let retries = |protocol: &str| node.metric("tulle_retries_total", &[&format!("protocol=\"{protocol}\"")]);
    for _ in 0..30 {
        let mut client = TcpStream::connect(proxy).await.unwrap();
        client.write_all(b"CONNECT c:80 HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
        if retries("tcp") > 0 {
            break;
        }
    }
    eventually(|| (retries("tcp") > 0).then_some(())).await;
    assert_eq!(retries("http"), 0);
}
