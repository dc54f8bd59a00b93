//! What is parsed, refused and written, whatever the pieces that it comes in.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use proptest::prelude::*;

use super::encode::{self, Announced};
use super::framing::{BodyDecoder, Decoded, Framing, Malformed, single_chunk};
use super::head::{self, Bad, RequestHead};
use super::in_pieces::{Pieces, ready};
use super::input::{Input, NoHead};
use super::output::{Output, Sending};
use crate::budget::Charge;
use crate::http::HEADER_LIMIT;

/// A request with its body, as read from a connection.
#[derive(Debug, PartialEq)]
struct ReadRequest {
    line: String,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
    keep: bool,
}

/// Reads all requests that come in `pieces`, and why it ended before the end, if it did.
fn requests(mut pieces: Pieces) -> (Vec<ReadRequest>, Option<&'static str>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut input = Input::default();
    let mut messages = Vec::new();
    loop {
        let head = match ready(input.poll_head(&mut cx, &mut pieces, &Charge::default(), head::request)) {
            Ok(head) => head,
            Err(NoHead::Ended) => return (messages, None),
            // That a head is malformed is noticed at its end, unless it came whole.
            Err(NoHead::Cut | NoHead::Bad(Bad::Malformed(_))) => return (messages, Some("malformed")),
            Err(NoHead::Bad(Bad::TooLarge)) => return (messages, Some("too large")),
            Err(NoHead::Broken(error)) => panic!("{error}"),
        };
        let whole = head.whole();
        let RequestHead { parts, framing, keep, .. } = head;
        let mut message = ReadRequest {
            line: format!("{} {} {:?}", parts.method, parts.uri, parts.version),
            headers: parts.headers,
            body: whole.clone().unwrap_or_default().to_vec(),
            trailers: HeaderMap::new(),
            keep,
        };
        if whole.is_none() {
            let mut decoder = BodyDecoder::new(framing);
            while !decoder.is_over() {
                match ready(input.poll_body(&mut cx, &mut pieces, &mut decoder, &Charge::default(), |_| {})) {
                    Ok(Decoded::Data(data)) => message.body.extend_from_slice(&data),
                    Ok(Decoded::Trailers(trailers)) => message.trailers = trailers,
                    Ok(Decoded::End) => {}
                    Ok(Decoded::More) => panic!("there is always more"),
                    Err(_) => return (messages, Some("broken")),
                }
            }
        }
        messages.push(message);
    }
}

