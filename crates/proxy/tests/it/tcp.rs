//! Opaque connections: through a link, inside a node, outside of the mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, Endpoint, Known, PortMapping, ServiceConfig, Snapshot, TcpRule,
};
use tulle_proxy::{Bounds, Peer, Purpose, Security, Visit};

use crate::mesh::{LOOPBACK, Node, PORT, Pair, app, echo, eventually, expect_echo, expect_reset, listen};

#[tokio::test]
async fn bytes_pass_both_ways_through_a_link() {
    let app = echo().await;
    let pair = Pair::new(app, AppProtocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"hello").await;

    let edges = pair.near.proxy.edges();
    assert_eq!(edges.len(), 1, "{edges:?}");
    assert_eq!((&*edges[0].source, &*edges[0].destination.name), ("client", "server"));
    assert_eq!((edges[0].security, edges[0].protocol), (Security::MutualTls, "tcp"));
    assert_eq!((edges[0].requests, edges[0].failures, edges[0].bytes_sent), (1, 0, 5));
    eventually(|| pair.near.proxy.edges()[0].bytes_received == 5).await;
    assert_eq!(pair.far.proxy.in_flight(&pair.server), 1);
    let visit = Visit {
        peer: Peer::Mesh(pair.ca.identity("client")),
        workload: pair.server.clone(),
        port: app.port(),
        generation: 0,
        upgrade: None,
    };
    assert_eq!(pair.far.proxy.visits().await, [visit]);
    drop(stream);
    eventually(|| pair.far.proxy.in_flight(&pair.server) == 0).await;
    assert_eq!(pair.far.proxy.visits().await, []);
    pair.near.metric_reaches("tulle_tcp_connections_closed_total", &["source=\"client\""], 1.0).await;
    assert_eq!(pair.far.metric("tulle_tls_handshakes_total", &["side=\"server\"", "result=\"ok\""]), 1.0);
}

#[tokio::test]
async fn large_amounts_arrive_whole_in_both_directions() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let stream = TcpStream::connect(pair.entry).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let data: Arc<Vec<u8>> = Arc::new((0..20_000_000u32).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect());
    let sent = data.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    sender.await.unwrap();
    assert!(back == *data, "{} bytes came back of {}", back.len(), data.len());
}

#[tokio::test]
async fn each_way_is_closed_by_itself() {
    // Answers only when it has seen the end of the request.
    let app = app(|mut stream| async move {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.unwrap();
        stream.write_all(format!("got {}", request.len()).as_bytes()).await.unwrap();
    })
    .await;
    for protocol in [AppProtocol::Tcp, AppProtocol::Detect] {
        let pair = Pair::new(app, protocol).await;
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        stream.write_all(&[0xff; 1000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "got 1000");
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let app = app(|mut stream| async move {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let pair = Pair::new(app, AppProtocol::Tcp).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A server like SMTP's, undeclared: the client waits for the banner.
#[tokio::test]
async fn a_server_that_speaks_first_is_not_waited_for() {
    let app = app(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(b"221 bye\r\n").await.unwrap();
    })
    .await;
    let pair = Pair::new(app, AppProtocol::Detect).await;
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        let mut banner = [0; 11];
        stream.read_exact(&mut banner).await.unwrap();
        fastest = fastest.min(begin.elapsed());
        assert_eq!(&banner, b"220 ready\r\n");
        stream.write_all(b"QUIT\r\n").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "221 bye\r\n");
    }
    assert!(fastest < Duration::from_millis(5), "the banner took {fastest:?} at best");
    let edges = pair.near.proxy.edges();
    assert_eq!((edges.len(), edges[0].protocol, edges[0].requests), (1, "tcp", 20), "{edges:?}");
}

/// A client like Redis', and one of TLS, undeclared: what they send is none of HTTP.
#[tokio::test]
async fn clients_of_other_protocols_are_passed_on() {
    let pair = Pair::new(echo().await, AppProtocol::Detect).await;
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 194][..]].concat();
    for first in [&b"*1\r\n$4\r\nPING\r\n"[..], b"PING\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", &hello] {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        expect_echo(&mut stream, first).await;
        assert!(begin.elapsed() < Duration::from_millis(400), "{first:?} took {:?}", begin.elapsed());
        expect_echo(&mut stream, b"and more").await;
    }
}

