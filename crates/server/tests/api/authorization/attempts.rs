//! The table of attempts: what users may by their roles, and what the audit log says of each.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{AUDIT, RBAC, Users, VALUE, VALUE_BASE64, binding, new_object, path_of, role, route, secret};
use crate::client::{SERVICES, service};

/// One line of the table: who, what, and the status that it gets.
type Attempt = (&'static str, &'static str, &'static str, u16);

#[rustfmt::skip]
const ATTEMPTS: &[Attempt] = &[
    // Somebody with no role may know what there is, and nothing of it.
    ("nobody", "get", "/api", 200),
    ("nobody", "get", "/apis", 200),
    ("nobody", "get", "/openapi/v3", 200),
    ("nobody", "get", "/metrics", 403),
    ("nobody", "get", "/tulle/v1alpha1/edges", 403),
    ("nobody", "get", "/tulle/v1alpha1/nodes", 403),
    ("nobody", "get", "/tulle/v1alpha1/destinations", 403),
    ("nobody", "get", "/tulle/v1alpha1/tokens", 403),
    ("nobody", "get", "/tulle/v1alpha1/usertokens", 403),
    ("nobody", "get", "/tulle/v1alpha1/audit", 403),
    ("nobody", "get", "/tulle/v1alpha1/nowhere", 403),
    ("nobody", "list", "services/shop", 403),
    ("nobody", "list", "services", 403),
    ("nobody", "get", "namespaces/shop", 403),
    ("nobody", "list", "namespaces", 403),
    ("nobody", "create", "services/shop", 403),
    ("nobody", "watch", "services/shop", 403),
    // Who looks sees its namespace.
    ("viewer", "get", "services/shop/c", 200),
    ("viewer", "list", "services/shop", 200),
    ("viewer", "watch", "services/shop", 200),
    ("viewer", "get", "httproutes.gateway.networking.k8s.io/shop/r", 200),
    ("viewer", "get", "namespaces/shop", 200),
    ("viewer", "list", "services", 403),
    ("viewer", "watch", "services", 403),
    ("viewer", "get", "services/bank/c", 403),
    ("viewer", "list", "services/bank", 403),
    ("viewer", "watch", "services/bank", 403),
    ("viewer", "get", "namespaces/bank", 403),
    ("viewer", "list", "namespaces", 403),
    // It changes nothing.
    ("viewer", "create", "services/shop", 403),
    ("viewer", "update", "services/shop/c", 403),
    ("viewer", "patch", "services/shop/c", 403),
    ("viewer", "apply", "services/shop/c", 403),
    ("viewer", "apply", "services/shop/new", 403),
    ("viewer", "update/status", "services/shop/c", 403),
    ("viewer", "delete", "services/shop/c", 403),
    ("viewer", "deletecollection", "services/shop", 403),
    ("viewer", "delete", "namespaces/shop", 403),
    ("viewer", "create", "authorizationpolicies.tulle.dev/shop", 403),
    ("viewer", "delete", "nodes.tulle.dev/n1", 403),
    ("viewer", "delete", "/tulle/v1alpha1/nodes/n1", 403),
    ("viewer", "post", "/tulle/v1alpha1/tokens", 403),
    ("viewer", "post", "/tulle/v1alpha1/users", 403),
    // No Secrets, no roles.
    ("viewer", "get", "secrets/shop/s", 403),
    ("viewer", "list", "secrets/shop", 403),
    ("viewer", "list", "secrets", 403),
    ("viewer", "watch", "secrets/shop", 403),
    ("viewer", "list", "rolebindings.rbac.authorization.k8s.io/shop", 403),
    ("viewer", "get", "/tulle/v1alpha1/history/api/v1/namespaces/shop/secrets/s", 403),
    ("viewer", "get", "/tulle/v1alpha1/history/api/v1/namespaces/shop/services/c", 200),
    ("viewer", "get", "/tulle/v1alpha1/history/api/v1/namespaces/bank/services/c", 403),
    ("viewer", "post", "/tulle/v1alpha1/history/api/v1/namespaces/shop/services/c", 403),
    // Who works changes what is in its namespace.
    ("editor", "create", "services/shop", 201),
    ("editor", "patch", "services/shop/c", 200),
    ("editor", "apply", "services/shop/made", 201),
    ("editor", "delete", "services/shop/made", 200),
    ("editor", "create", "services/bank", 403),
    ("editor", "patch", "services/bank/c", 403),
    ("editor", "apply", "services/bank/new", 403),
    ("editor", "delete", "services/bank/c", 403),
    ("editor", "deletecollection", "services/bank", 403),
    ("editor", "deletecollection", "services", 403),
    ("editor", "create", "httproutes.gateway.networking.k8s.io/bank", 403),
    ("editor", "create", "namespaces", 403),
    ("editor", "delete", "namespaces/shop", 403),
    ("editor", "patch", "meshes.tulle.dev/default", 403),
    ("editor", "patch", "nodes.tulle.dev/n1", 403),
    ("editor", "get", "secrets/shop/s", 403),
    ("editor", "list", "secrets/shop", 403),
    ("editor", "watch", "secrets/shop", 403),
    ("editor", "create", "secrets/shop", 403),
    ("editor", "patch", "secrets/shop/s", 403),
    ("editor", "delete", "secrets/shop/s", 403),
    ("editor", "create", "rolebindings.rbac.authorization.k8s.io/shop", 403),
    // Whoever administers a namespace reads its Secrets, and no others.
    ("owner", "get", "secrets/shop/s", 200),
    ("owner", "create", "secrets/shop", 201),
    ("owner", "get", "secrets/bank/s", 403),
    ("owner", "list", "secrets", 403),
    ("owner", "list", "rolebindings.rbac.authorization.k8s.io/shop", 200),
    ("owner", "list", "rolebindings.rbac.authorization.k8s.io/bank", 403),
    ("owner", "get", "clusterroles.rbac.authorization.k8s.io/view", 403),
    ("owner", "create", "clusterrolebindings.rbac.authorization.k8s.io", 403),
    ("owner", "patch", "meshes.tulle.dev/default", 403),
    ("owner", "get", "/tulle/v1alpha1/audit", 403),
    // A rule is about what it names.
    ("named", "get", "secrets/shop/s", 200),
    ("named", "get", "secrets/shop/t", 403),
    ("named", "list", "secrets/shop", 403),
    ("named", "list", "secrets/shop/s", 200),
    ("named", "watch", "secrets/shop/s", 200),
    ("named", "delete", "secrets/shop/s", 403),
    ("named", "update/status", "services/shop/c", 200),
    ("named", "update", "services/shop/c", 403),
    ("named", "patch/status", "services/shop/c", 403),
    // Of a body's object a selector says nothing.
    ("chooser", "list?metadata.name=s", "secrets/shop", 200),
    ("chooser", "create?metadata.name=s", "secrets/shop", 403),
    ("lord", "get", "namespaces/shop", 200),
    ("lord", "create", "namespaces", 403),
    ("lord", "create?metadata.name=shop", "namespaces", 403),
    // The addresses in an EndpointSlice may be of another namespace.
    ("viewer", "list", "endpointslices.discovery.k8s.io/shop", 200),
    ("editor", "list", "endpointslices.discovery.k8s.io/shop", 200),
    ("editor", "create", "endpointslices.discovery.k8s.io/shop", 403),
    ("owner", "create", "endpointslices.discovery.k8s.io/shop", 403),
    // Who may change what is there makes nothing new by applying it.
    ("patcher", "apply", "services/shop/c", 200),
    ("patcher", "apply", "services/shop/new", 403),
    // For hosts.
    ("hosts", "get", "/tulle/v1alpha1/tokens", 200),
    ("hosts", "get", "/tulle/v1alpha1/nodes", 200),
    ("hosts", "post", "/tulle/v1alpha1/usertokens", 403),
    ("hosts", "list", "services/shop", 403),
    // Nobody at all.
    ("anonymous", "get", "/api", 401),
    ("anonymous", "get", "/metrics", 401),
];

#[tokio::test]
async fn attempts_get_what_their_roles_allow_and_the_audit_log_names_each() {
    let mut users = Users::start().await;
    for namespace in ["shop", "bank"] {
        users.api.post("/api/v1/namespaces", &json!({ "metadata": { "name": namespace } })).await.expect(201);
        let at = |plural| format!("/api/v1/namespaces/{namespace}/{plural}");
        users.api.post(&at("services"), &service("c")).await.expect(201);
        for name in ["s", "t"] {
            users.api.post(&at("secrets"), &secret(name)).await.expect(201);
        }
    }
    users.api.post(&path_of("httproutes.gateway.networking.k8s.io/shop"), &route("r")).await.expect(201);
    let rules = json!([
        { "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["*/status"], "verbs": ["update"] },
    ]);
    let patches = json!([{ "apiGroups": [""], "resources": ["services"], "verbs": ["patch"] }]);
    let chosen =
        json!([{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["*"] }]);
    for (name, rules) in [("named", rules), ("patcher", patches), ("chooser", chosen)] {
        users.api.post(&format!("{RBAC}/namespaces/shop/roles"), &role(name, &rules)).await.expect(201);
        let binding = binding("RoleBinding", name, "Role", name);
        users.api.post(&format!("{RBAC}/namespaces/shop/rolebindings"), &binding).await.expect(201);
    }
    for user in ["nobody", "viewer", "editor", "owner", "named", "patcher", "chooser", "lord", "hosts"] {
        users.add(user, &[]).await;
    }
    for (user, role) in
        [("viewer", "view"), ("editor", "edit"), ("owner", "admin"), ("lord", "cluster-admin")]
    {
        users.bind(user, role, "shop").await;
    }
    users.bind("hosts", "node", "").await;

    let refused = ATTEMPTS.iter().filter(|(.., code)| matches!(code, 401 | 403)).count();
    assert!(refused >= 60, "{refused}");
    for (index, &(user, verb, object, expected)) in ATTEMPTS.iter().enumerate() {
        let at = format!("{user} {verb} {object}");
        let (verb, selector) = verb.split_once('?').unwrap_or((verb, ""));
        let (verb, status) = match verb.split_once('/') {
            Some((verb, _)) => (verb, "/status"),
            None => (verb, ""),
        };
        let mut path = format!("{}{status}", path_of(object));
        let name = object.rsplit('/').next().unwrap();
        if !selector.is_empty() {
            path.push_str(&format!("?fieldSelector={}", selector.replace('=', "%3D")));
        }
        if matches!(verb, "list" | "watch") && object == "secrets/shop/s" {
            path = format!("{}?fieldSelector=metadata.name%3Ds", path_of("secrets/shop"));
        }
        if verb == "watch" {
            path.push_str(if path.contains('?') { "&" } else { "?" });
            path.push_str("watch=true&timeoutSeconds=1");
        }
        if verb == "apply" {
            path.push_str("?fieldManager=test&force=true");
        }
        let (method, type_, body) = match verb {
            "get" | "list" | "watch" => (Method::GET, "application/json", Value::Null),
            "post" => (Method::POST, "application/json", json!({ "to": 1 })),
            "create" => (Method::POST, "application/json", new_object(object, &format!("n{index}"))),
            "update" => {
                let there = users.api.get(&path_of(object)).await.expect(200);
                (Method::PUT, "application/json", there)
            }
            "patch" => {
                let label = json!({ "metadata": { "labels": { "at": format!("n{index}") } } });
                (Method::PATCH, "application/merge-patch+json", label)
            }
            "apply" => (Method::PATCH, "application/apply-patch+yaml", new_object(object, name)),
            "delete" | "deletecollection" => (Method::DELETE, "application/json", Value::Null),
            other => panic!("{other}"),
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let changes = !matches!(verb, "get" | "list" | "watch");
        let answer = users.ask(user, method, &path, type_, body).await;
        assert_eq!(answer.status, expected, "{at}: {}", answer.body);
        let verb = if verb == "apply" { "patch" } else { verb };
        if matches!(expected, 401 | 403) {
            let text = answer.body.to_string();
            assert!(!text.contains(VALUE) && !text.contains(VALUE_BASE64), "{at}: {text}");
            assert_eq!(answer.body["kind"], "Status", "{at}");
            audited(&users, (user, verb, object, expected), &at).await;
        } else if changes && status.is_empty() {
            let entry = users.newest(user, false).await;
            assert_eq!(
                (&entry["user"], &entry["decision"]),
                (&json!(user), &json!("allowed")),
                "{at}: {entry}"
            );
            assert_eq!((&entry["verb"], &entry["code"]), (&json!(verb), &json!(expected)), "{at}");
            let reason = entry["reason"].as_str().unwrap();
            assert!(reason.starts_with("RoleBinding/shop/"), "{at}: {reason}");
            assert!(verb == "delete" || entry["diff"].is_array(), "{at}: {entry}");
        }
    }
    // Whatever was made of Secrets: no value is in the log, and none in a history.
    for path in [
        format!("{AUDIT}?limit=10000"),
        format!("{AUDIT}?limit=10000&denied=true"),
        "/tulle/v1alpha1/history/api/v1/namespaces/shop/secrets/s".to_owned(),
    ] {
        let text = users.api.get(&path).await.expect(200).to_string();
        assert!(text.contains("secrets") || text.contains("password"), "{path}");
        assert!(!text.contains(VALUE) && !text.contains(VALUE_BASE64), "{path}: {text}");
    }
}

/// The newest entry about a user is the attempt that was just refused.
async fn audited(users: &Users, (user, verb, object, code): Attempt, at: &str) {
    let user = if user == "anonymous" { "system:anonymous" } else { user };
    // History is of the object.
    let object = match object.strip_prefix("/tulle/v1alpha1/history/api/v1/namespaces/") {
        Some(rest) => {
            let parts: Vec<_> = rest.split('/').collect();
            format!("{}/{}/{}", parts[1], parts[0], parts[2])
        }
        None => object.to_owned(),
    };
    let verb = if at.contains("post /tulle/v1alpha1/history") { "update" } else { verb };
    let found = async {
        loop {
            let entry = users.newest(user, true).await;
            // Of strangers it is written when there is time.
            if user != "system:anonymous" || entry["object"] == object.as_str() {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let entry = tokio::time::timeout(Duration::from_secs(10), found).await.expect(at);
    let expected = json!([user, verb, object, code, "denied"]);
    let told = json!([entry["user"], entry["verb"], entry["object"], entry["code"], entry["decision"]]);
    assert_eq!(told, expected, "{at}: {entry}");
    let reason = entry["reason"].as_str().unwrap();
    assert!(reason.contains(user) || user == "system:anonymous", "{at}: {reason}");
}

/// Whatever came of a request whose client has gone: what was changed is in the log.
#[tokio::test]
async fn who_hangs_up_is_written_down() {
    let users = Users::start().await;
    for n in 0..40 {
        let wanted = service(&format!("hung{n}"));
        let sent = async { drop(users.api.post(SERVICES, &wanted).await) };
        // Some before the server has it, some in the middle, some after.
        let _ = tokio::time::timeout(Duration::from_micros(100 * n), sent).await;
    }
    let settled = async {
        loop {
            let there = users.api.get(SERVICES).await.expect(200);
            let there = there["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|service| service["metadata"]["name"].as_str().unwrap().starts_with("hung"));
            let log =
                users.api.get(&format!("{AUDIT}?limit=10000&object=services/default/hung")).await.expect(200);
            if there.count() == log["entries"].as_array().unwrap().len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
}
