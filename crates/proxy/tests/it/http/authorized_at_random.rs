//! What nodes do with requests under drawn policies, beside what `tulle auth check` says of them: the decision over the request
//! as its client sends it, and over policies as the server compiles them.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use tulle_model::authorization::{RequestSeen, Traffic, Visitor, decide};
use tulle_model::compile::{Change, Compiler};
use tulle_model::identity::TrustDomain;
use tulle_model::name::{NamespacedName, WorkloadName};
use tulle_model::registry::of_object;
use tulle_model::snapshot::WorkloadConfig;

use super::apps::{self, full, http1, http2, read};
use super::explained::generate::Dice;
use super::mesh::{Node, Path, Way, identity, path};

const PATHS: [&str; 16] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/%61",
    "/a%2fb",
    "/a//b",
    "/a;b",
    "/a/../b",
    "/a/%2e",
    "/a%20b",
    "/S/M",
    "/S/N?q=/a",
    "/x?y=/a",
];
const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "get", "PURGE"];
const HOSTS: [&str; 6] = ["c", "C.", "x.c", "c.default:80", "a.x.c", "192.0.2.1"];
const ROLES: [&[&str]; 5] = [&[], &["admin"], &["user"], &["user", "admin"], &["user, admin"]];

const CONDITIONS: [&str; 10] = [
    "request.path.startsWith('/a')",
    "request.path.matches('^/a/[bc]')",
    "request.method == 'GET'",
    "request.host.endsWith('c')",
    "request.headers['x-role'] == 'admin'",
    "!('x-role' in request.headers)",
    "source.serviceAccount == 'a' && source.namespace == 'default'",
    "source.principal.startsWith('spiffe://other')",
    "destination.port == 80",
    "size(request.path) / (size(request.path) - 2) > 0",
];

/// Some of these, or nothing said.
fn some(dice: &mut Dice, percent: usize, of: &[Value]) -> Option<Value> {
    if !dice.percent(percent) {
        return None;
    }
    let count = 1 + dice.below(2);
    Some((0..count).map(|_| of[dice.below(of.len())].clone()).collect())
}

fn rule(dice: &mut Dice, port: u16) -> Value {
    let account = |name: &str| json!({ "type": "ServiceAccount", "serviceAccount": { "name": name } });
    let sources = [
        account("a"),
        account("b"),
        account("*"),
        json!({ "type": "Namespace", "namespace": "default" }),
        json!({ "type": "Namespace", "namespace": "other" }),
        json!({ "type": "SPIFFE", "spiffe": "spiffe://mesh.test/ns/*/sa/a" }),
        json!({ "type": "SPIFFE", "spiffe": "spiffe://*/ns/other/**" }),
        json!({ "type": "TrustDomain", "trustDomain": "mesh.test" }),
        json!({ "type": "External" }),
    ];
    let path = |kind: &str, value: &str| json!({ "type": kind, "value": value });
    let paths = [
        path("Exact", "/a"),
        path("Exact", "/a/b"),
        path("Exact", "/a%20b"),
        path("PathPrefix", "/a"),
        path("PathPrefix", "/"),
        path("PathPrefix", "/x"),
        path("Template", "/a/{x}"),
        path("Template", "/{any=**}"),
    ];
    let mut rule = json!({});
    match dice.below(12) {
        0 => rule["sources"] = json!([]),
        1..=7 => rule["sources"] = some(dice, 100, &sources).unwrap_or_default(),
        _ => {}
    }
    if dice.percent(20) {
        rule["networkAttributes"] = json!({ "ports": [dice.pick(&[80, port, 1])] });
    }
    if dice.percent(60) {
        let mut http = json!({});
        let fields: [(&str, usize, &[Value]); 3] = [
            ("methods", 50, &["GET", "POST", "DELETE"].map(Value::from)),
            ("paths", 50, &paths),
            ("hosts", 20, &["c", "*.c", "c.default", "192.0.2.1"].map(Value::from)),
        ];
        for (field, percent, of) in fields {
            if let Some(some) = some(dice, percent, of) {
                http[field] = some;
            }
        }
        if dice.percent(20) {
            http["headers"] = json!([{ "name": "X-Role", "value": "admin" }]);
        }
        rule["http"] = http;
    }
    if dice.percent(15) {
        rule["when"] = dice.pick(&CONDITIONS).into();
    }
    if dice.percent(10) {
        rule["grpc"] = json!({ "methods": [{ "service": "S", "method": dice.pick(&["M", "N"]) }] });
    }
    rule
}

fn policies(dice: &mut Dice, port: u16) -> Vec<Value> {
    let policy = |number: usize, dice: &mut Dice| {
        let target = match dice.below(4) {
            0 => json!({ "group": "", "kind": "Service", "name": "c" }),
            1 => {
                json!({ "group": "tulle.dev", "kind": "Workload", "selector": { "matchLabels": { "app": "c" } } })
            }
            2 => {
                json!({ "group": "tulle.dev", "kind": "Workload", "selector": { "matchLabels": { "app": "d" } } })
            }
            _ => json!({ "group": "", "kind": "Namespace" }),
        };
        let action = dice.pick(&["Allow", "Allow", "Deny", "Audit"]);
        let rules: Vec<_> = (0..1 + dice.below(3)).map(|_| rule(dice, port)).collect();
        json!({
            "apiVersion": "tulle.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": { "name": format!("p{number}"), "namespace": "default" },
            "spec": { "targetRefs": [target], "action": action, "rules": rules },
        })
    };
    (0..1 + dice.below(4)).map(|number| policy(number, dice)).collect()
}

