//! Header fields as messages: which must be there, which may not, and in what order (RFC 9113, section
//! 8.2 and 8.3).

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, Entry, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{Extensions, Method, Request, Response, StatusCode, Uri, Version, request, response};

use super::hpack::{ENTRY_OVERHEAD, Encoder, Field, MalformedField};
use crate::budget::cost;
use crate::uri::{self, Path};

/// Bytes that are kept of a field of a request that is not taken on.
const OUTLINE: usize = 1024;

/// What an extended CONNECT asks for (RFC 8441, section 4), in a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectProtocol(pub HeaderValue);

/// A request's head as it is to be sent: the parts of a request, and fields that come on top of its
/// headers.
#[derive(Debug, Clone, Copy)]
pub struct RequestFields<'a> {
    pub method: &'a Method,
    /// With an authority; with a scheme and a path unless the method is CONNECT.
    pub uri: &'a Uri,
    /// Where a path is that the URI cannot hold (see [`AsSent`](crate::uri::AsSent)).
    pub extensions: &'a Extensions,
    pub headers: &'a HeaderMap,
    pub more: &'a [(HeaderName, HeaderValue)],
}

impl<'a> RequestFields<'a> {
    /// That of a request, with `more` fields.
    pub fn new(head: &'a request::Parts, more: &'a [(HeaderName, HeaderValue)]) -> Self {
        let request::Parts { method, uri, extensions, headers, .. } = head;
        Self { method, uri, extensions, headers, more }
    }
}

impl RequestFields<'_> {
    pub(super) fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.method(self.method, out);
        if self.has_path() {
            encoder.scheme(self.uri.scheme_str().unwrap_or("http"), out);
        }
        if let Some(authority) = self.uri.authority() {
            encoder.authority(authority.as_str(), out);
        }
        if self.has_path() {
            encoder.path(uri::path(self.uri, self.extensions), out);
        }
        if let Some(protocol) = self.protocol() {
            encoder.protocol(protocol, out);
        }
        for (name, value) in self.more {
            encoder.header(name, value, out);
        }
        encode_headers(self.headers, encoder, out);
    }

    fn has_path(&self) -> bool {
        *self.method != Method::CONNECT || self.protocol().is_some()
    }

    /// What an extended CONNECT asks for (RFC 8441, section 4): it has a scheme and a path.
    fn protocol(&self) -> Option<&str> {
        if *self.method != Method::CONNECT {
            return None;
        }
        self.extensions.get().and_then(|ConnectProtocol(protocol)| protocol.to_str().ok())
    }

    /// How large the peer's decoder takes it for (section 6.5.2).
    pub(super) fn size(&self) -> usize {
        let pseudo = |name: &str, value: &str| name.len() + value.len() + ENTRY_OVERHEAD;
        let field = |name: &HeaderName, value: &HeaderValue| pseudo(name.as_str(), "") + value.len();
        let path = || uri::path(self.uri, self.extensions).len();
        let mut size = pseudo(":method", self.method.as_str());
        size += self.uri.authority().map_or(0, |authority| pseudo(":authority", authority.as_str()));
        if self.has_path() {
            size += pseudo(":scheme", self.uri.scheme_str().unwrap_or("http"));
            size += pseudo(":path", "") + path();
        }
        size += self.protocol().map_or(0, |protocol| pseudo(":protocol", protocol));
        size += self.more.iter().map(|(name, value)| field(name, value)).sum::<usize>();
        size + list_size(self.headers)
    }
}

/// How large a peer's decoder takes fields for (section 6.5.2).
pub(super) fn list_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY_OVERHEAD).sum()
}

pub(super) fn encode_headers(headers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for (name, value) in headers {
        encoder.header(name, value, out);
    }
}

/// A header block being read.
#[derive(Default)]
pub(super) struct Block {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<Path>,
    protocol: Option<HeaderValue>,
    status: Option<StatusCode>,
    headers: HeaderMap,
    /// Bytes of the values in it.
    values: usize,
    /// A cookie that came in crumbs, joined (section 8.2.3).
    crumbs: Vec<u8>,
    malformed: bool,
    /// It has a field of the connection's, which makes a head malformed, and is dropped from trailers.
    of_connection: bool,
}

impl Block {
    /// Takes the next field.
    pub(super) fn field(&mut self, field: Field) -> Result<(), MalformedField> {
        // Pseudo-headers come first (section 8.3), each once.
        let in_order = self.headers.is_empty();
        fn once<T>(slot: &mut Option<T>, value: T) -> bool {
            slot.replace(value).is_none()
        }
        let fine = match field {
            Field::Header(name, value) if name == COOKIE => self.cookie(value),
            Field::Header(name, value) => {
                self.of_connection |= !may_be_there(&name, &value);
                self.values += value.len();
                self.headers.try_append(name, value).is_ok()
            }
            Field::Method(value) => in_order && once(&mut self.method, value),
            Field::Scheme(value) => in_order && once(&mut self.scheme, value),
            Field::Authority(value) => in_order && once(&mut self.authority, value),
            Field::Path(value) => {
                // As it is decided on, besides.
                self.values += value.sent.as_ref().map_or(0, |sent| sent.0.len());
                in_order && once(&mut self.path, value)
            }
            Field::Protocol(value) => in_order && once(&mut self.protocol, value),
            Field::Status(value) => in_order && once(&mut self.status, value),
        };
        self.malformed |= !fine;
        Ok(())
    }

