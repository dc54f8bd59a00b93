//! What is listed for which workloads, and what the server may read for policies.

use super::*;
use crate::snapshot::Action;

fn mesh(egress: Value) -> Change {
    put(KindId::Mesh, json!({ "metadata": { "name": "default" }, "spec": { "egress": egress } }))
}

fn external(namespace: &str, name: &str, host: &str) -> Change {
    let spec = json!({ "hosts": [host], "ports": [{ "port": 443, "appProtocol": "https" }] });
    put(
        KindId::ExternalService,
        json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec }),
    )
}

/// What is listed for a workload, and the policies of each.
fn listed(compiler: &Compiler, workload: &str) -> Vec<(String, Vec<String>)> {
    let config = compiler.workload(&name(workload)).unwrap().config.clone();
    let policies = |of: &crate::snapshot::ExternalConfig| {
        of.policies.iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>()
    };
    config.external.iter().map(|of| (of.name.to_string(), policies(of))).collect()
}

fn names(compiler: &Compiler, workload: &str) -> Vec<String> {
    listed(compiler, workload).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn what_is_listed_is_known_to_workloads_of_its_namespace_or_of_all() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    compiler.apply_all([
        external("shop", "z", "z.example.com"),
        external("shop", "a", "a.example.com"),
        external("other", "b", "b.example.com"),
        external("tulle-system", "all", "all.example.com"),
    ]);
    // Whatever holds, so that nothing is missing when it counts.
    let all = ["shop/a", "shop/z", "tulle-system/all"];
    assert_eq!(names(&compiler, "shop/c-1"), all);
    let effects = compiler
        .apply(mesh(json!({ "policy": "Deny", "namespaces": [{ "name": "shop", "policy": "Listed" }] })));
    assert!(effects.mesh && effects.workloads.is_empty());
    assert_eq!(names(&compiler, "shop/c-1"), all);
    let (policy, field) = (compiler.mesh().egress_of("shop"), "spec.egress.namespaces");
    assert_eq!(policy, (crate::snapshot::EgressPolicy::Listed, field));
    assert_eq!(compiler.mesh().egress_of("other").1, "spec.egress.policy");
    let told = |effects: Effects| effects.workloads.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(told(compiler.apply(external("other", "b", "c.example.com"))).is_empty());
    assert_eq!(told(compiler.apply(delete(KindId::ExternalService, "shop/z"))), ["shop/c-1"]);
    assert_eq!(told(compiler.apply(delete(KindId::ExternalService, "tulle-system/all"))), ["shop/c-1"]);
    assert_eq!(names(&compiler, "shop/c-1"), ["shop/a"]);
    // One that does not read keeps its last good form.
    compiler.apply(external("shop", "a", "not a name"));
    let problem = compiler.problem(kind(KindId::ExternalService), &name("shop/a")).unwrap();
    assert_eq!(problem.field, "spec.hosts[0]");
    assert_eq!(names(&compiler, "shop/c-1"), ["shop/a"]);
}

