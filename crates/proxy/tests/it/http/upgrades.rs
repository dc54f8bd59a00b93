//! What leaves HTTP.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, TestBody, full, read_head, read_to_end};
use super::mesh::{WAYS, path};

/// Takes every upgrade to `echo`, and says goodbye when the client has closed its side.
async fn echo(mut request: Request<Incoming>) -> Response<TestBody> {
    if request.headers().get("upgrade").is_none() {
        return Response::builder().status(426).body(full("upgrade!")).unwrap();
    }
    let protocol = request.headers()["upgrade"].clone();
    let key = request.headers().get("sec-websocket-key").cloned();
    tokio::spawn(async move {
        let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
        // The server speaks first, in the same packet as its 101 as often as not.
        io.write_all(b"welcome ").await.unwrap();
        let mut buffer = [0; 1024];
        loop {
            match io.read(&mut buffer).await.unwrap() {
                0 => break,
                n => io.write_all(&buffer[..n]).await.unwrap(),
            }
        }
        io.write_all(b" bye").await.unwrap();
        io.shutdown().await.unwrap();
    });
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", protocol);
    if let Some(key) = key {
        response = response.header("sec-websocket-accept", key);
    }
    response.body(full("")).unwrap()
}

#[tokio::test]
async fn websockets_and_others_pass_with_half_close() {
    for way in WAYS {
        for protocol in ["websocket", "my-protocol/1"] {
            let path = path(way, AppProtocol::Detect, apps::serve(echo).await).await;
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            let head = format!(
                "GET /chat HTTP/1.1\r\nhost: c\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\
                 sec-websocket-key: abc\r\nsec-websocket-version: 13\r\n\r\nearly "
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = read_head(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{way:?}: {answer}");
            assert!(answer.contains(&format!("upgrade: {protocol}")), "{way:?}: {answer}");
            assert!(answer.contains("connection: upgrade"), "{way:?}: {answer}");
            assert!(answer.contains("sec-websocket-accept: abc"), "{way:?}: {answer}");
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut stream).await, "welcome early hello bye", "{way:?}");
            let edge = path.near.edge_with("c", 1).await;
            assert_eq!(edge.failures, 0, "{way:?}");
            assert_eq!((edge.bytes_sent, edge.bytes_received), (11, 23), "{way:?}");
        }
    }
}

/// In HTTP of another version requests would pass unseen. And nobody goes on in what was not asked for.
#[tokio::test]
async fn what_is_switched_to_was_asked_for_and_is_no_http() {
    for way in WAYS {
        let app = apps::script(|mut stream| async move {
            let head = read_head(&mut stream).await;
            let wanted: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("upgrade: ")).collect();
            let to = head.split(['/', ' ']).nth(2).unwrap();
            let status = if wanted.is_empty() { "200 OK" } else { "101 Switching Protocols" };
            let answer = format!(
                "HTTP/1.1 {status}\r\nconnection: upgrade\r\nupgrade: {to}\r\nx-wanted: {}\r\n\r\n",
                wanted.join("|")
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        for (to, wanted, status, passed) in [
            ("websocket", &["h2c", "websocket"][..], "101", "websocket"),
            ("foo", &["H2C , foo", "websocket"], "101", "foo, websocket"),
            ("h2c", &["h2c"], "200", ""),
            ("h2c", &["websocket"], "502", ""),
        ] {
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            let lines: String = wanted.iter().map(|wanted| format!("upgrade: {wanted}\r\n")).collect();
            let head = format!("GET /{to} HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\n{lines}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = read_head(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{way:?} {wanted:?}: {answer}");
            let seen = answer.lines().find_map(|line| line.strip_prefix("x-wanted: ")).unwrap_or_default();
            assert_eq!(seen, passed, "{way:?} {wanted:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_others() {
    for way in WAYS {
        let app = apps::serve(apps::app).await;
        let path = path(way, AppProtocol::Detect, app).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let head = "GET /500 HTTP/1.1\r\nhost: c\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 500 "), "{way:?}");
        let mut body = [0; 6];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"broken");
        // The client's connection goes on.
        stream.write_all(b"GET /sized HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(read_to_end(&mut stream).await.ends_with("sized"), "{way:?}");
    }
}

#[tokio::test]
async fn a_websocket_over_http2_becomes_one_over_http1() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, apps::serve(echo).await).await;
        let stream = TcpStream::connect(path.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let waited = async {
            while !client.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waited).await.unwrap();
        let mut request = Request::connect("http://c/chat").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, mut send) = client.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{way:?}: {response:?}");
        send.send_data("hello".into(), true).unwrap();
        let mut body = response.into_body();
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            received.extend_from_slice(&data.unwrap());
        }
        assert_eq!(String::from_utf8(received).unwrap(), "welcome hello bye", "{way:?}");
    }
}

/// An answer that opens a tunnel has no length (RFC 9110, section 9.3.6), whatever the application says of one.
#[tokio::test]
async fn a_tunnel_has_no_length() {
    for way in WAYS {
        let app = apps::script(|mut stream| async move {
            assert!(read_head(&mut stream).await.starts_with("CONNECT c:80 HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhello").await.unwrap();
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        stream.write_all(b"CONNECT c:80 HTTP/1.1\r\nhost: c:80\r\n\r\n").await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("content-length"), "{way:?}: {head}");
        assert_eq!(read_to_end(&mut stream).await, "hello", "{way:?}");

        let stream = TcpStream::connect(path.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::connect("c:80").body(()).unwrap();
        let (response, _send) = client.ready().await.unwrap().send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status(), response.headers().get("content-length")), (StatusCode::OK, None));
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello", "{way:?}");
    }
}
