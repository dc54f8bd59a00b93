//! How requests of a rule stay with one endpoint (Gateway API, GEP-1619): as it is written, and what it must be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::check_duration;
use crate::port_settings::DURATION;
use crate::snapshot::{HttpRule, Session, SessionCarrier, uneditable};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::syntax::header_name_problem;

/// Has requests of one client stay with the endpoint that took its first, whatever the weights say. The client says which that was
/// with a token, which it gets in the first answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    /// The name of the cookie or header; where none is given it is made of the rule's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub session_name: Option<String>,
    /// How long a session lasts at most, as in `1h`; without it, as long as its endpoint and the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION))]
    pub absolute_timeout: Option<String>,
    /// How long a session lasts without a request, as in `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(DURATION))]
    pub idle_timeout: Option<String>,
    /// What the token travels in: `Cookie` (default) or `Header`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Cookie", "Header"], "x-default" = "Cookie"))]
    pub type_: Option<String>,
    /// More about the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

/// More about the cookie of a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    /// `Session` (default): the client forgets the cookie when it ends; `Permanent`: it keeps it for the `absoluteTimeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Permanent", "Session"], "x-default" = "Session"))]
    pub lifetime_type: Option<String>,
}

/// The same as it is compiled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SessionForm {
    pub name: Option<Arc<str>>,
    pub carrier: SessionCarrier,
    pub absolute: Option<Duration>,
    pub idle: Option<Duration>,
}

impl SessionForm {
    /// The sessions of that rule.
    pub(crate) fn compiled(&self, rule: &HttpRule) -> Session {
        let session = Session::of(rule, self.name.clone(), self.carrier);
        Session { absolute: self.absolute, idle: self.idle, ..session }
    }
}

pub(in crate::kinds) fn check_session(rule: &Field<'_>, errors: &mut Errors) -> Read<Option<SessionForm>> {
    let Some(session) = rule.get("sessionPersistence") else { return Ok(None) };
    let is_header = session.read_str("type").map(|kind| kind == Some("Header"));
    let name = check_name(&session, is_header.unwrap_or_default(), errors);
    let absolute = check_time(&session, "absoluteTimeout", errors);
    let idle = check_time(&session, "idleTimeout", errors);
    let cookie = session.get("cookieConfig");
    let lifetime = cookie.as_ref().map_or(Ok(None), |cookie| cookie.read_str("lifetimeType"));
    let is_permanent = lifetime.map(|lifetime| lifetime == Some("Permanent"));
    if let Some(cookie) = cookie.filter(|_| is_header == Ok(true)) {
        errors.push(&cookie, Code::Forbidden, "is of no use: the session's `type` is `Header`");
        return Err(Unreadable);
    }
    if is_permanent == Ok(true) && session.get("absoluteTimeout").is_none() {
        let message = "is missing: it is how long a cookie of the lifetime `Permanent` is kept";
        errors.required(session.path.field("absoluteTimeout"), message);
        return Err(Unreadable);
    }
    let carrier = match is_header? {
        true => SessionCarrier::Header,
        false => SessionCarrier::Cookie { permanent: is_permanent? },
    };
    Ok(Some(SessionForm { name: name?, carrier, absolute: absolute?, idle: idle? }))
}

/// Two rules with one name end each other's sessions where a client sends the token of the one to the other: a header goes to both, a
/// cookie to those with its path.
pub(in crate::kinds) fn warn_of_shared_names(spec: &Field<'_>, warnings: &mut Errors) {
    let mut names: HashMap<(String, Option<&str>), String> = HashMap::new();
    for rule in spec.items("rules") {
        let Some(session) = rule.get("sessionPersistence") else { continue };
        let Some(name) = session.get("sessionName") else { continue };
        let Some(text) = name.str().filter(|text| !text.is_empty()) else { continue };
        let (name_of, paths) = match session.get_str("type") {
            Some("Header") => (text.to_ascii_lowercase(), vec![None]),
            _ => (text.to_owned(), paths_of(&rule).into_iter().map(Some).collect()),
        };
        let keys: Vec<_> = paths.into_iter().map(|path| (name_of.clone(), path)).collect();
        if let Some(first) = keys.iter().find_map(|key| names.get(key)) {
            let message = format!(
                "{} is the name of {first}, too: no session is shared, and a client that sends the token of one \
                 rule to the other begins a new one each time; give each rule a name of its own",
                shown(name.value)
            );
            warnings.push(&name, Code::Duplicate, message);
        }
        for key in keys {
            names.entry(key).or_insert_with(|| rule.path.to_string());
        }
    }
}

/// The paths of a rule's matches.
fn paths_of<'a>(rule: &Field<'a>) -> Vec<&'a str> {
    let path = |condition: Field<'a>| condition.get("path").and_then(|path| path.get_str("value"));
    let mut paths: Vec<_> = rule.items("matches").map(|condition| path(condition).unwrap_or("/")).collect();
    paths.sort_unstable();
    paths.dedup();
    if paths.is_empty() { vec!["/"] } else { paths }
}

