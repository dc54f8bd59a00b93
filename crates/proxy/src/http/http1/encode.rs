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
