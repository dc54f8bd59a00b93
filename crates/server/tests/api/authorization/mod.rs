//! Who may do what: users with the default roles, what they try, and what the audit log says of it.

mod attempts;
mod defaults;
mod flows;
mod following;
mod giving;
mod reviews;
mod secrets;

use std::collections::HashMap;

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use serde_json::{Value, json};

use crate::client::{Answer, TestApi, send, service};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const AUDIT: &str = "/tulle/v1alpha1/audit";
/// A value that nobody may see without the right, as it is and in base64.
const VALUE: &str = "hunter2hunter2";
const VALUE_BASE64: &str = "aHVudGVyMmh1bnRlcjI=";

/// A mesh with users who have tokens.
pub struct Users {
    pub api: TestApi,
    connection: SendRequest<Full<Bytes>>,
    tokens: HashMap<String, String>,
}

impl Users {
    pub async fn start() -> Self {
        let api = TestApi::start().await;
        let connection = api.anonymous().await;
        Self { api, connection, tokens: HashMap::new() }
    }

    /// Makes a token.
    pub async fn add(&mut self, name: &str, groups: &[&str]) -> Value {
        let wanted = json!({ "name": name, "groups": groups, "ttlSeconds": 600 });
        let made = self.api.post("/tulle/v1alpha1/usertokens", &wanted).await.expect(201);
        self.tokens.insert(name.to_owned(), made["token"].as_str().unwrap().to_owned());
        made
    }

    /// What a user gets; `root` has the administrator's certificate.
    pub async fn ask(&self, user: &str, method: Method, path: &str, type_: &str, body: String) -> Answer {
        if user == "root" {
            return self.api.send(method, path, &[("content-type", type_)], body).await;
        }
        let bearer = self.tokens.get(user).map(|token| format!("Bearer {token}")).unwrap_or_default();
        let mut headers = vec![("content-type", type_)];
        if !bearer.is_empty() {
            headers.push(("authorization", &bearer));
        }
        send(self.connection.clone(), method, path, &headers, body).await
    }

    /// As [`Users::ask`], with JSON.
    pub async fn json(&self, user: &str, method: Method, path: &str, body: &Value) -> Answer {
        self.ask(user, method, path, "application/json", body.to_string()).await
    }

    /// Gives a user a ClusterRole in a namespace, or everywhere.
    pub async fn bind(&self, user: &str, role: &str, namespace: &str) {
        let (path, kind) = match namespace {
            "" => (format!("{RBAC}/clusterrolebindings"), "ClusterRoleBinding"),
            namespace => (format!("{RBAC}/namespaces/{namespace}/rolebindings"), "RoleBinding"),
        };
        self.api.post(&path, &binding(kind, user, "ClusterRole", role)).await.expect(201);
    }

    /// The newest entry of the audit log about a user.
    pub async fn newest(&self, user: &str, denied: bool) -> Value {
        let path = format!("{AUDIT}?limit=1&user={user}&denied={denied}");
        self.api.get(&path).await.expect(200)["entries"][0].clone()
    }
}

pub fn binding(kind: &str, user: &str, role_kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": { "name": format!("{user}-{role}") },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    })
}

fn role(name: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": name },
        "rules": rules,
    })
}

fn secret(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "stringData": { "password": VALUE },
    })
}

fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "c" }],
            "rules": [{ "backendRefs": [{ "name": "c", "port": 80 }] }],
        },
    })
}

/// The path of what the audit log calls `httproutes.gateway.networking.k8s.io/shop/r`.
fn path_of(object: &str) -> String {
    if object.starts_with('/') {
        return object.to_owned();
    }
    let mut parts = object.split('/');
    let (plural, group) = parts.next().map(|first| first.split_once('.').unwrap_or((first, ""))).unwrap();
    let root = match group {
        "" => "/api/v1".to_owned(),
        "tulle.dev" => "/apis/tulle.dev/v1alpha1".to_owned(),
        group => format!("/apis/{group}/v1"),
    };
    let rest: Vec<_> = parts.collect();
    let in_no_namespace = ["namespaces", "meshes", "nodes", "clusterroles", "clusterrolebindings"];
    match rest.as_slice() {
        [] => format!("{root}/{plural}"),
        [name] if in_no_namespace.contains(&plural) => format!("{root}/{plural}/{name}"),
        [namespace] => format!("{root}/namespaces/{namespace}/{plural}"),
        [namespace, name] => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
        _ => panic!("{object}"),
    }
}

fn new_object(object: &str, name: &str) -> Value {
    match object.split(['/', '.']).next().unwrap() {
        "services" => service(name),
        "secrets" => secret(name),
        "httproutes" => route(name),
        "namespaces" => json!({ "metadata": { "name": name } }),
        _ => json!({ "metadata": { "name": name } }),
    }
}
