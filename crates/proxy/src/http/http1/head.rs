//! Heads of messages (RFC 9112, sections 2 to 6): parsed whole, with all of their framing decided, or refused.

use std::mem::MaybeUninit;
use std::num::NonZeroU32;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version, request, response};
use tulle_model::head::{content_length, fits};

use super::buffers;
use super::framing::{Framing, Malformed, TRAILERS_TOO_LARGE, single_chunk};
use crate::http::HEADER_LIMIT;
use crate::http::spelling::Written;
use crate::http2::hpack::ENTRY_OVERHEAD;
use crate::uri;

/// Lines of fields that a head has as a rule, and at most: those of a cookie count as one field.
const USUAL_LINES: usize = 128;
const MOST_LINES: usize = HEADER_LIMIT / "cookie:\r\n".len();
/// A body that came with its head is taken as a whole up to that size.
const MAX_WHOLE: usize = buffers::SCRATCH;

/// Why a head is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Bad {
    Malformed(Malformed),
    /// More fields or bytes than a head may have.
    TooLarge,
}

impl From<Malformed> for Bad {
    fn from(malformed: Malformed) -> Self {
        if malformed == TRAILERS_TOO_LARGE { Self::TooLarge } else { Self::Malformed(malformed) }
    }
}

/// A request as it came.
#[derive(Debug)]
pub(in crate::http) struct RequestHead {
    pub parts: request::Parts,
    pub framing: Framing,
    /// Whether the client wants the connection to be kept, and it may be (RFC 9112, section 9.3).
    pub keep: bool,
    /// Bytes of the head.
    pub length: u32,
    /// It, as it came, and all of the body, if that is there already.
    pub written: Written,
    /// Where that begins.
    body: Option<NonZeroU32>,
}

impl RequestHead {
    /// All of the body, if it is there already.
    pub fn whole(&self) -> Option<Bytes> {
        self.body.map(|start| part_from(&self.written.0, start.get() as usize))
    }
}

/// A response as it came.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub parts: response::Parts,
    pub framing: Framing,
    pub whole: Option<Bytes>,
    pub keep: bool,
    /// For how many seconds, if it says so (`Keep-Alive: timeout=5`).
    pub keep_seconds: Option<u64>,
}

const FIRST_LINE: Malformed = Malformed("the first line is not valid");
const TARGET: Malformed = Malformed("the request target is not valid");

/// Parses the request that `bytes` begin with; says how many bytes it took, a body that is there as a
/// whole among them. `None`: its head is not there to its end.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, Bad> {
    parse_request(bytes, bytes)
}

/// `bytes` with a target that can be parsed, where it only was no UTF-8.
#[cold]
fn in_ascii(bytes: &[u8]) -> Option<Vec<u8>> {
    let start = empty_lines(bytes);
    let line = bytes[start..].split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    std::str::from_utf8(target).is_err().then(|| {
        let mut ascii = bytes.to_vec();
        let start = start + method.len() + 1;
        let target = ascii[start..start + target.len()].iter_mut();
        target.filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'x');
        ascii
    })
}

