//! What a rule asks of a request, but for its token and its condition.

use std::borrow::Cow;

use http::HeaderMap;

use super::RequestSeen;
use crate::host::folded;
use crate::routing::{join_values, path_matches, text_matches};
use crate::snapshot::{PathMatch, RequestConditions, ValueMatch};

/// Whether a request is as a rule says, but for its token. Applications differ in what they take for the same, so that only a rule that
/// allows takes each word as it is written (`strict`): others also mean the same methods in other letters, paths with one slash more or less at
/// their ends, and headers that come in several lines or have several values.
#[inline]
pub(super) fn holds(
    conditions: &RequestConditions,
    request: &RequestSeen<'_>,
    path: &str,
    strict: bool,
) -> bool {
    let RequestConditions { methods, paths, calls, hosts, headers, jwt: _ } = conditions;
    let is_method = |method: &String| {
        method == request.method || (!strict && method.eq_ignore_ascii_case(request.method))
    };
    let path = if path.is_empty() { "/" } else { path };
    let is_path = |wanted: &[PathMatch]| {
        wanted.iter().any(|wanted| path_matches(wanted, path)) || (!strict && is_almost(wanted, path))
    };
    (methods.is_empty() || methods.iter().any(is_method))
        && (paths.is_empty() || is_path(paths))
        && (calls.is_empty() || is_path(calls))
        && (hosts.is_empty() || {
            let host = host_of(request.authority);
            hosts.iter().any(|wanted| wanted.matches(&host))
        })
        && headers.iter().all(|wanted| has_header(wanted, request.headers, strict))
}

/// Whether a path is any of these with a slash more or less at its end.
#[inline(never)]
fn is_almost(wanted: &[PathMatch], path: &str) -> bool {
    match path.strip_suffix('/') {
        Some("") => false,
        Some(shorter) => wanted.iter().any(|wanted| path_matches(wanted, shorter)),
        None => {
            let longer = format!("{path}/");
            wanted.iter().any(|wanted| path_matches(wanted, &longer))
        }
    }
}

fn has_header(wanted: &ValueMatch, headers: &HeaderMap, strict: bool) -> bool {
    let values = || headers.get_all(&wanted.name).iter().map(|value| value.as_bytes());
    let Some(joined) = join_values(&wanted.name, values()) else { return false };
    let of_lines = || values().map(String::from_utf8_lossy).any(|line| text_matches(&wanted.value, &line));
    let of_elements = || joined.split([',', ';']).any(|one| text_matches(&wanted.value, one.trim()));
    text_matches(&wanted.value, &joined) || (!strict && (of_lines() || of_elements()))
}

/// Without the port and the dot at its end, in lower case.
pub(super) fn host_of(authority: &str) -> Cow<'_, str> {
    folded(match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    })
}