/// `nc quotes 17 < /dev/null`.
#[tokio::test]
async fn a_client_that_says_nothing_hears_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            stream.write_all(b"nothing to say?").await.unwrap();
        }
    });
    let pair = Pair::new(server, AppProtocol::Detect).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "nothing to say?");
    }
}

/// Bytes that could become an HTTP request, and then nothing.
#[tokio::test]
async fn half_a_word_is_passed_on_after_a_while() {
    let pair = Pair::new(echo().await, AppProtocol::Detect).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"GE").await;
}

#[tokio::test]
async fn workloads_of_one_node_need_no_link() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let neighbour = pair.near.run("neighbour", &[app.port()], pair.ca.issue(&pair.ca.identity("neighbour")));
    let endpoint = pair.near.endpoint(&neighbour, app.port(), pair.ca.identity("neighbour"));
    pair.near.know("neighbour", AppProtocol::Tcp, vec![endpoint]);
    let entry = pair.near.outbound(&pair.client, "neighbour").await;
    let mut stream = TcpStream::connect(entry).await.unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert_eq!(pair.near.proxy.edges()[0].security, Security::SameNode);
    assert_eq!(pair.near.metric("tulle_links", &[]), 0.0);
    assert_eq!(pair.near.proxy.in_flight(&neighbour), 1);
    let visits = pair.near.proxy.visits().await;
    let client = Peer::Mesh(pair.ca.identity("client"));
    assert_eq!(
        visits.iter().map(|visit| (&visit.peer, &visit.workload)).collect::<Vec<_>>(),
        [(&client, &neighbour)]
    );
}

/// The hand-over checks what a link's handshake would: that the workload is who was promised.
#[tokio::test]
async fn an_impostor_of_one_node_is_handed_nothing() {
    let reached = Arc::new(AtomicBool::new(false));
    let reaching = reached.clone();
    let app = app(move |_stream| {
        reaching.store(true, Ordering::SeqCst);
        async {}
    });
    let app = app.await;
    for protocol in [AppProtocol::Tcp, AppProtocol::Http1, AppProtocol::Detect] {
        let mut pair = Pair::new(app, protocol).await;
        let issued = pair.ca.issue(&pair.ca.identity("impostor"));
        let impostor = pair.near.run("impostor", &[app.port()], issued);
        let endpoint = pair.near.endpoint(&impostor, app.port(), pair.ca.identity("neighbour"));
        pair.near.know("neighbour", protocol, vec![endpoint]);
        let entry = pair.near.outbound(&pair.client, "neighbour").await;
        // It may be reset before anything is sent.
        let Ok(mut stream) = TcpStream::connect(entry).await else { continue };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
        let ended = read.await.expect("it ends");
        let refused = ended.is_err() || answer.starts_with(b"HTTP/1.1 503 ");
        assert!(refused, "{protocol:?}: {}", String::from_utf8_lossy(&answer));
    }
    assert!(!reached.load(Ordering::SeqCst), "the impostor got a connection");
}

#[tokio::test]
async fn endpoints_outside_of_the_mesh_get_plain_bytes() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let plain = Endpoint {
        workload: None,
        node: None,
        address: LOOPBACK,
        ports: vec![PortMapping { service_port: PORT, target_port: app.port() }],
        identity: None,
    };
    pair.near.know("plain", AppProtocol::Tcp, vec![plain]);
    let entry = pair.near.outbound(&pair.client, "plain").await;
    expect_echo(&mut TcpStream::connect(entry).await.unwrap(), b"hello").await;
    assert_eq!(pair.near.proxy.edges()[0].security, Security::Plaintext);
}