/// Their bytes are replaced to be parsed.
#[test]
fn beside_a_target_that_is_no_utf_8_a_method_is_what_it_is() {
    let request = |method: &[u8]| head::request(&[method, b" /\xe4 HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
    assert_eq!(request(b"GET").unwrap().unwrap().0.parts.method, Method::GET);
    assert!(request(b"GET\xe4").is_err());
    assert!(request(b"\xa0GET").is_err());
}

fn request(bytes: &str) -> Result<Option<(RequestHead, usize)>, Bad> {
    head::request(bytes.as_bytes())
}

/// RFC 9112, section 11.2, and what has been used against proxies.
#[test]
fn what_could_be_understood_in_two_ways_is_refused() {
    for (bad, why) in [
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", "two lengths"),
        ("POST / HTTP/1.1\r\ncontent-length: 5, 6\r\n\r\nhello", "two lengths in one line"),
        ("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\nhello", "a sign"),
        ("POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\nhello", "a sign"),
        ("POST / HTTP/1.1\r\ncontent-length: 0x5\r\n\r\nhello", "not decimal"),
        ("POST / HTTP/1.1\r\ncontent-length: 5 5\r\n\r\nhello", "a space within"),
        ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\nhello", "no length"),
        ("POST / HTTP/1.1\r\ncontent-length: 5,\r\n\r\nhello", "an empty length"),
        ("POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n", "too long"),
        ("POST / HTTP/1.1\r\ncontent-length: x\r\ntransfer-encoding: chunked\r\n\r\n", "bad beside a coding"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", "another coding"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "another coding inside"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n", "another coding outside"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n", "twice"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", "twice"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n", "a second one"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: x\r\ntransfer-encoding: chunked\r\n\r\n", "a first one"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: \x0bchunked\r\n\r\n", "a control"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked;x=1\r\n\r\n", "a parameter"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n", "what HTTP no longer has"),
        ("POST / HTTP/1.1\r\ntransfer-encoding:\r\n\r\n", "no coding"),
        ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.0 with a coding"),
        ("POST / HTTP/1.1\r\ntransfer-encoding : chunked\r\n\r\n", "a space before the colon"),
        ("POST / HTTP/1.1\r\ntransfer-encoding\t: chunked\r\n\r\n", "a tab before the colon"),
        ("POST / HTTP/1.1\r\n transfer-encoding: chunked\r\n\r\n", "a space at the beginning"),
        ("POST / HTTP/1.1\r\nx: 1\r\n transfer-encoding: chunked\r\n\r\n", "a folded line"),
        ("POST / HTTP/1.1\r\nx: a\rtransfer-encoding: chunked\r\n\r\n", "a bare CR"),
        ("POST / HTTP/1.1\r\nx: a\0b\r\n\r\n", "a NUL"),
        ("POST / HTTP/1.1\r\n: a\r\n\r\n", "no name"),
        ("POST / HTTP/1.1\r\nx y: a\r\n\r\n", "a space in a name"),
        ("POST / HTTP/1.1\r\nx\r\n\r\n", "no colon"),
        ("POST  / HTTP/1.1\r\n\r\n", "two spaces"),
        ("POST / HTTP/1.1 \r\n\r\n", "a space at the end of the line"),
        ("POST /\tHTTP/1.1\r\n\r\n", "a tab"),
        ("POST / HTTP/1.2\r\n\r\n", "another version"),
        ("POST / HTTP/2.0\r\n\r\n", "another version"),
        ("POST / http/1.1\r\n\r\n", "lower case"),
        ("POST /\r\n\r\n", "HTTP/0.9"),
        ("P(ST / HTTP/1.1\r\n\r\n", "no method"),
        ("GET c.shop HTTP/1.1\r\n\r\n", "an authority for another method than CONNECT"),
        ("GET c.shop:80 HTTP/1.1\r\n\r\n", "an authority for another method than CONNECT"),
        ("CONNECT / HTTP/1.1\r\n\r\n", "a path for CONNECT"),
        ("CONNECT http://c/ HTTP/1.1\r\n\r\n", "a URI for CONNECT"),
        ("GET http:// HTTP/1.1\r\n\r\n", "no host"),
    ] {
        let parsed = request(bad);
        assert!(matches!(parsed, Err(Bad::Malformed(_))), "{why}: {bad:?}: {parsed:?}");
    }
}

#[test]
fn what_is_said_twice_in_the_same_way_is_said_once() {
    for lines in ["content-length: 5\r\ncontent-length: 5", "content-length: 5, 5", "content-length: 05"] {
        let text = format!("POST / HTTP/1.1\r\n{lines}\r\n\r\nhello");
        let (head, used) = request(&text).unwrap().unwrap();
        assert_eq!((head.whole().as_deref(), used), (Some(&b"hello"[..]), text.len()), "{lines}");
        assert_eq!(head.parts.headers.get_all("content-length").iter().count(), 1);
        assert!(head.keep);
    }
}

/// A coding beside a length: the chunks count, and nothing that follows them is trusted.
#[test]
fn a_coding_outweighs_a_length() {
    let text = "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: Chunked\r\n\r\n";
    let (head, _) = request(text).unwrap().unwrap();
    assert_eq!((head.framing, head.keep), (Framing::Chunked, false));
    assert!(!head.parts.headers.contains_key("content-length"));
}

#[test]
fn the_connection_is_kept_as_its_peer_says() {
    for (version, connection, kept) in [
        ("1.1", None, true),
        ("1.1", Some("close"), false),
        ("1.1", Some("x, Close"), false),
        ("1.1", Some("keep-alive"), true),
        ("1.1", Some("keep-alive, close"), false),
        ("1.0", None, false),
        ("1.0", Some("Keep-Alive"), true),
        ("1.0", Some("keep-alive, close"), false),
    ] {
        let line = connection.map_or(String::new(), |connection| format!("connection: {connection}\r\n"));
        let (head, _) = request(&format!("GET / HTTP/{version}\r\n{line}\r\n")).unwrap().unwrap();
        assert_eq!(head.keep, kept, "{version} {connection:?}");
        let text = format!("HTTP/{version} 200 OK\r\ncontent-length: 0\r\n{line}\r\n");
        let (head, _) = head::response(text.as_bytes(), &Method::GET).unwrap().unwrap();
        assert_eq!(head.keep, kept, "{version} {connection:?}");
    }
}

#[test]
fn heads_have_limits() {
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(64 << 10));
    assert_eq!(requests(Pieces::new(long.as_bytes(), &[])).1, Some("too large"));
    let endless = "x".repeat(65 << 10);
    assert_eq!(requests(Pieces::new(endless.as_bytes(), &[100])).1, Some("too large"));
    let many = |count| format!("GET / HTTP/1.1\r\nhost: c\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(request(&many(256)).unwrap().is_some());
    assert_eq!(request(&many(257)).unwrap_err(), Bad::TooLarge);
    // As on HTTP/2: :method, :scheme, :path and :authority count 166, the name of x and its overhead 33.
    let large = |length| format!("GET / HTTP/1.1\r\nhost: c\r\nx: {}\r\n\r\n", "a".repeat(length));
    let most = (64 << 10) - 166 - 33;
    assert_eq!(requests(Pieces::new(large(most).as_bytes(), &[1, 50_000])).1, None);
    assert_eq!(request(&large(most + 1)).unwrap_err(), Bad::TooLarge);
    let crumbs = |count| format!("GET / HTTP/1.1\r\nhost: c\r\n{}\r\n", "cookie: 12345678\r\n".repeat(count));
    let most = ((64 << 10) - 166 - 6 - 32 + 2) / 10;
    assert!(most * 18 > 64 << 10, "these are too many bytes already");
    assert!(request(&crumbs(3000)).unwrap().is_some());
    let status = |length: usize| {
        let text = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(length));
        head::response(text.as_bytes(), &Method::GET).map(|_| ())
    };
    let most = (64 << 10) - 42 - 33;
    assert_eq!((status(most), status(most + 1)), (Ok(()), Err(Bad::TooLarge)));
}

/// A head's length is that of its bytes, from its first line on.
#[test]
fn a_large_head_is_judged_alike_however_it_is_cut() {
    let head = |lead: usize, crumbs: usize, length: usize| {
        let mut text = "\r\n".repeat(lead) + "GET / HTTP/1.1\r\n" + &"cookie: a=b\r\n".repeat(crumbs);
        let missing = (2 * lead + length).saturating_sub(text.len() + "x:\r\n\r\n".len());
        text += &format!("x:{}\r\n\r\n", " ".repeat(missing));
        text
    };
    let too_large = (0, Some("too large"));
    for (text, expected) in [
        (head(0, 10, HEADER_LIMIT), (1, None)),
        (head(0, 10, HEADER_LIMIT + 1), too_large),
        (head(0, 3000, HEADER_LIMIT), (1, None)),
        // The crumbs are one field of 25 KiB.
        (head(0, 5040, HEADER_LIMIT + 1), too_large),
        (head(0, 7000, 0), too_large),
        (head(3, 3000, HEADER_LIMIT), (1, None)),
        (head(40_000, 3000, HEADER_LIMIT), (1, None)),
        (head(40_000, 3000, HEADER_LIMIT + 1), too_large),
        (head(0, 0, HEADER_LIMIT)[..HEADER_LIMIT - 2].to_owned() + "bad line\r\n\r\n", too_large),
        (head(0, 0, 90_000).replacen("x:", "bad line\r\nx:", 1), (0, Some("malformed"))),
    ] {
        let limit = HEADER_LIMIT + text.len() - text.trim_start().len();
        let mut cuts =
            vec![vec![], vec![1], vec![3, 5], vec![limit - 1], vec![limit], vec![limit - 1, limit]];
        cuts.extend((1..60).map(|n| vec![n * 2117, n * 2117 + n]));
        cuts.push((1..150).map(|n| n << 10).collect());
        for cuts in cuts {
            let (messages, why) = requests(Pieces::new(text.as_bytes(), &cuts));
            assert_eq!((messages.len(), why), expected, "{} bytes cut at {cuts:?}", text.len());
        }
    }
}

#[test]
fn options_for_a_server_as_a_whole_comes_in_absolute_form_too() {
    for (line, path) in [
        ("OPTIONS * HTTP/1.1", "*"),
        ("OPTIONS http://h HTTP/1.1", "*"),
        ("OPTIONS http://h/ HTTP/1.1", "/"),
        ("OPTIONS http://h?x HTTP/1.1", "?x"),
        ("GET http://h HTTP/1.1", "/"),
    ] {
        let (head, _) = request(&format!("{line}\r\nhost: h\r\n\r\n")).unwrap().unwrap();
        assert_eq!(head.parts.uri.path_and_query().unwrap().as_str(), path, "{line}");
    }
}

fn response(text: &str, method: &Method) -> Result<(Framing, bool), Bad> {
    head::response(text.as_bytes(), method).map(|parsed| {
        let (head, _) = parsed.expect("it is whole");
        (head.framing, head.keep)
    })
}

/// RFC 9112, section 6.3.
#[test]
fn the_length_of_a_response_follows_its_request() {
    const NOTHING: Framing = Framing::Length(0);
    for (text, method, expected) in [
        ("200 OK\r\ncontent-length: 5", Method::GET, (Framing::Length(5), true)),
        ("200 OK\r\ncontent-length: 5", Method::HEAD, (NOTHING, true)),
        ("200 OK\r\ntransfer-encoding: chunked", Method::HEAD, (NOTHING, true)),
        ("304 Not Modified\r\ncontent-length: 5", Method::GET, (NOTHING, true)),
        ("204 No Content", Method::GET, (NOTHING, true)),
        ("100 Continue", Method::POST, (NOTHING, true)),
        ("200 OK\r\ntransfer-encoding: chunked", Method::GET, (Framing::Chunked, true)),
        ("200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5", Method::GET, (Framing::Chunked, false)),
        ("200 OK", Method::GET, (Framing::UntilClose, false)),
        ("200 OK", Method::CONNECT, (NOTHING, true)),
        ("403 Forbidden\r\ncontent-length: 5", Method::CONNECT, (Framing::Length(5), true)),
        ("200\r\ncontent-length: 5", Method::GET, (Framing::Length(5), true)),
    ] {
        assert_eq!(response(&format!("HTTP/1.1 {text}\r\n\r\n"), &method).unwrap(), expected, "{text}");
    }
    for bad in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
        "HTTP/1.1 200 OK\r\ncontent-length: five",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\nx : y",
        "HTTP/1.1 200 OK\r\nx: y\r\n folded",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2000 OK",
        "ICY 200 OK",
    ] {
        let parsed = response(&format!("{bad}\r\n\r\n"), &Method::GET);
        assert!(matches!(parsed, Err(Bad::Malformed(_))), "{bad}: {parsed:?}");
    }
}

/// Decodes all of `bytes`.
fn decoded(framing: Framing, bytes: &[u8]) -> Result<(Vec<u8>, usize), Malformed> {
    let (mut buffer, mut decoder, mut data) = (BytesMut::from(bytes), BodyDecoder::new(framing), Vec::new());
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(part) => data.extend_from_slice(&part),
            Decoded::Trailers(_) | Decoded::End => return Ok((data, buffer.len())),
            Decoded::More => return Ok((data, usize::MAX)),
        }
    }
}

