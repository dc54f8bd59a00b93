//! What the parents, rules and backends of routes must be (Gateway API v1.6).

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::form::{BackendForm, ParentForm, RouteForm, RuleForm};
use super::{BackendRef, ParentReference};
use crate::kinds::id::KindId;
use crate::kinds::kind::TULLE;
use crate::name::{NamespacedName, ServiceName, dns_label_problem, dns_subdomain_problem};
use crate::port_settings::duration;
use crate::snapshot::{BackendTarget, Timeouts};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::{created, namespace};

/// Gateway API allows weights up to a million.
const HIGHEST_WEIGHT: u32 = 1_000_000;

/// Refuses fields of the API that Tulle doesn't implement: better than to ignore them.
pub(in crate::kinds) fn refuse(parent: &Field<'_>, names: &[&'static str], errors: &mut Errors) -> Read<()> {
    let mut read = Ok(());
    for name in names {
        let Some(field) = parent.get(name) else { continue };
        if field.value.as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        let message = format!("`{name}` is not supported yet; remove it");
        errors.push(&field, Code::NotSupported, message);
        read = Err(Unreadable);
    }
    read
}

/// The `spec` of a route, and its parents, whatever its kind; `needs`: what is said of the kind where there is none.
pub(in crate::kinds) fn check_spec<'a>(
    route: &Field<'a>,
    needs: &str,
    errors: &mut Errors,
) -> Read<(Field<'a>, Read<Vec<ParentForm>>)> {
    let Some(spec) = route.get("spec") else {
        errors.required(route.path.field("spec"), format!("is missing: {needs}"));
        return Err(Unreadable);
    };
    let parents = check_parents(route, &spec, errors);
    let _nothing_of_it_is_compiled = refuse(&spec, &["useDefaultGateways"], errors);
    Ok((spec, parents))
}

