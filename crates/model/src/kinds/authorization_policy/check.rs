//! What an AuthorizationPolicy must be, beyond its schema.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::SYSTEM_NAMESPACE;
use super::check_external::check_external;
use super::check_jwt::check_jwt;
use super::check_request::check_request;
use super::form::{
    AccessRuleForm, AuthorizationForm, Operator, Requirement, Selector, SourceForm, TargetForm, references_of,
};
use crate::condition::CelCondition;
use crate::name::{MESH, NamespacedName, ServiceName, dns_label_problem, dns_subdomain_problem};
use crate::snapshot::{Action, IdentityPattern};
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::{check_labels, namespace};
use crate::validate::syntax::{label_value_problem, qualified_name_problem};

pub(crate) fn check(policy: &Field<'_>, errors: &mut Errors) -> Read<AuthorizationForm> {
    let before = errors.0.len();
    let own = namespace(policy).unwrap_or("default");
    let spec = policy.get("spec").ok_or(Unreadable)?;
    let targets: Vec<_> = spec.items("targetRefs").map(|target| check_target(&target, own, errors)).collect();
    let targets_mesh = targets.iter().any(|target| matches!(target, Ok(TargetForm::Mesh)));
    check_leaving(&spec, errors);
    let issuers = spec.get("jwt").map(|jwt| check_jwt(&jwt, targets_mesh, errors)).transpose();
    let known: Vec<_> = spec.get("jwt").iter().flat_map(|jwt| jwt.items("issuers")).collect();
    let known: Vec<_> = known.iter().filter_map(|issuer| issuer.get_str("issuer")).collect();
    let rules: Vec<_> = spec.items("rules").map(|rule| check_rule(&rule, own, &known, errors)).collect();
    let external =
        spec.get("externalAuth").map(|external| check_external(&external, own, errors)).transpose();
    let action = check_action(&spec, errors);
    let asks = spec.get("externalAuth").is_some();
    if matches!(action, Some(Action::Deny | Action::Audit)) && rules.is_empty() {
        let message = "is missing: without a rule the policy matches nobody; `rules: [{}]` matches everybody";
        errors.required(spec.path.field("rules"), message);
    }
    if let Some(empty) = spec.get("rules").filter(|_| asks && rules.is_empty()) {
        errors.invalid(&empty, "is empty: leave it out to have all requests asked about");
    }
    let name = policy.get("metadata").and_then(|metadata| metadata.get_str("name")).ok_or(Unreadable)?;
    // Half a policy would let in whom the other half keeps out.
    if errors.0.len() > before || targets.is_empty() {
        return Err(Unreadable);
    }
    spec.read("rules", Value::as_array)?;
    let mut rules = rules.into_iter().collect::<Read<Vec<_>>>()?;
    if asks && rules.is_empty() {
        rules.push(AccessRuleForm { sources: None, ports: None, request: None, when: None });
    }
    Ok(AuthorizationForm {
        name: NamespacedName::new(own, name),
        generation: policy.value.pointer("/metadata/generation").and_then(Value::as_i64),
        action: action.ok_or(Unreadable)?,
        targets: targets.into_iter().collect::<Read<_>>()?,
        references: references_of(policy.value),
        issuers: issuers?.unwrap_or_default(),
        rules,
        external: external?.map(Arc::new),
    })
}

/// What a policy does; whoever has another one asked says nothing of that himself.
fn check_action(spec: &Field<'_>, errors: &mut Errors) -> Option<Action> {
    let action = spec.get("action");
    if spec.get("externalAuth").is_some() {
        if let Some(action) = action {
            let message =
                "must not be given beside `externalAuth`: the service that is asked lets in, or denies";
            errors.push(&action, Code::Forbidden, message);
        }
        return Some(Action::Ask);
    }
    let Some(action) = action else {
        let message =
            "is missing: what becomes of whom a rule matches (`Allow`, `Deny` or `Audit`; or `externalAuth`)";
        errors.required(spec.path.field("action"), message);
        return None;
    };
    match action.str() {
        Some("Allow") => Some(Action::Allow),
        Some("Deny") => Some(Action::Deny),
        Some("Audit") => Some(Action::Audit),
        _ => None,
    }
}

