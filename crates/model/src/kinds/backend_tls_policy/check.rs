//! What a BackendTLSPolicy must be (Gateway API v1.6: the rules of the CRD), beyond its schema.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use serde_json::Value;

use super::form::{BackendTlsForm, RootsForm, RootsReference, TlsTarget};
use crate::host::folded;
use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_group_and_kind, check_object_name};
use crate::name::{NamespacedName, dns_subdomain_problem};
use crate::snapshot::CertificateName;
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::namespace;

pub(crate) fn check(policy: &Field<'_>, errors: &mut Errors) -> Read<BackendTlsForm> {
    let before = errors.0.len();
    let own = namespace(policy).unwrap_or("default");
    let name = policy.get("metadata").and_then(|metadata| metadata.get_str("name")).ok_or(Unreadable)?;
    let spec = policy.get("spec").ok_or(Unreadable)?;
    let targets: Vec<_> =
        spec.read_items("targetRefs")?.map(|target| check_target(&target, own, errors)).collect();
    check_distinct(&spec, errors);
    let validation = spec.get("validation").ok_or(Unreadable)?;
    let hostname = check_hostname(&validation, errors);
    let names: Vec<_> =
        validation.read_items("subjectAltNames")?.map(|name| check_name(&name, errors)).collect();
    let roots = check_roots(&validation, own, errors);
    // Half a policy would take whom the other half refuses.
    if errors.0.len() > before || targets.is_empty() {
        return Err(Unreadable);
    }
    let at = |pointer: &str| policy.value.pointer(pointer);
    Ok(BackendTlsForm {
        name: NamespacedName::new(own, name),
        generation: at("/metadata/generation").and_then(Value::as_i64),
        created: at("/metadata/creationTimestamp").and_then(Value::as_str).and_then(|at| at.parse().ok()),
        targets: targets.into_iter().collect::<Read<_>>()?,
        hostname: hostname?,
        names: names.into_iter().collect::<Read<_>>()?,
        roots: roots?,
    })
}

fn check_target(target: &Field<'_>, own: &str, errors: &mut Errors) -> Read<TlsTarget> {
    check_group_and_kind(target, errors);
    check_object_name(target, errors);
    let text = |name| target.read_str(name);
    let (group, kind) = (text("group")?.unwrap_or_default(), text("kind")?.ok_or(Unreadable)?);
    let (name, section) = (text("name")?.ok_or(Unreadable)?, text("sectionName")?);
    Ok(match (group, kind) {
        ("tulle.dev", "ExternalService") => {
            TlsTarget::External { service: NamespacedName::new(own, name), port: section.map(Arc::from) }
        }
        _ => TlsTarget::Other {
            kind: kind.to_owned(),
            name: name.to_owned(),
            section: section.map(str::to_owned),
            group: group.to_owned(),
        },
    })
}

/// One target twice is told apart by its sections.
fn check_distinct(spec: &Field<'_>, errors: &mut Errors) {
    let targets: Vec<_> = spec.items("targetRefs").collect();
    let of = |target: &Field<'_>, field: &str| target.get_str(field).unwrap_or_default().to_owned();
    for (index, target) in targets.iter().enumerate() {
        let same = |other: &&Field<'_>| {
            ["group", "kind", "name"].iter().all(|field| of(target, field) == of(other, field))
        };
        let section = of(target, "sectionName");
        for other in targets[..index].iter().filter(same) {
            let before = of(other, "sectionName");
            if before == section {
                errors.push(target, Code::Duplicate, "is about the same as one before");
            } else if before.is_empty() || section.is_empty() {
                let message = "is about what one before is about, too: give both a `sectionName`";
                errors.push(target, Code::Invalid, message);
            }
        }
    }
}

fn check_hostname(validation: &Field<'_>, errors: &mut Errors) -> Read<Arc<str>> {
    let hostname = validation.get("hostname").ok_or(Unreadable)?;
    let text = hostname.str().ok_or(Unreadable)?;
    let problem = match text.parse::<IpAddr>() {
        Ok(_) => Some("is an address: servers are asked for by their names".to_owned()),
        Err(_) => dns_subdomain_problem(text).map(|problem| format!("is no DNS name: it {problem}")),
    };
    match problem {
        None => Ok(Arc::from(folded(text))),
        Some(problem) => {
            errors.invalid(&hostname, format!("{} {problem}", shown(hostname.value)));
            Err(Unreadable)
        }
    }
}

