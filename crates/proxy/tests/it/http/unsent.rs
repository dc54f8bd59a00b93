//! Requests that break after their answer has begun: nobody gets the rest of them. Both sides end, nothing is left of
//! them, and they are counted alike on every way between two workloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::{Bounds, Deadlines};

use super::apps::{self, read_head, read_to_end};
use super::mesh::{Path, WAYS, Way, bounded_path, eventually};

const SHORT: Duration = Duration::from_millis(400);
const SOON: Duration = Duration::from_secs(10);
/// What the application has said when a request breaks.
const BEGUN: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
/// So many requests break at once.
const CLIENTS: usize = 6;

/// What a client does behind the last of what it sends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Waits,
    Closes,
    Resets,
}

/// What is said of the body's length, what is sent of it, and then.
fn cases() -> Vec<(&'static str, String, Then)> {
    use Then::*;
    let (length, chunked) = ("content-length: 100", "transfer-encoding: chunked");
    let mut cases = vec![
        (chunked, "3\r\nabc\r\nZZZ\r\n".to_owned(), Waits),
        (chunked, "Z\r\n".to_owned(), Waits),
        (chunked, "3\r\nabcd\r\n".to_owned(), Waits),
        (chunked, format!("0\r\n{}", "a: b\r\n".repeat(300)), Waits),
        // It does not go on.
        (length, "abc".to_owned(), Waits),
        (chunked, "a\r\nabc".to_owned(), Waits),
        (chunked, "3\r\nabc\r\na".to_owned(), Waits),
        (chunked, "3\r\nabc\r\n0\r\na: b\r\n".to_owned(), Waits),
    ];
    for then in [Closes, Resets] {
        for (framing, part) in [
            (length, ""),
            (length, "abc"),
            (chunked, "a\r\nabc"),
            (chunked, "3\r\nabc\r\n"),
            (chunked, "0\r\n"),
        ] {
            cases.push((framing, part.to_owned(), then));
        }
        // It is cut for what it is before that is seen.
        cases.push((chunked, "3\r\nabc\r\nZZZ\r\n".to_owned(), then));
    }
    cases
}

/// An application that begins its answer, and reads what comes until that ends; how many connections it has.
async fn reading() -> (SocketAddr, Arc<AtomicUsize>) {
    counted(|mut io| async move {
        read_head(&mut io).await;
        io.write_all(BEGUN.as_bytes()).await.unwrap();
        while io.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
    })
    .await
}

