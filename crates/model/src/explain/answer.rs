//! What is made of answers.

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};

use super::deliver::of_rule;
use super::{Phase, Said};
use crate::routing::cors;
use crate::routing::decide::Preflight;
use crate::snapshot::{Cors, HeaderEdit, HttpFilters, HttpRule};

/// The filters of a rule, and of its backend of that index, each with the field that they are of.
pub(super) fn filters(rule: &HttpRule, backend: Option<usize>) -> Vec<(&HttpFilters, String)> {
    let index = rule.index;
    let of_backend = backend.and_then(|at| Some((rule.backends.get(at)?.filters.as_deref()?, at)));
    let own = rule.filters.as_deref();
    let own = own.map(|filters| (filters, format!("spec.rules[{index}].filters")));
    let of_backend =
        of_backend.map(|(filters, at)| (filters, format!("spec.rules[{index}].backendRefs[{at}].filters")));
    own.into_iter().chain(of_backend).collect()
}

/// `filters`: the field of the rule that it is one of.
pub(super) fn say_edit(phase: Phase, rule: &HttpRule, edit: &HeaderEdit, filters: &str, said: &mut Said) {
    let modifier = match phase {
        Phase::RequestFilters => "requestHeaderModifier",
        _ => "responseHeaderModifier",
    };
    let decision = &of_rule(rule, format!("{filters}[{}].{modifier}", edit.index));
    for name in &edit.remove {
        said.decided(phase, format!("removes {name}"), decision);
    }
    for (what, fields) in [("sets", &edit.set), ("adds", &edit.add)] {
        for (name, value) in fields {
            said.decided(phase, format!("{what} {name}: {}", text(value)), decision);
        }
    }
}

pub(super) fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// What a rule makes of the answer to a request with these fields: the backend's filters come first, and CORS last.
pub(super) fn say(rule: &HttpRule, backend: Option<usize>, request: &HeaderMap, said: &mut Said) {
    let filters = filters(rule, backend);
    for (filters, field) in filters.iter().rev() {
        say_edit(Phase::ResponseFilters, rule, &filters.response_headers, field, said);
    }
    let cors = filters.iter().find_map(|(filters, field)| Some((filters.cors.as_ref()?, field)));
    if let Some((cors, field)) = cors {
        say_cors(rule, cors, field, request, said);
    }
}

/// `filters`: the field that it is one of.
fn say_cors(rule: &HttpRule, cors: &Cors, filters: &str, request: &HeaderMap, said: &mut Said) {
    const PHASE: Phase = Phase::ResponseFilters;
    let field = format!("{filters}[{}].cors", cors.index);
    let decision = of_rule(rule, field.clone());
    said.decided(PHASE, "removes access-control-*, as the filter has the last word", &decision);
    let allowed = cors::allowed_origin(cors, request);
    if allowed.is_none() {
        let what = format!("{} is not allowed: its pages may not read the answer", origin_of(request));
        said.decided(PHASE, what, &of_rule(rule, format!("{field}.allowOrigins")));
    }
    let mut answer = HeaderMap::new();
    cors::mark(cors, allowed.as_ref(), &mut answer);
    for (name, value) in &answer {
        let how = if name == http::header::VARY { "adds" } else { "sets" };
        said.decided(PHASE, format!("{how} {name}: {}", text(value)), &decision);
    }
    if allowed.is_some() && cors.exposed.is_any() && cors.credentials {
        said.decided(PHASE, "names the answer's own fields in access-control-expose-headers", &decision);
    }
}

/// Where the page is from that sends a request with these fields.
pub(super) fn origin_of(request: &HeaderMap) -> String {
    let mut origins = request.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => format!("origin {}", text(origin)),
        (Some(_), Some(_)) => "more than one origin".to_owned(),
        (None, _) => "no origin, as none is named,".to_owned(),
    }
}

/// The answer to a preflight: whether it is allowed, and its fields.
pub(super) fn to_preflight(
    preflight: &Preflight<'_>,
    request: &HeaderMap,
    said: &mut Said,
) -> (bool, Vec<(String, String)>) {
    let mut answer = HeaderMap::new();
    // Those of its backends are for what they answer.
    for (filters, field) in filters(preflight.rule, None) {
        say_edit(Phase::ResponseFilters, preflight.rule, &filters.response_headers, &field, said);
        filters.response_headers.apply(&mut answer);
    }
    let allowed = cors::answer_preflight(preflight.cors, request, &mut answer);
    (allowed, texts(&answer))
}

pub(super) fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