/// Parses a request. `bytes` are the `sent` ones, but for what is no ASCII in its target.
fn parse_request(bytes: &[u8], sent: &[u8]) -> Result<Option<(RequestHead, usize)>, Bad> {
    let most = within(bytes);
    let mut fields = [const { MaybeUninit::uninit() }; USUAL_LINES];
    let mut more;
    let mut parsed = httparse::Request::new(&mut []);
    let mut status = parsed.parse_with_uninit_headers(most, &mut fields);
    if let Err(httparse::Error::TooManyHeaders) = status {
        more = many_lines();
        parsed = httparse::Request::new(&mut []);
        status = parsed.parse_with_uninit_headers(most, &mut more);
    }
    if let Err(httparse::Error::Token) = status
        && let Some(ascii) = in_ascii(bytes)
    {
        return parse_request(&ascii, sent);
    }
    let length = match status.map_err(bad)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if most.len() == bytes.len() => return Ok(None),
        httparse::Status::Partial => return Err(Bad::TooLarge),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Malformed("the request line is not complete").into());
    };
    if !is_small(length, parsed.headers) && !fits(&request_pseudo(method, target), lines(parsed.headers)) {
        return Err(Bad::TooLarge);
    }
    let facts = Facts::of(parsed.headers)?;
    let old = minor == 0;
    let framing = match (facts.coding, facts.length) {
        (Coding::None, length) => Framing::Length(length.unwrap_or(0)),
        // Older servers on the way would not have seen the coding (RFC 9112, section 6.1).
        (_, _) if old => return Err(Malformed("HTTP/1.0 has no transfer codings").into()),
        (Coding::Chunked, _) => Framing::Chunked,
        (Coding::Other, _) => {
            return Err(Malformed("the only transfer coding supported is chunked").into());
        }
    };
    let (own, body, used) = own(sent, length, framing);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method =
        Method::from_bytes(method.as_bytes()).map_err(|_| Malformed("the request has no valid method"))?;
    parts.uri = match Uri::from_maybe_shared(part(bytes, &own, target.as_bytes())) {
        Ok(uri) => uri,
        Err(_) => {
            let (uri, sent) = uri::unusual(part(bytes, &own, target.as_bytes())).ok_or(TARGET)?;
            parts.extensions.insert(sent);
            uri
        }
    };
    if !is_target(&parts.method, &parts.uri, target) || has_fragment(&parts, target) {
        return Err(TARGET.into());
    }
    // RFC 9110, section 9.3.6.
    if parts.method == Method::CONNECT && framing != Framing::Length(0) {
        return Err(Malformed("a CONNECT request has no content").into());
    }
    if parts.method == Method::OPTIONS && has_no_path(target) {
        parts.uri = asterisk(parts.uri)?;
    }
    parts.version = if old { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = facts.map(bytes, &own, parsed.headers)?;
    let keep = facts.keep(old);
    let body = body.and_then(|start| NonZeroU32::new(start as u32));
    Ok(Some((RequestHead { parts, framing, keep, length: length as u32, written: Written(own), body }, used)))
}

/// The part of `bytes` in which a head has to be whole: as long as one may be, from its first line on. Nothing
/// beyond is looked at, so that the answer does not depend on how much of it has come.
fn within(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= HEADER_LIMIT {
        return bytes;
    }
    &bytes[..bytes.len().min(empty_lines(bytes) + HEADER_LIMIT)]
}

/// The length of the empty lines before a message (RFC 9112, section 2.2).
pub(super) fn empty_lines(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len())
}

/// The four forms of a target (RFC 9112, section 3.2). Elsewhere `host/path` would be taken for a host.
fn is_target(method: &Method, uri: &Uri, target: &str) -> bool {
    if target.starts_with('/') {
        return method != Method::CONNECT;
    }
    let authority = uri.authority().is_some_and(|authority| uri::is_valid(authority.as_str()));
    if method == Method::CONNECT {
        return authority && uri.scheme().is_none() && uri.path_and_query().is_none();
    }
    // `http` takes a scheme without a letter.
    target == "*"
        || (authority
            && uri.scheme().is_some()
            && target.starts_with(|first: char| first.is_ascii_alphabetic()))
}

/// Whether a target ends with a fragment, which is no part of one, and which `http` takes off.
fn has_fragment(parts: &request::Parts, target: &str) -> bool {
    match parts.uri.path_and_query() {
        Some(path) if target.starts_with('/') => {
            path.as_str().len() != target.len() && parts.extensions.is_empty()
        }
        _ => target.contains('#'),
    }
}

/// Whether a target is of absolute-form and ends with its authority.
fn has_no_path(target: &str) -> bool {
    behind_scheme(target).is_some_and(|rest| !rest.contains(['/', '?']))
}

/// What follows the scheme of a target in absolute-form. In origin-form, a query may have a whole URI in it.
fn behind_scheme(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return None;
    }
    target.split_once("://").map(|(_, rest)| rest)
}

/// OPTIONS for a server as a whole, by a proxy's client (RFC 9112, section 3.2.4).
fn asterisk(uri: Uri) -> Result<Uri, Malformed> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).map_err(|_| TARGET)
}

