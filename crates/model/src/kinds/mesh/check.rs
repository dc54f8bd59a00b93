//! What the Mesh must be.

use super::MESH;
use crate::identity::LONGEST_TRUST_DOMAIN;
use crate::name::dns_subdomain_problem;
use crate::validate::field::{Code, Errors, Field, shown};

pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    (name != MESH).then_some("must be `default`: a mesh has one Mesh object, and that is its name")
}

pub(super) fn check(mesh: &Field<'_>, errors: &mut Errors) {
    let Some(domain) = mesh.get("spec").and_then(|spec| spec.get("trustDomain")) else { return };
    let Some(text) = domain.str() else { return };
    // A DNS name: that is how TLS asks for identities.
    if let Some(problem) = dns_subdomain_problem(text) {
        let message = format!(
            "{} is no trust domain: it {problem} (a DNS name in lower case, e.g. `mesh.local`)",
            shown(domain.value)
        );
        errors.invalid(&domain, message);
    } else if text.len() > LONGEST_TRUST_DOMAIN {
        let message = format!("has {} characters; at most {LONGEST_TRUST_DOMAIN} are allowed", text.len());
        errors.push(&domain, Code::TooLong, message);
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