fn check_name(name: &Field<'_>, errors: &mut Errors) -> Read<CertificateName> {
    let kind = name.read_str("type")?.ok_or(Unreadable)?;
    let (wanted, other) = match kind {
        "Hostname" => ("hostname", "uri"),
        "URI" => ("uri", "hostname"),
        _ => return Err(Unreadable),
    };
    if let Some(other) = name.get(other).filter(|other| other.str() != Some("")) {
        errors.push(&other, Code::Forbidden, format!("must not be given where the type is {kind}"));
    }
    let Some(value) = name.get(wanted).filter(|value| value.str() != Some("")) else {
        errors.required(name.path.field(wanted), format!("is missing: the type is {kind}"));
        return Err(Unreadable);
    };
    let text = value.str().ok_or(Unreadable)?;
    if wanted == "uri" {
        let is_absolute = text.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some());
        if !is_absolute {
            errors.invalid(&value, format!("{} is no URI with a scheme", shown(value.value)));
            return Err(Unreadable);
        }
        return Ok(CertificateName::Uri(text.into()));
    }
    match dns_subdomain_problem(text.strip_prefix("*.").unwrap_or(text)) {
        None => Ok(CertificateName::Host(Arc::from(folded(text)))),
        Some(problem) => {
            errors.invalid(&value, format!("{} is no DNS name: it {problem}", shown(value.value)));
            Err(Unreadable)
        }
    }
}

fn check_roots(validation: &Field<'_>, own: &str, errors: &mut Errors) -> Read<RootsForm> {
    let references: Vec<_> = validation
        .read_items("caCertificateRefs")?
        .map(|reference| check_reference(&reference, own, errors))
        .collect();
    let known = validation.get("wellKnownCACertificates").filter(|known| known.str() != Some(""));
    match (known, references.is_empty()) {
        (Some(known), false) => {
            let message = "must not be given beside `caCertificateRefs`";
            errors.push(&known, Code::Forbidden, message);
            Err(Unreadable)
        }
        (None, true) => {
            let message = "is missing: who may have signed the certificate, here or by `wellKnownCACertificates: System`";
            errors.required(validation.path.field("caCertificateRefs"), message);
            Err(Unreadable)
        }
        (None, false) => Ok(RootsForm::References(references.into_iter().collect::<Read<_>>()?)),
        (Some(known), true) => match known.str().ok_or(Unreadable)? {
            "System" => Ok(RootsForm::System),
            // As the definition has it: such names are of implementations.
            other if other.contains('/') => Ok(RootsForm::Unknown(other.into())),
            _ => {
                errors.push(&known, Code::NotSupported, "is not known: `System` is");
                Err(Unreadable)
            }
        },
    }
}

fn check_reference(reference: &Field<'_>, own: &str, errors: &mut Errors) -> Read<RootsReference> {
    check_group_and_kind(reference, errors);
    check_object_name(reference, errors);
    let text = |name| reference.read_str(name);
    let (group, kind) = (text("group")?.unwrap_or_default(), text("kind")?.ok_or(Unreadable)?);
    let name = NamespacedName::new(own, text("name")?.ok_or(Unreadable)?);
    Ok(match (group, kind) {
        ("", "ConfigMap") => RootsReference::Of(KindId::ConfigMap, name),
        ("", "Secret") => RootsReference::Of(KindId::Secret, name),
        ("", kind) => RootsReference::Unsupported(kind.to_owned()),
        (group, kind) => RootsReference::Unsupported(format!("{kind}.{group}")),
    })
}

