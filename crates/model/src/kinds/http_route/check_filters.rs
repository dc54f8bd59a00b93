//! What filters, timeouts and retries of HTTPRoutes must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::check::path_problem;
use super::check_cors::check_cors;
use crate::kinds::route::check::{check_duration, check_target, without_unit};
use crate::kinds::route::form::BackendForm;
use crate::name::dns_subdomain_problem;
use crate::port_settings::duration;
use crate::snapshot::{
    HeaderEdit, HttpFilters, HttpMatch, Mirror, PathMatch, PathRewrite, Redirect, Retry, Rewrite, Scheme,
    Share, Timeouts, uneditable,
};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::syntax::header_name_problem;

/// The types of filters, the field of each, and whether it may be there more than once.
const TYPES: [(&str, &str, bool); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier", false),
    ("ResponseHeaderModifier", "responseHeaderModifier", false),
    ("RequestRedirect", "requestRedirect", false),
    ("URLRewrite", "urlRewrite", false),
    ("CORS", "cors", false),
    ("RequestMirror", "requestMirror", true),
    ("ExternalAuth", "externalAuth", true),
    ("ExtensionRef", "extensionRef", true),
];

/// Reads the filters of a rule, or of a backend of one, whose matches are `matches`, if these can be read. `own`: the
/// route's namespace.
pub(in crate::kinds) fn check_filters(
    holder: &Field<'_>,
    own: &str,
    of_backend: bool,
    matches: Option<&[HttpMatch]>,
    errors: &mut Errors,
) -> Read<Option<Box<HttpFilters>>> {
    let mut filters = HttpFilters::default();
    let mut read = holder.read_items("filters").map(drop);
    let mut seen: Vec<(&str, String)> = Vec::new();
    for (index, filter) in (0..).zip(holder.items("filters")) {
        let Ok((kind, field)) = type_of(&filter, errors) else {
            read = Err(Unreadable);
            continue;
        };
        let (name, _, repeatable) = kind;
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == name && !repeatable) {
            errors.push(&filter, Code::Duplicate, format!("{name} is already given by {first}"));
            read = Err(Unreadable);
        }
        seen.push((name, filter.path.to_string()));
        read = match name {
            "RequestHeaderModifier" => {
                check_headers(&field, index, errors).map(|edit| filters.request_headers = edit)
            }
            "ResponseHeaderModifier" => {
                check_headers(&field, index, errors).map(|edit| filters.response_headers = edit)
            }
            "RequestRedirect" if of_backend => {
                let message =
                    "a RequestRedirect belongs to the rule: what is sent elsewhere goes to no backend";
                refuse(&filter, "type", message, errors)
            }
            "RequestRedirect" => check_redirect(&field, index, matches, errors)
                .map(|redirect| filters.redirect = Some(redirect)),
            "URLRewrite" => {
                check_rewrite(&field, index, matches, errors).map(|rewrite| filters.rewrite = Some(rewrite))
            }
            "RequestMirror" => {
                check_mirror(&field, index, own, errors).map(|mirror| filters.mirrors.push(mirror))
            }
            "CORS" => check_cors(&field, index, errors).map(|cors| filters.cors = Some(cors)),
            _ => refuse(&filter, "type", &format!("{name} is not supported yet; remove it"), errors),
        }
        .and(read);
    }
    if seen.iter().any(|(name, _)| *name == "URLRewrite")
        && let Some((_, path)) = seen.iter().find(|(name, _)| *name == "RequestRedirect")
    {
        let message = format!("have a URLRewrite beside {path}: what is sent elsewhere is not rewritten");
        refuse(holder, "filters", &message, errors)?;
    }
    read.map(|()| filters.into_option())
}

/// Reads those of the backends of a rule.
pub(in crate::kinds) fn check_backend_filters(
    rule: &Field<'_>,
    own: &str,
    mut backends: Vec<BackendForm>,
    matches: Option<&[HttpMatch]>,
    errors: &mut Errors,
) -> Read<Vec<BackendForm>> {
    let mut read = Ok(());
    for (backend, field) in backends.iter_mut().zip(rule.items("backendRefs")) {
        match check_filters(&field, own, true, matches, errors) {
            Ok(filters) => backend.filters = filters,
            Err(Unreadable) => read = Err(Unreadable),
        }
    }
    read.map(|()| backends)
}

