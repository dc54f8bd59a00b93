//! Flows: their names in the mesh, those who carry them out, and what they are told.

use super::*;
use crate::kinds::flow::FLOW_LABEL;

const SERVICE: KindId = KindId::Service;
const FLOW: KindId = KindId::Flow;

fn flow_object(spec: Value) -> Value {
    let mut spec = spec;
    spec["workflow"] = json!({
        "document": { "dsl": "1.0.3", "namespace": "shop", "name": "order", "version": "0.1.0" },
        "do": [{ "done": { "set": { "a": 1 } } }],
    });
    json!({ "metadata": { "namespace": "shop", "name": "order", "generation": 3 }, "spec": spec })
}

fn flow(spec: Value) -> Change {
    put(FLOW, flow_object(spec))
}

fn triggered(port: u16) -> Value {
    json!({ "serviceAccount": "orders", "trigger": { "http": { "port": port } } })
}

fn made(mut object: Value, at: &str) -> Value {
    object["metadata"]["creationTimestamp"] = json!(at);
    object
}

/// As a node writes it that runs Flows.
fn carrier(workload: &str, account: &str, ready: bool) -> Change {
    let ready = if ready { "True" } else { "False" };
    let object = json!({
        "metadata": { "namespace": "shop", "name": workload, "labels": { (FLOW_LABEL): "order" } },
        "spec": {
            "address": "192.0.2.9",
            "ports": [{ "name": "trigger", "port": 15020 }],
            "serviceAccount": account,
            "node": { "name": "n1", "linkAddress": "192.0.2.1:15008" },
        },
        "status": { "conditions": [{
            "type": "Ready", "status": ready, "reason": "Probe", "message": "", "lastTransitionTime": ""
        }] },
    });
    put(KindId::Workload, object)
}

/// `Accepted=True`, or `Accepted=Conflicted`, each with what it says.
fn told(compiler: &Compiler) -> Vec<(String, String)> {
    let conditions = compiler.flow_status(&name("shop/order")).unwrap_or_default();
    let told = conditions.iter().map(|condition| {
        let holds = if condition.status { "True" } else { condition.reason };
        (format!("{}={holds}", condition.kind), condition.message.clone())
    });
    told.collect()
}

fn states(compiler: &Compiler) -> Vec<String> {
    told(compiler).into_iter().map(|(state, _)| state).collect()
}

fn endpoints(compiler: &Compiler) -> Option<Vec<(String, u16)>> {
    let set = compiler.endpoints(&name("shop/order"))?;
    let of = |endpoint: &Arc<crate::snapshot::Endpoint>| {
        let identity = endpoint.identity.as_ref().map(|identity| identity.as_str().to_owned());
        (identity.unwrap_or_default(), endpoint.ports[0].target_port)
    };
    Some(set.endpoints.iter().map(of).collect())
}

#[test]
fn a_flow_with_a_trigger_is_a_service_of_those_who_carry_it_out() {
    let mut compiler = compiler();
    let effects = compiler.apply(flow(triggered(8000)));
    assert_eq!(
        (&effects.services[..], &effects.endpoints[..]),
        (&[name("shop/order")][..], &[name("shop/order")][..])
    );
    assert_eq!(effects.statuses, [(kind(FLOW), name("shop/order"))]);
    let config = compiler.service(&name("shop/order")).unwrap();
    let port = &config.ports[0];
    assert_eq!((port.number, &*port.name, port.protocol), (8000, "http", AppProtocol::Http1));
    assert_eq!(endpoints(&compiler), Some(vec![]));
    assert_eq!(states(&compiler), ["Accepted=True", "Programmed=NoRunner"]);
    assert!(told(&compiler)[1].1.contains("--flows shop`"), "{:?}", told(&compiler));

    // A label is not enough: anybody in the namespace may have written it.
    compiler.apply(carrier("somebody", "other", true));
    assert_eq!((endpoints(&compiler), states(&compiler)[1].as_str()), (Some(vec![]), "Programmed=NoRunner"));
    let effects = compiler.apply(carrier("order-n1", "orders", false));
    assert_eq!(effects.statuses, [(kind(FLOW), name("shop/order"))]);
    assert_eq!((endpoints(&compiler), states(&compiler)[1].as_str()), (Some(vec![]), "Programmed=Pending"));
    compiler.apply(carrier("order-n1", "orders", true));
    let orders = "spiffe://mesh.local/ns/shop/sa/orders".to_owned();
    assert_eq!(endpoints(&compiler), Some(vec![(orders, 15020)]));
    assert_eq!(told(&compiler)[1], ("Programmed=True".to_owned(), "carried out by n1".to_owned()));
    // What others say of addresses is not for Flows, nor are slices of ours.
    let slice = json!({
        "metadata": { "namespace": "shop", "name": "s", "labels": { "kubernetes.io/service-name": "order" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["192.0.2.66"] }],
        "ports": [{ "name": "http", "port": 1 }],
    });
    compiler.apply(put(KindId::EndpointSlice, slice));
    assert_eq!(endpoints(&compiler).map(|all| all.len()), Some(1));
    assert_eq!(compiler.own_slices(&name("shop/order")), []);
    assert_eq!(compiler.standing(&name("shop/order")).map(|standing| standing.endpoints.len()), Some(1));

    // Another account, and those who call as the first are no longer of it.
    let mut other = triggered(8000);
    other["serviceAccount"] = json!("other");
    compiler.apply(flow(other));
    assert_eq!(endpoints(&compiler).unwrap()[0].0, "spiffe://mesh.local/ns/shop/sa/other");
    compiler.apply(delete(FLOW, "shop/order"));
    assert_eq!((endpoints(&compiler), compiler.service(&name("shop/order"))), (None, None));
    assert!(compiler.flow_status(&name("shop/order")).is_none());
}

