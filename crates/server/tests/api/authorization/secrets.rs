//! Whoever writes Secrets and may not read them.

use http::Method;
use serde_json::{Value, json};

use super::{RBAC, Users, VALUE, VALUE_BASE64, secret};

/// Whoever writes Secrets and may not read them sees no value in any answer.
#[tokio::test]
async fn writing_a_secret_shows_nothing_of_it() {
    let mut users = Users::start().await;
    let writes = json!([{ "apiGroups": [""], "resources": ["secrets"],
        "verbs": ["create", "update", "patch", "delete", "deletecollection"] }]);
    let writer = json!({ "metadata": { "name": "writer" }, "rules": writes });
    users.api.post(&format!("{RBAC}/clusterroles"), &writer).await.expect(201);
    for (user, role) in [("keeper", "writer"), ("owner", "admin")] {
        users.add(user, &[]).await;
        users.bind(user, role, "default").await;
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    let (one, kept) = (format!("{secrets}/s"), format!("{secrets}/kept"));
    let mut finalized = secret("kept");
    finalized["metadata"]["finalizers"] = json!(["example.com/x"]);
    users.api.post(secrets, &finalized).await.expect(201);
    let dry = "?dryRun=All";
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let (plain, merge, apply) =
        ("application/json", "application/merge-patch+json", "application/apply-patch+yaml");
    let applied =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s", "labels": { "c": "d" } } });
    for (method, path, type_, body, code) in [
        (Method::POST, format!("{secrets}{dry}"), plain, secret("s"), 201),
        (Method::POST, secrets.to_owned(), plain, secret("s"), 201),
        (Method::PUT, one.clone(), plain, secret("s"), 200),
        (Method::PATCH, format!("{one}{dry}"), merge, label.clone(), 200),
        (Method::PATCH, one.clone(), merge, label.clone(), 200),
        (Method::PATCH, format!("{one}?fieldManager=x&force=true"), apply, applied, 200),
        (Method::DELETE, format!("{one}{dry}"), plain, Value::Null, 200),
        (Method::DELETE, kept.clone(), plain, Value::Null, 200),
        (Method::DELETE, format!("{secrets}{dry}"), plain, Value::Null, 200),
        (Method::DELETE, secrets.to_owned(), plain, Value::Null, 200),
    ] {
        let at = format!("{method} {path}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let text = users.ask("keeper", method, &path, type_, body).await.expect(code).to_string();
        assert!(!text.contains(VALUE) && !text.contains(VALUE_BASE64), "{at}: {text}");
    }
    let made = users.json("keeper", Method::POST, secrets, &secret("s")).await.expect(201);
    assert_eq!(made["data"]["password"], "KHJlZGFjdGVkKQ==", "{made}");
    let read = users.ask("owner", Method::PATCH, &one, merge, label.to_string()).await.expect(200);
    assert_eq!(read["data"]["password"], VALUE_BASE64, "{read}");
}
