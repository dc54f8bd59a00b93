//! What an HTTPRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use super::check_filters::{check_backend_filters, check_filters, check_retry, check_timeouts};
use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_backends, check_rule_names, check_spec, read_each, read_route};
use crate::kinds::route::form::{RouteForm, RuleForm};
use crate::kinds::route::session::{check_session, warn_of_shared_names};
use crate::path::{has_dot_segments, normal_form};
use crate::snapshot::{HttpMatch, PathMatch, Pattern, TextMatch, Timeouts, ValueMatch, is_of_the_connection};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::namespace;
use crate::validate::syntax::{header_name_problem, hostname_problem};

/// What becomes of `hostnames` (Gateway API, GAMMA: they are ignored where the parent is a Service).
pub(crate) const HOSTNAMES_IGNORED: &str =
    "is ignored: the route takes the requests of its parent Services, whatever host they name";

/// How many matches all the rules of a route may have together.
const MATCHES_OF_A_ROUTE: usize = 128;

pub(crate) fn check(route: &Field<'_>, errors: &mut Errors) -> Read<RouteForm> {
    let needs = "an HTTPRoute needs a `spec` with `parentRefs` and `rules`";
    let (spec, parents) = check_spec(route, needs, errors)?;
    let own = namespace(route).unwrap_or_default();
    let hostnames = check_hostnames(&spec, errors);
    check_rule_names(&spec, errors);
    let rules = read_each(&spec, "rules", |rule| check_rule(rule, own, errors));
    check_match_count(&spec, errors);
    let (mut rules, hostnames) = (rules?, hostnames?);
    if rules.is_empty() {
        // Gateway API's default: one rule for every path.
        rules.push(RuleForm {
            name: None,
            matches: vec![every_request()],
            backends: Vec::new(),
            filters: None,
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
        });
    }
    read_route(KindId::HttpRoute, route, parents?, rules, hostnames)
}

fn check_rule(rule: &Field<'_>, own: &str, errors: &mut Errors) -> Read<RuleForm> {
    let session = check_session(rule, errors);
    let matches = read_matches(rule, |condition| check_match(condition, errors));
    let known = matches.as_deref().ok();
    let filters = check_filters(rule, own, false, known, errors);
    let timeouts = check_timeouts(rule, errors);
    let retry = check_retry(rule, errors);
    let backends = check_backends(rule, own, errors);
    let backends = backends.and_then(|backends| check_backend_filters(rule, own, backends, known, errors));
    let (filters, backends, session) = (filters?, backends?, session?);
    if filters.as_ref().is_some_and(|filters| filters.redirect.is_some())
        && let Some(field) = rule.get("backendRefs").filter(|_| !backends.is_empty())
    {
        errors.push(
            &field,
            Code::Forbidden,
            "are of no use: the rule has a RequestRedirect, which answers by itself",
        );
        return Err(Unreadable);
    }
    let name = rule.read_str("name")?.map(Into::into);
    let (matches, timeouts, retry) = (matches?, timeouts?, retry?);
    Ok(RuleForm { name, matches, backends, filters, timeouts, retry, session })
}