#[test]
fn chunks_are_taken_as_the_standard_has_them() {
    for (text, expected, left) in [
        ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
        ("5\r\nhello\r\n0\r\n\r\nGET", "hello", 3),
        ("2;a=b;c=\"d e\"\r\nhe\r\n003\r\nllo\r\n00\r\n\r\n", "hello", 0),
        ("A\r\n0123456789\r\n0\r\nx-sum: 1\r\nx-other:\t2 \r\n\r\n", "0123456789", 0),
        ("5 ;a\r\nhello\r\n0 \r\n\r\n", "hello", 0),
        ("5\r\nhel", "hel", usize::MAX),
        ("5\r\nhello\r", "hello", usize::MAX),
        ("5\r\nhello\r\n0\r\nx: y\r\n", "hello", usize::MAX),
    ] {
        assert_eq!(decoded(Framing::Chunked, text.as_bytes()), Ok((expected.into(), left)), "{text:?}");
    }
    for (text, data, used) in [
        ("5\r\nhello\r\n0\r\n\r\n", "hello", 15),
        ("5\r\nhello\r\n0\r\n\r\nGET", "hello", 15),
        ("0\r\n\r\n5", "", 5),
    ] {
        let (range, end) = single_chunk(text.as_bytes()).unwrap();
        assert_eq!((&text[range], end), (data, used));
    }
    for text in
        ["5\r\nhello", "5\r\nhel\r\n0\r\n\r\n", "5;a\r\nhello\r\n0\r\n\r\n", "0\r\nx: y\r\n\r\n", "", "x\r\n"]
    {
        assert_eq!(single_chunk(text.as_bytes()), None, "{text:?}");
    }
    let many = "1\r\na\r\n".repeat(10_000) + "0\r\n\r\n";
    assert_eq!(decoded(Framing::Chunked, many.as_bytes()).unwrap().0.len(), 10_000);
}

