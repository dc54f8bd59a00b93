//! What the API warns of, as kubectl shows it.

use http::header::WARNING;
use serde_json::json;

use crate::client::{Answer, SERVICES, TestApi};

const POLICIES: &str = "/apis/tulle.dev/v1alpha1/namespaces/default/authorizationpolicies";
const FLOWS: &str = "/apis/tulle.dev/v1alpha1/namespaces/default/flows";
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

#[tokio::test]
async fn a_name_that_another_has_is_told() {
    let api = TestApi::start().await;
    let flow = |name: &str, trigger: serde_json::Value| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1",
            "kind": "Flow",
            "metadata": { "name": name },
            "spec": { "trigger": trigger, "workflow": {
                "document": { "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0" },
                "do": [{ "one": { "set": { "a": 1 } } }],
            } },
        })
    };
    let service = json!({ "metadata": { "name": "c" }, "spec": { "ports": [{ "port": 80 }] } });
    api.post(SERVICES, &service).await.expect(201);
    for (name, trigger, expected) in [
        ("c", json!({ "http": { "port": 81 } }), "the name is that of Service default/c, which is older"),
        ("d", json!({ "http": {} }), ""),
        ("e", json!({}), ""),
    ] {
        let told = warnings(&api.post(FLOWS, &flow(name, trigger)).await);
        assert_eq!(told.is_empty(), expected.is_empty(), "{name}: {told:?}");
        assert!(expected.is_empty() || told[0].contains(expected), "{name}: {told:?}");
    }
    // The other way round, of what was made a while ago: times are in seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    for (name, is_told) in [("d", true), ("e", false), ("f", false)] {
        let service = json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
        let told = warnings(&api.post(SERVICES, &service).await);
        assert_eq!(told.len(), usize::from(is_told), "{name}: {told:?}");
    }
}

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default";

/// The words of Gateway API: a route is accepted by the API, and its status says what comes of it.
#[tokio::test]
async fn a_route_that_does_nothing_is_told() {
    let api = TestApi::start().await;
    for (name, spec) in [
        ("web", json!({ "ports": [{ "port": 80 }] })),
        ("headless", json!({ "clusterIP": "None", "ports": [{ "port": 80 }] })),
        ("alias", json!({ "type": "ExternalName", "externalName": "x.example" })),
        ("bytes", json!({ "ports": [{ "port": 80, "appProtocol": "tcp" }] })),
        ("plain", json!({ "ports": [{ "port": 80, "appProtocol": "http" }] })),
        (
            "both",
            json!({ "ports": [
            { "name": "a", "port": 80, "appProtocol": "http" }, { "name": "b", "port": 81, "appProtocol": "tcp" },
        ] }),
        ),
    ] {
        api.post(SERVICES, &json!({ "metadata": { "name": name }, "spec": spec })).await.expect(201);
    }
    let apply = async |plural: &str, kind: &str, name: &str, spec: serde_json::Value| {
        let mut route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        if kind == "TLSRoute" {
            route["spec"]["hostnames"] = json!(["x.example"]);
        }
        let path = format!("{ROUTES}/{plural}/{name}?fieldManager=test");
        let answer = api.patch(&path, "apply", &route).await;
        assert!(answer.status.is_success(), "{}", answer.body);
        warnings(&answer)
    };
    let parent = |name: &str| json!([{ "group": "", "kind": "Service", "name": name }]);
    let to = |name: &str| json!([{ "backendRefs": [{ "name": name, "port": 80 }] }]);
    let spec =
        |parents: serde_json::Value, backend: &str| json!({ "parentRefs": parents, "rules": to(backend) });
    for (plural, kind) in [
        ("httproutes", "HTTPRoute"),
        ("grpcroutes", "GRPCRoute"),
        ("tlsroutes", "TLSRoute"),
        ("tcproutes", "TCPRoute"),
    ] {
        let requests = matches!(kind, "HTTPRoute" | "GRPCRoute");
        for (parents, backend, expected) in [
            (json!([]), "web", "spec has no parentRefs: it is the route of no Service"),
            (
                parent("headless"),
                "web",
                "spec.parentRefs[0]: the route does nothing there: Service default/headless is headless",
            ),
            (parent("alias"), "web", "Service default/alias is of type ExternalName"),
            (parent("none"), "web", "there is no Service default/none"),
            (json!([{ "name": "g" }]), "web", "the parent is a Gateway"),
            (
                json!([{ "group": "", "kind": "Service", "name": "web", "port": 81 }]),
                "web",
                "has no TCP port 81",
            ),
            (parent("bytes"), "web", if requests { "does not speak HTTP" } else { "" }),
            (parent("plain"), "web", if kind == "TLSRoute" { "speaks HTTP without TLS" } else { "" }),
            (parent("web"), "web", ""),
            (parent("web"), "none", "spec.rules[0].backendRefs[0]: there is no Service default/none"),
        ] {
            let told = apply(plural, kind, "r", spec(parents.clone(), backend)).await;
            assert_eq!(told.is_empty(), expected.is_empty(), "{kind} {parents} {backend}: {told:?}");
            assert!(expected.is_empty() || told[0].contains(expected), "{kind} {parents}: {told:?}");
        }
        api.delete(&format!("{ROUTES}/{plural}/r"), &json!({})).await.expect(200);
    }
}

/// Which route was there first, age decides; what the later one loses or takes is told at once.
#[tokio::test]
async fn what_routes_take_from_each_other_is_told() {
    let api = TestApi::start().await;
    let service = json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } });
    api.post(SERVICES, &service).await.expect(201);
    let parents = json!([{ "group": "", "kind": "Service", "name": "web" }]);
    let rule = |path: &str, kind: &str| json!({ "matches": [{ "path": { "type": kind, "value": path } }], "backendRefs": [{ "name": "web", "port": 80 }] });
    let apply = async |name: &str, rules: serde_json::Value, query: &str| {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
            "spec": { "parentRefs": parents, "rules": rules },
        });
        let path = format!("{ROUTES}/httproutes/{name}?fieldManager=test{query}");
        let answer = api.patch(&path, "apply", &route).await;
        assert!(answer.status.is_success(), "{}", answer.body);
        warnings(&answer)
    };
    let within = json!([rule("/a", "PathPrefix"), rule("/a", "PathPrefix")]);
    let told = apply("b", within.clone(), "&dryRun=All").await;
    assert!(
        told.len() == 1 && told[0].contains("spec.rules[1].matches[0]: no request reaches it"),
        "{told:?}"
    );
    assert!(apply("b", json!([rule("/x/.*", "RegularExpression")]), "").await.is_empty());
    // A prefix comes before patterns, whoever was first.
    let told = apply("a", json!([rule("/x", "PathPrefix")]), "").await;
    let lost = "HTTPRoute default/b, spec.rules[0].matches[0]: no request reaches it";
    assert!(told.len() == 1 && told[0].contains(lost), "{told:?}");
    let calls = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": { "name": "calls" },
        "spec": { "parentRefs": parents, "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] },
    });
    let answer = api.post(&format!("{ROUTES}/grpcroutes"), &calls).await;
    let told = warnings(&answer);
    let lost =
        "HTTPRoute default/a, spec.parentRefs[0]: the route does nothing there: port 80 has GRPCRoutes";
    assert!(told.len() == 2 && told[0].contains(lost), "{told:?}");
    let told = apply("a", json!([rule("/x", "PathPrefix")]), "").await;
    assert!(told.len() == 1 && told[0].contains("port 80 has GRPCRoutes, which come first"), "{told:?}");
}