/// Reads the matches of a rule: where none is given, every request fits.
pub(in crate::kinds) fn read_matches(
    rule: &Field<'_>,
    read: impl FnMut(&Field<'_>) -> Read<HttpMatch>,
) -> Read<Vec<HttpMatch>> {
    let mut matches = read_each(rule, "matches", read)?;
    if matches.is_empty() {
        matches.push(every_request());
    }
    Ok(matches)
}

/// Gateway API bounds the matches of a route's rules together.
pub(in crate::kinds) fn check_match_count(spec: &Field<'_>, errors: &mut Errors) {
    let matches: usize = spec.items("rules").map(|rule| rule.items("matches").count()).sum();
    if matches > MATCHES_OF_A_ROUTE
        && let Some(rules) = spec.get("rules")
    {
        let message =
            format!("have {matches} matches in all; at most {MATCHES_OF_A_ROUTE} are allowed in one route");
        errors.push(&rules, Code::TooMany, message);
    }
}

/// Whether there are host names, which count for nothing where the parent is a Service.
pub(in crate::kinds) fn check_hostnames(spec: &Field<'_>, errors: &mut Errors) -> Read<bool> {
    for hostname in spec.items("hostnames") {
        if let Some(problem) = hostname.str().and_then(hostname_problem) {
            errors.invalid(&hostname, format!("{} is no host name: it {problem}", shown(hostname.value)));
        }
    }
    Ok(spec.read_items("hostnames")?.next().is_some())
}

/// The match that there is where none is given.
pub(in crate::kinds) fn every_request() -> HttpMatch {
    HttpMatch { path: PathMatch::Prefix(String::new()), method: None, headers: Vec::new(), query: Vec::new() }
}

pub(in crate::kinds) fn warn(route: &Field<'_>, warnings: &mut Errors) {
    let Some(spec) = route.get("spec") else { return };
    if spec.items("hostnames").next().is_some()
        && let Some(hostnames) = spec.get("hostnames")
    {
        warnings.push(&hostnames, Code::NotSupported, format!("{HOSTNAMES_IGNORED}; leave it out"));
    }
    warn_of_shared_names(&spec, warnings);
    let matches = spec.items("rules").flat_map(|rule| rule.items("matches").collect::<Vec<_>>());
    for matcher in matches {
        let mut names: Vec<String> = Vec::new();
        for header in matcher.items("headers") {
            let Some(name) = header.get_str("name").map(str::to_ascii_lowercase) else { continue };
            if names.contains(&name) {
                let message = "is ignored: of several conditions on one header the first counts";
                warnings.push(&header, Code::Duplicate, message);
            } else {
                names.push(name);
            }
        }
    }
}

fn check_match(condition: &Field<'_>, errors: &mut Errors) -> Read<HttpMatch> {
    let path = condition.get("path").map(|path| check_path(&path, errors));
    let headers = check_value_matches(condition, "headers", 4096, errors);
    let query = check_value_matches(condition, "queryParams", 1024, errors);
    Ok(HttpMatch {
        path: path.unwrap_or_else(|| Ok(every_request().path))?,
        method: condition.read_str("method")?.map(str::to_owned),
        headers: headers?,
        query: query?,
    })
}

/// A path to compare with, in the normal form in which requests' paths are compared.
fn check_path(path: &Field<'_>, errors: &mut Errors) -> Read<PathMatch> {
    let kind = path.read_str("type").map(|kind| kind.unwrap_or("PathPrefix"));
    let Some(value) = path.get("value") else { return path_match(kind?, "/") };
    let text = value.str().ok_or(Unreadable)?;
    match kind {
        Ok("Exact" | "PathPrefix") => {
            if let Some(problem) = path_problem(text) {
                errors.invalid(&value, format!("{} is no path: it {problem}", shown(value.value)));
            }
        }
        Ok("RegularExpression") => return check_pattern(&value, text, errors).map(PathMatch::Regex),
        _ => {}
    }
    path_match(kind?, text)
}

fn path_match(kind: &str, path: &str) -> Read<PathMatch> {
    // No request is asked for such a one: it would be a rule for none.
    if !path.starts_with('/') || has_dot_segments(path) {
        return Err(Unreadable);
    }
    match kind {
        "Exact" => Ok(PathMatch::Exact(normal_form(path).into_owned())),
        "PathPrefix" => Ok(PathMatch::Prefix(normal_form(path).trim_end_matches('/').to_owned())),
        "RegularExpression" => Pattern::new(path).map(PathMatch::Regex).map_err(|_| Unreadable),
        _ => Err(Unreadable),
    }
}

/// What makes a text no path to compare with (the CEL rules of HTTPPathMatch).
pub(in crate::kinds) fn path_problem(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("must start with `/`".to_owned());
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return Some(format!("must not contain `{part}`"));
        }
    }
    for end in ["/..", "/."] {
        if path.ends_with(end) {
            return Some(format!("must not end with `{end}`"));
        }
    }
    if has_dot_segments(path) {
        return Some(
            "must not have a segment that is `.` or `..`, encoded or with parameters either".to_owned(),
        );
    }
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                hex(rest.next()) && hex(rest.next())
            }
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !fits {
            return Some(
                "must consist of letters, digits, -/._~!$&'()*+,;=:@ and %XX, with all else percent-encoded"
                    .to_owned(),
            );
        }
    }
    None
}

pub(in crate::kinds) fn check_pattern(
    value: &Field<'_>,
    pattern: &str,
    errors: &mut Errors,
) -> Read<Pattern> {
    Pattern::new(pattern).map_err(|error| {
        let error = error.to_string();
        // The library draws where; the line that says what comes last.
        let what = error.lines().last().unwrap_or_default().trim();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        let pattern: String = pattern.chars().take(80).collect();
        let message = format!("`{}` is no regular expression (RE2 syntax): {what}", pattern.escape_debug());
        errors.invalid(value, message);
        Unreadable
    })
}

/// Of several conditions on one name the first counts and the others don't (Gateway API, HTTPRouteMatch.headers).
pub(in crate::kinds) fn check_value_matches(
    condition: &Field<'_>,
    list: &'static str,
    longest: usize,
    errors: &mut Errors,
) -> Read<Vec<ValueMatch>> {
    let mut matches: Read<Vec<ValueMatch>> = condition.read_items(list).map(|_| Vec::new());
    for value_match in condition.items(list) {
        let read = check_value_match(&value_match, list == "headers", longest, errors);
        matches = matches.and_then(|mut matches| {
            let read = read?;
            if !matches.iter().any(|earlier| earlier.name == read.name) {
                matches.push(read);
            }
            Ok(matches)
        });
    }
    matches
}

/// A condition on a header, whose name is in lower case then, or on a query parameter.
fn check_value_match(
    value_match: &Field<'_>,
    is_header: bool,
    longest: usize,
    errors: &mut Errors,
) -> Read<ValueMatch> {
    if let Some(name) = value_match.get("name")
        && let Some(text) = name.str()
    {
        if let Some(problem) = header_name_problem(text) {
            let what = if is_header { "header" } else { "query parameter" };
            errors.invalid(&name, format!("{} is no name of a {what}: it {problem}", shown(name.value)));
        } else if is_header && is_of_the_connection(&text.to_ascii_lowercase()) {
            let message = format!(
                "{} is not supported: it is about one connection or the mesh's own, and no rule ever sees it",
                shown(name.value)
            );
            errors.push(&name, Code::NotSupported, message);
        }
    }
    let value = value_match.get("value").ok_or(Unreadable)?;
    let text = value.str().ok_or(Unreadable)?;
    let length = text.chars().count();
    // The schema has the limit of headers, the larger one.
    if length > longest && length <= 4096 {
        errors.push(&value, Code::TooLong, format!("has {length} characters; at most {longest} are allowed"));
    }
    let matched = match value_match.read_str("type")? {
        None | Some("Exact") => TextMatch::Exact(text.to_owned()),
        Some("RegularExpression") => TextMatch::Regex(check_pattern(&value, text, errors)?),
        Some(_) => return Err(Unreadable),
    };
    let name = value_match.read_str("name")?.ok_or(Unreadable)?;
    let name = if is_header { name.to_ascii_lowercase() } else { name.to_owned() };
    Ok(ValueMatch { name, value: matched })
}
