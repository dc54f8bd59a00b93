//! What a policy's status says of each of its targets.

use super::*;
use crate::kinds::node;

fn policy(generation: i64, spec: Value) -> Change {
    put(
        KindId::AuthorizationPolicy,
        json!({ "metadata": { "namespace": "shop", "name": "p", "generation": generation }, "spec": spec }),
    )
}

fn of_service(name: &str) -> Value {
    json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": name }], "action": "Allow", "rules": [{}] })
}

/// Type, status, reason and message of a condition.
type ToldCondition = (&'static str, bool, &'static str, String);

/// The conditions of a target, and the workloads that nodes are told of.
fn told(compiler: &Compiler, target: usize) -> (Vec<ToldCondition>, Vec<String>) {
    let status = &compiler.policy_status(&name("shop/p")).unwrap()[target];
    let conditions = status.conditions.iter().map(|c| (c.kind, c.status, c.reason, c.message.clone()));
    let workloads = status.workloads.iter().map(|(workload, node)| format!("{workload} on {node}"));
    (conditions.collect(), workloads.collect())
}

fn reasons(compiler: &Compiler) -> Vec<&'static str> {
    told(compiler, 0).0.into_iter().map(|(_, _, reason, _)| reason).collect()
}

fn says(compiler: &Compiler, words: &str) -> bool {
    told(compiler, 0).0.iter().any(|(_, _, _, message)| message.contains(words))
}

#[test]
fn a_target_is_found_while_something_is_there() {
    let mut compiler = compiler();
    compiler.apply(policy(1, of_service("c")));
    assert_eq!(reasons(&compiler), ["TargetNotFound"]);
    assert!(says(&compiler, "there is no Service shop/c"));
    let effects = compiler.apply(service("c", json!({ "port": 80, "targetPort": "web" })));
    assert_eq!(effects.statuses, [(kind(KindId::AuthorizationPolicy), name("shop/p"))]);
    assert_eq!(reasons(&compiler), ["TargetNotFound"]);
    assert!(says(&compiler, "Service shop/c selects no Workload"));
    compiler.apply(workload("c-1", "c", true));
    let (conditions, workloads) = told(&compiler, 0);
    assert_eq!(conditions[0], ("Accepted", true, "Accepted", "in force for 1 workload".to_owned()));
    assert_eq!(conditions[1].2, "Enforced");
    assert_eq!(workloads, ["shop/c-1 on n1"]);
    compiler.apply(workload("c-2", "c", false));
    assert!(says(&compiler, "in force for 2 workloads"), "ready or not");
    compiler.apply_all([workload("c-1", "x", true), delete(KindId::Workload, "shop/c-2")]);
    assert_eq!(reasons(&compiler), ["TargetNotFound"]);
    compiler.apply(delete(KindId::AuthorizationPolicy, "shop/p"));
    assert_eq!(compiler.policy_status(&name("shop/p")), None);
}

#[test]
fn each_target_has_its_own_status() {
    let mut compiler = compiler();
    compiler.apply_all([workload("c-1", "c", true), workload("x-1", "x", true)]);
    let targets = json!([
        { "group": "", "kind": "Namespace" },
        { "group": "tulle.dev", "kind": "Workload", "selector": { "matchLabels": { "app": "x" } } },
        { "group": "tulle.dev", "kind": "Workload", "selector": { "matchLabels": { "app": "y" } } },
    ]);
    compiler.apply(policy(1, json!({ "targetRefs": targets, "action": "Deny", "rules": [{}] })));
    let counts = [0, 1, 2].map(|target| told(&compiler, target).1.len());
    assert_eq!(counts, [2, 1, 0]);
    let statuses = compiler.policy_status(&name("shop/p")).unwrap();
    let StatusTarget::Authorization(target) = &statuses[1].target else { panic!("it is one") };
    assert_eq!(target.selector.as_ref().unwrap().match_labels["app"], "x");
    assert_eq!(statuses[2].conditions[0].reason, "TargetNotFound");
}

