//! What a node that was taken over may try: it sees what its workloads use, and the audit log names what it was refused.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use tonic::Code;
use tulle_model::registry::KindId;
use tulle_server::audit::{AuditEntry, AuditFilter};
use tulle_wire::discovery::Service;
use tulle_wire::node::{NodeReport, Summary, Telemetry};
use tulle_wire::type_url::{ENDPOINTS, MESH, SERVICE, WORKLOAD};

use crate::client::{PATIENCE, Reports, TestNode, TestServer, route, service, workload};

/// What a node gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gets {
    Told,
    /// There is no such thing.
    Nothing,
    /// The same, and the audit log says what it wanted.
    Hidden,
    /// An error, which the audit log has.
    Refused,
}
use Gets::{Hidden, Nothing, Refused, Told};

/// The nodes: of shop, of bank, and one that may run workloads of bank and runs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Shop,
    Bank,
    Idle,
}
use Who::{Bank, Idle, Shop};

struct Mesh {
    server: TestServer,
    nodes: BTreeMap<Who, TestNode>,
    reports: BTreeMap<Who, Reports>,
}

const SECRETS: &str = "type.googleapis.com/tulle.discovery.v1.Secret";
const ROLES: &str = "type.googleapis.com/tulle.discovery.v1.ClusterRole";
const KEYS: &str = "https://issuer.example/keys";

/// What each may subscribe to, by type and name.
const SUBSCRIPTIONS: &[(Who, &str, &str, Gets)] = &[
    (Shop, WORKLOAD, "shop/cart-0", Told),
    (Shop, WORKLOAD, "bank/till-0", Hidden),
    (Shop, WORKLOAD, "shop/cart-1", Nothing),
    (Bank, WORKLOAD, "bank/till-0", Told),
    (Bank, WORKLOAD, "shop/cart-0", Hidden),
    (Bank, WORKLOAD, "shop/other-0", Nothing),
    (Idle, WORKLOAD, "shop/cart-0", Hidden),
    (Idle, WORKLOAD, "bank/till-0", Hidden),
    (Idle, WORKLOAD, "bank/till-1", Nothing),
    (Bank, WORKLOAD, "*", Nothing),
    (Bank, WORKLOAD, "shop/*", Nothing),
    (Bank, WORKLOAD, "", Nothing),
    (Bank, WORKLOAD, "shop", Nothing),
    (Bank, WORKLOAD, "bank/../shop/cart-0", Nothing),
    // By its name, as its workloads may call it; there is no list of names.
    (Shop, SERVICE, "shop/cart", Told),
    (Bank, SERVICE, "shop/cart", Told),
    (Bank, SERVICE, "shop/none", Nothing),
    (Bank, SERVICE, "*", Nothing),
    (Bank, SERVICE, "", Nothing),
    (Bank, SERVICE, "shop/*", Nothing),
    (Bank, SERVICE, "*/cart", Nothing),
    (Bank, SERVICE, "shop", Nothing),
    (Bank, SERVICE, "shop/", Nothing),
    (Bank, SERVICE, "/cart", Nothing),
    (Bank, SERVICE, "SHOP/CART", Nothing),
    (Bank, SERVICE, "shop/cart.", Nothing),
    (Bank, SERVICE, "../shop/cart", Nothing),
    (Bank, SERVICE, "/registry/core/secrets/shop/key", Nothing),
    (Bank, SERVICE, "shop/key", Nothing),
    (Bank, ENDPOINTS, "shop/cart", Told),
    (Bank, ENDPOINTS, "*", Nothing),
    (Bank, ENDPOINTS, "shop/*", Nothing),
    (Bank, ENDPOINTS, "shop/none", Nothing),
    // Who runs nothing uses nothing.
    (Idle, SERVICE, "shop/cart", Hidden),
    (Idle, SERVICE, "bank/till", Hidden),
    (Idle, SERVICE, "shop/none", Hidden),
    (Idle, SERVICE, "*", Hidden),
    (Idle, ENDPOINTS, "shop/cart", Hidden),
    (Idle, ENDPOINTS, "bank/till", Hidden),
    (Idle, ENDPOINTS, "shop/none", Hidden),
    (Idle, MESH, "default", Told),
    (Idle, MESH, "*", Nothing),
    (Bank, MESH, "other", Nothing),
    // Of these there is nothing to subscribe to.
    (Shop, SECRETS, "shop/key", Refused),
    (Bank, SECRETS, "shop/key", Refused),
    (Bank, ROLES, "cluster-admin", Refused),
    (Idle, "type.googleapis.com/tulle.discovery.v1.AuthorizationPolicy", "shop/p", Refused),
    (Idle, "type.googleapis.com/envoy.config.cluster.v3.Cluster", "shop/cart", Refused),
    (Idle, "", "shop/cart", Refused),
];