#[test]
fn policies_of_what_is_outside_hold_off_from_nothing_inside() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    compiler.apply_all([mesh(json!({ "policy": "Listed" })), external("shop", "a", "a.example.com")]);
    let policy = |namespace: &str, name: &str, target: &str| {
        let target = json!([{ "group": "tulle.dev", "kind": "ExternalService", "name": target }]);
        let rule = json!({ "sources": [{ "type": "Namespace", "namespace": "shop" }], "networkAttributes": { "ports": [443] } });
        let spec = json!({ "targetRefs": target, "action": "Deny", "rules": [rule] });
        put(
            KindId::AuthorizationPolicy,
            json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec }),
        )
    };
    assert_eq!(compiler.apply(policy("shop", "no", "a")).workloads, [name("shop/c-1")]);
    assert!(compiler.apply(policy("other", "no", "a")).workloads.is_empty(), "that is of another namespace");
    compiler.apply(policy("shop", "elsewhere", "b"));
    assert_eq!(listed(&compiler, "shop/c-1"), [("shop/a".to_owned(), vec!["shop/no".to_owned()])]);
    let config = compiler.workload(&name("shop/c-1")).unwrap().config.clone();
    assert!(config.policies.is_empty() && !config.inbound_capture && !compiler.mesh().inbound_capture);
    let rule = &config.external[0].policies[0].rules[0];
    assert_eq!(
        (config.external[0].policies[0].action, rule.ports.as_deref()),
        (Action::Deny, Some(&[443][..]))
    );
    // Those of the mesh's own namespace are about what that lists for all.
    compiler
        .apply_all([external("tulle-system", "all", "all.example.com"), policy("tulle-system", "no", "all")]);
    let of_all = ("tulle-system/all".to_owned(), vec!["tulle-system/no".to_owned()]);
    assert!(listed(&compiler, "shop/c-1").contains(&of_all));
    compiler.apply(delete(KindId::AuthorizationPolicy, "tulle-system/no"));
    assert!(listed(&compiler, "shop/c-1").contains(&("tulle-system/all".to_owned(), Vec::new())));
}

#[test]
fn keys_are_read_from_where_the_namespace_of_the_policy_may_go() {
    let mut compiler = compiler();
    let source = "https://keys.example.com/jwks.json";
    let issuer = json!({ "issuer": "https://a.example.com", "audiences": ["a"], "jwks": { "uri": source } });
    let spec = json!({
        "targetRefs": [{ "group": "", "kind": "Namespace" }], "action": "Allow", "jwt": { "issuers": [issuer] },
        "rules": [{ "jwt": {} }],
    });
    let policy = |namespace: &str| {
        let metadata = json!({ "namespace": namespace, "name": "p" });
        put(KindId::AuthorizationPolicy, json!({ "metadata": metadata, "spec": spec }))
    };
    compiler.apply(policy("shop"));
    compiler.apply(workload("c-1", "c", true));
    let keys: Arc<str> = r#"{"keys":[]}"#.into();
    // What the server read, and who may read it no longer.
    let read = |compiler: &mut Compiler| {
        let (sources, effects) = compiler.settle_keys();
        let config = compiler.workload(&name("shop/c-1")).unwrap().config.clone();
        let has = config.policies[0].issuers[0].keys.set.is_some();
        let told: Vec<_> = effects.workloads.iter().map(ToString::to_string).collect();
        let refused = sources.refused.first().map(|(policy, _, held)| format!("{policy} {}", held.decision));
        (sources.wanted.len(), refused, has, told.join(" "))
    };
    let no = |field: &str| (0, Some(format!("shop/p Mesh/default {field} refused")), false, String::new());
    assert_eq!(read(&mut compiler), (1, None, false, String::new()));
    compiler.set_keys(source.into(), keys.clone());
    assert_eq!(read(&mut compiler), (1, None, true, String::new()));
    compiler.apply(mesh(json!({ "namespaces": [{ "name": "shop", "policy": "Deny" }] })));
    let (wanted, refused, has, told) = read(&mut compiler);
    assert_eq!(
        (wanted, refused, has),
        (no("spec.egress.namespaces").0, no("spec.egress.namespaces").1, false)
    );
    assert_eq!(told, "shop/c-1", "its node forgets them at once");
    compiler.apply(mesh(json!({ "policy": "Listed" })));
    assert_eq!(read(&mut compiler), no("spec.egress.policy"));
    compiler.apply(external("other", "keys", "keys.example.com"));
    assert_eq!(read(&mut compiler), no("spec.egress.policy"));
    // Whoever may have them, has not read them for those who may not.
    compiler.apply(policy("other"));
    assert_eq!((read(&mut compiler).0, read(&mut compiler).2), (1, false));
    compiler.set_keys(source.into(), keys.clone());
    assert!(!read(&mut compiler).2);
    compiler.apply(external("shop", "keys", "*.example.com"));
    assert_eq!(read(&mut compiler), (1, None, true, "shop/c-1".to_owned()));
}