#[test]
fn bad_chunks_are_refused() {
    let endless = format!("5;{}\r\n", "x".repeat(5 << 10));
    let extended = format!("1;{}\r\na\r\n", "x".repeat(4000)).repeat(5);
    let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(257));
    let long_trailer = format!("0\r\nx: {}\r\n\r\n", "y".repeat(65 << 10));
    for bad in [
        "\r\nhello\r\n0\r\n\r\n",
        "g\r\n",
        "-5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 5\r\nhello\r\n",
        "5,\r\nhello\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhellox\r\n",
        "5\rx\r\nhello\r\n",
        "5;a\0\r\nhello\r\n",
        "5;a\rb\r\nhello\r\n",
        "fffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\nx: y\0\r\n\r\n",
        "0\r\n\n",
        &endless,
        &extended,
        &trailers,
        &long_trailer,
    ] {
        assert!(decoded(Framing::Chunked, bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn trailers_say_nothing_about_the_message_itself() {
    let text = b"0\r\nx-sum: 1\r\ncontent-length: 5\r\nhost: d\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let Ok(Decoded::Trailers(trailers)) = decoder.decode(&mut BytesMut::from(&text[..])) else { panic!() };
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
    let text = b"0\r\nhost: d\r\n\r\n";
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    assert_eq!(decoder.decode(&mut BytesMut::from(&text[..])), Ok(Decoded::End));
}

#[test]
fn requests_are_written_in_the_form_of_http_1_1() {
    let (mut head, ()) = Request::get("http://c:81/x?y").body(()).unwrap().into_parts();
    for (name, value) in
        [("cookie", "a=1"), ("te", "trailers"), ("cookie", "b=2"), ("x", "1"), ("connection", "y")]
    {
        head.headers.append(name, HeaderValue::from_static(value));
    }
    let written = |head: &http::request::Parts, exact, upgrade: Option<&'static str>| {
        let mut out = Vec::new();
        let upgrade = upgrade.map(HeaderValue::from_static);
        encode::request(&mut out, head, Announced::of_request(head, exact), upgrade.as_ref());
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written(&head, None, None),
        "GET /x?y HTTP/1.1\r\nhost: c:81\r\nte: trailers\r\nx: 1\r\ncookie: a=1; b=2\r\n\
         transfer-encoding: chunked\r\nconnection: te\r\n\r\n"
    );
    head.headers.clear();
    assert_eq!(written(&head, Some(0), None), "GET /x?y HTTP/1.1\r\nhost: c:81\r\n\r\n");
    assert!(written(&head, Some(7), None).contains("\r\ncontent-length: 7\r\n"));
    assert!(written(&head, Some(0), Some("websocket")).contains("connection: upgrade\r\nupgrade: websocket"));
    head.method = Method::POST;
    assert!(written(&head, Some(0), None).contains("\r\ncontent-length: 0\r\n"));
    head.headers.insert("content-length", HeaderValue::from_static("9"));
    assert!(written(&head, None, None).contains("\r\ncontent-length: 9\r\n"));
    let (head, ()) = Request::connect("c:443").body(()).unwrap().into_parts();
    assert_eq!(written(&head, Some(0), None), "CONNECT c:443 HTTP/1.1\r\nhost: c:443\r\n\r\n");
    let (head, ()) = Request::options("http://c").body(()).unwrap().into_parts();
    assert!(written(&head, Some(0), None).starts_with("OPTIONS / HTTP/1.1\r\n"));
}

/// RFC 9110, section 8.6, and RFC 9112, section 6.1.
#[test]
fn answers_are_framed_as_their_requests_allow() {
    let said = |length: &'static str| {
        let mut headers = HeaderMap::new();
        if !length.is_empty() {
            headers.insert("content-length", HeaderValue::from_static(length));
        }
        headers
    };
    let (get, head) = (&Method::GET, &Method::HEAD);
    let (new, old) = (Version::HTTP_11, Version::HTTP_10);
    for (method, version, status, length, exact, sending, line) in [
        (get, new, 200, "", Some(5), Sending::Length(5), "content-length: 5"),
        (get, new, 200, "5", None, Sending::Length(5), "content-length: 5"),
        (get, new, 200, "", Some(0), Sending::Nothing, "content-length: 0"),
        (get, new, 200, "", None, Sending::Chunked, "transfer-encoding: chunked"),
        (get, new, 200, "junk", None, Sending::Chunked, "transfer-encoding: chunked"),
        (get, old, 200, "", None, Sending::UntilClose, ""),
        (head, new, 200, "5", Some(0), Sending::Nothing, "content-length: 5"),
        (head, new, 200, "", Some(0), Sending::Nothing, ""),
        (get, new, 304, "5", Some(0), Sending::Nothing, "content-length: 5"),
        (get, new, 304, "", Some(0), Sending::Nothing, ""),
        (get, new, 204, "0", Some(0), Sending::Nothing, ""),
        (&Method::CONNECT, new, 200, "0", Some(0), Sending::Nothing, ""),
        (&Method::CONNECT, new, 502, "", Some(3), Sending::Length(3), "content-length: 3"),
    ] {
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), said(length));
        let announced = Announced::of_response(method, version, status, &headers, exact);
        let mut out = Vec::new();
        encode::response(&mut out, version, status, &headers, announced, b"", None);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.split("\r\n").collect();
        let about: Vec<&str> = lines
            .iter()
            .filter(|l| l.starts_with("content-length") || l.starts_with("transfer-encoding"))
            .copied()
            .collect();
        let expected: Vec<&str> = Some(line).filter(|line| !line.is_empty()).into_iter().collect();
        assert_eq!((announced.sending, about), (sending, expected), "{method} {version:?} {status} {length}");
        assert!(lines.iter().any(|line| line.starts_with("date: ")), "{text}");
    }
}

