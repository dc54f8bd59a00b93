//! Nobody gives away what he does not have: roles, tokens, certificates.

use http::Method;
use serde_json::{Value, json};

use super::{RBAC, Users, binding, role};
use crate::client::send;

#[tokio::test]
async fn nobody_gives_away_what_he_does_not_have() {
    let mut users = Users::start().await;
    users.api.post("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } })).await.expect(201);
    for user in ["owner", "binder", "ann", "carl", "escalator"] {
        users.add(user, &[]).await;
    }
    users.bind("owner", "admin", "shop").await;
    let rbac = |rules: Value| json!({ "metadata": { "name": "x" }, "rules": rules });
    let binds = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["edit"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"], "verbs": ["create"] },
    ]);
    let escalates = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "update", "escalate"] },
    ]);
    for (user, rules) in [("binder", binds), ("escalator", escalates)] {
        let mut role = rbac(rules);
        role["metadata"]["name"] = json!(user);
        users.api.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
        users.bind(user, user, "shop").await;
    }
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/shop/roles"), format!("{RBAC}/namespaces/shop/rolebindings"));
    let rule = |group: &str, resource: &str, verb: &str| json!([{ "apiGroups": [group], "resources": [resource], "verbs": [verb] }]);
    for (user, name, rules, expected) in [
        ("owner", "own", rule("", "secrets", "get"), 201),
        ("owner", "less", rule("", "services", "list"), 201),
        ("owner", "all", rule("*", "*", "*"), 403),
        ("owner", "pods", rule("", "pods", "get"), 403),
        ("owner", "any", rule("", "services", "*"), 403),
        ("escalator", "all", rule("*", "*", "*"), 201),
        ("binder", "all2", rule("", "services", "get"), 403),
    ] {
        let answer = users.json(user, Method::POST, &roles, &role(name, &rules)).await;
        assert_eq!(answer.status, expected, "{user} {name}: {}", answer.body);
        if expected == 403 && user == "owner" {
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.contains("not currently held:\n{APIGroups:"), "{message}");
            assert_eq!(users.newest(user, true).await["verb"], "create");
        }
    }
    // A change of a role counts as much, whichever way it comes; one that adds nothing passes.
    let more = json!({ "rules": rule("*", "*", "*") });
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    for (path, change, expected) in [
        (format!("{roles}/own"), &more, 403),
        (format!("{roles}/own"), &label, 200),
        (format!("{roles}/all"), &label, 200),
        (format!("{roles}/own?dryRun=All"), &more, 403),
    ] {
        let answer = users
            .ask("owner", Method::PATCH, &path, "application/merge-patch+json", change.to_string())
            .await;
        assert_eq!(answer.status, expected, "{path}: {}", answer.body);
    }
    let mut whole = role("own", &rule("*", "*", "*"));
    users.json("owner", Method::PUT, &format!("{roles}/own"), &whole).await.fails(403, "Forbidden");
    whole["metadata"]["name"] = json!("own");
    let applied = format!("{roles}/own?fieldManager=x&force=true");
    let type_ = "application/apply-patch+yaml";
    users.ask("owner", Method::PATCH, &applied, type_, whole.to_string()).await.fails(403, "Forbidden");

    for (user, kind, name, expected) in [
        ("owner", "ClusterRole", "view", 201),
        ("owner", "ClusterRole", "admin", 201),
        ("owner", "Role", "less", 201),
        ("owner", "Role", "all", 403),
        ("owner", "ClusterRole", "cluster-admin", 403),
        ("owner", "Role", "missing", 403),
        ("binder", "ClusterRole", "edit", 201),
        ("binder", "ClusterRole", "admin", 403),
        ("ann", "ClusterRole", "view", 403),
    ] {
        let mut wanted = binding("RoleBinding", "carl", kind, name);
        wanted["metadata"]["name"] = json!(format!("{user}-{kind}-{name}").to_ascii_lowercase());
        let answer = users.json(user, Method::POST, &bindings, &wanted).await;
        assert_eq!(answer.status, expected, "{user} {kind} {name}: {}", answer.body);
    }
    // It counts at once.
    users.json("carl", Method::GET, "/api/v1/namespaces/shop/services", &Value::Null).await.expect(200);
    let path = format!("{bindings}/owner-clusterrole-view");
    let other = json!({ "roleRef": { "kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io" } });
    let refused = users.api.patch(&path, "merge-patch", &other).await.fails(422, "Invalid");
    assert!(refused["message"].as_str().unwrap().contains("cannot change roleRef"), "{refused}");
    // A group can be added by who has the role's rights alone.
    let more =
        json!({ "subjects": [{ "kind": "Group", "name": "all", "apiGroup": "rbac.authorization.k8s.io" }] });
    users.api.post(&bindings, &binding("RoleBinding", "root", "Role", "all")).await.expect(201);
    let patch = |path: String| {
        users.ask("owner", Method::PATCH, leak(path), "application/merge-patch+json", more.to_string())
    };
    patch(format!("{bindings}/root-all")).await.fails(403, "Forbidden");
    patch(path).await.expect(200);
}

