//! What the API warns of, as kubectl shows it.

use http::header::WARNING;
use serde_json::json;

use crate::client::{Answer, SERVICES, TestApi};

const POLICIES: &str = "/apis/tulle.dev/v1alpha1/namespaces/default/authorizationpolicies";
const WORKLOADS: &str = "/apis/tulle.dev/v1alpha1/namespaces/default/workloads";

fn warnings(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all(WARNING).iter();
    values.map(|value| value.to_str().unwrap().replace('\\', "")).collect()
}

#[tokio::test]
async fn a_target_of_a_policy_that_finds_nothing_is_told() {
    let api = TestApi::start().await;
    let policy = |service: &str| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": "p" },
            "spec": { "targetRefs": [{ "kind": "Service", "name": service }], "action": "Allow" },
        })
    };
    let apply = async |service: &str| {
        let path = format!("{POLICIES}/p?fieldManager=test");
        let answer = api.patch(&path, "apply", &policy(service)).await;
        assert!(answer.status.is_success(), "{}", answer.body);
        warnings(&answer)
    };
    let told = apply("c").await;
    assert!(told.len() == 1 && told[0].contains("there is no Service \"c\""), "{told:?}");
    let service = json!({
        "metadata": { "name": "c" }, "spec": { "selector": { "app": "c" }, "ports": [{ "port": 80 }] },
    });
    api.post(SERVICES, &service).await.expect(201);
    let told = apply("c").await;
    assert!(told.len() == 1 && told[0].contains("selects no Workload"), "{told:?}");
    let workload = json!({
        "metadata": { "name": "c-0", "labels": { "app": "c" } },
        "spec": { "address": "192.0.2.1", "serviceAccount": "c" },
    });
    api.post(WORKLOADS, &workload).await.expect(201);
    assert!(apply("c").await.is_empty());
    // A dry run tells the same.
    let path = format!("{POLICIES}?dryRun=All");
    let mut other = policy("d");
    other["metadata"]["name"] = json!("q");
    let answer = api.post(&path, &other).await;
    assert_eq!(warnings(&answer).len(), 1, "{}", answer.body);
}
