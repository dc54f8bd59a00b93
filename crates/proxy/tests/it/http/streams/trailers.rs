//! Trailers that may not be: the field goes, the message stays (RFC 9110, section 6.5.1).

use http::{HeaderMap, HeaderName, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::super::apps::{exchange, read_head, script};
use super::super::mesh::{WAYS, path};
use super::{End, SOON, block, connect, frame, says, see};

/// About framing, routing, the connection, who asks, how it is to be understood or acted upon; and the mesh's own.
const FORBIDDEN: [&str; 35] = [
    "age: 1",
    "authorization: Basic eA==",
    "cache-control: no-store",
    "connection: close",
    "connection: x-named",
    "content-encoding: gzip",
    "content-length: 5",
    "content-range: bytes 0-1/2",
    "content-type: text/html",
    "cookie: a=b",
    "expect: 100-continue",
    "expires: 0",
    "host: evil",
    "http2-settings: AAMAAABk",
    "if-match: x",
    "if-none-match: x",
    "keep-alive: timeout=5",
    "location: /x",
    "max-forwards: 1",
    "pragma: no-cache",
    "proxy-authenticate: Basic",
    "proxy-authorization: Basic eA==",
    "proxy-connection: keep-alive",
    "range: bytes=0-1",
    "retry-after: 1",
    "set-cookie: a=b",
    "te: gzip",
    "te: trailers",
    "trailer: x-sum",
    "transfer-encoding: chunked",
    "tulle-reason: x",
    "upgrade: h2c",
    "vary: *",
    "www-authenticate: Basic",
    "if-range: x",
];

fn is_sum(trailers: &HeaderMap) -> bool {
    trailers.len() == 1 && trailers["x-sum"] == "42"
}

/// An application of HTTP/2 that answers with these trailers.
async fn answers_with(field: &str) -> std::net::SocketAddr {
    let head = frame(1, 4, &block(&[(":status", "200")]));
    let trailers = frame(1, 5, &block(&[field.split_once(": ").unwrap(), ("x-sum", "42")]));
    says([head, frame(0, 0, b"data"), trailers].concat()).await
}

#[tokio::test]
async fn answers_keep_their_body_and_lose_the_field() {
    for way in WAYS {
        for field in FORBIDDEN {
            let old = script(move |mut stream| async move {
                while !read_head(&mut stream).await.is_empty() {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n";
                    let answer = format!("{head}0\r\n{field}\r\nx-sum: 42\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            })
            .await;
            for (protocol, app) in
                [(AppProtocol::Http1, old), (AppProtocol::Http2, answers_with(field).await)]
            {
                let path = path(way, protocol, app).await;
                let request = || Request::get("http://c/").header("te", "trailers").body(()).unwrap();
                let (response, _) = connect(path.address).await.send_request(request(), true).unwrap();
                let seen = see(response, || {}).await;
                assert_eq!(
                    (seen.status, seen.data.as_str()),
                    (Some(200), "data"),
                    "{way:?} {field} {protocol:?}"
                );
                let End::Trailers(trailers) = &seen.end else { panic!("{way:?} {field}: {seen:?}") };
                assert!(is_sum(trailers), "{way:?} {field}: {trailers:?}");
                if protocol == AppProtocol::Http2 {
                    continue;
                }
                let text = "GET / HTTP/1.1\r\nhost: c\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
                let got = exchange(path.address, text).await;
                assert!(
                    got.contains("data") && got.ends_with("\r\n0\r\nx-sum: 42\r\n\r\n"),
                    "{way:?} {field}: {got}"
                );
            }
        }
    }
}

#[tokio::test]
async fn requests_keep_their_body_and_lose_the_field() {
    for way in WAYS {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let app = script(move |mut stream| {
            let sender = sender.clone();
            async move {
                read_head(&mut stream).await;
                let mut body = Vec::new();
                while !body.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut body).await.unwrap(), 0);
                }
                let _ = sender.send(String::from_utf8(body).unwrap());
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                    .await
                    .unwrap();
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        for field in FORBIDDEN {
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            let head = "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            // A body that is there as a whole goes on with a length.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            stream.write_all(format!("0\r\n{field}\r\nx-sum: 42\r\n\r\n").as_bytes()).await.unwrap();
            assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "), "{way:?} {field}");
            let body = timeout(SOON, seen.recv()).await.unwrap().unwrap();
            assert_eq!(body, "4\r\ndata\r\n0\r\nx-sum: 42\r\n\r\n", "{way:?} {field}");
        }
        // What a library of HTTP/2 lets through.
        let mut client = connect(path.address).await;
        for field in FORBIDDEN {
            let (name, value) = field.split_once(": ").unwrap();
            let of_connection =
                ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
            if of_connection.contains(&name) || value == "gzip" {
                continue;
            }
            let (response, mut body) =
                client.send_request(Request::post("http://c/").body(()).unwrap(), false).unwrap();
            body.send_data("data".into(), false).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let mut trailers = HeaderMap::new();
            trailers.insert(HeaderName::from_static(name), value.parse().unwrap());
            trailers.insert("x-sum", "42".parse().unwrap());
            body.send_trailers(trailers).unwrap();
            assert_eq!(response.await.unwrap().status(), 200, "{way:?} {field}");
            let body = timeout(SOON, seen.recv()).await.unwrap().unwrap();
            assert_eq!(body, "4\r\ndata\r\n0\r\nx-sum: 42\r\n\r\n", "{way:?} {field}");
        }
    }
}
