//! Which policies apply to which workload, and what they become there.

use super::*;
use crate::authorization::{RequestSeen, Traffic, Visitor, decide};
use crate::identity::SpiffeId;
use crate::snapshot::{AccessPolicy, AccessRule, Action, Source};

fn policy(namespace: &str, name: &str, spec: Value) -> Change {
    put(
        KindId::AuthorizationPolicy,
        json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec }),
    )
}

fn allow(targets: Value) -> Value {
    json!({ "targetRefs": targets, "action": "Allow", "rules": [{}] })
}

/// The policies of a workload: `namespace/name`, and the ports that each is about.
fn told(compiler: &Compiler, workload: &str) -> Vec<(String, Option<Vec<u16>>)> {
    let config = compiler.workload(&name(workload)).unwrap().config.clone();
    config.policies.iter().map(|policy| (policy.name.to_string(), policy.at.clone())).collect()
}

fn of_c(compiler: &Compiler) -> Vec<AccessPolicy> {
    compiler.workload(&name("shop/c-1")).unwrap().config.policies.to_vec()
}

#[test]
fn a_policy_applies_to_what_it_targets_in_its_own_namespace() {
    let mut compiler = compiler();
    compiler.apply_all([workload("c-1", "c", true), workload("x-1", "x", true)]);
    compiler.apply(service("c", json!({ "port": 80, "targetPort": "web" })));
    let service = json!([{ "group": "", "kind": "Service", "name": "c" }]);
    let by_label =
        |selector: Value| json!([{ "group": "tulle.dev", "kind": "Workload", "selector": selector }]);
    let not_in = json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["c", "d"] }] });
    let there = json!({ "matchExpressions": [{ "key": "app", "operator": "Exists" }, { "key": "no", "operator": "DoesNotExist" }] });
    let mesh = json!([{ "group": "tulle.dev", "kind": "Mesh", "name": "default" }]);
    let everywhere = ["shop/c-1", "shop/x-1"];
    for (namespace, targets, applies, at) in [
        ("shop", service.clone(), &["shop/c-1"][..], Some(vec![34567])),
        ("other", service, &[], None),
        ("shop", by_label(json!({ "matchLabels": { "app": "x" } })), &["shop/x-1"], None),
        ("shop", by_label(not_in), &["shop/x-1"], None),
        ("shop", by_label(there), &everywhere, None),
        ("shop", by_label(json!({})), &everywhere, None),
        ("shop", json!([{ "group": "", "kind": "Namespace" }]), &everywhere, None),
        ("other", json!([{ "group": "", "kind": "Namespace" }]), &[], None),
        ("tulle-system", mesh.clone(), &everywhere, None),
    ] {
        let effects = compiler.apply(policy(namespace, "p", allow(targets.clone())));
        assert_eq!(
            effects.workloads,
            applies.iter().map(|applies| name(applies)).collect::<Vec<_>>(),
            "{targets}"
        );
        for workload in applies {
            assert_eq!(told(&compiler, workload), [(format!("{namespace}/p"), at.clone())], "{targets}");
        }
        let gone = compiler.apply(delete(KindId::AuthorizationPolicy, &format!("{namespace}/p")));
        assert_eq!(gone.workloads, effects.workloads);
        assert!(of_c(&compiler).is_empty());
    }
    // One that was stored by somebody who does not look at it reaches no further.
    assert!(compiler.apply(policy("shop", "p", allow(mesh))).workloads.is_empty());
}

