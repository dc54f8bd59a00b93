//! What a rule of an AuthorizationPolicy may ask of requests.

use super::check_jwt::check_jwt_rule;
use crate::kinds::grpc_route::check::check_method;
use crate::kinds::http_route::check::{check_value_matches, path_problem};
use crate::path::{Ambiguity, ambiguity, normal_form};
use crate::snapshot::{PathMatch, Pattern, RequestConditions, ServerName};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::syntax::{header_name_problem, hostname_problem};

/// `issuers`: those of the policy.
pub(super) fn check_request(
    rule: &Field<'_>,
    issuers: &[&str],
    errors: &mut Errors,
) -> Read<Option<Box<RequestConditions>>> {
    let (http, grpc, jwt) = (rule.get("http"), rule.get("grpc"), rule.get("jwt"));
    if http.is_none() && grpc.is_none() && jwt.is_none() {
        return Ok(None);
    }
    let mut conditions = RequestConditions::default();
    if let Some(http) = http {
        conditions.methods = check_each(&http, "methods", errors, check_http_method)?;
        conditions.paths = check_each(&http, "paths", errors, check_path)?;
        conditions.hosts = check_each(&http, "hosts", errors, check_host)?;
        check_headers(&http, errors);
        conditions.headers = check_value_matches(&http, "headers", 4096, errors)?;
    }
    if let Some(grpc) = grpc {
        if grpc.items("methods").next().is_none() {
            errors.required(grpc.path.field("methods"), "is missing: which calls are meant");
            return Err(Unreadable);
        }
        conditions.calls = check_each(&grpc, "methods", errors, check_method)?;
    }
    if let Some(jwt) = jwt {
        conditions.jwt = Some(check_jwt_rule(&jwt, issuers, errors)?);
    }
    Ok(Some(Box::new(conditions)))
}

/// All that a list has; none may be missing, as the rule would be about more.
pub(super) fn check_each<T>(
    of: &Field<'_>,
    list: &'static str,
    errors: &mut Errors,
    check: impl Fn(&Field<'_>, &mut Errors) -> Read<T>,
) -> Read<Vec<T>> {
    let items: Vec<_> = of.read_items(list)?.collect();
    let read: Vec<_> = items.iter().map(|item| check(item, errors)).collect();
    if items.is_empty()
        && let Some(list) = of.get(list)
    {
        errors.invalid(&list, "is empty: leave it out where it is to say nothing");
        return Err(Unreadable);
    }
    read.into_iter().collect()
}

fn check_http_method(method: &Field<'_>, errors: &mut Errors) -> Read<String> {
    let text = method.str().ok_or(Unreadable)?;
    if let Some(problem) = header_name_problem(text) {
        errors.invalid(method, format!("{} is no method: it {problem}", shown(method.value)));
    } else if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let capitals = text.to_ascii_uppercase();
        errors.invalid(method, format!("{} is not what clients send: `{capitals}`", shown(method.value)));
    }
    Ok(text.to_owned())
}

/// A path that no request is asked for makes a rule about none.
fn check_path(path: &Field<'_>, errors: &mut Errors) -> Read<PathMatch> {
    let Some(value) = path.get("value") else {
        errors.required(path.path.field("value"), "is missing");
        return Err(Unreadable);
    };
    let text = value.str().ok_or(Unreadable)?;
    let kind = path.read_str("type")?.unwrap_or("PathPrefix");
    if kind == "Template" {
        return match template(text) {
            Ok(pattern) => Ok(pattern),
            Err(problem) => {
                errors.invalid(&value, format!("{} is no template: it {problem}", shown(value.value)));
                Err(Unreadable)
            }
        };
    }
    if let Some(problem) = path_problem(text) {
        errors.invalid(&value, format!("{} is no path: it {problem}", shown(value.value)));
        return Err(Unreadable);
    }
    if let Some(why) = ambiguity(text).map(Ambiguity::why) {
        errors.invalid(&value, format!("{} {why}: such requests are refused", shown(value.value)));
        return Err(Unreadable);
    }
    match kind {
        "Exact" => Ok(PathMatch::Exact(normal_form(text).into_owned())),
        "PathPrefix" => Ok(PathMatch::Prefix(normal_form(text).trim_end_matches('/').to_owned())),
        _ => Err(Unreadable),
    }
}

/// The paths that a template stands for.
fn template(text: &str) -> Result<PathMatch, String> {
    let Some(rest) = text.strip_prefix('/') else { return Err("must start with `/`".to_owned()) };
    let mut pattern = String::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("must not contain `//`".to_owned());
        }
        let Some(variable) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
            if segment.contains(['{', '}']) {
                return Err("may have a variable for a whole segment, and not for a part of one".to_owned());
            }
            let path = format!("/{segment}");
            if let Some(problem) = path_problem(&path) {
                return Err(problem);
            }
            if let Some(why) = ambiguity(&path).map(Ambiguity::why) {
                return Err(format!("{why}: such requests are refused"));
            }
            pattern.push_str(&regex::escape(&normal_form(&path)));
            continue;
        };
        let (name, value) = variable.split_once('=').unwrap_or((variable, "*"));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("must name its variables with letters, digits and `_`".to_owned());
        }
        match value {
            "*" => pattern.push_str("/[^/]+"),
            "**" if segments.peek().is_none() => pattern.push_str("(?:/.*)?"),
            "**" => return Err("may have `**` at its end alone".to_owned()),
            _ => return Err("may have `{name}` for any one segment and `{name=**}` for the rest".to_owned()),
        }
    }
    Pattern::new(&pattern).map(PathMatch::Regex).map_err(|error| error.to_string())
}

fn check_host(host: &Field<'_>, errors: &mut Errors) -> Read<ServerName> {
    let text = host.str().ok_or(Unreadable)?;
    if let Some(problem) = hostname_problem(text).filter(|_| text.parse::<std::net::Ipv4Addr>().is_err()) {
        errors.invalid(host, format!("{} is no host name: it {problem}", shown(host.value)));
    }
    Ok(ServerName::new(text))
}

/// Of several conditions on one header a route takes the first; here none may be lost.
fn check_headers(http: &Field<'_>, errors: &mut Errors) {
    let mut names: Vec<String> = Vec::new();
    for header in http.items("headers") {
        let Some(name) = header.get("name") else { continue };
        let text = name.str().unwrap_or_default().to_ascii_lowercase();
        if text == "host" {
            errors.push(&name, Code::NotSupported, "is not seen as a header: `hosts` says which are meant");
        }
        if names.contains(&text) {
            errors.push(&name, Code::Duplicate, "stands here twice: one condition for each header");
        }
        names.push(text);
    }
}
