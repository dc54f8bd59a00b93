//! HTTP/1 byte by byte, on every way between two workloads: what peers send that libraries do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, app, exchange, get, read_head, read_to_end, script};
use super::doors;
use super::mesh::{WAYS, Way, path};

const SOON: Duration = Duration::from_secs(10);

/// An application that answers the first request of each connection with these bytes, and closes it.
async fn says(answer: &'static str) -> std::net::SocketAddr {
    script(move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn many_pipelined_requests_are_answered_in_order() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        let mut text = String::new();
        for n in 0..300 {
            let body = format!("request {n};");
            match n % 3 {
                0 => text += &format!("GET /p{n} HTTP/1.1\r\nhost: c\r\n\r\n"),
                1 => {
                    let length = body.len();
                    text +=
                        &format!("POST /echo HTTP/1.1\r\nhost: c\r\ncontent-length: {length}\r\n\r\n{body}");
                }
                _ => {
                    let size = body.len();
                    text += "POST /echo HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n";
                    text += &format!("{size:x};ext=1\r\n{body}\r\n0\r\n\r\n");
                }
            }
        }
        text += "GET /last HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n";
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let send = async {
            // Pieces that end anywhere.
            for piece in text.as_bytes().chunks(997) {
                write.write_all(piece).await.unwrap();
            }
        };
        let mut answer = String::new();
        let (_, read) = tokio::join!(send, timeout(SOON, read.read_to_string(&mut answer)));
        read.unwrap_or_else(|_| panic!("{way:?}")).unwrap();
        let mut rest = answer.as_str();
        for n in 0..300 {
            let mark = if n % 3 == 0 { format!("GET /p{n} ") } else { format!("request {n};") };
            let at = rest.find(&mark).unwrap_or_else(|| panic!("{way:?}: no {mark}"));
            rest = &rest[at + mark.len()..];
        }
        assert!(rest.contains("GET /last"), "{way:?}");
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 301, "{way:?}");
    }
}

/// RFC 9112, section 6.3, rule 8: such a body is as long as the connection.
#[tokio::test]
async fn answers_that_end_with_their_connection_are_passed_on() {
    for way in WAYS {
        for answer in ["HTTP/1.1 200 OK\r\nx: y\r\n\r\nuntil the end", "HTTP/1.0 200 OK\r\n\r\nuntil the end"]
        {
            let path = path(way, AppProtocol::Http1, says(answer).await).await;
            for _ in 0..3 {
                let answer = get(path.address, "/").await;
                assert_eq!((answer.status, answer.body.as_str()), (200, "until the end"), "{way:?}");
            }
            let old = exchange(path.address, "GET / HTTP/1.0\r\n\r\n").await;
            assert!(
                old.starts_with("HTTP/1.0 200 OK\r\n") && old.ends_with("\r\n\r\nuntil the end"),
                "{old}"
            );
            assert_eq!(path.near.edge_with("c", 4).await.failures, 0, "{way:?}");
        }
    }
}