/// Reads each item of the list of that name, also after one that cannot be read: all that is wrong is told.
pub(in crate::kinds) fn read_each<T>(
    holder: &Field<'_>,
    name: &'static str,
    mut read: impl FnMut(&Field<'_>) -> Read<T>,
) -> Read<Vec<T>> {
    let list = holder.read_items(name).map(drop);
    let items: Vec<Read<T>> = holder.items(name).map(|item| read(&item)).collect();
    list?;
    items.into_iter().collect()
}

/// Reads a duration; `None`: there is no limit, as none is given, or `0s`.
pub(in crate::kinds) fn check_duration(
    holder: &Field<'_>,
    name: &'static str,
    errors: &mut Errors,
) -> Read<Option<Duration>> {
    let Some(field) = holder.get(name) else { return Ok(None) };
    let Some(time) = duration(field.str().ok_or(Unreadable)?) else {
        let message = format!(
            "{} is no duration such as `10s`, `500ms` or `1m30s`{}",
            shown(field.value),
            without_unit(field.value)
        );
        errors.invalid(&field, message);
        return Err(Unreadable);
    };
    Ok((!time.is_zero()).then_some(time))
}

/// What to write where a duration is a mere number.
pub(in crate::kinds) fn without_unit(value: &Value) -> String {
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.as_str().filter(is_number);
    number.map(|number| format!("; of seconds, write `{number}s`")).unwrap_or_default()
}

pub(in crate::kinds) fn check_rule_names(spec: &Field<'_>, errors: &mut Errors) {
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

fn check_parents(route: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) -> Read<Vec<ParentForm>> {
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
    let own = namespace(route)?;
    spec.read_items("parentRefs")?.map(|parent| read_parent(&parent, own)).collect()
}

fn read_parent(parent: &Field<'_>, own: &str) -> Read<ParentForm> {
    let reference = ParentReference::deserialize(parent.value).map_err(|_| Unreadable)?;
    let is_service = reference.group.as_deref() == Some("") && reference.kind.as_deref() == Some("Service");
    let namespace = reference.namespace.as_deref().unwrap_or(own);
    Ok(ParentForm {
        service: is_service.then(|| ServiceName::new(namespace, reference.name.as_str())),
        port: parent.read_port("port")?,
        reference,
    })
}

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

pub(in crate::kinds) fn check_group_and_kind(reference: &Field<'_>, errors: &mut Errors) {
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

pub(in crate::kinds) fn check_object_name(reference: &Field<'_>, errors: &mut Errors) {
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

pub(in crate::kinds) fn check_backends(
    rule: &Field<'_>,
    own: &str,
    errors: &mut Errors,
) -> Read<Vec<BackendForm>> {
    for backend in rule.items("backendRefs") {
        check_reference(&backend, errors);
    }
    rule.read_items("backendRefs")?.map(|backend| read_backend(&backend, own)).collect()
}

/// Reads what refers to a Service and its port, or to another thing, which nothing is sent to.
pub(in crate::kinds) fn check_target(
    reference: &Field<'_>,
    own: &str,
    errors: &mut Errors,
) -> Read<BackendTarget> {
    check_reference(reference, errors);
    let backend = read_backend(reference, own)?;
    // Who gets a copy, or is asked, is no caller who starts something.
    match (backend.service.filter(|_| !backend.is_flow), backend.port) {
        (Some(name), Some(port)) => Ok(BackendTarget::Service { name, port }),
        (Some(_), None) => Err(Unreadable),
        (None, _) => Ok(BackendTarget::Invalid { reason: backend.reference.to.unsupported().into() }),
    }
}

fn check_reference(backend: &Field<'_>, errors: &mut Errors) {
    check_group_and_kind(backend, errors);
    check_object_name(backend, errors);
    let group = backend.get_str("group").unwrap_or_default();
    let kind = backend.get_str("kind").unwrap_or("Service");
    if group.is_empty() && kind == "Service" && backend.value.is_object() && backend.get("port").is_none() {
        let message = "is missing: a Service as backend needs the port to use, 1 to 65535";
        errors.required(backend.path.field("port"), message);
    }
}

fn read_backend(backend: &Field<'_>, own: &str) -> Read<BackendForm> {
    let reference = BackendRef::deserialize(backend.value).map_err(|_| Unreadable)?;
    let to = &reference.to;
    let is_flow = to.group.as_deref() == Some(TULLE.0) && to.kind.as_deref() == Some("Flow");
    let is_service = to.group.as_deref().unwrap_or_default().is_empty()
        && to.kind.as_deref().unwrap_or("Service") == "Service";
    let namespace = to.namespace.as_deref().unwrap_or(own);
    let weight = reference.weight.map_or(Ok(1), u32::try_from).map_err(|_| Unreadable)?;
    Ok(BackendForm {
        service: (is_service || is_flow).then(|| ServiceName::new(namespace, to.name.as_str())),
        is_flow,
        port: backend.read_port("port")?,
        weight: (weight <= HIGHEST_WEIGHT).then_some(weight).ok_or(Unreadable)?,
        filters: None,
        reference,
    })
}

/// The one rule of a route of that kind, which shares connections out.
pub(in crate::kinds) fn check_only_rule(
    kind: &str,
    spec: &Field<'_>,
    own: &str,
    errors: &mut Errors,
) -> Read<Vec<RuleForm>> {
    if spec.get("rules").is_none() {
        errors.required(spec.path.field("rules"), format!("is missing: a {kind} has exactly one rule"));
    }
    check_rule_names(spec, errors);
    let rules = read_each(spec, "rules", |rule| {
        let backends = rule.get("backendRefs");
        if rule.value.is_object() && backends.is_none_or(|b| b.value.as_array().is_some_and(Vec::is_empty)) {
            let message = format!("is missing: a rule of a {kind} needs at least one backend");
            errors.required(rule.path.field("backendRefs"), message);
        }
        let backends = check_backends(rule, own, errors)?;
        let name = rule.read_str("name")?.map(Into::into);
        Ok(RuleForm {
            name,
            matches: Vec::new(),
            backends,
            filters: None,
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
        })
    })?;
    if rules.len() == 1 { Ok(rules) } else { Err(Unreadable) }
}

/// What was checked of a route and its rules, as it is compiled.
pub(in crate::kinds) fn read_route(
    kind: KindId,
    route: &Field<'_>,
    parents: Vec<ParentForm>,
    rules: Vec<RuleForm>,
    hostnames: bool,
) -> Read<RouteForm> {
    let metadata = route.get("metadata").ok_or(Unreadable)?;
    let name = metadata.read_str("name")?.unwrap_or_default();
    Ok(RouteForm {
        kind,
        name: NamespacedName::new(namespace(route)?, name),
        created: created(route)?,
        generation: metadata.read("generation", Value::as_i64)?,
        parents,
        rules,
        hostnames,
        server_names: Vec::new(),
    })
}
