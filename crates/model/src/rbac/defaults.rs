//! The roles and bindings that every mesh has (Kubernetes, "Default roles and role bindings"), and how they are kept: what is
//! missing of them is put back when a server starts, and what was added stays.
//!
//! They differ from Kubernetes' on purpose: `edit` does not read Secrets. As there, nobody but who has a role of his own for it
//! writes EndpointSlices: the addresses in one may be of another namespace (CVE-2021-25740).

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{ADMINISTRATORS, AUTHENTICATED, covers, rules_of};
use crate::kinds::flow::account::{SERVICE_ACCOUNTS, USE};
use crate::kinds::role::PolicyRule;
use crate::registry::{Kind, KindId};

/// An object whose annotation of this name is `false` is left as it is.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
const GATEWAY: &str = "gateway.networking.k8s.io";
const TULLE: &str = "tulle.dev";

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

fn paths(paths: &[&str], verbs: &[&str]) -> Value {
    json!({ "nonResourceURLs": paths, "verbs": verbs })
}

/// What who looks may see: everything but Secrets and roles.
fn view() -> Vec<Value> {
    vec![
        rule(
            &[""],
            &["services", "services/status", "namespaces", "namespaces/status", "events", "configmaps"],
            &READ,
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], &READ),
        rule(&["events.k8s.io"], &["events"], &READ),
        rule(&[GATEWAY, TULLE], &["*"], &READ),
        paths(&["/tulle/v1alpha1/edges", "/tulle/v1alpha1/destinations", "/tulle/v1alpha1/nodes"], &["get"]),
    ]
}

/// What who works in a namespace may change: everything about its traffic, and neither Secrets nor roles.
fn edit() -> Vec<Value> {
    let mut rules = view();
    rules.extend([
        rule(&[""], &["services", "configmaps"], &WRITE),
        rule(&[GATEWAY], &["*"], &WRITE),
        rule(&[TULLE], &["authorizationpolicies", "workloads", "externalservices", "flows"], &WRITE),
        // As in Kubernetes who makes Pods: a Flow calls as any account of its namespace.
        rule(&[""], &[SERVICE_ACCOUNTS], &[USE]),
        rule(&[TULLE], &["flowruns"], &["delete"]),
        rule(
            &[TULLE],
            &["flows/run", "flowruns/suspend", "flowruns/resume", "flowruns/cancel", "flowruns/retry"],
            &["create"],
        ),
    ]);
    rules
}

fn admin() -> Vec<Value> {
    let mut rules = edit();
    rules.extend([
        rule(&[""], &["secrets"], &[&READ[..], &WRITE].concat()),
        rule(&["rbac.authorization.k8s.io"], &["roles", "rolebindings"], &[&READ[..], &WRITE].concat()),
    ]);
    rules
}

/// For who adds hosts to the mesh and takes them away: tokens to join with, and the nodes.
fn node() -> Vec<Value> {
    vec![
        rule(&[TULLE], &["nodes", "nodes/status", "workloads"], &READ),
        rule(&[TULLE], &["nodes"], &["update", "patch", "delete"]),
        paths(&["/tulle/v1alpha1/tokens"], &["get", "post"]),
        paths(&["/tulle/v1alpha1/tokens/*", "/tulle/v1alpha1/nodes/*"], &["delete"]),
        paths(&["/tulle/v1alpha1/nodes"], &["get"]),
    ]
}

/// What everybody may know who has shown who he is: which kinds there are.
fn discovery() -> Vec<Value> {
    let known = [
        "/",
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/openapi",
        "/openapi/*",
        "/healthz",
        "/livez",
        "/readyz",
        "/version",
    ];
    vec![paths(&known, &["get"])]
}

/// What everybody may ask about himself.
fn basic_user() -> Vec<Value> {
    vec![
        rule(
            &["authorization.k8s.io"],
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            &["create"],
        ),
        rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
    ]
}

/// All of them, roles first.
pub fn objects() -> Vec<(KindId, Value)> {
    let metadata = |name: &str| {
        json!({
            "name": name,
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
            "annotations": { AUTOUPDATE: "true" },
        })
    };
    let everything = vec![rule(&["*"], &["*"], &["*"]), paths(&["*"], &["*"])];
    let roles = [
        ("cluster-admin", everything),
        ("admin", admin()),
        ("edit", edit()),
        ("view", view()),
        ("node", node()),
        ("system:discovery", discovery()),
        ("system:basic-user", basic_user()),
    ];
    let roles = roles
        .map(|(name, rules)| (KindId::ClusterRole, json!({ "metadata": metadata(name), "rules": rules })));
    let bindings = [
        ("cluster-admin", ADMINISTRATORS),
        ("system:discovery", AUTHENTICATED),
        ("system:basic-user", AUTHENTICATED),
    ];
    let bindings = bindings.map(|(name, group)| {
        let binding = json!({
            "metadata": metadata(name),
            "roleRef": { "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "Group", "name": group }],
        });
        (KindId::ClusterRoleBinding, binding)
    });
    roles.into_iter().chain(bindings).collect()
}

/// The rules that a ClusterRole of a default's name has after the next start; none where it stays as it is.
pub fn restored(kind: &Kind, name: &str, there: &Value) -> Option<Vec<PolicyRule>> {
    let completed = completed(there, default_role(kind, name)?)?;
    Some(rules_of(&completed))
}

/// The rules of the default role of that name.
pub fn rules_of_default(kind: &Kind, name: &str) -> Option<Vec<PolicyRule>> {
    default_role(kind, name).map(rules_of)
}

fn default_role(kind: &Kind, name: &str) -> Option<&'static Value> {
    static ROLES: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let roles = objects().into_iter().filter(|(kind, _)| *kind == KindId::ClusterRole);
        roles.map(|(_, role)| role).collect()
    });
    let named = |role: &&Value| role["metadata"]["name"] == name;
    if kind.id == KindId::ClusterRole { ROLES.iter().find(named) } else { None }
}

/// What is there of a default object, with what is missing of it; none where nothing is, or somebody wants it as it is.
pub fn completed(there: &Value, wanted: &Value) -> Option<Value> {
    if there["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let (field, missing): (_, Vec<Value>) = if wanted.get("rules").is_some() {
        let had = rules_of(there);
        let had: Vec<&PolicyRule> = had.iter().collect();
        let wanted = wanted["rules"].as_array().into_iter().flatten();
        let lacks = |rule: &&Value| {
            let rules = rules_of(&json!({ "rules": [rule] }));
            covers(&had, &rules).is_err()
        };
        ("rules", wanted.filter(lacks).cloned().collect())
    } else {
        let had = there["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |subject: &Value| {
            had.iter().any(|had| had["kind"] == subject["kind"] && had["name"] == subject["name"])
        };
        let wanted = wanted["subjects"].as_array().into_iter().flatten();
        ("subjects", wanted.filter(|subject| !has(subject)).cloned().collect())
    };
    if missing.is_empty() {
        return None;
    }
    let mut completed = there.clone();
    match completed[field].as_array_mut() {
        Some(items) => items.extend(missing),
        None => completed[field] = missing.into(),
    }
    Some(completed)
}
