//! Interim answers (RFC 9110, section 15.2), and the fields that a status needs.

use std::future::poll_fn;
use std::time::Duration;

use http::{Request, Response};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::super::apps::{exchange, get, read_head, read_to_end, script};
use super::super::doors::{END_STREAM, HELLO, block, frame, literal};
use super::super::mesh::{Authority, Node, WAYS, Way, identity, path};
use super::{App, Asked, Respond, SOON, connect};
use crate::believer::believer;

/// Interim answers, each with fields of its own.
const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\nconnection: x-gone\r\nx-gone: 1\r\ntulle-reason: x\r\n\r\n\
    HTTP/1.1 199 Other\r\nx: y\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An application of each version that says all of that.
async fn apps() -> [(AppProtocol, std::net::SocketAddr); 2] {
    let old = script(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            stream.write_all(INTERIM.as_bytes()).await.unwrap();
            // What comes alone is passed on alone.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.write_all(ANSWER.as_bytes()).await.unwrap();
        }
    })
    .await;
    let new = App::start(|_: Asked, mut respond: Respond| async move {
        for (status, fields) in [
            (102, &[][..]),
            (103, &[("link", "</a>"), ("link", "</b>"), ("tulle-reason", "x")]),
            (199, &[("x", "y")]),
        ] {
            let mut interim = Response::builder().status(status);
            for (name, value) in fields {
                interim = interim.header(*name, *value);
            }
            respond.send_informational(interim.body(()).unwrap()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data("ok".into(), true).unwrap();
    })
    .await;
    [(AppProtocol::Http1, old), (AppProtocol::Http2, new.address)]
}

#[tokio::test]
async fn interim_answers_are_passed_on_as_they_come() {
    for way in WAYS {
        for (protocol, app) in apps().await {
            let path = path(way, protocol, app).await;
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            for _ in 0..2 {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
                let mut heads = Vec::new();
                for _ in 0..4 {
                    heads.push(timeout(SOON, read_head(&mut stream)).await.unwrap().to_lowercase());
                }
                assert_eq!(heads[0], "http/1.1 102 processing\r\n\r\n", "{way:?} {protocol:?}");
                let hints = "http/1.1 103 early hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n";
                assert_eq!(heads[1], hints, "{way:?} {protocol:?}");
                assert!(
                    heads[2].starts_with("http/1.1 199 ") && heads[2].ends_with("\r\nx: y\r\n\r\n"),
                    "{heads:?}"
                );
                assert!(heads[3].starts_with("http/1.1 200 "), "{way:?} {protocol:?}: {heads:?}");
                let mut body = vec![0; if heads[3].contains("chunked") { 12 } else { 2 }];
                stream.read_exact(&mut body).await.unwrap();
            }
            // HTTP/1.0 has none (RFC 9110, section 15.2).
            let got = exchange(path.address, "GET / HTTP/1.0\r\nhost: c\r\n\r\n").await;
            assert!(got.starts_with("HTTP/1.0 200 ") && !got.contains("103"), "{way:?} {protocol:?}: {got}");
            let mut client = connect(path.address).await;
            let request = Request::get("http://c/").body(()).unwrap();
            let (mut response, _) = client.send_request(request, true).unwrap();
            let mut seen = Vec::new();
            while let Some(Ok(interim)) =
                timeout(SOON, poll_fn(|cx| response.poll_informational(cx))).await.unwrap()
            {
                let links = interim.headers().get_all("link").iter().count();
                seen.push((interim.status().as_u16(), interim.headers().len(), links));
            }
            assert_eq!(seen, [(102, 0, 0), (103, 2, 2), (199, 1, 0)], "{way:?} {protocol:?}");
            assert_eq!(response.await.unwrap().status(), 200, "{way:?} {protocol:?}");
        }
    }
}

#[tokio::test]
async fn interim_answers_are_bounded_in_number_and_size() {
    for way in WAYS {
        for (count, size, passes) in [(32, 10, true), (33, 10, false), (8, 7000, true), (12, 7000, false)] {
            let app = script(move |mut stream| async move {
                read_head(&mut stream).await;
                for _ in 0..count {
                    let interim = format!("HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n", "y".repeat(size));
                    let _ = stream.write_all(interim.as_bytes()).await;
                }
                let _ = stream.write_all(ANSWER.as_bytes()).await;
                let _ = stream.read(&mut [0]).await;
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let got = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
            let last = if passes { "HTTP/1.1 200 " } else { "HTTP/1.1 504 " };
            assert!(got.contains(last), "{way:?} {count} of {size}: {}", &got[got.len() - 400..]);
            let passed = got.matches("HTTP/1.1 103 ").count();
            assert!(passed <= 32 && passed * size <= 64 << 10, "{way:?} {count} of {size}: {passed}");
            assert!(!passes || passed == count, "{way:?} {count} of {size}: {passed}");
        }
    }
}

/// A client of HTTP/2, or a peer, that takes nothing for a while has not asked for them: all go to it in the end.
#[tokio::test]
async fn many_interim_answers_wait_for_one_that_pauses() {
    const EACH: usize = 28;
    const REQUESTS: u32 = 100;
    for way in [Way::SameNode, Way::Link] {
        let app = script(|mut stream| async move {
            let mut number = 0u64;
            while !read_head(&mut stream).await.is_empty() {
                for _ in 0..EACH {
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let hint = format!(
                        "HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n",
                        format!("{number:020}").repeat(100)
                    );
                    let _ = stream.write_all(hint.as_bytes()).await;
                }
                let _ = stream.write_all(ANSWER.as_bytes()).await;
            }
        })
        .await;
        let authority = Authority::new();
        let mut node = Node::start("near", &authority).await;
        let endpoint = node.add_workload(&authority, "c-0", &[app.port()]);
        node.add_service("c", AppProtocol::Http1, vec![endpoint]);
        let address = if way == Way::Link { node.link } else { node.listen("c").await };
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let tcp = socket.connect(address).await.unwrap();
        if way == Way::Link {
            let connector = believer(Some(&authority.certificate(&identity("a"))));
            let name = ServerName::try_from("c.default.mesh.test").unwrap();
            pause(connector.connect(name, tcp).await.unwrap(), app.port()).await;
            assert_eq!(node.metric("tulle_links_abused_total", &[]), 0);
        } else {
            pause(tcp, app.port()).await;
            assert_eq!(node.metric("tulle_abusive_clients_total", &[]), 0);
        }
    }

    /// Sends its requests without a look at what comes, and then reads all of it.
    async fn pause(mut stream: impl AsyncRead + AsyncWrite + Unpin, port: u16) {
        let mut fields = Vec::new();
        for (name, value) in [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "c"),
            ("tulle-workload", "default/c-0"),
            ("tulle-port", &port.to_string()),
            ("tulle-app-version", "1"),
        ] {
            literal(&mut fields, name.as_bytes(), value.as_bytes());
        }
        stream.write_all(HELLO).await.unwrap();
        for number in 0..REQUESTS {
            let mut request = Vec::new();
            block(&mut request, 2 * number + 1, true, &fields);
            stream.write_all(&request).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (mut heads, mut over) = (vec![0; REQUESTS as usize], 0);
        let reading = async {
            while over < REQUESTS {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                stream.read_exact(&mut payload).await.unwrap();
                let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                match head[3] {
                    1 => heads[(id / 2) as usize] += 1,
                    3 | 7 => panic!("stream {id} or all of it ended: {head:?} {payload:?}"),
                    6 if head[4] == 0 => {
                        let mut pong = Vec::new();
                        frame(&mut pong, 6, 1, 0, &payload);
                        stream.write_all(&pong).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                    _ => {}
                }
                over += u32::from(head[3] <= 1 && head[4] & END_STREAM != 0);
            }
        };
        timeout(Duration::from_secs(60), reading).await.expect("all is answered");
        assert!(heads.iter().all(|count| *count == EACH + 1), "{heads:?}");
    }
}

/// The application takes its time over whether it wants a body.
#[tokio::test]
async fn only_the_application_says_continue() {
    for way in WAYS {
        for (said, wants) in
            [("HTTP/1.1 100 Continue\r\n\r\n", true), ("HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n", false)]
        {
            let app = script(move |mut stream| async move {
                let head = read_head(&mut stream).await;
                assert!(head.contains("expect: 100-continue"), "{head}");
                let early = timeout(Duration::from_millis(1500), stream.read_u8()).await;
                assert!(early.is_err(), "{early:?}");
                stream.write_all(said.as_bytes()).await.unwrap();
                if wants {
                    let mut body = [0; 5];
                    stream.read_exact(&mut body).await.unwrap();
                    assert_eq!(&body, b"hello");
                    stream.write_all(ANSWER.as_bytes()).await.unwrap();
                }
                let _ = stream.read(&mut [0]).await;
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            let head = "POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut first = [0; 1];
            let early = timeout(Duration::from_millis(1300), stream.peek(&mut first)).await;
            assert!(early.is_err(), "{way:?}: the mesh answered {early:?}");
            let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
            if wants {
                assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n", "{way:?}");
                stream.write_all(b"hello").await.unwrap();
                assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "), "{way:?}");
            } else {
                assert!(
                    answer.starts_with("HTTP/1.1 417 ") && answer.contains("connection: close"),
                    "{way:?}: {answer}"
                );
                assert_eq!(read_to_end(&mut stream).await, "", "{way:?}");
            }
            // An HTTP/2 client hears of it, too.
            let mut client = connect(path.address).await;
            let request =
                Request::post("http://c/").header("content-length", "5").header("expect", "100-continue");
            let request = request.body(()).unwrap();
            let (mut response, mut body) = client.send_request(request, false).unwrap();
            if wants {
                let interim = timeout(SOON, poll_fn(|cx| response.poll_informational(cx))).await.unwrap();
                assert_eq!(interim.unwrap().unwrap().status(), 100, "{way:?}");
                body.send_data("hello".into(), true).unwrap();
            }
            assert_eq!(
                timeout(SOON, response).await.unwrap().unwrap().status(),
                if wants { 200 } else { 417 },
                "{way:?}"
            );
        }
    }
}

/// Most clients wait for a second or so, and many applications know of no expectations.
#[tokio::test]
async fn a_client_that_stops_waiting_is_read() {
    for way in WAYS {
        let app = script(|mut stream| async move {
            read_head(&mut stream).await;
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(ANSWER.as_bytes()).await.unwrap();
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        for _ in 0..2 {
            let head = "POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            stream.write_all(b"hello").await.unwrap();
            let answer = timeout(SOON, read_head(&mut stream)).await.unwrap_or_else(|_| panic!("{way:?}"));
            assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("close"), "{way:?}: {answer}");
            stream.read_exact(&mut [0; 2]).await.unwrap();
        }
    }
}

/// An answer to a client that was never asked for its body passes to its end.
#[tokio::test]
async fn a_long_answer_without_the_body_is_whole() {
    for way in WAYS {
        let app = script(|mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 300000\r\n\r\n").await.unwrap();
            for _ in 0..30 {
                stream.write_all(&[b'x'; 10_000]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let head = "POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        let got = exchange(path.address, head).await;
        assert!(got.starts_with("HTTP/1.1 403 ") && got.ends_with(&"x".repeat(300_000)), "{way:?}");
    }
}

/// RFC 9110, sections 11.6.1, 11.7.1, 15.5.6, 15.5.22 and others.
#[tokio::test]
async fn fields_that_a_status_needs_are_passed_on() {
    for way in WAYS {
        for (status, field) in [
            (426, "upgrade: websocket, x/1"),
            (401, "www-authenticate: Basic realm=\"x\""),
            (407, "proxy-authenticate: Basic"),
            (405, "allow: GET"),
            (416, "content-range: bytes */5"),
            (302, "location: /y"),
            (503, "retry-after: 5"),
        ] {
            let (name, value) = field.split_once(": ").unwrap();
            let app = script(move |mut stream| async move {
                while !read_head(&mut stream).await.is_empty() {
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\n{field}\r\nconnection: {name}, x-gone\r\nx-gone: 1\r\ncontent-length: 0\r\n\r\n"
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let got = get(path.address, "/").await;
            assert_eq!(got.status, status, "{way:?}");
            assert_eq!(got.headers[name], value, "{way:?}");
            assert!(!got.headers.contains_key("x-gone"), "{way:?} {field}");
            assert!(!got.headers.keys().any(|name| name.as_str().starts_with("tulle-")), "{:?}", got.headers);
            if status == 426 {
                assert_eq!(got.headers["connection"], "upgrade", "{way:?}");
            }
            let request = Request::get("http://c/").body(()).unwrap();
            let (response, _) = connect(path.address).await.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), status, "{way:?}");
            // In HTTP/2 there is none (RFC 9113, section 8.2.2).
            assert_eq!(response.headers().contains_key(name), status != 426, "{way:?} {field}");
            assert!(!response.headers().keys().any(|name| name.as_str().starts_with("tulle-")));
        }
        // It is of the connection for any other status.
        let app = script(|mut stream| async move {
            read_head(&mut stream).await;
            let answer = "HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: upgrade, x\r\nx: y\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let got = get(path(way, AppProtocol::Http1, app).await.address, "/").await;
        assert!(!got.headers.contains_key("upgrade") && !got.headers.contains_key("x"), "{way:?}");
    }
}
