//! What a TCPRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_only_rule, check_parents, read_route, refuse};
use crate::kinds::route::form::RouteForm;
use crate::validate::field::{Errors, Field, Read, Unreadable};
use crate::validate::metadata::namespace;

pub(crate) fn check(route: &Field<'_>, errors: &mut Errors) -> Read<RouteForm> {
    let Some(spec) = route.get("spec") else {
        errors.required(
            route.path.field("spec"),
            "is missing: a TCPRoute needs a `spec` with `parentRefs` and `rules`",
        );
        return Err(Unreadable);
    };
    let own = namespace(route);
    let parents = check_parents(route, &spec, errors);
    let _nothing_of_it_is_compiled = refuse(&spec, &["useDefaultGateways"], errors);
    let rules = check_only_rule("TCPRoute", &spec, own.unwrap_or_default(), errors);
    read_route(KindId::TcpRoute, route, parents?, rules?, false)
}
