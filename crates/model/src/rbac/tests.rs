use serde_json::json;

use super::*;

fn set(rbac: &mut Rbac, kind: KindId, namespace: &str, name: &str, object: Value) {
    rbac.set(kind.kind(), namespace, name, Some(&object));
}

fn role(rules: Value) -> Value {
    json!({ "rules": rules })
}

fn binding(role: (&str, &str), subjects: Value) -> Value {
    json!({ "roleRef": { "kind": role.0, "name": role.1 }, "subjects": subjects })
}

fn asker<'a>(name: &'a str, groups: &'a [String]) -> Asker<'a> {
    Asker { name, groups }
}

fn may(rbac: &Rbac, who: &str, what: &str) -> bool {
    let (user, groups) = who.split_once('@').unwrap_or((who, ""));
    let groups: Vec<_> = groups.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect();
    let (verb, rest) = what.split_once(' ').unwrap();
    if rest.starts_with('/') {
        return rbac.decide(asker(user, &groups), &ApiAction::Path { verb, path: rest }).is_some();
    }
    // `group:namespace/resource.subresource/name`
    let (group, rest) = rest.split_once(':').unwrap();
    let mut parts = rest.split('/');
    let namespace = parts.next().unwrap();
    let (resource, subresource) = parts.next().map(|r| r.split_once('.').unwrap_or((r, ""))).unwrap();
    let name = parts.next().unwrap_or_default();
    let action = ResourceAction { verb, group, resource, subresource, namespace, name };
    rbac.decide(asker(user, &groups), &ApiAction::Resource(action)).is_some()
}

#[test]
fn rules_say_what_may_be_done() {
    let rule = |json: Value| serde_json::from_value::<PolicyRule>(json).unwrap();
    let resource = |verb, group, resource, subresource, name| {
        ApiAction::Resource(ResourceAction { verb, group, resource, subresource, namespace: "shop", name })
    };
    let path = |verb, path| ApiAction::Path { verb, path };
    let services = json!({ "apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"] });
    let named =
        json!({ "apiGroups": [""], "resources": ["services"], "resourceNames": ["c"], "verbs": ["*"] });
    let statuses = json!({ "apiGroups": ["*"], "resources": ["*/status"], "verbs": ["update"] });
    let status = json!({ "apiGroups": [""], "resources": ["services/status"], "verbs": ["update"] });
    let all = json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] });
    let paths = json!({ "nonResourceURLs": ["/metrics", "/tulle/*"], "verbs": ["get"] });
    for (of, action, expected) in [
        (&services, resource("get", "", "services", "", "c"), true),
        (&services, resource("list", "", "services", "", ""), true),
        (&services, resource("watch", "", "services", "", ""), false),
        (&services, resource("get", "x", "services", "", "c"), false),
        (&services, resource("get", "", "secrets", "", "c"), false),
        (&services, resource("get", "", "services", "status", "c"), false),
        (&named, resource("delete", "", "services", "", "c"), true),
        (&named, resource("delete", "", "services", "", "d"), false),
        (&named, resource("create", "", "services", "", ""), false),
        (&named, resource("list", "", "services", "", ""), false),
        (&statuses, resource("update", "tulle.dev", "nodes", "status", "n"), true),
        (&statuses, resource("update", "tulle.dev", "nodes", "", "n"), false),
        (&status, resource("update", "", "services", "status", "c"), true),
        (&status, resource("update", "", "services", "", "c"), false),
        (&all, resource("escalate", "rbac.authorization.k8s.io", "roles", "", "r"), true),
        (&all, resource("update", "", "services", "status", "c"), true),
        (&all, path("get", "/metrics"), false),
        (&paths, path("get", "/metrics"), true),
        (&paths, path("get", "/metrics/"), false),
        (&paths, path("get", "/tulle/v1alpha1/edges"), true),
        (&paths, path("get", "/tulle"), false),
        (&paths, path("post", "/tulle/v1alpha1/edges"), false),
        (&paths, resource("get", "", "services", "", ""), false),
    ] {
        assert_eq!(allows(&rule(of.clone()), &action), expected, "{of} {action:?}");
    }
}

