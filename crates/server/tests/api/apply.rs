use http::Method;
use serde_json::json;

use crate::client::{SERVICES, TestApi};

#[tokio::test]
async fn applies_create_merge_and_conflict() {
    let api = TestApi::start().await;
    let path = |manager: &str| format!("{SERVICES}/c?fieldManager={manager}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "c", "labels": { "a": "1" } },
        "spec": { "ports": [{ "port": 80, "name": "http" }] },
    });
    api.patch(&format!("{SERVICES}/c"), "apply", &config).await.fails(400, "BadRequest");
    let created = api.patch(&path("one"), "apply", &config).await.expect(201);
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = api.patch(&path("one"), "apply", &config).await.expect(200);
    assert_eq!(again, created);

    let yaml = "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {a: \"2\"}\n".to_owned();
    let headers = [("content-type", "application/apply-patch+yaml")];
    let conflict = api.send(Method::PATCH, &path("two"), &headers, yaml.clone()).await.fails(409, "Conflict");
    assert_eq!(
        conflict["details"]["causes"],
        json!([{
            "reason": "FieldManagerConflict",
            "message": "conflict with \"one\" using v1",
            "field": ".metadata.labels.a",
        }])
    );
    let forced = format!("{}&force=True", path("two"));
    let taken = api.send(Method::PATCH, &forced, &headers, yaml).await.expect(200);
    assert_eq!(taken["metadata"]["labels"]["a"], "2");

    let empty = json!({ "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "port": 81 }] } });
    let dropped = api.patch(&path("one"), "apply", &empty).await.expect(200);
    assert_eq!(dropped["spec"]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(dropped["spec"]["ports"][0]["port"], 81);
    let managed = json!({ "metadata": { "managedFields": [] } });
    api.patch(&path("one"), "apply", &managed).await.fails(400, "BadRequest");
}
