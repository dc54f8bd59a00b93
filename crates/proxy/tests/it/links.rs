//! The life of a link: how it ends, and who notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::state::LocalWorkload;

use crate::believer::believer;
use crate::mesh::{Ca, LOOPBACK, Node, Pair, app, echo, eventually, expect_echo, logged};

/// A link lives as long as its certificates; what runs on it then is finished all the same.
#[tokio::test]
async fn links_end_with_their_certificates() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let identity = pair.ca.identity("client");
    pair.near.run("client", &[], pair.ca.issue_for(&identity, Duration::from_secs(3)));
    let mut before = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut before, b"before").await;
    pair.near.run("client", &[], pair.ca.issue(&identity));
    tokio::time::sleep(Duration::from_millis(3500)).await;

    expect_echo(&mut before, b"still here").await;
    for _ in 0..8 {
        let mut after = TcpStream::connect(pair.entry).await.unwrap();
        expect_echo(&mut after, b"after").await;
    }
    let new = pair.near.metric("tulle_tls_handshakes_total", &["side=\"client\"", "result=\"ok\""]);
    assert!(new >= 2.0, "the old link took new connections");
    expect_echo(&mut before, b"to the end").await;
    drop(before);
    eventually(|| pair.near.metric("tulle_links", &["side=\"client\""]) == new - 1.0).await;
}

/// When a root is not trusted any more, links to peers that it may have vouched for take nothing new.
#[tokio::test]
async fn links_end_with_the_trust_in_a_root() {
    let mut pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let identity = pair.ca.identity("client");
    let old = Ca::new("old.test");
    let [first, second] = [(), ()].map(|()| pair.ca.issue_trusting(&identity, &old));
    let handshakes =
        |node: &Node| node.metric("tulle_tls_handshakes_total", &["side=\"client\"", "result=\"ok\""]);
    pair.near.run("client", &[], first);
    let mut before = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut before, b"before").await;
    // A renewed certificate alone is no reason.
    pair.near.run("client", &[], second);
    tokio::time::sleep(Duration::from_millis(4500)).await;
    expect_echo(&mut before, b"during").await;
    assert_eq!(handshakes(&pair.near), pair.near.metric("tulle_links", &["side=\"client\""]));

    pair.near.run("client", &[], pair.ca.issue(&identity));
    let begin = Instant::now();
    while handshakes(&pair.near) < 3.0 {
        expect_echo(&mut TcpStream::connect(pair.entry).await.unwrap(), b"new").await;
        assert!(begin.elapsed() < Duration::from_secs(10), "the old links go on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    expect_echo(&mut before, b"after").await;
}

/// A client's connection may be older than the certificate of its workload.
#[tokio::test]
async fn old_connections_use_new_certificates() {
    let app = answering().await;
    let mut pair = Pair::new(app, AppProtocol::Http1).await;
    let name = pair.client.clone();
    pair.near.edit(|state| {
        let known = &state.workloads[&name];
        let without = LocalWorkload {
            name: name.clone(),
            service: known.service.clone(),
            identity: known.identity.clone(),
            app_address: known.app_address,
            ports: Vec::new(),
            certificate: None,
            draining: false,
            in_process: None,
            outside: None,
        };
        state.workloads.insert(name.clone(), Arc::new(without));
    });
    let mut client = TcpStream::connect(pair.entry).await.unwrap();
    assert!(get(&mut client).await.starts_with("HTTP/1.1 503"), "it has no certificate yet");
    pair.near.run("client", &[], pair.ca.issue(&pair.ca.identity("client")));
    assert!(get(&mut client).await.starts_with("HTTP/1.1 200"));
}

/// One request on a connection that stays open, and its answer's head.
async fn get(client: &mut TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        // Answers of these tests have no empty line but the head's end, and end with it or a line after.
        while !answer.ends_with(b"\n") || !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "the connection was closed");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an answer comes");
    String::from_utf8(answer).unwrap()
}

/// An application that answers every HTTP/1.1 request.
async fn answering() -> SocketAddr {
    app(|mut stream| async move {
        let mut request = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut request).await {
            if request.ends_with(b"\r\n\r\n") {
                request.clear();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").await;
            }
        }
    })
    .await
}

