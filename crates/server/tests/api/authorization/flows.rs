//! As whom a Flow calls, only those say who may use that account.

use http::Method;
use serde_json::{Value, json};

use super::{RBAC, Users};

const FLOWS: &str = "/apis/tulle.dev/v1alpha1/namespaces/shop/flows";

fn flow(name: &str, account: &str) -> Value {
    let workflow = json!({
        "document": { "dsl": "1.0.3", "namespace": "shop", "name": name, "version": "0.1.0" },
        "do": [{ "done": { "set": { "a": 1 } } }],
    });
    json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "Flow", "metadata": { "name": name },
        "spec": { "workflow": workflow, "serviceAccount": account },
    })
}

#[tokio::test]
async fn whoever_has_a_flow_call_as_somebody_may_use_that_account() {
    let mut users = Users::start().await;
    users.api.post("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } })).await.expect(201);
    for user in ["ann", "bob", "viewer"] {
        users.add(user, &[]).await;
    }
    users.bind("ann", "edit", "shop").await;
    users.bind("viewer", "view", "shop").await;
    let rules = json!([
        { "apiGroups": ["tulle.dev"], "resources": ["flows", "flows/status"], "verbs": ["*"] },
        { "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["use"], "resourceNames": ["orders"] },
    ]);
    users
        .api
        .post(&format!("{RBAC}/clusterroles"), &json!({ "metadata": { "name": "bob" }, "rules": rules }))
        .await
        .expect(201);
    users.bind("bob", "bob", "shop").await;
    for (user, name, account, expected) in [
        ("viewer", "v", "orders", 403),
        ("ann", "a", "payments", 201),
        ("bob", "b", "orders", 201),
        ("bob", "c", "payments", 403),
        ("bob", "d", "default", 403),
    ] {
        let answer = users.json(user, Method::POST, FLOWS, &flow(name, account)).await;
        assert_eq!(answer.status, expected, "{user} {account}: {}", answer.body);
    }
    let refused =
        users.json("bob", Method::POST, FLOWS, &flow("c", "payments")).await.fails(403, "Forbidden");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains(
            "spec.serviceAccount: the Flow would do it as service account \"payments\", and User \"bob\" cannot \
             use resource \"serviceaccounts\" in API group \"\" in the namespace \"shop\""
        ),
        "{message}"
    );
    assert_eq!(users.newest("bob", true).await["verb"], "create");

    // Of a Flow that calls as another, he changes what is not done as that one, whichever way.
    let other = json!({ "do": [{ "else": { "set": { "a": 2 } } }] });
    for (name, change, expected) in [
        ("a", json!({ "spec": { "history": { "runs": 5 } } }), 200),
        ("a", json!({ "metadata": { "labels": { "a": "b" } } }), 200),
        ("a", json!({ "spec": { "workflow": other } }), 403),
        ("a", json!({ "spec": { "serviceAccount": "orders" } }), 200),
        ("a", json!({ "spec": { "workflow": other } }), 200),
        ("b", json!({ "spec": { "serviceAccount": "payments" } }), 403),
        ("b", json!({ "spec": { "serviceAccount": null } }), 403),
    ] {
        let type_ = "application/merge-patch+json";
        let path = format!("{FLOWS}/{name}");
        let answer = users.ask("bob", Method::PATCH, &path, type_, change.to_string()).await;
        assert_eq!(answer.status, expected, "{name} {change}: {}", answer.body);
    }
    let applied = format!("{FLOWS}/b?fieldManager=x&force=true");
    let body = flow("b", "payments").to_string();
    users
        .ask("bob", Method::PATCH, &applied, "application/apply-patch+yaml", body)
        .await
        .fails(403, "Forbidden");
    users
        .json("bob", Method::PUT, &format!("{FLOWS}/b"), &flow("b", "payments"))
        .await
        .fails(403, "Forbidden");
}