#[test]
fn rules_are_in_ids_of_the_mesh_and_ports_of_the_workload() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    compiler.apply(service("c", json!({ "port": 80, "targetPort": "web" })));
    let source = |name: &str| json!({ "type": "ServiceAccount", "serviceAccount": { "name": name } });
    let rules = json!([
        { "sources": [source("web"), source("*"), { "type": "Namespace", "namespace": "other" }], "networkAttributes": { "ports": [80, 81] } },
        { "sources": [], "networkAttributes": { "ports": [81] } },
        { "sources": [{ "type": "TrustDomain", "trustDomain": "far" }, { "type": "External", "external": { "cidrs": ["10.0.0.0/8"] } }, { "type": "External" }] },
        {},
    ]);
    let targets =
        json!([{ "group": "", "kind": "Service", "name": "c" }, { "group": "", "kind": "Namespace" }]);
    compiler.apply(policy("shop", "p", json!({ "targetRefs": targets, "action": "Deny", "rules": rules })));
    let policies = of_c(&compiler);
    let shown = |policy: &AccessPolicy| {
        let rule = |rule: &AccessRule| {
            let source = |source: &Source| match source {
                Source::Identity(pattern) => pattern.as_str().to_owned(),
                Source::Outside(ranges) => format!("{ranges:?}"),
            };
            let sources = rule.sources.as_ref().map(|sources| sources.iter().map(source).collect::<Vec<_>>());
            (rule.index, sources, rule.ports.clone())
        };
        policy.rules.iter().map(rule).collect::<Vec<_>>()
    };
    let [of_service, of_namespace] = &policies[..] else { panic!("{policies:?}") };
    assert_eq!((of_service.action, of_service.at.clone()), (Action::Deny, Some(vec![34567])));
    let texts = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    let domain = compiler.domain.as_str();
    let ids = ["shop/sa/web", "shop/sa/*", "other/sa/*"].map(|rest| format!("spiffe://{domain}/ns/{rest}"));
    let ids = texts(&ids.each_ref().map(|id| &**id));
    let nobody = texts(&[]);
    let far = texts(&["spiffe://far/**", "[10.0.0.0/8]", "[]"]);
    assert_eq!(
        shown(of_service),
        [
            (0, ids.clone(), Some(vec![34567])),
            (1, nobody.clone(), Some(vec![])),
            (2, far.clone(), None),
            (3, None, None),
        ],
        "a Service's ports are its own"
    );
    assert_eq!(of_namespace.at, None);
    assert_eq!(
        shown(of_namespace),
        [(0, ids, Some(vec![80, 81])), (1, nobody, Some(vec![81])), (2, far, None), (3, None, None)]
    );
}

#[test]
fn a_policy_that_cannot_be_read_leaves_its_last_good_form_in_force() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    let all = json!([{ "group": "", "kind": "Namespace" }]);
    compiler.apply(policy("shop", "p", allow(all.clone())));
    let good = of_c(&compiler);
    let kind = KindId::AuthorizationPolicy.kind();
    for (spec, field) in [
        (json!({ "targetRefs": all, "action": "Permit", "rules": [{}] }), "spec.action"),
        (json!({ "targetRefs": all, "action": "Deny" }), "spec.rules"),
        (json!({ "targetRefs": [], "action": "Allow" }), "spec.targetRefs"),
        (
            json!({ "targetRefs": all, "action": "Allow", "rules": [{ "sources": [{ "type": "SPIFFE", "spiffe": "web" }] }] }),
            "spec.rules[0].sources[0].spiffe",
        ),
        (
            json!({ "targetRefs": all, "action": "Allow", "rules": [{ "sources": "web" }] }),
            "spec.rules[0].sources",
        ),
        (json!({ "targetRefs": all, "action": "Allow", "rules": "all" }), "spec.rules"),
    ] {
        assert!(compiler.apply(policy("shop", "p", spec.clone())).workloads.is_empty(), "{spec}");
        assert_eq!(of_c(&compiler), good, "{spec}");
        assert_eq!(
            compiler.problem(kind, &name("shop/p")).map(|problem| &*problem.field),
            Some(field),
            "{spec}"
        );
    }
    compiler.apply(policy("shop", "p", allow(all)));
    assert_eq!(compiler.problem(kind, &name("shop/p")), None);
}

#[test]
fn workloads_gain_and_lose_policies_as_labels_and_services_change() {
    let mut compiler = compiler();
    compiler.apply(policy("shop", "label", allow(json!([{ "group": "tulle.dev", "kind": "Workload", "selector": { "matchLabels": { "app": "c" } } }]))));
    compiler.apply(policy(
        "shop",
        "service",
        allow(json!([{ "group": "", "kind": "Service", "name": "x" }])),
    ));
    compiler.apply(workload("c-1", "c", true));
    let names = |compiler: &Compiler| {
        told(compiler, "shop/c-1").into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names(&compiler), ["shop/label"]);
    compiler.apply(workload("c-1", "x", true));
    assert!(names(&compiler).is_empty());
    compiler.apply(service("x", json!({ "port": 80, "targetPort": "web" })));
    assert_eq!(names(&compiler), ["shop/service"]);
    compiler.apply(delete(KindId::Service, "shop/x"));
    assert!(names(&compiler).is_empty());
}

