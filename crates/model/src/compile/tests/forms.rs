//! Of which objects there is a form.

use serde_json::{Value, json};

use super::{compiler, kind};
use crate::compile::Change;
use crate::name::NamespacedName;
use crate::registry::KindId;
use crate::validate::validate;

/// An object of that kind, with `spec` in it.
fn object(id: KindId, spec: Value) -> Value {
    let name = if id == KindId::Mesh { "default" } else { "x" };
    let mut object = json!({ "metadata": { "name": name } });
    if id == KindId::EndpointSlice {
        object["addressType"] = json!("IPv4");
        for (field, value) in spec.as_object().unwrap() {
            object[field] = value.clone();
        }
    } else {
        object["spec"] = spec;
    }
    if kind(id).namespaced {
        object["metadata"]["namespace"] = json!("shop");
    }
    object
}

/// What the compiler says of an object: the field that it names first.
fn problem(id: KindId, object: &Value) -> Option<String> {
    let mut compiler = compiler();
    compiler.apply(Change::Put(kind(id), std::sync::Arc::new(object.clone())));
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let name = NamespacedName::new(text("namespace"), text("name"));
    compiler.problem(kind(id), &name).map(|problem| problem.field.clone())
}

/// An upgrade does not take away what somebody relies on.
#[test]
fn what_was_allowed_once_stays_in_force() {
    let port = json!([{ "port": 80 }]);
    let parents = json!([{ "group": "", "kind": "Service", "name": "d" }]);
    let to_d = json!([{ "name": "d", "port": 80 }]);
    let path = |value: &str| json!([{ "matches": [{ "path": { "value": value } }] }]);
    let long = ["a"; 3].map(|part| part.repeat(60)).join(".");
    for (id, spec) in [
        (KindId::Service, json!({ "ports": port, "sessionAffinity": "ClientIP" })),
        (KindId::Service, json!({ "ports": port, "type": "LoadBalancer" })),
        (KindId::Service, json!({ "ports": [{ "port": 80, "protocol": "UDP", "targetPort": "x" }] })),
        (KindId::Service, json!({ "ports": [{ "port": 80, "targetPort": "Not-A-Name" }] })),
        (KindId::Service, json!({ "ports": [{ "port": 80, "name": "A" }], "selector": { "a b": "c" } })),
        (KindId::EndpointSlice, json!({ "endpoints": [{ "addresses": ["::1"] }] })),
        (
            KindId::EndpointSlice,
            json!({ "endpoints": [{ "addresses": ["host"], "conditions": { "ready": false } }] }),
        ),
        (KindId::EndpointSlice, json!({ "endpoints": [], "ports": [{}, { "port": 53, "protocol": "UDP" }] })),
        (KindId::Workload, json!({ "address": "0.0.0.0" })),
        (KindId::Workload, json!({ "address": "10.0.0.1", "serviceAccount": long })),
        (
            KindId::Workload,
            json!({ "address": "10.0.0.1", "ports": [{ "port": 1, "name": "a" }, { "port": 2, "name": "a" }] }),
        ),
        (
            KindId::HttpRoute,
            json!({ "parentRefs": parents, "rules": path("/a//b"), "useDefaultGateways": "All" }),
        ),
        (KindId::HttpRoute, json!({ "parentRefs": parents, "hostnames": ["10.0.0.1"] })),
        (
            KindId::TcpRoute,
            json!({ "parentRefs": parents, "rules": [{ "backendRefs": to_d }], "useDefaultGateways": "All" }),
        ),
        (KindId::TcpRoute, json!({ "parentRefs": parents, "rules": [{}] })),
    ] {
        let object = object(id, spec);
        assert!(!validate(kind(id), &object).is_empty(), "it would be taken today: {object}");
        assert_eq!(problem(id, &object), None, "{object}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_the_field() {
    let service = |port: Value| json!({ "ports": [port] });
    let workload = |field: &str, value: Value| {
        let mut spec = json!({ "address": "10.0.0.1", "ports": [{ "port": 80 }] });
        spec[field] = value;
        spec
    };
    let node = |name: Value, link: Value| workload("node", json!({ "name": name, "linkAddress": link }));
    let endpoint = |endpoint: Value| json!({ "endpoints": [endpoint] });
    let rule = |rule: Value| json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "d" }], "rules": [rule] });
    let backend = |field: &str, value: Value| {
        let mut backend = json!({ "name": "d", "port": 80 });
        backend[field] = value;
        rule(json!({ "backendRefs": [backend] }))
    };
    let matching = |field: &str, value: Value| rule(json!({ "matches": [{ field: value }] }));
    let header = |header: Value| matching("headers", json!([header]));
    let parent = |parent: Value| json!({ "parentRefs": parent });
    let first = "spec.rules[0].matches[0]";
    let refused = [
        (KindId::Service, Value::Null, "spec"),
        (KindId::Service, json!("x"), "spec"),
        (KindId::Service, json!({ "ports": {} }), "spec.ports"),
        (KindId::Service, json!({ "ports": ["x"] }), "spec.ports[0]"),
        (KindId::Service, json!({ "ports": [{ "port": 80 }, { "port": 80 }] }), "spec.ports[1]"),
        (KindId::Service, service(json!({})), "spec.ports[0].port"),
        (KindId::Service, service(json!({ "port": 0 })), "spec.ports[0].port"),
        (KindId::Service, service(json!({ "port": 65536 })), "spec.ports[0].port"),
        (KindId::Service, service(json!({ "port": 80, "targetPort": 65536 })), "spec.ports[0].targetPort"),
        (KindId::Service, service(json!({ "port": 80, "targetPort": -1 })), "spec.ports[0].targetPort"),
        (KindId::Service, service(json!({ "port": 80, "targetPort": [] })), "spec.ports[0].targetPort"),
        (KindId::Service, service(json!({ "port": 80, "name": 7 })), "spec.ports[0].name"),
        (KindId::Service, service(json!({ "port": 80, "appProtocol": 7 })), "spec.ports[0].appProtocol"),
        (KindId::Service, service(json!({ "port": 80, "protocol": 7 })), "spec.ports[0].protocol"),
        (KindId::Service, json!({ "ports": [{ "port": 80 }], "selector": { "a": 1 } }), "spec.selector[a]"),
        (KindId::Service, json!({ "ports": [{ "port": 80 }], "selector": [] }), "spec.selector"),
        (KindId::Service, json!({ "ports": [{ "port": 80 }], "clusterIP": 7 }), "spec.clusterIP"),
        (KindId::Service, json!({ "type": "ExternalName" }), "spec.externalName"),
        (KindId::Service, json!({ "type": "ExternalName", "externalName": "A" }), "spec.externalName"),
        (KindId::Workload, Value::Null, "spec"),
        (KindId::Workload, json!({}), "spec.address"),
        (KindId::Workload, workload("address", json!("host")), "spec.address"),
        (KindId::Workload, workload("address", json!(7)), "spec.address"),
        (KindId::Workload, workload("ports", json!("x")), "spec.ports"),
        (KindId::Workload, workload("ports", json!([{}])), "spec.ports[0].port"),
        (
            KindId::Workload,
            workload("ports", json!([{ "port": 1, "targetPort": 0 }])),
            "spec.ports[0].targetPort",
        ),
        (KindId::Workload, workload("serviceAccount", json!("A")), "spec.serviceAccount"),
        (KindId::Workload, node(json!(7), json!("10.0.0.1:1")), "spec.node.name"),
        (KindId::Workload, node(Value::Null, json!("10.0.0.1:1")), "spec.node.name"),
        (KindId::Workload, node(json!("n"), json!("10.0.0.1")), "spec.node.linkAddress"),
        (KindId::Workload, node(json!("n"), Value::Null), "spec.node.linkAddress"),
        (KindId::EndpointSlice, json!({ "addressType": "FQDN", "endpoints": [] }), "addressType"),
        (KindId::EndpointSlice, json!({ "endpoints": 7 }), "endpoints"),
        (KindId::EndpointSlice, endpoint(json!({})), "endpoints[0].addresses"),
        (KindId::EndpointSlice, endpoint(json!({ "addresses": [] })), "endpoints[0].addresses"),
        (KindId::EndpointSlice, endpoint(json!({ "addresses": ["host"] })), "endpoints[0].addresses[0]"),
        (
            KindId::EndpointSlice,
            endpoint(json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": 7 } })),
            "endpoints[0].conditions.ready",
        ),
        (
            KindId::EndpointSlice,
            endpoint(json!({ "addresses": ["10.0.0.1"], "hostname": 7 })),
            "endpoints[0].hostname",
        ),
        (KindId::EndpointSlice, json!({ "endpoints": [], "ports": [{ "port": 0 }] }), "ports[0].port"),
        (KindId::HttpRoute, Value::Null, "spec"),
        (KindId::HttpRoute, parent(json!("x")), "spec.parentRefs"),
        (KindId::HttpRoute, parent(json!([{}])), "spec.parentRefs[0].name"),
        (KindId::HttpRoute, parent(json!([{ "name": "d", "port": 0 }])), "spec.parentRefs[0].port"),
        (KindId::HttpRoute, json!({ "rules": "x" }), "spec.rules"),
        (KindId::HttpRoute, rule(json!({ "name": 7 })), "spec.rules[0].name"),
        (KindId::HttpRoute, rule(json!({ "filters": [{}] })), "spec.rules[0].filters[0].type"),
        (
            KindId::HttpRoute,
            rule(json!({ "sessionPersistence": { "sessionName": "a b" } })),
            "spec.rules[0].sessionPersistence.sessionName",
        ),
        (KindId::HttpRoute, rule(json!({ "retry": { "codes": [7] } })), "spec.rules[0].retry.codes[0]"),
        (KindId::HttpRoute, rule(json!({ "filters": {} })), "spec.rules[0].filters"),
        (KindId::HttpRoute, rule(json!({ "timeouts": { "request": 7 } })), "spec.rules[0].timeouts.request"),
        (KindId::HttpRoute, rule(json!({ "matches": {} })), "spec.rules[0].matches"),
        (KindId::HttpRoute, backend("filters", json!([{}])), "spec.rules[0].backendRefs[0].filters[0].type"),
        (KindId::HttpRoute, backend("weight", json!(-1)), "spec.rules[0].backendRefs[0].weight"),
        (KindId::HttpRoute, backend("weight", json!(1_000_001)), "spec.rules[0].backendRefs[0].weight"),
        (KindId::HttpRoute, backend("port", json!(0)), "spec.rules[0].backendRefs[0].port"),
        (KindId::HttpRoute, matching("method", json!(7)), "method"),
        (KindId::HttpRoute, matching("path", json!({ "type": "X", "value": "/" })), "path.type"),
        (KindId::HttpRoute, matching("path", json!({ "type": "X" })), "path.type"),
        (KindId::HttpRoute, matching("path", json!({ "value": "a" })), "path.value"),
        (KindId::HttpRoute, matching("path", json!({ "value": 7 })), "path.value"),
        (
            KindId::HttpRoute,
            matching("path", json!({ "type": "RegularExpression", "value": "(" })),
            "path.value",
        ),
        (KindId::HttpRoute, header(json!({ "name": "a", "value": "b", "type": "X" })), "headers[0].type"),
        (KindId::HttpRoute, header(json!({ "name": "a" })), "headers[0].value"),
        (KindId::HttpRoute, header(json!({ "value": "b" })), "headers[0].name"),
        (
            KindId::HttpRoute,
            header(json!({ "name": "a", "value": "(", "type": "RegularExpression" })),
            "headers[0].value",
        ),
        (KindId::HttpRoute, matching("queryParams", json!("x")), "queryParams"),
        (KindId::TcpRoute, Value::Null, "spec"),
        (KindId::TcpRoute, json!({ "rules": [] }), "spec.rules"),
        (KindId::TcpRoute, json!({ "rules": [{ "backendRefs": 7 }] }), "spec.rules[0].backendRefs"),
        (KindId::Mesh, json!("x"), "spec"),
        (KindId::Mesh, json!({ "egress": "Deny" }), "spec.egress"),
        (KindId::Mesh, json!({ "accessLog": true }), "spec.accessLog"),
        (KindId::Mesh, json!({ "trustDomain": 7 }), "spec.trustDomain"),
        (KindId::Mesh, json!({ "trustDomain": "other.local" }), "spec.trustDomain"),
        (KindId::Mesh, json!({ "egress": { "policy": "Maybe" } }), "spec.egress.policy"),
        (
            KindId::Mesh,
            json!({ "egress": { "namespaces": [{ "name": "a" }] } }),
            "spec.egress.namespaces[0].policy",
        ),
        (KindId::Mesh, json!({ "accessLog": { "enabled": "x" } }), "spec.accessLog.enabled"),
        (KindId::Mesh, json!({ "inboundCapture": { "enabled": 1 } }), "spec.inboundCapture.enabled"),
    ];
    for (id, spec, field) in refused {
        let object = object(id, spec);
        let field = match field.split(['.', '[']).next() {
            Some("method" | "path" | "headers" | "queryParams") => format!("{first}.{field}"),
            _ => field.to_owned(),
        };
        assert_eq!(problem(id, &object), Some(field), "{object}");
    }
    let metadata = |id: KindId, field: &str, value: Value| {
        let spec = json!({ "address": "10.0.0.1", "ports": [{ "port": 80 }], "endpoints": [] });
        let mut object = object(id, spec);
        object["metadata"][field] = value;
        problem(id, &object)
    };
    let wrong = || json!({ "a": 1 });
    for (id, field, value, expected) in [
        (KindId::Workload, "labels", wrong(), "metadata.labels[a]"),
        (KindId::EndpointSlice, "labels", wrong(), "metadata.labels[a]"),
        (KindId::HttpRoute, "creationTimestamp", json!("x"), "metadata.creationTimestamp"),
        (KindId::Mesh, "name", json!("other"), "metadata.name"),
        (
            KindId::Service,
            "annotations",
            json!({ "tulle.dev/half-close-timeout": 7 }),
            "metadata.annotations[tulle.dev/half-close-timeout]",
        ),
    ] {
        assert_eq!(metadata(id, field, value).as_deref(), Some(expected));
    }
    let mut odd = object(KindId::Workload, json!({ "address": "10.0.0.1" }));
    odd["status"] = json!({ "conditions": "x" });
    assert_eq!(problem(KindId::Workload, &odd).as_deref(), Some("status.conditions"));
}

/// Also where one is broken in many places.
#[test]
fn what_is_told_of_an_object_is_bounded() {
    let told = |count: usize| {
        let mut compiler = compiler();
        let object =
            object(KindId::Service, json!({ "ports": vec![json!({ "port": 0, "name": 1 }); count] }));
        compiler.apply(Change::Put(kind(KindId::Service), std::sync::Arc::new(object)));
        let name = NamespacedName::new("shop", "x");
        compiler.problem(kind(KindId::Service), &name).unwrap().to_string()
    };
    assert_eq!(
        told(1),
        "spec.ports[0].name: expected a text, found the number `1`; write it in quotes: \"1\"; spec.ports[0].port: 0 \
         is out of range: expected 1 to 65535"
    );
    assert!(told(9).ends_with(" more") && told(9).len() < 600, "{}", told(9));
}