/// What holds where something leaves the mesh.
fn check_leaving(spec: &Field<'_>, errors: &mut Errors) {
    let mut targets = spec.items("targetRefs").filter_map(|target| target.get("kind"));
    let Some(kind) = targets.find(|kind| kind.str() == Some(EXTERNAL_SERVICE)) else { return };
    let reasons = [
        ("jwt", "tokens are for whom a request is sent to, and not for the node that it leaves"),
        ("externalAuth", "only what comes to a workload is asked about"),
    ];
    for (field, why) in reasons {
        if let Some(field) = spec.get(field) {
            let message = format!("cannot be {EXTERNAL_SERVICE} where `{}` is given: {why}", field.path);
            errors.push(&kind, Code::NotSupported, message);
        }
    }
}

/// The kind of what is outside.
const EXTERNAL_SERVICE: &str = "ExternalService";

fn check_target(target: &Field<'_>, own: &str, errors: &mut Errors) -> Read<TargetForm> {
    let (group, kind) = (target.read_str("group")?.unwrap_or_default(), target.read_str("kind")?);
    let (name, selector) = (target.read_str("name")?, target.get("selector"));
    let form = match (group, kind.ok_or(Unreadable)?) {
        ("" | "core", "Service") => {
            let Some(name) = name else {
                errors.required(target.path.field("name"), "is missing: the name of the Service");
                return Err(Unreadable);
            };
            TargetForm::Service(ServiceName::new(own, name))
        }
        ("" | "core", "Namespace") => {
            if let Some(other) = target.get("name").filter(|_| name != Some(own)) {
                let message = format!("{} is not the policy's own namespace, `{own}`", shown(other.value));
                errors.invalid(&other, message);
            }
            TargetForm::Namespace
        }
        ("tulle.dev", "Flow") => {
            let Some(name) = name else {
                errors.required(target.path.field("name"), "is missing: the name of the Flow");
                return Err(Unreadable);
            };
            TargetForm::Flow(NamespacedName::new(own, name))
        }
        ("tulle.dev", EXTERNAL_SERVICE) => {
            let Some(name) = name else {
                errors.required(target.path.field("name"), "is missing: the name of the ExternalService");
                return Err(Unreadable);
            };
            TargetForm::External(NamespacedName::new(own, name))
        }
        ("tulle.dev", "Workload") => {
            if let Some(name) = target.get("name") {
                let message = "must not be given: Workloads come and go; `selector` says which are meant";
                errors.push(&name, Code::Forbidden, message);
            }
            let Some(selector) = &selector else {
                let message = "is missing: the labels of the Workloads; `{}` is all of the namespace";
                errors.required(target.path.field("selector"), message);
                return Err(Unreadable);
            };
            return Ok(TargetForm::Workloads(check_selector(selector, errors)?));
        }
        ("tulle.dev", "Mesh") => {
            if own != SYSTEM_NAMESPACE {
                let message = format!("may only be `Mesh` in a policy of namespace `{SYSTEM_NAMESPACE}`");
                errors.push(&target.get("kind").ok_or(Unreadable)?, Code::Forbidden, message);
            }
            if let Some(other) = target.get("name").filter(|_| name != Some(MESH)) {
                errors.invalid(&other, format!("must be `{MESH}`: there is one Mesh"));
            }
            TargetForm::Mesh
        }
        (group, kind) => {
            let message = format!(
                "cannot be {}: Service and Namespace (group \"\"), Workload, Flow, ExternalService and Mesh (group tulle.dev) are what policies apply to",
                if group.is_empty() { format!("`{kind}`") } else { format!("`{group}/{kind}`") }
            );
            errors.push(&target.get("kind").ok_or(Unreadable)?, Code::NotSupported, message);
            return Err(Unreadable);
        }
    };
    if let Some(selector) = selector {
        errors.push(&selector, Code::Forbidden, "must not be given: only Workloads are selected by labels");
    }
    Ok(form)
}

