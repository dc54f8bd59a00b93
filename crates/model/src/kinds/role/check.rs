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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::KindId;
    use crate::validate::validate;

    #[test]
    fn a_rule_is_about_resources_or_about_paths_of_the_whole_mesh() {
        let good = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["services"] });
        let path = |path: &str| json!({ "verbs": ["get"], "nonResourceURLs": [path] });
        let both = json!({ "verbs": ["get"], "resources": ["services"], "nonResourceURLs": ["/metrics"] });
        for (rule, of_role, of_cluster_role) in [
            (good, None, None),
            (json!({ "verbs": [], "apiGroups": [""], "resources": ["x"] }), Some("verbs"), Some("verbs")),
            (json!({ "verbs": ["get"], "resources": ["x"] }), Some("apiGroups"), Some("apiGroups")),
            (json!({ "verbs": ["get"], "apiGroups": [""] }), Some("resources"), Some("resources")),
            (path("/metrics"), Some("nonResourceURLs"), None),
            (path("*"), Some("nonResourceURLs"), None),
            (path("metrics"), Some("nonResourceURLs"), Some("nonResourceURLs[0]")),
            (path("/*/x"), Some("nonResourceURLs"), Some("nonResourceURLs[0]")),
            (both, Some("nonResourceURLs"), Some("nonResourceURLs")),
        ] {
            for (kind, expected) in [(KindId::Role, of_role), (KindId::ClusterRole, of_cluster_role)] {
                let role = json!({ "metadata": { "name": "a:b" }, "rules": [rule] });
                let errors = validate(kind.kind(), &role);
                let found = errors.first().map(|error| error.path.to_string());
                assert_eq!(found, expected.map(|field| format!("rules[0].{field}")), "{kind:?} {rule}");
            }
        }
        let role = json!({ "metadata": { "name": "a" }, "aggregationRule": {} });
        assert_eq!(validate(KindId::ClusterRole.kind(), &role)[0].path.to_string(), "aggregationRule");
        for name in ["a/b", "a%b", "..", "a\nb"] {
            let role = json!({ "metadata": { "name": name }, "rules": [] });
            assert_eq!(
                validate(KindId::ClusterRole.kind(), &role)[0].path.to_string(),
                "metadata.name",
                "{name}"
            );
        }
    }
}