#[test]
fn what_does_not_compile_says_what_is_in_force() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    let all = json!([{ "group": "", "kind": "Namespace" }]);
    let bad = || json!({ "targetRefs": all, "action": "Permit" });
    compiler.apply(policy(1, bad()));
    let (conditions, workloads) = told(&compiler, 0);
    assert_eq!((conditions.len(), conditions[0].2, workloads.len()), (1, "Invalid", 0));
    assert!(conditions[0].3.contains("spec.action"), "{conditions:?}");
    compiler.apply(policy(2, json!({ "targetRefs": all, "action": "Allow" })));
    assert_eq!(reasons(&compiler), ["Accepted", "Enforced"]);
    compiler.apply(policy(3, bad()));
    assert_eq!(reasons(&compiler), ["Invalid", "Enforced"]);
    assert!(says(&compiler, "generation 2 stays in force"));
    let generations = compiler.policy_status(&name("shop/p")).unwrap()[0].conditions.iter();
    assert_eq!(generations.map(|c| c.observed_generation).collect::<Vec<_>>(), [Some(3), Some(2)]);
    compiler.apply(policy(4, json!({ "targetRefs": all, "action": "Allow" })));
    assert_eq!(reasons(&compiler), ["Accepted", "Enforced"]);
}

#[test]
fn endpoints_where_nobody_enforces_it_are_named() {
    let mut compiler = compiler();
    compiler.apply_all([
        service("c", json!({ "name": "http", "port": 80, "targetPort": "web" })),
        workload("c-1", "c", true),
        policy(1, of_service("c")),
    ]);
    assert_eq!(reasons(&compiler), ["Accepted", "Enforced"]);
    let slice = |address: &str| {
        put(
            KindId::EndpointSlice,
            json!({
                "metadata": {
                    "namespace": "shop", "name": "s", "labels": { "kubernetes.io/service-name": "c" },
                },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
                "ports": [{ "name": "http", "port": 34567 }],
            }),
        )
    };
    compiler.apply(slice("192.0.2.9"));
    assert_eq!(reasons(&compiler), ["Accepted", "NoNode"]);
    assert!(says(&compiler, "not enforced at 1 endpoint of EndpointSlices, where no node is: 192.0.2.9"));
    // The address of the workload itself.
    compiler.apply(slice("192.0.2.7"));
    assert_eq!(reasons(&compiler), ["Accepted", "Enforced"]);
    compiler.apply(delete(KindId::EndpointSlice, "shop/s"));
    let Change::Put(kind, object) = workload("c-2", "c", true) else { unreachable!() };
    let mut nowhere = Value::clone(&object);
    nowhere["spec"].as_object_mut().unwrap().remove("node");
    compiler.apply(Change::Put(kind, Arc::new(nowhere)));
    assert_eq!(reasons(&compiler), ["Accepted", "NoNode"]);
    assert!(says(&compiler, "that no node runs: shop/c-2"));
}

#[test]
fn nodes_that_plain_traffic_does_not_pass_are_told_of() {
    let mut compiler = compiler();
    let on_n1 = |mode: &str| {
        put(KindId::Node, json!({ "metadata": { "name": "n1" }, "status": { "captureMode": mode } }))
    };
    compiler.apply_all([workload("c-1", "c", true), on_n1(node::EXPLICIT)]);
    let namespace = json!([{ "group": "", "kind": "Namespace" }]);
    compiler.apply(policy(1, json!({ "targetRefs": namespace, "action": "Allow" })));
    assert_eq!(reasons(&compiler), ["Accepted", "PlainTraffic"]);
    assert!(says(&compiler, "not enforced for plain traffic"));
    for captured in ["host", "namespace"] {
        assert_eq!(compiler.apply(on_n1(captured)).statuses.len(), 1);
        assert_eq!(reasons(&compiler), ["Accepted", "Enforced"]);
        compiler.apply(on_n1(node::EXPLICIT));
    }
    compiler.apply(Change::Delete(kind(KindId::Node), NamespacedName::new("", "n1")));
    assert_eq!(reasons(&compiler), ["Accepted", "Enforced"]);
    // Nor where the mesh says that nothing is captured.
    let spec = json!({ "inboundCapture": { "enabled": false } });
    compiler.apply(put(KindId::Mesh, json!({ "metadata": { "name": "default" }, "spec": spec })));
    assert_eq!(reasons(&compiler), ["Accepted", "PlainTraffic"]);
}

