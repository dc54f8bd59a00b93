//! What an HTTPRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use crate::kinds::route::check::{check_backends, check_parents, check_rule_names, refuse};
use crate::path::has_dot_segments;
use crate::snapshot::Pattern;
use crate::validate::field::{Code, Errors, Field, shown};
use crate::validate::syntax::{header_name_problem, hostname_problem};

/// What becomes of `hostnames` (Gateway API, GAMMA: they are ignored where the parent is a Service).
pub(crate) const HOSTNAMES_IGNORED: &str =
    "is ignored: the route takes the requests of its parent Services, whatever host they name";

/// How many matches all the rules of a route may have together.
const MATCHES_OF_A_ROUTE: usize = 128;

pub(super) fn check(route: &Field<'_>, errors: &mut Errors) {
    let Some(spec) = route.get("spec") else {
        errors.required(
            route.path.field("spec"),
            "is missing: an HTTPRoute needs a `spec` with `parentRefs` and `rules`",
        );
        return;
    };
    check_parents(&spec, errors);
    refuse(&spec, &["useDefaultGateways"], errors);
    for hostname in spec.items("hostnames") {
        if let Some(problem) = hostname.str().and_then(hostname_problem) {
            errors.invalid(&hostname, format!("{} is no host name: it {problem}", shown(hostname.value)));
        }
    }
    check_rule_names(&spec, errors);
    let mut matches = 0;
    for rule in spec.items("rules") {
        refuse(&rule, &["filters", "timeouts", "retry", "sessionPersistence"], errors);
        for condition in rule.items("matches") {
            matches += 1;
            check_match(&condition, errors);
        }
        check_backends(&rule, errors);
    }
    if matches > MATCHES_OF_A_ROUTE
        && let Some(rules) = spec.get("rules")
    {
        let message =
            format!("have {matches} matches in all; at most {MATCHES_OF_A_ROUTE} are allowed in one route");
        errors.push(&rules, Code::TooMany, message);
    }
}

pub(super) fn warn(route: &Field<'_>, warnings: &mut Errors) {
    let Some(spec) = route.get("spec") else { return };
    if spec.items("hostnames").next().is_some()
        && let Some(hostnames) = spec.get("hostnames")
    {
        warnings.push(&hostnames, Code::NotSupported, format!("{HOSTNAMES_IGNORED}; leave it out"));
    }
}

fn check_match(condition: &Field<'_>, errors: &mut Errors) {
    if let Some(path) = condition.get("path") {
        check_path(&path, errors);
    }
    for (list, longest) in [("headers", 4096), ("queryParams", 1024)] {
        for value_match in condition.items(list) {
            check_value_match(&value_match, list, longest, errors);
        }
    }
}

fn check_path(path: &Field<'_>, errors: &mut Errors) {
    let Some(value) = path.get("value") else { return };
    let Some(text) = value.str() else { return };
    let problem = match path.get_str("type").unwrap_or("PathPrefix") {
        "Exact" | "PathPrefix" => {
            path_problem(text).map(|p| format!("{} is no path: it {p}", shown(value.value)))
        }
        "RegularExpression" => pattern_problem(text),
        _ => None,
    };
    if let Some(problem) = problem {
        errors.invalid(&value, problem);
    }
}

/// What makes a text no path to compare with (the CEL rules of HTTPPathMatch).
fn path_problem(path: &str) -> Option<String> {
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

/// What makes a text no pattern, in one line.
fn pattern_problem(pattern: &str) -> Option<String> {
    let error = Pattern::new(pattern).err()?.to_string();
    // The library draws where; the line that says what comes last.
    let what = error.lines().last().unwrap_or_default().trim();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    Some(format!(
        "`{}` is no regular expression (RE2 syntax): {what}",
        pattern.chars().take(80).collect::<String>().escape_debug()
    ))
}

/// Whether a header is taken off before requests are routed (RFC 9110, section 7.6.1).
fn is_of_the_connection(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["connection", "http2-settings", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    let name = name.to_ascii_lowercase();
    NAMES.contains(&&*name) || name.starts_with("tulle-")
}

fn check_value_match(value_match: &Field<'_>, list: &str, longest: usize, errors: &mut Errors) {
    let is_header = list == "headers";
    if let Some(name) = value_match.get("name")
        && let Some(text) = name.str()
    {
        if let Some(problem) = header_name_problem(text) {
            let what = if is_header { "header" } else { "query parameter" };
            errors.invalid(&name, format!("{} is no name of a {what}: it {problem}", shown(name.value)));
        } else if is_header && is_of_the_connection(text) {
            let message = format!(
                "{} is not supported: it is about one connection or the mesh's own, and no rule ever sees it",
                shown(name.value)
            );
            errors.push(&name, Code::NotSupported, message);
        }
    }
    let Some(value) = value_match.get("value") else { return };
    let Some(text) = value.str() else { return };
    let length = text.chars().count();
    // The schema has the limit of headers, the larger one.
    if length > longest && length <= 4096 {
        errors.push(&value, Code::TooLong, format!("has {length} characters; at most {longest} are allowed"));
    }
    if value_match.get_str("type") == Some("RegularExpression")
        && let Some(problem) = pattern_problem(text)
    {
        errors.invalid(&value, problem);
    }
}