fn leak(text: String) -> &'static str {
    text.leak()
}

#[tokio::test]
async fn tokens_and_certificates_are_given_by_who_could_be_their_users() {
    let mut users = Users::start().await;
    users.add("ann", &["devs"]).await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = users.json("ann", Method::POST, who, &json!({})).await.expect(201);
    let expected = json!({ "username": "ann", "groups": ["devs", "system:authenticated"] });
    assert_eq!(review["status"]["userInfo"], expected);
    let rules = json!([
        { "nonResourceURLs": ["/tulle/v1alpha1/users", "/tulle/v1alpha1/usertokens"], "verbs": ["post"] },
        { "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"] },
        { "apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["devs"] },
    ]);
    let role = json!({ "metadata": { "name": "hirer" }, "rules": rules });
    users.api.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
    users.bind("ann", "hirer", "").await;
    for path in ["/tulle/v1alpha1/users", "/tulle/v1alpha1/usertokens"] {
        for (name, groups, ttl, expected) in [
            ("bob", &["devs"][..], 60, 201),
            ("bob", &["system:masters"], 60, 403),
            ("carl", &[], 60, 403),
            ("system:serviceaccount:shop:web", &[], 60, 403),
            ("bob", &[], 0, 400),
            ("bob", &[], 400 * 24 * 3600, 400),
            ("", &[], 60, 400),
        ] {
            let wanted = json!({ "name": name, "groups": groups, "ttlSeconds": ttl });
            let answer = users.json("ann", Method::POST, path, &wanted).await;
            assert_eq!(answer.status, expected, "{path} {wanted}: {}", answer.body);
        }
    }
    let entry = users.newest("ann", false).await;
    assert_eq!(entry["diff"]["token"]["name"], "bob", "{entry}");
    assert!(entry["diff"]["token"].get("token").is_none(), "{entry}");
    // By headers, too.
    let as_user = async |name: &str, group: &str| {
        let body = json!({}).to_string();
        let bearer = format!("Bearer {}", users.tokens["ann"]);
        let mut headers = vec![("impersonate-user", name), ("authorization", bearer.as_str())];
        if !group.is_empty() {
            headers.push(("impersonate-group", group));
        }
        send(users.connection.clone(), Method::POST, who, &headers, body).await
    };
    let bob = as_user("bob", "devs").await.expect(201);
    assert_eq!(bob["status"]["userInfo"]["username"], "bob");
    as_user("bob", "system:masters").await.fails(403, "Forbidden");
    as_user("admin", "").await.fails(403, "Forbidden");

    // What is wrong with a token is all the same.
    let good = users.tokens["ann"].clone();
    let (id, secret) = good.strip_prefix("tulle_").unwrap().split_once('_').unwrap();
    let other = format!("{}{}", if secret.starts_with('0') { '1' } else { '0' }, &secret[1..]);
    for bad in [
        format!("tulle_{id}_{other}"),
        format!("tulle_{id}"),
        format!("tulle_{id}_"),
        format!("{id}_{secret}"),
        format!("tulle_0000000000000000_{secret}"),
        String::new(),
    ] {
        let bearer = format!("Bearer {bad}");
        let headers = [("authorization", bearer.as_str())];
        send(users.connection.clone(), Method::GET, "/api", &headers, String::new())
            .await
            .fails(401, "Unauthorized");
    }
    // A list has no secrets, and who is revoked is nobody.
    let tokens = users.api.get("/tulle/v1alpha1/usertokens").await.expect(200);
    assert!(!tokens.to_string().contains(secret), "{tokens}");
    users.json("ann", Method::GET, "/api", &Value::Null).await.expect(200);
    users.api.delete(&format!("/tulle/v1alpha1/usertokens/{id}"), &Value::Null).await.expect(200);
    users.json("ann", Method::GET, "/api", &Value::Null).await.fails(401, "Unauthorized");
    users.api.delete(&format!("/tulle/v1alpha1/usertokens/{id}"), &Value::Null).await.fails(404, "NotFound");
}
