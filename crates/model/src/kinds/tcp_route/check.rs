//! What a TCPRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use crate::kinds::id::KindId;
use crate::kinds::route::check::{check_backends, check_parents, check_rule_names, read_route, refuse};
use crate::kinds::route::form::{RouteForm, RuleForm};
use crate::snapshot::Timeouts;
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
    if spec.get("rules").is_none() {
        errors.required(spec.path.field("rules"), "is missing: a TCPRoute has exactly one rule");
    }
    check_rule_names(&spec, errors);
    let mut rules = Vec::new();
    for rule in spec.items("rules") {
        let backends = rule.get("backendRefs");
        if rule.value.is_object() && backends.is_none_or(|b| b.value.as_array().is_some_and(Vec::is_empty)) {
            let message = "is missing: a rule of a TCPRoute needs at least one backend";
            errors.required(rule.path.field("backendRefs"), message);
        }
        let backends = check_backends(&rule, own.unwrap_or_default(), errors);
        rules.push(backends.and_then(|backends| {
            let name = rule.read_str("name")?.map(Into::into);
            Ok(RuleForm {
                name,
                matches: Vec::new(),
                backends,
                filters: None,
                timeouts: Timeouts::default(),
                retry: None,
            })
        }));
    }
    let rules = rules.into_iter().collect::<Read<Vec<_>>>()?;
    if rules.len() != 1 {
        return Err(Unreadable);
    }
    read_route(KindId::TcpRoute, route, parents?, rules, false)
}
