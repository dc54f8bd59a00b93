//! The roles that every mesh has.

use http::Method;
use serde_json::{Value, json};

use super::{RBAC, Users, binding};

/// A default role that was emptied is whole again with the next start, for whoever was bound to it meanwhile.
#[tokio::test]
async fn nobody_waits_for_a_default_role_to_be_put_right() {
    let mut users = Users::start().await;
    users.add("smith", &[]).await;
    let rules = json!([{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles", "clusterrolebindings"],
        "verbs": ["get", "create", "update", "patch", "delete", "deletecollection"] }]);
    let smith = json!({ "metadata": { "name": "smith" }, "rules": rules });
    users.api.post(&format!("{RBAC}/clusterroles"), &smith).await.expect(201);
    users.bind("smith", "smith", "").await;
    let (roles, bindings) = (format!("{RBAC}/clusterroles"), format!("{RBAC}/clusterrolebindings"));
    let whole = format!("{roles}/cluster-admin");
    let merge = "application/merge-patch+json";
    let patch =
        async |change: Value| users.ask("smith", Method::PATCH, &whole, merge, change.to_string()).await;
    let updated = |to: &str| json!({ "metadata": { "annotations": { "rbac.authorization.kubernetes.io/autoupdate": to } } });
    let bound = binding("ClusterRoleBinding", "smith", "ClusterRole", "cluster-admin");
    patch(json!({ "rules": [] })).await.expect(200);
    users.json("smith", Method::POST, &bindings, &bound).await.fails(403, "Forbidden");
    // One that stays empty gives nothing, and has to stay so.
    patch(updated("false")).await.expect(200);
    users.json("smith", Method::POST, &bindings, &bound).await.expect(201);
    patch(updated("true")).await.fails(403, "Forbidden");
    patch(json!({ "metadata": { "annotations": null } })).await.fails(403, "Forbidden");
    users.json("smith", Method::DELETE, &whole, &Value::Null).await.fails(403, "Forbidden");
    users.json("smith", Method::DELETE, &roles, &Value::Null).await.fails(403, "Forbidden");
    users.json("smith", Method::DELETE, &format!("{roles}/smith"), &Value::Null).await.expect(200);
}

/// Whoever may change roles cannot keep the server from starting.
#[tokio::test]
async fn a_default_that_cannot_be_put_right_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let start =
        async || tulle_server::Server::start(tulle_server::ServerConfig::local(home.path())).await.unwrap();
    let server = start().await;
    let (roles, bindings) = (
        tulle_model::registry::KindId::ClusterRole.kind(),
        tulle_model::registry::KindId::ClusterRoleBinding.kind(),
    );
    let options = tulle_server::objects::WriteOptions::controller();
    // There is no room for another rule in it.
    let full = |current: &Value| {
        let mut full = current.clone();
        full["rules"] = vec![json!({ "apiGroups": ["x"], "resources": ["y"], "verbs": ["z"] }); 1000].into();
        Ok(full)
    };
    server.objects.modify(roles, "", "view", &options, full).await.unwrap();
    let delete = tulle_server::objects::DeleteOptions::default();
    server.objects.delete(bindings, "", "system:discovery", &delete).await.unwrap();
    let mut other = binding("ClusterRoleBinding", "ann", "ClusterRole", "view");
    other["metadata"]["name"] = json!("system:discovery");
    server.objects.create(bindings, "", other, &options).await.unwrap();
    server.objects.delete(roles, "", "system:basic-user", &delete).await.unwrap();
    server.shutdown().await;
    let server = start().await;
    let there = server.objects.require(bindings, "", "system:discovery").await.unwrap();
    assert_eq!(there["subjects"].as_array().unwrap().len(), 1, "{there}");
    // Those that follow are made all the same.
    assert!(server.objects.get(roles, "", "system:basic-user").await.unwrap().is_some());
    server.shutdown().await;
}

#[tokio::test]
async fn default_roles_come_back_with_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let start =
        async || tulle_server::Server::start(tulle_server::ServerConfig::local(home.path())).await.unwrap();
    let server = start().await;
    let kind = tulle_model::registry::KindId::ClusterRole.kind();
    let delete = tulle_server::objects::DeleteOptions::default();
    server.objects.delete(kind, "", "edit", &delete).await.unwrap();
    let options = tulle_server::objects::WriteOptions::controller();
    let added = json!({ "apiGroups": ["x"], "resources": ["y"], "verbs": ["z"] });
    let other = |current: &Value| {
        let mut other = current.clone();
        other["rules"] = json!([added]);
        Ok(other)
    };
    server.objects.modify(kind, "", "view", &options, other).await.unwrap();
    server.shutdown().await;
    let server = start().await;
    assert!(server.objects.get(kind, "", "edit").await.unwrap().is_some());
    let view = server.objects.require(kind, "", "view").await.unwrap();
    let rules = view["rules"].as_array().unwrap();
    assert!(rules.contains(&added) && rules.len() > 3, "{view}");
    server.shutdown().await;
}