fn check_name(session: &Field<'_>, is_header: bool, errors: &mut Errors) -> Read<Option<Arc<str>>> {
    let Some(name) = session.get("sessionName") else { return Ok(None) };
    let text = name.str().ok_or(Unreadable)?;
    if text.is_empty() {
        return Ok(None);
    }
    let what = if is_header { "header" } else { "cookie" };
    // A cookie's name is a token, as a header's is (RFC 6265, section 4.1.1).
    if let Some(problem) = header_name_problem(text) {
        errors.invalid(&name, format!("{} is no name of a {what}: it {problem}", shown(name.value)));
        return Err(Unreadable);
    }
    let lower = text.to_ascii_lowercase();
    let unfit = match is_header {
        true if matches!(&*lower, "cookie" | "set-cookie") => Some("carries cookies: use the type `Cookie`"),
        true => uneditable(&lower),
        // Clients refuse them without `Secure`, and what comes to the mesh in plain text is not secure.
        false if lower.starts_with("__secure-") || lower.starts_with("__host-") => {
            Some("begins with what only cookies of HTTPS may begin with")
        }
        false => None,
    };
    if let Some(problem) = unfit {
        errors.push(&name, Code::NotSupported, format!("{} {problem}", shown(name.value)));
        return Err(Unreadable);
    }
    Ok(Some(if is_header { lower.into() } else { text.into() }))
}

/// `None`: there is no limit.
fn check_time(session: &Field<'_>, name: &'static str, errors: &mut Errors) -> Read<Option<Duration>> {
    let time = check_duration(session, name, errors)?;
    if time.is_none()
        && let Some(field) = session.get(name)
    {
        errors.invalid(&field, "is no time at all; leave it out for sessions without that limit");
        return Err(Unreadable);
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::id::KindId;
    use crate::validate::{validate, warnings};

    fn route(kind: &str, sessions: &[Value]) -> Value {
        let rule = |session: &Value| json!({ "sessionPersistence": session });
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": "r", "namespace": "shop" },
            "spec": {
                "parentRefs": [{ "group": "", "kind": "Service", "name": "c" }],
                "rules": sessions.iter().map(rule).collect::<Vec<_>>(),
            },
        })
    }

    #[test]
    fn what_no_session_can_be_is_named() {
        use Code::{Forbidden, Invalid, NotSupported, Required};
        for (kind, id) in [("HTTPRoute", KindId::HttpRoute), ("GRPCRoute", KindId::GrpcRoute)] {
            for (session, expected) in [
                (json!({}), None),
                (json!({ "sessionName": "JSESSIONID", "idleTimeout": "10m" }), None),
                (json!({ "type": "Header", "sessionName": "x-cart", "absoluteTimeout": "1h" }), None),
                (json!({ "cookieConfig": { "lifetimeType": "Permanent" }, "absoluteTimeout": "1h" }), None),
                (json!({ "cookieConfig": {} }), None),
                (
                    json!({ "cookieConfig": { "lifetimeType": "Permanent" } }),
                    Some((".absoluteTimeout", Required)),
                ),
                (json!({ "type": "Header", "cookieConfig": {} }), Some((".cookieConfig", Forbidden))),
                (json!({ "type": "Path" }), Some((".type", NotSupported))),
                (json!({ "sessionName": "a b" }), Some((".sessionName", Invalid))),
                (json!({ "sessionName": "a;b" }), Some((".sessionName", Invalid))),
                (json!({ "sessionName": "__Host-a" }), Some((".sessionName", NotSupported))),
                (json!({ "type": "Header", "sessionName": "Cookie" }), Some((".sessionName", NotSupported))),
                (
                    json!({ "type": "Header", "sessionName": "tulle-port" }),
                    Some((".sessionName", NotSupported)),
                ),
                (json!({ "idleTimeout": "0s" }), Some((".idleTimeout", Invalid))),
                (json!({ "absoluteTimeout": "soon" }), Some((".absoluteTimeout", Invalid))),
            ] {
                let errors = validate(id.kind(), &route(kind, std::slice::from_ref(&session)));
                let wrong: Vec<_> = errors.iter().map(|e| (e.path.to_string(), e.code)).collect();
                let at = |field: &str| format!("spec.rules[0].sessionPersistence{field}");
                let expected: Vec<_> = expected.into_iter().map(|(field, code)| (at(field), code)).collect();
                assert_eq!(wrong, expected, "{kind} {session}");
            }
        }
    }

    #[test]
    fn two_rules_with_one_name_are_warned_of() {
        let named = |name: &str| json!({ "sessionName": name });
        let header = |name: &str| json!({ "sessionName": name, "type": "Header" });
        let (one, other) = (&["/a", "/c"][..], &["/b"][..]);
        for (sessions, paths, expected) in [
            (vec![named("a"), named("b"), json!({}), json!({})], [&[][..]; 4], 0),
            (vec![named("a"), header("a")], [&[]; 4], 0),
            (vec![named("a"), named("b"), named("a")], [&[]; 4], 1),
            (vec![named("a"), named("A")], [&[]; 4], 0),
            (vec![named("a"), named("a")], [one, other, one, one], 0),
            (vec![named("a"), named("a"), named("a")], [one, other, &["/d", "/c"], one], 1),
            (vec![header("a"), header("A")], [one, other, one, one], 1),
        ] {
            let mut route = route("HTTPRoute", &sessions);
            for (rule, paths) in route["spec"]["rules"].as_array_mut().unwrap().iter_mut().zip(paths) {
                let path = |path: &&str| json!({ "path": { "value": path } });
                rule["matches"] = paths.iter().map(path).collect();
                rule["backendRefs"] = json!([{ "name": "c", "port": 80 }]);
            }
            let found = warnings(KindId::HttpRoute.kind(), &route);
            assert_eq!(found.len(), expected, "{sessions:?}");
        }
    }
}
