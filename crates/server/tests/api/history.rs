//! What objects were, and putting it back.

use http::Method;
use serde_json::{Value, json};

use crate::authorization::Users;
use crate::client::{SERVICES, TestApi, service};

const OF_C: &str = "/tulle/v1alpha1/history/api/v1/namespaces/default/services/c";

async fn revisions(api: &TestApi, path: &str) -> Vec<Value> {
    api.get(path).await.expect(200)["revisions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_object_is_put_back_to_what_it_was_and_after_its_deletion() {
    let mut users = Users::start().await;
    for (user, role) in [("editor", "edit"), ("viewer", "view")] {
        users.add(user, &[]).await;
        users.bind(user, role, "default").await;
    }
    let path = format!("{SERVICES}/c");
    users.json("editor", Method::POST, SERVICES, &service("c")).await.expect(201);
    for port in [81, 82] {
        let patch = json!({ "spec": { "ports": [{ "name": "http", "port": port }] } });
        let type_ = "application/merge-patch+json";
        users.ask("editor", Method::PATCH, &path, type_, patch.to_string()).await.expect(200);
    }
    let port = async || users.api.get(&path).await.expect(200)["spec"]["ports"][0]["port"].clone();
    let kept = revisions(&users.api, OF_C).await;
    let told: Vec<_> = kept.iter().map(|r| json!([r["revision"], r["user"], r["verb"]])).collect();
    let expected =
        [json!([1, "editor", "create"]), json!([2, "editor", "patch"]), json!([3, "editor", "patch"])];
    assert_eq!(told, expected);

    let to = |revision: u64| json!({ "to": revision });
    users.json("viewer", Method::POST, OF_C, &to(1)).await.fails(403, "Forbidden");
    users.json("editor", Method::POST, OF_C, &to(9)).await.fails(404, "NotFound");
    users.json("editor", Method::POST, OF_C, &json!({ "too": 1 })).await.fails(400, "BadRequest");
    users.json("editor", Method::POST, OF_C, &to(1)).await.expect(200);
    assert_eq!(port().await, 80);
    assert_eq!(revisions(&users.api, OF_C).await.len(), 4);
    let entry = users.newest("editor", false).await;
    assert_eq!(entry["object"], "services/default/c");
    let patch = json!([{ "op": "replace", "path": "/spec/ports/0/port", "value": 80 }]);
    assert!(entry["diff"].to_string().contains(&patch[0]["path"].to_string()), "{entry}");

    users.json("editor", Method::DELETE, &path, &Value::Null).await.expect(200);
    users.json("editor", Method::POST, OF_C, &to(2)).await.expect(200);
    assert_eq!(port().await, 81);
}

#[tokio::test]
async fn values_of_secrets_are_put_back_and_not_shown() {
    let api = TestApi::start().await;
    let path = "/api/v1/namespaces/default/secrets";
    let of = "/tulle/v1alpha1/history/api/v1/namespaces/default/secrets/s";
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "key": "first" } });
    api.post(path, &secret).await.expect(201);
    let change = json!({ "stringData": { "key": "second" } });
    api.patch(&format!("{path}/s"), "merge-patch", &change).await.expect(200);
    let data = api.get(&format!("{path}/s")).await.expect(200)["data"]["key"].clone();
    assert_eq!(data, "c2Vjb25k");
    for revision in revisions(&api, of).await {
        assert_eq!(revision["object"]["data"], json!({ "key": "(redacted)" }));
    }
    let answer = api.post(of, &json!({ "to": 1 })).await.expect(200);
    assert!(!answer.to_string().contains("Zmlyc3Q="), "{answer}");
    assert_eq!(api.get(&format!("{path}/s")).await.expect(200)["data"]["key"], "Zmlyc3Q=");
    // The history of another one that takes its name is its own.
    let other = json!({ "metadata": { "name": "s" }, "type": "other" });
    api.delete(&format!("{path}/s"), &Value::Null).await.expect(200);
    api.post(path, &other).await.expect(201);
    assert_eq!(revisions(&api, of).await.len(), 1);
    api.post(of, &json!({ "to": 1 })).await.fails(404, "NotFound");
}

/// However a Namespace goes: with finalizers, nobody is asked when it is gone.
#[tokio::test]
async fn a_secret_of_a_namespace_that_is_gone_is_not_put_back_in_one_of_its_name() {
    let api = TestApi::start().await;
    let namespaces = "/api/v1/namespaces";
    let secrets = "/api/v1/namespaces/shop/secrets";
    let of = "/tulle/v1alpha1/history/api/v1/namespaces/shop/secrets/s";
    let namespace = json!({ "metadata": { "name": "shop" } });
    api.post(namespaces, &namespace).await.expect(201);
    let metadata = json!({ "name": "s", "finalizers": ["example.com/wait"] });
    let secret = json!({ "metadata": metadata, "stringData": { "key": "first" } });
    api.post(secrets, &secret).await.expect(201);
    assert_eq!(revisions(&api, of).await.len(), 1);
    api.delete(&format!("{namespaces}/shop"), &Value::Null).await.expect(200);
    assert_eq!(api.get(&format!("{namespaces}/shop")).await.expect(200)["status"]["phase"], "Terminating");
    let released = json!({ "metadata": { "finalizers": null } });
    api.patch(&format!("{secrets}/s"), "merge-patch", &released).await.expect(200);
    api.get(&format!("{namespaces}/shop")).await.fails(404, "NotFound");
    api.post(namespaces, &namespace).await.expect(201);
    assert!(revisions(&api, of).await.is_empty());
    for revision in 1..5 {
        api.post(of, &json!({ "to": revision })).await.fails(404, "NotFound");
    }
    api.get(&format!("{secrets}/s")).await.fails(404, "NotFound");
}