#[test]
fn bindings_give_roles_to_users_groups_and_service_accounts_where_they_are() {
    let mut rbac = Rbac::default();
    let read = json!([{ "apiGroups": [""], "resources": ["services"], "verbs": ["get"] }]);
    set(&mut rbac, KindId::ClusterRole, "", "reader", role(read.clone()));
    set(&mut rbac, KindId::Role, "shop", "reader", role(read));
    set(&mut rbac, KindId::Role, "bank", "odd", json!({ "rules": 7 }));
    let subjects = json!([
        { "kind": "User", "name": "ann" },
        { "kind": "Group", "name": "ops" },
        { "kind": "ServiceAccount", "namespace": "ci", "name": "bot" },
    ]);
    set(&mut rbac, KindId::RoleBinding, "shop", "b", binding(("ClusterRole", "reader"), subjects.clone()));
    set(&mut rbac, KindId::RoleBinding, "bank", "b", binding(("Role", "reader"), subjects.clone()));
    for (who, shop) in [
        ("ann", true),
        ("bob", false),
        ("bob@dev,ops", true),
        ("ops", false),
        ("system:serviceaccount:ci:bot", true),
        ("bot", false),
    ] {
        assert_eq!(may(&rbac, who, "get :shop/services/c"), shop, "{who}");
        assert!(!may(&rbac, who, "get :/services"), "{who}: not in all namespaces");
        assert!(!may(&rbac, who, "get :bank/services/c"), "{who}: the role is of another namespace");
    }
    set(&mut rbac, KindId::ClusterRoleBinding, "", "b", binding(("ClusterRole", "reader"), subjects));
    assert!(may(&rbac, "ann", "get :bank/services/c") && may(&rbac, "ann", "get :/services"));
    assert!(may(&rbac, "root@system:masters", "escalate x:y/z"));
    assert!(!may(&rbac, "system:masters", "get :shop/services"));
    // What goes takes what it gave along.
    let bob = json!([{ "kind": "User", "name": "bob" }]);
    set(&mut rbac, KindId::ClusterRoleBinding, "", "b", binding(("ClusterRole", "reader"), bob));
    assert!(!may(&rbac, "ann", "get :bank/services/c") && may(&rbac, "bob", "get :bank/services/c"));
    rbac.set(KindId::ClusterRole.kind(), "", "reader", None);
    assert!(!may(&rbac, "ann", "get :shop/services/c") && !may(&rbac, "bob", "get :bank/services/c"));
    rbac.set(KindId::ClusterRoleBinding.kind(), "", "b", None);
    rbac.set(KindId::RoleBinding.kind(), "shop", "b", None);
    rbac.set(KindId::RoleBinding.kind(), "bank", "b", None);
    assert!(rbac.bindings.is_empty() && rbac.subjects.is_empty());
}

#[test]
fn who_decided_is_named() {
    let mut rbac = Rbac::default();
    let all = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    set(&mut rbac, KindId::Role, "shop", "owner", role(all));
    let ann = json!([{ "kind": "User", "name": "ann" }]);
    set(&mut rbac, KindId::RoleBinding, "shop", "owners", binding(("Role", "owner"), ann));
    let action =
        ResourceAction { verb: "get", resource: "services", namespace: "shop", ..Default::default() };
    let permit = rbac.decide(asker("ann", &[]), &ApiAction::Resource(action)).unwrap();
    assert_eq!(permit.to_string(), "RoleBinding/shop/owners of Role/shop/owner");
}

