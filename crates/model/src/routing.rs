//! Which rule of a port decides over a request (Gateway API v1.6, HTTPRouteRule.matches), and which
//! of its backends gets it.

use std::borrow::Cow;
use std::cmp::Reverse;

use crate::snapshot::{Backend, HttpMatch, HttpRouteEntry, HttpRouteTable, PathMatch, TextMatch, ValueMatch};

pub mod cors;
pub mod decide;
pub mod redirect;
pub mod session;
pub mod unreached;

/// What of a request a rule may ask for.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a, H> {
    pub method: &'a str,
    /// Without the query, in its normal form (see [`crate::path::normal_form`]) where the table goes by paths.
    /// Empty stands for `/`.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// Finds a header by its name, which is in lower case; several values are joined with `,`
    /// (see [`join_values`]). Called only for names that a match asks for.
    pub header: H,
}

/// The first entry that matches. `None` in a table that is not empty: answer 404.
pub fn route<'t, 'r, H>(
    table: &'t HttpRouteTable,
    request: &RequestParts<'r, H>,
) -> Option<&'t HttpRouteEntry>
where
    H: Fn(&str) -> Option<Cow<'r, str>>,
{
    first(table, request, |entry| conditions_hold(&entry.matcher, request))
}

/// The first entry whose path matches, and of which `conditions` are so.
fn first<'t, 'r, H>(
    table: &'t HttpRouteTable,
    request: &RequestParts<'r, H>,
    conditions: impl Fn(&HttpRouteEntry) -> bool,
) -> Option<&'t HttpRouteEntry> {
    let entries = table.entries();
    let path = effective_path(request);
    let all = |entry: &HttpRouteEntry| path_matches(&entry.matcher.path, path) && conditions(entry);
    let Some(index) = table.index() else { return entries.iter().find(|entry| all(entry)) };
    let position = index.first(path, |at| conditions(&entries[at]), |at| all(&entries[at]));
    position.map(|position| &entries[position])
}

/// Whether all conditions of a match hold.
pub(crate) fn matches<'r, H>(matcher: &HttpMatch, request: &RequestParts<'r, H>) -> bool
where
    H: Fn(&str) -> Option<Cow<'r, str>>,
{
    path_matches(&matcher.path, effective_path(request)) && conditions_hold(matcher, request)
}

/// The entry that decides over a preflight, which announces a request with that method: the one of the request. Where that
/// has no CORS, no other rule's may speak for it, and the preflight is a request like any. Where there is none, the first
/// that would take it but for its method and has CORS, unless one that takes the preflight stands before that.
fn route_preflight<'t, 'r, H>(
    table: &'t HttpRouteTable,
    preflight: &RequestParts<'r, H>,
    announced: &str,
) -> Option<&'t HttpRouteEntry>
where
    H: Fn(&str) -> Option<Cow<'r, str>>,
{
    let method_fits =
        |entry: &HttpRouteEntry, method| entry.matcher.method.as_deref().is_none_or(|own| own == method);
    let rest_holds = |entry: &HttpRouteEntry| conditions_but_the_method_hold(&entry.matcher, preflight);
    let own = first(table, preflight, |entry| method_fits(entry, announced) && rest_holds(entry));
    match own {
        Some(own) if own.rule.has_cors() => Some(own),
        Some(_) => route(table, preflight),
        None => first(table, preflight, |entry| {
            (method_fits(entry, preflight.method) || entry.rule.has_cors()) && rest_holds(entry)
        }),
    }
}

fn effective_path<'r, H>(request: &RequestParts<'r, H>) -> &'r str {
    if request.path.is_empty() { "/" } else { request.path }
}

/// Whether the conditions hold that are not of the path.
fn conditions_hold<'r, H>(matcher: &HttpMatch, request: &RequestParts<'r, H>) -> bool
where
    H: Fn(&str) -> Option<Cow<'r, str>>,
{
    matcher.method.as_deref().is_none_or(|method| method == request.method)
        && conditions_but_the_method_hold(matcher, request)
}

