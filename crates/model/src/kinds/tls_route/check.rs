//! What a TLSRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use std::sync::Arc;

use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_only_rule, check_spec, read_route};
use crate::kinds::route::form::RouteForm;
use crate::validate::field::{Errors, Field, Read, Unreadable, shown};
use crate::validate::metadata::namespace;
use crate::validate::syntax::hostname_problem;

/// The longest name that DNS has.
const LONGEST_HOSTNAME: usize = 253;

pub(crate) fn check(route: &Field<'_>, errors: &mut Errors) -> Read<RouteForm> {
    let needs = "a TLSRoute needs a `spec` with `parentRefs`, `hostnames` and `rules`";
    let (spec, parents) = check_spec(route, needs, errors)?;
    let own = namespace(route).unwrap_or_default();
    let hostnames = check_hostnames(&spec, errors);
    let rules = check_only_rule("TLSRoute", &spec, own, errors);
    let route = read_route(KindId::TlsRoute, route, parents?, rules?, false)?;
    Ok(RouteForm { server_names: hostnames?, ..route })
}

/// Unlike those of other routes they decide, so that there has to be one.
fn check_hostnames(spec: &Field<'_>, errors: &mut Errors) -> Read<Vec<Arc<str>>> {
    if spec.get("hostnames").is_none() {
        let message = "is missing: a TLSRoute needs the names of the servers that it is for, as clients give \
                       them (SNI), e.g. `db.example.com` or `*.example.com`";
        errors.required(spec.path.field("hostnames"), message);
        return Err(Unreadable);
    }
    for hostname in spec.items("hostnames") {
        let Some(text) = hostname.str() else { continue };
        if let Some(problem) = hostname_problem(text) {
            errors.invalid(&hostname, format!("{} is no host name: it {problem}", shown(hostname.value)));
        } else if text.len() > LONGEST_HOSTNAME {
            let message = format!("is no host name: it has {} characters, of {LONGEST_HOSTNAME}", text.len());
            errors.invalid(&hostname, message);
        }
    }
    let read = |hostname: Field<'_>| match hostname.str() {
        Some(text) if hostname_problem(text).is_none() => Ok(text.into()),
        _ => Err(Unreadable),
    };
    let names: Vec<Arc<str>> = spec.read_items("hostnames")?.map(read).collect::<Read<_>>()?;
    if names.is_empty() { Err(Unreadable) } else { Ok(names) }
}