/// Whose certificates and tokens each may have.
const IDENTITIES: &[(Who, &str, bool)] = &[
    (Shop, "spiffe://mesh.local/ns/shop/sa/cart", true),
    (Shop, "spiffe://mesh.local/ns/shop/sa/till", false),
    (Shop, "spiffe://mesh.local/ns/bank/sa/till", false),
    (Bank, "spiffe://mesh.local/ns/bank/sa/till", true),
    (Bank, "spiffe://mesh.local/ns/shop/sa/cart", false),
    (Bank, "spiffe://mesh.local/ns/bank/sa/till2", false),
    (Bank, "spiffe://other.local/ns/bank/sa/till", false),
    (Bank, "spiffe://mesh.local/node/n1", false),
    (Bank, "spiffe://mesh.local/server", false),
    (Bank, "spiffe://mesh.local/ns/bank/sa/*", false),
    (Bank, "", false),
    (Idle, "spiffe://mesh.local/ns/shop/sa/cart", false),
];

/// Waits until the log has an entry about a node.
async fn logged(server: &TestServer, user: &str, verb: &str, object: &str) -> AuditEntry {
    let wanted = AuditFilter {
        denied: true,
        user: Some(user.to_owned()),
        verb: Some(verb.to_owned()),
        object: Some(object.to_owned()),
        limit: 1,
    };
    let found = async {
        loop {
            let entries = server.server.views().audit().read(wanted.clone()).await.unwrap();
            match entries.into_iter().next() {
                Some(entry) => return entry,
                // It is written when there is time.
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("{user} {verb} {object} is not logged"))
}

fn summary(namespace: &str) -> NodeReport {
    let summary = Summary {
        destination_namespace: namespace.to_owned(),
        destination: "cart".to_owned(),
        port: 80,
        ..Default::default()
    };
    let telemetry = Telemetry { summaries: vec![summary], ..Default::default() };
    NodeReport { telemetry: Some(telemetry), ..Default::default() }
}

async fn mesh() -> Mesh {
    let server = TestServer::start().await;
    let policy: Value = json!({
        "metadata": { "namespace": "shop", "name": "p" },
        "spec": {
            "targetRefs": [{ "kind": "Namespace" }],
            "action": "Allow",
            "jwt": { "issuers": [{ "issuer": "https://issuer.example", "audiences": ["a"], "jwks": { "uri": KEYS } }] },
            "rules": [{ "jwt": {} }],
        },
    });
    server.put(KindId::AuthorizationPolicy, "shop", policy).await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    server.put(KindId::Service, "bank", service("bank", "till", 80)).await;
    let secret = json!({ "metadata": { "name": "key" }, "stringData": { "key": "hunter2" } });
    server.put(KindId::Secret, "shop", secret).await;
    let mut nodes = BTreeMap::new();
    let mut reports = BTreeMap::new();
    for (who, name, identity) in
        [(Shop, "n1", "shop/cart"), (Bank, "n2", "bank/till"), (Idle, "n3", "bank/till")]
    {
        nodes.insert(who, server.node(name, &[identity]).await);
    }
    for (who, of, namespace, app) in
        [(Shop, "shop/cart-0", "shop", "cart"), (Bank, "bank/till-0", "bank", "till")]
    {
        let (_, name) = of.split_once('/').unwrap();
        reports.insert(who, nodes[&who].report(vec![workload(namespace, name, app, true)]).await);
        nodes[&who].until_told(of).await;
    }
    Mesh { server, nodes, reports }
}

/// What a node gets of names of a type: all are asked for at once, as the answer to some waits.
async fn subscribe(node: &TestNode, type_url: &str, names: &[&str]) -> BTreeMap<String, Gets> {
    let mut stream = node.discover().await;
    stream.subscribe(type_url, names, &[]).await;
    let mut got = BTreeMap::new();
    while got.len() < names.len() {
        let response = match stream.response().await {
            Ok(response) => response,
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                return names.iter().map(|name| ((*name).to_owned(), Refused)).collect();
            }
        };
        // Nobody is told that something is there, and not for him.
        assert!(response.resource_errors.is_empty(), "{response:?}");
        got.extend(response.resources.into_iter().map(|resource| (resource.name, Told)));
        got.extend(response.removed_resources.into_iter().map(|name| (name, Nothing)));
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_sees_only_what_its_workloads_use() {
    let Mesh { server, nodes, mut reports } = mesh().await;
    let mut attempts = 0;
    let user = |who: Who| format!("system:node:{}", nodes[&who].name);

    let mut asked: BTreeMap<(Who, &str), Vec<&str>> = BTreeMap::new();
    for (who, type_url, name, _) in SUBSCRIPTIONS {
        asked.entry((*who, type_url)).or_default().push(name);
    }
    let mut got = BTreeMap::new();
    for ((who, type_url), names) in &asked {
        got.insert((*who, *type_url), subscribe(&nodes[who], type_url, names).await);
    }
    // From when it says what it runs, it may ask for what it is about to use.
    reports.insert(Idle, nodes[&Idle].report(vec![]).await);
    for (who, type_url, name, expected) in SUBSCRIPTIONS {
        attempts += 1;
        let at = format!("{who:?} {type_url} {name}");
        let got = got[&(*who, *type_url)][*name];
        assert_eq!(got, if *expected == Hidden { Nothing } else { *expected }, "{at}");
        let kind = type_url.rsplit('.').next().unwrap();
        match expected {
            Hidden => drop(logged(&server, &user(*who), "subscribe", &format!("{kind}/{name}")).await),
            Refused => drop(logged(&server, &user(*who), "subscribe", type_url).await),
            Told | Nothing => {}
        }
    }

    for (who, identity, allowed) in IDENTITIES {
        let node = &nodes[who];
        let results = [node.sign(identity).await.map(drop), node.sign_jwt(identity).await.map(drop)];
        for result in results {
            attempts += 1;
            assert_eq!(result.is_ok(), *allowed, "{who:?} {identity}: {result:?}");
            if let Err(status) = result {
                assert!(matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument), "{status}");
                let entry = logged(&server, &user(*who), "sign", identity).await;
                assert_eq!(entry.decision, "denied");
            }
        }
    }
    // A node's own token is nobody's business, its certificate is its own.
    assert!(nodes[&Bank].sign("spiffe://mesh.local/node/n2").await.is_ok());
    assert!(nodes[&Bank].sign_jwt("spiffe://mesh.local/node/n2").await.is_err());
    logged(&server, "system:node:n2", "sign", "node/n2").await;

    // The answer to all of these is the same.
    for (who, source, allowed) in [
        (Shop, KEYS, true),
        (Bank, KEYS, false),
        (Idle, KEYS, false),
        (Shop, "file:/etc/shadow", false),
        (Bank, "http://169.254.169.254/", false),
    ] {
        attempts += 1;
        nodes[&who].read_keys(source).await.unwrap();
        if !allowed {
            logged(&server, &user(who), "readkeys", source).await;
        }
    }

    // What there is to call in a namespace is told to nodes that may have workloads there.
    for (who, namespace, names) in [
        (Shop, "shop", Some(vec!["cart"])),
        (Shop, "bank", None),
        (Bank, "bank", Some(vec!["till"])),
        (Bank, "shop", None),
        (Bank, "*", None),
    ] {
        attempts += 1;
        match (nodes[&who].list_services(namespace, 10).await, names) {
            (Ok(list), Some(names)) => {
                let got: Vec<_> = list.services.iter().map(|s| (s.name.as_str(), s.ports.clone())).collect();
                let expected: Vec<_> = names.into_iter().map(|name| (name, vec![80])).collect();
                assert_eq!((got, list.left_out), (expected, 0), "{who:?} {namespace}");
            }
            (Err(status), None) => {
                assert_eq!(status.code(), Code::PermissionDenied, "{status}");
                logged(&server, &user(who), "list", &format!("services/{namespace}")).await;
            }
            (got, _) => panic!("{who:?} {namespace}: {got:?}"),
        }
    }
    assert_eq!(nodes[&Bank].list_services("bank", 0).await.unwrap().left_out, 1);

    // What it says of workloads that it may not run, or that another node runs.
    for (who, of, namespace, app) in [
        (Bank, "cart-9", "shop", "cart"),
        (Bank, "till-9", "bank", "admin"),
        (Idle, "till-0", "bank", "till"),
        (Idle, "cart-0", "shop", "cart"),
    ] {
        attempts += 1;
        let mut claimed = vec![workload(namespace, of, app, true)];
        if who == Bank {
            claimed.push(workload("bank", "till-0", "till", true));
        }
        let reports = reports.get_mut(&who).unwrap();
        reports.workloads(claimed).await;
        let refused = async {
            while !reports.reply().await.unwrap().refused.iter().any(|refused| refused.name == of) {}
        };
        tokio::time::timeout(PATIENCE, refused).await.unwrap();
        logged(&server, &user(who), "report", &format!("workloads/{namespace}/{of}")).await;
    }
    // What it says was asked of others' workloads.
    for (who, namespace) in [(Bank, "shop"), (Idle, "shop"), (Idle, "bank")] {
        attempts += 1;
        reports[&who].send(summary(namespace)).await;
        logged(&server, &user(who), "report", &format!("summaries/{namespace}")).await;
    }
    assert!(server.server.views().summaries(None).summaries.is_empty());

    // As another one.
    attempts += 1;
    let mut as_other = nodes[&Idle].clone();
    as_other.name = "n1".to_owned();
    let mut claims = as_other.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    assert_eq!(claims.reply_at_all().await.unwrap_err().code(), Code::PermissionDenied);
    logged(&server, "system:node:n3", "report", "nodes/n3").await;
    attempts += 1;
    assert!(
        TestNode::join(server.server.node_address, "n9", &format!("{}x", server.token(&["*"]).await))
            .await
            .is_err()
    );
    logged(&server, "system:anonymous", "join", "nodes/n9").await;

    // One that is revoked is told nothing any more.
    server.server.views().revoke("n2").await.unwrap();
    let refused = match nodes[&Bank].try_discover().await {
        Ok(mut stream) => stream.response().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    logged(&server, "system:node:n2", "discover", "discovery").await;
    let again = nodes[&Bank].read_keys(KEYS).await.unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied, "{again}");
    logged(&server, "system:node:n2", "readkeys", KEYS).await;
    attempts += 2;
    assert!(attempts >= 60, "{attempts}");
    println!("{attempts} attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_consumers_are_told_where_their_namespace_runs_something() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    for consumer in ["bank", "vault"] {
        let mut of = route(consumer, "r", "cart", &[("cart", 1)]);
        of["spec"]["parentRefs"][0]["namespace"] = json!("shop");
        server.put(KindId::Service, consumer, service(consumer, "cart", 80)).await;
        server.put(KindId::HttpRoute, consumer, of).await;
    }
    let node = server.node("n1", &["*"]).await;
    let run = |namespaces: &[&str]| {
        namespaces.iter().map(|namespace| workload(namespace, "w", "w", true)).collect::<Vec<_>>()
    };
    let reports = node.report(run(&["shop"])).await;
    node.until_told("shop/w").await;
    let mut stream = node.discover().await;
    stream.subscribe(SERVICE, &["shop/cart"], &[]).await;
    let mut told = async |expected: &[&str]| loop {
        let response = stream.next_present().await;
        let body = response.resources[0].resource.as_ref().unwrap().value.as_slice();
        let consumers = Service::decode(body).unwrap().ports.remove(0).consumers;
        let consumers: Vec<_> = consumers.into_iter().map(|consumer| consumer.namespace).collect();
        if consumers == expected {
            break;
        }
    };
    told(&[]).await;
    reports.workloads(run(&["shop", "vault"])).await;
    told(&["vault"]).await;
    reports.workloads(run(&["shop", "vault", "bank"])).await;
    told(&["bank", "vault"]).await;
    reports.workloads(run(&["shop", "bank"])).await;
    told(&["bank"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_hears_of_services_when_it_says_what_it_runs() {
    let server = TestServer::start().await;
    server.put(KindId::Service, "shop", service("shop", "cart", 80)).await;
    let node = server.node("n1", &["*"]).await;
    let mut stream = node.discover().await;
    stream.subscribe(SERVICE, &["shop/cart"], &[]).await;
    assert_eq!(stream.next().await.removed_resources, ["shop/cart"]);
    let reports = node.report(vec![workload("shop", "cart-0", "cart", true)]).await;
    assert_eq!(stream.next().await.resources[0].name, "shop/cart");
    // What it runs next may use it.
    reports.workloads(vec![]).await;
    server.put(KindId::Service, "shop", service("shop", "cart", 81)).await;
    assert_eq!(stream.next().await.resources[0].name, "shop/cart");
}
