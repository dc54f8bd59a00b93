//! What a TCPRoute must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use crate::kinds::route::check::{check_backends, check_parents, check_rule_names, refuse};
use crate::validate::field::{Errors, Field};

pub(super) fn check(route: &Field<'_>, errors: &mut Errors) {
    let Some(spec) = route.get("spec") else {
        errors.required(
            route.path.field("spec"),
            "is missing: a TCPRoute needs a `spec` with `parentRefs` and `rules`",
        );
        return;
    };
    check_parents(&spec, errors);
    refuse(&spec, &["useDefaultGateways"], errors);
    if spec.get("rules").is_none() {
        errors.required(spec.path.field("rules"), "is missing: a TCPRoute has exactly one rule");
    }
    check_rule_names(&spec, errors);
    for rule in spec.items("rules") {
        let backends = rule.get("backendRefs");
        if rule.value.is_object() && backends.is_none_or(|b| b.value.as_array().is_some_and(Vec::is_empty)) {
            let message = "is missing: a rule of a TCPRoute needs at least one backend";
            errors.required(rule.path.field("backendRefs"), message);
        }
        check_backends(&rule, errors);
    }
}