/// What nothing comes of.
pub(super) fn warn(policy: &Field<'_>, warnings: &mut Errors) {
    let Some(spec) = policy.get("spec") else { return };
    for (_, option) in spec.entries("options") {
        warnings.push(&option, Code::NotSupported, "is not used: no option is known");
    }
    for target in spec.items("targetRefs") {
        let is_external = target.get_str("kind") == Some("ExternalService");
        if let Some(kind) = target.get("kind").filter(|_| !is_external) {
            let message = "is not used: within the mesh links are mutual TLS already; TLS is originated to ExternalServices";
            warnings.push(&kind, Code::NotSupported, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::{unknown_fields, validate};

    use super::*;

    fn policy(targets: Value, validation: Value) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
            "metadata": { "name": "p", "namespace": "shop" },
            "spec": { "targetRefs": targets, "validation": validation },
        })
    }

    fn found(object: &Value) -> Vec<String> {
        assert_eq!(unknown_fields(KindId::BackendTlsPolicy.kind(), object), []);
        let errors = validate(KindId::BackendTlsPolicy.kind(), object);
        errors.iter().map(|error| error.path.to_string()).collect()
    }

    #[test]
    fn targets_are_distinct() {
        let validation = json!({ "hostname": "api.example.com", "wellKnownCACertificates": "System" });
        let target = |name: &str, section: &str| {
            let mut target = json!({ "group": "tulle.dev", "kind": "ExternalService", "name": name });
            if !section.is_empty() {
                target["sectionName"] = json!(section);
            }
            target
        };
        for (targets, expected) in [
            (json!([target("a", "")]), vec![]),
            (json!([target("a", ""), target("b", "")]), vec![]),
            (json!([target("a", "x"), target("a", "y")]), vec![]),
            (json!([target("a", "x"), target("a", "x")]), vec!["spec.targetRefs[1]"]),
            (json!([target("a", ""), target("a", "x")]), vec!["spec.targetRefs[1]"]),
            (json!([]), vec!["spec.targetRefs"]),
            (json!([{ "group": "", "kind": "Service", "name": "a" }]), vec![]),
        ] {
            assert_eq!(found(&policy(targets.clone(), validation.clone())), expected, "{targets}");
        }
    }

    #[test]
    fn whom_it_trusts_is_said_in_one_way() {
        let target = json!([{ "group": "tulle.dev", "kind": "ExternalService", "name": "a" }]);
        let host = "api.example.com";
        let map = json!([{ "group": "", "kind": "ConfigMap", "name": "ca" }]);
        let san = |san: Value| json!({ "hostname": host, "wellKnownCACertificates": "System", "subjectAltNames": [san] });
        let at_san = "spec.validation.subjectAltNames[0]";
        for (validation, expected) in [
            (json!({ "hostname": host, "caCertificateRefs": map }), String::new()),
            (json!({ "hostname": host, "wellKnownCACertificates": "example.com/own" }), String::new()),
            (
                json!({ "hostname": host, "wellKnownCACertificates": "Own" }),
                "spec.validation.wellKnownCACertificates".into(),
            ),
            (
                json!({ "hostname": host, "caCertificateRefs": map, "wellKnownCACertificates": "System" }),
                "spec.validation.wellKnownCACertificates".into(),
            ),
            (json!({ "hostname": host }), "spec.validation.caCertificateRefs".into()),
            (json!({ "caCertificateRefs": map }), "spec.validation.hostname".into()),
            (json!({ "hostname": "192.0.2.1", "caCertificateRefs": map }), "spec.validation.hostname".into()),
            (
                json!({ "hostname": "*.example.com", "caCertificateRefs": map }),
                "spec.validation.hostname".into(),
            ),
            (san(json!({ "type": "Hostname", "hostname": "*.example.com" })), String::new()),
            (san(json!({ "type": "URI", "uri": "spiffe://mesh.test/ns/a/sa/b" })), String::new()),
            (san(json!({ "type": "URI", "uri": "nothing" })), format!("{at_san}.uri")),
            (san(json!({ "type": "URI", "hostname": host })), format!("{at_san}.hostname")),
            (san(json!({ "type": "Hostname" })), format!("{at_san}.hostname")),
            (san(json!({ "type": "IP", "hostname": host })), format!("{at_san}.type")),
        ] {
            let first = found(&policy(target.clone(), validation.clone())).into_iter().next();
            assert_eq!(first.unwrap_or_default(), expected, "{validation}");
        }
    }
}