    /// What it weighs among others, by number: itself as much as some fields.
    pub(super) fn weight(&self) -> u64 {
        8 + self.headers.len() as u64
    }

    /// What a request with this head costs in memory: once as it is, once as it is sent on.
    pub(super) fn cost(&self) -> usize {
        cost::REQUEST + self.fields_cost()
    }

    /// What its fields cost alone.
    pub(super) fn fields_cost(&self) -> usize {
        self.headers.len() * cost::FIELD + 2 * self.values
    }

    fn cookie(&mut self, value: HeaderValue) -> bool {
        self.values += value.len();
        match self.headers.try_entry(COOKIE) {
            Ok(Entry::Vacant(place)) => place.try_insert(value).is_ok(),
            Ok(Entry::Occupied(mut first)) => {
                if self.crumbs.is_empty() {
                    self.crumbs.extend_from_slice(first.get().as_bytes());
                }
                self.crumbs.extend_from_slice(b"; ");
                self.crumbs.extend_from_slice(value.as_bytes());
                if value.is_sensitive() {
                    first.get_mut().set_sensitive(true);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Puts the cookie that came in crumbs in its place.
    #[cold]
    fn join_crumbs(&mut self) {
        if let Some(cookie) = self.headers.get_mut(COOKIE)
            && let Ok(mut joined) =
                HeaderValue::from_maybe_shared(Bytes::from(std::mem::take(&mut self.crumbs)))
        {
            joined.set_sensitive(cookie.is_sensitive());
            *cookie = joined;
        }
    }

    /// The head of a request that is too large, as far as it was taken; what is missing is made up.
    pub(super) fn cut_request(self) -> request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.version = Version::HTTP_2;
        head.method = self.method.unwrap_or_default();
        head.headers = self.headers;
        head
    }

    /// The head of a request, unless it is malformed.
    pub(super) fn request(mut self, extended_connect: bool) -> Option<request::Parts> {
        if self.malformed || self.of_connection || self.status.is_some() {
            return None;
        }
        if !self.crumbs.is_empty() {
            self.join_crumbs();
        }
        let method = self.method?;
        let connect = method == Method::CONNECT;
        if self.protocol.is_some() && !(connect && extended_connect) {
            return None;
        }
        let (mut head, ()) = Request::new(()).into_parts();
        head.version = Version::HTTP_2;
        head.headers = self.headers;
        if connect && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() {
                return None;
            }
            head.uri = Uri::from(self.authority?);
        } else {
            let (scheme, path) = (self.scheme?, self.path?);
            // Section 8.3.1: without its slash a path would be another one to each who reads it.
            let asterisk = path.uri == "*" && method == Method::OPTIONS;
            if !path.uri.path().starts_with('/') && !asterisk {
                return None;
            }
            if let Some(sent) = path.sent {
                head.extensions.insert(*sent);
            }
            let mut parts = http::uri::Parts::default();
            parts.path_and_query = Some(path.uri);
            if self.authority.is_some() {
                parts.scheme = Some(scheme);
                parts.authority = self.authority;
            }
            head.uri = Uri::from_parts(parts).ok()?;
        }
        head.method = method;
        if let Some(protocol) = self.protocol {
            head.extensions.insert(ConnectProtocol(protocol));
        }
        Some(head)
    }

    /// The head of a response, unless it is malformed.
    pub(super) fn response(self) -> Option<response::Parts> {
        if self.malformed || self.of_connection || self.has_request_fields() {
            return None;
        }
        let (mut head, ()) = Response::new(()).into_parts();
        head.version = Version::HTTP_2;
        head.status = self.status?;
        head.headers = self.headers;
        Some(head)
    }

    /// Trailers, unless they are malformed. Fields of the connection's are there: whoever passes trailers on drops
    /// them with others that have no place there.
    pub(super) fn trailers(self) -> Option<HeaderMap> {
        let fine = !self.malformed && !self.has_request_fields() && self.status.is_none();
        fine.then_some(self.headers)
    }

    fn has_request_fields(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some()
    }
}

/// What a record needs of a request that is not taken on: whom it was for, if that is short, and whether it is a
/// call of gRPC.
pub(super) fn outline(head: request::Parts) -> request::Parts {
    let (mut outline, ()) = Request::new(()).into_parts();
    (outline.method, outline.version) = (head.method, head.version);
    let length = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if length + head.uri.authority().map_or(0, |authority| authority.as_str().len()) <= OUTLINE {
        outline.uri = head.uri;
    }
    if let Some(kind) = head.headers.get(CONTENT_TYPE).filter(|kind| kind.len() <= OUTLINE) {
        outline.headers.insert(CONTENT_TYPE, kind.clone());
    }
    outline
}

/// What is about one connection has no place in HTTP/2 (section 8.2.2).
fn may_be_there(name: &HeaderName, value: &HeaderValue) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    if *name == TE {
        return value.as_bytes().eq_ignore_ascii_case(b"trailers");
    }
    ![CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION].contains(name)
}

/// The length that a message says to have. `Err`: it says several, or what is no length.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(());
        }
        let length = value.to_str().ok().and_then(|text| text.parse().ok()).ok_or(())?;
        if found.is_some_and(|other: u64| other != length) {
            return Err(());
        }
        found = Some(length);
    }
    Ok(found)
}
