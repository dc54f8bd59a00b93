//! What a port may ask for of HTTP/1: heads as they are written, and time for clients that have closed their side.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Request;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tulle_model::port_settings::Http1Settings;
use tulle_model::snapshot::AppProtocol;
use tulle_proxy::Capture;

use super::apps;
use super::mesh::{Authority, Node, Path, WAYS, Way, eventually, identity, path, service_name};
use crate::believer::peer;

const SOON: Duration = Duration::from_secs(10);

fn set(path: &mut Path, change: impl FnOnce(&mut Http1Settings)) {
    let mut http1 = Http1Settings::DEFAULT;
    path.near.change_port("c", |port| {
        change(&mut port.http1);
        http1 = port.http1;
    });
    let endpoints = &path.near.state.snapshot.endpoints[&service_name("c")].endpoints;
    let target_port = endpoints[0].ports[0].target_port;
    // The other node is told the same of its workload.
    path.far.tell("c-0", &[("c", target_port, http1)]);
}

const REQUEST: &str = "POST /x HTTP/1.1\r\nHOST: c\r\nX-Zeta: 1\r\nACCEPT: a\r\nx-zeta: 2\r\nCookie: a=1\r\nX_Under: 3\r\n\
     TULLE-Spelling: X-Evil:\r\nCOOKIE: b=2\r\nContent-Length: 2\r\nX-Evil: 4\r\nx-LAST: \r\n\r\nhi";
const ANSWER: &str = "HTTP/1.1 200 Fine By  Me\r\nSERVER: x\r\nSet-cookie: a=1\r\nX-B: 1\r\nSet-Cookie: b=2\r\n\
     tulle-spelling: X-B:No\r\nDATE: today\r\nContent-LENGTH: 2\r\nConnection: keep-alive\r\nx-Last: 1\r\n\r\nok";

