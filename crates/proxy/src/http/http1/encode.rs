//! Heads, chunks and trailers as they are written (RFC 9112). What belongs to one connection is decided here
//! and never copied from the message.

use http::header::{CONTENT_LENGTH, COOKIE, HeaderMap, HeaderValue, TE};
use http::{Method, StatusCode, Version, request};

use super::date;
use super::output::Sending;
use super::spelled;
use crate::http::spelling::Spelling;
use crate::uri;

/// How the body of a message is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    pub sending: Sending,
    /// The `Content-Length` to write. `None`: none, whatever the message's headers say.
    pub length: Option<u64>,
}

impl Announced {
    const NOTHING: Self = Self { sending: Sending::Nothing, length: None };

    fn length(length: u64) -> Self {
        let sending = if length == 0 { Sending::Nothing } else { Sending::Length(length) };
        Self { sending, length: Some(length) }
    }

    /// For the answer to a request with `method` of `version` (RFC 9110, section 8.6; RFC 9112, section 6).
    pub fn of_response(
        method: &Method,
        version: Version,
        status: StatusCode,
        headers: &HeaderMap,
        exact: Option<u64>,
    ) -> Self {
        if status.is_informational()
            || status == StatusCode::NO_CONTENT
            || (method == Method::CONNECT && status.is_success())
        {
            return Self::NOTHING;
        }
        let said = said_length(headers);
        if method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            // As long as the body would have been: of that an empty body says nothing.
            return Self { sending: Sending::Nothing, length: said.or(exact.filter(|length| *length > 0)) };
        }
        match said.or(exact) {
            Some(length) => Self::length(length),
            None if version == Version::HTTP_11 => Self { sending: Sending::Chunked, length: None },
            None => Self { sending: Sending::UntilClose, length: None },
        }
    }

    pub fn of_request(head: &request::Parts, exact: Option<u64>) -> Self {
        match said_length(&head.headers).or(exact) {
            // RFC 9110, section 8.6: said where the method has a meaning for a body.
            Some(0)
                if !matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
                    && !head.headers.contains_key(CONTENT_LENGTH) =>
            {
                Self::NOTHING
            }
            Some(length) => Self::length(length),
            None => Self { sending: Sending::Chunked, length: None },
        }
    }
}

