//! Headers on their way through a proxy: what belongs to one connection only is taken off (RFC 9110,
//! section 7.6.1), and requests are brought into one form inside the proxy whatever version they came
//! in: an absolute URI without a `Host` header.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version};

pub use tulle_model::grpc::is_grpc;
use tulle_model::head::{list, plain_framing, protocol_name};
pub use tulle_model::head::{named_by_connection, takes_trailers, wanted_upgrade};
use tulle_model::snapshot::AppProtocol;

use crate::http::spelling::Spelling;
use crate::mesh_headers::{self, REASON, RESET, RETRY, SPELLING};
use crate::uri::{self, LastAuthority};

/// Header names with this beginning are the mesh's own: what comes from outside is removed.
const OWN_PREFIX: &str = "tulle-";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a request is not passed on. The text is for whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedHead(pub &'static str);

/// What the application is to be spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppVersion {
    Http1,
    Http2,
}

impl AppVersion {
    /// The version of a request that was received.
    pub fn of(version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Http2 } else { Self::Http1 }
    }

    /// What a port declares; `None`: no version of HTTP.
    pub fn declared(protocol: AppProtocol) -> Option<Self> {
        match protocol {
            AppProtocol::Http1 => Some(Self::Http1),
            AppProtocol::Http2 => Some(Self::Http2),
            AppProtocol::Detect | AppProtocol::Tcp => None,
        }
    }
}

/// What a header is to a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderKind {
    /// It belongs to one connection.
    HopByHop,
    /// It is the mesh's own.
    Own,
    Length,
    EndToEnd,
}

#[inline]
fn kind(name: &HeaderName) -> HeaderKind {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "http2-settings" | "transfer-encoding"
        | "upgrade" | "te" => HeaderKind::HopByHop,
        "content-length" => HeaderKind::Length,
        name if name.starts_with(OWN_PREFIX) => HeaderKind::Own,
        _ => HeaderKind::EndToEnd,
    }
}

/// What a look through a message's headers found that needs more than a look.
struct Found {
    hop_by_hop: bool,
    own: bool,
    length: bool,
}

impl Found {
    /// Most messages have nothing of the kind, so they are looked through once, and no more.
    fn of(headers: &HeaderMap) -> Self {
        let mut found = Self { hop_by_hop: false, own: false, length: false };
        for name in headers.keys() {
            match kind(name) {
                HeaderKind::HopByHop => found.hop_by_hop = true,
                HeaderKind::Own => found.own = true,
                HeaderKind::EndToEnd => {}
                HeaderKind::Length => found.length = true,
            }
        }
        found
    }

    /// Takes off what belongs to the connection, and the mesh's own headers. `te: trailers` stays, and of an answer
    /// what its status needs.
    fn strip(&self, headers: &mut HeaderMap, status: Option<StatusCode>) -> Option<Spelling> {
        let spelling = if self.own { strip_own(headers, |_| false) } else { None };
        if self.hop_by_hop {
            take_hop_by_hop(headers, status);
        }
        spelling
    }

    /// Checks the framing, of which HTTP/1's own parser has left nothing to check.
    fn check_framing(
        &self,
        headers: &mut HeaderMap,
        other_coding: &'static str,
    ) -> Result<(), MalformedHead> {
        if self.hop_by_hop && !plain_framing(headers) {
            return Err(MalformedHead(other_coding));
        }
        if self.length { one_length(headers) } else { Ok(()) }
    }
}

/// What an answer that came over a link is passed on with: nothing of the connection's, and of the mesh's own
/// headers only those that say why the mesh refused, where it did, and which run of a Flow it is. A peer is not trusted to send no others.
pub fn normalize_link_response(headers: &mut HeaderMap, status: StatusCode) {
    let found = Found::of(headers);
    if found.hop_by_hop {
        take_hop_by_hop(headers, Some(status));
    }
    if found.own {
        let refusal = !status.is_success() && headers.contains_key(REASON);
        let offers = status == StatusCode::UPGRADE_REQUIRED;
        let kept = |name: &HeaderName| {
            (refusal && [REASON, RETRY, RESET].contains(name))
                || (offers && *name == mesh_headers::UPGRADE)
                || *name == mesh_headers::RUN
        };
        strip_own(headers, kept);
    }
}