#[cold]
fn many_lines<'b>() -> Vec<MaybeUninit<httparse::Header<'b>>> {
    vec![MaybeUninit::uninit(); MOST_LINES]
}

/// Whether a head of `length` bytes is within the limits beyond doubt: its lines have every byte that counts but
/// for the names of pseudo-header fields, and an authority that its sender may leave to us.
fn is_small(length: usize, fields: &[httparse::Header<'_>]) -> bool {
    const PSEUDO: usize = 1 << 10;
    fields.len() <= USUAL_LINES && length + fields.len() * ENTRY_OVERHEAD + PSEUDO <= HEADER_LIMIT
}

/// What of the first line are pseudo-header fields on HTTP/2. The authority of a target outweighs `Host` (RFC 9112,
/// section 3.2.2).
#[cold]
fn request_pseudo<'t>(method: &'t str, target: &'t str) -> Vec<(&'static str, &'t str)> {
    let mut pseudo = vec![(":method", method), (":scheme", "http")];
    match behind_scheme(target) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            pseudo.extend([(":authority", authority), (":path", if path.is_empty() { "/" } else { path })]);
        }
        None => pseudo.push((":path", target)),
    }
    pseudo
}

fn lines<'f>(fields: &'f [httparse::Header<'f>]) -> impl Iterator<Item = (&'f str, &'f [u8])> {
    fields.iter().map(|field| (field.name, field.value))
}

/// Parses the response to a request with `method`, as [`request`] does.
pub(super) fn response(bytes: &[u8], method: &Method) -> Result<Option<(ResponseHead, usize)>, Bad> {
    let most = within(bytes);
    let mut fields = [const { MaybeUninit::uninit() }; USUAL_LINES];
    let mut more;
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let mut status = config.parse_response_with_uninit_headers(&mut parsed, most, &mut fields);
    if let Err(httparse::Error::TooManyHeaders) = status {
        more = many_lines();
        parsed = httparse::Response::new(&mut []);
        status = config.parse_response_with_uninit_headers(&mut parsed, most, &mut more);
    }
    let length = match status.map_err(bad)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if most.len() == bytes.len() => return Ok(None),
        httparse::Status::Partial => return Err(Bad::TooLarge),
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Malformed("the status line is not complete").into());
    };
    let status = StatusCode::from_u16(code).map_err(|_| Malformed("the status is not valid"))?;
    if !is_small(length, parsed.headers) && !fits(&[(":status", status.as_str())], lines(parsed.headers)) {
        return Err(Bad::TooLarge);
    }
    let old = minor == 0;
    let facts = Facts::of(parsed.headers)?;
    let bodiless = method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (method == Method::CONNECT && status.is_success());
    let framing = match (facts.coding, facts.length) {
        _ if bodiless => Framing::Length(0),
        (Coding::None, Some(length)) => Framing::Length(length),
        (Coding::None, None) => Framing::UntilClose,
        (_, _) if old => return Err(Malformed("HTTP/1.0 has no transfer codings").into()),
        (Coding::Chunked, _) => Framing::Chunked,
        (Coding::Other, _) => {
            return Err(Malformed("it used a transfer coding other than chunked").into());
        }
    };
    let (own, body, used) = own(bytes, length, framing);
    let whole = body.map(|start| part_from(&own, start));
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    parts.version = if old { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = facts.map(bytes, &own, parsed.headers)?;
    let keep = facts.keep(old) && framing != Framing::UntilClose;
    Ok(Some((ResponseHead { parts, framing, whole, keep, keep_seconds: facts.keep_seconds }, used)))
}

fn bad(error: httparse::Error) -> Bad {
    Bad::Malformed(Malformed(match error {
        httparse::Error::TooManyHeaders => return Bad::TooLarge,
        httparse::Error::HeaderName => "a header has no valid name",
        httparse::Error::HeaderValue => "a header has no valid value",
        httparse::Error::NewLine => "a line does not end with CR and LF",
        httparse::Error::Status => "the status is not valid",
        httparse::Error::Token => return Bad::Malformed(FIRST_LINE),
        httparse::Error::Version => "it is of another version than HTTP/1.0 and HTTP/1.1",
    }))
}

