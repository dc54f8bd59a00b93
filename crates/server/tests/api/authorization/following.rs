//! Watches end with the right to them.

use serde_json::{Value, json};

use super::{RBAC, Users};
use crate::client::{SERVICES, service};

#[tokio::test]
async fn a_watch_ends_with_the_right_to_it() {
    let mut users = Users::start().await;
    let token = users.add("ann", &[]).await;
    users.bind("ann", "view", "default").await;
    for ends in ["binding", "token"] {
        let bearer = format!("Bearer {}", users.tokens["ann"]);
        let watch = format!("{SERVICES}?watch=true&resourceVersion=1");
        let mut events = users.api.watch_with(&users.connection, &watch, &[("authorization", &bearer)]).await;
        users.api.post(SERVICES, &service(ends)).await.expect(201);
        while events.next_name().await.1 != ends {}
        if ends == "binding" {
            let path = format!("{RBAC}/namespaces/default/rolebindings/ann-view");
            users.api.delete(&path, &Value::Null).await.expect(200);
        } else {
            let id = token["id"].as_str().unwrap();
            users.api.delete(&format!("/tulle/v1alpha1/usertokens/{id}"), &Value::Null).await.expect(200);
        }
        let last = events.next().await.unwrap();
        assert_eq!(
            (&last["type"], &last["object"]["reason"]),
            (&json!("ERROR"), &json!("Forbidden")),
            "{last}"
        );
        assert_eq!(events.next().await, None);
        if ends == "binding" {
            users.bind("ann", "view", "default").await;
        }
    }
}

/// Who acts as another one sees for as long as he is known, and may act so.
#[tokio::test]
async fn a_watch_of_somebody_elses_ends_with_who_acts_as_him() {
    let mut users = Users::start().await;
    users.bind("bob", "view", "default").await;
    let rules = json!([{ "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"] }]);
    let actor = json!({ "metadata": { "name": "actor" }, "rules": rules });
    users.api.post(&format!("{RBAC}/clusterroles"), &actor).await.expect(201);
    for ends in ["binding", "token"] {
        let token = users.add("ann", &[]).await;
        if ends == "binding" {
            users.bind("ann", "actor", "").await;
        }
        let bearer = format!("Bearer {}", users.tokens["ann"]);
        let headers = [("authorization", bearer.as_str()), ("impersonate-user", "bob")];
        let watch = format!("{SERVICES}?watch=true&resourceVersion=1");
        let mut events = users.api.watch_with(&users.connection, &watch, &headers).await;
        users.api.post(SERVICES, &service(ends)).await.expect(201);
        while events.next_name().await.1 != ends {}
        let path = match ends {
            "binding" => format!("{RBAC}/clusterrolebindings/ann-actor"),
            _ => format!("/tulle/v1alpha1/usertokens/{}", token["id"].as_str().unwrap()),
        };
        users.api.delete(&path, &Value::Null).await.expect(200);
        let last = events.next().await.unwrap();
        assert_eq!(last["object"]["reason"], "Forbidden", "{ends}: {last}");
        if ends == "binding" {
            users.bind("ann", "actor", "").await;
        }
    }
}
