//! Peers that keep silent: they keep nobody out, and nobody waits long for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tulle_model::snapshot::{AppProtocol, Endpoint};
use tulle_proxy::Bounds;

use crate::believer::believer;
use crate::mesh::{Node, Pair, app, echo, eventually, expect_echo};

/// The handshakes of these tests' nodes: few, so that a room is soon full.
const HANDSHAKES: usize = 16;

async fn pair(app: SocketAddr, protocol: AppProtocol) -> Pair {
    let bounds = Bounds { link_handshakes: HANDSHAKES, ..Bounds::default() };
    Pair::bounded(app, protocol, 1, bounds).await
}

/// Whether the other end has closed or reset the connection; one that waits for us has not.
fn is_over(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 64]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn the_oldest_silent_peer_goes_and_links_open() {
    let pair = pair(echo().await, AppProtocol::Tcp).await;
    let mut silent = Vec::new();
    for kind in 0..4 * HANDSHAKES {
        let mut stream = TcpStream::connect(pair.far.link).await.unwrap();
        // Nothing at all, or the beginning of a ClientHello that never ends.
        if kind % 2 == 1 {
            stream.write_all(&[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3]).await.unwrap();
        }
        silent.push(stream);
    }
    pair.far
        .metric_reaches("tulle_tls_handshakes_total", &["result=\"overload\""], 3.0 * HANDSHAKES as f64)
        .await;
    let (first, last) = (silent.swap_remove(0), silent.pop().unwrap());
    eventually(|| is_over(&first)).await;
    assert!(!is_over(&last), "the newcomer stays");

    let begin = Instant::now();
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

/// Passes connections on to `to`; the answers are held back for `delay`. What was said is told to `begun`.
async fn distant_relay(to: SocketAddr, delay: Duration, begun: Arc<Notify>) -> SocketAddr {
    app(move |near| {
        let begun = begun.clone();
        async move {
            let (mut from_near, mut to_near) = near.into_split();
            let (mut from_far, mut to_far) = TcpStream::connect(to).await.unwrap().into_split();
            let there = async {
                let mut first = [0; 4096];
                let length = from_near.read(&mut first).await.unwrap();
                to_far.write_all(&first[..length]).await.unwrap();
                let _ = tokio::io::copy(&mut from_near, &mut to_far).await;
            };
            let back = async {
                let mut first = [0; 4096];
                let length = from_far.read(&mut first).await.unwrap();
                begun.notify_one();
                tokio::time::sleep(delay).await;
                to_near.write_all(&first[..length]).await.unwrap();
                let _ = tokio::io::copy(&mut from_far, &mut to_near).await;
            };
            tokio::join!(there, back);
        }
    })
    .await
}

/// One that has said what it wants is not silent, however long the way is that the answer has to go.
#[tokio::test]
async fn a_slow_handshake_outlives_a_flood_of_silence() {
    let app = echo().await;
    let mut pair = pair(app, AppProtocol::Tcp).await;
    let begun = Arc::new(Notify::new());
    let mut endpoint = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    endpoint.node.as_mut().unwrap().link =
        distant_relay(pair.far.link, Duration::from_secs(2), begun.clone()).await;
    pair.near.know("server", AppProtocol::Tcp, vec![endpoint]);
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    begun.notified().await;
    let mut silent = Vec::new();
    for _ in 0..4 * HANDSHAKES {
        silent.push(TcpStream::connect(pair.far.link).await.unwrap());
    }
    let overload = ["side=\"server\"", "result=\"overload\""];
    pair.far.metric_reaches("tulle_tls_handshakes_total", &overload, 3.0 * HANDSHAKES as f64).await;
    expect_echo(&mut stream, b"hello").await;
    let handshakes = |result| pair.near.metric("tulle_tls_handshakes_total", &["side=\"client\"", result]);
    assert_eq!(handshakes("result=\"ok\""), handshakes(""), "none has failed");
}

/// Those who begin a handshake and do not go on are as bounded, and in nobody's way either.
#[tokio::test]
async fn handshakes_that_do_not_go_on_keep_nobody_out() {
    let pair = pair(echo().await, AppProtocol::Tcp).await;
    let name = pair.ca.identity("server").server_name().unwrap().to_owned();
    let name = ServerName::try_from(name).unwrap();
    let connector = believer(Some(&pair.ca.issue(&pair.ca.identity("client"))));
    let mut begun = Vec::new();
    for _ in 0..4 * HANDSHAKES {
        let mut client = rustls::ClientConnection::new(connector.config().clone(), name.clone()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut stream = TcpStream::connect(pair.far.link).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        begun.push(stream);
    }
    let overload = ["side=\"server\"", "result=\"overload\""];
    pair.far.metric_reaches("tulle_tls_handshakes_total", &overload, 3.0 * HANDSHAKES as f64).await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// The endpoint of a node that accepts connections and says nothing.
async fn silent_endpoint(pair: &Pair, port: u16) -> Endpoint {
    let silent = app(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let mut endpoint = pair.far.endpoint(&pair.server, port, pair.ca.identity("server"));
    endpoint.node.as_mut().unwrap().link = silent.await;
    endpoint.node.as_mut().unwrap().name = "silent".into();
    endpoint
}

async fn get(entry: SocketAddr) -> (String, Duration) {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(entry).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer, begin.elapsed())
}

fn answering() -> impl Future<Output = SocketAddr> {
    app(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        let _ = stream.write_all(answer).await;
    })
}

#[tokio::test]
async fn a_node_that_says_nothing_costs_a_second_once() {
    let app = answering().await;
    let mut pair = pair(app, AppProtocol::Http1).await;
    let silent = silent_endpoint(&pair, app.port()).await;
    let good = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    pair.near.know("server", AppProtocol::Http1, vec![silent, good]);
    let begin = Instant::now();
    let mut waited = 0;
    // Longer than the handshake's deadline: its end is a failure, and the next try another second's wait.
    while begin.elapsed() < Duration::from_secs(7) {
        let (answer, took) = get(pair.entry).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        waited += usize::from(took > Duration::from_millis(900));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // At most one for each second in which it is tried at all.
    assert!((1..=7).contains(&waited), "{waited} requests waited");
    let failed = ["side=\"client\"", "result=\"timeout\""];
    assert!(pair.near.metric("tulle_tls_handshakes_total", &failed) >= 1.0);
}

/// Passes connections on to `to`, each way's first bytes after `delay`.
async fn slow_relay(to: SocketAddr, delay: Duration) -> SocketAddr {
    app(move |mut near| async move {
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::time::sleep(delay).await;
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    })
    .await
}

#[tokio::test]
async fn the_only_endpoint_is_waited_for() {
    for protocol in [AppProtocol::Http1, AppProtocol::Tcp] {
        let app = answering().await;
        let mut pair = pair(app, protocol).await;
        let mut endpoint = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
        endpoint.node.as_mut().unwrap().link = slow_relay(pair.far.link, Duration::from_millis(2500)).await;
        pair.near.know("server", protocol, vec![endpoint]);
        let (answer, took) = get(pair.entry).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(took > Duration::from_secs(2), "{took:?}");
        assert_eq!(pair.near.proxy.edges()[0].failures, 0);
    }
}

#[tokio::test]
async fn a_node_that_drains_with_a_stream_open_keeps_nobody_waiting() {
    let app = echo().await;
    let mut pair = pair(app, AppProtocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"before").await;

    let mut other = Node::start("other", 1).await;
    let replica = other.run("server", &[app.port()], pair.ca.issue(&pair.ca.identity("server")));
    let going = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    let staying = other.endpoint(&replica, app.port(), pair.ca.identity("server"));
    pair.near.know("server", AppProtocol::Tcp, vec![going, staying]);
    let far = tokio::spawn(async move { pair.far.proxy.drain(Duration::from_secs(20)).await });
    let port = pair.far.link;
    eventually(|| std::net::TcpStream::connect(port).is_err()).await;

    for _ in 0..20 {
        let begin = Instant::now();
        expect_echo(&mut TcpStream::connect(pair.entry).await.unwrap(), b"during").await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    expect_echo(&mut stream, b"to the end").await;
    drop(stream);
    far.await.unwrap();
}
