//! HTTPRoute and TCPRoute (Gateway API v1.6: the rules of the CRDs, their CEL rules included).

use std::collections::HashMap;

use super::field::{Code, Errors, Field, shown};
use super::syntax::{header_name_problem, hostname_problem};
use crate::name::{dns_label_problem, dns_subdomain_problem};
use crate::path::has_dot_segments;
use crate::snapshot::Pattern;

/// What becomes of `hostnames` (Gateway API, GAMMA: they are ignored where the parent is a Service).
pub(crate) const HOSTNAMES_IGNORED: &str =
    "is ignored: the route takes the requests of its parent Services, whatever host they name";

/// How many matches all the rules of a route may have together.
const MATCHES_OF_A_ROUTE: usize = 128;

pub(super) fn check_http_route(route: &Field<'_>, errors: &mut Errors) {
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

pub(super) fn warn_of_http_route(route: &Field<'_>, warnings: &mut Errors) {
    let Some(spec) = route.get("spec") else { return };
    if spec.items("hostnames").next().is_some()
        && let Some(hostnames) = spec.get("hostnames")
    {
        warnings.push(&hostnames, Code::NotSupported, format!("{HOSTNAMES_IGNORED}; leave it out"));
    }
}

pub(super) fn check_tcp_route(route: &Field<'_>, errors: &mut Errors) {
    let Some(spec) = route.get("spec") else {
        errors.required(
            route.path.field("spec"),
            "is missing: a TCPRoute needs a `spec` with `parentRefs` and `rules`",
        );
        return;
    };
    check_parents(&spec, errors);
    refuse(&spec, &["useDefaultGateways"], errors);
    if spec.get("rules").is_none() {
        errors.required(spec.path.field("rules"), "is missing: a TCPRoute has exactly one rule");
    }
    check_rule_names(&spec, errors);
    for rule in spec.items("rules") {
        let backends = rule.get("backendRefs");
        if rule.value.is_object() && backends.is_none_or(|b| b.value.as_array().is_some_and(Vec::is_empty)) {
            let message = "is missing: a rule of a TCPRoute needs at least one backend";
            errors.required(rule.path.field("backendRefs"), message);
        }
        check_backends(&rule, errors);
    }
}

/// Refuses fields of the API that Tulle doesn't implement: better than to ignore them.
fn refuse(parent: &Field<'_>, names: &[&'static str], errors: &mut Errors) {
    for name in names {
        let Some(field) = parent.get(name) else { continue };
        if field.value.as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        let message = format!("`{name}` is not supported yet; remove it");
        errors.push(&field, Code::NotSupported, message);
    }
}

fn check_rule_names(spec: &Field<'_>, errors: &mut Errors) {
    let mut names: HashMap<&str, String> = HashMap::new();
    for rule in spec.items("rules") {
        let Some(name) = rule.get("name") else { continue };
        let Some(text) = name.str() else { continue };
        if let Some(problem) = dns_subdomain_problem(text) {
            errors.invalid(&name, format!("{} is no name of a rule: it {problem}", shown(name.value)));
        }
        if let Some(first) = names.get(text) {
            errors.push(
                &name,
                Code::Duplicate,
                format!("{} is already the name of {first}", shown(name.value)),
            );
        } else {
            names.insert(text, rule.path.to_string());
        }
    }
}

/// Group, kind, namespace and name of a parent.
type ParentObject<'a> = (&'a str, &'a str, &'a str, &'a str);
/// The section and port of a parent, and the path of the reference.
type ParentSection<'a> = (Option<&'a str>, Option<i64>, String);

fn check_parents(spec: &Field<'_>, errors: &mut Errors) {
    let mut seen: HashMap<ParentObject<'_>, Vec<ParentSection<'_>>> = HashMap::new();
    for parent in spec.items("parentRefs") {
        check_group_and_kind(&parent, errors);
        check_object_name(&parent, errors);
        if let Some(section) = parent.get("sectionName")
            && let Some(problem) = section.str().and_then(dns_subdomain_problem)
        {
            errors
                .invalid(&section, format!("{} is no name of a section: it {problem}", shown(section.value)));
        }
        let group = parent.get_str("group").unwrap_or(GATEWAY_GROUP);
        let kind = parent.get_str("kind").unwrap_or("Gateway");
        if kind == "Service" && group == GATEWAY_GROUP {
            let message = "a Service is in the core group: write `group: \"\"` beside `kind: Service`";
            match parent.get("group") {
                Some(group) => errors.invalid(&group, message),
                None => errors.required(parent.path.field("group"), message),
            }
        }
        let Some(name) = parent.get_str("name") else { continue };
        let section = parent.get_str("sectionName").filter(|s| !s.is_empty());
        let port = parent.get_int("port");
        let known =
            seen.entry((group, kind, parent.get_str("namespace").unwrap_or_default(), name)).or_default();
        let clash = known.iter().find(|(other_section, other_port, _)| {
            let whole = section.is_none() && port.is_none();
            let other_whole = other_section.is_none() && other_port.is_none();
            whole || other_whole || (section == *other_section && port == *other_port)
        });
        if let Some((.., first)) = clash {
            let message = format!(
                "is the same parent as {first}: where a parent is given twice, both need a `port` or `sectionName`, and different ones"
            );
            errors.push(&parent, Code::Duplicate, message);
        }
        known.push((section, port, parent.path.to_string()));
    }
}

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

fn check_group_and_kind(reference: &Field<'_>, errors: &mut Errors) {
    if let Some(group) = reference.get("group")
        && let Some(text) = group.str().filter(|g| !g.is_empty())
    {
        if text == "core" || text == "v1" {
            errors.invalid(&group, format!("{} is no group: the core group is `\"\"`", shown(group.value)));
        } else if let Some(problem) = dns_subdomain_problem(text) {
            errors.invalid(&group, format!("{} is no group: it {problem}", shown(group.value)));
        }
    }
    if let Some(kind) = reference.get("kind")
        && let Some(text) = kind.str().filter(|k| !k.is_empty())
    {
        let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.ends_with('-');
        if !starts || !inner {
            errors
                .invalid(&kind, format!("{} is no kind: expected a word like `Service`", shown(kind.value)));
        }
    }
}

fn check_object_name(reference: &Field<'_>, errors: &mut Errors) {
    if let Some(namespace) = reference.get("namespace")
        && let Some(problem) = namespace.str().filter(|n| !n.is_empty()).and_then(dns_label_problem)
    {
        errors.invalid(
            &namespace,
            format!("{} is no name of a namespace: it {problem}", shown(namespace.value)),
        );
    }
    if let Some(name) = reference.get("name")
        && let Some(problem) = name.str().filter(|n| !n.is_empty()).and_then(dns_subdomain_problem)
    {
        errors.invalid(&name, format!("{} is no name of an object: it {problem}", shown(name.value)));
    }
}

fn check_backends(rule: &Field<'_>, errors: &mut Errors) {
    for backend in rule.items("backendRefs") {
        check_group_and_kind(&backend, errors);
        check_object_name(&backend, errors);
        refuse(&backend, &["filters"], errors);
        let group = backend.get_str("group").unwrap_or_default();
        let kind = backend.get_str("kind").unwrap_or("Service");
        if group.is_empty() && kind == "Service" && backend.value.is_object() && backend.get("port").is_none()
        {
            let message = "is missing: a Service as backend needs the port to use, 1 to 65535";
            errors.required(backend.path.field("port"), message);
        }
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
