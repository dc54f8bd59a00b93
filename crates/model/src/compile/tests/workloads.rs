//! What nodes are told of their own workloads.

use super::*;
use crate::snapshot::WorkloadConfig;

/// The node of a workload, and what it is told, as text.
fn told_of(compiler: &Compiler, workload: &str) -> Option<(String, Vec<String>)> {
    let LocalWorkload { node, config } = compiler.workload(&name(workload))?;
    let services = config.services.iter().flat_map(|selected| {
        let port = |port: &crate::snapshot::ServedPort| {
            let letters = if port.http1.preserve_case { " as written" } else { "" };
            format!(
                "{} {}->{} {:?}{letters}",
                selected.by, port.service_port, port.target_port, port.protocol
            )
        };
        selected.ports.iter().map(port)
    });
    Some((node.to_string(), services.collect()))
}

#[test]
fn a_node_is_told_which_services_select_its_workload_and_how() {
    let mut compiler = compiler();
    assert_eq!(told_of(&compiler, "shop/c-1"), None);
    compiler.apply(workload("c-1", "c", false));
    assert_eq!(told_of(&compiler, "shop/c-1"), Some(("n1".into(), vec![])), "whether it is ready or not");
    let effects = compiler.apply_all([
        service("c", json!({ "port": 80, "targetPort": "web", "appProtocol": "http" })),
        service("x", json!({ "port": 80, "targetPort": "web" })),
    ]);
    assert_eq!(effects.workloads, [name("shop/c-1")]);
    let declared = "shop/c 80->34567 Http1";
    assert_eq!(told_of(&compiler, "shop/c-1").unwrap().1, [declared]);

    // Another service selects all of them, and one of its ports is none of the workload's.
    let ports = json!([
        { "name": "a", "port": 1, "targetPort": 8080, "appProtocol": "http" },
        { "name": "b", "port": 2, "targetPort": 9 },
    ]);
    let spec = json!({ "selector": { "part-of": "shop" }, "ports": ports });
    let metadata = json!({
        "namespace": "shop", "name": "all", "annotations": { "tulle.dev/preserve-header-case": "a" }
    });
    let all = put(KindId::Service, json!({ "metadata": metadata, "spec": spec }));
    assert_eq!(compiler.apply(all).workloads, [name("shop/c-1")]);
    let first = "shop/all 1->34567 Http1 as written";
    assert_eq!(told_of(&compiler, "shop/c-1").unwrap().1, [first, declared]);
    // One of another namespace selects none here.
    let spec = json!({ "selector": { "app": "c" }, "ports": [{ "port": 80 }] });
    let elsewhere = json!({ "metadata": { "namespace": "other", "name": "c" }, "spec": spec });
    assert_eq!(compiler.apply(put(KindId::Service, elsewhere)).workloads, []);

    // What it no longer is.
    assert_eq!(compiler.apply(workload("c-1", "x", true)).workloads, [name("shop/c-1")]);
    assert_eq!(told_of(&compiler, "shop/c-1").unwrap().1, [first, "shop/x 80->34567 Detect"]);
    assert_eq!(compiler.apply(delete(KindId::Service, "shop/all")).workloads, [name("shop/c-1")]);
    assert_eq!(compiler.apply(delete(KindId::Workload, "shop/c-1")).workloads, [name("shop/c-1")]);
    assert_eq!(told_of(&compiler, "shop/c-1"), None);
}

#[test]
fn another_node_takes_a_workload_over_and_none_has_what_runs_outside() {
    let mut compiler = compiler();
    let Change::Put(kind, object) = workload("c-1", "c", true) else { unreachable!() };
    let on = |node: Option<&str>| {
        let mut object = Value::clone(&object);
        let spec = object["spec"].as_object_mut().unwrap();
        match node {
            Some(node) => spec["node"]["name"] = json!(node),
            None => drop(spec.remove("node")),
        }
        Change::Put(kind, Arc::new(object))
    };
    for (node, told) in [(Some("n1"), Some("n1")), (Some("n2"), Some("n2")), (None, None)] {
        assert_eq!(compiler.apply(on(node)).workloads, [name("shop/c-1")]);
        assert_eq!(told_of(&compiler, "shop/c-1").map(|(node, _)| node).as_deref(), told);
    }
}

#[test]
fn what_is_attached_to_the_mesh_applies_to_each_workload() {
    let mut compiler = compiler();
    let mesh = |spec: Value| put(KindId::Mesh, json!({ "metadata": { "name": "default" }, "spec": spec }));
    compiler.apply_all([workload("c-1", "c", true), workload("x-1", "x", true)]);
    let captured = |compiler: &Compiler, workload: Option<&WorkloadConfig>| {
        inbound_capture(&compiler.mesh(), workload).map(|decision| decision.to_string())
    };
    let of = |compiler: &Compiler, workload: &str| {
        captured(compiler, Some(&*compiler.workload(&name(workload)).unwrap().config))
    };
    let by = "Mesh/default spec.inboundCapture.enabled captured";
    for (enabled, expected) in [(true, Some(by)), (false, None)] {
        let effects = compiler.apply(mesh(json!({ "inboundCapture": { "enabled": enabled } })));
        assert_eq!(effects.workloads, [name("shop/c-1"), name("shop/x-1")]);
        assert_eq!(of(&compiler, "shop/c-1").as_deref(), expected);
        assert_eq!(of(&compiler, "shop/x-1").as_deref(), expected);
        assert_eq!(captured(&compiler, None).as_deref(), expected, "of one that nothing is known of");
    }
    // What says nothing of it changes none.
    assert_eq!(compiler.apply(mesh(json!({ "accessLog": { "enabled": true } }))).workloads, []);
    // The server's word of the workload is newer than what was said of the mesh, or older: it decides.
    let closed = WorkloadConfig { inbound_capture: true, ..WorkloadConfig::new(name("shop/c-1")) };
    assert!(inbound_capture(&compiler.mesh(), Some(&closed)).is_some());
}

/// A node refuses what is for a port of which nothing was said: nobody is sent there. What is said of the service's ports
/// holds at the process's port of that number all the same.
#[test]
fn a_workload_of_a_node_without_ports_takes_none() {
    let of_c = |name: &str, node: Value| {
        let metadata =
            json!({ "namespace": "shop", "name": name, "labels": { "app": "c", "part-of": "shop" } });
        let spec = json!({ "address": "192.0.2.7", "ports": [], "node": node });
        let ready = json!({ "type": "Ready", "status": "True", "reason": "Probe", "message": "", "lastTransitionTime": "" });
        let status = json!({ "conditions": [ready] });
        put(KindId::Workload, json!({ "metadata": metadata, "spec": spec, "status": status }))
    };
    let mut compiler = compiler();
    compiler.apply(service("c", json!({ "port": 80, "targetPort": 8080 })));
    compiler.apply(of_c("c-1", json!({ "name": "n1", "linkAddress": "192.0.2.1:15008" })));
    assert_eq!(compiler.endpoints(&name("shop/c")).unwrap().endpoints.len(), 0);
    assert_eq!(told_of(&compiler, "shop/c-1").unwrap().1, ["shop/c 80->8080 Detect"]);
    let standing = compiler.standing(&name("shop/c")).unwrap();
    assert_eq!(
        (standing.ready(), &*standing.unoffered),
        (0, &["port 80: no workload has a port 8080".to_owned()][..])
    );
    // One that no node runs says no more than its address.
    compiler.apply(of_c("c-1", Value::Null));
    assert_eq!(compiler.endpoints(&name("shop/c")).unwrap().endpoints.len(), 1);
}