/// An application that does this with each connection; how many it has.
async fn counted<F, R>(act: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    let counting = open.clone();
    let app = apps::script(move |io| {
        let (open, act) = (counting.clone(), act(io));
        async move {
            open.fetch_add(1, Ordering::Relaxed);
            act.await;
            open.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    (app, open)
}

async fn impatient(way: Way, app: SocketAddr) -> Path {
    let deadlines = Deadlines { head: SHORT, body: SHORT, write: 100 * SHORT };
    bounded_path(way, AppProtocol::Http1, app, Bounds { deadlines, ..Bounds::default() }).await
}

/// Reads until the application's first word is there.
async fn until_begun(io: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("first") {
        let read = timeout(SOON, io.read_buf(&mut answer)).await.expect("the answer begins").unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

/// Nothing is under way any more, on either node.
async fn nothing_left(path: &Path, open: &AtomicUsize, what: &str) {
    let in_flight = || {
        [&path.near, &path.far].map(|node| node.metric("tulle_workload_in_flight", &[])).iter().sum::<u64>()
    };
    for _ in 0..500 {
        if open.load(Ordering::Relaxed) == 0 && in_flight() == 0 {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{what}: {} connections of the application, {} requests",
        open.load(Ordering::Relaxed),
        in_flight()
    );
}

#[tokio::test]
async fn what_breaks_within_its_answer_ends_on_both_sides() {
    for way in WAYS {
        let (app, open) = reading().await;
        let path = impatient(way, app).await;
        let mut broken = 0;
        for (framing, part, then) in cases() {
            let what = format!("{way:?} {framing} {:?} {then:?}", &part[..part.len().min(20)]);
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                let mut client = TcpStream::connect(path.address).await.unwrap();
                let head = format!("POST / HTTP/1.1\r\nhost: c\r\n{framing}\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                until_begun(&mut client).await;
                clients.push(client);
            }
            for mut client in clients {
                client.write_all(part.as_bytes()).await.unwrap();
                match then {
                    Then::Resets => client.set_zero_linger().unwrap(),
                    Then::Closes | Then::Waits => {
                        if then == Then::Closes {
                            client.shutdown().await.unwrap();
                        }
                        let mut rest = Vec::new();
                        // With an end or a reset: what it has sent may not all have been read.
                        let ended = timeout(SOON, client.read_to_end(&mut rest)).await;
                        assert!(ended.is_ok(), "{what}: the client is left alone");
                        assert_eq!(String::from_utf8_lossy(&rest), "", "{what}");
                    }
                }
            }
            broken += CLIENTS as u64;
            nothing_left(&path, &open, &what).await;
            let edge = path.near.edge_with("c", broken).await;
            assert_eq!((edge.requests, edge.refused, edge.failures), (broken, broken, 0), "{what}");
        }
        // Beside slices of accounts, and the link.
        for node in [&path.near, &path.far] {
            eventually(|| {
                let held: u64 = node.budget.rows().iter().map(|row| row.memory).sum();
                (held < 512 << 10).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_breaks_on_http2_ends_too() {
    for way in WAYS {
        let (app, open) = reading().await;
        let path = impatient(way, app).await;
        for resets in [false, true] {
            let stream = TcpStream::connect(path.address).await.unwrap();
            let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let post = Request::post("http://c/").header("content-length", "10").body(()).unwrap();
            let (answer, mut body) = client.send_request(post, false).unwrap();
            let mut answer = timeout(SOON, answer).await.expect("it is answered").unwrap().into_body();
            assert_eq!(answer.data().await.unwrap().unwrap(), "first");
            body.send_data(Bytes::from_static(b"abc"), false).unwrap();
            if resets {
                body.send_reset(h2::Reason::CANCEL);
            } else {
                let end = timeout(SOON, answer.data()).await.expect("it does not wait for ever");
                assert!(end.is_some_and(|end| end.is_err()), "{way:?}: it looks whole");
                let edge = path.near.edge_with("c", 1).await;
                assert_eq!((edge.requests, edge.refused, edge.failures), (1, 1, 0), "{way:?}");
            }
            nothing_left(&path, &open, &format!("{way:?} {resets}")).await;
        }
        assert_eq!(path.near.edge_with("c", 2).await.failures, 0, "{way:?}");
    }
}

/// Who knows its answer early need not read on, and who is answered so goes on to send.
#[tokio::test]
async fn an_application_that_takes_no_more_answers_to_the_end() {
    for way in WAYS {
        let app = apps::script(|mut io| async move {
            read_head(&mut io).await;
            let io = io.into_std().unwrap();
            io.shutdown(std::net::Shutdown::Read).unwrap();
            let mut io = TcpStream::from_std(io).unwrap();
            io.write_all(BEGUN.as_bytes()).await.unwrap();
            sleep(2 * SHORT).await;
            io.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
            sleep(SOON).await;
        })
        .await;
        let path = impatient(way, app).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: c\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        until_begun(&mut client).await;
        client.write_all(b"3\r\nabc\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("last\r\n0\r\n\r\n") {
            let mut bytes = [0; 1024];
            let read = timeout(SOON, client.read(&mut bytes)).await.expect("it goes on").unwrap();
            assert!(read > 0, "{way:?}: {answer}");
            answer.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
        let edge = path.near.edge_with("c", 1).await;
        assert_eq!((edge.requests, edge.refused, edge.failures), (1, 0, 0), "{way:?}");
    }
}

/// A reset is found behind what the application does not take.
#[tokio::test]
async fn who_goes_behind_what_is_not_taken_is_missed() {
    for (way, begun) in WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]) {
        let (app, open) = counted(move |mut io| async move {
            read_head(&mut io).await;
            if begun {
                io.write_all(BEGUN.as_bytes()).await.unwrap();
            }
            while !io.ready(Interest::WRITABLE).await.unwrap().is_write_closed() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let path = impatient(way, app).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 1000000000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        if begun {
            until_begun(&mut client).await;
        }
        // Until nobody takes anything any more.
        let piece = vec![b'x'; 64 << 10];
        while timeout(SHORT, client.write_all(&piece)).await.is_ok() {}
        assert_eq!(open.load(Ordering::Relaxed), 1, "{way:?} {begun}");
        client.set_zero_linger().unwrap();
        drop(client);
        nothing_left(&path, &open, &format!("{way:?} {begun}")).await;
    }
}

/// Who was answered instead of being asked for its body need not send it (RFC 9110, section 10.1.1), and may close its
/// side.
#[tokio::test]
async fn a_body_that_was_not_asked_for_is_not_missed() {
    for (way, closes) in
        [(Way::Plain, false), (Way::SameNode, false), (Way::Plain, true), (Way::SameNode, true)]
    {
        let app = apps::script(|mut io| async move {
            read_head(&mut io).await;
            io.write_all(BEGUN.as_bytes()).await.unwrap();
            sleep(3 * SHORT).await;
            io.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
            let _ = io.read(&mut [0]).await;
        })
        .await;
        let path = impatient(way, app).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: c\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        until_begun(&mut client).await;
        if closes {
            client.shutdown().await.unwrap();
        }
        let rest = read_to_end(&mut client).await;
        assert!(rest.ends_with("last\r\n0\r\n\r\n"), "{way:?} {closes}: {rest}");
        assert_eq!(path.near.metric("tulle_stalls_total", &[]), 0, "{way:?} {closes}");
    }
}

/// An answer that comes before the body has been read: the client is told whether it may go on, and that holds.
#[tokio::test]
async fn who_is_answered_early_is_told_whether_the_connection_stays() {
    for (way, close) in WAYS.into_iter().flat_map(|way| [(way, ""), (way, "connection: close\r\n")]) {
        let app = apps::script(move |mut io| async move {
            while read_head(&mut io).await.contains("POST") {
                let answer = format!("HTTP/1.1 413 No\r\n{close}content-length: 2\r\n\r\nno");
                io.write_all(answer.as_bytes()).await.unwrap();
                if !close.is_empty() {
                    break;
                }
            }
            // It takes no more, and does not end before it is left.
            let _ = io.shutdown().await;
            sleep(SHORT).await;
        })
        .await;
        let path = impatient(way, app).await;
        for (framing, part, stays) in [
            ("content-length: 100000000", "abc", false),
            ("transfer-encoding: chunked", "3\r\nabc\r\n", false),
            ("content-length: 6", "abc", true),
        ] {
            let mut client = TcpStream::connect(path.address).await.unwrap();
            let request = format!("POST / HTTP/1.1\r\nhost: c\r\n{framing}\r\n\r\n{part}");
            client.write_all(request.as_bytes()).await.unwrap();
            let head = read_head(&mut client).await;
            let what = format!("{way:?} {close:?} {framing}: {head}");
            assert!(head.starts_with("HTTP/1.1 413 "), "{what}");
            assert_eq!(head.contains("connection: close"), !stays, "{what}");
            let mut body = [0; 2];
            client.read_exact(&mut body).await.unwrap();
            if stays {
                // What is left of the body may take its time.
                sleep(SHORT / 2).await;
                client.write_all(request.replacen("POST", "abcPOST", 1).as_bytes()).await.unwrap();
                assert!(read_head(&mut client).await.starts_with("HTTP/1.1 413 "), "{what}");
            } else {
                let ended = timeout(SOON, client.read(&mut [0])).await.expect("it ends");
                assert!(!ended.is_ok_and(|read| read > 0), "{what}");
            }
        }
    }
}