fn said_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Writes the head of an answer. `connection`: what is said of the connection, unless it is `upgraded`,
/// when the headers say it.
pub(super) fn response(
    out: &mut Vec<u8>,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    announced: Announced,
    connection: &[u8],
    spelling: Option<&Spelling>,
) {
    let line: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    out.extend_from_slice(line);
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(match spelling {
        Some(spelling) => spelling.phrase(),
        None => status.canonical_reason().unwrap_or_default().as_bytes(),
    });
    out.extend_from_slice(b"\r\n");
    if let Some(spelling) = spelling {
        return spelled::response(out, status, headers, announced, connection, spelling);
    }
    let upgraded = matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED);
    let mut dated = status.is_informational();
    for (name, value) in headers {
        match name.as_str() {
            "connection" | "upgrade" if upgraded => {}
            "connection" | "content-length" | "transfer-encoding" | "keep-alive" | "upgrade" => continue,
            "date" => dated = true,
            _ => {}
        }
        field(out, name.as_str(), value);
    }
    length(out, announced);
    if !dated {
        out.extend_from_slice(b"date: ");
        date::write(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a request of the inner form (see
/// [`normalize_request`](crate::http::headers::normalize_request)): with `Host`, in origin-form, with one
/// `Cookie` (RFC 9113, section 8.2.3). `upgrade`: what it asks to go on in.
pub(super) fn request(
    out: &mut Vec<u8>,
    head: &request::Parts,
    announced: Announced,
    upgrade: Option<&HeaderValue>,
) {
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(match head.method == Method::CONNECT {
        true => authority.as_bytes(),
        false => uri::path(&head.uri, &head.extensions),
    });
    if let Some(spelling) = head.extensions.get::<Spelling>() {
        out.extend_from_slice(b" HTTP/1.1\r\n");
        return spelled::request(out, head, announced, upgrade, spelling);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut cookies = 0;
    for (name, value) in &head.headers {
        match name.as_str() {
            "host" | "connection" | "content-length" | "transfer-encoding" | "keep-alive" | "upgrade" => {}
            "cookie" => cookies += 1,
            name => field(out, name, value),
        }
    }
    if cookies > 0 {
        out.extend_from_slice(b"cookie: ");
        for (index, cookie) in head.headers.get_all(COOKIE).iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(cookie.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    length(out, announced);
    match upgrade {
        Some(protocol) => {
            out.extend_from_slice(b"connection: upgrade\r\n");
            field(out, "upgrade", protocol);
        }
        // RFC 9110, section 10.1.4.
        None if head.headers.contains_key(TE) => out.extend_from_slice(b"connection: te\r\n"),
        None => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn length(out: &mut Vec<u8>, announced: Announced) {
    if let Some(length) = announced.length {
        out.extend_from_slice(b"content-length: ");
        number(out, length, 10);
        out.extend_from_slice(b"\r\n");
    } else if announced.sending == Sending::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &HeaderValue) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes the line before a chunk.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    number(out, size as u64, 16);
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailer section.
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    match Spelling::of_trailers(trailers) {
        Some(spelling) => spelled::trailers(out, trailers, &spelling),
        None => trailers.iter().for_each(|(name, value)| field(out, name.as_str(), value)),
    }
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, mut value: u64, base: u64) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b"0123456789abcdef"[(value % base) as usize];
        value /= base;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    /// An answer's head as it is written.
    fn answer(
        version: Version,
        status: u16,
        lines: &[(&'static str, &'static str)],
        connection: &[u8],
    ) -> String {
        let (status, headers, mut out) = (StatusCode::from_u16(status).unwrap(), headers(lines), Vec::new());
        let announced = Announced::of_response(&Method::GET, version, status, &headers, Some(0));
        response(&mut out, version, status, &headers, announced, connection, None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_says_what_is_its_own_and_what_we_say_of_the_connection() {
        let date = ("date", "Thu, 01 Jan 1970 00:00:00 GMT");
        let of_connection = [
            ("connection", "upgrade"),
            ("content-length", "0"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
        ];
        let all = |more: &[_]| [&of_connection[..], &[("x", "1")], more].concat();
        for (version, status, lines, expected) in [
            (
                Version::HTTP_11,
                200,
                all(&[date]),
                "HTTP/1.1 200 OK\r\nx: 1\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 0\r\nconnection: c\r\n\r\n",
            ),
            (
                Version::HTTP_10,
                299,
                vec![date],
                "HTTP/1.0 299 \r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 0\r\nconnection: c\r\n\r\n",
            ),
            (Version::HTTP_11, 103, all(&[]), "HTTP/1.1 103 Early Hints\r\nx: 1\r\nconnection: c\r\n\r\n"),
            (
                Version::HTTP_11,
                101,
                all(&[]),
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\nx: 1\r\nconnection: c\r\n\r\n",
            ),
            (
                Version::HTTP_11,
                426,
                all(&[date]),
                "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: x\r\nx: 1\r\n\
                 date: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 0\r\nconnection: c\r\n\r\n",
            ),
        ] {
            assert_eq!(answer(version, status, &lines, b"connection: c\r\n"), expected);
        }
        let dates = |lines: &[_]| answer(Version::HTTP_11, 200, lines, b"").matches("date: ").count();
        assert_eq!((dates(&[]), dates(&[date])), (1, 1), "each has one");
    }

    /// RFC 9110, section 8.6; RFC 9112, section 6.
    #[test]
    fn an_answer_is_framed_by_its_request_and_its_status() {
        let [get, head, connect] = [&Method::GET, &Method::HEAD, &Method::CONNECT];
        let (nothing, chunked) = (Announced::NOTHING, Announced { sending: Sending::Chunked, length: None });
        let only_said = |length| Announced { sending: Sending::Nothing, length: Some(length) };
        for (method, status, said, exact, expected) in [
            (get, 100, Some("5"), Some(5), nothing),
            (get, 103, None, None, nothing),
            (get, 101, None, None, nothing),
            (get, 204, Some("5"), None, nothing),
            (connect, 200, Some("5"), None, nothing),
            (connect, 299, None, None, nothing),
            (connect, 300, None, None, chunked),
            (connect, 199, None, None, nothing),
            (get, 205, Some("0"), None, only_said(0)),
            (head, 200, Some("5"), Some(0), only_said(5)),
            (head, 200, Some("0"), None, only_said(0)),
            (head, 200, None, Some(5), only_said(5)),
            (head, 200, None, Some(1), only_said(1)),
            (head, 200, None, Some(0), nothing),
            (head, 200, None, None, nothing),
            (get, 304, Some("5"), None, only_said(5)),
            (get, 304, None, Some(0), nothing),
            (get, 303, None, None, chunked),
            (get, 200, Some("5"), Some(7), Announced { sending: Sending::Length(5), length: Some(5) }),
            (get, 200, None, Some(7), Announced { sending: Sending::Length(7), length: Some(7) }),
            (get, 200, None, None, chunked),
        ] {
            let headers = headers(&said.map(|said| ("content-length", said)).into_iter().collect::<Vec<_>>());
            let status = StatusCode::from_u16(status).unwrap();
            let announced = Announced::of_response(method, Version::HTTP_11, status, &headers, exact);
            assert_eq!(announced, expected, "{method} {status} {said:?} {exact:?}");
            let old = Announced::of_response(method, Version::HTTP_10, status, &headers, exact);
            let until_close = Announced { sending: Sending::UntilClose, length: None };
            assert_eq!(old, if expected == chunked { until_close } else { expected }, "{method} {status}");
        }
    }

    /// RFC 9110, section 8.6.
    #[test]
    fn a_request_without_a_body_says_so_where_one_is_expected() {
        for (method, said, exact, sending, length) in [
            ("GET", None, Some(0), Sending::Nothing, None),
            ("DELETE", None, Some(0), Sending::Nothing, None),
            ("OPTIONS", None, Some(0), Sending::Nothing, None),
            ("POST", None, Some(0), Sending::Nothing, Some(0)),
            ("PUT", None, Some(0), Sending::Nothing, Some(0)),
            ("PATCH", None, Some(0), Sending::Nothing, Some(0)),
            // Said by whoever sent it.
            ("GET", Some("0"), Some(0), Sending::Nothing, Some(0)),
            ("POST", Some("0"), None, Sending::Nothing, Some(0)),
            ("GET", None, Some(1), Sending::Length(1), Some(1)),
            ("GET", Some("7"), None, Sending::Length(7), Some(7)),
            ("POST", Some("18446744073709551615"), None, Sending::Length(u64::MAX), Some(u64::MAX)),
            ("GET", None, None, Sending::Chunked, None),
            ("POST", None, None, Sending::Chunked, None),
        ] {
            let (mut head, ()) = Request::builder().method(method).body(()).unwrap().into_parts();
            head.headers =
                headers(&said.map(|said| ("content-length", said)).into_iter().collect::<Vec<_>>());
            let announced = Announced::of_request(&head, exact);
            assert_eq!(announced, Announced { sending, length }, "{method} {said:?} {exact:?}");
            let mut out = Vec::new();
            request(&mut out, &head, announced, None);
            let text = String::from_utf8(out).unwrap();
            let line = length.map(|length| format!("\r\ncontent-length: {length}\r\n"));
            assert!(line.is_none_or(|line| text.contains(&line)), "{text}");
            assert_eq!(text.contains("content-length"), length.is_some(), "{text}");
            assert_eq!(
                text.contains("transfer-encoding: chunked\r\n"),
                sending == Sending::Chunked,
                "{text}"
            );
        }
    }

    #[test]
    fn of_a_request_nothing_is_copied_that_is_the_connections() {
        let (mut head, ()) = Request::get("http://h/a").body(()).unwrap().into_parts();
        for (lines, upgrade, rest) in [
            (&[("x", "1")][..], None, "x: 1\r\n"),
            (
                &[("host", "evil"), ("connection", "x"), ("content-length", "x"), ("upgrade", "u")],
                None,
                "content-length: 0\r\n",
            ),
            (&[("transfer-encoding", "chunked"), ("keep-alive", "x")], None, ""),
            (&[("te", "trailers")], None, "te: trailers\r\nconnection: te\r\n"),
            (&[("te", "trailers")], Some("u"), "te: trailers\r\nconnection: upgrade\r\nupgrade: u\r\n"),
            (&[("cookie", "a")], None, "cookie: a\r\n"),
            (
                &[("cookie", "a"), ("x", "1"), ("cookie", "b"), ("cookie", "c")],
                None,
                "x: 1\r\ncookie: a; b; c\r\n",
            ),
        ] {
            head.headers = headers(lines);
            let mut out = Vec::new();
            let upgrade = upgrade.map(HeaderValue::from_static);
            request(&mut out, &head, Announced::of_request(&head, Some(0)), upgrade.as_ref());
            let expected = format!("GET /a HTTP/1.1\r\nhost: h\r\n{rest}\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{lines:?}");
        }
    }

    #[test]
    fn chunks_and_trailers_are_written_as_they_are_read() {
        for (size, line) in [
            (0, "0"),
            (1, "1"),
            (9, "9"),
            (10, "a"),
            (15, "f"),
            (16, "10"),
            (0x1a2b, "1a2b"),
            (usize::MAX, "ffffffffffffffff"),
        ] {
            let mut out = Vec::new();
            chunk_size(&mut out, size);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\r\n"));
        }
        for (lines, expected) in
            [(&[][..], "0\r\n\r\n"), (&[("x", "1"), ("y", "")], "0\r\nx: 1\r\ny: \r\n\r\n")]
        {
            let mut out = Vec::new();
            trailers(&mut out, &headers(lines));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