#[test]
fn a_flow_without_a_trigger_has_no_name() {
    let mut compiler = compiler();
    compiler.apply_all([flow(json!({})), carrier("order-n1", "default", true)]);
    assert_eq!(compiler.service(&name("shop/order")), None);
    assert_eq!(states(&compiler), ["Accepted=True", "Programmed=True"]);
}

#[test]
fn of_a_service_and_a_flow_of_one_name_the_older_has_it() {
    let (first, second) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
    let service = |at: &str| {
        let spec = json!({ "selector": { "app": "order" }, "ports": [{ "port": 9 }] });
        put(SERVICE, made(json!({ "metadata": { "namespace": "shop", "name": "order" }, "spec": spec }), at))
    };
    let flow = |at: &str| put(FLOW, made(flow_object(triggered(80)), at));
    let order = name("shop/order");
    for (service, flow, flow_has_it) in [
        (service(first), flow(second), false),
        (service(second), flow(first), true),
        (service(first), flow(first), false),
    ] {
        for changes in [[service.clone(), flow.clone()], [flow.clone(), service.clone()]] {
            let mut compiler = compiler();
            let [one, other] = changes;
            compiler.apply(one);
            let effects = compiler.apply(other);
            let port = compiler.service(&order).unwrap().ports[0].number;
            assert_eq!(port, if flow_has_it { 80 } else { 9 });
            assert_eq!(
                states(&compiler)[0],
                if flow_has_it { "Accepted=True" } else { "Accepted=Conflicted" }
            );
            let refusal = compiler.refusal(SERVICE, &order).map(|refusal| refusal.reason);
            assert_eq!(refusal, flow_has_it.then_some("Conflicted"));
            assert_eq!(effects.statuses.contains(&(kind(SERVICE), order.clone())), flow_has_it);
            // Whoever is left has it.
            let (gone, left, port) = if flow_has_it { (FLOW, SERVICE, 9) } else { (SERVICE, FLOW, 80) };
            let effects = compiler.apply(delete(gone, "shop/order"));
            assert_eq!(compiler.service(&order).unwrap().ports[0].number, port);
            assert_eq!(compiler.refusal(left, &order), None);
            assert!(effects.statuses.contains(&(kind(left), order.clone())));
        }
    }
}

#[test]
fn what_does_not_read_leaves_what_there_was() {
    let mut compiler = compiler();
    compiler.apply(flow(triggered(8000)));
    let mut broken = flow_object(triggered(9000));
    broken["spec"]["workflow"]["do"][0]["done"] = json!({ "nothing": {} });
    broken["metadata"]["generation"] = json!(4);
    compiler.apply(put(FLOW, broken.clone()));
    assert_eq!(compiler.service(&name("shop/order")).unwrap().ports[0].number, 8000);
    assert_eq!(states(&compiler), ["Accepted=Invalid", "Programmed=NoRunner"]);
    let accepted = &compiler.flow_status(&name("shop/order")).unwrap()[0];
    assert!(accepted.message.starts_with("spec.workflow.do[0].done"), "{accepted:?}");
    assert!(accepted.message.ends_with("; generation 3 stays in force"), "{accepted:?}");
    assert_eq!(accepted.observed_generation, Some(4));
    compiler.apply_all([delete(FLOW, "shop/order"), put(FLOW, broken)]);
    assert_eq!(
        (states(&compiler), compiler.service(&name("shop/order"))),
        (vec!["Accepted=Invalid".into()], None)
    );
}

