//! What became of a request, and who is to blame: each cause in the rows of edges, in the counters, and in the
//! access log; on every way between two workloads alike.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, EgressPolicy, HttpMatch, HttpRouteEntry, HttpRouteTable, HttpRule,
    Known, PathMatch,
};
use tulle_proxy::{Bounds, Capture, Deadlines, EdgeCounts, Security};

use super::apps::{self, app, exchange, full, http2, read, read_head, read_to_end};
use super::mesh::{Authority, Node, Path, WAYS, Way, bounded_path, eventually, path, service_name};
use crate::mesh::{expect_reset, logged};

const CLOSE: &str = "HTTP/1.1\r\nhost: c\r\nconnection: close\r\n";

/// What a request is counted as, beside being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    Nobody,
    Destination,
    Caller,
}

/// How a row says that traffic was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protected {
    AsTheWay,
    Unsent,
    /// The application may have seen something of it, or not.
    Either,
}

use Blame::*;
use Protected::*;

fn of(way: Way) -> Security {
    match way {
        Way::Plain => Security::Plaintext,
        Way::SameNode => Security::SameNode,
        Way::Link => Security::MutualTls,
    }
}

/// What was counted since `before`, as (security, requests, failures, refused).
fn since(before: &[EdgeCounts], now: &[EdgeCounts], destination: &str) -> Vec<(Security, u64, u64, u64)> {
    let rows = now.iter().filter(|edge| &*edge.destination.name == destination);
    let changes = rows.map(|edge| {
        let same = |old: &&EdgeCounts| {
            old.destination == edge.destination
                && (old.security, old.protocol) == (edge.security, edge.protocol)
        };
        let (requests, failures, refused) =
            before.iter().find(same).map_or((0, 0, 0), |old| (old.requests, old.failures, old.refused));
        (edge.security, edge.requests - requests, edge.failures - failures, edge.refused - refused)
    });
    changes.filter(|(_, requests, ..)| *requests > 0).collect()
}

/// Runs `act`, and expects exactly one request to be counted, and how.
async fn expect(
    node: &Node,
    way: Way,
    destination: &str,
    (blame, protected, reason): (Blame, Protected, &str),
    what: &str,
    act: impl Future<Output = ()>,
) {
    let refusals = |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        let labels = [&*label];
        node.metric("tulle_requests_refused_total", if reason.is_empty() { &[] } else { &labels })
    };
    let before = node.proxy().edges();
    let (all, one) = (refusals(""), refusals(reason));
    act.await;
    let rows = eventually(|| {
        Some(since(&before, &node.proxy().edges(), destination)).filter(|rows| !rows.is_empty())
    })
    .await;
    let [(security, requests, failures, refused)] = rows[..] else { panic!("{way:?} {what}: {rows:?}") };
    let expected = match blame {
        Nobody => (1, 0, 0),
        Destination => (1, 1, 0),
        Caller => (1, 0, 1),
    };
    assert_eq!((requests, failures, refused), expected, "{way:?} {what}: {rows:?}");
    match protected {
        AsTheWay => assert_eq!(security, of(way), "{way:?} {what}"),
        Unsent => assert_eq!(security, Security::Unsent, "{way:?} {what}"),
        Either => assert!([of(way), Security::Unsent].contains(&security), "{way:?} {what}: {security:?}"),
    }
    let more = u64::from(!reason.is_empty());
    assert_eq!((refusals("") - all, refusals(reason) - one), (more, more), "{way:?} {what}: {reason}");
}