/// A peer that is gone without a word, as when its host lost power.
#[tokio::test]
async fn a_dead_peer_is_found_within_ten_seconds() {
    let app = echo().await;
    let mut pair = Pair::new(app, AppProtocol::Tcp).await;
    let dead = Arc::new(AtomicBool::new(false));
    let relay = relay(pair.far.link, dead.clone()).await;
    let mut endpoint = pair.far.endpoint(&pair.server, app.port(), pair.ca.identity("server"));
    endpoint.node.as_mut().unwrap().link = relay;
    pair.near.know("server", AppProtocol::Tcp, vec![endpoint]);

    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut stream, b"alive").await;
    dead.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    stream.write_all(b"?").await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read(&mut [0; 10])).await;
    assert!(read.expect("the connection ends").is_err());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    pair.far.metric_reaches("tulle_links", &["side=\"server\""], 0.0).await;
    eventually(|| pair.far.proxy.in_flight(&pair.server) == 0).await;
}

/// Passes bytes; nothing while `dead`, in either direction, and no end either.
pub async fn relay(to: SocketAddr, dead: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            for (mut from, mut to) in [(near_read, far_write), (far_read, near_write)] {
                let dead = dead.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 16 << 10];
                    while let Ok(count @ 1..) = from.read(&mut buffer).await {
                        while dead.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        to.write_all(&buffer[..count]).await.unwrap();
                    }
                });
            }
        }
    });
    address
}

/// CVE-2023-44487: streams opened and reset at once, over and over, by a peer with a good certificate.
#[tokio::test]
async fn a_flood_of_resets_ends_its_own_link_only() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let mut good = TcpStream::connect(pair.entry).await.unwrap();
    expect_echo(&mut good, b"before").await;

    let connector = believer(Some(&pair.ca.issue(&pair.ca.identity("client"))));
    let tcp = TcpStream::connect(pair.far.link).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let name = ServerName::try_from("server.default.mesh.test").unwrap();
    let tls = connector.connect(name, tcp).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tls).await.unwrap();
    let ended = tokio::spawn(connection);
    let flood = async {
        loop {
            let request = http::Request::connect("127.0.0.1:1").body(()).unwrap();
            match client.send_request(request, false) {
                Ok((_, mut stream)) => stream.send_reset(h2::Reason::CANCEL),
                Err(_) => break,
            }
            client = match client.ready().await {
                Ok(client) => client,
                Err(_) => break,
            };
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), flood).await.expect("the flood is stopped");
    assert!(ended.await.unwrap().is_err());
    pair.far.metric_reaches("tulle_links_abused_total", &[], 1.0).await;
    eventually(|| logged(&["WARN", &address.to_string(), "link closed"])).await;
    expect_echo(&mut good, b"after").await;
    expect_echo(&mut TcpStream::connect(pair.entry).await.unwrap(), b"new").await;
}

/// A peer of another make changes its keys, and asks for new ones of ours (RFC 8446, section 4.6.3).
#[tokio::test]
async fn keys_change_while_a_link_is_in_use() {
    let pair = Pair::new(echo().await, AppProtocol::Tcp).await;
    let connector = believer(Some(&pair.ca.issue(&pair.ca.identity("client"))));
    let tcp = TcpStream::connect(pair.far.link).await.unwrap();
    let name = ServerName::try_from("server.default.mesh.test").unwrap();
    let mut tls = connector.connect(name, tcp).await.unwrap();
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for turn in 0..5u8 {
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[turn; 8]].concat();
        tls.write_all(&ping).await.unwrap();
        let answer = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &[turn; 8]].concat();
        let mut read = Vec::new();
        let answered = async {
            while !read.windows(answer.len()).any(|window| window == answer) {
                assert_ne!(tls.read_buf(&mut read).await.unwrap(), 0, "the link was closed");
            }
        };
        tokio::time::timeout(Duration::from_secs(10), answered).await.expect("an answer to a ping");
        tls.get_mut().1.refresh_traffic_keys().unwrap();
    }
}
