//! Fields written in the order and letters of whoever sent them (see [`Spelling`]). What we say ourselves stands where
//! the sender said it, or at the end.

use std::collections::HashMap;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, TE, ValueIter};
use http::{StatusCode, request};

use super::date;
use super::encode::Announced;
use super::output::Sending;
use crate::http::spelling::Spelling;
use crate::mesh_headers::SPELLING;

/// Fields that are never copied from a message.
const OURS: [&str; 6] =
    ["host", "connection", "content-length", "transfer-encoding", "keep-alive", "upgrade"];

/// A field that we say ourselves, with its usual letters.
type Own = (&'static str, Vec<u8>);

/// Writes what follows the first line of a request, as [`encode::request`](super::encode::request) does.
#[cold]
pub(super) fn request(
    out: &mut Vec<u8>,
    head: &request::Parts,
    announced: Announced,
    upgrade: Option<&HeaderValue>,
    spelling: &Spelling,
) {
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let mut own = vec![("Host", authority.into())];
    length(&mut own, announced);
    match upgrade {
        Some(protocol) => {
            own.push(("Connection", b"upgrade".into()));
            own.push(("Upgrade", protocol.as_bytes().into()));
        }
        // RFC 9110, section 10.1.4.
        None if head.headers.contains_key(TE) => own.push(("Connection", b"te".into())),
        None => {}
    }
    if !spelling.names().any(|name| name.eq_ignore_ascii_case(b"host")) {
        let (name, value) = own.remove(0);
        line(out, name.as_bytes(), &value);
    }
    fields(out, &head.headers, own, spelling, &OURS);
    out.extend_from_slice(b"\r\n");
}

/// Writes what follows the first line of an answer, as [`encode::response`](super::encode::response) does.
#[cold]
pub(super) fn response(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    announced: Announced,
    connection: &[u8],
    spelling: &Spelling,
) {
    let mut own = Vec::new();
    length(&mut own, announced);
    if !status.is_informational() && !headers.contains_key("date") {
        let mut now = Vec::new();
        date::write(&mut now);
        own.push(("Date", now));
    }
    // Where it has left HTTP, or offers to, its own fields say so.
    let upgraded = matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED);
    let ours = if upgraded { &OURS[2..5] } else { &OURS[1..] };
    fields(out, headers, own, spelling, ours);
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
}

/// Writes a trailer section, as [`encode::trailers`](super::encode::trailers) does.
#[cold]
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap, spelling: &Spelling) {
    fields(out, trailers, Vec::new(), spelling, &[SPELLING.as_str()]);
}

fn length(own: &mut Vec<Own>, announced: Announced) {
    if let Some(length) = announced.length {
        own.push(("Content-Length", length.to_string().into_bytes()));
    } else if announced.sending == Sending::Chunked {
        own.push(("Transfer-Encoding", b"chunked".into()));
    }
}

fn fields(out: &mut Vec<u8>, headers: &HeaderMap, mut own: Vec<Own>, spelling: &Spelling, ours: &[&str]) {
    // What is not written yet of each name.
    let mut left: HashMap<HeaderName, ValueIter<'_, HeaderValue>> = HashMap::new();
    let mut cookies = headers.contains_key(COOKIE);
    for name in spelling.names() {
        if let Some(at) = own.iter().position(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name)) {
            let (_, value) = own.remove(at);
            line(out, name, &value);
            continue;
        }
        let Ok(key) = HeaderName::from_bytes(name) else { continue };
        if ours.contains(&key.as_str()) {
            continue;
        }
        if key == COOKIE {
            // As they are where they went over HTTP/2 (RFC 9113, section 8.2.3).
            if std::mem::take(&mut cookies) {
                line(out, name, &cookie(headers));
            }
            continue;
        }
        let values = left.entry(key).or_insert_with_key(|key| headers.get_all(key).into_iter());
        if let Some(value) = values.next() {
            line(out, name, value.as_bytes());
        }
    }
    if cookies {
        line(out, b"Cookie", &cookie(headers));
    }
    for key in headers.keys().filter(|key| !ours.contains(&key.as_str()) && **key != COOKIE) {
        for value in left.remove(key).unwrap_or_else(|| headers.get_all(key).into_iter()) {
            line(out, key.as_str().as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in own {
        line(out, name.as_bytes(), &value);
    }
}

/// All cookies, as one.
fn cookie(headers: &HeaderMap) -> Vec<u8> {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    all.join(&b"; "[..])
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}