fn refuse<T>(holder: &Field<'_>, name: &'static str, message: &str, errors: &mut Errors) -> Read<T> {
    errors.push(&holder.get(name).unwrap_or_else(|| holder.clone()), Code::NotSupported, message);
    Err(Unreadable)
}

fn invalid<T>(field: &Field<'_>, message: impl Into<String>, errors: &mut Errors) -> Read<T> {
    errors.invalid(field, message);
    Err(Unreadable)
}

/// The type of a filter, and the field that goes with it.
fn type_of<'a>(
    filter: &Field<'a>,
    errors: &mut Errors,
) -> Read<((&'static str, &'static str, bool), Field<'a>)> {
    let text = filter.get_str("type").ok_or(Unreadable)?;
    // Another one the schema has named.
    let kind = TYPES.into_iter().find(|(name, ..)| *name == text).ok_or(Unreadable)?;
    let (name, wanted, _) = kind;
    let mut read = Ok(());
    for (other, field, _) in TYPES {
        if field != wanted
            && let Some(field) = filter.get(field)
        {
            errors.push(&field, Code::Forbidden, format!("belongs to the type {other}, and this is {name}"));
            read = Err(Unreadable);
        }
    }
    let Some(field) = filter.get(wanted) else {
        errors.required(filter.path.field(wanted), format!("is missing: it goes with the type {name}"));
        return Err(Unreadable);
    };
    read.map(|()| (kind, field))
}

fn check_headers(filter: &Field<'_>, index: u32, errors: &mut Errors) -> Read<HeaderEdit> {
    let mut edit = HeaderEdit::default();
    let mut read = Ok(());
    for (list, fields) in [("set", &mut edit.set), ("add", &mut edit.add)] {
        for header in filter.read_items(list)? {
            let name = header.get("name").ok_or(Unreadable).and_then(|name| check_name(&name, errors));
            let value = header.get("value").ok_or(Unreadable).and_then(|value| check_value(&value, errors));
            match (name, value) {
                (Ok(name), Ok(value)) => fields.push((name, value)),
                _ => read = Err(Unreadable),
            }
        }
    }
    for name in filter.read_items("remove")? {
        match check_name(&name, errors) {
            Ok(name) => edit.remove.push(name),
            Err(Unreadable) => read = Err(Unreadable),
        }
    }
    let names = edit.set.iter().chain(&edit.add).map(|(name, _)| name).chain(&edit.remove);
    let mut seen = HashSet::new();
    if let Some(twice) = names.into_iter().find(|name| !seen.insert(*name)) {
        let message = format!("name `{twice}` more than once: a filter does one thing to a field");
        errors.push(filter, Code::Duplicate, message);
        return Err(Unreadable);
    }
    edit.index = if edit.is_empty() { 0 } else { index };
    read.map(|()| edit)
}

fn check_name(name: &Field<'_>, errors: &mut Errors) -> Read<HeaderName> {
    let text = name.str().ok_or(Unreadable)?;
    if let Some(problem) = header_name_problem(text) {
        return invalid(name, format!("{} is no name of a header: it {problem}", shown(name.value)), errors);
    }
    let lower = text.to_ascii_lowercase();
    let Some(why) = uneditable(&lower) else {
        return HeaderName::from_bytes(lower.as_bytes()).map_err(|_| Unreadable);
    };
    errors.push(name, Code::NotSupported, format!("{} cannot be changed here: it {why}", shown(name.value)));
    Err(Unreadable)
}

fn check_value(value: &Field<'_>, errors: &mut Errors) -> Read<HeaderValue> {
    let text = value.str().ok_or(Unreadable)?;
    match HeaderValue::from_str(text) {
        // What is around it would not arrive (RFC 9110, section 5.5).
        Ok(read) if text.trim_matches([' ', '\t']) == text => Ok(read),
        Ok(_) => invalid(value, "must not begin or end with a blank", errors),
        Err(_) => {
            invalid(value, "has characters that no header can have: line breaks or other controls", errors)
        }
    }
}