#[tokio::test]
async fn a_tcp_route_leads_to_its_backends() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Detect).await;
    let server = ServiceName::new("default", "server");
    let fronted = ServiceName::new("default", "front");
    pair.near.know("front", AppProtocol::Detect, vec![]);
    pair.near.edit(|state| {
        let mut snapshot = Snapshot::clone(&state.snapshot);
        let Some(Known::Present(config)) = snapshot.services.get(&fronted) else { panic!() };
        let mut config = ServiceConfig::clone(config);
        let backend = Backend::new(BackendTarget::Service { name: server, port: PORT }, 1);
        config.ports[0].tcp_route =
            Some(Arc::new(TcpRule { route: ServiceName::new("default", "r"), backends: vec![backend] }));
        snapshot.services.insert(fronted, Known::Present(Arc::new(config)));
        state.snapshot = Arc::new(snapshot);
    });
    let entry = pair.near.outbound(&pair.client, "front").await;
    expect_echo(&mut TcpStream::connect(entry).await.unwrap(), b"hello").await;
    assert_eq!(&*pair.near.proxy.edges()[0].destination.name, "server");
}

/// One of two endpoints is not there: every connection still arrives.
#[tokio::test]
async fn a_failed_connect_is_tried_elsewhere() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let good = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    let mut gone = good.clone();
    gone.node.as_mut().unwrap().link = SocketAddr::new(LOOPBACK, 1);
    pair.near.know("server", AppProtocol::Tcp, vec![good, gone]);
    for _ in 0..20 {
        expect_echo(&mut TcpStream::connect(pair.entry).await.unwrap(), b"hello").await;
    }
    let edges = pair.near.proxy.edges();
    assert_eq!(edges.iter().map(|e| e.failures).sum::<u64>(), 0);
    assert_eq!(edges.iter().map(|e| e.requests).sum::<u64>(), 20);
}

#[tokio::test]
async fn a_service_without_endpoints_resets_its_clients() {
    let mut pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    // Its clients may speak HTTP, and get an answer.
    pair.near.know("server", AppProtocol::Detect, vec![]);
    expect_reset(pair.entry).await;
    let labels = ["reason=\"no-endpoints\""];
    pair.near.metric_reaches("tulle_connections_rejected_total", &labels, 1.0).await;
    assert_eq!(pair.near.proxy.edges()[0].failures, 1);
}

async fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

async fn comes_to(address: SocketAddr, refused: bool) {
    for _ in 0..1000 {
        if is_refused(address).await == refused {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to be {}", if refused { "refused" } else { "accepted" });
}

#[tokio::test]
async fn a_listener_refuses_what_can_lead_nowhere() {
    let app = echo().await;
    let mut pair = Pair::bounded(app, AppProtocol::Tcp, 3, Bounds::default()).await;
    let endpoint = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    let server = ServiceName::new("default", "server");
    for _ in 0..3 {
        let mut open = TcpStream::connect(pair.entry).await.unwrap();
        expect_echo(&mut open, b"hello").await;
        pair.near.know("server", AppProtocol::Tcp, vec![]);
        comes_to(pair.entry, true).await;
        // The port is still its own.
        assert!(TcpListener::bind(pair.entry).await.is_err());
        expect_echo(&mut open, b"still there").await;
        pair.near.know("server", AppProtocol::Tcp, vec![endpoint.clone()]);
        comes_to(pair.entry, false).await;
        // Every worker takes its share.
        for _ in 0..20 {
            expect_echo(&mut TcpStream::connect(pair.entry).await.unwrap(), b"hello").await;
        }
        pair.near.edit(|state| {
            let mut snapshot = Snapshot::clone(&state.snapshot);
            snapshot.services.insert(server.clone(), Known::Absent);
            state.snapshot = Arc::new(snapshot);
        });
        comes_to(pair.entry, true).await;
        pair.near.know("server", AppProtocol::Tcp, vec![endpoint.clone()]);
        comes_to(pair.entry, false).await;
    }
    pair.near.proxy.close(pair.entry).await;
    assert!(is_refused(pair.entry).await);
}

#[tokio::test]
async fn a_node_that_is_not_redirected_to_refuses() {
    let node = Node::start("alone", 1).await;
    let workload = tulle_model::name::WorkloadName::new("default", "nobody");
    let purpose = Purpose::Outbound { workload, capture: tulle_proxy::Capture::Redirected };
    let entry = listen(&node.proxy, purpose).await;
    expect_reset(entry).await;
}
