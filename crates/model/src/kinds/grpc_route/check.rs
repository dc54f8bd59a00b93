//! What a GRPCRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use crate::kinds::http_route::check::{
    check_hostnames, check_match_count, check_pattern, check_value_matches, every_request, read_matches,
};
use crate::kinds::http_route::check_filters::{check_backend_filters, check_filters};
use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_backends, check_rule_names, check_spec, read_each, read_route};
use crate::kinds::route::form::{RouteForm, RuleForm};
use crate::kinds::route::session::check_session;
use crate::snapshot::{HttpMatch, PathMatch, Timeouts};
use crate::validate::field::{Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::namespace;

/// Any service or method, in a regular expression.
const ANY: &str = "[^/]+";

pub(crate) fn check(route: &Field<'_>, errors: &mut Errors) -> Read<RouteForm> {
    let needs = "a GRPCRoute needs a `spec` with `parentRefs` and `rules`";
    let (spec, parents) = check_spec(route, needs, errors)?;
    let own = namespace(route).unwrap_or_default();
    let hostnames = check_hostnames(&spec, errors);
    check_rule_names(&spec, errors);
    check_match_count(&spec, errors);
    let rules = read_each(&spec, "rules", |rule| check_rule(rule, own, errors));
    if spec.items("rules").next().is_none() {
        // Another one would say that it acts on its ports, and route nothing there.
        errors.required(spec.path.field("rules"), "is missing: a GRPCRoute without rules routes no calls");
        return Err(Unreadable);
    }
    read_route(KindId::GrpcRoute, route, parents?, rules?, hostnames?)
}

fn check_rule(rule: &Field<'_>, own: &str, errors: &mut Errors) -> Read<RuleForm> {
    let session = check_session(rule, errors);
    let matches = read_matches(rule, |condition| check_match(condition, errors));
    let filters = check_filters(rule, own, false, None, errors);
    let backends = check_backends(rule, own, errors);
    let backends = backends.and_then(|backends| check_backend_filters(rule, own, backends, None, errors));
    let name = rule.read_str("name")?.map(Into::into);
    let (filters, backends, timeouts) = (filters?, backends?, Timeouts::default());
    let (matches, session) = (matches?, session?);
    Ok(RuleForm { name, matches, backends, filters, timeouts, retry: None, session })
}

/// A call is a request whose path is its service and its method (gRPC over HTTP/2, "Requests"). Whether one is a call is not
/// asked: without a method all paths match (GEP-1016 makes it the prefix `/`), and servers of gRPC refuse what is none.
fn check_match(condition: &Field<'_>, errors: &mut Errors) -> Read<HttpMatch> {
    let path = match condition.get("method") {
        None => Ok(every_request().path),
        Some(method) => check_method(&method, errors),
    };
    let headers = check_value_matches(condition, "headers", 4096, errors);
    Ok(HttpMatch { path: path?, headers: headers?, ..every_request() })
}

pub(in crate::kinds) fn check_method(method: &Field<'_>, errors: &mut Errors) -> Read<PathMatch> {
    let named = |name: &'static str| method.get(name).filter(|field| field.str() != Some(""));
    let (service, name) = (named("service"), named("method"));
    let Some(given) = service.as_ref().or(name.as_ref()) else {
        errors.required(
            method.path.field("service"),
            "is missing: a match names a `service`, a `method`, or both",
        );
        return Err(Unreadable);
    };
    let text = |field: &Option<Field<'_>>| match field {
        None => Ok(None),
        Some(field) => field.str().map(str::to_owned).ok_or(Unreadable).map(Some),
    };
    let (service_name, method_name) = (text(&service)?, text(&name)?);
    let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    // The service comes first, whatever the length of the method (Gateway API, GRPCRouteRule.matches).
    let rank = (length(&service_name) << 16) + length(&method_name);
    match method.read_str("type")? {
        None | Some("Exact") => {
            let service_problem = service.iter().filter(|field| !field.str().is_some_and(is_service));
            let method_problem = name.iter().filter(|field| !field.str().is_some_and(is_word));
            let mut wrong = false;
            for (field, what) in
                service_problem.map(|f| (f, "service")).chain(method_problem.map(|f| (f, "method")))
            {
                errors.invalid(field, format!("{} is no name of a {what} of gRPC", shown(field.value)));
                wrong = true;
            }
            if wrong {
                return Err(Unreadable);
            }
            Ok(match (service_name, method_name) {
                (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
                (Some(service), None) => PathMatch::Prefix(format!("/{service}")),
                (None, method) => {
                    let method = method.unwrap_or_else(|| ANY.to_owned());
                    PathMatch::Regex(check_pattern(given, &format!("/{ANY}/{method}"), errors)?.ranked(rank))
                }
            })
        }
        Some("RegularExpression") => {
            // Each alone first: what is wrong with one stands at its field, and none ends the other's group.
            for (field, text) in [(&service, &service_name), (&name, &method_name)] {
                if let (Some(field), Some(text)) = (field, text) {
                    check_pattern(field, text, errors)?;
                }
            }
            let [service, method] =
                [service_name, method_name].map(|text| text.unwrap_or_else(|| ANY.to_owned()));
            let pattern = format!("/(?:{service})/(?:{method})");
            Ok(PathMatch::Regex(check_pattern(given, &pattern, errors)?.ranked(rank)))
        }
        Some(_) => Err(Unreadable),
    }
}

/// Words with dots between them, and maybe one before them.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_word)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
