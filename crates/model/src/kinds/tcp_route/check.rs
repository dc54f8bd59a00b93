//! What a TCPRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_only_rule, check_spec, read_route};
use crate::kinds::route::form::RouteForm;
use crate::validate::field::{Errors, Field, Read};
use crate::validate::metadata::namespace;

pub(crate) fn check(route: &Field<'_>, errors: &mut Errors) -> Read<RouteForm> {
    let needs = "a TCPRoute needs a `spec` with `parentRefs` and `rules`";
    let (spec, parents) = check_spec(route, needs, errors)?;
    let own = namespace(route).unwrap_or_default();
    let rules = check_only_rule("TCPRoute", &spec, own, errors);
    read_route(KindId::TcpRoute, route, parents?, rules?, false)
}