fn check_redirect(
    redirect: &Field<'_>,
    index: u32,
    matches: Option<&[HttpMatch]>,
    errors: &mut Errors,
) -> Read<Redirect> {
    let hostname = check_hostname(redirect, errors);
    let path = check_path(redirect, matches, errors);
    let status = match redirect.get("statusCode") {
        None => Ok(302),
        Some(code) => match code.value.as_i64().ok_or(Unreadable)? {
            status @ (301 | 302 | 303 | 307 | 308) => Ok(status as u16),
            other => {
                let message = format!(
                    "{other} is no redirection that is supported: expected 301, 302, 303, 307 or 308"
                );
                errors.push(&code, Code::NotSupported, message);
                Err(Unreadable)
            }
        },
    };
    let scheme = match redirect.read_str("scheme")? {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(_) => return Err(Unreadable),
    };
    let port = redirect.read_port("port")?;
    Ok(Redirect { index, scheme, hostname: hostname?, port, path: path?, status: status? })
}

fn check_rewrite(
    rewrite: &Field<'_>,
    index: u32,
    matches: Option<&[HttpMatch]>,
    errors: &mut Errors,
) -> Read<Rewrite> {
    let hostname = check_hostname(rewrite, errors);
    let path = check_path(rewrite, matches, errors);
    Ok(Rewrite { index, hostname: hostname?, path: path? })
}

fn check_mirror(mirror: &Field<'_>, index: u32, own: &str, errors: &mut Errors) -> Read<Mirror> {
    let reference = mirror.get("backendRef").ok_or(Unreadable)?;
    let target = check_target(&reference, own, errors);
    let number = |holder: &Field<'_>, name| match holder.get(name) {
        None => Ok(None),
        Some(field) => field.value.as_i64().and_then(|n| u32::try_from(n).ok()).ok_or(Unreadable).map(Some),
    };
    let share = match (mirror.get("percent"), mirror.get("fraction")) {
        (None, None) => Ok(Share::ALL),
        (Some(_), Some(fraction)) => {
            errors.push(&fraction, Code::Forbidden, "is given beside `percent`: one of them says how many");
            Err(Unreadable)
        }
        // More than 100 the schema has named.
        (Some(_), None) => Share::new(number(mirror, "percent")?.unwrap_or(0), 100).ok_or(Unreadable),
        (None, Some(fraction)) => {
            let (numerator, denominator) =
                (number(&fraction, "numerator")?, number(&fraction, "denominator")?);
            Share::new(numerator.unwrap_or(0), denominator.unwrap_or(100)).map_or_else(
                || {
                    invalid(
                        &fraction,
                        "is no part: `numerator` is greater than `denominator` (100 by default)",
                        errors,
                    )
                },
                Ok,
            )
        }
    };
    Ok(Mirror { index, target: target?, spoken: None, share: share? })
}

fn check_hostname(filter: &Field<'_>, errors: &mut Errors) -> Read<Option<Arc<str>>> {
    let Some(hostname) = filter.get("hostname") else { return Ok(None) };
    let text = hostname.str().ok_or(Unreadable)?;
    match dns_subdomain_problem(text) {
        None => Ok(Some(text.into())),
        Some(problem) => {
            invalid(&hostname, format!("{} is no host name: it {problem}", shown(hostname.value)), errors)
        }
    }
}