/// One copy of all that is kept of a message, which its fields and its body are parts of; where in it the body
/// begins, if it is there as a whole; and how many bytes both took.
fn own(bytes: &[u8], length: usize, framing: Framing) -> (Bytes, Option<usize>, usize) {
    let rest = &bytes[length..];
    let found = match framing {
        Framing::Length(body) if body <= rest.len().min(MAX_WHOLE) as u64 => {
            Some((0..body as usize, body as usize))
        }
        Framing::Chunked => single_chunk(rest),
        _ => None,
    };
    match found {
        Some((body, used)) => {
            (Bytes::copy_from_slice(&bytes[..length + body.end]), Some(length + body.start), length + used)
        }
        None => (Bytes::copy_from_slice(&bytes[..length]), None, length),
    }
}

/// The rest of `own`, which an empty one does not keep.
fn part_from(own: &Bytes, start: usize) -> Bytes {
    if start == own.len() { Bytes::new() } else { own.slice(start..) }
}

/// The part of `own`, a copy of what `bytes` begin with, that corresponds to a `part` of `bytes`.
fn part(bytes: &[u8], own: &Bytes, part: &[u8]) -> Bytes {
    let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
    own.slice(start..start + part.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    /// `chunked`, once, and nothing else.
    Chunked,
    Other,
}

/// What the fields of a head say about the framing and the connection. A field of which nothing else is to
/// be learned is left out of the message, as every recipient has to do with it (RFC 9110, section 7.6.1).
struct Facts {
    coding: Coding,
    length: Option<u64>,
    /// The length is said in more than one way.
    lengths: bool,
    close: bool,
    keep_alive: bool,
    /// `Connection` names something else, too.
    names: bool,
    keep_seconds: Option<u64>,
}

impl Facts {
    fn of(fields: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let mut facts = Self {
            coding: Coding::None,
            length: None,
            lengths: false,
            close: false,
            keep_alive: false,
            names: false,
            keep_seconds: None,
        };
        for field in fields {
            match field.name.len() {
                10 if field.name.eq_ignore_ascii_case("connection") => facts.connection(field.value),
                10 if field.name.eq_ignore_ascii_case("keep-alive") => facts.keep_alive(field.value),
                14 if field.name.eq_ignore_ascii_case("content-length") => {
                    facts.lengths |= content_length(field.value, &mut facts.length).map_err(Malformed)?;
                }
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                    let first = facts.coding == Coding::None;
                    let chunked = first && field.value.eq_ignore_ascii_case(b"chunked");
                    facts.coding = if chunked { Coding::Chunked } else { Coding::Other };
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else {
                self.names = true;
            }
        }
    }

    fn keep_alive(&mut self, value: &[u8]) {
        for parameter in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let parameter = std::str::from_utf8(parameter).ok().and_then(|text| text.split_once('='));
            if let Some((name, value)) = parameter
                && name.trim().eq_ignore_ascii_case("timeout")
            {
                self.keep_seconds = value.trim().parse().ok();
            }
        }
    }

    /// Whether nothing more is to be learned from a field.
    fn is_spent(&self, name: &str) -> bool {
        match name.len() {
            10 => {
                name.eq_ignore_ascii_case("keep-alive")
                    || (!self.names && name.eq_ignore_ascii_case("connection"))
            }
            17 => name.eq_ignore_ascii_case("transfer-encoding"),
            _ => false,
        }
    }

    /// Whether the connection may be used again. Whoever sends both a length and a coding may be trying to
    /// smuggle something: what follows is not trusted (RFC 9112, section 6.1).
    fn keep(&self, old: bool) -> bool {
        let ambiguous = self.coding != Coding::None && self.length.is_some();
        !self.close && !ambiguous && (!old || self.keep_alive)
    }

    fn map(
        &self,
        bytes: &[u8],
        own: &Bytes,
        fields: &[httparse::Header<'_>],
    ) -> Result<HeaderMap, Malformed> {
        let mut map = buffers::take_headers();
        for field in fields.iter().filter(|field| !self.is_spent(field.name)) {
            let name = HeaderName::from_bytes(field.name.as_bytes())
                .map_err(|_| Malformed("a header has no valid name"))?;
            let value = match field.value {
                [] => HeaderValue::from_static(""),
                value => HeaderValue::from_maybe_shared(part(bytes, own, value))
                    .map_err(|_| Malformed("a header has no valid value"))?,
            };
            map.append(name, value);
        }
        if let Some(length) = self.length {
            if self.coding != Coding::None {
                map.remove(CONTENT_LENGTH);
            } else if self.lengths {
                map.insert(CONTENT_LENGTH, length.into());
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::FIELD_LIMIT;

    fn request(text: &str) -> Result<RequestHead, Bad> {
        super::request(text.as_bytes()).map(|parsed| parsed.expect("it is whole").0)
    }

    fn response(text: &str) -> Result<ResponseHead, Bad> {
        super::response(text.as_bytes(), &Method::GET).map(|parsed| parsed.expect("it is whole").0)
    }

    #[test]
    fn what_has_one_meaning_is_a_target() {
        for (line, path) in [
            ("GET /", "/"),
            ("GET //a/b", "//a/b"),
            ("GET /a?b", "/a?b"),
            ("GET /a?u=http://b", "/a?u=http://b"),
            ("GET /<a?u=http://b", "/%3Ca?u=http://b"),
            ("GET http://h", "/"),
            ("GET HTTP://h:80/a", "/a"),
            ("GET https://h/a", "/a"),
            ("GET http://h/a?u=http://b", "/a?u=http://b"),
            ("OPTIONS *", "*"),
            ("OPTIONS http://h", "*"),
            ("OPTIONS http://h/", "/"),
            // As browsers ask before they send it.
            ("OPTIONS /a?u=http://b", "/a?u=http://b"),
            ("OPTIONS /<a?u=http://b", "/%3Ca?u=http://b"),
            ("OPTIONS http://h/a?u=http://b", "/a?u=http://b"),
        ] {
            let head = request(&format!("{line} HTTP/1.1\r\nhost: h\r\n\r\n")).unwrap();
            let found = head.parts.uri.path_and_query().map(PathAndQuery::as_str);
            assert_eq!(found, Some(path), "{line}");
            assert_eq!(
                head.parts.uri.authority().is_some(),
                !line.contains(" /") && !line.contains('*'),
                "{line}"
            );
        }
        let head = request("CONNECT h:443 HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
        assert_eq!(head.parts.uri.authority().unwrap(), "h:443");
        for line in [
            "GET h",
            "GET h:80",
            "GET h/a",
            "GET ?a",
            "GET http:/h",
            "GET http:h",
            "GET http://",
            "GET http:///a",
            "GET http://h:x/",
            "GET http://h:65536/",
            "GET http://u@h/",
            "GET http://u:p@h/",
            "GET http://[h]/",
            "GET 1http://h/",
            "GET +://h/",
            "GET ://h/",
            "GET **",
            "GET /a#b",
            "GET /#",
            "GET /<a#b",
            "GET http://h/a#b",
            "GET http://h#b",
            "GET http://h/<#b",
            "OPTIONS *#",
            "CONNECT /",
            "CONNECT *",
            "CONNECT h:x",
            "CONNECT u@h:1",
            "CONNECT :1",
            "CONNECT h:1/",
            "CONNECT http://h",
            "CONNECT http://h:1/",
        ] {
            let parsed = request(&format!("{line} HTTP/1.1\r\nhost: h\r\n\r\n"));
            assert!(matches!(parsed, Err(Bad::Malformed(_))), "{line}: {parsed:?}");
        }
    }

    /// RFC 9110, section 9.3.6.
    #[test]
    fn what_follows_connect_is_no_content() {
        let connect = |line: &str| request(&format!("CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n{line}\r\n"));
        for fine in ["", "content-length: 0\r\n"] {
            assert_eq!(connect(fine).unwrap().framing, Framing::Length(0), "{fine}");
        }
        for bad in ["content-length: 1\r\n", "transfer-encoding: chunked\r\n"] {
            assert!(matches!(connect(bad), Err(Bad::Malformed(_))), "{bad}");
        }
    }

    /// Its bytes are replaced to be parsed, and nothing beside it.
    #[test]
    fn a_target_that_is_no_utf_8_is_no_help_to_a_bad_name() {
        let parse = |lead: &[u8], name: &[u8]| {
            let target = [b"/\xe4", &[b'a'; 40][..]].concat();
            let text = [lead, b"GET ", &target, b" HTTP/1.1\r\n", name, b": \xe4\r\n\r\n"].concat();
            let head = super::request(&text)?.expect("it is whole").0;
            assert_eq!(uri::path(&head.parts.uri, &head.parts.extensions), target);
            assert_eq!(head.parts.headers["b"].as_bytes(), b"\xe4");
            Ok::<_, Bad>(())
        };
        for lead in [&b""[..], b"\r\n", b"\n\n\r\n"] {
            assert_eq!(parse(lead, b"b"), Ok(()));
            assert!(parse(lead, b"\xe4b").is_err());
        }
    }

    /// Those that only look like one of those that the framing hangs on, too.
    #[test]
    fn what_a_field_says_of_the_connection_is_taken_from_it_alone() {
        for (line, framing, keep, kept) in [
            ("connection: close", Framing::Length(0), false, false),
            ("CONNECTION: CLOSE", Framing::Length(0), false, false),
            ("connection: keep-alive", Framing::Length(0), true, false),
            ("connection: x", Framing::Length(0), true, true),
            ("connection: close, x", Framing::Length(0), false, true),
            ("connection: close,", Framing::Length(0), false, true),
            ("connection: closed", Framing::Length(0), true, true),
            ("user-agent: close", Framing::Length(0), true, true),
            ("Keep-Alive: timeout=5", Framing::Length(0), true, false),
            ("Transfer-Encoding: Chunked", Framing::Chunked, true, false),
            ("if-modified-since: chunked", Framing::Length(0), true, true),
            ("content-length: 5", Framing::Length(5), true, true),
            ("Content-Length: 5", Framing::Length(5), true, true),
            ("accept-charset: 5", Framing::Length(0), true, true),
            ("accept-charset: x", Framing::Length(0), true, true),
        ] {
            let head = request(&format!("GET / HTTP/1.1\r\nhost: h\r\n{line}\r\n\r\n")).unwrap();
            assert_eq!((head.framing, head.keep), (framing, keep), "{line}");
            assert_eq!(head.parts.headers.len(), 1 + usize::from(kept), "{line}");
            let head = response(&format!("HTTP/1.1 304 x\r\n{line}\r\n\r\n")).unwrap();
            assert_eq!(head.parts.headers.len(), usize::from(kept), "{line}");
        }
    }

    #[test]
    fn of_several_lengths_one_is_left_and_none_beside_a_coding() {
        for (lines, left) in [
            ("content-length: 5", &["5"][..]),
            ("content-length: 05", &["05"]),
            ("content-length: 5\r\ncontent-length: 05", &["5"]),
            ("content-length: 5 ,\t5", &["5"]),
            ("content-length: 5\r\ntransfer-encoding: chunked", &[]),
            ("transfer-encoding: chunked\r\ncontent-length: 5, 5", &[]),
            ("transfer-encoding: chunked", &[]),
        ] {
            let head = request(&format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n")).unwrap();
            let lengths: Vec<_> = head.parts.headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, left, "{lines}");
            assert_eq!(head.keep, left.len() == 1 || !lines.contains("length"), "{lines}");
        }
    }

    #[test]
    fn a_server_says_for_how_long_it_keeps_a_connection() {
        for (line, seconds) in [
            ("keep-alive: timeout=5", Some(5)),
            ("Keep-Alive: max=100, TIMEOUT = 7 ,x", Some(7)),
            ("keep-alive: max=100", None),
            ("keep-alive: timeout", None),
            ("keep-alive: timeout=", None),
            ("keep-alive: timeout=x", None),
            ("user-agent: timeout=5", None),
            ("x: timeout=5", None),
        ] {
            let head = response(&format!("HTTP/1.1 204 x\r\n{line}\r\n\r\n")).unwrap();
            assert_eq!(head.keep_seconds, seconds, "{line}");
        }
    }

    /// As a link takes it, which is not charged for what a client sends.
    #[test]
    fn a_head_is_as_large_as_on_http_2() {
        const FIELD: usize = ENTRY_OVERHEAD;
        for (line, pseudo) in [
            ("GET /a HTTP/1.1\r\nhost: h\r\n", ":methodGET:schemehttp:path/a:authorityh"),
            ("GET /?u=http://b HTTP/1.1\r\nhost: h\r\n", ":methodGET:schemehttp:path/?u=http://b:authorityh"),
            (
                "GET http://long.name/a HTTP/1.1\r\nhost: h\r\n",
                ":methodGET:schemehttp:path/a:authoritylong.name",
            ),
            ("GET http://h HTTP/1.1\r\nhost: long.name\r\n", ":methodGET:schemehttp:path/:authorityh"),
            (
                "GET http://h?u=http://b HTTP/1.1\r\nHOST: h\r\n",
                ":methodGET:schemehttp:path?u=http://b:authorityh",
            ),
        ] {
            let request =
                |length: usize| request(&format!("{line}x: {}\r\n\r\n", "v".repeat(length))).map(drop);
            let most = HEADER_LIMIT - (pseudo.len() + 4 * FIELD) - (1 + FIELD);
            assert_eq!((request(most), request(most + 1)), (Ok(()), Err(Bad::TooLarge)), "{line}");
        }
        // Short lines count for much more than they are long.
        let lines = |length: usize| {
            let text = "a: b\r\n".repeat(USUAL_LINES - 2);
            request(&format!("GET / HTTP/1.1\r\nhost: h\r\n{text}x: {}\r\n\r\n", "v".repeat(length)))
                .map(drop)
        };
        let most = HEADER_LIMIT
            - (":methodGET:schemehttp:path/:authorityhx".len() + 5 * FIELD)
            - (USUAL_LINES - 2) * ("ab".len() + FIELD);
        assert_eq!((lines(most), lines(most + 1)), (Ok(()), Err(Bad::TooLarge)));
        // All that counts is in the first line; who it is for is left to us.
        let old = |length: usize| request(&format!("GET /{} HTTP/1.0\r\n\r\n", "v".repeat(length))).map(drop);
        let most = HEADER_LIMIT - (":methodGET:schemehttp:path/".len() + 3 * FIELD);
        assert_eq!((old(most), old(most + 1)), (Ok(()), Err(Bad::TooLarge)));
        let crumbs = |length: usize| {
            request(&format!(
                "GET / HTTP/1.1\r\nhost: h\r\ncookie: a\r\nCookie: {}\r\n\r\n",
                "v".repeat(length)
            ))
            .map(drop)
        };
        let most = HEADER_LIMIT
            - (":methodGET:schemehttp:path/:authorityh".len() + 4 * FIELD)
            - ("cookiea; ".len() + FIELD);
        assert_eq!((crumbs(most), crumbs(most + 1)), (Ok(()), Err(Bad::TooLarge)));
        let answer = |name: &str, length: usize| {
            response(&format!("HTTP/1.1 204 x\r\n{name}: {}\r\n\r\n", "v".repeat(length))).map(drop)
        };
        for name in ["x", "host"] {
            let most = HEADER_LIMIT - (":status204".len() + FIELD) - (name.len() + FIELD);
            assert_eq!((answer(name, most), answer(name, most + 1)), (Ok(()), Err(Bad::TooLarge)), "{name}");
        }
    }

    #[test]
    fn a_head_has_as_many_fields_as_on_http_2() {
        for (line, others, kept) in [
            ("GET / HTTP/1.1", "host: h\r\n", true),
            ("GET / HTTP/1.1", "cookie: a\r\n", false),
            ("GET / HTTP/1.1", "x: a\r\n", false),
            ("HTTP/1.1 204 x", "host: h\r\n", false),
            ("HTTP/1.1 204 x", "", true),
        ] {
            let parse = |text: &str| match line.starts_with("HTTP") {
                true => response(text).map(drop),
                false => request(text).map(drop),
            };
            let head = |count: usize| format!("{line}\r\n{others}{}\r\n", "a: b\r\n".repeat(count));
            let most = FIELD_LIMIT - usize::from(!kept);
            assert_eq!(parse(&head(most)), Ok(()), "{line} {others}");
            assert_eq!(parse(&head(most + 1)), Err(Bad::TooLarge), "{line} {others}");
        }
        let crumbs = format!(
            "GET / HTTP/1.1\r\n{}{}\r\n",
            "a: b\r\n".repeat(FIELD_LIMIT - 1),
            "cookie: a\r\n".repeat(99)
        );
        assert_eq!(request(&crumbs).map(drop), Ok(()));
        assert!(size_of_val(&*many_lines()) <= 256 << 10, "of memory for lines");
    }

    /// There it is a part of what was read with the head.
    #[test]
    fn a_body_that_came_with_its_head_is_taken_with_it() {
        let (most, more) = ("v".repeat(MAX_WHOLE), "v".repeat(MAX_WHOLE + 1));
        let [most_said, more_said] = [&most, &more].map(|body| format!("content-length: {}", body.len()));
        for (line, rest, body, left) in [
            ("content-length: 0", "GET", Some(""), 3),
            ("content-length: 5", "helloGET", Some("hello"), 3),
            ("content-length: 5", "hell", None, 4),
            (&most_said, &most, Some(&*most), 0),
            (&more_said, &more, None, more.len()),
            ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\nGET", Some("hello"), 3),
            ("transfer-encoding: chunked", "0\r\n\r\nGET", Some(""), 3),
            ("transfer-encoding: chunked", "5\r\nhello\r\n", None, 10),
        ] {
            let text = format!("\r\nPOST / HTTP/1.1\r\n{line}\r\n\r\n{rest}");
            let (head, used) = super::request(text.as_bytes()).unwrap().unwrap();
            let whole = head.whole();
            assert_eq!((whole.as_deref(), text.len() - used), (body.map(str::as_bytes), left), "{line}");
            assert_eq!(head.length as usize, text.len() - rest.len(), "{line}");
            let text = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n{rest}");
            let (head, used) = super::response(text.as_bytes(), &Method::GET).unwrap().unwrap();
            assert_eq!((head.whole.as_deref(), text.len() - used), (body.map(str::as_bytes), left), "{line}");
        }
        let (head, used) = super::response(b"HTTP/1.1 200 OK\r\n\r\nhello", &Method::GET).unwrap().unwrap();
        assert_eq!((head.whole, used), (None, 19), "it ends with the connection");
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let (head, used) = super::response(text, &Method::HEAD).unwrap().unwrap();
        assert_eq!((head.whole.as_deref(), text.len() - used), (Some(&b""[..]), 5), "it is no body");
    }

    #[test]
    fn what_is_not_there_to_its_end_is_awaited() {
        for whole in ["GET / HTTP/1.1\r\nhost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nx: y\r\n\r\n"] {
            for end in 0..whole.len() {
                let bytes = &whole.as_bytes()[..end];
                let awaited = match whole.starts_with("GET") {
                    true => super::request(bytes).map(|parsed| parsed.is_none()),
                    false => super::response(bytes, &Method::GET).map(|parsed| parsed.is_none()),
                };
                assert_eq!(awaited, Ok(true), "{end} bytes of {whole:?}");
            }
            // Not beyond the limit.
            for (length, expected) in [(HEADER_LIMIT, Ok(true)), (HEADER_LIMIT + 1, Err(Bad::TooLarge))] {
                let bytes = [&whole.as_bytes()[..whole.len() - 4], &vec![b'a'; length][..]].concat();
                let awaited = match whole.starts_with("GET") {
                    true => super::request(&bytes[..length]).map(|parsed| parsed.is_none()),
                    false => super::response(&bytes[..length], &Method::GET).map(|parsed| parsed.is_none()),
                };
                assert_eq!(awaited, expected, "{length} bytes of {whole:?}");
            }
        }
    }

    #[test]
    fn a_trailer_section_that_is_too_large_is_a_head_that_is() {
        assert_eq!(Bad::from(TRAILERS_TOO_LARGE), Bad::TooLarge);
        assert_eq!(Bad::from(TARGET), Bad::Malformed(TARGET));
    }
}