/// An application of HTTP/1.0 keeps connections only where it says so.
#[tokio::test]
async fn old_applications_are_understood() {
    for keeps in [true, false] {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let app = script(move |mut stream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let kept = if keeps { "connection: keep-alive\r\n" } else { "" };
                let answer = format!("HTTP/1.0 200 OK\r\n{kept}content-length: 2\r\n\r\nok");
                while !read_head(&mut stream).await.is_empty() {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let path = path(Way::SameNode, AppProtocol::Http1, app).await;
        for _ in 0..10 {
            assert_eq!(get(path.address, "/").await.body, "ok");
        }
        let opened = connections.load(Ordering::Relaxed);
        assert!(if keeps { opened <= 2 } else { opened == 10 }, "{keeps}: {opened}");
    }
}

#[tokio::test]
async fn chunks_trailers_and_extensions() {
    for way in WAYS {
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                      3;a=\"b\"\r\none\r\n003\r\ntwo\r\n0\r\nx-sum: 1\r\nhost: evil\r\n\r\n";
        let path = path(way, AppProtocol::Http1, says(answer).await).await;
        let wanted =
            exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nte: trailers\r\nconnection: close\r\n\r\n")
                .await;
        assert!(wanted.contains("one") && wanted.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{way:?}: {wanted}");
        assert!(!wanted.contains("evil") && !wanted.contains("a="), "{way:?}: {wanted}");
        let unwanted = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(unwanted.contains("two") && !unwanted.contains("x-sum"), "{way:?}: {unwanted}");
        assert!(unwanted.ends_with("0\r\n\r\n"), "{way:?}: {unwanted}");
    }
}

#[tokio::test]
async fn malformed_answers_are_not_passed_on() {
    for way in WAYS {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: y",
            "HTTP/1.1 103 Early Hints\r\n\r\n",
            "H",
            "SSH-2.0-OpenSSH_9.9\r\n",
        ] {
            // On a new connection, and on one that has carried requests.
            for first in [false, true] {
                let asked = Arc::new(AtomicUsize::new(0));
                let counted = asked.clone();
                let app = script(move |mut stream| {
                    let asked = counted.clone();
                    async move {
                        while !read_head(&mut stream).await.is_empty() {
                            if first && asked.fetch_add(1, Ordering::Relaxed) == 0 {
                                let fine = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                                stream.write_all(fine).await.unwrap();
                                continue;
                            }
                            asked.fetch_add(usize::from(!first), Ordering::Relaxed);
                            stream.write_all(answer.as_bytes()).await.unwrap();
                            return;
                        }
                    }
                })
                .await;
                let path = path(way, AppProtocol::Http1, app).await;
                if first {
                    assert_eq!(get(path.address, "/").await.status, 200, "{way:?}");
                }
                let request = "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n";
                let got = exchange(path.address, request).await;
                assert!(
                    got.contains("HTTP/1.1 502 ") && got.contains("bad-answer"),
                    "{way:?} {answer}: {got}"
                );
                // Whoever answers has had the request (RFC 9110, section 9.2.2).
                assert_eq!(asked.load(Ordering::Relaxed), 1 + usize::from(first), "{way:?} {answer}");
                assert_eq!(path.near.metric("tulle_retries_total", &[]), 0, "{way:?} {answer}");
            }
        }
        let path = path(
            way,
            AppProtocol::Http1,
            says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n").await,
        )
        .await;
        let got = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(!got.contains("0\r\n\r\n"), "{way:?}: it looks whole: {got}");
    }
}

/// The same in HTTP/2: its stream is reset, and it is not asked again.
#[tokio::test]
async fn malformed_answers_of_http2_are_not_asked_for_again() {
    for way in WAYS {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let app = script(move |mut stream| {
            let asked = counted.clone();
            async move {
                let mut settings = Vec::new();
                doors::frame(&mut settings, 4, 0, 0, &[]);
                stream.write_all(&settings).await.unwrap();
                stream.read_exact(&mut [0; 24]).await.unwrap();
                let mut head = [0; 9];
                while stream.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    stream.read_exact(&mut vec![0; length]).await.unwrap();
                    if head[3] != 1 {
                        continue;
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    let (mut fields, mut answer) = (Vec::new(), Vec::new());
                    doors::literal(&mut fields, b":status", b"200");
                    doors::literal(&mut fields, b"Upper", b"x");
                    let stream_id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    doors::block(&mut answer, stream_id, true, &fields);
                    stream.write_all(&answer).await.unwrap();
                }
            }
        })
        .await;
        let path = path(way, AppProtocol::Http2, app).await;
        let got = exchange(path.address, "GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("bad-answer"), "{way:?}: {got}");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "{way:?}");
    }
}

/// Bytes after an answer belong to no request: the connection is not used again.
#[tokio::test]
async fn what_follows_an_answer_is_no_other_answer() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let app = script(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
                let _ = stream.write_all(answer).await;
            }
        }
    })
    .await;
    let path = path(Way::SameNode, AppProtocol::Http1, app).await;
    for _ in 0..10 {
        assert_eq!(get(path.address, "/").await.body, "ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn a_request_that_is_not_understood_is_answered() {
    let path = path(Way::SameNode, AppProtocol::Http1, apps::serve(app).await).await;
    for (text, status) in [
        ("GET / HTTP/1.1\r\nhost : c\r\n\r\n".to_owned(), "400 Bad Request"),
        ("GET / HTTP/3.0\r\nhost: c\r\n\r\n".to_owned(), "400 Bad Request"),
        (format!("GET / HTTP/1.1\r\nhost: c\r\nx: {}\r\n\r\n", "y".repeat(70_000)), "431 "),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(300)), "431 "),
        // Of two requests, the first is served.
        (
            "GET /sized HTTP/1.1\r\nhost: c\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(),
            "200 OK",
        ),
    ] {
        let answer = exchange(path.address, &text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        let reason = if status == "431 " { "headers-too-large" } else { "bad-request" };
        assert!(
            answer.contains(&format!("tulle-reason: {reason}")) && answer.contains("connection: close"),
            "{answer}"
        );
    }
}

/// A chunk that is none ends the request at the application, too.
#[tokio::test]
async fn a_body_that_breaks_reaches_nobody_as_whole() {
    for way in WAYS {
        let (sender, mut seen) = mpsc::channel(8);
        let app = script(move |mut stream| {
            let sender = sender.clone();
            async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"hello\r\n") && stream.read_buf(&mut bytes).await.unwrap() > 0 {}
                let _ = sender.send(String::new()).await;
                let _ = stream.read_to_end(&mut bytes).await;
                let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned()).await;
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let head = "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // So that what comes before it has arrived: a link drops what it has not sent yet.
        timeout(SOON, seen.recv()).await.unwrap().unwrap();
        stream.write_all(b"oops\r\n").await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{way:?}: {answer}");
        let seen = timeout(SOON, seen.recv()).await.unwrap().unwrap();
        assert!(!seen.contains("\r\n0\r\n"), "{way:?}: {seen}");
    }
}