fn check_selector(selector: &Field<'_>, errors: &mut Errors) -> Read<Selector> {
    check_labels(selector, "matchLabels", errors);
    let labels = selector.read_texts("matchLabels")?.into_iter();
    let mut requirements: Vec<_> =
        labels.map(|(key, value)| Requirement { key, operator: Operator::In(vec![value]) }).collect();
    for expression in selector.read_items("matchExpressions")? {
        requirements.push(check_requirement(&expression, errors)?);
    }
    Ok(Selector(requirements))
}

fn check_requirement(expression: &Field<'_>, errors: &mut Errors) -> Read<Requirement> {
    let key = expression.get("key").ok_or(Unreadable)?;
    let name = key.str().ok_or(Unreadable)?;
    if let Some(problem) = qualified_name_problem(name) {
        errors.invalid(&key, format!("{} is no key of a label: {problem}", shown(key.value)));
    }
    let mut values = Vec::new();
    for value in expression.read_items("values")? {
        let text = value.str().ok_or(Unreadable)?;
        if let Some(problem) = label_value_problem(text) {
            errors.invalid(&value, format!("{} is no value of a label: it {problem}", shown(value.value)));
        }
        values.push(text.to_owned());
    }
    let operator = expression.get_str("operator").ok_or(Unreadable)?;
    let operator = match (operator, values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            errors.required(expression.path.field("values"), format!("is missing: `{operator}` needs some"));
            return Err(Unreadable);
        }
        ("Exists" | "DoesNotExist", false) => {
            let values = expression.get("values").ok_or(Unreadable)?;
            errors.push(
                &values,
                Code::Forbidden,
                format!("must not be given: `{operator}` asks for the key alone"),
            );
            return Err(Unreadable);
        }
        _ => return Err(Unreadable),
    };
    Ok(Requirement { key: name.to_owned(), operator })
}

fn check_rule(rule: &Field<'_>, own: &str, issuers: &[&str], errors: &mut Errors) -> Read<AccessRuleForm> {
    let sources = match rule.read("sources", Value::as_array)? {
        None => None,
        Some(_) => {
            let sources: Vec<_> =
                rule.items("sources").map(|source| check_source(&source, own, errors)).collect();
            Some(sources.into_iter().collect::<Read<Vec<_>>>()?)
        }
    };
    let ports = rule.get("networkAttributes").map(|network| check_ports(&network, errors)).transpose()?;
    let request = check_request(rule, issuers, errors)?;
    let when = rule.get("when").map(|when| check_condition(&when, issuers, errors)).transpose()?;
    Ok(AccessRuleForm { sources, ports: ports.flatten(), request, when })
}

/// `issuers`: those of the policy.
fn check_condition(when: &Field<'_>, issuers: &[&str], errors: &mut Errors) -> Read<CelCondition> {
    let condition = CelCondition::new(when.str().ok_or(Unreadable)?).map_err(|problem| {
        errors.invalid(when, problem);
        Unreadable
    })?;
    if condition.asks_for_token() && issuers.is_empty() {
        errors.push(when, Code::Forbidden, "asks for a token: `spec.jwt` must say whose are taken");
        return Err(Unreadable);
    }
    Ok(condition)
}

fn check_ports(network: &Field<'_>, errors: &mut Errors) -> Read<Option<Vec<u16>>> {
    if network.read("ports", Value::as_array)?.is_none() {
        return Ok(None);
    }
    let mut ports = Vec::new();
    for port in network.items("ports") {
        match port.value.as_i64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) {
            Some(port) => ports.push(port),
            None => errors.invalid(&port, format!("{} is no port: 1 to 65535", shown(port.value))),
        }
    }
    Ok(Some(ports))
}

/// The field that each type of source has.
const SOURCES: [(&str, &str); 5] = [
    ("ServiceAccount", "serviceAccount"),
    ("SPIFFE", "spiffe"),
    ("Namespace", "namespace"),
    ("TrustDomain", "trustDomain"),
    ("External", "external"),
];

