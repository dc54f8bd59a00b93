//! What requests are for: authorities that are none, paths as clients send them, and fields that say how far a request
//! goes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, HttpMatch, HttpRouteEntry, HttpRouteTable, HttpRule, PathMatch,
};
use tulle_proxy::Capture;

use super::apps;
use super::doors::{END_STREAM, HELLO, block, frame, literal};
use super::mesh::{Path, WAYS, Way, eventually, path, service_name};

const SOON: Duration = Duration::from_secs(10);

type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// An application that keeps the heads that it hears, and takes all of them.
async fn recorder() -> (SocketAddr, Heard) {
    let heard = Heard::default();
    let hearing = heard.clone();
    let address = apps::script(move |mut stream| {
        let heard = hearing.clone();
        async move {
            let mut bytes = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut bytes).await {
                if bytes.ends_with(b"\r\n\r\n") {
                    heard.lock().unwrap().push(std::mem::take(&mut bytes));
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        }
    })
    .await;
    (address, heard)
}

/// The target of a request's head.
fn target(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

async fn answer(stream: &mut TcpStream) -> String {
    timeout(SOON, apps::read_head(stream)).await.expect("an answer comes")
}

/// What a client of HTTP/1 hears of one request on a new connection.
async fn ask(address: SocketAddr, head: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head).await.unwrap();
    answer(&mut stream).await
}

/// What a client of HTTP/2 hears on the last stream of those that `message` opens: a status, or the code of a
/// reset, or of GOAWAY.
#[derive(Debug, PartialEq, Eq)]
enum Heard2 {
    Status(u16),
    Reset(u32),
    GoAway(u32),
}

async fn ask2(address: SocketAddr, stream_id: u32, message: &[u8]) -> Heard2 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[HELLO, message].concat()).await.unwrap();
    let hearing = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match head[3] {
                // The status is indexed, or a literal with an indexed name and three digits.
                1 if id == stream_id => {
                    return Heard2::Status(match payload[0] {
                        0x88 => 200,
                        0x8c => 400,
                        0x8d => 404,
                        _ => String::from_utf8_lossy(&payload[2..5]).parse().unwrap(),
                    });
                }
                3 if id == stream_id => return Heard2::Reset(number(0)),
                7 => return Heard2::GoAway(number(4)),
                _ => {}
            }
        }
    };
    timeout(SOON, hearing).await.expect("an answer comes")
}

/// The header block of a request.
fn fields(list: &[(&str, &[u8])]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in list {
        literal(&mut head, name.as_bytes(), value);
    }
    head
}

fn request(method: &str, path: &[u8], authority: &[u8]) -> Vec<u8> {
    fields(&[
        (":method", method.as_bytes()),
        (":scheme", b"http"),
        (":path", path),
        (":authority", authority),
    ])
}

fn alone(head: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    block(&mut message, 1, true, head);
    message
}

const UNUSUAL: &[&[u8]] = &[
    b"/\"<>`{}|\\^",
    b"/?q=\"<>`{}|\\^",
    b"/caf\xc3\xa9?x=\xc3\xa9",
    b"/caf\xe9",
    b"/?q=caf\xe9&r=\xff\x80\xfe",
    b"/a<b>/c\xe9?d=\"e\"",
    b"/\xe2\x82",
    b"/%zz%4%?%",
    b"//a//b/;c=d?e?f",
    b"/[a]:b@c,d=(e)'f'!$&*+~_-.",
];

