//! What the Mesh must be.

use serde_json::Value;

use super::MESH;
use super::form::MeshForm;
use crate::identity::LONGEST_TRUST_DOMAIN;
use crate::name::dns_subdomain_problem;
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
    let egress = spec.get("egress").map(|egress| egress.read_str("policy")).transpose()?;
    let is_enabled = |field: &'static str| {
        let enabled = spec.get(field).map(|switch| switch.read("enabled", Value::as_bool)).transpose()?;
        Ok(enabled.flatten())
    };
    Ok(MeshForm {
        trust_domain: spec.read_str("trustDomain")?.map(str::to_owned),
        egress: match egress.flatten() {
            None => None,
            Some("Allow") => Some(EgressPolicy::Allow),
            Some("Deny") => Some(EgressPolicy::Deny),
            Some(_) => return Err(Unreadable),
        },
        access_log: is_enabled("accessLog")?,
        inbound_capture: is_enabled("inboundCapture")?,
    })
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
