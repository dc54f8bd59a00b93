//! Undeclared ports over which HTTP is spoken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::snapshot::AppProtocol;

use crate::mesh::{Pair, app, expect_echo};

/// An HTTP/1.1 server that answers every request on a connection with `ok`, and counts connections.
async fn server(connections: Arc<AtomicUsize>) -> SocketAddr {
    app(move |mut stream| {
        connections.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut request = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut request).await {
                if request.ends_with(b"\r\n\r\n") {
                    request.clear();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await
}

async fn get(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: server\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"ok") {
            assert_ne!(
                stream.read_buf(&mut answer).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer in ten seconds");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn http_is_found_out_and_learned() {
    let connections = Arc::new(AtomicUsize::new(0));
    let pair = Pair::new(server(connections.clone()).await, AppProtocol::Detect).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        assert!(get(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(get(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // A client that is slow to begin can have an upstream opened for it, which is no request yet.
    let edges = pair.near.proxy.edges();
    let counted: Vec<_> = edges.iter().filter(|edge| edge.requests > 0).collect();
    assert_eq!(counted.len(), 1, "nothing is counted as TCP: {edges:?}");
    assert_eq!((counted[0].protocol, counted[0].requests, counted[0].failures), ("http", 40, 0));
    // Each worker opened one connection in advance at most, and its pool some.
    let opened = connections.load(Ordering::SeqCst);
    assert!(opened <= 8, "{opened} connections were opened");
}

/// The first connection was HTTP's, the second one's client waits for the server to speak.
#[tokio::test]
async fn what_was_learned_is_no_verdict() {
    let app = app(|mut stream| async move {
        stream.write_all(b"hello\r\n").await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let pair = Pair::new(app, AppProtocol::Detect).await;
    for _ in 0..4 {
        let mut http = TcpStream::connect(pair.entry).await.unwrap();
        let _ = http.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").await;
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        let mut banner = [0; 7];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut banner)).await;
        read.expect("the banner comes").unwrap();
        assert_eq!(&banner, b"hello\r\n");
        expect_echo(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
    }
}

/// A client that connects ahead of its first request is not turned away.
#[tokio::test]
async fn a_silent_client_may_speak_http_later() {
    let connections = Arc::new(AtomicUsize::new(0));
    let pair = Pair::new(server(connections).await, AppProtocol::Detect).await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(get(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(pair.near.proxy.edges()[0].requests, 3);
}

#[tokio::test]
async fn http_to_a_service_without_endpoints_is_answered() {
    let connections = Arc::new(AtomicUsize::new(0));
    let mut pair = Pair::new(server(connections).await, AppProtocol::Detect).await;
    pair.near.know("server", AppProtocol::Detect, vec![]);
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("tulle-reason: no-endpoints\r\n"), "{answer}");
}