#[test]
fn templates_stand_for_whole_segments() {
    let mut compiler = compiler();
    compiler.apply_all([workload("c-1", "c", true)]);
    for (template, inside, outside) in [
        (
            "/items/{id}",
            &["/items/1", "/items/%41"][..],
            &["/items", "/items/", "/items/1/2", "/xitems/1"][..],
        ),
        (
            "/items/{id}/reviews",
            &["/items/1/reviews"],
            &["/items/1", "/items//reviews", "/items/1/reviews/2"],
        ),
        ("/items/{rest=**}", &["/items", "/items/", "/items/1/2"], &["/itemsx", "/"]),
        ("/{any=**}", &["/", "/a/b"], &[]),
        ("/a.b/{x=*}", &["/a.b/c"], &["/axb/c"]),
    ] {
        let rule = json!({ "http": { "paths": [{ "type": "Template", "value": template }] } });
        let spec = json!({
            "targetRefs": [{ "group": "", "kind": "Namespace" }], "action": "Allow", "rules": [rule],
        });
        compiler.apply(policy("shop", "p", spec));
        let config = compiler.workload(&name("shop/c-1")).unwrap().config.clone();
        let headers = http::HeaderMap::new();
        let enters = |path: &str| {
            let seen = Traffic::Request(RequestSeen {
                method: "GET",
                path,
                authority: "c",
                headers: &headers,
                tokens: &[],
            });
            decide(&config, Visitor::Outside([192, 0, 2, 1].into()), 80, seen)
                .map(|_| ())
                .map_err(|denial| denial.reason())
        };
        for path in inside {
            assert_eq!(enters(path), Ok(()), "{template} {path}");
        }
        for path in outside.iter().filter(|path| !path.contains("//")) {
            assert_eq!(enters(path), Err("no-allow-policy".to_owned()), "{template} {path}");
        }
    }
}

#[test]
fn the_mesh_says_what_is_refused_where_no_policy_does() {
    let mut compiler = compiler();
    compiler.apply_all([workload("c-1", "c", true)]);
    let identity = SpiffeId::workload(&compiler.domain, "shop", "x").unwrap();
    let (outside, inside) = (Visitor::Outside([192, 0, 2, 1].into()), Visitor::Mesh(&identity));
    let mut says = |spec: Value| {
        compiler.apply(put(KindId::Mesh, json!({ "metadata": { "name": "default" }, "spec": spec })));
        assert!(compiler.problems.is_empty(), "{:?}", compiler.problems);
        let config = compiler.workload(&name("shop/c-1")).unwrap().config.clone();
        let reason = |visitor, port| decide(&config, visitor, port, Traffic::Bytes).err().map(|d| d.reason());
        assert_eq!(reason(inside, 80).filter(|reason| reason == "plaintext"), None);
        let plain = [80, 90].map(|port| reason(outside, port).is_some_and(|reason| reason == "plaintext"));
        let denied = reason(inside, 80).is_some_and(|reason| reason == "no-allow-policy");
        (plain, denied, config.inbound_capture)
    };
    let shop = |mode: &str| json!({ "name": "shop", "mode": mode });
    let port = |mode: &str| json!([{ "port": 90, "mode": mode }]);
    // Whether what comes in plain is refused at ports 80 and 90; whether all are denied; whether it is captured.
    for (spec, expected) in [
        (json!({}), ([false, false], false, false)),
        (json!({ "mtls": { "mode": "Permissive" } }), ([false, false], false, false)),
        (json!({ "mtls": { "mode": "Strict" } }), ([true, true], false, true)),
        (json!({ "mtls": { "mode": "Strict", "ports": port("Permissive") } }), ([true, false], false, true)),
        (json!({ "mtls": { "ports": port("Strict") } }), ([false, true], false, true)),
        (json!({ "mtls": { "namespaces": [shop("Strict")] } }), ([true, true], false, true)),
        (
            json!({ "mtls": { "mode": "Strict", "namespaces": [shop("Permissive")] } }),
            ([false, false], false, false),
        ),
        // Its own mode comes before the ports of the mesh, its own ports before its mode.
        (
            json!({ "mtls": { "ports": port("Permissive"), "namespaces": [shop("Strict")] } }),
            ([true, true], false, true),
        ),
        (
            json!({ "mtls": { "mode": "Strict", "ports": port("Permissive"), "namespaces": [{ "name": "shop", "ports": port("Strict") }] } }),
            ([true, true], false, true),
        ),
        (
            json!({ "mtls": { "mode": "Strict", "namespaces": [{ "name": "other", "mode": "Permissive" }] } }),
            ([true, true], false, true),
        ),
        (json!({ "authorization": { "default": "Deny" } }), ([false, false], true, true)),
        (
            json!({ "authorization": { "default": "Deny", "namespaces": [{ "name": "shop", "default": "Allow" }] } }),
            ([false, false], false, false),
        ),
        (
            json!({ "authorization": { "namespaces": [{ "name": "shop", "default": "Deny" }] } }),
            ([false, false], true, true),
        ),
        (
            json!({ "authorization": { "default": "Deny" }, "inboundCapture": { "enabled": false } }),
            ([false, false], true, false),
        ),
    ] {
        assert_eq!(says(spec.clone()), expected, "{spec}");
    }
}

