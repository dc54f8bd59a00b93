//! What a Role must be (the rules of Kubernetes' own validation).

use crate::validate::field::{Code, Errors, Field};

pub(super) fn check_role(role: &Field<'_>, errors: &mut Errors) {
    check_rules(role, false, errors);
}

pub(super) fn check_cluster_role(role: &Field<'_>, errors: &mut Errors) {
    if let Some(aggregation) = role.get("aggregationRule") {
        let message = "is not supported: write the rules themselves";
        errors.push(&aggregation, Code::NotSupported, message);
    }
    check_rules(role, true, errors);
}

fn check_rules(role: &Field<'_>, paths_allowed: bool, errors: &mut Errors) {
    for rule in role.items("rules") {
        let has = |name: &'static str| rule.items(name).next().is_some();
        if !has("verbs") {
            errors.required(rule.path.field("verbs"), "verbs must contain at least one value");
        }
        if let Some(paths) = rule.get("nonResourceURLs").filter(|_| has("nonResourceURLs")) {
            if !paths_allowed {
                let message = "a Role is about one namespace, which paths are not in: write a ClusterRole";
                errors.invalid(&paths, message);
            }
            if ["apiGroups", "resources", "resourceNames"].into_iter().any(has) {
                errors.invalid(&paths, "a rule is about resources or about paths, not both: write two rules");
            }
            for path in rule.items("nonResourceURLs") {
                let good = path.str().is_none_or(|text| {
                    text == "*" || (text.starts_with('/') && !text[..text.len() - 1].contains('*'))
                });
                if !good {
                    errors.invalid(&path, "must be `*`, or begin with `/` and have a `*` at its end at most");
                }
            }
            continue;
        }
        for name in ["apiGroups", "resources"] {
            if !has(name) {
                let message = "must have at least one value, as the rule names no paths (`nonResourceURLs`)";
                errors.required(rule.path.field(name), message);
            }
        }
    }
}
