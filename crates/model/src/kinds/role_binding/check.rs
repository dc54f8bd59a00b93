//! What a binding of a role must be (the rules of Kubernetes' own validation), and what it is given.

use serde_json::Value;

use crate::kinds::kind::RBAC;
use crate::name::{dns_label_problem, dns_subdomain_problem};
use crate::validate::field::{Code, Errors, Field, shown};

pub(super) fn check_role_binding(binding: &Field<'_>, errors: &mut Errors) {
    check(binding, errors);
}

pub(super) fn check_cluster_role_binding(binding: &Field<'_>, errors: &mut Errors) {
    check(binding, errors);
    if let Some(kind) = binding.get("roleRef").and_then(|role| role.get("kind"))
        && kind.str() == Some("Role")
    {
        let message = "a ClusterRoleBinding gives a ClusterRole: a Role is of one namespace";
        errors.push(&kind, Code::NotSupported, message);
    }
}

fn check(binding: &Field<'_>, errors: &mut Errors) {
    let expect_group = |of: &Field<'_>, expected: &str, errors: &mut Errors| {
        if let Some(group) = of.get("apiGroup")
            && group.str().is_some_and(|found| found != expected && !found.is_empty())
        {
            errors.push(&group, Code::NotSupported, format!("must be `{expected}`"));
        }
    };
    if let Some(role) = binding.get("roleRef") {
        expect_group(&role, RBAC.0, errors);
    }
    for subject in binding.items("subjects") {
        let is_account = subject.get_str("kind") == Some("ServiceAccount");
        if !is_account {
            expect_group(&subject, RBAC.0, errors);
            continue;
        }
        if let Some(group) = subject.get("apiGroup").filter(|group| group.str() != Some("")) {
            errors.push(&group, Code::NotSupported, "must be empty for a service account");
        }
        if let Some(name) = subject.get("name")
            && let Some(problem) = name.str().and_then(dns_subdomain_problem)
        {
            errors.invalid(&name, format!("{} is no service account: it {problem}", shown(name.value)));
        }
        match subject.get("namespace").filter(|namespace| namespace.str() != Some("")) {
            Some(namespace) => {
                if let Some(problem) = namespace.str().and_then(dns_label_problem) {
                    let message = format!("{} is no namespace: it {problem}", shown(namespace.value));
                    errors.invalid(&namespace, message);
                }
            }
            None => errors.required(subject.path.field("namespace"), "a service account is of a namespace"),
        }
    }
}

/// A binding that changed its role would give those who may only choose its subjects a say in the role.
pub(super) fn check_update(old: &Field<'_>, new: &Field<'_>, errors: &mut Errors) {
    let reference = |of: &Field<'_>| {
        let role = of.get("roleRef")?;
        let text = |name| role.get_str(name).unwrap_or_default();
        Some((text("kind").to_owned(), text("name").to_owned()))
    };
    if reference(old) != reference(new)
        && let Some(role) = new.get("roleRef")
    {
        errors.invalid(&role, "cannot change roleRef: delete the binding, and make another");
    }
}

pub(super) fn fill_defaults(binding: &mut Value) {
    let fill = |of: &mut Value, group: &str| {
        if let Some(fields) = of.as_object_mut()
            && fields.get("apiGroup").is_none_or(|given| given.is_null() || given == "")
        {
            match group {
                "" => drop(fields.remove("apiGroup")),
                group => drop(fields.insert("apiGroup".to_owned(), group.into())),
            }
        }
    };
    if let Some(role) = binding.get_mut("roleRef") {
        fill(role, RBAC.0);
    }
    for subject in binding.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        let group = if subject["kind"] == "ServiceAccount" { "" } else { RBAC.0 };
        fill(subject, group);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::KindId;
    use crate::validate::{default_object, validate, validate_update};

    use super::*;

    fn binding(kind: KindId, role: &str, subject: &Value) -> Value {
        let kind = kind.kind();
        json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": "b" },
            "roleRef": { "kind": role, "name": "r" }, "subjects": [subject],
        })
    }

    #[test]
    fn a_binding_names_subjects_and_a_role_that_it_can_give() {
        let user = json!({ "kind": "User", "name": "ann" });
        for (kind, role, subject, expected) in [
            (KindId::RoleBinding, "Role", user.clone(), None),
            (KindId::RoleBinding, "ClusterRole", user.clone(), None),
            (KindId::ClusterRoleBinding, "ClusterRole", user.clone(), None),
            (KindId::ClusterRoleBinding, "Role", user, Some("roleRef.kind")),
            (KindId::RoleBinding, "Role", json!({ "kind": "Person", "name": "a" }), Some("subjects[0].kind")),
            (KindId::RoleBinding, "Role", json!({ "kind": "User", "name": "" }), Some("subjects[0].name")),
            (KindId::RoleBinding, "Role", json!({ "kind": "User" }), Some("subjects[0].name")),
            (
                KindId::RoleBinding,
                "Role",
                json!({ "kind": "User", "name": "a", "apiGroup": "x" }),
                Some("subjects[0].apiGroup"),
            ),
            (
                KindId::RoleBinding,
                "Role",
                json!({ "kind": "ServiceAccount", "name": "a" }),
                Some("subjects[0].namespace"),
            ),
            (
                KindId::RoleBinding,
                "Role",
                json!({ "kind": "ServiceAccount", "name": "a", "namespace": "b/c" }),
                Some("subjects[0].namespace"),
            ),
        ] {
            let errors = validate(kind.kind(), &binding(kind, role, &subject));
            let found = errors.first().map(|error| error.path.to_string());
            assert_eq!(found.as_deref(), expected, "{kind:?} {role} {subject}");
        }
    }

    #[test]
    fn groups_are_filled_in_and_the_role_stays() {
        let kind = KindId::RoleBinding;
        let mut made = binding(kind, "Role", &json!({ "kind": "User", "name": "ann" }));
        default_object(kind.kind(), &mut made);
        assert_eq!(
            (&made["roleRef"]["apiGroup"], &made["subjects"][0]["apiGroup"]),
            (&json!(RBAC.0), &json!(RBAC.0))
        );
        let mut other = made.clone();
        other["subjects"] = json!([]);
        assert_eq!(validate_update(kind.kind(), &made, &other), []);
        other["roleRef"]["name"] = json!("other");
        assert_eq!(validate_update(kind.kind(), &made, &other)[0].path.to_string(), "roleRef");
    }
}