/// Whom it holds off is to be held off whichever way he comes.
#[test]
fn a_workload_that_a_policy_is_about_is_captured_unless_the_mesh_says_otherwise() {
    let mut compiler = compiler();
    compiler.apply_all([workload("c-1", "c", true)]);
    let captured = |compiler: &Compiler| compiler.workload(&name("shop/c-1")).unwrap().config.inbound_capture;
    let namespace = json!([{ "group": "", "kind": "Namespace" }]);
    let audit = json!({ "targetRefs": namespace.clone(), "action": "Audit", "rules": [{}] });
    compiler.apply(policy("shop", "a", audit));
    assert!(!captured(&compiler));
    compiler.apply(policy("shop", "p", allow(namespace)));
    assert!(captured(&compiler));
    let mesh = |enabled: bool| {
        put(
            KindId::Mesh,
            json!({ "metadata": { "name": "default" }, "spec": { "inboundCapture": { "enabled": enabled } } }),
        )
    };
    compiler.apply(mesh(false));
    assert!(!captured(&compiler));
    compiler.apply(mesh(true));
    compiler.apply(delete(KindId::AuthorizationPolicy, "shop/p"));
    assert!(captured(&compiler));
}

/// At which ports of a workload policies have nobody asked, by their names.
fn spared(compiler: &Compiler, workload: &str) -> Vec<(String, Vec<u16>)> {
    let config = compiler.workload(&name(workload)).unwrap().config.clone();
    let of =
        |policy: &AccessPolicy| Some((policy.name.to_string(), policy.external.as_ref()?.spared.clone()));
    config.policies.iter().filter_map(of).collect()
}

#[test]
fn nobody_is_asked_about_what_those_are_asked_who_stand_behind_a_policy() {
    let mut compiler = compiler();
    compiler.apply_all([workload("c-1", "c", true), workload("x-1", "x", true)]);
    compiler.apply(service("c", json!({ "port": 80, "targetPort": "web" })));
    let asking = |targets: Value, namespace: &str, port: u16| {
        let backend = json!({ "name": "c", "namespace": namespace, "port": port });
        json!({ "targetRefs": targets, "externalAuth": { "protocol": "GRPC", "grpc": {}, "backendRef": backend } })
    };
    let namespace = || json!([{ "group": "", "kind": "Namespace" }]);
    let mesh = || json!([{ "group": "tulle.dev", "kind": "Mesh" }]);
    compiler.apply(policy("shop", "own", asking(namespace(), "shop", 80)));
    let own = |ports: &[u16]| ("shop/own".to_owned(), ports.to_vec());
    assert_eq!(spared(&compiler, "shop/c-1"), [own(&[34567])]);
    assert_eq!(spared(&compiler, "shop/x-1"), [own(&[])]);
    // By another port of it, nobody is asked anything.
    compiler.apply(policy("shop", "own", asking(namespace(), "shop", 81)));
    assert_eq!(spared(&compiler, "shop/c-1"), [own(&[])]);
    // Whom the mesh's policy asks no policy has anybody asked about, and not the other way round.
    compiler.apply(policy("tulle-system", "mesh", asking(mesh(), "other", 80)));
    compiler.apply(policy("shop", "own", asking(namespace(), "shop", 80)));
    let of_mesh = |ports: &[u16]| ("tulle-system/mesh".to_owned(), ports.to_vec());
    assert_eq!(spared(&compiler, "shop/c-1"), [own(&[34567]), of_mesh(&[])]);
    compiler.apply(policy("shop", "own", asking(namespace(), "other", 80)));
    // It reaches nothing there, and asks in the shop.
    let effects = compiler.apply(policy("tulle-system", "mesh", asking(namespace(), "shop", 80)));
    assert!(effects.workloads.contains(&name("shop/c-1")), "{effects:?}");
    assert_eq!(spared(&compiler, "shop/c-1"), [own(&[34567])]);
    compiler.apply(delete(KindId::AuthorizationPolicy, "tulle-system/mesh"));
    assert_eq!(spared(&compiler, "shop/c-1"), [own(&[])]);
    // A policy of a third namespace spares nobody here.
    compiler.apply(policy("third", "p", asking(namespace(), "shop", 80)));
    assert_eq!(spared(&compiler, "shop/c-1"), [own(&[])]);
}