#[test]
fn a_body_of_another_length_than_announced_is_noticed() {
    let put = |mut sending, part: &'static str, last| Output::default().put(part.into(), &mut sending, last);
    assert!(put(Sending::Length(5), "hello", true).is_ok());
    assert!(put(Sending::Length(5), "hell", true).is_err());
    assert!(put(Sending::Length(5), "hello!", false).is_err());
    assert!(put(Sending::Nothing, "x", true).is_err());
    assert!(Output::default().finish(&mut Sending::Length(1)).is_err());
    assert!(Output::default().finish(&mut Sending::Nothing).is_ok());
}

/// The bytes of a request whose body comes in `parts`.
fn written(headers: &HeaderMap, parts: &[Vec<u8>], trailers: &HeaderMap, chunked: bool) -> Vec<u8> {
    struct Sink(Vec<u8>);
    impl tokio::io::AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            // Never all of it at once.
            let count = data.len().div_ceil(2);
            self.0.extend_from_slice(&data[..count]);
            Poll::Ready(Ok(count))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let (mut head, ()) = Request::put("http://c/x").body(()).unwrap().into_parts();
    head.headers = headers.clone();
    let length = parts.iter().map(|part| part.len() as u64).sum();
    let announced = Announced::of_request(&head, (!chunked).then_some(length));
    let (mut output, mut sink, mut sending) = (Output::default(), Sink(Vec::new()), announced.sending);
    let mut cx = Context::from_waker(Waker::noop());
    encode::request(output.buffer(), &head, announced, None);
    for part in parts {
        if !output.has_room(&Charge::default()) {
            ready(output.poll_flush(&mut cx, &mut sink)).unwrap();
        }
        output.put(Bytes::from(part.clone()), &mut sending, false).unwrap();
    }
    if !output.has_room(&Charge::default()) {
        ready(output.poll_flush(&mut cx, &mut sink)).unwrap();
    }
    output.finish_with(&mut sending, Some(trailers)).unwrap();
    ready(output.poll_flush(&mut cx, &mut sink)).unwrap();
    sink.0
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    let field = ("x-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?");
    prop::collection::vec(field, 0..6).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        map
    })
}