/// What the server would tell the node of the workload `c-0`.
fn told(policies: &[Value], denies: bool, port: u16) -> Arc<WorkloadConfig> {
    let mut compiler = Compiler::new(TrustDomain::new("mesh.test").unwrap());
    let default = if denies { "Deny" } else { "Allow" };
    let mesh = json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
        "spec": { "authorization": { "default": default } },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "c", "namespace": "default" },
        "spec": { "selector": { "app": "c" }, "ports": [{ "port": 80, "targetPort": port }] },
    });
    let workload = json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "Workload",
        "metadata": { "name": "c-0", "namespace": "default", "labels": { "app": "c" } },
        "spec": { "address": "127.0.0.1", "ports": [{ "port": port }], "node": { "name": "n", "linkAddress": "127.0.0.1:1" } },
    });
    for object in policies.iter().cloned().chain([mesh, service, workload]) {
        let kind = of_object(&object).unwrap();
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        let name = NamespacedName::new(namespace, metadata["name"].as_str().unwrap());
        compiler.apply(Change::Put(kind, Arc::new(object.clone())));
        assert!(compiler.problem(kind, &name).is_none(), "{object} {:?}", compiler.problem(kind, &name));
    }
    compiler.workload(&WorkloadName::new("default", "c-0")).unwrap().config.clone()
}

/// The node that runs the application.
fn node(path: &mut Path, way: Way) -> &mut Node {
    if way == Way::Link { &mut path.far } else { &mut path.near }
}

/// Sends so many requests under each set of policies; how many were let in, denied and found ambiguous.
async fn run(way: Way, seed: u64, sets: usize, requests: usize) -> [usize; 3] {
    let app: SocketAddr = apps::serve(|_| async { http::Response::new(full("in")) }).await;
    let mut path = path(way, tulle_model::snapshot::AppProtocol::Http1, app).await;
    let (mut dice, caller) = (Dice(seed), identity("a"));
    let mut found = [0; 3];
    for _ in 0..sets {
        let policies = policies(&mut dice, app.port());
        let config = told(&policies, dice.percent(20), app.port());
        node(&mut path, way).told((*config).clone());
        let (mut first, mut second) = (http1(path.address).await, http2(path.address).await);
        for _ in 0..requests {
            let (method, target) = (dice.pick(&METHODS), dice.pick(&PATHS));
            let (host, roles) = (dice.pick(&HOSTS), dice.pick(&ROLES));
            let in_http2 = dice.percent(50);
            let mut headers = HeaderMap::new();
            for role in roles {
                headers.append("x-role", role.parse().unwrap());
            }
            let seen = Traffic::Request(RequestSeen {
                method,
                path: target.split('?').next().unwrap(),
                authority: host,
                headers: &headers,
                tokens: &[],
            });
            let expected = decide(&config, Visitor::Mesh(&caller), app.port(), seen);
            let expected = match expected {
                Ok(_) => (200, None),
                Err(denial) => {
                    let reason = denial.reason();
                    (if reason == "bad-request" { 400 } else { 403 }, Some(reason))
                }
            };
            let uri = if in_http2 { format!("http://{host}{target}") } else { target.to_owned() };
            let mut request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).unwrap())
                .uri(uri)
                .body(full(""))
                .unwrap();
            if !in_http2 {
                headers.insert("host", host.parse().unwrap());
            }
            *request.headers_mut() = headers;
            let answer =
                if in_http2 { second.send_request(request).await } else { first.send_request(request).await };
            let answer = read(answer.unwrap()).await;
            let reason = answer.headers.get("tulle-reason").map(|reason| reason.to_str().unwrap().to_owned());
            assert_eq!(
                (answer.status, reason),
                expected,
                "seed {seed} {way:?} http2={in_http2} {method} {host} {target} {roles:?} {}",
                serde_json::to_string_pretty(&policies).unwrap()
            );
            found[match expected.0 {
                200 => 0,
                403 => 1,
                _ => 2,
            }] += 1;
            if first.is_closed() {
                first = http1(path.address).await;
            }
            if second.is_closed() {
                second = http2(path.address).await;
            }
        }
    }
    found
}

#[tokio::test]
async fn nodes_do_what_is_said_of_them() {
    for (seed, way) in [(1, Way::SameNode), (2, Way::Link)] {
        let found = run(way, seed, 40, 50).await;
        assert!(found.iter().all(|count| *count > 50), "{way:?} {found:?}");
    }
}

#[tokio::test]
#[ignore = "takes minutes; after a change of what policies decide, by hand: see CONTRIBUTING.md"]
async fn nodes_do_what_is_said_of_them_in_a_hundred_thousand_requests() {
    for (seed, way) in [(3, Way::SameNode), (4, Way::Link)] {
        let found = run(way, seed, 500, 100).await;
        println!("{way:?}: let in, denied, ambiguous: {found:?}");
    }
}