#[test]
fn nobody_has_more_than_the_sum_of_his_rules() {
    let rules = |json: Value| serde_json::from_value::<Vec<PolicyRule>>(json).unwrap();
    let all = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    let two = json!([
        { "apiGroups": [""], "resources": ["services"], "verbs": ["get"] },
        { "apiGroups": [""], "resources": ["services"], "verbs": ["list"] },
    ]);
    let both = json!([{ "apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"] }]);
    let any_verb = json!([{ "apiGroups": [""], "resources": ["services"], "verbs": ["*"] }]);
    let named =
        json!([{ "apiGroups": [""], "resources": ["services"], "resourceNames": ["c"], "verbs": ["get"] }]);
    let named_two = json!([{ "apiGroups": [""], "resources": ["services"], "resourceNames": ["c", "d"], "verbs": ["get"] }]);
    let statuses = json!([{ "apiGroups": [""], "resources": ["*/status"], "verbs": ["get"] }]);
    let status = json!([{ "apiGroups": [""], "resources": ["services/status"], "verbs": ["get"] }]);
    let path = json!([{ "nonResourceURLs": ["/tulle/*"], "verbs": ["get"] }]);
    let subpath = json!([{ "nonResourceURLs": ["/tulle/x", "/tulle/y/*"], "verbs": ["get"] }]);
    let any_path = json!([{ "nonResourceURLs": ["*"], "verbs": ["*"] }]);
    for (had, wanted, expected) in [
        (&all, &both, true),
        (&two, &both, true),
        (&both, &two, true),
        (&both, &any_verb, false),
        (&any_verb, &both, true),
        (&both, &all, false),
        (&both, &named, true),
        (&named, &both, false),
        (&named_two, &named, true),
        (&named, &named_two, false),
        (&statuses, &status, true),
        (&status, &statuses, false),
        (&both, &status, false),
        (&path, &subpath, true),
        (&subpath, &path, false),
        (&any_path, &path, true),
        (&path, &any_path, false),
        (&all, &path, false),
        (&json!([]), &json!([]), true),
        (&json!([]), &both, false),
    ] {
        let (had, wanted) = (rules(had.clone()), rules(wanted.clone()));
        let had: Vec<_> = had.iter().collect();
        assert_eq!(covers(&had, &wanted).is_ok(), expected, "{had:?} {wanted:?}");
    }
    // A rule that is worth billions of comparisons is not compared for hours.
    let long = |name: &str| (0..256).map(|n| format!("{name}{n}")).collect::<Vec<_>>();
    let huge =
        PolicyRule { verbs: long("v"), api_groups: long("g"), resources: long("r"), ..Default::default() };
    let had = rules(both);
    assert_eq!(covers(&had.iter().collect::<Vec<_>>(), &[huge]), Err(NotCovered::TooMuch));
}

/// A short request has a short answer, and little work.
#[test]
fn long_lists_of_names_are_neither_compared_nor_told_without_end() {
    let long = |name: &str, count: usize| (0..count).map(|n| format!("{name}{n}")).collect::<Vec<_>>();
    let wanted = PolicyRule {
        verbs: long("v", 64),
        api_groups: vec![String::new()],
        resources: long("r", 200),
        resource_names: long("n", 1000),
        ..Default::default()
    };
    let Err(NotCovered::Lacking { shown, more }) = covers(&[], std::slice::from_ref(&wanted)) else {
        panic!()
    };
    assert_eq!((shown.len(), more), (SHOWN, 64 * 200 - SHOWN));
    assert!(shown.iter().all(|rule| rule.resource_names.len() == SHOWN + 1), "{shown:?}");
    // Rules of another verb or group cost next to nothing, however many names they have.
    let others = vec![PolicyRule { verbs: vec!["w".to_owned()], ..wanted.clone() }; 100];
    let lacking = covers(&others.iter().collect::<Vec<_>>(), std::slice::from_ref(&wanted));
    assert!(matches!(lacking, Err(NotCovered::TooMuch | NotCovered::Lacking { .. })));
    // What has to be compared is paid for by its length.
    assert_eq!(covers(&[&wanted], std::slice::from_ref(&wanted)), Err(NotCovered::TooMuch));
    let small = PolicyRule { verbs: long("v", 2), resources: long("r", 2), ..wanted.clone() };
    assert_eq!(covers(&[&wanted], std::slice::from_ref(&small)), Ok(()));
}

/// What a binding gives is what its role has, and what a default one will have.
#[test]
fn a_default_role_gives_what_it_will_have() {
    let mut rbac = Rbac::default();
    let given = |rbac: &Rbac| rbac.given(&ScopedName::new("", "cluster-admin")).map(<[_]>::len);
    for (kind, annotations, expected) in [
        (KindId::ClusterRole, json!({}), Some(2)),
        (KindId::ClusterRole, json!({ defaults::AUTOUPDATE: "true" }), Some(2)),
        (KindId::ClusterRole, json!({ defaults::AUTOUPDATE: "false" }), Some(0)),
    ] {
        let emptied = json!({ "metadata": { "annotations": annotations }, "rules": [] });
        set(&mut rbac, kind, "", "cluster-admin", emptied);
        assert_eq!(given(&rbac), expected, "{annotations}");
    }
    rbac.set(KindId::ClusterRole.kind(), "", "cluster-admin", None);
    assert_eq!((given(&rbac), rbac.restored.len()), (None, 0));
}

