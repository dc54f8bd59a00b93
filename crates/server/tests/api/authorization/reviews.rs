//! What the API says about what somebody may.

use http::Method;
use serde_json::{Value, json};

use super::Users;

#[tokio::test]
async fn reviews_say_what_the_api_would() {
    let mut users = Users::start().await;
    users.add("ann", &[]).await;
    users.bind("ann", "view", "default").await;
    let path = |name: &str| format!("/apis/authorization.k8s.io/v1/{name}");
    let may = async |asker: &str, of: Value| {
        let kind = if of.get("user").is_some() { "subjectaccessreviews" } else { "selfsubjectaccessreviews" };
        users.json(asker, Method::POST, &path(kind), &json!({ "spec": of })).await
    };
    let of = |verb: &str, resource: &str, namespace: &str| json!({ "verb": verb, "resource": resource, "namespace": namespace });
    for (verb, resource, namespace, expected) in [
        ("get", "services", "default", true),
        ("create", "services", "default", false),
        ("get", "services", "shop", false),
        ("get", "services", "", false),
        ("get", "secrets", "default", false),
    ] {
        let attributes = of(verb, resource, namespace);
        for review in [
            may("ann", json!({ "resourceAttributes": attributes })).await,
            may("root", json!({ "user": "ann", "resourceAttributes": attributes })).await,
        ] {
            let status = &review.expect(201)["status"];
            assert_eq!(status["allowed"], expected, "{verb} {resource} {namespace}");
            if expected {
                assert_eq!(
                    status["reason"],
                    "RBAC: allowed by RoleBinding/default/ann-view of ClusterRole/view"
                );
            }
        }
    }
    let to = json!({ "path": "/api", "verb": "get" });
    assert_eq!(
        may("ann", json!({ "nonResourceAttributes": to })).await.expect(201)["status"]["allowed"],
        true
    );
    may("ann", json!({ "user": "bob", "resourceAttributes": {} })).await.fails(403, "Forbidden");
    may("ann", json!({})).await.fails(400, "BadRequest");
    let wanted = json!({ "spec": { "namespace": "default" } });
    let rules = users.json("ann", Method::POST, &path("selfsubjectrulesreviews"), &wanted).await.expect(201);
    let text = rules["status"]["resourceRules"].to_string();
    assert!(text.contains("httproutes") || text.contains("gateway.networking.k8s.io"), "{text}");
    assert!(!text.contains("secrets"), "{text}");
}
