//! The form in which a request is routed, and what cannot have one.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::answer::text;
use super::{DescribedRequest, End, Ending, Form, Phase, Said};
use crate::head::{content_length, fits, named_by_connection, plain_framing, takes_trailers, wanted_upgrade};
use crate::path::{has_dot_segments, normal_form};
use crate::routing::{RequestParts, join_values};
use crate::snapshot::is_of_the_connection;

/// A request in the form in which it is routed.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub method: &'a str,
    /// As its client named it.
    pub host: String,
    pub named_port: Option<u16>,
    /// The port that it came to.
    pub port: u16,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Without `Host`, and what is about the client's connection.
    pub headers: HeaderMap,
    /// What it wants to go on in instead of HTTP.
    pub upgrade: Option<String>,
}

impl Request<'_> {
    pub fn parts<'r>(&'r self) -> RequestParts<'r, impl Fn(&str) -> Option<Cow<'r, str>>> {
        let header = |name: &str| match name {
            "host" => Some(self.authority().into()),
            _ => join_values(name, self.headers.get_all(name).iter().map(HeaderValue::as_bytes)),
        };
        RequestParts { method: self.method, path: self.path, query: self.query, header }
    }

    pub fn authority(&self) -> String {
        self.named_port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }
}

/// Brings a request to that host and port into the form in which it is routed.
pub(super) fn normalize<'a>(
    asked: DescribedRequest<'a>,
    host: &str,
    port: u16,
    said: &mut Said,
) -> Result<Request<'a>, Ending> {
    let bad = |said: &mut Said, message: &str| {
        said.refused(Phase::Normalize, None, (400, "bad-request"), message.to_owned())
    };
    if !is_small_enough(&asked, host) {
        // Nobody has seen by then that it is a call.
        said.form = Form::Http;
        let message = "the header fields of the request are larger than 64 KiB, or more than 256".to_owned();
        return Err(said.refused(Phase::Normalize, None, (431, "headers-too-large"), message));
    }
    let mut headers = asked.headers.clone();
    if let Err(problem) = framing(&mut headers) {
        said.form = Form::Http;
        return Err(bad(said, problem));
    }
    let (host, named_port) = match named(&headers) {
        Ok(Some(named)) => named,
        Ok(None) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            (host, (port != 80).then_some(port))
        }
        Err(problem) => return Err(bad(said, problem)),
    };
    headers.remove(HOST);
    let upgrade = wanted_upgrade(&headers).as_ref().map(text);
    if let Some(protocol) = &upgrade {
        said.say(Phase::Normalize, format!("asks to go on in {protocol}: an upgrade, which is passed on"));
    }
    strip(&mut headers, upgrade.is_some(), said);
    // An absolute target without a path is `/`.
    let path = if asked.path.is_empty() { "/" } else { asked.path };
    let is_path = path.starts_with('/') || (path == "*" && asked.method == "OPTIONS");
    if !is_path {
        return Err(bad(said, "only OPTIONS can be for `*`, and every other path begins with `/`"));
    }
    let normal = normal_form(path);
    if has_dot_segments(path) {
        said.say(Phase::Normalize, "the path has dot segments: refused where rules go by paths");
    } else if normal != path {
        said.say(Phase::Normalize, format!("to routes, the path is {normal}"));
    }
    let DescribedRequest { method, query, .. } = asked;
    let mut request = Request { method, host, named_port, port, path, query, headers, upgrade };
    match count(&mut request) {
        Ok(false) => Ok(request),
        Ok(true) => {
            said.say(
                Phase::Normalize,
                "Max-Forwards is 0, and the mesh is one on the way: it answers itself",
            );
            let message = "the request is to be passed on no further (Max-Forwards)".to_owned();
            let end =
                End::Refused { status: Some(200), grpc_status: None, reason: "max-forwards".into(), message };
            Err(Ending { share: 1.0, end })
        }
        Err(problem) => Err(bad(said, problem)),
    }
}

/// Whether its head is within the limits, with the `Host` that a client would name by itself.
fn is_small_enough(asked: &DescribedRequest<'_>, host: &str) -> bool {
    let target = match asked.query {
        Some(query) => format!("{}?{query}", asked.path),
        None => asked.path.to_owned(),
    };
    let mut pseudo = vec![(":method", asked.method), (":scheme", "http"), (":path", &*target)];
    if !asked.headers.contains_key(HOST) {
        pseudo.push((":authority", host));
    }
    fits(&pseudo, asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Whether it can be told where a body ends. One length is left where it is said several times, and none beside a coding.
fn framing(headers: &mut HeaderMap) -> Result<(), &'static str> {
    if !plain_framing(headers) {
        return Err("the only transfer coding supported is chunked");
    }
    let mut length = None;
    let mut again = false;
    for value in headers.get_all(CONTENT_LENGTH) {
        again |= content_length(value.as_bytes(), &mut length)?;
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = length.filter(|_| again) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(())
}

/// The host and the port that `Host` names.
fn named(headers: &HeaderMap) -> Result<Option<(String, Option<u16>)>, &'static str> {
    const NO_HOST: &str = "the Host header is no host name with an optional port";
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next().filter(|host| !host.is_empty()) else { return Ok(None) };
    if hosts.next().is_some() {
        return Err("the request has more than one Host header");
    }
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| NO_HOST)?;
    let name = authority.host();
    let port = authority.as_str().strip_prefix(name).ok_or(NO_HOST)?;
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().map_err(|_| NO_HOST)?)
        }
        _ => return Err(NO_HOST),
    };
    Ok(Some((name.to_owned(), port)))
}

/// Takes off what is about the client's connection, and the mesh's own.
fn strip(headers: &mut HeaderMap, upgrades: bool, said: &mut Said) {
    let named = named_by_connection(headers);
    let is_gone = |name: &&HeaderName| is_of_the_connection(name.as_str()) || named.contains(name);
    let gone: Vec<HeaderName> = headers.keys().filter(is_gone).cloned().collect();
    for name in gone {
        headers.remove(&name);
        if !(upgrades && (name == UPGRADE || name == CONNECTION)) {
            let what = format!("header `{name}` is about one connection, or the mesh's own: taken off");
            said.say(Phase::Normalize, what);
        }
    }
    let before: Vec<_> = headers.get_all(TE).iter().cloned().collect();
    if before.is_empty() {
        return;
    }
    let trailers = HeaderValue::from_static("trailers");
    let takes_trailers = takes_trailers(headers);
    headers.remove(TE);
    if takes_trailers {
        headers.insert(TE, trailers.clone());
    }
    if before != [trailers] {
        said.say(
            Phase::Normalize,
            "header `te` is about one connection: nothing of it is left but `trailers`",
        );
    }
}

/// Counts the mesh as one on the way of TRACE and OPTIONS. Whether the request goes no further.
fn count(request: &mut Request<'_>) -> Result<bool, &'static str> {
    if !["OPTIONS", "TRACE"].contains(&request.method) {
        return Ok(false);
    }
    let mut values = request.headers.get_all(MAX_FORWARDS).iter();
    let Some(value) = values.next() else { return Ok(false) };
    let digits = value.to_str().unwrap_or_default();
    if values.next().is_some() || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("Max-Forwards is no number");
    }
    let left = digits.parse().unwrap_or(u64::MAX);
    if left > 0 {
        request.headers.insert(MAX_FORWARDS, (left - 1).into());
    }
    Ok(left == 0)
}