#[test]
fn the_default_roles_keep_secrets_and_grow_from_view_to_admin() {
    let mut rbac = Rbac::default();
    let objects = defaults::objects();
    for (kind, object) in &objects {
        rbac.set(kind.kind(), "", object["metadata"]["name"].as_str().unwrap(), Some(object));
        let mut valid = object.clone();
        valid["apiVersion"] = kind.kind().api_version().into();
        valid["kind"] = kind.kind().kind.into();
        assert_eq!(crate::validate::validate(kind.kind(), &valid), []);
    }
    for role in ["view", "edit", "admin"] {
        let to = json!([{ "kind": "User", "name": role }]);
        set(&mut rbac, KindId::RoleBinding, "shop", role, binding(("ClusterRole", role), to));
    }
    for (what, who) in [
        ("get :shop/services/c", 3),
        ("watch gateway.networking.k8s.io:shop/httproutes", 3),
        ("list tulle.dev:shop/authorizationpolicies", 3),
        ("get :shop/secrets/s", 1),
        ("list :shop/secrets", 1),
        ("create :shop/services", 2),
        ("list discovery.k8s.io:shop/endpointslices", 3),
        ("update discovery.k8s.io:shop/endpointslices/c", 0),
        ("update gateway.networking.k8s.io:shop/httproutes/r", 2),
        ("update gateway.networking.k8s.io:shop/httproutes.status/r", 2),
        ("update tulle.dev:shop/meshes/default", 0),
        ("create rbac.authorization.k8s.io:shop/rolebindings", 1),
        ("get rbac.authorization.k8s.io:shop/roles/r", 1),
        ("escalate rbac.authorization.k8s.io:shop/roles/r", 0),
        ("create rbac.authorization.k8s.io:shop/clusterroles", 0),
        ("get :bank/services/c", 0),
        ("delete :shop/namespaces/shop", 0),
        ("get /tulle/v1alpha1/edges", 0),
    ] {
        let allowed: Vec<_> =
            ["admin", "edit", "view"].into_iter().filter(|user| may(&rbac, user, what)).collect();
        assert_eq!(allowed, ["admin", "edit", "view"][..who], "{what}");
    }
    for (small, large) in [("view", "edit"), ("edit", "admin"), ("admin", "cluster-admin")] {
        let rules = |role| rbac.role(&ScopedName::new("", role)).unwrap();
        assert_eq!(covers(&rules(large).iter().collect::<Vec<_>>(), rules(small)), Ok(()), "{small} {large}");
        assert!(covers(&rules(small).iter().collect::<Vec<_>>(), rules(large)).is_err());
    }
    assert!(may(&rbac, "x@system:authenticated", "get /openapi/v3") && !may(&rbac, "x", "get /openapi/v3"));
}

#[test]
fn default_objects_are_completed_and_what_was_added_stays() {
    for (_, wanted) in defaults::objects() {
        assert_eq!(defaults::completed(&wanted, &wanted), None);
        let field = if wanted.get("rules").is_some() { "rules" } else { "subjects" };
        let mut other = wanted.clone();
        let first = other[field].as_array_mut().unwrap().remove(0);
        let added = match field {
            "rules" => json!({ "apiGroups": ["x"], "resources": ["y"], "verbs": ["z"] }),
            _ => json!({ "kind": "User", "name": "ann" }),
        };
        other[field].as_array_mut().unwrap().push(added.clone());
        let completed = defaults::completed(&other, &wanted).unwrap();
        let items = completed[field].as_array().unwrap();
        assert!(items.contains(&first) && items.contains(&added), "{completed}");
        other["metadata"]["annotations"][defaults::AUTOUPDATE] = json!("false");
        assert_eq!(defaults::completed(&other, &wanted), None);
    }
}

/// However many bindings there are, a request looks at those of its user.
#[test]
fn ten_thousand_bindings_of_others_cost_nothing() {
    let mut rbac = Rbac::default();
    let all = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    set(&mut rbac, KindId::ClusterRole, "", "all", role(all));
    for n in 0..10_000 {
        let to = json!([{ "kind": "User", "name": format!("u{n}") }]);
        let namespace = format!("n{n}");
        set(&mut rbac, KindId::RoleBinding, &namespace, "b", binding(("ClusterRole", "all"), to));
    }
    assert_eq!(rbac.roles_of(asker("u77", &[]), "n77").count(), 1);
    assert!(may(&rbac, "u77", "get :n77/services") && !may(&rbac, "u77", "get :n78/services"));
}