fn body() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let small = prop::collection::vec(any::<u8>(), 1..40);
    let large = (9_000usize..40_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    prop::collection::vec(prop_oneof![4 => small, 1 => large], 0..5)
}

const CORPUS: &[&str] = &[
    "GET / HTTP/1.1\r\nhost: c\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nhost: c\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\n\r\nhello",
    "POST /x HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nx-t: 1\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n0e\r\none chunk only\r\n0\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "PUT /y HTTP/1.1\nhost: c\ncontent-length: 2\n\nok",
    "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    "POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 7\r\n\r\nhello",
    "GET / HTTP/1.1\r\nhost : c\r\n\r\n",
    "GET / HTTP/1.1\r\nho",
];

proptest! {
    /// Neither a request nor what follows it depends on the reads that bring it.
    #[test]
    fn pieces_do_not_matter(
        picked in prop::collection::vec(0..CORPUS.len(), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let text: String = picked.iter().map(|index| CORPUS[*index]).collect();
        let whole = requests(Pieces::new(text.as_bytes(), &[]));
        let pieces = requests(Pieces::new(text.as_bytes(), &cuts));
        prop_assert_eq!(&whole, &pieces, "{:?}", text);
        let bytes: Vec<usize> = (0..text.len()).collect();
        prop_assert_eq!(&whole, &requests(Pieces::new(text.as_bytes(), &bytes)), "{:?}", text);
    }

    /// What is written is read as what it was.
    #[test]
    fn what_is_written_is_read(
        headers in fields(),
        parts in body(),
        trailers in fields(),
        chunked in any::<bool>(),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let bytes = written(&headers, &parts, &trailers, chunked);
        let (messages, problem) = requests(Pieces::new(&bytes, &cuts));
        prop_assert_eq!(problem, None);
        prop_assert_eq!(messages.len(), 1);
        let message = &messages[0];
        prop_assert_eq!(&message.line, "PUT /x HTTP/1.1");
        prop_assert_eq!(&message.body, &parts.concat());
        for name in headers.keys() {
            let all = |map: &HeaderMap| map.get_all(name).iter().cloned().collect::<Vec<_>>();
            prop_assert_eq!(all(&message.headers), all(&headers));
        }
        let expected = if chunked { trailers } else { HeaderMap::new() };
        prop_assert_eq!(&message.trailers, &expected);
    }

    /// No bytes make the parsers panic or take more than they were given.
    #[test]
    fn nothing_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), length in any::<u64>()) {
        for method in [Method::GET, Method::HEAD] {
            if let Ok(Some((_, used))) = head::response(&bytes, &method) {
                prop_assert!(used <= bytes.len());
            }
        }
        if let Ok(Some((_, used))) = head::request(&bytes) {
            prop_assert!(used <= bytes.len());
        }
        for framing in [Framing::Chunked, Framing::Length(length), Framing::UntilClose] {
            let _ = if matches!(framing, Framing::UntilClose) { Ok((Vec::new(), 0)) } else { decoded(framing, &bytes) };
        }
    }
}