#[test]
fn a_flow_is_the_backend_of_an_http_route() {
    let mut compiler = compiler();
    let to = |port: Value| json!([{ "group": "tulle.dev", "kind": "Flow", "name": "order", "port": port }]);
    let web = || service("web", json!({ "port": 80, "appProtocol": "http" }));
    compiler.apply_all([web(), http_route("r", "web", to(Value::Null))]);
    let resolved = |compiler: &Compiler| {
        let status = &compiler.route_status(kind(KindId::HttpRoute), &name("shop/r")).unwrap()[0];
        (status.conditions[1].reason, status.conditions[1].message.clone())
    };
    assert_eq!(resolved(&compiler).0, "BackendNotFound");
    compiler.apply(flow(json!({})));
    assert_eq!(resolved(&compiler).0, "BackendNotFound", "nobody can call it");
    compiler.apply(flow(triggered(8000)));
    assert_eq!(resolved(&compiler).0, "ResolvedRefs", "{}", resolved(&compiler).1);
    let target = || BackendTarget::Service { name: name("shop/order"), port: 8000 };
    assert_eq!(backends(&compiler, "shop/web")[0][0].target, target());
    compiler.apply(http_route("r", "web", to(json!(8000))));
    assert_eq!(backends(&compiler, "shop/web")[0][0].target, target());
    compiler.apply(http_route("r", "web", to(json!(81))));
    assert!(resolved(&compiler).1.contains("its trigger's is 8000"), "{:?}", resolved(&compiler));
    // It is no Service, nor is a Service one.
    compiler.apply(http_route("r", "web", json!([{ "name": "order", "port": 8000 }])));
    assert!(
        resolved(&compiler).1.contains("write `group: tulle.dev` and `kind: Flow`"),
        "{:?}",
        resolved(&compiler)
    );
    compiler.apply(http_route("r", "web", json!([{ "group": "tulle.dev", "kind": "Flow", "name": "web" }])));
    assert_eq!(resolved(&compiler).0, "BackendNotFound");
    // And no parent, nor for calls of gRPC.
    compiler.apply(http_route("r", "order", to(Value::Null)));
    assert_eq!(conditions(&compiler, KindId::HttpRoute, "shop/r", 0)[0], (false, "NoMatchingParent"));
    let spec = json!({ "parentRefs": [parent("web")], "rules": [{ "backendRefs": to(Value::Null) }] });
    compiler.apply(put(KindId::GrpcRoute, route_object("g", spec)));
    assert_eq!(conditions(&compiler, KindId::GrpcRoute, "shop/g", 0)[1], (false, "UnsupportedProtocol"));
}

#[test]
fn a_policy_about_a_flow_is_about_those_who_carry_it_out_at_its_trigger() {
    let mut compiler = compiler();
    let target = json!({ "group": "tulle.dev", "kind": "Flow", "name": "order" });
    let spec = json!({ "targetRefs": [target], "action": "Allow", "rules": [{ "networkAttributes": { "ports": [8000] } }] });
    let policy = json!({ "metadata": { "namespace": "shop", "name": "p" }, "spec": spec });
    let accepted = |compiler: &Compiler| {
        let status = &compiler.policy_status(&name("shop/p")).unwrap()[0];
        (status.conditions[0].message.clone(), status.workloads.len())
    };
    let told = |words: &str| (format!("{words}: the policy says nothing of anybody there"), 0);
    compiler.apply(put(KindId::AuthorizationPolicy, policy));
    assert_eq!(accepted(&compiler), told("there is no Flow shop/order"));
    compiler.apply(flow(json!({ "serviceAccount": "orders" })));
    assert_eq!(accepted(&compiler), told("Flow shop/order has no `trigger.http`"));
    compiler.apply(flow(triggered(8000)));
    assert_eq!(accepted(&compiler), told("no node carries out Flow shop/order as yet"));
    compiler.apply(carrier("somebody", "other", true));
    compiler.apply(carrier("order-n1", "orders", true));
    assert_eq!(accepted(&compiler), ("in force for 1 workload".to_owned(), 1));
    // Nothing listens there but the node, whatever it captures.
    let node = json!({ "metadata": { "name": "n1" }, "status": { "captureMode": "Explicit" } });
    compiler.apply(put(KindId::Node, node));
    assert_eq!(compiler.policy_status(&name("shop/p")).unwrap()[0].conditions[1].reason, "Enforced");
    let policies = |compiler: &Compiler, workload: &str| {
        let config = compiler.workload(&name(workload)).unwrap().config.clone();
        let of = |policy: &crate::snapshot::AccessPolicy| (policy.at.clone(), policy.rules[0].ports.clone());
        config.policies.iter().map(of).collect::<Vec<_>>()
    };
    let ours = (Some(vec![15020]), Some(vec![15020]));
    assert_eq!(policies(&compiler, "shop/order-n1"), std::slice::from_ref(&ours));
    assert_eq!(policies(&compiler, "shop/somebody"), []);
    // It holds as long as somebody is there, whoever has the name meanwhile.
    let older = json!({
        "metadata": { "namespace": "shop", "name": "order", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "ports": [{ "port": 9 }] },
    });
    compiler.apply(put(SERVICE, older));
    assert_eq!(states(&compiler)[0], "Accepted=Conflicted");
    assert_eq!(policies(&compiler, "shop/order-n1"), [ours]);
    compiler.apply(delete(FLOW, "shop/order"));
    assert_eq!(policies(&compiler, "shop/order-n1")[0].0, Some(vec![15020]));
}
