//! Who may do what: attempts of users with the default roles, and what the audit log says of each.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use serde_json::{Value, json};

use crate::client::{Answer, SERVICES, TestApi, send, service};

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

#[tokio::test]
async fn nobody_gives_away_what_he_does_not_have() {
    let mut users = Users::start().await;
    users.api.post("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } })).await.expect(201);
    for user in ["owner", "binder", "ann", "carl", "escalator"] {
        users.add(user, &[]).await;
    }
    users.bind("owner", "admin", "shop").await;
    let rbac = |rules: Value| json!({ "metadata": { "name": "x" }, "rules": rules });
    let binds = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["edit"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"], "verbs": ["create"] },
    ]);
    let escalates = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "update", "escalate"] },
    ]);
    for (user, rules) in [("binder", binds), ("escalator", escalates)] {
        let mut role = rbac(rules);
        role["metadata"]["name"] = json!(user);
        users.api.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
        users.bind(user, user, "shop").await;
    }
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/shop/roles"), format!("{RBAC}/namespaces/shop/rolebindings"));
    let rule = |group: &str, resource: &str, verb: &str| json!([{ "apiGroups": [group], "resources": [resource], "verbs": [verb] }]);
    for (user, name, rules, expected) in [
        ("owner", "own", rule("", "secrets", "get"), 201),
        ("owner", "less", rule("", "services", "list"), 201),
        ("owner", "all", rule("*", "*", "*"), 403),
        ("owner", "pods", rule("", "pods", "get"), 403),
        ("owner", "any", rule("", "services", "*"), 403),
        ("escalator", "all", rule("*", "*", "*"), 201),
        ("binder", "all2", rule("", "services", "get"), 403),
    ] {
        let answer = users.json(user, Method::POST, &roles, &role(name, &rules)).await;
        assert_eq!(answer.status, expected, "{user} {name}: {}", answer.body);
        if expected == 403 && user == "owner" {
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.contains("not currently held:\n{APIGroups:"), "{message}");
            assert_eq!(users.newest(user, true).await["verb"], "create");
        }
    }
    // A change of a role counts as much, whichever way it comes; one that adds nothing passes.
    let more = json!({ "rules": rule("*", "*", "*") });
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    for (path, change, expected) in [
        (format!("{roles}/own"), &more, 403),
        (format!("{roles}/own"), &label, 200),
        (format!("{roles}/all"), &label, 200),
        (format!("{roles}/own?dryRun=All"), &more, 403),
    ] {
        let answer = users
            .ask("owner", Method::PATCH, &path, "application/merge-patch+json", change.to_string())
            .await;
        assert_eq!(answer.status, expected, "{path}: {}", answer.body);
    }
    let mut whole = role("own", &rule("*", "*", "*"));
    users.json("owner", Method::PUT, &format!("{roles}/own"), &whole).await.fails(403, "Forbidden");
    whole["metadata"]["name"] = json!("own");
    let applied = format!("{roles}/own?fieldManager=x&force=true");
    let type_ = "application/apply-patch+yaml";
    users.ask("owner", Method::PATCH, &applied, type_, whole.to_string()).await.fails(403, "Forbidden");

    for (user, kind, name, expected) in [
        ("owner", "ClusterRole", "view", 201),
        ("owner", "ClusterRole", "admin", 201),
        ("owner", "Role", "less", 201),
        ("owner", "Role", "all", 403),
        ("owner", "ClusterRole", "cluster-admin", 403),
        ("owner", "Role", "missing", 403),
        ("binder", "ClusterRole", "edit", 201),
        ("binder", "ClusterRole", "admin", 403),
        ("ann", "ClusterRole", "view", 403),
    ] {
        let mut wanted = binding("RoleBinding", "carl", kind, name);
        wanted["metadata"]["name"] = json!(format!("{user}-{kind}-{name}").to_ascii_lowercase());
        let answer = users.json(user, Method::POST, &bindings, &wanted).await;
        assert_eq!(answer.status, expected, "{user} {kind} {name}: {}", answer.body);
    }
    // It counts at once.
    users.json("carl", Method::GET, "/api/v1/namespaces/shop/services", &Value::Null).await.expect(200);
    let path = format!("{bindings}/owner-clusterrole-view");
    let other = json!({ "roleRef": { "kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io" } });
    let refused = users.api.patch(&path, "merge-patch", &other).await.fails(422, "Invalid");
    assert!(refused["message"].as_str().unwrap().contains("cannot change roleRef"), "{refused}");
    // A group can be added by who has the role's rights alone.
    let more =
        json!({ "subjects": [{ "kind": "Group", "name": "all", "apiGroup": "rbac.authorization.k8s.io" }] });
    users.api.post(&bindings, &binding("RoleBinding", "root", "Role", "all")).await.expect(201);
    let patch = |path: String| {
        users.ask("owner", Method::PATCH, leak(path), "application/merge-patch+json", more.to_string())
    };
    patch(format!("{bindings}/root-all")).await.fails(403, "Forbidden");
    patch(path).await.expect(200);
}