/// An application that keeps what it hears, and answers with the same bytes each time.
async fn recorder(answer: &'static str) -> (SocketAddr, Arc<Mutex<String>>) {
    let heard = Arc::<Mutex<String>>::default();
    let hearing = heard.clone();
    let address = apps::script(move |mut stream| {
        let heard = hearing.clone();
        async move {
            let mut bytes = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut bytes).await {
                if bytes.ends_with(b"\r\n\r\nhi") || bytes.ends_with(b"\r\n\r\n") {
                    *heard.lock().unwrap() = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
    })
    .await;
    (address, heard)
}

/// What a client hears of one request, up to `end`.
async fn ask(stream: &mut TcpStream, request: &str, end: &str) -> String {
    ask_until(stream, request, &[end]).await
}

/// The answer, to where it ends with one of these.
async fn ask_until(stream: &mut TcpStream, request: &str, ends: &[&str]) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        let ended = |answer: &[u8]| ends.iter().any(|end| answer.ends_with(end.as_bytes()));
        while !ended(&answer) && stream.read_buf(&mut answer).await.unwrap() > 0 {}
    };
    timeout(SOON, reading).await.expect("an answer comes");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn heads_stay_as_they_are_written_where_a_port_asks() {
    let as_sent = REQUEST.replace("TULLE-Spelling: X-Evil:\r\n", "").replace("COOKIE: b=2\r\n", "");
    let as_sent = as_sent.replace("a=1", "a=1; b=2");
    let as_answered =
        ANSWER.replace("tulle-spelling: X-B:No\r\n", "").replace("Connection: keep-alive\r\n", "");
    for (way, protocol) in
        WAYS.into_iter().flat_map(|way| [AppProtocol::Http1, AppProtocol::Detect].map(|p| (way, p)))
    {
        let (app, heard) = recorder(ANSWER).await;
        let mut path = path(way, protocol, app).await;
        let proxy = path.near.listen_as(Capture::HttpProxy).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let plain = ask(&mut client, REQUEST, "ok").await;
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\nserver: x\r\n"), "{way:?} {protocol:?}: {plain}");
        assert!(heard.lock().unwrap().contains("\r\nx-zeta: 1\r\nx-zeta: 2\r\n"));
        set(&mut path, |settings| settings.preserve_case = true);
        // On the same connection, and with a URI.
        for _ in 0..3 {
            assert_eq!(ask(&mut client, REQUEST, "ok").await, as_answered, "{way:?} {protocol:?}");
            assert_eq!(*heard.lock().unwrap(), as_sent, "{way:?} {protocol:?}");
        }
        let mut explicit = TcpStream::connect(proxy).await.unwrap();
        let request = REQUEST.replace("/x", "http://c/x");
        assert_eq!(ask(&mut explicit, &request, "ok").await, as_answered, "{way:?} {protocol:?}");
        assert_eq!(*heard.lock().unwrap(), as_sent, "{way:?} {protocol:?}");
        // What does not come in HTTP/1 has no letters to keep; nor what is longer than a link has room for.
        if protocol == AppProtocol::Http1 {
            let request = http::Request::get("http://c/").header("x-a", "b").body(apps::full("")).unwrap();
            let answer =
                apps::read(apps::http2(path.address).await.send_request(request).await.unwrap()).await;
            assert_eq!(answer.status, 200);
            assert!(!answer.headers.contains_key("tulle-spelling"));
            assert!(heard.lock().unwrap().contains("\r\nx-a: b\r\n"));
        }
        let long = format!("GET / HTTP/1.1\r\nHost: c\r\nX-{}: 1\r\n\r\n", "N".repeat(5000));
        assert_eq!(ask(&mut client, &long, "ok").await.lines().next(), Some("HTTP/1.1 200 OK"), "{way:?}");
        assert!(heard.lock().unwrap().contains(&format!("\r\nx-{}: 1\r\n", "n".repeat(5000))));
    }
}

/// Bodies without a length, answers without a phrase, requests without a body.
#[tokio::test]
async fn what_the_mesh_says_of_bodies_stands_where_it_was_said() {
    for way in WAYS {
        let (app, heard) = recorder(
            "HTTP/1.1 299 \r\nTransfer-ENCODING: chunked\r\nX-A: 1\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        )
        .await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        set(&mut path, |settings| settings.preserve_case = true);
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nTE: trailers\r\nHoSt: c\r\nConnection: TE, X-Gone\r\nX-Gone: 1\r\nX-B:2\r\n\r\n";
        // What came over a link as a whole, with its end, has a length.
        let start = match way {
            Way::Link => "HTTP/1.1 299 \r\nX-A: 1\r\n",
            _ => "HTTP/1.1 299 \r\nTransfer-ENCODING: chunked\r\nX-A: 1\r\nDate: ",
        };
        let answer = ask_until(&mut client, request, &["\nok", "0\r\n\r\n"]).await;
        assert!(answer.starts_with(start), "{way:?} {answer}");
        let expected = "GET / HTTP/1.1\r\nTE: trailers\r\nHoSt: c\r\nConnection: te\r\nX-B: 2\r\n\r\n";
        assert_eq!(*heard.lock().unwrap(), expected, "{way:?}");
        let old = "GET / HTTP/1.0\r\nX-B: 2\r\n\r\n";
        let answer = ask(&mut client, old, "ok").await.replace("Content-Length: 2\r\n", "");
        assert!(answer.starts_with("HTTP/1.0 299 \r\nX-A: 1\r\nDate: "), "{way:?} {answer}");
        assert_eq!(
            *heard.lock().unwrap(),
            "GET / HTTP/1.1\r\nHost: c.default:80\r\nX-B: 2\r\n\r\n",
            "{way:?}"
        );
    }
}

/// Interim heads and trailers are the message's own as well.
#[tokio::test]
async fn interim_answers_and_trailers_stay_as_they_are_written() {
    const REQUEST: &str = "POST / HTTP/1.1\r\nHost: c\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nX-REQ: 1\r\nTulle-Spelling: ::\r\nx-Other: 2\r\nX-Req: 3\r\n\r\n";
    const INTERIM: &str = "HTTP/1.1 103 Look  Here\r\nLINK: </a>\r\nX-Zed: 1\r\nlink: </b>\r\n\r\n";
    let long = format!("HTTP/1.1 103 \r\nX-{}: 1\r\n\r\n", "A".repeat(1900)).repeat(30);
    let end = "0\r\nX-Sum: 1\r\nx-B: 2\r\nX-SUM: 3\r\n\r\n";
    let answer =
        format!("{INTERIM}{long}HTTP/1.1 200 OK\r\nTRANSFER-Encoding: chunked\r\n\r\n2\r\nok\r\n{end}");
    for way in WAYS {
        let heard = Arc::<Mutex<String>>::default();
        let (hearing, answer) = (heard.clone(), answer.clone());
        let app = apps::script(move |mut stream| {
            let (heard, answer) = (hearing.clone(), answer.clone());
            async move {
                let mut bytes = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes);
                    if text.contains("\r\n0\r\n") && text.ends_with("\r\n\r\n")
                        || text.starts_with("GET ") && text.ends_with("\r\n\r\n")
                    {
                        *heard.lock().unwrap() = String::from_utf8(std::mem::take(&mut bytes)).unwrap();
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            }
        })
        .await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let plain = ask(&mut client, REQUEST, "\r\nx-b: 2\r\n\r\n").await;
        assert!(
            plain.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n"),
            "{way:?}: {plain:.200}"
        );
        assert!(
            heard.lock().unwrap().ends_with("\r\n0\r\nx-req: 1\r\nx-req: 3\r\nx-other: 2\r\n\r\n"),
            "{way:?}"
        );
        set(&mut path, |settings| settings.preserve_case = true);
        for _ in 0..2 {
            let got = ask_until(&mut client, REQUEST, &[end, "\r\nx-sum: 3\r\nx-b: 2\r\n\r\n"]).await;
            assert!(got.starts_with(INTERIM), "{way:?}: {got:.200}");
            assert!(got.contains(&long) && got.ends_with(end), "{way:?}: {}", &got[got.len() - 300..]);
            let heard = heard.lock().unwrap();
            assert!(
                heard.ends_with("\r\n0\r\nX-REQ: 1\r\nx-Other: 2\r\nX-Req: 3\r\n\r\n"),
                "{way:?}: {heard}"
            );
        }
        let request = Request::get("http://c/").header("te", "trailers").body(apps::full("")).unwrap();
        let answer = apps::read(apps::http2(path.address).await.send_request(request).await.unwrap()).await;
        let trailers = answer.trailers.unwrap();
        assert_eq!(
            (trailers.len(), answer.headers.contains_key("tulle-spelling")),
            (3, false),
            "{trailers:?}"
        );
    }
}

/// Whatever a peer says, a port that asks for nothing gets nothing, and one that does, no names but those that are there.
#[tokio::test]
async fn a_peer_keeps_letters_only_where_the_port_asks() {
    let authority = Authority::new();
    let mut far = Node::start("far", &authority).await;
    let (app, heard) = recorder(ANSWER).await;
    let endpoint = far.add_workload(&authority, "c-0", &[app.port()]);
    far.add_service("c", AppProtocol::Http1, vec![endpoint]);
    let kept = Http1Settings { preserve_case: true, ..Http1Settings::DEFAULT };
    // The other one asks for it at another port of the workload.
    let other = ("d", app.port() ^ 1, kept);
    far.tell("c-0", &[("c", app.port(), Http1Settings::DEFAULT), other]);
    let mut client = peer(&authority.certificate(&identity("a")), far.link).await;
    let mut ask = async |spelling: &str| {
        let request = Request::get("http://c/")
            .header("tulle-workload", "default/c-0")
            .header("tulle-port", app.port())
            .header("tulle-app-version", "1")
            .header("tulle-spelling", spelling)
            .header("x-foo", "1")
            .header("x-foo", "2")
            .body(())
            .unwrap();
        let answer = timeout(SOON, client.send_request(request, true).unwrap().0).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{spelling:.100}");
        (heard.lock().unwrap().clone(), answer.headers().get("tulle-spelling").is_some())
    };
    let plain = "GET / HTTP/1.1\r\nhost: c\r\nx-foo: 1\r\nx-foo: 2\r\n\r\n";
    let good = "c/80:X-FOO,hOST,X-Made-Up,X-foo,x-FOO:";
    for said in [good, "X-FOO,hOST:", ":X-FOO,hOST:", "d/80:X-FOO,hOST:", "gone/80:X-FOO:", "/80:X-FOO:"] {
        assert_eq!(ask(said).await, (plain.to_owned(), false), "{said}");
    }
    far.tell("c-0", &[("c", app.port(), kept), other]);
    let kept = "GET / HTTP/1.1\r\nX-FOO: 1\r\nhOST: c\r\nX-foo: 2\r\n\r\n";
    assert_eq!(ask(good).await, (kept.to_owned(), true));
    let long = format!("c/80:{}X-FOO:", "X-FOO,".repeat(8000));
    for said in [&long, "X-FOO,hOST:", "c/81:X-FOO:", "d/80:X-FOO:", "c/80:X-FOO", "c/80:X FOO:", "c/80"] {
        assert_eq!(ask(said).await, (plain.to_owned(), false), "{said:.100}");
    }
}

/// An application that answers after some time, and counts the requests that were given up before.
async fn slow(pause: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let given_up = Arc::<AtomicUsize>::default();
    let counted = given_up.clone();
    let address = apps::script(move |mut stream| {
        let given_up = counted.clone();
        async move {
            apps::read_head(&mut stream).await;
            match timeout(pause, stream.read_u8()).await {
                Ok(_) => drop(given_up.fetch_add(1, Relaxed)),
                Err(_) => {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                    let _ = stream.write_all(answer).await;
                }
            }
        }
    })
    .await;
    (address, given_up)
}

async fn half_closed(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: c\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    stream
}

#[tokio::test]
async fn clients_that_close_their_side_have_as_long_as_the_port_says() {
    for way in WAYS {
        let (app, given_up) = slow(Duration::from_millis(1500)).await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        let cuts = |path: &Path| {
            path.near.metric("tulle_stalls_total", &["side=\"client\"", "what=\"half-closed\""])
        };
        let answer = apps::read_to_end(&mut half_closed(path.address).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{way:?}: {answer}");
        set(&mut path, |settings| settings.half_close = Duration::from_millis(300));
        let begun = Instant::now();
        let answer = apps::read_to_end(&mut half_closed(path.address).await).await;
        assert!(begun.elapsed() < Duration::from_millis(1400), "{way:?}: {:?}", begun.elapsed());
        assert!(answer.starts_with("HTTP/1.1 408 "), "{way:?}: {answer}");
        assert!(answer.contains("\r\ntulle-reason: half-closed\r\n"), "{way:?}: {answer}");
        eventually(|| (given_up.load(Relaxed) == 1).then_some(())).await;
        assert_eq!(cuts(&path), 1, "{way:?}");
        set(&mut path, |settings| settings.half_close = Duration::from_secs(60));
        let answer = apps::read_to_end(&mut half_closed(path.address).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{way:?}: {answer}");
        assert_eq!(cuts(&path), 1, "{way:?}");
    }
}

/// However long it would have, a client that is gone is noticed.
#[tokio::test]
async fn a_reset_after_a_half_close_is_noticed() {
    let (app, given_up) = slow(Duration::from_secs(3600)).await;
    let mut path = path(Way::SameNode, AppProtocol::Http1, app).await;
    set(&mut path, |settings| settings.half_close = Duration::from_secs(3600));
    let stream = half_closed(path.address).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(given_up.load(Relaxed), 0);
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    eventually(|| (given_up.load(Relaxed) == 1).then_some(())).await;
}