fn conditions_but_the_method_hold<'r, H>(matcher: &HttpMatch, request: &RequestParts<'r, H>) -> bool
where
    H: Fn(&str) -> Option<Cow<'r, str>>,
{
    matcher
        .headers
        .iter()
        .all(|header| (request.header)(&header.name).is_some_and(|value| text_matches(&header.value, &value)))
        && matcher.query.iter().all(|parameter| query_matches(parameter, request.query.unwrap_or_default()))
}

/// The index of one backend, drawn by weight out of 64 random bits. `None` where there is no backend with a
/// weight: answer 500.
pub fn draw(backends: &[Backend], random: u64) -> Option<usize> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    backends.iter().position(|backend| {
        let weight = u64::from(backend.weight);
        let found = left < weight;
        left = left.saturating_sub(weight);
        found
    })
}

/// The values of a header that came in several lines, as one (RFC 9110, section 5.2), those of a cookie as applications read them
/// (RFC 9113, section 8.2.3). What is not UTF-8 is replaced, so that it equals nothing that a route could ask for. `name`: in lower case.
pub fn join_values<'a>(name: &str, mut values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, str>> {
    let mut joined = String::from_utf8_lossy(values.next()?);
    for value in values {
        let text = joined.to_mut();
        text.push_str(if name == "cookie" { "; " } else { "," });
        text.push_str(&String::from_utf8_lossy(value));
    }
    Some(joined)
}

/// An entry of a table before it is put in order.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The creation of its route; what has none is younger than all that have.
    pub created: Option<jiff::Timestamp>,
    /// The match's index in its rule.
    pub match_index: u32,
    pub entry: HttpRouteEntry,
}

/// Puts entries in the order of Gateway API's precedence: exact path, longest prefix, method, most
/// headers, most query parameters; then the oldest route, the first by `namespace/name`, the first
/// rule, the first match.
///
/// Where regular expressions stand is for implementations to say: below prefixes, longer ones
/// first, but above the prefix `/`, which would leave them nothing. Those of GRPCRoutes go by the length of
/// the service, then of the method.
pub fn sort_candidates(candidates: &mut [Candidate]) {
    candidates.sort_by_cached_key(|candidate| {
        let HttpRouteEntry { matcher, rule } = &candidate.entry;
        let age = (candidate.created.is_none(), candidate.created);
        // As one text: `a-b/x` stands before `a/x`.
        (specificity(matcher), age, rule.route.to_string(), rule.index, candidate.match_index)
    });
}

/// How special a match is, whatever route has it: what is less comes first.
pub fn specificity(matcher: &HttpMatch) -> impl Ord + use<> {
    let (rank, length) = match &matcher.path {
        PathMatch::Exact(_) => (0, 0),
        PathMatch::Prefix(prefix) if prefix.is_empty() => (3, 0),
        PathMatch::Prefix(prefix) => (1, prefix.chars().count()),
        PathMatch::Regex(pattern) => (2, pattern.rank()),
    };
    let conditions = (Reverse(matcher.headers.len()), Reverse(matcher.query.len()));
    (rank, Reverse(length), matcher.method.is_none(), conditions)
}

#[inline]
pub(crate) fn path_matches(matcher: &PathMatch, path: &str) -> bool {
    match matcher {
        PathMatch::Exact(wanted) => wanted == path,
        PathMatch::Prefix(prefix) => {
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                || prefix.is_empty()
        }
        PathMatch::Regex(pattern) => pattern.matches(path),
    }
}

pub(crate) fn text_matches(matcher: &TextMatch, text: &str) -> bool {
    match matcher {
        TextMatch::Exact(wanted) => wanted == text,
        TextMatch::Regex(pattern) => pattern.matches(text),
    }
}

/// The first parameter of that name decides, as Gateway API recommends.
fn query_matches(matcher: &ValueMatch, query: &str) -> bool {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| decode(name) == matcher.name)
        .is_some_and(|(_, value)| text_matches(&matcher.value, &decode(value)))
}

/// Undoes `application/x-www-form-urlencoded` (WHATWG URL, section 5.1). What is not UTF-8
/// thereafter is replaced; a `%` without two hexadecimal digits stays.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests;
