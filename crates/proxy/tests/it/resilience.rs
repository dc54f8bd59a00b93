//! Many at once, peers that misbehave, and the end of a proxy's life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Purpose, Sockets};

use crate::links::relay;
use crate::mesh::{LOOPBACK, Pair, app, echo, eventually, expect_echo};

#[tokio::test]
async fn a_thousand_tunnels_at_once_share_few_links() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let mut connections = Vec::new();
    for i in 0..1000u32 {
        let entry = pair.entry;
        connections.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(entry).await.unwrap();
            expect_echo(&mut stream, &i.to_be_bytes()).await;
            stream
        }));
    }
    let mut open = Vec::new();
    for connection in connections {
        open.push(connection.await.unwrap());
    }
    assert_eq!(pair.far.proxy.in_flight(&pair.server), 1000);
    // One for each worker, dialed once however many waited for it.
    let links = pair.near.metric("tulle_links", &["side=\"client\""]);
    assert!((1.0..=2.0).contains(&links), "{links} links");
    for stream in &mut open {
        expect_echo(stream, b"once more").await;
    }
    drop(open);
    eventually(|| pair.far.proxy.in_flight(&pair.server) == 0).await;
    assert_eq!(pair.near.proxy.edges()[0].failures, 0);
}

/// Peers that stall, talk nonsense, or flood the link port.
#[tokio::test]
async fn bad_peers_do_not_hurt_others() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(TcpStream::connect(pair.far.link).await.unwrap());
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 3000], &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3]] {
        let mut stream = TcpStream::connect(pair.far.link).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
    }
    for _ in 0..200 {
        let stream = TcpStream::connect(pair.far.link).await.unwrap();
        stream.set_zero_linger().unwrap();
    }
    let begin = Instant::now();
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    pair.far.metric_reaches("tulle_tls_handshakes_total", &["result=\"broken\""], 3.0).await;
}

#[tokio::test]
async fn a_closed_listener_keeps_its_connections() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let mut before = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut before, b"before").await;
    // Accepted by the kernel, whether the proxy has seen it or not.
    let mut just = TcpStream::connect(pair.entry).await.unwrap();
    pair.near.proxy.close(pair.entry).await;
    expect_echo(&mut just, b"just").await;
    expect_echo(&mut before, b"after").await;
    assert!(TcpStream::connect(pair.entry).await.is_err());
    // The port is free again.
    std::net::TcpListener::bind(pair.entry).unwrap();
}

#[tokio::test]
async fn a_drain_lets_connections_finish() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"before").await;
    let begin = Instant::now();
    let near = tokio::spawn(async move { pair.near.proxy.drain(Duration::from_secs(20)).await });
    let far = tokio::spawn(async move { pair.far.proxy.drain(Duration::from_secs(20)).await });
    eventually(|| std::net::TcpStream::connect(pair.entry).is_err()).await;
    expect_echo(&mut stream, b"during").await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    drop(stream);
    near.await.unwrap();
    far.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "the drain took {:?}", begin.elapsed());
}

/// What the proxy took from a client that then went away is still under way to the other node.
#[tokio::test]
async fn a_drain_loses_no_bytes() {
    const LENGTH: usize = 100 << 10;
    let (sender, mut received) = tokio::sync::mpsc::channel(128);
    let app = app(move |mut stream| {
        let sender = sender.clone();
        async move {
            stream.shutdown().await.unwrap();
            let mut bytes = Vec::new();
            let whole = stream.read_to_end(&mut bytes).await.is_ok();
            sender.send((whole, bytes.len())).await.unwrap();
        }
    });
    let app = app.await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let congested = Arc::new(AtomicBool::new(false));
    let mut endpoint = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    endpoint.node.as_mut().unwrap().link = relay(pair.far.link, congested.clone()).await;
    pair.near.know("server", AppProtocol::Tcp, vec![endpoint]);
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = TcpStream::connect(pair.entry).await.unwrap();
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
        clients.push(client);
    }
    // More than the sockets on the way have room for, less than what the tunnels may buffer.
    congested.store(true, Ordering::SeqCst);
    let count = clients.len();
    for client in &mut clients {
        client.write_all(&[1; LENGTH]).await.unwrap();
        client.shutdown().await.unwrap();
    }
    eventually(|| pair.near.metric("tulle_tcp_connections_open", &[]) == 0.0).await;
    let near = tokio::spawn(async move { pair.near.proxy.drain(Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    congested.store(false, Ordering::SeqCst);
    near.await.unwrap();
    for _ in 0..count {
        assert_eq!(received.recv().await.unwrap(), (true, LENGTH));
    }
}

/// Not before: until then what is open is served.
#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(1);
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"before").await;
    let begin = Instant::now();
    let drained = tokio::spawn(async move {
        pair.near.proxy.drain(DEADLINE).await;
        begin.elapsed()
    });
    let mut exchanges = 0;
    let end = loop {
        let sent = stream.write_all(b"during").await;
        match stream.read_exact(&mut [0; 6]).await {
            Ok(_) if sent.is_ok() => exchanges += 1,
            _ => break begin.elapsed(),
        }
    };
    let drained = timeout(Duration::from_secs(10), drained).await.expect("it ends").unwrap();
    assert!(exchanges > 0, "nothing was served while it drained");
    for took in [end, drained] {
        assert!((DEADLINE..10 * DEADLINE).contains(&took), "{end:?}, {drained:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let taken = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    // Also if it is a proxy that has it.
    for address in [taken.local_addr().unwrap(), pair.far.link] {
        let error = Sockets::bind(Purpose::Links, address, 2).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }
}
