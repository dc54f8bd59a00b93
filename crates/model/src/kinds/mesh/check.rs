//! What the Mesh must be.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::MESH;
use super::form::{MeshForm, StrictForm};
use crate::identity::LONGEST_TRUST_DOMAIN;
use crate::name::{dns_label_problem, dns_subdomain_problem};
use crate::path::Ambiguities;
use crate::snapshot::EgressPolicy;
use crate::validate::field::{Code, Errors, Field, Read, Unreadable, shown};

pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    (name != MESH).then_some("must be `default`: a mesh has one Mesh object, and that is its name")
}

pub(crate) fn check(mesh: &Field<'_>, errors: &mut Errors) -> Read<MeshForm> {
    let spec = mesh.get("spec");
    if let Some(domain) = spec.as_ref().and_then(|spec| spec.get("trustDomain")) {
        check_trust_domain(&domain, errors);
    }
    let name = mesh.get("metadata").map(|metadata| metadata.read_str("name"));
    if name.transpose()?.flatten() != Some(MESH) {
        return Err(Unreadable);
    }
    let Some(spec) = spec else { return Ok(MeshForm::default()) };
    let egress = spec.get("egress");
    let own_egress = egress.as_ref().map(egress_policy).transpose()?.flatten();
    let egress_namespaces = egress
        .map(|of| by_namespace(&of, errors, |entry| egress_policy(entry)?.ok_or(Unreadable)))
        .transpose()?
        .unwrap_or_default();
    check_capture(&spec, errors);
    let mtls = spec.get("mtls");
    let strict = mtls.as_ref().map(check_strictness).transpose()?.unwrap_or_default();
    let strict_namespaces =
        mtls.map(|mtls| by_namespace(&mtls, errors, check_strictness)).transpose()?.unwrap_or_default();
    let authorization = spec.get("authorization");
    let own_default = authorization.as_ref().map(denies).transpose()?.flatten();
    let allowed_paths = match &authorization {
        None => Ambiguities::default(),
        Some(of) => {
            let kinds: Vec<_> = of.read_items("allowAmbiguousPaths")?.collect();
            let names: Vec<_> = kinds.iter().map(|kind| kind.str().ok_or(Unreadable)).collect::<Read<_>>()?;
            Ambiguities::named(names)
        }
    };
    let denying_namespaces = authorization
        .map(|of| by_namespace(&of, errors, |entry| denies(entry)?.ok_or(Unreadable)))
        .transpose()?
        .unwrap_or_default();
    let is_enabled = |field: &'static str| {
        let enabled = spec.get(field).map(|switch| switch.read("enabled", Value::as_bool)).transpose()?;
        Ok(enabled.flatten())
    };
    Ok(MeshForm {
        trust_domain: spec.read_str("trustDomain")?.map(str::to_owned),
        egress: own_egress,
        egress_namespaces,
        access_log: is_enabled("accessLog")?,
        inbound_capture: is_enabled("inboundCapture")?,
        strict,
        strict_namespaces,
        denies: own_default,
        denying_namespaces,
        allowed_paths,
    })
}

/// What leaves the mesh, if it says so.
fn egress_policy(of: &Field<'_>) -> Read<Option<EgressPolicy>> {
    match of.read_str("policy")? {
        None => Ok(None),
        Some("Allow") => Ok(Some(EgressPolicy::Allow)),
        Some("Deny") => Ok(Some(EgressPolicy::Deny)),
        Some("Listed") => Ok(Some(EgressPolicy::Listed)),
        Some(_) => Err(Unreadable),
    }
}

/// `spec.mtls`, or what it says of a namespace.
fn check_strictness(of: &Field<'_>) -> Read<StrictForm> {
    let mut form = StrictForm { mode: mode(of)?, ports: BTreeMap::new() };
    for entry in of.read_items("ports")? {
        let port = entry.get("port").and_then(|port| port.value.as_u64()).ok_or(Unreadable)?;
        form.ports.insert(u16::try_from(port).map_err(|_| Unreadable)?, mode(&entry)?.ok_or(Unreadable)?);
    }
    Ok(form)
}

/// Whether it is strict, if it says so.
fn mode(of: &Field<'_>) -> Read<Option<bool>> {
    match of.read_str("mode")? {
        None => Ok(None),
        Some("Strict") => Ok(Some(true)),
        Some("Permissive") => Ok(Some(false)),
        Some(_) => Err(Unreadable),
    }
}

/// Whether it denies, if it says so.
fn denies(of: &Field<'_>) -> Read<Option<bool>> {
    match of.read_str("default")? {
        None => Ok(None),
        Some("Deny") => Ok(Some(true)),
        Some("Allow") => Ok(Some(false)),
        Some(_) => Err(Unreadable),
    }
}

/// What it says of each namespace.
fn by_namespace<T>(
    of: &Field<'_>,
    errors: &mut Errors,
    read: impl Fn(&Field<'_>) -> Read<T>,
) -> Read<BTreeMap<Arc<str>, T>> {
    let mut namespaces = BTreeMap::new();
    for entry in of.read_items("namespaces")? {
        let name = entry.get("name").ok_or(Unreadable)?;
        let text = name.str().ok_or(Unreadable)?;
        if let Some(problem) = dns_label_problem(text) {
            errors.invalid(&name, format!("{} is no name of a namespace: it {problem}", shown(name.value)));
        }
        namespaces.insert(Arc::from(text), read(&entry)?);
    }
    Ok(namespaces)
}

/// What is never seen cannot be refused.
fn check_capture(spec: &Field<'_>, errors: &mut Errors) {
    let enabled = spec.get("inboundCapture").and_then(|capture| capture.get("enabled"));
    let Some(off) = enabled.filter(|enabled| enabled.value == &Value::Bool(false)) else { return };
    let strict = |of: &Field<'_>| {
        of.get_str("mode") == Some("Strict")
            || of.items("ports").any(|port| port.get_str("mode") == Some("Strict"))
    };
    let Some(mtls) = spec.get("mtls") else { return };
    if strict(&mtls) || mtls.items("namespaces").any(|namespace| strict(&namespace)) {
        let message = "cannot be where `spec.mtls` is strict: what comes past the mesh would not be seen";
        errors.invalid(&off, message);
    }
}

fn check_trust_domain(domain: &Field<'_>, errors: &mut Errors) {
    let Some(text) = domain.str() else { return };
    // A DNS name: that is how TLS asks for identities.
    if let Some(problem) = dns_subdomain_problem(text) {
        let message = format!(
            "{} is no trust domain: it {problem} (a DNS name in lower case, e.g. `mesh.local`)",
            shown(domain.value)
        );
        errors.invalid(domain, message);
    } else if text.len() > LONGEST_TRUST_DOMAIN {
        let message = format!("has {} characters; at most {LONGEST_TRUST_DOMAIN} are allowed", text.len());
        errors.push(domain, Code::TooLong, message);
    }
}

pub(super) fn check_update(old: &Field<'_>, new: &Field<'_>, errors: &mut Errors) {
    let domain =
        |mesh: &Field<'_>| mesh.get("spec").and_then(|spec| Some(spec.get("trustDomain")?.str()?.to_owned()));
    let (Some(before), after) = (domain(old).filter(|d| !d.is_empty()), domain(new)) else { return };
    if after.as_deref() == Some(before.as_str()) {
        return;
    }
    let message = format!("cannot change: every identity of this mesh is in `{before}`");
    match new.get("spec").and_then(|spec| spec.get("trustDomain")) {
        Some(field) => errors.push(&field, Code::Forbidden, message),
        None => errors.required(new.path.field("spec").field("trustDomain"), message),
    }
}