/// An answer that does not wait for the end of the request.
#[tokio::test]
async fn an_early_answer_passes_while_the_client_still_sends() {
    for way in WAYS {
        let app = script(|mut stream| async move {
            read_head(&mut stream).await;
            let answer =
                b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge";
            stream.write_all(answer).await.unwrap();
            // It reads on for a while, as RFC 9112, section 9.6 wants it.
            let mut skipped = vec![0; 64 << 10];
            let skip = async { while stream.read(&mut skipped).await.is_ok_and(|count| count > 0) {} };
            let _ = timeout(Duration::from_millis(300), skip).await;
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 100000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let send = async {
            let piece = vec![b'x'; 64 << 10];
            while write.write_all(&piece).await.is_ok() {}
            // What came before the end can still be read.
            std::future::pending::<()>().await;
        };
        let receive = async {
            let mut answer = Vec::new();
            while !answer.ends_with(b"large") {
                let read = read.read_buf(&mut answer).await;
                let text = String::from_utf8_lossy(&answer);
                assert!(read.as_ref().is_ok_and(|count| *count > 0), "{way:?}: {read:?} after {text}");
            }
            String::from_utf8(answer).unwrap()
        };
        let answer = timeout(SOON, async {
            tokio::select! { answer = receive => answer, () = send => unreachable!() }
        })
        .await
        .unwrap_or_else(|_| panic!("{way:?}"));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{way:?}: {answer}");
    }
}

/// The application begins its answer with the first part of the request, and goes on to its end.
#[tokio::test]
async fn both_directions_pass_at_once() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let size = 4 << 20;
        let head =
            format!("POST /echo HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
        let (mut read, mut write) = stream.split();
        let send = async {
            write.write_all(head.as_bytes()).await.unwrap();
            let piece: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
            for _ in 0..size / piece.len() {
                write.write_all(&piece).await.unwrap();
            }
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(send, timeout(SOON, read.read_to_end(&mut answer)));
        read.unwrap().unwrap();
        assert!(answer.len() > size, "{way:?}: {}", answer.len());
    }
}

#[tokio::test]
async fn a_client_that_resets_cancels_what_it_asked_for() {
    for way in WAYS {
        for body in ["", "content-length: 5\r\n\r\nhello"] {
            let (sender, mut ended) = mpsc::channel(8);
            let app = script(move |mut stream| {
                let sender = sender.clone();
                async move {
                    let mut byte = [0; 1024];
                    let _ = sender.send(false).await;
                    while stream.read(&mut byte).await.is_ok_and(|count| count > 0) {}
                    let _ = sender.send(true).await;
                }
            })
            .await;
            let path = path(way, AppProtocol::Http1, app).await;
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            let end = if body.is_empty() { "\r\n" } else { "" };
            let text = format!("POST / HTTP/1.1\r\nhost: c\r\n{body}{end}");
            stream.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(timeout(SOON, ended.recv()).await.unwrap(), Some(false));
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger().unwrap();
            drop(stream);
            assert_eq!(timeout(SOON, ended.recv()).await.unwrap_or_else(|_| panic!("{way:?}")), Some(true));
        }
    }
}

/// A body whose reader is another task is watched by nobody else; when it is read, the client is again.
#[tokio::test]
async fn a_client_that_resets_after_a_long_body_cancels_too() {
    for way in WAYS {
        let (sender, mut ended) = mpsc::channel(8);
        let app = script(move |mut stream| {
            let sender = sender.clone();
            async move {
                let mut bytes = vec![0; 64 << 10];
                let mut length = 0;
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    length += count;
                    if length > 300_000 {
                        let _ = sender.send(false).await;
                    }
                }
                let _ = sender.send(true).await;
            }
        })
        .await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 300000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
        assert_eq!(timeout(SOON, ended.recv()).await.unwrap(), Some(false), "{way:?}");
        stream.set_zero_linger().unwrap();
        drop(stream);
        assert_eq!(timeout(SOON, ended.recv()).await.unwrap_or_else(|_| panic!("{way:?}")), Some(true));
    }
}

#[tokio::test]
async fn a_drain_says_that_it_closes() {
    let (app, came) = apps::serve_telling().await;
    let path = path(Way::SameNode, AppProtocol::Http1, app).await;
    let mut busy = TcpStream::connect(path.address).await.unwrap();
    let mut idle = TcpStream::connect(path.address).await.unwrap();
    idle.write_all(b"GET /sized HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
    assert!(!read_head(&mut idle).await.contains("connection: close"));
    came.notified().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
    came.notified().await;
    let proxy = path.near.proxy.clone();
    let drained = tokio::spawn(async move { proxy.drain(SOON).await });
    let answer = read_to_end(&mut busy).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("slow"), "{answer}");
    assert_eq!(read_to_end(&mut idle).await, "sized");
    timeout(Duration::from_secs(3), drained).await.unwrap().unwrap();
}

/// What is not asked for need not be read for the connection to go on.
#[tokio::test]
async fn a_refused_expectation_closes_the_connection() {
    let path = path(Way::SameNode, AppProtocol::Http1, apps::serve(app).await).await;
    let head = "POST /refuse HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let answer = exchange(path.address, head).await;
    assert!(answer.starts_with("HTTP/1.1 417 ") && answer.contains("connection: close"), "{answer}");
}