fn check_path(
    filter: &Field<'_>,
    matches: Option<&[HttpMatch]>,
    errors: &mut Errors,
) -> Read<Option<PathRewrite>> {
    let Some(path) = filter.get("path") else { return Ok(None) };
    let (own, other) = match path.read_str("type")? {
        Some("ReplaceFullPath") => ("replaceFullPath", "replacePrefixMatch"),
        Some("ReplacePrefixMatch") => ("replacePrefixMatch", "replaceFullPath"),
        _ => return Err(Unreadable),
    };
    if let Some(field) = path.get(other) {
        errors.push(
            &field,
            Code::Forbidden,
            format!("goes with another `type`: `{own}` is what this one has"),
        );
        return Err(Unreadable);
    }
    let Some(value) = path.get(own) else {
        errors.required(path.path.field(own), "is missing: it goes with the `type`");
        return Err(Unreadable);
    };
    let text = value.str().ok_or(Unreadable)?;
    if own == "replaceFullPath" {
        return match path_problem(text) {
            None => Ok(Some(PathRewrite::Full(text.to_owned()))),
            Some(problem) => {
                invalid(&value, format!("{} is no path: it {problem}", shown(value.value)), errors)
            }
        };
    }
    if !text.is_empty()
        && let Some(problem) = path_problem(text)
    {
        return invalid(&value, format!("{} is no path: it {problem}", shown(value.value)), errors);
    }
    let [HttpMatch { path: PathMatch::Prefix(matched), .. }] = matches.ok_or(Unreadable)? else {
        let message = "needs exactly one match in the rule, with a path of the type PathPrefix: that prefix is replaced";
        return invalid(&value, message, errors);
    };
    let replacement = text.trim_end_matches('/').to_owned();
    Ok(Some(PathRewrite::Prefix { matched: matched.clone(), replacement }))
}

pub(super) fn check_timeouts(rule: &Field<'_>, errors: &mut Errors) -> Read<Timeouts> {
    let Some(timeouts) = rule.get("timeouts") else { return Ok(Timeouts::default()) };
    let request = check_duration(&timeouts, "request", errors);
    let backend_request = check_duration(&timeouts, "backendRequest", errors);
    let read = Timeouts { request: request?, backend_request: backend_request? };
    if let (Some(whole), Some(each)) = (read.request, read.backend_request)
        && each > whole
        && let Some(field) = timeouts.get("backendRequest")
    {
        let message = "is longer than `request`, which bounds all attempts together";
        return invalid(&field, message, errors);
    }
    Ok(read)
}

/// A rule may ask for so many retries: more help nobody, and make a bad day worse.
const MOST_RETRIES: u32 = 10;
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

