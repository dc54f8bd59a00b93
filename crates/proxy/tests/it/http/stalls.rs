//! Peers that begin something and do not go on with it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Bounds, Deadlines};

use super::apps::{self, app, exchange, read_head, read_to_end};
use super::mesh::{Path, WAYS, Way, bounded_path, eventually};

const DEADLINE: Duration = Duration::from_millis(400);

async fn impatient(way: Way, protocol: AppProtocol, app: std::net::SocketAddr) -> Path {
    let deadlines = Deadlines { head: DEADLINE, body: DEADLINE, write: DEADLINE };
    bounded_path(way, protocol, app, Bounds { deadlines, ..Bounds::default() }).await
}

fn stalls(path: &Path, side: &str, what: &str) -> u64 {
    let labels = [format!("side=\"{side}\""), format!("what=\"{what}\"")];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    [&path.near, &path.far].iter().map(|node| node.metric("tulle_stalls_total", &labels)).sum()
}

async fn begin(path: &Path, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(path.address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client
}

#[tokio::test]
async fn a_client_that_stops_in_a_head_or_body_is_told_so() {
    for (way, protocol) in WAYS.into_iter().flat_map(|w| [(w, AppProtocol::Http1), (w, AppProtocol::Http2)]) {
        let path = impatient(way, protocol, apps::serve(app).await).await;
        for (what, sent) in [
            ("head", "GET / HTTP/1.1\r\nhost: c\r\n"),
            ("body", "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 10\r\n\r\nabc"),
            ("body", "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\na\r\nabc"),
            ("body", "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1"),
            ("head", "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-a: b\r\n"),
        ] {
            let before = stalls(&path, "client", what);
            let mut client = begin(&path, sent.as_bytes()).await;
            let answer = read_to_end(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{way:?} {protocol:?} {sent}: {answer}");
            assert!(answer.contains("tulle-reason: request-timeout"), "{way:?} {what}: {answer}");
            assert_eq!(stalls(&path, "client", what) - before, 1, "{way:?} {protocol:?} {sent}");
        }
        assert_eq!(path.near.metric("tulle_retries_total", &[]), 0);
    }
}

#[tokio::test]
async fn an_application_that_stops_in_a_head_or_body_fails_its_request() {
    for way in WAYS {
        let app = apps::script(|mut io| async move {
            let head = read_head(&mut io).await;
            let answer = match head.contains("/head") {
                true => "HTTP/1.1 200 OK\r\nserver: a\r\n",
                false => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            };
            io.write_all(answer.as_bytes()).await.unwrap();
            let _ = io.read_u8().await;
        })
        .await;
        let path = impatient(way, AppProtocol::Http1, app).await;
        let answer =
            exchange(path.address, "GET /head HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{way:?}: {answer}");
        assert!(answer.contains("tulle-reason: timeout"), "{way:?}: {answer}");
        assert_eq!(stalls(&path, "application", "head"), 1, "{way:?}");
        let answer = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(answer.ends_with("abc"), "{way:?}: it broke: {answer}");
        assert_eq!(stalls(&path, "application", "body"), 1, "{way:?}");
    }
}

#[tokio::test]
async fn interim_answers_have_an_end() {
    for way in WAYS {
        let app = apps::script(|mut io| async move {
            read_head(&mut io).await;
            while io.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {}
        })
        .await;
        let path = impatient(way, AppProtocol::Http1, app).await;
        // Another attempt, which a GET may have, would bring the same.
        let answer = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(answer.contains("HTTP/1.1 504 "), "{way:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 103 ").count(), 32, "{way:?}");
        assert_eq!(stalls(&path, "application", "interim"), 1, "{way:?}");
    }
}

/// An application that knows of no expectations waits for as long as the client does.
#[tokio::test]
async fn a_client_that_holds_its_body_back_has_an_end() {
    for way in WAYS {
        let app = apps::script(|mut io| async move {
            read_head(&mut io).await;
            let _ = io.read(&mut [0]).await;
        })
        .await;
        let path = impatient(way, AppProtocol::Http1, app).await;
        let head = "POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        let answer = exchange(path.address, head).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{way:?}: {answer}");
    }
}

/// What has no length, and what is long in coming, only needs its connection.
#[tokio::test]
async fn what_takes_its_time_is_left_alone() {
    for way in WAYS {
        let app = apps::script(|mut io| async move {
            read_head(&mut io).await;
            sleep(3 * DEADLINE).await;
            io.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
            sleep(3 * DEADLINE).await;
            io.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
        })
        .await;
        let path = impatient(way, AppProtocol::Http1, app).await;
        let answer = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("b\r\n0\r\n"), "{way:?}: {answer}");
        assert_eq!(path.near.metric("tulle_stalls_total", &[]), 0, "{way:?}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    for way in WAYS {
        let app = apps::script(|mut io| async move {
            read_head(&mut io).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            while io.write_all(&[0; 64 << 10]).await.is_ok() {}
        })
        .await;
        let path = impatient(way, AppProtocol::Http1, app).await;
        let _client = begin(&path, b"GET / HTTP/1.1\r\nhost: c\r\n\r\n").await;
        eventually(|| (stalls(&path, "client", "write") == 1).then_some(())).await;
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn a_header_block_of_http2_is_finished_or_its_connection_ends() {
    let path = impatient(Way::SameNode, AppProtocol::Detect, apps::serve(app).await).await;
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    // Without END_HEADERS.
    sent.extend(frame(1, 0, 1, &[0x82, 0x86, 0x84]));
    let mut client = begin(&path, &sent).await;
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "it is still open");
    assert_eq!(stalls(&path, "client", "head"), 1);
}

#[tokio::test]
async fn a_body_of_http2_goes_on_or_is_answered() {
    for way in WAYS {
        let path = impatient(way, AppProtocol::Http2, apps::serve(app).await).await;
        let stream = TcpStream::connect(path.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let post = http::Request::post("http://c/").header("content-length", "10").body(()).unwrap();
        let (answer, mut body) = client.send_request(post, false).unwrap();
        body.send_data(bytes::Bytes::from_static(b"abc"), false).unwrap();
        let answer = timeout(Duration::from_secs(10), answer).await.expect("it is answered").unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["tulle-reason"]),
            (408, &"request-timeout".parse().unwrap())
        );
        assert_eq!(stalls(&path, "client", "body"), 1, "{way:?}");
    }
}