fn take_hop_by_hop(headers: &mut HeaderMap, status: Option<StatusCode>) {
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            if name != UPGRADE && !status.is_some_and(|status| is_needed(status, &name)) {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    if status == Some(StatusCode::UPGRADE_REQUIRED) {
        let offered: Vec<&str> = list(headers, &UPGRADE).collect();
        if let Ok(offered) = HeaderValue::try_from(offered.join(", "))
            && !offered.is_empty()
        {
            headers.insert(mesh_headers::UPGRADE, offered);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = takes_trailers(headers);
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Whether a status is of no use without a field (RFC 9110, section 15), which its sender must not name in
/// `Connection` (section 7.6.1).
#[cold]
fn is_needed(status: StatusCode, name: &HeaderName) -> bool {
    match name.as_str() {
        "www-authenticate" => status == StatusCode::UNAUTHORIZED,
        "proxy-authenticate" => status == StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        "allow" => status == StatusCode::METHOD_NOT_ALLOWED,
        "accept" | "accept-encoding" => status == StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content-range" => matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE),
        "location" => status == StatusCode::CREATED || status.is_redirection(),
        "retry-after" => status.is_client_error() || status.is_server_error() || status.is_redirection(),
        "cache-control" | "content-location" | "date" | "etag" | "expires" | "vary" => {
            matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
        }
        _ => false,
    }
}

/// Gives a client what the application wants it to go on in, where a 426 says so and its version has a word for it
/// (RFC 9110, section 15.5.22).
#[cold]
pub fn offer_upgrade(version: Version, headers: &mut HeaderMap) {
    let offered = headers.remove(mesh_headers::UPGRADE);
    if let Some(offered) = offered.filter(|_| version != Version::HTTP_2) {
        headers.insert(UPGRADE, offered);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Takes the mesh's own headers off; what one of them says of the others is given back.
fn strip_own(headers: &mut HeaderMap, kept: impl Fn(&HeaderName) -> bool) -> Option<Spelling> {
    let own = headers.keys().filter(|name| kind(name) == HeaderKind::Own && !kept(name));
    let own: Vec<HeaderName> = own.cloned().collect();
    let mut spelling = None;
    for name in own {
        if name == SPELLING {
            spelling = Spelling::take(headers);
        } else {
            headers.remove(name);
        }
    }
    spelling
}

/// Whether an application goes on in what a client wanted, or does not say in what.
pub fn switches_to(answer: &HeaderMap, wanted: &HeaderValue) -> bool {
    let wanted = wanted.to_str().unwrap_or_default();
    list(answer, &UPGRADE)
        .map(protocol_name)
        .all(|name| wanted.split(',').any(|wanted| protocol_name(wanted.trim()).eq_ignore_ascii_case(name)))
}

/// The client waits for `100 Continue`.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Leaves one `Content-Length` where there are several of the same value. Different ones are a way to
/// smuggle a request past a proxy (RFC 9112, section 6.3); HTTP/2 looks at the first only.
fn one_length(headers: &mut HeaderMap) -> Result<(), MalformedHead> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    let mut several = false;
    for other in lengths {
        if other != first {
            return Err(MalformedHead("there are several Content-Length headers, and they differ"));
        }
        several = true;
    }
    if several {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
    Ok(())
}

/// Checks a request as it came and brings it into the form used inside: an absolute `http` URI (for
/// CONNECT only the authority), no `Host`, nothing about the client's connection, none of the mesh's
/// own headers. `default_authority` stands in where an HTTP/1.0 client named none.
pub(crate) fn normalize_request(
    head: &mut Parts,
    last: &LastAuthority,
    default_authority: impl FnOnce() -> String,
) -> Result<(), MalformedHead> {
    let found = Found::of(&head.headers);
    found.check_framing(&mut head.headers, "the only transfer coding supported is chunked")?;
    if found.length && head.method == Method::CONNECT {
        without_body(&mut head.headers)?;
    }
    let fields = head.headers.len();
    let host = head.headers.remove(HOST);
    if fields - head.headers.len() > 1 {
        return Err(MalformedHead("the request has more than one Host header"));
    }
    if host.is_none() && head.version == Version::HTTP_11 {
        return Err(MalformedHead("the request has no Host header"));
    }
    // What a URI says was looked at when it was parsed.
    let authority = match (head.uri.authority(), host) {
        (Some(authority), None) => authority.clone(),
        (Some(authority), Some(host)) => {
            beside(authority, &host, head)?;
            authority.clone()
        }
        (None, Some(host)) if !host.is_empty() => last.read(host.as_bytes()).ok_or(NO_HOST)?,
        (None, _) => Authority::try_from(default_authority())
            .map_err(|_| MalformedHead("the request does not say what host it is for"))?,
    };
    found.strip(&mut head.headers, None);
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.authority = Some(authority);
    if head.method == Method::CONNECT && head.extensions.get::<crate::http2::ConnectProtocol>().is_none() {
        // RFC 9110, section 9.3.6.
        if uri.authority.as_ref().and_then(Authority::port_u16).is_none_or(|port| port == 0) {
            return Err(MalformedHead("CONNECT is for a host and a port"));
        }
        (uri.scheme, uri.path_and_query) = (None, None);
    } else {
        // Another scheme's is another resource (RFC 9110, section 4.2). What HTTP/2 says of it is no part of a target.
        let foreign = |scheme: &Scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS;
        if head.version != Version::HTTP_2 && uri.scheme.as_ref().is_some_and(foreign) {
            return Err(MalformedHead("the request is for something of another scheme than http and https"));
        }
        uri.scheme = Some(Scheme::HTTP);
        let path = uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        match path.as_str().as_bytes() {
            [b'/', ..] => {}
            b"*" if head.method == Method::OPTIONS => {}
            // An absolute URI whose path is empty (RFC 9110, section 4.2.3).
            [b'?', ..] => *path = rooted(path)?,
            _ => {
                return Err(MalformedHead(
                    "only OPTIONS can be for `*`, and every other path begins with `/`",
                ));
            }
        }
    }
    head.uri = Uri::from_parts(uri).map_err(|_| MalformedHead("the request target is not valid"))?;
    Ok(())
}

/// Of CONNECT, whose content is what passes afterwards (RFC 9110, section 9.3.6): some say that there is none before.
#[cold]
fn without_body(headers: &mut HeaderMap) -> Result<(), MalformedHead> {
    match headers.remove(CONTENT_LENGTH) {
        Some(length) if length.as_bytes().iter().any(|digit| *digit != b'0') => {
            Err(MalformedHead("CONNECT has no body, and its Content-Length says that there is one"))
        }
        _ => Ok(()),
    }
}

const NO_HOST: MalformedHead = MalformedHead("the Host header is no host name with an optional port");

/// Checks a `Host` beside the authority of a request's URI: an absolute URI outweighs it in HTTP/1 (RFC 9112,
/// section 3.2.2), and HTTP/2 has it the same (RFC 9113, section 8.3.1).
#[cold]
fn beside(authority: &Authority, host: &HeaderValue, head: &Parts) -> Result<(), MalformedHead> {
    let named = if host.is_empty() { None } else { Some(uri::authority(host.as_bytes()).ok_or(NO_HOST)?) };
    let same = || named.is_some_and(|host| uri::is_same(authority, &host, head.uri.scheme()));
    if head.version == Version::HTTP_2 && !same() {
        return Err(MalformedHead("the Host header is not what :authority says"));
    }
    Ok(())
}

#[cold]
fn rooted(query: &PathAndQuery) -> Result<PathAndQuery, MalformedHead> {
    PathAndQuery::try_from(format!("/{}", query.as_str()))
        .map_err(|_| MalformedHead("the request target is not valid"))
}

/// What only a proxy was meant to read.
pub fn strip_proxy_only(headers: &mut HeaderMap) {
    headers.remove(PROXY_AUTHORIZATION);
}

/// Takes what is no longer needed off a request that came over a link or from inside of the process, as
/// for [`normalize_request`]: a peer is not trusted to have done it. What it says of how the fields were written
/// is given back.
pub(crate) fn normalize_inner(head: &mut HeaderMap) -> Result<Option<Spelling>, MalformedHead> {
    let found = Found::of(head);
    if found.length {
        one_length(head)?;
    }
    Ok(found.strip(head, None))
}

/// Takes what belongs to the application's connection, and what only the mesh may say, off its response.
/// `Err`: the response cannot be passed on.
pub fn normalize_response(status: StatusCode, headers: &mut HeaderMap) -> Result<(), MalformedHead> {
    let found = Found::of(headers);
    found.check_framing(headers, "the application used a transfer coding other than chunked")?;
    found.strip(headers, Some(status));
    // RFC 9110, section 8.6: it may have none, and clients of HTTP/2 take one that says more than 0 for a broken answer.
    if found.length && status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_is_the_connections_own_goes() {
        let mut map = headers(&[
            ("connection", "keep-alive, x-secret"),
            ("connection", "Content-Length, te"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip, Trailers"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
        ]);
        take_hop_by_hop(&mut map, None);
        let expected =
            headers(&[("content-length", "3"), ("te", "trailers"), ("trailer", "x-sum"), ("x-kept", "1")]);
        assert_eq!(map, expected);
    }

    #[test]
    fn framing_cannot_be_named_away() {
        let head = headers(&[("connection", "X-Named, content-length")]);
        assert_eq!(*named_by_connection(&head), [HeaderName::from_static("x-named")]);
    }

    #[test]
    fn a_peers_answer_has_of_the_meshs_own_only_why_it_refused() {
        let lines = [("tulle-reason", "draining"), ("tulle-retry", "safe"), ("tulle-port", "1"), ("x", "1")];
        let refusal = headers(&[("tulle-reason", "draining"), ("tulle-retry", "safe"), ("x", "1")]);
        for (status, expected) in [(503, refusal), (200, headers(&[("x", "1")]))] {
            let mut map = headers(&lines);
            normalize_link_response(&mut map, StatusCode::from_u16(status).unwrap());
            assert_eq!(map, expected, "{status}");
        }
        let mut map = headers(&lines[1..]);
        normalize_link_response(&mut map, StatusCode::BAD_GATEWAY);
        assert_eq!(map, headers(&[("x", "1")]));
    }

    #[test]
    fn h2c_is_no_upgrade() {
        let upgrade = |lines| wanted_upgrade(&headers(lines)).is_some();
        assert!(upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!upgrade(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]));
        assert!(!upgrade(&[("upgrade", "websocket")]));
    }

    fn normalized(
        version: Version,
        uri: &str,
        lines: &[(&'static str, &'static str)],
    ) -> Result<Parts, MalformedHead> {
        let (mut head, ()) = Request::builder().version(version).uri(uri).body(()).unwrap().into_parts();
        head.headers = headers(lines);
        normalize_request(&mut head, &LastAuthority::default(), || "c.shop:80".to_owned()).map(|()| head)
    }

    #[test]
    fn requests_get_one_form() {
        let head = normalized(
            Version::HTTP_11,
            "/a?b",
            &[("host", "C:80"), ("tulle-reason", "x"), ("connection", "close")],
        )
        .unwrap();
        assert_eq!(head.uri, "http://C:80/a?b");
        assert!(head.headers.is_empty());
        let head = normalized(Version::HTTP_10, "/", &[]).unwrap();
        assert_eq!(head.uri, "http://c.shop:80/");
        let head = normalized(Version::HTTP_11, "/", &[("host", "")]).unwrap();
        assert_eq!(head.uri, "http://c.shop:80/", "a host that names none");
        let head = normalized(Version::HTTP_11, "http://d/x", &[("host", "e")]).unwrap();
        assert_eq!(head.uri, "http://d/x");
        let twice = [("host", "e"), ("content-length", "5"), ("content-length", "5")];
        let head = normalized(Version::HTTP_2, "/", &twice).unwrap();
        assert_eq!(head.headers, headers(&[("content-length", "5")]));
        let head = normalized(Version::HTTP_10, "http://d?x=1", &[]).unwrap();
        assert_eq!(head.uri, "http://d/?x=1");
        let head = normalized(Version::HTTP_11, "http://d", &[("host", "")]).unwrap();
        assert_eq!(head.uri, "http://d/");
    }

    #[test]
    fn a_server_as_a_whole_is_for_options_only() {
        let with = |method: Method| {
            let request = Request::builder().method(method).uri("*").header("host", "e").body(()).unwrap();
            let (mut head, ()) = request.into_parts();
            normalize_request(&mut head, &LastAuthority::default(), String::new)
                .map(|()| head.uri.path().to_owned())
        };
        assert_eq!(with(Method::OPTIONS).unwrap(), "*");
        assert!(with(Method::GET).is_err());
    }

    #[test]
    fn bad_requests_are_refused() {
        for lines in [
            &[][..],
            &[("host", "a"), ("host", "b")],
            &[("host", "a b")],
            &[("host", "u@a")],
            &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
            &[("host", "a"), ("content-length", "5"), ("content-length", "7")],
        ] {
            assert!(normalized(Version::HTTP_11, "/", lines).is_err(), "{lines:?}");
        }
        for (target, fine) in [
            ("http://a/b", true),
            ("HTTPS://a/b", true),
            ("ftp://a/b", false),
            ("ws://a", false),
            ("h://a/", false),
        ] {
            assert_eq!(normalized(Version::HTTP_11, target, &[("host", "a")]).is_ok(), fine, "{target}");
        }
    }

    #[test]
    fn a_status_keeps_the_fields_that_it_is_of_no_use_without() {
        let all = [
            "www-authenticate",
            "proxy-authenticate",
            "allow",
            "accept",
            "accept-encoding",
            "content-range",
            "location",
            "retry-after",
            "cache-control",
            "content-location",
            "date",
            "etag",
            "expires",
            "vary",
            "x-other",
        ];
        let validators = ["cache-control", "content-location", "date", "etag", "expires", "vary"];
        for (status, expected) in [
            (200, vec![]),
            (201, vec!["location"]),
            (206, [&["content-range"][..], &validators].concat()),
            (302, vec!["location", "retry-after"]),
            (304, [&["location", "retry-after"][..], &validators].concat()),
            (401, vec!["www-authenticate", "retry-after"]),
            (405, vec!["allow", "retry-after"]),
            (407, vec!["proxy-authenticate", "retry-after"]),
            (415, vec!["accept", "accept-encoding", "retry-after"]),
            (416, vec!["content-range", "retry-after"]),
            (503, vec!["retry-after"]),
        ] {
            let mut map = headers(&all.map(|name| (name, "1")));
            map.insert(CONNECTION, HeaderValue::from_str(&all.join(", ")).unwrap());
            normalize_response(StatusCode::from_u16(status).unwrap(), &mut map).unwrap();
            let left: Vec<&str> = all.into_iter().filter(|name| map.contains_key(*name)).collect();
            assert_eq!(
                left,
                all.into_iter().filter(|name| expected.contains(name)).collect::<Vec<_>>(),
                "{status}"
            );
        }
    }

    #[test]
    fn what_426_offers_reaches_clients_that_have_a_word_for_it() {
        let mut map =
            headers(&[("connection", "upgrade"), ("upgrade", "websocket, foo/2"), ("upgrade", "bar")]);
        normalize_response(StatusCode::UPGRADE_REQUIRED, &mut map).unwrap();
        assert!(!map.contains_key(UPGRADE) && !map.contains_key(CONNECTION));
        let mut linked = map.clone();
        normalize_link_response(&mut linked, StatusCode::UPGRADE_REQUIRED);
        assert_eq!(linked, map, "over a link, too");
        normalize_link_response(&mut linked, StatusCode::OK);
        assert_eq!(linked, headers(&[]), "but not with another status");
        let mut newer = map.clone();
        offer_upgrade(Version::HTTP_2, &mut newer);
        assert_eq!(newer, headers(&[]));
        offer_upgrade(Version::HTTP_11, &mut map);
        assert_eq!(map, headers(&[("upgrade", "websocket, foo/2, bar"), ("connection", "upgrade")]));
        // Without an offer there is nothing to say, and no other status has one.
        for (status, lines) in [(426, &[("connection", "upgrade")][..]), (200, &[("upgrade", "foo")])] {
            let mut map = headers(lines);
            normalize_response(StatusCode::from_u16(status).unwrap(), &mut map).unwrap();
            offer_upgrade(Version::HTTP_11, &mut map);
            assert_eq!(map, headers(&[]));
        }
    }

    #[test]
    fn answers_framed_in_ways_that_would_be_lost_are_not_passed_on() {
        let check = |lines| normalize_response(StatusCode::OK, &mut headers(lines));
        assert_eq!(check(&[("transfer-encoding", "Chunked")]), Ok(()));
        assert!(check(&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]).is_err());
        assert!(check(&[("content-length", "1"), ("content-length", "2")]).is_err());
        let mut map = headers(&[("content-length", "1"), ("content-length", "1"), ("tulle-reason", "x")]);
        assert_eq!(normalize_response(StatusCode::OK, &mut map), Ok(()));
        assert_eq!(map, headers(&[("content-length", "1")]));
        // What has no body and says that it had one; 304 says how long the body would be.
        for (status, left) in
            [(StatusCode::NO_CONTENT, &[][..]), (StatusCode::NOT_MODIFIED, &[("content-length", "5")])]
        {
            let mut map = headers(&[("content-length", "5")]);
            assert_eq!(normalize_response(status, &mut map), Ok(()));
            assert_eq!(map, headers(left), "{status}");
        }
    }

    #[test]
    fn of_a_peer_nothing_of_the_connection_or_the_mesh_is_taken() {
        let mut map =
            headers(&[("connection", "x"), ("x", "1"), ("tulle-port", "1"), ("content-length", "1")]);
        assert_eq!(normalize_inner(&mut map).map(|spelling| spelling.is_some()), Ok(false));
        assert_eq!(map, headers(&[("content-length", "1")]));
        assert!(normalize_inner(&mut headers(&[("content-length", "1"), ("content-length", "2")])).is_err());
        let mut map = headers(&[("connection", "x"), ("x", "1"), ("y", "1")]);
        normalize_link_response(&mut map, StatusCode::OK);
        assert_eq!(map, headers(&[("y", "1")]));
        // A refusal says no more than why.
        let lines =
            [("tulle-reason", "a"), ("tulle-retry", "b"), ("tulle-reset", "c"), ("tulle-upgrade", "d")];
        let mut map = headers(&lines);
        normalize_link_response(&mut map, StatusCode::BAD_GATEWAY);
        assert_eq!(map, headers(&lines[..3]));
    }

    #[test]
    fn an_upgrade_to_http_or_tls_is_no_wish() {
        for (lines, expected) in [
            (&["websocket"][..], Some("websocket")),
            (&["foo/2"], Some("foo/2")),
            (&["foo", "websocket"], Some("foo, websocket")),
            (&["h2c"], None),
            (&["h2c", "websocket"], Some("websocket")),
            (&["h2c, websocket", "h2c"], Some("websocket")),
            (&["websocket,h2c"], Some("websocket")),
            (&["H2C , foo"], Some("foo")),
            (&["h2c/1", "h2c;q=1", "h2c foo", "h2", "HTTP/2.0", "http"], None),
            (&["TLS/1.0", "h2c, TLS/1.2", "tls"], None),
            (&[""], None),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("upgrade", *line)).collect();
            let wanted = wanted_upgrade(&headers(&[&[("connection", "Upgrade")], &lines[..]].concat()));
            assert_eq!(wanted, expected.map(HeaderValue::from_static), "{lines:?}");
            assert_eq!(wanted_upgrade(&headers(&lines)), None, "nobody asks for it");
        }
        for (answer, switches) in [
            (&[][..], true),
            (&["WebSocket"], true),
            (&["foo/3"], true),
            (&["bar"], false),
            (&["foo", "h2c"], false),
        ] {
            let answer: Vec<_> = answer.iter().map(|line| ("upgrade", *line)).collect();
            let wanted = HeaderValue::from_static("foo/2, websocket");
            assert_eq!(switches_to(&headers(&answer), &wanted), switches, "{answer:?}");
        }
    }

    #[test]
    fn what_clients_ask_for_is_understood() {
        assert!(expects_continue(&headers(&[("expect", "100-Continue")])));
        assert!(!expects_continue(&headers(&[("expect", "101")])) && !expects_continue(&headers(&[])));
        assert!(
            takes_trailers(&headers(&[("te", "gzip, Trailers")]))
                && !takes_trailers(&headers(&[("te", "gzip")]))
        );
        let mut map = headers(&[("proxy-authorization", "x"), ("authorization", "y")]);
        strip_proxy_only(&mut map);
        assert_eq!(map, headers(&[("authorization", "y")]));
        assert_eq!(AppVersion::of(Version::HTTP_2), AppVersion::Http2);
        assert_eq!(AppVersion::of(Version::HTTP_11), AppVersion::Http1);
    }

    #[test]
    fn a_tunnel_is_for_a_host_and_a_port() {
        let connect = |target: &str, extended: bool| {
            let request =
                Request::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(target).body(());
            let (mut head, ()) = request.unwrap().into_parts();
            if extended {
                head.extensions.insert(crate::http2::ConnectProtocol(HeaderValue::from_static("websocket")));
            }
            normalize_request(&mut head, &LastAuthority::default(), String::new)
                .map(|()| head.uri.to_string())
        };
        assert_eq!(connect("c:80", false).as_deref(), Ok("c:80"));
        assert!(connect("c", false).is_err() && connect("c:0", false).is_err());
        assert_eq!(connect("http://c/chat", true).as_deref(), Ok("http://c/chat"), "RFC 8441");
    }

    #[test]
    fn a_host_says_on_http2_what_the_authority_does() {
        let with = |version, host| normalized(version, "http://c:80/", &[("host", host)]).is_ok();
        assert!(with(Version::HTTP_2, "C") && !with(Version::HTTP_2, "d") && !with(Version::HTTP_2, ""));
        assert!(with(Version::HTTP_11, "d") && !with(Version::HTTP_11, "u@d"));
        assert!(normalized(Version::HTTP_2, "/", &[]).is_ok(), "the service that was connected to");
    }
}
