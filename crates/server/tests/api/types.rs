//! What is of a wrong type is refused, and nothing is written: read as absent, a precondition or a dry run would be
//! dropped, and the write be done for real.

use http::Method;
use serde_json::{Value, json};

use crate::client::{SERVICES, TestApi, service};

#[tokio::test]
async fn a_deletion_with_options_of_wrong_types_deletes_nothing() {
    let api = TestApi::start().await;
    let path = format!("{SERVICES}/c");
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    let json = [("content-type", "application/json")];
    let yaml = [("content-type", "application/yaml")];
    for (headers, options) in [
        (json, r#"{"dryRun":"All"}"#),
        (json, r#"{"dryRun":true}"#),
        (json, r#"{"dryRun":[["All"]]}"#),
        (json, r#"{"dryRun":["All","Some"]}"#),
        (json, r#"{"preconditions":{"uid":5}}"#),
        (json, r#"{"preconditions":{"resourceVersion":1}}"#),
        (json, r#"{"preconditions":"x"}"#),
        (json, r#"{"propagationPolicy":5}"#),
        (json, r#"{"gracePeriodSeconds":"0"}"#),
        (json, r#"{"orphanDependents":"false"}"#),
        (json, "[]"),
        (json, "\"x\""),
        (json, r#"{"kind":"Service","apiVersion":"v1"}"#),
        (yaml, "dryRun: All"),
        (yaml, "preconditions: {resourceVersion: 1}"),
        (yaml, "- dryRun"),
    ] {
        for path in [path.as_str(), SERVICES] {
            let answer = api.send(Method::DELETE, path, &headers, options.to_owned()).await;
            assert_eq!(answer.status, 400, "{path} {options}: {}", answer.body);
            assert_eq!(api.get(&format!("{SERVICES}/c")).await.expect(200), created, "{path} {options}");
        }
    }
    for query in [
        "dryRun=all",
        "dryRun=",
        "dryRun",
        "dryRun=true",
        "dryRun=All&dryRun=x",
        "propagationPolicy=x",
        "gracePeriodSeconds=x",
    ] {
        for path in [path.as_str(), SERVICES] {
            let answer = api.delete(&format!("{path}?{query}"), &Value::Null).await;
            assert_eq!(answer.status, 400, "{path}?{query}: {}", answer.body);
        }
        if query.starts_with("dryRun") {
            let answer = api.post(&format!("{SERVICES}?{query}"), &service("d")).await;
            assert_eq!(answer.status, 400, "{query}: {}", answer.body);
            let label = json!({ "metadata": { "labels": { "x": "y" } } });
            let answer = api.patch(&format!("{path}?{query}"), "merge-patch", &label).await;
            assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        }
    }
    api.get(&format!("{SERVICES}/d")).await.fails(404, "NotFound");
    assert_eq!(api.get(&path).await.expect(200), created);
    let options =
        r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":null,"preconditions":{"uid":null},"more":1}"#;
    api.send(Method::DELETE, &path, &json, options.to_owned()).await.expect(200);
    api.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_write_with_metadata_of_wrong_types_writes_nothing() {
    let api = TestApi::start().await;
    let path = format!("{SERVICES}/c");
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    for (pointer, value) in [
        ("/metadata/resourceVersion", json!(1)),
        ("/metadata/uid", json!(5)),
        ("/metadata/namespace", json!(7)),
        ("/metadata/name", json!(7)),
        ("/metadata/generateName", json!(true)),
        ("/metadata/labels", json!([])),
        ("/metadata/labels", json!({ "x": 1 })),
        ("/metadata/annotations", json!({ "x": {} })),
        ("/metadata/finalizers", json!("example.com/hold")),
        ("/metadata/finalizers", json!([1])),
        ("/metadata/ownerReferences", json!({})),
        ("/metadata/ownerReferences", json!(["x"])),
        ("/metadata/deletionTimestamp", json!(1)),
        ("/metadata/managedFields", json!("x")),
        ("/apiVersion", json!(5)),
        ("/kind", json!(["x"])),
    ] {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let patch = match parent {
            "" => json!({ field: value }),
            _ => json!({ "metadata": { field: value }, "spec": { "type": "ClusterIP" } }),
        };
        let with = |mut object: Value| {
            object.pointer_mut(parent).unwrap()[field] = value.clone();
            object
        };
        let config = json!({ "apiVersion": "v1", "kind": "Service", "metadata": {} });
        let new = json!({ "metadata": { "name": "d" }, "spec": { "ports": [{ "port": 80 }] } });
        for (what, answer) in [
            ("create", api.post(SERVICES, &with(new)).await),
            ("replace", api.put(&path, &with(created.clone())).await),
            ("status", api.put(&format!("{path}/status"), &with(created.clone())).await),
            ("merge patch", api.patch(&path, "merge-patch", &patch).await),
            ("strategic merge patch", api.patch(&path, "strategic-merge-patch", &patch).await),
            (
                "JSON patch",
                api.patch(&path, "json-patch", &json!([{ "op": "add", "path": pointer, "value": value }]))
                    .await,
            ),
            ("apply", api.patch(&format!("{path}?fieldManager=a"), "apply", &with(config)).await),
        ] {
            assert_eq!(answer.status, 400, "{what} {pointer}: {value}: {}", answer.body);
            let message = answer.body["message"].as_str().unwrap();
            // A list that cannot be merged comes to nothing before it is looked at as a field.
            let named = message.contains(field) || message.contains("a list that is merged by");
            assert!(named, "{what} {pointer}: {message}");
        }
    }
    assert_eq!(api.get(&path).await.expect(200), created);
    api.get(&format!("{SERVICES}/d")).await.fails(404, "NotFound");
}