fn check_source(source: &Field<'_>, own: &str, errors: &mut Errors) -> Read<SourceForm> {
    let Some(type_) = source.get("type") else {
        errors.required(source.path.field("type"), "is missing: it says what the source is told by");
        return Err(Unreadable);
    };
    let (type_name, own_field) =
        *SOURCES.iter().find(|(name, _)| Some(*name) == type_.str()).ok_or(Unreadable)?;
    for (_, field) in SOURCES.iter().filter(|(_, field)| *field != own_field) {
        if let Some(other) = source.get(field) {
            errors.push(
                &other,
                Code::Forbidden,
                format!("must not be given: the source's type is `{type_name}`"),
            );
        }
    }
    let Some(of) = source.get(own_field) else {
        if type_name == "External" {
            return Ok(SourceForm::Outside(Vec::new()));
        }
        errors.required(
            source.path.field(own_field),
            format!("is missing: the source's type is `{type_name}`"),
        );
        return Err(Unreadable);
    };
    let mut named = |field: &Field<'_>, what: &str, problem: Option<&str>| {
        if let Some(problem) = problem {
            errors.invalid(field, format!("{} is no name of a {what}: it {problem}", shown(field.value)));
        }
    };
    match type_name {
        "ServiceAccount" => {
            let namespace = of.get("namespace");
            if let Some(namespace) = &namespace {
                named(namespace, "namespace", namespace.str().and_then(dns_label_problem));
            }
            let Some(name) = of.get("name") else {
                let message = "is missing: the name of the service account; `*` for all of the namespace";
                errors.required(of.path.field("name"), message);
                return Err(Unreadable);
            };
            let text = name.str().ok_or(Unreadable)?;
            named(&name, "service account", dns_subdomain_problem(text).filter(|_| text != "*"));
            let namespace = namespace.map_or(Some(own), |namespace| namespace.str()).ok_or(Unreadable)?;
            Ok(SourceForm::Account { namespace: namespace.to_owned(), name: text.to_owned() })
        }
        "Namespace" => {
            let text = of.str().ok_or(Unreadable)?;
            named(&of, "namespace", dns_label_problem(text));
            Ok(SourceForm::Account { namespace: text.to_owned(), name: "*".to_owned() })
        }
        "TrustDomain" => {
            let text = of.str().ok_or(Unreadable)?;
            named(&of, "trust domain", dns_subdomain_problem(text));
            let pattern = IdentityPattern::new(&format!("spiffe://{text}/**")).map_err(|_| Unreadable)?;
            Ok(SourceForm::Identity(pattern))
        }
        "SPIFFE" => match IdentityPattern::new(of.str().ok_or(Unreadable)?) {
            Ok(pattern) => Ok(SourceForm::Identity(pattern)),
            Err(problem) => {
                errors.invalid(&of, format!("{} {problem}", shown(of.value)));
                Err(Unreadable)
            }
        },
        _ => {
            let mut ranges = Vec::new();
            for range in of.read_items("cidrs")? {
                match range.str().ok_or(Unreadable)?.parse::<IpNet>() {
                    // Addresses are compared in their own family.
                    Ok(net) if net.addr().to_canonical() != net.addr() => {
                        let message = format!("{} is a range of IPv4: write it as such", shown(range.value));
                        errors.invalid(&range, message);
                    }
                    Ok(net) if net.trunc() != net => {
                        let message = format!(
                            "{} begins within its range, which is `{}`",
                            shown(range.value),
                            net.trunc()
                        );
                        errors.invalid(&range, message);
                    }
                    Ok(net) => ranges.push(net),
                    Err(_) => {
                        let message =
                            format!("{} is no range of addresses, e.g. `192.0.2.0/24`", shown(range.value));
                        errors.invalid(&range, message);
                    }
                }
            }
            if ranges.is_empty() {
                let message = "is missing: without `external` it is anywhere outside of the mesh";
                errors.required(of.path.field("cidrs"), message);
                return Err(Unreadable);
            }
            Ok(SourceForm::Outside(ranges))
        }
    }
}
