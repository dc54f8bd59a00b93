//! What the status of an AuthorizationPolicy says of the nodes that run what it is about.

use serde_json::{Value, json};
use tulle_model::registry::KindId;
use tulle_wire::type_url::WORKLOAD;

use crate::client::{TestServer, workload};

const POLICY: KindId = KindId::AuthorizationPolicy;

fn policy(name: &str, app: &str, ports: &[u16]) -> Value {
    let selector = json!({ "matchLabels": { "app": app } });
    json!({
        "metadata": { "namespace": "shop", "name": name },
        "spec": {
            "targetRefs": [{ "group": "tulle.dev", "kind": "Workload", "selector": selector }],
            "action": "Allow",
            "rules": [{ "networkAttributes": { "ports": ports } }],
        },
    })
}

/// Whether a condition of the first target is so: `True Accepted`.
fn is(object: &Value, kind: &str, state: &str, words: &str) -> bool {
    let conditions = object["status"]["ancestors"][0]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        condition["type"] == kind
            && format!("{} {}", text("status"), text("reason")) == state
            && text("message").contains(words)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_says_where_it_is_in_force() {
    let server = TestServer::start().await;
    let node = server.node("n1", &["shop/*"]).await;
    server.put(POLICY, "shop", policy("p", "cart", &[80])).await;
    server
        .until(POLICY, "shop", "p", |p| is(p, "Accepted", "False TargetNotFound", "has these labels"))
        .await;

    let mut reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    reports.reply().await.unwrap();
    let pending = |p: &Value| is(p, "Programmed", "False Pending", "0 of 1");
    server
        .until(POLICY, "shop", "p", |p| is(p, "Accepted", "True Accepted", "1 workload") && pending(p))
        .await;
    // The node of the tests captures nothing.
    server.until(POLICY, "shop", "p", |p| is(p, "Enforced", "False PlainTraffic", "shop/cart-0")).await;

    let mut stream = node.discover().await;
    stream.subscribe(WORKLOAD, &["shop/cart-0"], &[]).await;
    stream.next_present().await;
    let programmed = |p: &Value| is(p, "Programmed", "True Programmed", "1 of 1");
    server.until(POLICY, "shop", "p", programmed).await;
    let before = server.get(POLICY, "shop", "p").await.unwrap();

    // Another policy of the same workload: nothing is written of the first, which the node has.
    server.put(POLICY, "shop", policy("q", "cart", &[81])).await;
    let response = stream.response().await.unwrap();
    server.until(POLICY, "shop", "q", pending).await;
    let after = server.get(POLICY, "shop", "p").await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "{after}");
    // What the node refuses may be about either.
    stream.refuse(&response, "shop/cart-0: no such action").await;
    let refused = |p: &Value| is(p, "Programmed", "False Refused", "no such action");
    for name in ["p", "q"] {
        server.until(POLICY, "shop", name, refused).await;
    }
    server.put(POLICY, "shop", policy("q", "cart", &[82])).await;
    stream.next_present().await;
    for name in ["p", "q"] {
        server.until(POLICY, "shop", name, programmed).await;
    }

    // Its labels change: the first finds nothing any more.
    reports.workloads(vec![workload("shop", "cart-0", "till", true)]).await;
    for name in ["p", "q"] {
        server.until(POLICY, "shop", name, |p| is(p, "Accepted", "False TargetNotFound", "")).await;
    }
}