/// An application that answers, but breaks off for some paths.
async fn rude() -> std::net::SocketAddr {
    apps::script(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let answer = match head.split(' ').nth(1).unwrap_or_default() {
            path if path.starts_with("/lost") => return,
            path if path.starts_with("/broken") => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            path if path.starts_with("/large") => {
                let fields = format!("x-large: {}\r\n", "x".repeat(16 << 10)).repeat(8);
                let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                return;
            }
            path if path.starts_with("/bad") => "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            path if path.starts_with("/cut") => "HTTP/1.1 200 OK\r\nx: y\r\n",
            path if path.starts_with("/500") => "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            path if path.starts_with("/404") => "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
            path if path.starts_with("/body") => {
                // It wants all of the body, which never comes.
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        // What is not read would have the answer thrown away.
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// Sends a request and, where `more` says so, nothing after it; the status and reason of the answer.
async fn ask(path: &Path, bytes: &[u8], end: bool) -> (String, String) {
    let mut stream = TcpStream::connect(path.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if end {
        stream.shutdown().await.unwrap();
    }
    let answer = read_to_end(&mut stream).await;
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    let reason = answer.lines().find_map(|line| line.strip_prefix("tulle-reason: ")).unwrap_or_default();
    (status, reason.trim().to_owned())
}

/// Cause, request, whether the client ends its side then; the answer's status and reason, who is to blame, how it
/// was protected, and the result that the access log has.
type Cause = (&'static str, String, bool, &'static str, &'static str, Blame, Protected);

fn causes() -> Vec<Cause> {
    let post = |path: &str, framing: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: c\r\n{framing}\r\n\r\n{body}")
    };
    let chunked = "transfer-encoding: chunked";
    let large = format!("x-large: {}\r\n", "x".repeat(8 << 10)).repeat(9);
    vec![
        ("answered", format!("GET /ok {CLOSE}\r\n"), false, "200", "", Nobody, AsTheWay),
        ("its own 404", format!("GET /404 {CLOSE}\r\n"), false, "404", "", Nobody, AsTheWay),
        ("its own 500", format!("GET /500 {CLOSE}\r\n"), false, "500", "", Destination, AsTheWay),
        ("broken answer", format!("GET /broken {CLOSE}\r\n"), false, "200", "", Destination, AsTheWay),
        ("lost", format!("GET /lost {CLOSE}\r\n"), false, "502", "connection-lost", Destination, AsTheWay),
        ("bad answer", format!("GET /bad {CLOSE}\r\n"), false, "502", "bad-answer", Destination, AsTheWay),
        ("cut answer", format!("GET /cut {CLOSE}\r\n"), false, "502", "bad-answer", Destination, AsTheWay),
        (
            "large answer",
            format!("GET /large {CLOSE}\r\n"),
            false,
            "502",
            "answer-headers-too-large",
            Destination,
            AsTheWay,
        ),
        (
            "bad field",
            format!("GET /field {CLOSE}bad field\r\n\r\n"),
            false,
            "400",
            "bad-request",
            Caller,
            Unsent,
        ),
        (
            "two lengths",
            post("/two", "content-length: 1\r\ncontent-length: 2", "a"),
            false,
            "400",
            "bad-request",
            Caller,
            Unsent,
        ),
        (
            "no host",
            "GET /nohost HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
            false,
            "400",
            "bad-request",
            Caller,
            Unsent,
        ),
        (
            "large head",
            format!("GET /headers {CLOSE}{large}\r\n"),
            false,
            "431",
            "headers-too-large",
            Caller,
            Unsent,
        ),
        (
            "slow head",
            "GET /slow HTTP/1.1\r\nhost:".to_owned(),
            false,
            "408",
            "request-timeout",
            Caller,
            Unsent,
        ),
        (
            "bad chunk",
            post("/body1", chunked, "5\r\nhello\r\nzz\r\n"),
            false,
            "400",
            "bad-request",
            Caller,
            Either,
        ),
        ("bad first chunk", post("/body2", chunked, "zz\r\n"), false, "400", "bad-request", Caller, Either),
        (
            "large trailers",
            post("/body3", chunked, &format!("1\r\nx\r\n0\r\n{large}\r\n")),
            false,
            "431",
            "headers-too-large",
            Caller,
            Either,
        ),
        ("cut body", post("/body4", "content-length: 10", "abc"), true, "400", "bad-request", Caller, Either),
        ("cut chunks", post("/body5", chunked, "5\r\nhel"), true, "400", "bad-request", Caller, Either),
        (
            "slow body",
            post("/body6", "content-length: 10", "abc"),
            false,
            "408",
            "request-timeout",
            Caller,
            Either,
        ),
    ]
}

#[tokio::test]
async fn each_cause_is_counted_as_what_it_is_on_every_way() {
    let short = Duration::from_millis(400);
    let deadlines = Deadlines { head: short, body: short, write: Duration::from_secs(10) };
    for way in WAYS {
        let bounds = Bounds { deadlines, ..Bounds::default() };
        let mut path = bounded_path(way, AppProtocol::Http1, rude().await, bounds).await;
        path.near.change_mesh(|mesh| mesh.access_log = true);
        for (what, request, end, status, reason, blame, protected) in causes() {
            let asked = request.split(' ').nth(1).unwrap();
            // Each is found in the access log again.
            let tagged = format!("{asked}?{way:?}");
            let request = request.replacen(asked, &tagged, 1);
            expect(&path.near, way, "c", (blame, protected, reason), what, async {
                let (got, said) = ask(&path, request.as_bytes(), end).await;
                assert_eq!((&*got, &*said), (status, reason), "{way:?} {what}");
            })
            .await;
            let result = match blame {
                Nobody => "result=\"success\"",
                Destination => "result=\"failure\"",
                Caller => "result=\"refused\"",
            };
            let path = format!("path=\"{asked}");
            let source = "source=default/a destination=default/c ";
            let status = format!("status={status} ");
            eventually(|| {
                let mut parts = vec![source, &path, &status, result];
                let said = format!("reason=\"{reason}\"");
                if !reason.is_empty() {
                    parts.push(&said);
                }
                logged(&parts).then_some(())
            })
            .await;
        }
    }
}

/// Its request was on its way: it is counted where it went.
#[tokio::test]
async fn a_client_that_closed_its_side_and_is_let_go_is_counted_where_its_request_was() {
    for way in WAYS {
        let app = apps::script(|mut stream| async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let mut path = path(way, AppProtocol::Http1, app).await;
        path.near.change_port("c", |port| port.http1.half_close = Duration::from_millis(300));
        let proxy = path.near.listen_as(Capture::HttpProxy).await;
        let upgrade = "connection: upgrade\r\nupgrade: x\r\n";
        for (what, address, request) in [
            ("captured", path.address, format!("GET / {CLOSE}\r\n")),
            ("explicit", proxy, format!("GET http://c/ {CLOSE}\r\n")),
            ("HTTP/1.0", proxy, "GET http://c/ HTTP/1.0\r\n\r\n".to_owned()),
            ("upgrade", path.address, format!("GET / HTTP/1.1\r\nhost: c\r\n{upgrade}\r\n")),
        ] {
            expect(&path.near, way, "c", (Caller, AsTheWay, "half-closed"), what, async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let answer = read_to_end(&mut stream).await;
                assert!(
                    answer.contains(" 408 ") && answer.contains("half-closed"),
                    "{way:?} {what}: {answer}"
                );
            })
            .await;
        }
    }
}

/// It is nobody's fault, and no success either.
#[tokio::test]
async fn what_a_client_gives_up_is_counted_as_that() {
    for (way, protocol) in WAYS.into_iter().flat_map(|w| [(w, AppProtocol::Http1), (w, AppProtocol::Http2)]) {
        let came = Arc::new(Notify::new());
        let telling = came.clone();
        let app = apps::serve(move |_| {
            telling.notify_one();
            std::future::pending()
        })
        .await;
        let mut path = path(way, protocol, app).await;
        path.near.change_mesh(|mesh| mesh.access_log = true);
        let proxy = path.near.listen_as(Capture::HttpProxy).await;
        let tag = format!("/given-up/{way:?}/{protocol:?}");
        let post = "content-length: 3\r\n\r\nabc";
        let mut counted = 0;
        for (what, address, request) in [
            ("captured", path.address, format!("GET {tag}/1 HTTP/1.1\r\nhost: c\r\n\r\n")),
            ("with a body", path.address, format!("POST {tag}/2 HTTP/1.1\r\nhost: c\r\n{post}")),
            ("explicit", proxy, format!("GET http://c{tag}/3 HTTP/1.1\r\nhost: c\r\n\r\n")),
        ] {
            expect(&path.near, way, "c", (Caller, AsTheWay, ""), what, async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                came.notified().await;
                stream.set_zero_linger().unwrap();
            })
            .await;
            counted += 1;
        }
        for (what, kind, leaves) in [
            ("a stream", "text/plain", false),
            ("a call", "application/grpc", false),
            ("with its connection", "text/plain", true),
        ] {
            expect(&path.near, way, "c", (Caller, AsTheWay, ""), what, async {
                let stream = TcpStream::connect(path.address).await.unwrap();
                let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
                let connection = tokio::spawn(connection);
                let request = Request::post(format!("http://c{tag}/4")).header("content-type", kind);
                let (answer, mut body) = client.send_request(request.body(()).unwrap(), true).unwrap();
                came.notified().await;
                match leaves {
                    true => connection.abort(),
                    false => body.send_reset(h2::Reason::CANCEL),
                }
                assert!(answer.await.is_err());
            })
            .await;
            counted += 1;
        }
        assert_eq!(path.near.metric("tulle_requests_total", &["result=\"abandoned\""]), counted, "{way:?}");
        for number in 1..=4 {
            let said = format!("path=\"{tag}/{number}\"");
            eventually(|| logged(&["destination=default/c ", &said, "result=\"abandoned\""]).then_some(()))
                .await;
        }
    }
}

#[tokio::test]
async fn what_reaches_nobody_has_no_security() {
    let (_held, nowhere) = super::apps::nowhere();
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, nowhere).await;
        expect(&path.near, way, "c", (Destination, Unsent, "connect-failed"), "nobody listens", async {
            let (status, _) = ask(&path, format!("GET / {CLOSE}\r\n").as_bytes(), false).await;
            assert_eq!(status, "503");
        })
        .await;
        let mut path = super::mesh::path(way, AppProtocol::Tcp, nowhere).await;
        expect(&path.near, way, "c", (Destination, Unsent, ""), "nobody listens to bytes", async {
            expect_reset(path.address).await;
        })
        .await;
        if way == Way::Plain {
            continue;
        }
        path = super::mesh::path(way, AppProtocol::Http1, apps::serve(app).await).await;
        if way == Way::Link { &mut path.far } else { &mut path.near }.drain_workload("c-0");
        expect(&path.near, way, "c", (Destination, Unsent, "draining"), "it stops", async {
            let (status, _) = ask(&path, format!("GET / {CLOSE}\r\n").as_bytes(), false).await;
            assert_eq!(status, "503");
        })
        .await;
    }
}

#[tokio::test]
async fn what_the_mesh_decides_has_no_security_and_blames_who_asked_for_it() {
    let mut node = Node::start("near", &Authority::new()).await;
    node.add_service("c", AppProtocol::Http1, Vec::new());
    node.add_service("d", AppProtocol::Http1, Vec::new());
    node.add_service("tcp", AppProtocol::Tcp, Vec::new());
    let snapshot = Arc::make_mut(&mut node.state.snapshot);
    let Some(Known::Present(config)) = snapshot.services.get_mut(&service_name("d")) else { panic!() };
    let invalid = Backend::new(BackendTarget::Invalid { reason: "no service x".into() }, 1);
    let matcher = HttpMatch {
        path: PathMatch::Prefix("/bad".to_owned()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    };
    let route = NamespacedName::new("default", "r");
    let rule = Arc::new(HttpRule::new(route, 0, None, vec![invalid]));
    Arc::make_mut(config).ports[0].http_routes = HttpRouteTable::new(vec![HttpRouteEntry { matcher, rule }]);
    node.publish();
    let (c, d, tcp, gone) =
        (node.listen("c").await, node.listen("d").await, node.listen("tcp").await, node.listen("gone").await);
    let proxy = node.listen_as(Capture::HttpProxy).await;
    let absolute = |uri: &str| format!("GET {uri} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (address, request, destination, blame, reason) in [
        (c, absolute("/"), "c", Destination, "no-endpoints"),
        (d, absolute("/other"), "d", Caller, "no-route"),
        (d, absolute("/bad/%2e%2e/x"), "d", Caller, "bad-request"),
        (d, absolute("/bad"), "d", Destination, "invalid-backend"),
        (gone, absolute("/"), "gone", Destination, "unknown-service"),
        (proxy, absolute("/"), "unknown", Caller, "bad-request"),
        (proxy, absolute("https://c/"), "unknown", Caller, "bad-request"),
        (proxy, absolute("http://nothing.default.mesh/"), "unknown", Destination, "unknown-service"),
        (proxy, "GET http://c/ HTTP/1.1\r\n\x01\r\n\r\n".to_owned(), "unknown", Caller, "bad-request"),
    ] {
        expect(&node, Way::Link, destination, (blame, Unsent, reason), &request, async {
            let answer = exchange(address, &request).await;
            assert!(answer.contains(&format!("tulle-reason: {reason}")), "{answer}");
        })
        .await;
    }
    // Nobody listens for what can lead nowhere: there is nothing to count.
    for address in [tcp, gone] {
        super::mesh::eventually(|| std::net::TcpStream::connect(address).is_err().then_some(())).await;
    }
    expect(&node, Way::Link, "c", (Caller, Unsent, ""), "no HTTP", async {
        let mut stream = TcpStream::connect(c).await.unwrap();
        stream.write_all(b"\x16\x03\x01 no request\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0]).await.is_err());
    })
    .await;
    let grpc =
        Request::post("http://c/x.Y/Z").header("content-type", "application/grpc").body(full("")).unwrap();
    expect(&node, Way::Link, "c", (Destination, Unsent, "no-endpoints"), "gRPC", async {
        let answer = read(http2(c).await.send_request(grpc).await.unwrap()).await;
        assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"14".parse().unwrap()));
    })
    .await;
}

#[tokio::test]
async fn the_outside_has_one_name() {
    let outside = apps::serve(app).await;
    let (_held, nowhere) = super::apps::nowhere();
    let mut node = Node::start("near", &Authority::new()).await;
    let proxy = node.listen_as(Capture::HttpProxy).await;
    let get = |address| format!("GET http://{address}/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let tunnel = |address| format!("CONNECT {address} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for denied in [false, true] {
        let egress = if denied { EgressPolicy::Deny } else { EgressPolicy::Allow };
        node.change_mesh(|mesh| mesh.egress = egress);
        let (served, nobody) = match denied {
            false => ((Nobody, AsTheWay, ""), (Destination, Unsent, "connect-failed")),
            true => ((Caller, Unsent, "egress-denied"), (Caller, Unsent, "egress-denied")),
        };
        for (request, expected) in [
            (get(outside), served),
            (get(nowhere), nobody),
            (tunnel(outside), served),
            (tunnel(nowhere), nobody),
        ] {
            expect(&node, Way::Plain, "external", expected, &request, async {
                let mut stream = TcpStream::connect(proxy).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            })
            .await;
        }
    }
    assert!(node.proxy().edges().iter().all(|edge| &*edge.destination.name == "external"));
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn what_http2_forbids_is_the_clients_affair() {
    const HEADERS: u8 = 1;
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    // POST, http, `/`, as the static table has them (RFC 7541, appendix A).
    let head = |more: &[u8]| [&[0x83, 0x86, 0x84], &*literal(":authority", "c"), more].concat();
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, rude().await).await;
        let begin = async || {
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
            stream
        };
        let upper = frame(HEADERS, 5, 1, &head(&literal("X-Upper", "1")));
        let short = [
            frame(HEADERS, 4, 1, &head(&[literal("content-length", "9"), literal("x-a", "b")].concat())),
            frame(0, 1, 1, b"abc"),
        ]
        .concat();
        for (what, bytes) in [("a head", upper), ("a length", short)] {
            let mut stream = begin().await;
            expect(&path.near, way, "c", (Caller, Either, "bad-request"), what, async {
                stream.write_all(&bytes).await.unwrap();
            })
            .await;
            assert_eq!(path.near.metric("tulle_abusive_clients_total", &[]), 0, "the connection is kept");
        }
        let mut stream = begin().await;
        stream.write_all(&frame(0, 0, 0, b"data on no stream")).await.unwrap();
        eventually(|| {
            let count = path.near.metric("tulle_abusive_clients_total", &["reason=\"PROTOCOL_ERROR\""]);
            (count == 1).then_some(())
        })
        .await;
    }
}