#[tokio::test]
async fn paths_pass_byte_for_byte() {
    for (way, protocol) in WAYS.into_iter().flat_map(|way| {
        [AppProtocol::Http1, AppProtocol::Detect].into_iter().map(move |protocol| (way, protocol))
    }) {
        let (app, heard) = recorder().await;
        let path = path(way, protocol, app).await;
        let proxy = path.near.listen_as(Capture::HttpProxy).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let mut explicit = TcpStream::connect(proxy).await.unwrap();
        for sent in UNUSUAL {
            let shown = format!("{way:?} {protocol:?} {}", sent.escape_ascii());
            let line = [b"GET ", *sent, b" HTTP/1.1\r\nhost: c\r\n\r\n"].concat();
            client.write_all(&line).await.unwrap();
            let status = answer(&mut client).await;
            assert!(status.starts_with("HTTP/1.1 200 "), "{shown}: {status}");
            let line = [b"GET http://c", *sent, b" HTTP/1.1\r\nhost: c\r\n\r\n"].concat();
            explicit.write_all(&line).await.unwrap();
            let status = answer(&mut explicit).await;
            assert!(status.starts_with("HTTP/1.1 200 "), "{shown}: {status}");
            let mut expected = 2;
            if protocol == AppProtocol::Http1 {
                let status = ask2(path.address, 1, &alone(&request("GET", sent, b"c"))).await;
                assert_eq!(status, Heard2::Status(200), "{shown}");
                expected = 3;
            }
            let heads = std::mem::take(&mut *heard.lock().unwrap());
            assert_eq!(heads.len(), expected, "{shown}");
            for head in heads {
                assert_eq!(target(&head), *sent, "{shown}: {}", head.escape_ascii());
            }
        }
        // Whatever cuts it.
        for byte in [b"GET /\xe9\"<\xc3 HTTP/1.1\r\nhost: c\r\n\r\n".as_slice()].concat() {
            client.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(target(&heard.lock().unwrap()[0]), b"/\xe9\"<\xc3");
    }
}

#[tokio::test]
async fn what_no_target_has_is_refused() {
    let (app, heard) = recorder().await;
    let path = path(Way::Link, AppProtocol::Http1, app).await;
    for bad in [
        &b"/a\x01b"[..],
        b"/a\x7fb",
        b"/a\tb",
        b"/a b",
        b"/a\0b",
        b"/a#b",
        b"/a?b#c",
        b"#",
        b"a",
        b"?a",
        b"c:80",
        b"",
        b"*",
        b"**",
        b"http://",
        b"://c/",
        b"://c/<",
        b"http://c#a",
        b"http://c/#a",
        b"http:///a",
        b"http://c:x/",
        b"http://c:65536/",
        b"http://u@c/",
        b"http://[c]/",
        b"http://[::1/",
        b"http://c\xe9/",
        b"http://%41/",
        b"http://c<d/",
        b"/\xe9 ",
    ] {
        let heard = ask(path.address, &[b"GET ", bad, b" HTTP/1.1\r\nhost: c\r\n\r\n"].concat()).await;
        assert!(heard.starts_with("HTTP/1.1 400 "), "{}: {heard}", bad.escape_ascii());
        assert!(heard.contains("tulle-reason: bad-request"), "{}: {heard}", bad.escape_ascii());
    }
    for bad in [&b""[..], b"a", b"?a", b"*", b"/a#b", b"/a b", b"/a\x7f", b"/a\0", b"http://c/"] {
        let heard = ask2(path.address, 1, &alone(&request("GET", bad, b"c"))).await;
        assert_eq!(heard, Heard2::Reset(1), "{}", bad.escape_ascii());
    }
    assert_eq!(heard.lock().unwrap().len(), 0);
    assert_eq!(ask2(path.address, 1, &alone(&request("OPTIONS", b"*", b"c"))).await, Heard2::Status(200));
    let answer = ask(path.address, b"OPTIONS * HTTP/1.1\r\nhost: c\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(heard.lock().unwrap().iter().all(|head| target(head) == b"*"));
}

const NO_AUTHORITIES: &[&[u8]] = &[
    b":80",
    b"c:x",
    b"c:80x",
    b"c:65536",
    b"c:-1",
    b"c:80:80",
    b"[::1",
    b"::1",
    b"[c]",
    b"[]",
    b"[::1]x",
    b"x[::1]",
    b"u@c",
    b"u:p@c",
    b"@c",
    b"a b",
    b"%41",
    b"%zz",
    b"c%",
    b"c/x",
    b"c?x",
    b"c#x",
    b"c\\x",
    b"<c>",
    b"c,d@",
    b"\xe9",
    b"\xc3\xa9",
];

/// At every entrance alike.
#[tokio::test]
async fn what_no_uri_has_is_no_authority() {
    for way in [Way::SameNode, Way::Link] {
        let (app, heard) = recorder().await;
        let path = path(way, AppProtocol::Http1, app).await;
        let proxy = path.near.listen_as(Capture::HttpProxy).await;
        for bad in NO_AUTHORITIES {
            let shown = bad.escape_ascii().to_string();
            let of = |before: &[u8], after: &[u8]| [before, bad, after].concat();
            for message in [
                of(b"GET / HTTP/1.1\r\nhost: ", b"\r\n\r\n"),
                of(b"GET / HTTP/1.0\r\nhost: ", b"\r\n\r\n"),
                of(b"GET http://c/ HTTP/1.1\r\nhost: ", b"\r\n\r\n"),
                of(b"CONNECT ", b" HTTP/1.1\r\nhost: c\r\n\r\n"),
            ] {
                let heard = ask(path.address, &message).await;
                assert!(heard[8..].starts_with(" 400 "), "{way:?} {shown}: {heard}");
                assert!(heard.contains("tulle-reason: bad-request"), "{way:?} {shown}: {heard}");
            }
            if !bad.contains(&b'/') && !bad.contains(&b'?') {
                for address in [path.address, proxy] {
                    let heard = ask(address, &of(b"GET http://", b"/ HTTP/1.1\r\nhost: c\r\n\r\n")).await;
                    assert!(heard.starts_with("HTTP/1.1 400 "), "{way:?} {shown}: {heard}");
                }
            }
            let heard = ask2(path.address, 1, &alone(&request("GET", b"/", bad))).await;
            assert_eq!(heard, Heard2::Status(400), "{way:?} {shown}");
            let without =
                fields(&[(":method", b"GET"), (":scheme", b"http"), (":path", b"/"), ("host", bad)]);
            assert_eq!(ask2(path.address, 1, &alone(&without)).await, Heard2::Status(400), "{way:?} {shown}");
            let connect = fields(&[(":method", b"CONNECT"), (":authority", bad)]);
            assert_eq!(ask2(path.address, 1, &alone(&connect)).await, Heard2::Status(400), "{way:?} {shown}");
        }
        assert_eq!(ask2(path.address, 1, &alone(&request("GET", b"/", b""))).await, Heard2::Status(400));
        assert_eq!(heard.lock().unwrap().len(), 0, "{way:?}");
        for fine in ["c", "C:80", "c:", "[::1]:80", "h_x", "c.shop.", "a!$&'()*+,;=b"] {
            let answer =
                ask(path.address, format!("GET / HTTP/1.1\r\nhost: {fine}\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{fine}: {answer}");
            let heard2 = ask2(path.address, 1, &alone(&request("GET", b"/", fine.as_bytes()))).await;
            assert_eq!(heard2, Heard2::Status(200), "{fine}");
            for head in std::mem::take(&mut *heard.lock().unwrap()) {
                assert!(String::from_utf8(head).unwrap().contains(&format!("\r\nhost: {fine}\r\n")));
            }
        }
    }
}

#[tokio::test]
async fn hosts_are_said_once() {
    let (app, heard) = recorder().await;
    let path = path(Way::SameNode, AppProtocol::Http1, app).await;
    for (lines, host) in [
        ("GET / HTTP/1.1\r\n", None),
        ("GET http://d/ HTTP/1.1\r\n", None),
        ("CONNECT d:80 HTTP/1.1\r\n", None),
        ("GET / HTTP/1.1\r\nhost: c\r\nhost: c\r\n", None),
        ("GET http://d/ HTTP/1.1\r\nhost: c\r\nhost: d\r\n", None),
        ("GET / HTTP/1.0\r\nhost: c\r\nhost: d\r\n", None),
        ("CONNECT d HTTP/1.1\r\nhost: d\r\n", None),
        ("CONNECT d: HTTP/1.1\r\nhost: d\r\n", None),
        ("CONNECT d:0 HTTP/1.1\r\nhost: d\r\n", None),
        ("CONNECT d:80 HTTP/1.1\r\nhost: d\r\ncontent-length: 5\r\n", None),
        ("CONNECT d:80 HTTP/1.1\r\nhost: d\r\ntransfer-encoding: chunked\r\n", None),
        ("GET http://d/ HTTP/1.1\r\nhost: c\r\n", Some("d")),
        ("GET http://d:81/ HTTP/1.1\r\nhost:\r\n", Some("d:81")),
        ("GET http://d/ HTTP/1.0\r\n", Some("d")),
        ("GET / HTTP/1.0\r\n", Some("c.default:80")),
        ("GET / HTTP/1.1\r\nhost:\r\n", Some("c.default:80")),
    ] {
        let answer = ask(path.address, format!("{lines}\r\n").as_bytes()).await;
        let heads = std::mem::take(&mut *heard.lock().unwrap());
        match host {
            None => assert!(answer[8..].starts_with(" 400 ") && heads.is_empty(), "{lines}: {answer}"),
            Some(host) => {
                let head = String::from_utf8(heads[0].clone()).unwrap();
                assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{lines}: {head}");
            }
        }
    }
    for (hosts, status) in [
        (&["c"][..], 200),
        (&["C:80"], 200),
        (&["d"], 400),
        (&["c:81"], 400),
        (&[""], 400),
        (&["c", "c"], 400),
        (&["u@c"], 400),
    ] {
        let mut head = request("GET", b"/", b"c");
        hosts.iter().for_each(|host| literal(&mut head, b"host", host.as_bytes()));
        assert_eq!(ask2(path.address, 1, &alone(&head)).await, Heard2::Status(status), "{hosts:?}");
    }
}

#[tokio::test]
async fn requests_go_as_far_as_they_say() {
    for way in WAYS {
        let (app, heard) = recorder().await;
        let path = path(way, AppProtocol::Http1, app).await;
        for (method, sent, passed) in [
            ("OPTIONS", "0", None),
            ("TRACE", "0", None),
            ("OPTIONS", "1", Some("0")),
            ("TRACE", "10", Some("9")),
            ("GET", "0", Some("0")),
        ] {
            let head = format!(
                "{method} /x\" HTTP/1.1\r\nhost: c\r\nMax-Forwards: {sent}\r\nx-a: b\r\ncookie: s=1\r\nconnection: close\r\n\r\n"
            );
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = apps::read_to_end(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let heads = std::mem::take(&mut *heard.lock().unwrap());
            assert_eq!(answer.contains("tulle-reason: max-forwards"), passed.is_none(), "{answer}");
            let shown = answer
                .ends_with("\r\n\r\nTRACE /x\" HTTP/1.1\r\nhost: c\r\nmax-forwards: 0\r\nx-a: b\r\n\r\n");
            assert_eq!(shown, passed.is_none() && method == "TRACE", "{answer}");
            match passed {
                None => assert!(heads.is_empty()),
                Some(left) => {
                    let head = String::from_utf8(heads[0].clone()).unwrap();
                    assert!(head.contains(&format!("\r\nmax-forwards: {left}\r\n")), "{way:?} {head}");
                }
            }
        }
        let bad = ask(path.address, b"OPTIONS / HTTP/1.1\r\nhost: c\r\nmax-forwards: x\r\n\r\n").await;
        assert!(bad.starts_with("HTTP/1.1 400 "), "{bad}");
    }
}

/// RFC 9113, sections 5.1, 5.1.1 and 8.1.1.
#[tokio::test]
async fn streams_are_opened_in_order_and_are_as_long_as_they_say() {
    let (app, heard) = recorder().await;
    let path = path(Way::SameNode, AppProtocol::Http1, app).await;
    let get = request("GET", b"/", b"c");
    let of = |ids: &[u32]| {
        let mut message = Vec::new();
        ids.iter().for_each(|id| block(&mut message, *id, true, &get));
        message
    };
    assert_eq!(ask2(path.address, 9, &of(&[1, 5, 9])).await, Heard2::Status(200));
    assert_eq!(ask2(path.address, 0, &of(&[2])).await, Heard2::GoAway(1));
    assert_eq!(ask2(path.address, 0, &of(&[5, 3])).await, Heard2::GoAway(1));
    assert_eq!(ask2(path.address, 0, &of(&[1, 9, 7])).await, Heard2::GoAway(1));
    // One that is over.
    eventually(|| (heard.lock().unwrap().len() >= 3).then_some(())).await;
    let mut stream = TcpStream::connect(path.address).await.unwrap();
    stream.write_all(&[HELLO, &of(&[1])].concat()).await.unwrap();
    let mut answered = Vec::new();
    while !answered.windows(9).any(|head| head[3] == 1 && head[8] == 1 && head[5..8] == [0; 3]) {
        assert_ne!(timeout(SOON, stream.read_buf(&mut answered)).await.unwrap().unwrap(), 0);
    }
    stream.write_all(&of(&[1])).await.unwrap();
    timeout(SOON, stream.read_to_end(&mut answered)).await.unwrap().unwrap();
    let away = answered.windows(17).rev().find(|frame| frame[3] == 7 && frame[5..9] == [0; 4]).unwrap();
    assert_eq!(away[13..17], 5_u32.to_be_bytes());

    for (length, parts, end) in
        [("0", &["a"][..], true), ("0", &["a"], false), ("3", &["ab"], true), ("1", &["a", "b"], false)]
    {
        let mut head = request("POST", b"/", b"c");
        literal(&mut head, b"content-length", length.as_bytes());
        let mut message = Vec::new();
        block(&mut message, 1, false, &head);
        for (n, part) in parts.iter().enumerate() {
            let last = end && n + 1 == parts.len();
            frame(&mut message, 0, if last { END_STREAM } else { 0 }, 1, part.as_bytes());
        }
        assert_eq!(ask2(path.address, 1, &message).await, Heard2::Reset(1), "{length} {parts:?}");
    }
    let mut head = request("POST", b"/", b"c");
    literal(&mut head, b"content-length", b"0");
    let mut message = Vec::new();
    block(&mut message, 1, false, &head);
    frame(&mut message, 0, END_STREAM, 1, b"");
    assert_eq!(ask2(path.address, 1, &message).await, Heard2::Status(200));
}

/// Routes decide on what the application will read.
#[tokio::test]
async fn unusual_paths_are_routed_by_what_they_mean() {
    let (app, heard) = recorder().await;
    let mut path = path(Way::Link, AppProtocol::Http1, app).await;
    route(&mut path, "/a%3Cb%3E%E9");
    for (sent, status) in [
        (&b"/a<b>\xe9"[..], "200"),
        (b"/a%3cb%3E\xe9/c`", "200"),
        (b"/a<b>", "404"),
        (b"/a<b>\xe9/../x", "400"),
        (b"/a<b>\xe9/..%5C\xff", "400"),
        (b"/\xe9/%2e%2E`", "404"),
    ] {
        let answer = ask(path.address, &[b"GET ", sent, b" HTTP/1.1\r\nhost: c\r\n\r\n"].concat()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", sent.escape_ascii());
        let heads = std::mem::take(&mut *heard.lock().unwrap());
        assert!(heads.iter().all(|head| target(head) == sent));
    }
}

/// Puts a route before service `c` that takes one prefix alone.
fn route(path: &mut Path, prefix: &str) {
    let backend = Backend::new(BackendTarget::Service { name: service_name("c"), port: 80 }, 1);
    let rule = Arc::new(HttpRule::new(NamespacedName::new("default", "r"), 0, None, vec![backend]));
    let matcher = HttpMatch {
        path: PathMatch::Prefix(prefix.into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    };
    let routes = HttpRouteTable::new(vec![HttpRouteEntry { matcher, rule }]);
    path.near.change_port("c", |port| port.http_routes = routes);
}

/// What was read of one request's `Host` is taken for the next only if that says the same.
#[tokio::test]
async fn each_request_of_a_connection_is_for_the_host_that_it_names() {
    for way in WAYS {
        let (app, heard) = recorder().await;
        let path = path(way, AppProtocol::Http1, app).await;
        let mut client = TcpStream::connect(path.address).await.unwrap();
        let long = "x".repeat(5000);
        for host in
            ["c", "c", "c", "d", "c", "C", "c:80", "c:80", "c:8", "c", "u@c", "c:x", "c", &long, &long, "c"]
        {
            let line = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
            client.write_all(line.as_bytes()).await.unwrap();
            let status = answer(&mut client).await;
            let heads = std::mem::take(&mut *heard.lock().unwrap());
            let shown = format!("{way:?} {host:.9}: {status}");
            if matches!(host, "u@c" | "c:x") {
                assert!(status.starts_with("HTTP/1.1 400 ") && heads.is_empty(), "{shown}");
                let length = status.to_ascii_lowercase();
                let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                client.read_exact(&mut body).await.unwrap();
                continue;
            }
            assert!(status.starts_with("HTTP/1.1 200 "), "{shown}");
            let [head] = &heads[..] else { panic!("{shown}: {} heads", heads.len()) };
            let named = format!("\r\nhost: {host}\r\n");
            assert!(head.windows(named.len()).any(|part| part == named.as_bytes()), "{shown}");
        }
    }
}
