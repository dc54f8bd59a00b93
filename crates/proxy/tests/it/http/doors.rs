//! The first door: what it takes of a client or an application, everything behind it can carry.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::snapshot::AppProtocol;

use super::apps::{self, app, chunks, exchange, full, get, http1, http2, read, read_head, script};
use super::mesh::{Node, Path, WAYS, Way, path};

const LIMIT: usize = 64 << 10;
const SOON: Duration = Duration::from_secs(10);

/// The value of a metric whose line begins so.
fn metric(node: &Node, line: &str) -> f64 {
    let text = node.proxy().metrics();
    let value = |found: &str| found.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    text.lines().filter(|found| found.starts_with(line)).filter_map(value).sum()
}

/// Nobody's link was closed, or held against its peer what came through the door.
async fn expect_links_unharmed(path: &Path) {
    assert_eq!(get(path.address, "/").await.status, 200);
    // Faults are counted with the pings of a link.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    for node in [&path.near, &path.far] {
        assert_eq!(metric(node, "tulle_links_abused_total"), 0.0, "{}", node.name);
        assert_eq!(metric(node, "tulle_link_faults_total"), 0.0, "{}", node.name);
    }
}

/// A client's message of HTTP/1, and what of it is strange.
fn strange_http1(random: &mut StdRng) -> Vec<u8> {
    let methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "M-SEARCH", "!#$%&'*+-.^_`|~", "get", "CONNECT"];
    let targets: [&[u8]; 20] = [
        b"/",
        b"/",
        b"/x?y=z",
        b"*",
        b"http://h",
        b"http://h?x=1",
        b"http://h/",
        b"http://h:1/#f",
        b"/%00%zz",
        b"//x",
        b"/a#b",
        b"/\"<>{}|\\^`",
        b"/\xc3\xa9",
        b"/\xff",
        b"?x",
        b"h/x",
        b"ftp://h/x",
        b"http://u@h/",
        b"http://[::1]:9/",
        b"h:80",
    ];
    let hosts: [&[u8]; 14] = [
        b"c",
        b"c",
        b"c",
        b"c:80",
        b"C.shop",
        b"[::1]:80",
        b"[::1",
        b"a b",
        b"",
        b"u@h",
        b"h:99999",
        b"%41",
        b"h_x",
        b"\xc3\xa9",
    ];
    let fields: [&[u8]; 26] = [
        b"x-a: 1",
        b"X-UPPER: 1",
        b"te: trailers",
        b"TE: gzip, Trailers",
        b"te: deflate",
        b"connection: x-a, keep-alive",
        b"connection: close, te",
        b"keep-alive: timeout=5",
        b"proxy-connection: keep-alive",
        b"upgrade: h2c",
        b"connection: upgrade\r\nupgrade: x",
        b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA",
        b"cookie: a=1",
        b"cookie: b=2",
        b"tulle-port: 1",
        b"tulle-reason: x",
        b"\"quoted\": 1",
        b"x-empty:",
        b"x-spaces: \t a \t ",
        b"x-obs: \xff\x80",
        b"x-tab: a\tb",
        b"expect: 100-continue",
        b"x-nul: a\x01b",
        b": empty",
        b"x-fold: a\r\n b",
        b"trailer: x-t",
    ];
    let mut out = Vec::new();
    let method = methods.choose(random).unwrap();
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(targets.choose(random).unwrap());
    if random.random_ratio(1, 20) {
        out.extend(std::iter::repeat_n(b'p', random.random_range(0..70_000)));
    }
    out.extend_from_slice(if random.random_ratio(1, 10) { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    if random.random_ratio(19, 20) {
        out.extend_from_slice(b"host: ");
        out.extend_from_slice(hosts.choose(random).unwrap());
        out.extend_from_slice(b"\r\n");
    }
    for _ in 0..random.random_range(0..6) {
        out.extend_from_slice(fields.choose(random).unwrap());
        out.extend_from_slice(b"\r\n");
    }
    match random.random_range(0..12) {
        0 => (0..random.random_range(200..300)).for_each(|i| out.extend(format!("x-{i}: 1\r\n").bytes())),
        1 => (0..random.random_range(0..800))
            .for_each(|i| out.extend(format!("cookie: c{i}=12345678\r\n").bytes())),
        2 => out.extend(format!("x-large: {}\r\n", "v".repeat(random.random_range(60_000..66_000))).bytes()),
        _ => {}
    }
    match random.random_range(0..8) {
        0 | 1 => out.extend_from_slice(b"\r\n"),
        2 => out.extend_from_slice(b"content-length: 5\r\n\r\nhello"),
        3 => out.extend_from_slice(b"content-length: 10\r\n\r\nhello"),
        4 => out.extend_from_slice(b"content-length: 5, 5\r\ncontent-length: 05\r\n\r\nhello"),
        5 => out.extend_from_slice(
            b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        _ => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n");
            for _ in 0..random.random_range(0..4) {
                out.extend_from_slice(fields.choose(random).unwrap());
                out.extend_from_slice(b"\r\n");
            }
            if random.random_ratio(1, 6) {
                out.extend(format!("x-t: {}\r\n", "t".repeat(random.random_range(0..66_000))).bytes());
            }
            if random.random_ratio(1, 6) {
                (0..random.random_range(0..300)).for_each(|i| out.extend(format!("x-{i}: 1\r\n").bytes()));
            }
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

/// A field of HPACK: a literal that nobody indexes, with a new name.
pub fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        match text.len() {
            length @ 0..127 => out.push(length as u8),
            mut length => {
                out.push(127);
                length -= 127;
                while length >= 128 {
                    out.push((length % 128) as u8 | 128);
                    length /= 128;
                }
                out.push(length as u8);
            }
        }
        out.extend_from_slice(text);
    }
}

pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

pub const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;

/// A header block in as many frames as it needs.
pub fn block(out: &mut Vec<u8>, stream: u32, end: bool, block: &[u8]) {
    let parts: Vec<&[u8]> = block.chunks(16 << 10).collect();
    for (i, part) in parts.iter().enumerate() {
        let (kind, last) = (if i == 0 { HEADERS } else { 9 }, i + 1 == parts.len());
        let end = if end && i == 0 { END_STREAM } else { 0 };
        frame(out, kind, end | if last { 4 } else { 0 }, stream, part);
    }
}

/// The same for HTTP/2, on a connection of its own.
fn strange_http2(random: &mut StdRng) -> Vec<u8> {
    let methods: [&[u8]; 8] = [b"GET", b"HEAD", b"OPTIONS", b"POST", b"M-SEARCH", b"get", b"CONNECT", b"A B"];
    let paths: [&[u8]; 9] = [b"/", b"/", b"/x?y", b"*", b"", b"x", b"/a#b", b"/\xc3\xa9", b"http://h/"];
    let hosts: [&[u8]; 8] = [b"c", b"c", b"c:80", b"[::1]:80", b"a b", b"", b"u@h", b"h:99999"];
    let fields: [(&[u8], &[u8]); 20] = [
        (b"x-a", b"1"),
        (b"X-A", b"1"),
        (b"te", b"trailers"),
        (b"te", b"Trailers"),
        (b"te", b"gzip"),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"upgrade", b"x"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b"),
        (b"tulle-port", b"1"),
        (b"tulle-reason", b"x"),
        (b"x-obs", b"\xff\x80"),
        (b"x-lead", b" a"),
        (b"x-empty", b""),
        (b"host", b"d"),
        (b":path", b"/"),
        (b"", b"x"),
        (b"http2-settings", b"x"),
        (b"expect", b"100-continue"),
    ];
    let mut head = Vec::new();
    literal(&mut head, b":method", methods.choose(random).unwrap());
    literal(&mut head, b":scheme", [&b"http"[..], b"https", b"ftp"].choose(random).unwrap());
    literal(&mut head, b":path", paths.choose(random).unwrap());
    if random.random_ratio(9, 10) {
        literal(&mut head, b":authority", hosts.choose(random).unwrap());
    }
    for _ in 0..random.random_range(0..4) {
        let (name, value) = fields.choose(random).unwrap();
        literal(&mut head, name, value);
    }
    match random.random_range(0..10) {
        0 => (0..random.random_range(200..300))
            .for_each(|i| literal(&mut head, format!("x-{i}").as_bytes(), b"1")),
        1 => (0..random.random_range(0..800))
            .for_each(|i| literal(&mut head, b"cookie", format!("c{i}=12345").as_bytes())),
        2 => literal(&mut head, b"x-large", &vec![b'v'; random.random_range(60_000..66_000)]),
        _ => {}
    }
    let mut out = HELLO.to_vec();
    let body = random.random_range(0..6);
    if let 2 | 3 = body {
        literal(&mut head, b"content-length", b"5");
    }
    block(&mut out, 1, body == 0, &head);
    match body {
        0 => {}
        1 | 2 => frame(&mut out, DATA, END_STREAM, 1, b"hello"),
        3 => frame(&mut out, DATA, END_STREAM, 1, b"hell"),
        4 => {
            (0..20).for_each(|_| frame(&mut out, DATA, 0, 1, b""));
            frame(&mut out, DATA, 0, 1, b"hello");
            frame(&mut out, RST_STREAM, 0, 1, &8u32.to_be_bytes());
        }
        _ => {
            frame(&mut out, DATA, 0, 1, b"hello");
            let mut trailers = Vec::new();
            for _ in 0..random.random_range(1..4) {
                let (name, value) = fields.choose(random).unwrap();
                literal(&mut trailers, name, value);
            }
            if random.random_ratio(1, 4) {
                literal(&mut trailers, b"x-t", &vec![b't'; random.random_range(0..66_000)]);
            }
            block(&mut out, 1, true, &trailers);
        }
    }
    out
}

/// An application that takes every request that is well-formed, and says so.
async fn lenient() -> SocketAddr {
    script(|mut stream| async move {
        let mut bytes = Vec::new();
        let whole = |bytes: &[u8]| {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            match length {
                _ if head.contains("transfer-encoding") => bytes[end + 4..].ends_with(b"\r\n\r\n"),
                Some(length) => bytes.len() >= end + 4 + length.parse::<usize>().unwrap(),
                None => true,
            }
        };
        while !whole(&bytes) {
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_door_takes_a_link_carries() {
    let path = path(Way::Link, AppProtocol::Http1, lenient().await).await;
    let mut random = StdRng::seed_from_u64(7);
    let (mut taken, mut refused) = (0, 0);
    for case in 0..1500 {
        let message = strange_http1(&mut random);
        let shown = String::from_utf8_lossy(&message[..message.len().min(2000)]).into_owned();
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        // The door may have closed by then.
        let _ = stream.write_all(&message).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{case}: no end of the answer to {shown:?}");
        let answer = String::from_utf8_lossy(&answer);
        let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        let status = answer.strip_prefix("HTTP/1.1 ").or(answer.strip_prefix("HTTP/1.0 "));
        match status.map(|rest| &rest[..3]) {
            Some("200") => taken += 1,
            // What has no end gets no answer: it is not whole.
            None => refused += 1,
            Some("400" | "431" | "501") => {
                assert!(answer.contains("tulle-reason: "), "{case}: {answer}");
                refused += 1;
            }
            // The rest of the body does not come.
            Some("502") if message.windows(18).any(|part| part == b"content-length: 10") => refused += 1,
            _ => panic!("{case}: {answer:?} to {shown:?}"),
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
    expect_links_unharmed(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_door_takes_of_http2_a_link_carries() {
    let path = path(Way::Link, AppProtocol::Http1, lenient().await).await;
    let mut random = StdRng::seed_from_u64(11);
    let (mut taken, mut refused) = (0, 0);
    for case in 0..1500 {
        let mut stream = TcpStream::connect(path.address).await.unwrap();
        let _ = stream.write_all(&strange_http2(&mut random)).await;
        let mut peer = Frames { stream, bytes: Vec::new() };
        loop {
            let (kind, flags, id) =
                peer.next().await.unwrap_or_else(|| panic!("{case}: closed without a word"));
            match kind {
                HEADERS if id == 1 => taken += 1,
                RST_STREAM if id == 1 => refused += 1,
                GOAWAY => refused += 1,
                _ => {}
            }
            if (id == 1 && (kind == RST_STREAM || (kind <= HEADERS && flags & END_STREAM != 0)))
                || kind == GOAWAY
            {
                break;
            }
            // It resets its own stream, and hears no more of it.
            if case_is_over(&mut peer).await {
                break;
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
    expect_links_unharmed(&path).await;
}

/// Whether nothing more comes for a while.
async fn case_is_over(peer: &mut Frames) -> bool {
    peer.bytes.len() < 9
        && matches!(
            timeout(Duration::from_millis(300), peer.stream.read_buf(&mut peer.bytes)).await,
            Err(_) | Ok(Ok(0))
        )
}

/// The frames that come on a connection.
struct Frames {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Frames {
    /// Kind, flags and stream of the next one.
    async fn next(&mut self) -> Option<(u8, u8, u32)> {
        loop {
            if let Some(&[a, b, c, kind, flags, d, e, f, g]) = self.bytes.first_chunk() {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.bytes.len() >= 9 + length {
                    self.bytes.drain(..9 + length);
                    return Some((kind, flags, u32::from_be_bytes([d, e, f, g])));
                }
            }
            match timeout(SOON, self.stream.read_buf(&mut self.bytes))
                .await
                .expect("a frame within ten seconds")
            {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }
}

/// The status and the reason of an answer to bytes of HTTP/1.
async fn refusal(address: SocketAddr, request: &str) -> (String, String) {
    let answer = exchange(address, request).await;
    let reason = answer.lines().find_map(|line| line.strip_prefix("tulle-reason: ")).unwrap_or_default();
    (answer.lines().next().unwrap_or_default().to_owned(), reason.to_owned())
}

#[tokio::test]
async fn targets_have_one_form() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, apps::serve(app).await).await;
        let ask = async |line: &str| {
            exchange(path.address, &format!("{line} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n")).await
        };
        for (line, seen) in [
            ("GET http://h", "GET / HTTP/1.1"),
            ("GET http://h?x=1", "GET /?x=1 HTTP/1.1"),
            ("OPTIONS http://h", "OPTIONS * HTTP/1.1"),
            ("OPTIONS *", "OPTIONS * HTTP/1.1"),
        ] {
            let answer = ask(line).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(seen), "{way:?}: {line}: {answer}");
        }
        let answer = ask("GET *").await;
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("tulle-reason: bad-request"),
            "{answer}"
        );
    }
}

/// The same limit for both versions, wherever the application is.
#[tokio::test]
async fn heads_are_counted_alike() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, lenient().await).await;
        // :method, :scheme, :path and :authority of GET http://c/ count 166; the name of x and its overhead 33.
        let most = LIMIT - 166 - 33;
        for (size, fields, crumbs, status) in
            [(most, 0, 0, 200), (most + 1, 0, 0, 431), (1, 255, 0, 200), (1, 256, 0, 431), (1, 0, 700, 200)]
        {
            let case = format!("{way:?}: {size} bytes, {fields} fields, {crumbs} crumbs");
            let mut text =
                format!("GET / HTTP/1.1\r\nhost: c\r\nconnection: close\r\nx: {}\r\n", "v".repeat(size));
            let mut request = Request::get("http://c/").header("x", "v".repeat(size));
            // `Connection` is a field, too.
            let connection = "connection".len() + "close".len() + 32;
            if status == 200 && size > 1 {
                text = text.replacen(&"v".repeat(connection), "", 1);
            }
            for i in 0..fields {
                if i > 0 {
                    text += &format!("x-{i}: 1\r\n");
                }
                request = request.header(format!("x-{i}"), "1");
            }
            for i in 0..crumbs {
                text += &format!("cookie: c{i}=1234567890123456789012345678901234567890\r\n");
                request = request.header("cookie", format!("c{i}=1234567890123456789012345678901234567890"));
            }
            let (line, reason) = refusal(path.address, &(text + "\r\n")).await;
            assert!(line.contains(&status.to_string()), "{case}: {line}");
            assert_eq!(reason, if status == 431 { "headers-too-large" } else { "" }, "{case}");
            let answer =
                read(http2(path.address).await.send_request(request.body(full("")).unwrap()).await.unwrap())
                    .await;
            assert_eq!(answer.status, status, "{case}, HTTP/2");
            assert_eq!(answer.headers.contains_key("tulle-reason"), status == 431, "{case}, HTTP/2");
        }
    }
}

#[tokio::test]
async fn trailers_have_the_limits_of_heads() {
    for way in WAYS {
        let path = path(way, AppProtocol::Http1, lenient().await).await;
        for (length, count, status) in
            [(LIMIT - 33, 1, 200), (LIMIT - 32, 1, 431), (1, 256, 200), (1, 257, 431)]
        {
            let case = format!("{way:?}: {count} of {length} bytes");
            let mut text =
                "POST / HTTP/1.1\r\nhost: c\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
                    .to_owned();
            text += "5\r\nhello\r\n0\r\n";
            (0..count).for_each(|_| text += &format!("x: {}\r\n", "v".repeat(length)));
            let (line, reason) = refusal(path.address, &(text + "\r\n")).await;
            assert!(line.contains(&status.to_string()), "{case}: {line}");
            assert_eq!(reason, if status == 431 { "headers-too-large" } else { "" }, "{case}");
            let stream = TcpStream::connect(path.address).await.unwrap();
            let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::post("http://c/").body(()).unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data("hello".into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            (0..count).for_each(|_| {
                trailers.append("x", "v".repeat(length).parse().unwrap());
            });
            body.send_trailers(trailers).unwrap();
            let answer = timeout(SOON, answer).await.unwrap().unwrap();
            assert_eq!(answer.status(), status, "{case}, HTTP/2");
            assert_eq!(answer.headers().contains_key("tulle-reason"), status == 431, "{case}, HTTP/2");
        }
        if way == Way::Link {
            expect_links_unharmed(&path).await;
        }
    }
}

#[tokio::test]
async fn answers_that_are_too_large_are_the_applications_fault() {
    for way in WAYS {
        for version in [AppProtocol::Http1, AppProtocol::Http2] {
            let app = apps::serve(|request| async move {
                let length = request.uri().path()[1..].parse().unwrap_or(0);
                // :status counts 42, the date that hyper adds 65, content-length 47.
                Response::builder().header("x", "v".repeat(length)).body(full("")).unwrap()
            })
            .await;
            let path = path(way, version, app).await;
            let mut client = http2(path.address).await;
            let most = LIMIT - 42 - 33 - 65 - 47;
            for _ in 0..3 {
                let refused = Some("answer-headers-too-large");
                for (length, status, reason) in
                    [(most, 200, None), (most + 100, 502, refused), (300_000, 502, refused)]
                {
                    let answer = get(path.address, &format!("/{length}")).await;
                    let found = answer.headers.get("tulle-reason").map(|reason| reason.to_str().unwrap());
                    assert_eq!((answer.status, found), (status, reason), "{way:?} {version:?} {length}");
                }
                // Others on the same connections are not concerned.
                let request = Request::get("http://c/0").body(full("")).unwrap();
                assert_eq!(read(client.send_request(request).await.unwrap()).await.status, 200);
            }
            assert_eq!(path.near.edge("c").unwrap().requests, 12);
            if way == Way::Link {
                expect_links_unharmed(&path).await;
            }
        }
    }
}

/// An application that says what it takes (RFC 9113, section 6.5.2) may close its connection on more.
#[tokio::test]
async fn what_an_application_does_not_take_is_not_sent_to_it() {
    for way in WAYS {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut builder = h2::server::Builder::new();
                builder.max_header_list_size(4096);
                let mut connection = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
                tokio::spawn(async move {
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let _ = respond.send_response(Response::new(()), true);
                    }
                });
            }
        });
        let path = path(way, AppProtocol::Http2, address).await;
        assert_eq!(get(path.address, "/").await.status, 200, "{way:?}");
        let request =
            Request::get("/").header("host", "c").header("x", "v".repeat(5000)).body(full("")).unwrap();
        let answer = read(http1(path.address).await.send_request(request).await.unwrap()).await;
        assert_eq!(
            (answer.status, &answer.headers["tulle-reason"]),
            (431, &"headers-too-large".parse().unwrap())
        );
        assert_eq!(get(path.address, "/").await.status, 200, "{way:?}");
    }
}

/// Trailers of the application, and everything about connections in them.
#[tokio::test]
async fn strange_answers_cost_no_link() {
    let answers = [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nkeep-alive: 1\r\nupgrade: x\r\nproxy-connection: y\r\nx: 1\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nte: gzip\r\nx-obs: \u{e9}\r\nupgrade: h3\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
    ];
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let app = script(move |mut stream| {
        let count = count.clone();
        async move {
            let head = read_head(&mut stream).await;
            let answer = match head.starts_with("GET / ") {
                true => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                false => answers[count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % answers.len()],
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let path = path(Way::Link, AppProtocol::Http1, app).await;
    for method in ["GET", "HEAD", "POST"] {
        for _ in 0..2 * answers.len() {
            let request = format!(
                "{method} /x HTTP/1.1\r\nhost: c\r\nte: trailers\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let mut stream = TcpStream::connect(path.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        }
    }
    expect_links_unharmed(&path).await;
}

/// The trailers of an application on HTTP/2, by a client that resets when it has the head.
#[tokio::test]
async fn trailers_after_a_reset_cost_no_link() {
    let app = apps::serve(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        Response::new(chunks(vec!["a", "b"], Some(trailers)))
    })
    .await;
    let path = path(Way::Link, AppProtocol::Http2, app).await;
    let mut client = http2(path.address).await;
    for _ in 0..200 {
        drop(client.send_request(Request::get("http://c/x").body(full("")).unwrap()).await.unwrap());
    }
    expect_links_unharmed(&path).await;
}