pub(super) fn check_retry(rule: &Field<'_>, errors: &mut Errors) -> Read<Option<Box<Retry>>> {
    let Some(retry) = rule.get("retry") else { return Ok(None) };
    let (mut codes, mut read) = (Vec::new(), Ok(()));
    for code in retry.read_items("codes")? {
        match code.value.as_i64().ok_or(Unreadable)? {
            status @ 400..600 => codes.push(status as u16),
            other => {
                read =
                    invalid(&code, format!("{other} is no status of a failure: expected 400 to 599"), errors);
            }
        }
    }
    let attempts = match retry.get("attempts") {
        None => Ok(None),
        Some(field) => match u32::try_from(field.value.as_i64().ok_or(Unreadable)?) {
            Ok(count) if count <= MOST_RETRIES => Ok(Some(count)),
            _ => invalid(&field, format!("is out of range: 0 to {MOST_RETRIES} retries"), errors),
        },
    };
    let backoff = match retry.get("backoff") {
        None => Ok(None),
        Some(field) => match duration(field.str().ok_or(Unreadable)?) {
            Some(time) if time <= LONGEST_BACKOFF => Ok(Some(time)),
            _ => invalid(
                &field,
                format!(
                    "is no duration up to `1m`, such as `100ms`: the client waits meanwhile{}",
                    without_unit(field.value)
                ),
                errors,
            ),
        },
    };
    read?;
    Ok(Some(Box::new(Retry { codes, attempts: attempts?, backoff: backoff? })))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::http_route::check::check;
    use crate::kinds::id::KindId;
    use crate::kinds::route::form::RouteForm;
    use crate::validate::validate;

    fn route(rule: Value) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": "r", "namespace": "shop" },
            "spec": { "rules": [rule] }
        })
    }

    /// The fields that are wrong, each with its code.
    fn wrong(rule: Value) -> Vec<(String, Code)> {
        let errors = validate(KindId::HttpRoute.kind(), &route(rule));
        errors
            .iter()
            .map(|error| (error.path.to_string().replace("spec.rules[0].", ""), error.code))
            .collect()
    }

    fn read(rule: Value) -> Read<RouteForm> {
        check(&Field::root(&route(rule)), &mut Errors::default())
    }

    fn header(name: &str, value: &str) -> Value {
        json!({ "name": name, "value": value })
    }

    fn filters(filters: Value) -> Value {
        json!({ "filters": filters })
    }

    #[test]
    fn filters_are_read_and_those_of_backends_with_them() {
        let rule = json!({
            "matches": [{ "path": { "value": "/a/" } }],
            "filters": [
                { "type": "RequestHeaderModifier", "requestHeaderModifier": {
                    "set": [header("X-A", "1")], "add": [header("x-b", "2")], "remove": ["X-C"] } },
                { "type": "URLRewrite", "urlRewrite": {
                    "hostname": "d.org", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/b/" } } }
            ],
            "timeouts": { "request": "1m30s", "backendRequest": "500ms" },
            "retry": { "codes": [500, 429], "attempts": 2, "backoff": "100ms" },
            "backendRefs": [
                { "name": "d", "port": 80, "filters": [
                    { "type": "ResponseHeaderModifier", "responseHeaderModifier": { "remove": ["server"] } }] },
                { "name": "e", "port": 80 }
            ]
        });
        assert_eq!(wrong(rule.clone()), []);
        let form = read(rule).unwrap();
        let rule = &form.rules[0];
        let filters = rule.filters.as_ref().unwrap();
        let field = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let edit = HeaderEdit {
            index: 0,
            set: vec![field("x-a", "1")],
            add: vec![field("x-b", "2")],
            remove: vec![HeaderName::from_static("x-c")],
        };
        assert_eq!(filters.request_headers, edit);
        let path = PathRewrite::Prefix { matched: "/a".into(), replacement: "/b".into() };
        assert_eq!(
            filters.rewrite,
            Some(Rewrite { index: 1, hostname: Some("d.org".into()), path: Some(path) })
        );
        assert_eq!((&filters.redirect, filters.response_headers.is_empty()), (&None, true));
        let times = Timeouts {
            request: Some(Duration::from_secs(90)),
            backend_request: Some(Duration::from_millis(500)),
        };
        assert_eq!(rule.timeouts, times);
        let (codes, backoff) = (vec![500, 429], Some(Duration::from_millis(100)));
        assert_eq!(rule.retry, Some(Box::new(Retry { codes, attempts: Some(2), backoff })));
        let of_backend = rule.backends[0].filters.as_ref().unwrap();
        assert_eq!(of_backend.response_headers.remove, [HeaderName::from_static("server")]);
        assert_eq!(rule.backends[1].filters, None);

        let redirect = json!({ "scheme": "https", "port": 8443, "statusCode": 308 });
        let form =
            read(filters_of(json!({ "type": "RequestRedirect", "requestRedirect": redirect }))).unwrap();
        let redirect = form.rules[0].filters.as_ref().unwrap().redirect.as_ref().unwrap();
        assert_eq!((redirect.scheme, redirect.port, redirect.status), (Some(Scheme::Https), Some(8443), 308));
        let none = read(json!({ "filters": [], "timeouts": { "request": "0s" } })).unwrap();
        assert_eq!((&none.rules[0].filters, none.rules[0].timeouts), (&None, Timeouts::default()));
    }

    fn filters_of(filter: Value) -> Value {
        filters(json!([filter]))
    }

    #[test]
    fn what_gateway_api_does_not_allow_is_named_and_never_compiled() {
        use Code::{Duplicate, Forbidden, Invalid, NotSupported, Required};
        let request = |edit: Value| {
            filters_of(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": edit }))
        };
        let redirect =
            |redirect: Value| filters_of(json!({ "type": "RequestRedirect", "requestRedirect": redirect }));
        let rewrite = |path: Value| json!([{ "type": "URLRewrite", "urlRewrite": { "path": path } }]);
        let headers = "filters[0].requestHeaderModifier";
        let redirected = "filters[0].requestRedirect";
        let path = "filters[0].urlRewrite.path";
        let full =
            |text: &str| filters(rewrite(json!({ "type": "ReplaceFullPath", "replaceFullPath": text })));
        let prefix = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/b" });
        let with = |matches: Value| json!({ "matches": matches, "filters": rewrite(prefix.clone()) });
        let any = json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": {} });
        let away = json!({ "type": "RequestRedirect", "requestRedirect": {} });
        let told = json!({ "type": "URLRewrite", "urlRewrite": {} });
        for (rule, at, code) in [
            (filters_of(json!({ "type": "CORS" })), "filters[0].cors".to_owned(), Required),
            (filters(json!([any, any])), "filters[1]".to_owned(), Duplicate),
            (filters(json!([away, told])), "filters".to_owned(), NotSupported),
            (
                filters_of(json!({ "type": "URLRewrite", "urlRewrite": {}, "requestRedirect": {} })),
                "filters[0].requestRedirect".to_owned(),
                Forbidden,
            ),
            (request(json!({ "set": [header("a b", "1")] })), format!("{headers}.set[0].name"), Invalid),
            (
                request(json!({ "set": [header("Host", "1")] })),
                format!("{headers}.set[0].name"),
                NotSupported,
            ),
            (request(json!({ "remove": ["TE"] })), format!("{headers}.remove[0]"), NotSupported),
            (request(json!({ "remove": ["connection"] })), format!("{headers}.remove[0]"), NotSupported),
            (
                request(json!({ "add": [header("tulle-reason", "1")] })),
                format!("{headers}.add[0].name"),
                NotSupported,
            ),
            (
                request(json!({ "add": [header("a", "1\r\nb: 2")] })),
                format!("{headers}.add[0].value"),
                Invalid,
            ),
            (request(json!({ "add": [header("a", " 1")] })), format!("{headers}.add[0].value"), Invalid),
            (redirect(json!({ "statusCode": 304 })), format!("{redirected}.statusCode"), NotSupported),
            (redirect(json!({ "hostname": "*.d.org" })), format!("{redirected}.hostname"), Invalid),
            (redirect(json!({ "port": 0 })), format!("{redirected}.port"), Invalid),
            (redirect(json!({ "scheme": "ftp" })), format!("{redirected}.scheme"), NotSupported),
            (
                json!({ "filters": [away], "backendRefs": [{ "name": "d", "port": 80 }] }),
                "backendRefs".to_owned(),
                Forbidden,
            ),
            (full("a"), format!("{path}.replaceFullPath"), Invalid),
            (full("/a?b"), format!("{path}.replaceFullPath"), Invalid),
            (
                filters(rewrite(json!({ "type": "ReplaceFullPath" }))),
                format!("{path}.replaceFullPath"),
                Required,
            ),
            (
                filters(rewrite(json!({ "type": "ReplaceFullPath", "replacePrefixMatch": "/" }))),
                format!("{path}.replacePrefixMatch"),
                Forbidden,
            ),
            (
                with(json!([{ "path": { "type": "Exact", "value": "/a" } }])),
                format!("{path}.replacePrefixMatch"),
                Invalid,
            ),
            (
                with(json!([{ "path": { "value": "/a" } }, { "path": { "value": "/b" } }])),
                format!("{path}.replacePrefixMatch"),
                Invalid,
            ),
            (json!({ "retry": { "codes": [503, 200] } }), "retry.codes[1]".to_owned(), Invalid),
            (json!({ "retry": { "attempts": 11 } }), "retry.attempts".to_owned(), Invalid),
            (json!({ "retry": { "backoff": "soon" } }), "retry.backoff".to_owned(), Invalid),
            (json!({ "retry": { "backoff": "61s" } }), "retry.backoff".to_owned(), Invalid),
            (request(json!({ "set": [header("a", "1"), header("A", "2")] })), headers.to_owned(), Duplicate),
            (request(json!({ "add": [header("a", "1")], "remove": ["A"] })), headers.to_owned(), Duplicate),
            (
                json!({ "backendRefs": [{ "name": "d", "port": 80, "filters": [away] }] }),
                "backendRefs[0].filters[0].type".to_owned(),
                NotSupported,
            ),
            (json!({ "timeouts": { "request": "1 s" } }), "timeouts.request".to_owned(), Invalid),
            (
                json!({ "timeouts": { "request": "1s", "backendRequest": "2s" } }),
                "timeouts.backendRequest".to_owned(),
                Invalid,
            ),
        ] {
            assert_eq!(wrong(rule.clone()), [(at, code)], "{rule}");
            assert!(read(rule.clone()).is_err(), "{rule}");
        }
        // All paths is a prefix, too.
        assert_eq!(wrong(with(json!([]))), []);
    }
}