fn leak(text: String) -> &'static str {
    text.leak()
}

#[tokio::test]
async fn tokens_and_certificates_are_given_by_who_could_be_their_users() {
    let mut users = Users::start().await;
    users.add("ann", &["devs"]).await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = users.json("ann", Method::POST, who, &json!({})).await.expect(201);
    let expected = json!({ "username": "ann", "groups": ["devs", "system:authenticated"] });
    assert_eq!(review["status"]["userInfo"], expected);
    let rules = json!([
        { "nonResourceURLs": ["/tulle/v1alpha1/users", "/tulle/v1alpha1/usertokens"], "verbs": ["post"] },
        { "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"] },
        { "apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["devs"] },
    ]);
    let role = json!({ "metadata": { "name": "hirer" }, "rules": rules });
    users.api.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
    users.bind("ann", "hirer", "").await;
    for path in ["/tulle/v1alpha1/users", "/tulle/v1alpha1/usertokens"] {
        for (name, groups, ttl, expected) in [
            ("bob", &["devs"][..], 60, 201),
            ("bob", &["system:masters"], 60, 403),
            ("carl", &[], 60, 403),
            ("system:serviceaccount:shop:web", &[], 60, 403),
            ("bob", &[], 0, 400),
            ("bob", &[], 400 * 24 * 3600, 400),
            ("", &[], 60, 400),
        ] {
            let wanted = json!({ "name": name, "groups": groups, "ttlSeconds": ttl });
            let answer = users.json("ann", Method::POST, path, &wanted).await;
            assert_eq!(answer.status, expected, "{path} {wanted}: {}", answer.body);
        }
    }
    let entry = users.newest("ann", false).await;
    assert_eq!(entry["diff"]["token"]["name"], "bob", "{entry}");
    assert!(entry["diff"]["token"].get("token").is_none(), "{entry}");
    // By headers, too.
    let as_user = async |name: &str, group: &str| {
        let body = json!({}).to_string();
        let bearer = format!("Bearer {}", users.tokens["ann"]);
        let mut headers = vec![("impersonate-user", name), ("authorization", bearer.as_str())];
        if !group.is_empty() {
            headers.push(("impersonate-group", group));
        }
        send(users.connection.clone(), Method::POST, who, &headers, body).await
    };
    let bob = as_user("bob", "devs").await.expect(201);
    assert_eq!(bob["status"]["userInfo"]["username"], "bob");
    as_user("bob", "system:masters").await.fails(403, "Forbidden");
    as_user("admin", "").await.fails(403, "Forbidden");

    // What is wrong with a token is all the same.
    let good = users.tokens["ann"].clone();
    let (id, secret) = good.strip_prefix("tulle_").unwrap().split_once('_').unwrap();
    let other = format!("{}{}", if secret.starts_with('0') { '1' } else { '0' }, &secret[1..]);
    for bad in [
        format!("tulle_{id}_{other}"),
        format!("tulle_{id}"),
        format!("tulle_{id}_"),
        format!("{id}_{secret}"),
        format!("tulle_0000000000000000_{secret}"),
        String::new(),
    ] {
        let bearer = format!("Bearer {bad}");
        let headers = [("authorization", bearer.as_str())];
        send(users.connection.clone(), Method::GET, "/api", &headers, String::new())
            .await
            .fails(401, "Unauthorized");
    }
    // A list has no secrets, and who is revoked is nobody.
    let tokens = users.api.get("/tulle/v1alpha1/usertokens").await.expect(200);
    assert!(!tokens.to_string().contains(secret), "{tokens}");
    users.json("ann", Method::GET, "/api", &Value::Null).await.expect(200);
    users.api.delete(&format!("/tulle/v1alpha1/usertokens/{id}"), &Value::Null).await.expect(200);
    users.json("ann", Method::GET, "/api", &Value::Null).await.fails(401, "Unauthorized");
    users.api.delete(&format!("/tulle/v1alpha1/usertokens/{id}"), &Value::Null).await.fails(404, "NotFound");
}

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
