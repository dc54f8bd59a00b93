//! What an AuthorizationPolicy may say of somebody else who is asked about requests.

use http::HeaderName;
use serde_json::Value;

use crate::kinds::http_route::check::path_problem;
use crate::kinds::route::check::{check_duration, check_target};
use crate::path::ambiguity;
use crate::snapshot::external::{EXTERNAL_TIMEOUT, ExternalAuth, ExternalProtocol, LONGEST_EXTERNAL_TIMEOUT};
use crate::snapshot::{BackendTarget, uneditable};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};

/// `own`: the policy's namespace, in which the Service is where nothing is said.
pub(super) fn check_external(external: &Field<'_>, own: &str, errors: &mut Errors) -> Read<ExternalAuth> {
    let protocol = check_protocol(external, errors);
    let Some(backend) = external.get("backendRef") else {
        errors.required(external.path.field("backendRef"), "is missing: the Service that is asked");
        return Err(Unreadable);
    };
    let target = check_target(&backend, own, errors)?;
    let max_body = external.get("forwardBody").map(|body| check_max_body(&body, errors)).transpose()?;
    let timeout = check_duration(external, "timeout", errors)?;
    if let Some(field) = external.get("timeout") {
        let problem = match timeout {
            None => Some("is no time in which anybody could answer"),
            Some(timeout) if timeout > LONGEST_EXTERNAL_TIMEOUT => {
                Some("is too long: a request waits for 10s at most")
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            errors.invalid(&field, format!("{} {problem}", shown(field.value)));
        }
    }
    let BackendTarget::Service { name: service, port } = target else {
        let field = backend.get("kind").or(backend.get("group")).unwrap_or(backend);
        errors.push(
            &field,
            Code::NotSupported,
            "is not supported: a Service (group \"\") is what can be asked",
        );
        return Err(Unreadable);
    };
    Ok(ExternalAuth {
        service,
        port,
        protocol: protocol?,
        max_body: max_body.unwrap_or(0),
        timeout: timeout.unwrap_or(EXTERNAL_TIMEOUT),
        fail_open: external.read("failOpen", Value::as_bool)?.unwrap_or(false),
        spared: Vec::new(),
    })
}

fn check_protocol(external: &Field<'_>, errors: &mut Errors) -> Read<ExternalProtocol> {
    let Some(protocol) = external.get("protocol") else {
        errors.required(external.path.field("protocol"), "is missing: `GRPC` or `HTTP`");
        return Err(Unreadable);
    };
    let (own, other) = match protocol.str() {
        Some("GRPC") => ("grpc", "http"),
        Some("HTTP") => ("http", "grpc"),
        _ => return Err(Unreadable),
    };
    if let Some(other) = external.get(other) {
        let message = format!("must not be given: the protocol is {}", shown(protocol.value));
        errors.push(&other, Code::Forbidden, message);
    }
    let settings = external.get(own);
    let names = |list, errors: &mut Errors| {
        settings.as_ref().map_or(Ok(Vec::new()), |settings| check_names(settings, list, errors))
    };
    if own == "grpc" {
        // Gateway API demands it, and says what it means where it is empty.
        if settings.is_none() {
            errors.required(external.path.field(own), "is missing: `grpc: {}` has it told all headers");
        }
        return Ok(ExternalProtocol::Grpc { headers: names("allowedHeaders", errors)? });
    }
    let Some(settings) = &settings else {
        errors.required(external.path.field(own), "is missing: `http: {}` adds nothing to the path");
        return Err(Unreadable);
    };
    Ok(ExternalProtocol::Http {
        path: check_prefix(settings, errors)?,
        headers: names("allowedHeaders", errors)?,
        answered: names("allowedResponseHeaders", errors)?,
    })
}

/// What stands before paths; without a slash at its end, which each of them begins with.
fn check_prefix(http: &Field<'_>, errors: &mut Errors) -> Read<String> {
    let Some(path) = http.get("path") else { return Ok(String::new()) };
    let text = path.str().ok_or(Unreadable)?;
    if text.is_empty() {
        return Ok(String::new());
    }
    let problem = path_problem(text).or_else(|| ambiguity(text).map(|found| found.why().to_owned()));
    if let Some(problem) = problem {
        errors.invalid(&path, format!("{} is no path: it {problem}", shown(path.value)));
        return Err(Unreadable);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn check_names(of: &Field<'_>, list: &'static str, errors: &mut Errors) -> Read<Vec<HeaderName>> {
    let mut names = Vec::new();
    for field in of.read_items(list)? {
        let text = field.str().ok_or(Unreadable)?;
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            errors.invalid(&field, format!("{} is no name of a header", shown(field.value)));
            continue;
        };
        // Whoever is asked is told these anyway, as far as he is.
        if let Some(why) =
            uneditable(name.as_str()).filter(|_| !["host", "content-length"].contains(&name.as_str()))
        {
            errors.push(&field, Code::Forbidden, format!("cannot be `{name}`, which {why}"));
        }
        if names.contains(&name) {
            errors.push(&field, Code::Duplicate, "stands here twice");
        }
        names.push(name);
    }
    Ok(names)
}

fn check_max_body(body: &Field<'_>, errors: &mut Errors) -> Read<u16> {
    let Some(size) = body.get("maxSize") else { return Ok(0) };
    let number = size.value.as_i64().ok_or(Unreadable)?;
    u16::try_from(number).map_err(|_| {
        errors.invalid(&size, format!("{number} is more than is kept of a body: 0 to 65535 bytes"));
        Unreadable
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::check::check;
    use super::super::form::AuthorizationForm;
    use super::*;
    use crate::name::ServiceName;
    use crate::snapshot::Action;

    /// What is made of a policy with this `spec.externalAuth`, and more; or the fields that are wrong.
    fn read(external: Value, more: Value) -> Result<AuthorizationForm, Vec<String>> {
        let mut spec =
            json!({ "targetRefs": [{ "group": "", "kind": "Namespace" }], "externalAuth": external });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({ "metadata": { "namespace": "shop", "name": "p" }, "spec": spec });
        let mut errors = Errors::default();
        let form = check(&Field::root(&object), &mut errors);
        form.map_err(|Unreadable| errors.0.iter().map(|error| error.path.to_string()).collect())
    }

    #[test]
    fn who_is_asked_is_as_it_says() {
        let backend = json!({ "name": "authz", "port": 80 });
        let form = read(json!({ "protocol": "GRPC", "backendRef": backend, "grpc": {} }), json!({})).unwrap();
        assert_eq!((form.action, form.rules.len()), (Action::Ask, 1), "without rules all is asked about");
        let plain = ExternalAuth {
            service: ServiceName::new("shop", "authz"),
            port: 80,
            protocol: ExternalProtocol::Grpc { headers: Vec::new() },
            max_body: 0,
            timeout: Duration::from_millis(200),
            fail_open: false,
            spared: Vec::new(),
        };
        assert_eq!(form.external.as_deref(), Some(&plain));
        let external = json!({
            "protocol": "HTTP",
            "backendRef": { "group": "", "kind": "Service", "name": "authz", "namespace": "auth", "port": 81 },
            "http": { "path": "/check/", "allowedHeaders": ["Cookie", "host"], "allowedResponseHeaders": ["X-User"] },
            "forwardBody": { "maxSize": 65535 },
            "timeout": "10s",
            "failOpen": true,
        });
        let rules = json!({ "rules": [{ "http": { "methods": ["GET"] } }, {}] });
        let form = read(external, rules).unwrap();
        let names = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
        let whole = ExternalAuth {
            service: ServiceName::new("auth", "authz"),
            port: 81,
            protocol: ExternalProtocol::Http {
                path: "/check".into(),
                headers: names(&["cookie", "host"]),
                answered: names(&["x-user"]),
            },
            max_body: u16::MAX,
            timeout: LONGEST_EXTERNAL_TIMEOUT,
            fail_open: true,
            spared: Vec::new(),
        };
        assert_eq!((form.external.as_deref(), form.rules.len()), (Some(&whole), 2));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_its_field() {
        let backend = || json!({ "name": "authz", "port": 80 });
        let with = |field: &str, value: Value| {
            let mut external = json!({ "protocol": "HTTP", "backendRef": backend(), "http": {} });
            external[field] = value;
            external
        };
        let without = |field: &str| {
            let mut external = with("failOpen", json!(false));
            external.as_object_mut().unwrap().remove(field);
            external
        };
        let at = |field: &str| vec![format!("spec.externalAuth.{field}")];
        for (external, wrong) in [
            (without("protocol"), at("protocol")),
            (without("backendRef"), at("backendRef")),
            (without("http"), at("http")),
            (json!({ "protocol": "GRPC", "backendRef": backend() }), at("grpc")),
            (with("grpc", json!({})), at("grpc")),
            (json!({ "protocol": "GRPC", "backendRef": backend(), "grpc": {}, "http": {} }), at("http")),
            (with("backendRef", json!({ "name": "authz" })), at("backendRef.port")),
            (
                with("backendRef", json!({ "group": "x.io", "kind": "Other", "name": "a" })),
                at("backendRef.kind"),
            ),
            (with("backendRef", json!({ "group": "x.io", "name": "a" })), at("backendRef.group")),
            (with("http", json!({ "path": "check" })), at("http.path")),
            (with("http", json!({ "path": "/a/../b" })), at("http.path")),
            (with("http", json!({ "path": "/a;b" })), at("http.path")),
            (with("http", json!({ "allowedHeaders": ["a b"] })), at("http.allowedHeaders[0]")),
            (with("http", json!({ "allowedHeaders": ["x", "X"] })), at("http.allowedHeaders[1]")),
            (
                with("http", json!({ "allowedResponseHeaders": ["tulle-reason"] })),
                at("http.allowedResponseHeaders[0]"),
            ),
            (with("http", json!({ "allowedHeaders": ["connection"] })), at("http.allowedHeaders[0]")),
            (with("forwardBody", json!({ "maxSize": 65536 })), at("forwardBody.maxSize")),
            (with("forwardBody", json!({ "maxSize": -1 })), at("forwardBody.maxSize")),
            (with("timeout", json!("soon")), at("timeout")),
            (with("timeout", json!("0s")), at("timeout")),
            (with("timeout", json!("10s1ms")), at("timeout")),
        ] {
            assert_eq!(read(external.clone(), json!({})), Err(wrong), "{external}");
        }
        let good = || with("failOpen", json!(false));
        assert_eq!(read(good(), json!({ "action": "Allow" })), Err(vec!["spec.action".to_owned()]));
        assert_eq!(read(good(), json!({ "rules": [] })), Err(vec!["spec.rules".to_owned()]));
        // An action is needed without it.
        let object = json!({
            "metadata": { "namespace": "shop", "name": "p" },
            "spec": { "targetRefs": [{ "group": "", "kind": "Namespace" }], "rules": [{}] },
        });
        let mut errors = Errors::default();
        assert!(check(&Field::root(&object), &mut errors).is_err());
        let paths: Vec<_> = errors.0.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, ["spec.action"]);
    }
}