#[test]
fn a_change_of_a_workload_makes_only_the_statuses_of_its_policies_anew() {
    let mut compiler = compiler();
    let policies = (0..100).map(|n| {
        let selector = json!({ "matchLabels": { "app": format!("app-{n}") } });
        let targets = json!([{ "group": "tulle.dev", "kind": "Workload", "selector": selector }]);
        put(
            KindId::AuthorizationPolicy,
            json!({
                "metadata": { "namespace": "shop", "name": format!("p-{n}") },
                "spec": { "targetRefs": targets, "action": "Allow" },
            }),
        )
    });
    compiler.apply_all(policies);
    let work = |compiler: &mut Compiler, change: Change| {
        let before = compiler.work().policy_statuses;
        let effects = compiler.apply(change);
        let names: Vec<_> = effects.statuses.into_iter().map(|(_, name)| name.name.to_string()).collect();
        (compiler.work().policy_statuses - before, names)
    };
    let two = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
    assert_eq!(work(&mut compiler, workload("w", "app-7", false)), (1, vec!["p-7".to_owned()]));
    // It is ready; nothing of it concerns a policy.
    assert_eq!(work(&mut compiler, workload("w", "app-7", true)), (0, vec![]));
    assert_eq!(work(&mut compiler, workload("w", "app-8", true)), (2, two("p-7", "p-8")));
    assert_eq!(work(&mut compiler, workload("v", "other", true)), (0, vec![]));
}

#[test]
fn who_uses_what_is_outside_is_held_to_it_where_something_is_looked_at() {
    let mut compiler = compiler();
    let mesh = |egress: Value| {
        put(KindId::Mesh, json!({ "metadata": { "name": "default" }, "spec": { "egress": egress } }))
    };
    let target = json!([{ "group": "tulle.dev", "kind": "ExternalService", "name": "api" }]);
    compiler.apply_all([
        mesh(json!({ "policy": "Listed" })),
        policy(1, json!({ "targetRefs": target, "action": "Allow", "rules": [{}] })),
        workload("c-1", "c", true),
    ]);
    assert_eq!(reasons(&compiler), ["TargetNotFound"]);
    let spec = json!({ "hosts": ["a.example.com"], "ports": [{ "port": 443, "appProtocol": "https" }] });
    let metadata = json!({ "namespace": "shop", "name": "api" });
    let external = put(KindId::ExternalService, json!({ "metadata": metadata, "spec": spec }));
    compiler.apply(external);
    let (conditions, workloads) = told(&compiler, 0);
    assert_eq!(workloads, ["shop/c-1 on n1"], "the node that has to be told");
    assert_eq!(
        conditions[0],
        ("Accepted", true, "Accepted", "in force for 1 workload that may use it".to_owned())
    );
    assert_eq!((conditions[1].1, conditions[1].2), (true, "Enforced"), "{conditions:?}");
    // Each change of where something is looked at is one of the status.
    let node = |mode: &str| {
        put(KindId::Node, json!({ "metadata": { "name": "n1" }, "status": { "captureMode": mode } }))
    };
    for (change, reason, words) in [
        (mesh(json!({ "policy": "Allow" })), "EgressAllowed", "the Mesh's spec.egress.policy: Allow"),
        (mesh(json!({ "policy": "Deny" })), "Enforced", "where something leaves"),
        (
            mesh(json!({ "policy": "Deny", "namespaces": [{ "name": "shop", "policy": "Allow" }] })),
            "EgressAllowed",
            "spec.egress.namespaces: Allow",
        ),
        (mesh(json!({ "policy": "Listed" })), "Enforced", "where something leaves"),
        (node(node::EXPLICIT), "ExplicitCapture", "does not ask the proxy, at 1 workload"),
        (node("host"), "Enforced", "where something leaves"),
    ] {
        let effects = compiler.apply(change);
        assert_eq!(reasons(&compiler), ["Accepted", reason]);
        assert!(says(&compiler, words), "{words}: {:?}", told(&compiler, 0).0);
        let told = (kind(KindId::AuthorizationPolicy), name("shop/p"));
        assert!(effects.statuses.contains(&told), "{reason}");
    }
    compiler.apply(delete(KindId::ExternalService, "shop/api"));
    assert_eq!(reasons(&compiler), ["TargetNotFound"]);
}
