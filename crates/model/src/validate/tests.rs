use serde_json::{Value, json};

use super::*;
use crate::registry::{KINDS, KindId};

mod flows;
mod properties;

/// An object of that kind with a name and a spec.
fn object(kind: KindId, spec: Value) -> Value {
    let kind = kind.kind();
    json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": "default" }, "spec": spec })
}

/// `path: message` of every error.
fn errors(kind: KindId, object: &Value) -> Vec<String> {
    validate(kind.kind(), object).iter().map(ToString::to_string).collect()
}

/// The errors of an object with that spec.
fn spec_errors(kind: KindId, spec: Value) -> Vec<String> {
    errors(kind, &object(kind, spec))
}

fn codes(kind: KindId, spec: Value) -> Vec<(String, Code)> {
    validate(kind.kind(), &object(kind, spec)).into_iter().map(|e| (e.path.to_string(), e.code)).collect()
}

fn good(kind: KindId) -> Value {
    let spec = match kind {
        KindId::Namespace => json!({}),
        KindId::Service => json!({
            "selector": { "app": "c" },
            "ports": [
                { "name": "http", "port": 80, "targetPort": "web", "appProtocol": "kubernetes.io/h2c" },
                { "name": "dns", "port": 5353, "targetPort": 53, "protocol": "TCP" }
            ]
        }),
        KindId::GrpcRoute => json!({
            "parentRefs": [{ "group": "", "kind": "Service", "name": "d", "port": 80 }],
            "rules": [{
                "name": "main",
                "matches": [
                    { "method": { "service": "shop.v1.Cart", "method": "Add" }, "headers": [{ "name": "x-a", "value": "1" }] },
                    { "method": { "type": "RegularExpression", "method": "Get.*" } }
                ],
                "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": { "remove": ["x-b"] } }],
                "backendRefs": [{ "name": "d", "port": 80, "weight": 9 }]
            }]
        }),
        KindId::HttpRoute => json!({
            "parentRefs": [{ "group": "", "kind": "Service", "name": "d", "port": 80 }],
            "rules": [{
                "name": "main",
                "matches": [{
                    "path": { "type": "Exact", "value": "/a%20b/c" },
                    "headers": [{ "name": "x-a", "value": "1" }, { "type": "RegularExpression", "name": "x-b", "value": "a+" }],
                    "queryParams": [{ "name": "q", "value": "1" }],
                    "method": "GET"
                }],
                "backendRefs": [{ "name": "d1", "port": 80, "weight": 9 }, { "name": "d2", "port": 80 }]
            }]
        }),
        KindId::TlsRoute => json!({
            "parentRefs": [{ "group": "", "kind": "Service", "name": "d" }],
            "hostnames": ["d.example.com", "*.example.com"],
            "rules": [{ "backendRefs": [{ "name": "d1", "port": 80 }] }]
        }),
        KindId::TcpRoute => json!({
            "parentRefs": [{ "group": "", "kind": "Service", "name": "d" }],
            "rules": [{ "backendRefs": [{ "name": "d1", "port": 80 }] }]
        }),
        KindId::Mesh => json!({ "trustDomain": "mesh.local", "egress": { "policy": "Deny" } }),
        KindId::Workload => json!({
            "address": "10.0.0.7",
            "ports": [{ "name": "http", "port": 31000, "targetPort": 80 }, { "port": 9000 }],
            "serviceAccount": "c",
            "node": { "name": "n1", "linkAddress": "[fd00::1]:15008" }
        }),
        KindId::Node => json!({ "drained": true }),
        KindId::AuthorizationPolicy => json!({
            "targetRefs": [
                { "group": "", "kind": "Service", "name": "c" },
                { "group": "", "kind": "Namespace" },
                { "group": "tulle.dev", "kind": "Workload", "selector": {
                    "matchLabels": { "app": "c" },
                    "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["back"] }]
                } }
            ],
            "action": "Allow",
            "rules": [{
                "sources": [
                    { "type": "ServiceAccount", "serviceAccount": { "namespace": "shop", "name": "*" } },
                    { "type": "SPIFFE", "spiffe": "spiffe://mesh.local/ns/*/sa/web" },
                    { "type": "Namespace", "namespace": "shop" },
                    { "type": "TrustDomain", "trustDomain": "mesh.local" },
                    { "type": "External", "external": { "cidrs": ["192.0.2.0/24", "2001:db8::/32"] } }
                ],
                "networkAttributes": { "ports": [80] }
            }]
        }),
        KindId::ReferenceGrant => json!({
            "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop" }],
            "to": [{ "group": "", "kind": "Service" }, { "group": "", "kind": "Service", "name": "c" }]
        }),
        KindId::Event | KindId::EventV1 => {
            let kind = kind.kind();
            return json!({
                "apiVersion": kind.api_version(),
                "kind": kind.kind,
                "metadata": { "name": "c-1" },
                "reason": "Because",
                "type": "Warning"
            });
        }
        KindId::ExternalService => json!({
            "hosts": ["api.example.com", "*.example.org"],
            "addresses": ["192.0.2.1", "198.51.100.0/24", "2001:db8::/32"],
            "ports": [{ "name": "web", "port": 443, "appProtocol": "https" }, { "port": 80, "appProtocol": "http" }]
        }),
        KindId::Flow => json!({
            "workflow": {
                "document": { "dsl": "1.0.3", "namespace": "elsewhere", "name": "Order", "version": "0.1.0" },
                "do": [{ "pay": { "call": "http", "with": { "method": "post", "endpoint": "http://payment/{id}" } } }]
            },
            "serviceAccount": "orders",
            "trigger": { "http": { "port": 8080, "input": "request", "headers": ["x-shop"], "wait": "5s" } },
            "concurrency": { "limit": 5, "overflow": "Refuse" },
            "history": { "runs": 10, "age": "24h" }
        }),
        KindId::FlowRun => json!({ "flow": "order", "caller": "ann", "input": { "a": 1 } }),
        KindId::BackendTlsPolicy => json!({
            "targetRefs": [{ "group": "tulle.dev", "kind": "ExternalService", "name": "api", "sectionName": "web" }],
            "validation": {
                "hostname": "api.example.com",
                "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "ca" }],
                "subjectAltNames": [{ "type": "Hostname", "hostname": "*.example.com" }]
            },
            "options": { "example.com/own": "x" }
        }),
        KindId::ConfigMap => {
            return json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": { "name": "ca" },
                "data": { "ca.crt": "x" },
                "binaryData": { "b": "eA==" }
            });
        }
        KindId::Secret => {
            return json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": "key" },
                "type": "Opaque",
                "data": { "key": "c2VjcmV0" }
            });
        }
        KindId::Role | KindId::ClusterRole => {
            return json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": kind.kind().kind,
                "metadata": { "name": "shop:reader" },
                "rules": [{ "apiGroups": [""], "resources": ["services"], "verbs": ["get"] }]
            });
        }
        KindId::RoleBinding | KindId::ClusterRoleBinding => {
            return json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": kind.kind().kind,
                "metadata": { "name": "readers" },
                "roleRef": { "kind": "ClusterRole", "name": "view" },
                "subjects": [
                    { "kind": "User", "name": "ann" },
                    { "kind": "ServiceAccount", "namespace": "shop", "name": "web" }
                ]
            });
        }
        KindId::EndpointSlice => {
            return json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": { "name": "c-1", "labels": { "kubernetes.io/service-name": "c" } },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }],
                "ports": [{ "port": 80 }]
            });
        }
    };
    object(kind, spec)
}

#[test]
fn good_objects_pass_defaulted_or_not() {
    for kind in KINDS {
        let mut object = good(kind.id);
        assert_eq!(errors(kind.id, &object), [""; 0]);
        assert_eq!(unknown_fields(kind, &object), []);
        default_object(kind, &mut object);
        assert_eq!(errors(kind.id, &object), [""; 0]);
        assert_eq!(unknown_fields(kind, &object), []);
        let once = object.clone();
        default_object(kind, &mut object);
        prune(kind, &mut object);
        assert_eq!(object, once);
    }
}

#[test]
fn defaults_are_those_of_kubernetes_and_gateway_api() {
    let defaulted = |kind: KindId, mut object: Value| {
        default_object(kind.kind(), &mut object);
        object
    };
    let service = defaulted(
        KindId::Service,
        json!({ "spec": { "ports": [{ "port": 80 }, { "port": 81, "targetPort": "x" }] } }),
    );
    assert_eq!(service["spec"]["type"], "ClusterIP");
    assert_eq!(
        service["spec"]["ports"],
        json!([
            { "port": 80, "protocol": "TCP", "targetPort": 80 },
            { "port": 81, "protocol": "TCP", "targetPort": "x" }
        ])
    );
    let route = defaulted(
        KindId::HttpRoute,
        json!({ "spec": {
        "parentRefs": [{ "name": "g" }],
        "rules": [{ "backendRefs": [{ "name": "d", "port": 80 }] }, { "matches": [{ "method": "GET", "headers": [{ "name": "a", "value": "b" }] }] }]
    } }),
    );
    let everything = json!({ "type": "PathPrefix", "value": "/" });
    assert_eq!(
        route["spec"],
        json!({
            "parentRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g" }],
            "rules": [
                {
                    "matches": [{ "path": everything }],
                    "backendRefs": [{ "group": "", "kind": "Service", "name": "d", "port": 80, "weight": 1 }]
                },
                { "matches": [{ "path": everything, "method": "GET", "headers": [{ "type": "Exact", "name": "a", "value": "b" }] }] }
            ]
        })
    );
    assert_eq!(
        defaulted(KindId::HttpRoute, json!({ "spec": {} }))["spec"]["rules"][0]["matches"][0]["path"],
        everything
    );
    let namespace = defaulted(KindId::Namespace, json!({ "metadata": { "name": "shop" } }));
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
}

#[test]
fn unknown_fields_are_named_with_what_was_meant() {
    let route = object(
        KindId::HttpRoute,
        json!({ "rules": [{ "backendRef": [], "backendRefs": [{ "name": "d", "prot": 80 }] }], "x": null }),
    );
    let found: Vec<String> =
        unknown_fields(KindId::HttpRoute.kind(), &route).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "spec.x: there is no field `x` here; expected one of `hostnames`, `parentRefs`, `rules`, `useDefaultGateways`",
            "spec.rules[0].backendRef: there is no field `backendRef` here; expected one of `backendRefs`, `filters`, `matches`, `name`, `retry`, `sessionPersistence`, `timeouts`",
            "spec.rules[0].backendRefs[0].prot: there is no field `prot` here; did you mean `port`?",
        ]
    );
    let mut pruned = json!({ "spec": { "x": 1, "hostnames": null, "rules": [{ "y": 1, "filters": [{ "type": "ExtensionRef", "extensionRef": { "z": null } }] }] }, "q": 1 });
    prune(KindId::HttpRoute.kind(), &mut pruned);
    assert_eq!(
        pruned,
        json!({ "spec": { "rules": [{ "filters": [{ "type": "ExtensionRef", "extensionRef": { "z": null } }] }] } })
    );
}

#[test]
fn paths_print_as_kubernetes_does_and_point_as_json_does() {
    let path = FieldPath::root().field("metadata").field("labels").key("a.b/c~d");
    assert_eq!(path.to_string(), "metadata.labels[a.b/c~d]");
    assert_eq!(path.pointer(), "/metadata/labels/a.b~1c~0d");
    assert_eq!(path.parent().unwrap().to_string(), "metadata.labels");
}

#[test]
fn wrong_types_say_what_was_found() {
    assert_eq!(
        spec_errors(
            KindId::Service,
            json!({ "ports": [{ "port": "80" }], "selector": { "v": 1 }, "publishNotReadyAddresses": "true" })
        ),
        [
            "spec.ports[0].port: expected a whole number, found the text `80`; write it without quotes: 80",
            "spec.publishNotReadyAddresses: expected true or false, found the text `true`; write it without quotes: true",
            "spec.selector[v]: expected a text, found the number `1`; write it in quotes: \"1\"",
        ]
    );
    assert_eq!(
        spec_errors(KindId::HttpRoute, json!({ "rules": { "a": 1 } })),
        ["spec.rules: expected a list, found an object; start each item with `- `"]
    );
    assert_eq!(
        spec_errors(KindId::Service, json!({ "ports": [{ "port": 80.5, "targetPort": [] }] })),
        [
            "spec.ports[0].port: expected a whole number, found the number `80.5`, which is not a whole one in range",
            "spec.ports[0].targetPort: expected a whole number or a text, found a list",
        ]
    );
    assert_eq!(errors(KindId::Mesh, &json!([])), [": expected an object, found a list"]);
}

#[test]
fn metadata_follows_kubernetes() {
    let with = |metadata: Value| {
        let mut route = good(KindId::HttpRoute);
        route["metadata"] = metadata;
        errors(KindId::HttpRoute, &route)
    };
    assert_eq!(with(json!({ "generateName": "r-" })), [""; 0]);
    assert_eq!(
        with(json!({ "name": "a.b", "labels": { "a/b": "", "c": "X_1" }, "creationTimestamp": null })),
        [""; 0]
    );
    assert_eq!(with(json!({})).len(), 1);
    assert_eq!(with(json!({ "name": "" })).len(), 1);
    assert_eq!(
        with(json!({ "name": "A" })),
        [
            "metadata.name: `A` is no name for HTTPRoute objects: it must consist of lower case letters, digits and '-', and start and end with a letter or digit"
        ]
    );
    assert_eq!(with(json!({ "name": "a", "namespace": "a.b", "labels": { "a b": "-" }, "annotations": { "A/B": "ok", "": "x" } })).len(), 4);
    assert_eq!(with(json!({ "name": "a", "creationTimestamp": "yesterday" })).len(), 1);
    let mut mesh = good(KindId::Mesh);
    mesh["metadata"] = json!({ "name": "other", "namespace": "shop" });
    mesh["apiVersion"] = json!("tulle.dev/v1");
    assert_eq!(
        errors(KindId::Mesh, &mesh),
        [
            "apiVersion: `tulle.dev/v1` should be `tulle.dev/v1alpha1`",
            "metadata.name: `other` is no name for Mesh objects: it must be `default`: a mesh has one Mesh object, and that is its name",
            "metadata.namespace: `shop` must not be given: Mesh objects are in no namespace",
        ]
    );
}

#[test]
fn what_a_service_would_not_get_is_refused() {
    let port = || json!([{ "port": 80 }]);
    for (path, spec) in [
        ("type", json!({ "type": "NodePort", "ports": port() })),
        ("type", json!({ "type": "LoadBalancer", "ports": port() })),
        ("clusterIP", json!({ "clusterIP": "10.0.0.1", "ports": port() })),
        ("clusterIPs[0]", json!({ "clusterIPs": ["10.0.0.1"], "ports": port() })),
        ("externalIPs", json!({ "externalIPs": ["10.0.0.1"], "ports": port() })),
        ("sessionAffinity", json!({ "sessionAffinity": "ClientIP", "ports": port() })),
        ("sessionAffinityConfig", json!({ "sessionAffinityConfig": { "clientIP": {} }, "ports": port() })),
        ("publishNotReadyAddresses", json!({ "publishNotReadyAddresses": true, "ports": port() })),
        ("internalTrafficPolicy", json!({ "internalTrafficPolicy": "Local", "ports": port() })),
        ("externalTrafficPolicy", json!({ "externalTrafficPolicy": "Local", "ports": port() })),
        ("ipFamilies[0]", json!({ "ipFamilies": ["IPv6"], "ports": port() })),
        ("ipFamilyPolicy", json!({ "ipFamilyPolicy": "RequireDualStack", "ports": port() })),
        ("trafficDistribution", json!({ "trafficDistribution": "PreferClose", "ports": port() })),
        ("loadBalancerIP", json!({ "loadBalancerIP": "10.0.0.1", "ports": port() })),
        ("loadBalancerClass", json!({ "loadBalancerClass": "a/b", "ports": port() })),
        ("loadBalancerSourceRanges", json!({ "loadBalancerSourceRanges": ["10.0.0.0/8"], "ports": port() })),
        ("allocateLoadBalancerNodePorts", json!({ "allocateLoadBalancerNodePorts": true, "ports": port() })),
        ("healthCheckNodePort", json!({ "healthCheckNodePort": 30000, "ports": port() })),
        ("ports[0].protocol", json!({ "ports": [{ "port": 80, "protocol": "UDP" }] })),
        ("ports[0].protocol", json!({ "ports": [{ "port": 80, "protocol": "SCTP" }] })),
        ("ports[0].port", json!({ "ports": [{ "port": 53 }] })),
        ("ports[0].nodePort", json!({ "ports": [{ "port": 80, "nodePort": 30080 }] })),
    ] {
        let found = codes(KindId::Service, spec);
        assert_eq!(found, [(format!("spec.{path}"), Code::NotSupported)], "{path}");
    }
    let mut slice = good(KindId::EndpointSlice);
    slice["ports"] = json!([{ "port": 80, "protocol": "UDP" }]);
    assert_eq!(errors(KindId::EndpointSlice, &slice).len(), 1);
}

#[test]
fn services_follow_kubernetes() {
    let check = |spec: Value| spec_errors(KindId::Service, spec);
    assert_eq!(
        check(json!({ "ports": [{ "port": 0 }, { "port": 70000, "name": "b" }] })),
        [
            "spec.ports[0].port: 0 is out of range: expected 1 to 65535",
            "spec.ports[1].port: 70000 is out of range: expected 1 to 65535",
            "spec.ports[0].name: is missing: where a Service has several ports, each needs a name",
        ]
    );
    assert_eq!(
        check(json!({ "ports": [{ "name": "a", "port": 80 }, { "name": "a", "port": 80 }] })),
        [
            "spec.ports[1]: port `80`, protocol `TCP` is already in spec.ports[0]",
            "spec.ports[1].name: `a` is already the name of spec.ports[0]",
        ]
    );
    assert_eq!(
        check(
            json!({ "ports": [{ "port": 80, "protocol": "tcp", "targetPort": "8080" }], "type": "ClusterIp" })
        ),
        [
            "spec.ports[0].protocol: `tcp` is none of the values that are possible: `TCP`, `UDP`, `SCTP`; did you mean `TCP`?",
            "spec.type: `ClusterIp` is none of the values that are possible: `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`; did you mean `ClusterIP`?",
            "spec.ports[0].targetPort: `8080` is no name of a port: it must have at least one letter; for a number, write it without quotes: 8080",
        ]
    );
    assert_eq!(
        check(json!({ "ports": [{}] })),
        ["spec.ports[0].port: is missing, and is required: the port that clients connect to, 1 to 65535"]
    );
    assert_eq!(check(json!({})).len(), 1);
    assert_eq!(check(json!({ "clusterIP": "None" })), [""; 0]);
    assert_eq!(check(json!({ "type": "ExternalName" })).len(), 1);
    assert_eq!(check(json!({ "type": "ExternalName", "externalName": "example.com." })), [""; 0]);
    assert_eq!(check(json!({ "ports": [{ "port": 80, "appProtocol": "ht tp" }], "clusterIP": "x", "externalIPs": ["x"] })).len(), 3);
    // As a cluster gives it back.
    assert_eq!(
        check(json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "publishNotReadyAddresses": false, "externalIPs": [], "loadBalancerIP": "",
            "ports": [{ "port": 80, "nodePort": 0, "protocol": "TCP" }]
        })),
        [""; 0]
    );
    let mut named = good(KindId::Service);
    named["metadata"]["name"] = json!("1a");
    assert_eq!(
        errors(KindId::Service, &named),
        ["metadata.name: `1a` is no name for Service objects: it must start with a letter"]
    );
}

#[test]
fn endpoint_slices_follow_kubernetes() {
    let with = |fields: Value| {
        let mut slice = good(KindId::EndpointSlice);
        for (name, value) in fields.as_object().unwrap() {
            slice[name] = value.clone();
        }
        errors(KindId::EndpointSlice, &slice)
    };
    assert_eq!(
        with(
            json!({ "endpoints": [{ "addresses": ["::1"] }, { "addresses": ["host"] }, { "addresses": ["0.0.0.0"] }] })
        ),
        [
            "endpoints[0].addresses[0]: `::1` is no IPv4 address, and the addressType is IPv4",
            "endpoints[1].addresses[0]: `host` is no IP address",
            "endpoints[2].addresses[0]: `0.0.0.0` is no address of one endpoint (it is unspecified or multicast)",
        ]
    );
    assert_eq!(with(json!({ "endpoints": [{ "addresses": [] }, {}] })).len(), 2);
    for without_number in [json!({ "name": "t" }), json!({}), json!({ "name": "t", "port": null })] {
        let found = with(json!({ "ports": [{ "name": "a", "port": 80 }, without_number] }));
        assert!(found[0].starts_with("ports[1].port: is missing: "), "{found:?}");
    }
    assert_eq!(with(json!({ "ports": [] })), [""; 0], "for a headless service without ports");
    let called = |hostname: &str| {
        with(
            json!({ "endpoints": [{ "addresses": ["10.0.0.1"] }, { "addresses": ["10.0.0.2"], "hostname": hostname }] }),
        )
    };
    for hostname in ["c-0", "0", "a--b", &"a".repeat(63)] {
        assert_eq!(called(hostname), [""; 0], "{hostname}");
    }
    for hostname in ["A_b", "A", "x.y", "-a", "a-", "", "a b", &"a".repeat(64)] {
        assert_eq!(called(hostname).len(), 1, "{hostname}");
    }
    assert_eq!(
        called("x.y"),
        [
            "endpoints[1].hostname: `x.y` is no name of an endpoint: it must consist of lower case letters, digits and '-', and start and end with a letter or digit"
        ]
    );
    assert_eq!(with(json!({ "ports": [{ "port": 80 }, { "port": 81 }] })).len(), 1);
    assert_eq!(with(json!({ "addressType": "IPv5" })).len(), 1);
    assert_eq!(with(json!({ "addressType": "FQDN" })).len(), 1);
}

/// The errors of a route with one rule that has that match.
fn match_errors(condition: Value) -> Vec<String> {
    spec_errors(KindId::HttpRoute, json!({ "rules": [{ "matches": [condition] }] }))
}

#[test]
fn paths_of_matches_follow_gateway_api() {
    for good in ["/", "/a", "/a/", "/a.b/..c", "/%20", "/a;b=c,d"] {
        assert_eq!(match_errors(json!({ "path": { "value": good } })), [""; 0], "{good}");
    }
    for bad in [
        "",
        "a",
        "//",
        "/a//b",
        "/./a",
        "/a/../b",
        "/a/..",
        "/a/.",
        "/%2e%2e",
        "/a/%2E/b",
        "/a/..;v/b",
        "/a%2F..",
        "/%2f",
        "/%2F",
        "/a#b",
        "/a b",
        "/%2",
        "/ä",
        "/a?b",
    ] {
        for kind in ["Exact", "PathPrefix"] {
            assert_eq!(match_errors(json!({ "path": { "type": kind, "value": bad } })).len(), 1, "{bad}");
        }
    }
    assert_eq!(match_errors(json!({ "path": { "type": "RegularExpression", "value": "/a//.*" } })), [""; 0]);
    assert_eq!(
        match_errors(json!({ "path": { "type": "RegularExpression", "value": "/(a" } })),
        ["spec.rules[0].matches[0].path.value: `/(a` is no regular expression (RE2 syntax): unclosed group"]
    );
    assert_eq!(
        match_errors(json!({ "path": { "type": "Prefix", "value": "/" } })),
        [
            "spec.rules[0].matches[0].path.type: `Prefix` is none of the values that are possible: `Exact`, `PathPrefix`, `RegularExpression`; did you mean `PathPrefix`?"
        ]
    );
}

#[test]
fn matches_follow_gateway_api() {
    assert_eq!(
        match_errors(json!({ "headers": [{ "name": "a b", "value": "" }], "method": "get" })),
        [
            "spec.rules[0].matches[0].headers[0].value: must not be empty",
            "spec.rules[0].matches[0].method: `get` is none of the values that are possible: `GET`, `HEAD`, `POST`, `PUT`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE`, `PATCH`; did you mean `GET`?",
            "spec.rules[0].matches[0].headers[0].name: `a b` is no name of a header: it must consist of letters, digits and !#$%&'*+-.^_`|~",
        ]
    );
    let header = |name: &str| json!({ "name": name, "value": "1" });
    assert_eq!(
        match_errors(json!({ "headers": [header("a"), header("a")] })),
        ["spec.rules[0].matches[0].headers[1]: name `a` is already in spec.rules[0].matches[0].headers[0]"]
    );
    let many: Vec<Value> = (0..17).map(|i| header(&format!("h{i}"))).collect();
    assert_eq!(
        match_errors(json!({ "headers": many })),
        ["spec.rules[0].matches[0].headers: has 17 items; at most 16 are allowed"]
    );
    assert_eq!(match_errors(json!({ "queryParams": [{ "name": "a", "value": "x".repeat(1025) }] })).len(), 1);
    assert_eq!(match_errors(json!({ "headers": [{ "name": "a", "value": "x".repeat(4097) }] })).len(), 1);
    assert_eq!(
        match_errors(json!({ "headers": [{ "type": "RegularExpression", "name": "a", "value": "[" }] }))
            .len(),
        1
    );
}

#[test]
fn limits_of_routes_are_gateway_apis() {
    let rules = |count: usize, matches: usize| {
        let conditions: Vec<Value> =
            (0..matches).map(|i| json!({ "path": { "value": format!("/{i}") } })).collect();
        json!({ "rules": vec![json!({ "matches": conditions }); count] })
    };
    assert_eq!(spec_errors(KindId::HttpRoute, rules(16, 8)), [""; 0]);
    assert_eq!(spec_errors(KindId::HttpRoute, rules(2, 64)), [""; 0]);
    assert_eq!(
        spec_errors(KindId::HttpRoute, rules(17, 1)),
        ["spec.rules: has 17 items; at most 16 are allowed"]
    );
    assert_eq!(
        spec_errors(KindId::HttpRoute, rules(1, 65)),
        ["spec.rules[0].matches: has 65 items; at most 64 are allowed"]
    );
    assert_eq!(
        spec_errors(KindId::HttpRoute, rules(3, 64)),
        ["spec.rules: have 192 matches in all; at most 128 are allowed in one route"]
    );
    assert_eq!(spec_errors(KindId::HttpRoute, json!({ "rules": [] })).len(), 1);
    assert_eq!(
        spec_errors(
            KindId::HttpRoute,
            json!({ "rules": [{ "name": "a" }, { "name": "a" }, { "name": "A" }] })
        )
        .len(),
        2
    );
    assert_eq!(
        spec_errors(KindId::HttpRoute, json!({ "hostnames": ["*.a.b", "a", "*", "1.2.3.4", "a.*.b", "A"] }))
            .len(),
        4
    );
}

#[test]
fn calls_are_matched_by_names_of_grpc() {
    let problems = |matched: Value| codes(KindId::GrpcRoute, json!({ "rules": [{ "matches": [matched] }] }));
    for fine in [
        json!({}),
        json!({ "method": { "service": "a.b.C" } }),
        json!({ "method": { "service": ".a.b.C", "method": "_d" } }),
        json!({ "method": { "type": "RegularExpression", "service": "a\\..*", "method": "(Get|List).*" } }),
        json!({ "headers": [{ "name": "x-a", "value": "1" }] }),
    ] {
        assert_eq!(problems(fine.clone()), [], "{fine}");
    }
    let at = |path: &str| format!("spec.rules[0].matches[0].{path}");
    for (wrong, path, code) in [
        (json!({ "method": {} }), "method.service", Code::Required),
        (json!({ "method": { "service": "a/b" } }), "method.service", Code::Invalid),
        (json!({ "method": { "service": "a..b" } }), "method.service", Code::Invalid),
        (json!({ "method": { "method": "a.b" } }), "method.method", Code::Invalid),
        (
            json!({ "method": { "type": "RegularExpression", "service": "(" } }),
            "method.service",
            Code::Invalid,
        ),
        (json!({ "method": { "type": "Prefix", "service": "a" } }), "method.type", Code::NotSupported),
        (
            json!({ "method": { "type": "RegularExpression", "service": "a)|(?:b" } }),
            "method.service",
            Code::Invalid,
        ),
        (
            json!({ "method": { "type": "RegularExpression", "service": "a", "method": "(" } }),
            "method.method",
            Code::Invalid,
        ),
    ] {
        assert_eq!(problems(wrong.clone()), [(at(path), code)], "{wrong}");
    }
    assert_eq!(codes(KindId::GrpcRoute, json!({})), [("spec.rules".to_owned(), Code::Required)]);
    let many = json!({ "rules": vec![json!({ "matches": vec![json!({}); 33] }); 4] });
    assert_eq!(codes(KindId::GrpcRoute, many), [("spec.rules".to_owned(), Code::TooMany)]);
    let filter = json!({ "type": "URLRewrite", "urlRewrite": { "hostname": "a.b" } });
    let refused = codes(KindId::GrpcRoute, json!({ "rules": [{ "filters": [filter] }] }));
    assert!(refused.iter().any(|(path, _)| path == "spec.rules[0].filters[0].type"), "{refused:?}");
}

#[test]
fn mirrors_take_a_part_of_requests() {
    let problems = |mirror: Value| {
        let filters = json!([{ "type": "RequestMirror", "requestMirror": mirror }]);
        codes(KindId::HttpRoute, json!({ "rules": [{ "filters": filters }] }))
    };
    let to = json!({ "name": "d", "port": 80 });
    for fine in [
        json!({ "backendRef": to }),
        json!({ "backendRef": to, "percent": 0 }),
        json!({ "backendRef": to, "fraction": { "numerator": 100 } }),
        json!({ "backendRef": to, "fraction": { "numerator": 1, "denominator": 1000 } }),
        json!({ "backendRef": { "group": "x.org", "kind": "Bucket", "name": "d" } }),
    ] {
        assert_eq!(problems(fine.clone()), [], "{fine}");
    }
    let at = |path: &str| format!("spec.rules[0].filters[0].requestMirror{path}");
    for (wrong, path, code) in [
        (json!({}), ".backendRef", Code::Required),
        (json!({ "backendRef": { "name": "d" } }), ".backendRef.port", Code::Required),
        (json!({ "backendRef": to, "percent": 101 }), ".percent", Code::Invalid),
        (
            json!({ "backendRef": to, "percent": 1, "fraction": { "numerator": 1 } }),
            ".fraction",
            Code::Forbidden,
        ),
        (json!({ "backendRef": to, "fraction": { "numerator": 101 } }), ".fraction", Code::Invalid),
        (
            json!({ "backendRef": to, "fraction": { "numerator": 1, "denominator": 5_000_000_000_u64 } }),
            ".fraction.denominator",
            Code::Invalid,
        ),
    ] {
        assert_eq!(problems(wrong.clone()), [(at(path), code)], "{wrong}");
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let auth = json!({ "type": "ExternalAuth", "externalAuth": {} });
    let spec = json!({ "useDefaultGateways": "All", "rules": [
        { "filters": [{ "type": "ExtensionRef", "extensionRef": {} }] },
        { "filters": [], "backendRefs": [{ "name": "d", "port": 80, "filters": [auth] }] }
    ] });
    let refused = [
        "spec.useDefaultGateways",
        "spec.rules[0].filters[0].type",
        "spec.rules[1].backendRefs[0].filters[0].type",
    ];
    assert_eq!(codes(KindId::HttpRoute, spec), refused.map(|path| (path.to_owned(), Code::NotSupported)));
}

#[test]
fn parents_and_backends_follow_gateway_api() {
    let parents = |parents: Value| spec_errors(KindId::HttpRoute, json!({ "parentRefs": parents }));
    let service = |name: &str| json!({ "group": "", "kind": "Service", "name": name });
    let port = |port: u16| json!({ "group": "", "kind": "Service", "name": "d", "port": port });
    assert_eq!(parents(json!([service("d"), service("e")])), [""; 0]);
    assert_eq!(parents(json!([port(80), port(81)])), [""; 0]);
    assert_eq!(parents(json!([port(80), port(80)])).len(), 1);
    assert_eq!(parents(json!([service("d"), port(80)])).len(), 1);
    assert_eq!(
        parents(json!([{ "kind": "Service", "name": "d" }])),
        [
            "spec.parentRefs[0].group: a Service is in the core group: write `group: \"\"` beside `kind: Service`"
        ]
    );
    assert_eq!(parents(json!([{}])).len(), 1);
    assert_eq!(parents(json!([{ "name": "A", "namespace": "B", "kind": "-", "group": "C" }])).len(), 4);
    let backends =
        |backends: Value| spec_errors(KindId::HttpRoute, json!({ "rules": [{ "backendRefs": backends }] }));
    assert_eq!(
        backends(json!([{ "name": "d" }])),
        [
            "spec.rules[0].backendRefs[0].port: is missing: a Service as backend needs the port to use, 1 to 65535"
        ]
    );
    assert_eq!(
        backends(json!([{ "name": "d", "port": 80, "weight": 1_000_001 }])),
        ["spec.rules[0].backendRefs[0].weight: 1000001 is out of range: expected 0 to 1000000"]
    );
    assert_eq!(backends(json!([{ "name": "d", "port": 80, "weight": -1 }])).len(), 1);
}

#[test]
fn tcp_routes_have_one_rule_with_backends() {
    let rule = json!({ "backendRefs": [{ "name": "d", "port": 80 }] });
    let check = |spec: Value| codes(KindId::TcpRoute, spec);
    assert_eq!(check(json!({ "rules": [rule] })), []);
    assert_eq!(check(json!({})), [("spec.rules".to_owned(), Code::Required)]);
    assert_eq!(check(json!({ "rules": [] })), [("spec.rules".to_owned(), Code::Invalid)]);
    assert_eq!(check(json!({ "rules": [rule, rule] })), [("spec.rules".to_owned(), Code::TooMany)]);
    assert_eq!(check(json!({ "rules": [{}] })), [("spec.rules[0].backendRefs".to_owned(), Code::Required)]);
}

#[test]
fn tls_routes_have_host_names_and_one_rule_with_backends() {
    let rule = json!({ "backendRefs": [{ "name": "d", "port": 80 }] });
    let check = |spec: Value| codes(KindId::TlsRoute, spec);
    let named = |hostnames: Value| check(json!({ "hostnames": hostnames, "rules": [rule] }));
    let at = |path: &str, code: Code| (path.to_owned(), code);
    assert_eq!(named(json!(["a", "a.example.com", "*.example.com", "*.com", "1.example.com", "a"])), []);
    assert_eq!(check(json!({ "rules": [rule] })), [at("spec.hostnames", Code::Required)]);
    assert_eq!(named(json!([])), [at("spec.hostnames", Code::Invalid)]);
    for bad in [
        "*",
        "*.",
        "",
        "A.example.com",
        "a.*.com",
        "*a.com",
        "*.*.com",
        "10.0.0.1",
        "fd00::1",
        "a.com.",
        "a b",
    ] {
        assert_eq!(named(json!([bad])), [at("spec.hostnames[0]", Code::Invalid)], "{bad}");
    }
    assert_eq!(named(json!([format!("*.{}", ["a"; 126].join("."))])), []);
    assert_eq!(
        named(json!([format!("*.{}", ["a"; 127].join("."))])),
        [at("spec.hostnames[0]", Code::Invalid)]
    );
    let many = |count: u32| named((0..count).map(|i| format!("a{i}.example.com")).collect());
    assert_eq!(many(1024), []);
    assert_eq!(many(1025), [at("spec.hostnames", Code::TooMany)]);
    let with = |rules: Value| check(json!({ "hostnames": ["a.example.com"], "rules": rules }));
    assert_eq!(with(json!([])), [at("spec.rules", Code::Invalid)]);
    assert_eq!(with(json!([rule, rule])), [at("spec.rules", Code::TooMany)]);
    assert_eq!(with(json!([{}])), [at("spec.rules[0].backendRefs", Code::Required)]);
    assert_eq!(
        with(json!([{ "backendRefs": [{ "name": "d" }] }])),
        [at("spec.rules[0].backendRefs[0].port", Code::Required)]
    );
    let neither = [at("spec.hostnames", Code::Required), at("spec.rules", Code::Required)];
    assert_eq!(check(json!({})), neither);
}

#[test]
fn meshes_and_workloads_are_checked() {
    assert_eq!(
        spec_errors(KindId::Mesh, json!({ "trustDomain": "Mesh", "egress": { "policy": "deny" } })),
        [
            "spec.egress.policy: `deny` is none of the values that are possible: `Allow`, `Deny`, `Listed`; did you mean `Deny`?",
            "spec.trustDomain: `Mesh` is no trust domain: it must consist of lower case letters, digits and '-', and start and end with a letter or digit (a DNS name in lower case, e.g. `mesh.local`)",
        ]
    );
    let old = good(KindId::Mesh);
    let mut new = old.clone();
    assert_eq!(validate_update(KindId::Mesh.kind(), &old, &new), []);
    new["spec"]["trustDomain"] = json!("other");
    assert_eq!(validate_update(KindId::Mesh.kind(), &old, &new).len(), 1);
    new["spec"] = json!({});
    assert_eq!(validate_update(KindId::Mesh.kind(), &old, &new).len(), 1);
    assert_eq!(validate_update(KindId::Mesh.kind(), &new, &old), []);

    let workload = |spec: Value| codes(KindId::Workload, spec);
    assert_eq!(workload(json!({ "address": "::1" })), []);
    let at = |path: &str, code: Code| (path.to_owned(), code);
    assert_eq!(workload(json!({})), [at("spec.address", Code::Required)]);
    assert_eq!(
        workload(
            json!({ "address": "host", "serviceAccount": "A", "node": { "name": "N", "linkAddress": "10.0.0.1" } })
        ),
        [
            at("spec.address", Code::Invalid),
            at("spec.serviceAccount", Code::Invalid),
            at("spec.node.name", Code::Invalid),
            at("spec.node.linkAddress", Code::Invalid),
        ]
    );
    assert_eq!(
        workload(
            json!({ "address": "10.0.0.1", "ports": [{ "port": 1, "name": "a" }, { "port": 1, "name": "a" }, { "port": 2, "targetPort": 1 }] })
        ),
        [
            at("spec.ports[1]", Code::Duplicate),
            at("spec.ports[1].name", Code::Duplicate),
            at("spec.ports[2].targetPort", Code::Duplicate),
        ]
    );
    assert_eq!(workload(json!({ "address": "10.0.0.1", "node": {} })).len(), 2);
}

#[test]
fn references_to_what_does_not_exist_are_found() {
    let service = |name: &str, port: u16| {
        let ports = json!([{ "port": port }, { "port": 53, "protocol": "UDP", "name": "dns" }]);
        let mut service = object(KindId::Service, json!({ "ports": ports }));
        service["metadata"]["name"] = name.into();
        (KindId::Service.kind(), service)
    };
    let route = |parent: &str, backend: &str, port: u16| {
        let parent = json!({ "group": "", "kind": "Service", "name": parent });
        let spec = json!({ "parentRefs": [parent], "rules": [{ "backendRefs": [{ "name": backend, "port": port }] }] });
        (KindId::HttpRoute.kind(), object(KindId::HttpRoute, spec))
    };
    let section = |parent: &str, section: &str| {
        let (kind, mut route) = route(parent, "orders", 80);
        route["spec"]["parentRefs"][0]["sectionName"] = section.into();
        (kind, route)
    };
    let both = |port: u16| {
        let (kind, mut route) = section("stored", "admin");
        route["spec"]["parentRefs"][0]["port"] = port.into();
        (kind, route)
    };
    let flow = |name: &str, trigger: Value| {
        let mut flow = object(KindId::Flow, json!({ "trigger": trigger }));
        flow["metadata"]["name"] = name.into();
        (KindId::Flow.kind(), flow)
    };
    let to_flow = |flow: &str, port: Value| {
        let (kind, mut route) = route("orders", flow, 80);
        let backend = &mut route["spec"]["rules"][0]["backendRefs"][0];
        (backend["group"], backend["kind"], backend["port"]) = ("tulle.dev".into(), "Flow".into(), port);
        (kind, route)
    };
    let gateway =
        (KindId::TcpRoute.kind(), object(KindId::TcpRoute, json!({ "parentRefs": [{ "name": "g" }] })));
    let objects = [
        service("orders", 80),
        route("orders", "order", 80),
        route("orders", "stored", 81),
        route("x", "orders", 81),
        gateway,
        section("stored", "admin"),
        section("stored", "admins"),
        section("orders", ""),
        both(90),
        both(80),
        route("orders", "orders", 53),
        flow("order", json!({ "http": {} })),
        flow("by-hand", json!({})),
        to_flow("order", Value::Null),
        to_flow("order", json!(81)),
        to_flow("by-hand", Value::Null),
        to_flow("orders", Value::Null),
    ];
    let known = |kind: KindId, name: &crate::name::ServiceName| {
        let port = |number, name: &str| OfferedPort { number, name: name.to_owned() };
        (kind == KindId::Service && &*name.name == "stored").then(|| vec![port(80, ""), port(90, "admin")])
    };
    let found: Vec<(usize, String)> = check_references(&objects, known)
        .into_iter()
        .map(|(index, error)| (index, error.to_string()))
        .collect();
    assert_eq!(found, [
        (1, "spec.rules[0].backendRefs[0].name: there is no Service `order` in the namespace `default`; did you mean `orders`?".to_owned()),
        (2, "spec.rules[0].backendRefs[0].port: the Service `default/stored` has no port 81: it has 80, 90 (admin)".to_owned()),
        (3, "spec.parentRefs[0].name: there is no Service `x` in the namespace `default`".to_owned()),
        (3, "spec.rules[0].backendRefs[0].port: the Service `default/orders` has no port 81: it has 80".to_owned()),
        (4, "spec.parentRefs[0]: `Gateway` as parent is not supported yet: expected a Service (`group: \"\"`, `kind: Service`)".to_owned()),
        (6, "spec.parentRefs[0].sectionName: the Service `default/stored` has no port named `admins`: it has 80, 90 (admin)".to_owned()),
        (9, "spec.parentRefs[0].sectionName: the Service `default/stored` has no port 80 named `admin`: it has 80, 90 (admin)".to_owned()),
        (10, "spec.rules[0].backendRefs[0].port: the Service `default/orders` has no port 53: it has 80".to_owned()),
        (14, "spec.rules[0].backendRefs[0].port: the Flow `default/order` has no port 81: it has 80".to_owned()),
        (15, "spec.rules[0].backendRefs[0].name: the Flow `default/by-hand` has no `trigger.http`: nobody can call it".to_owned()),
        (16, "spec.rules[0].backendRefs[0].name: there is no Flow `orders` in the namespace `default`; did you mean `order`?".to_owned()),
    ]);
}

#[test]
fn services_say_how_http1_is_spoken() {
    let with = |annotations: Value| {
        let spec = json!({ "ports": [
            { "name": "web", "port": 80 },
            { "name": "rpc", "port": 81, "appProtocol": "grpc" },
        ] });
        let mut service = object(KindId::Service, spec);
        service["metadata"]["annotations"] = annotations;
        errors(KindId::Service, &service)
    };
    let fine = json!({
        "tulle.dev/preserve-header-case": "web", "tulle.dev/half-close-timeout": "1m, rpc=2s", "other.dev/x": "?",
    });
    assert_eq!(with(fine), [""; 0]);
    for (key, value, message) in [
        ("tulle.dev/preserve-header-case", "rpc", "port `rpc` does not speak HTTP/1"),
        ("tulle.dev/preserve-header-case", "x", "`x` is no TCP port of the service (it has web, rpc)"),
        ("tulle.dev/half-close-timeout", "soon", "`soon` is no duration"),
        (
            "tulle.dev/half-closed-timeout",
            "1s",
            "means nothing to Tulle; it knows `tulle.dev/preserve-header-case`",
        ),
    ] {
        let found = with(json!({ key: value }));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("metadata.annotations") && found[0].contains(message), "{found:?}");
    }
}

#[test]
fn names_have_the_lengths_that_dns_has() {
    let domain = |length: usize| {
        let labels = format!("{}.", "a".repeat(61)).repeat(3);
        codes(KindId::Mesh, json!({ "trustDomain": labels[..length] }))
    };
    assert_eq!(domain(125), []);
    assert_eq!(domain(126), [("spec.trustDomain".to_owned(), Code::TooLong)]);
    // <service-account>.<namespace>.<trust-domain> is a name of at most 253 characters.
    let account = |length: usize, namespace: &str| {
        let mut workload = good(KindId::Workload);
        workload["metadata"]["namespace"] = json!(namespace);
        workload["spec"]["serviceAccount"] = json!(format!("{}.{}", "a".repeat(60), "a".repeat(length - 61)));
        errors(KindId::Workload, &workload)
    };
    assert_eq!(account(121, "shop1"), [""; 0]);
    assert_eq!(
        account(122, "shop1"),
        ["spec.serviceAccount: has 122 characters; with its namespace it may have at most 126"]
    );
    assert_eq!(account(116, &"n".repeat(10)), [""; 0]);
    assert_eq!(account(117, &"n".repeat(10)).len(), 1);
    let mut namespace = good(KindId::Namespace);
    namespace["metadata"]["name"] = json!("a.b");
    assert_eq!(errors(KindId::Namespace, &namespace).len(), 1, "a namespace is one label");
}

#[test]
fn addresses_are_such_that_one_can_connect_to() {
    let workload = |address: &str| codes(KindId::Workload, json!({ "address": address }));
    for (address, fine) in [
        ("10.0.0.1", true),
        ("::1", true),
        ("0.0.0.0", false),
        ("::", false),
        ("224.0.0.1", false),
        ("ff02::1", false),
    ] {
        assert_eq!(workload(address).is_empty(), fine, "{address}");
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let other = if address.contains(':') { "IPv4" } else { "IPv6" };
        for (family, fine) in [(family, fine), (other, false)] {
            let mut slice = good(KindId::EndpointSlice);
            slice["addressType"] = json!(family);
            slice["endpoints"] = json!([{ "addresses": [address] }]);
            assert_eq!(errors(KindId::EndpointSlice, &slice).is_empty(), fine, "{address} {family}");
        }
    }
    for (link, fine) in [
        ("10.0.0.1:15008", true),
        ("[::1]:1", true),
        ("10.0.0.1:0", false),
        ("0.0.0.0:15008", false),
        ("a:1", false),
    ] {
        let found = codes(
            KindId::Workload,
            json!({ "address": "10.0.0.1", "node": { "name": "n", "linkAddress": link } }),
        );
        assert_eq!(found.is_empty(), fine, "{link}");
    }
}

#[test]
fn external_names_and_target_ports_follow_kubernetes() {
    let check = |spec: Value| codes(KindId::Service, spec);
    let name = |name: &str| check(json!({ "type": "ExternalName", "externalName": name }));
    assert_eq!(name("example.com"), []);
    assert_eq!(name("not a name"), [("spec.externalName".to_owned(), Code::Invalid)]);
    assert_eq!(name(""), [("spec.externalName".to_owned(), Code::Required)]);
    // A name has no address that there could be none of.
    let headless =
        json!({ "type": "ExternalName", "externalName": "a.b", "clusterIP": "None", "clusterIPs": ["None"] });
    assert_eq!(check(headless), [("spec.clusterIP".to_owned(), Code::NotSupported)]);
    let addresses = |address: Option<&str>, addresses: Value| {
        check(json!({ "clusterIP": address, "clusterIPs": addresses, "ports": [{ "port": 80 }] }))
    };
    assert_eq!(addresses(Some("None"), json!(["None"])), []);
    assert_eq!(addresses(Some(""), json!([])), []);
    for address in [None, Some("")] {
        assert_eq!(addresses(address, json!(["None"])), [("spec.clusterIPs[0]".to_owned(), Code::Invalid)]);
    }
    // Elsewhere it means nothing.
    assert_eq!(check(json!({ "externalName": "not a name", "ports": [{ "port": 80 }] })), []);
    let target = |target: Value| check(json!({ "ports": [{ "port": 80, "targetPort": target }] })).len();
    for fine in [json!(1), json!(65535), json!(0), json!(""), json!("web")] {
        assert_eq!(target(fine.clone()), 0, "{fine}");
    }
    for bad in [json!(-1), json!(65536), json!("80"), json!("a--b")] {
        assert_eq!(target(bad.clone()), 1, "{bad}");
    }
    let defaulted = |target: Value| {
        let mut service = json!({ "spec": { "ports": [{ "port": 80, "targetPort": target }] } });
        default_object(KindId::Service.kind(), &mut service);
        service["spec"]["ports"][0]["targetPort"].clone()
    };
    for absent in [json!(null), json!(0), json!("")] {
        assert_eq!(defaulted(absent.clone()), 80, "{absent}");
    }
    assert_eq!(defaulted(json!("web")), "web");
    let mut slice = good(KindId::EndpointSlice);
    slice["ports"] = json!([{ "name": "", "port": 80 }]);
    assert_eq!(errors(KindId::EndpointSlice, &slice), [""; 0], "a single port needs no name");
}

#[test]
fn groups_and_kinds_of_references_are_words() {
    let reference = |group: &str, kind: &str| {
        let backend = json!({ "group": group, "kind": kind, "name": "d", "port": 80 });
        codes(KindId::HttpRoute, json!({ "rules": [{ "backendRefs": [backend] }] }))
    };
    let at = |field: &str| vec![(format!("spec.rules[0].backendRefs[0].{field}"), Code::Invalid)];
    for (group, kind, expected) in [
        ("", "Service", vec![]),
        ("example.com", "X-9", vec![]),
        ("core", "Service", at("group")),
        ("v1", "Service", at("group")),
        ("Example", "Service", at("group")),
        ("", "9X", at("kind")),
        ("", "X-", at("kind")),
        ("", "X.Y", at("kind")),
        ("", "-", at("kind")),
    ] {
        assert_eq!(reference(group, kind), expected, "{group} {kind}");
    }
    let parents = |parents: Value| codes(KindId::HttpRoute, json!({ "parentRefs": parents }));
    let section = |section: &str| json!({ "name": "g", "sectionName": section });
    assert_eq!(parents(json!([section("a"), section("b")])), []);
    assert_eq!(parents(json!([section("a"), section("a")])).len(), 1);
    assert_eq!(parents(json!([section("a"), { "name": "g" }])).len(), 1);
    // A port is asked for where a Service is meant.
    let backend =
        |backend: Value| codes(KindId::HttpRoute, json!({ "rules": [{ "backendRefs": [backend] }] }));
    assert_eq!(backend(json!({ "name": "d" })).len(), 1);
    assert_eq!(backend(json!({ "name": "d", "kind": "Other" })), []);
    assert_eq!(backend(json!({ "name": "d", "group": "example.com" })), []);
    assert_eq!(backend(json!("d")).len(), 1, "only that it is no object");
}

#[test]
fn lengths_and_numbers_are_counted_to_the_last() {
    let value = |list: &str, length: usize| {
        codes(
            KindId::HttpRoute,
            json!({ "rules": [{ "matches": [{ list: [{ "name": "a", "value": "x".repeat(length) }] }] }] }),
        )
    };
    for (list, longest) in [("headers", 4096), ("queryParams", 1024)] {
        assert_eq!(value(list, longest), [], "{list}");
        let found = value(list, longest + 1);
        assert_eq!(found.iter().map(|(_, code)| *code).collect::<Vec<_>>(), [Code::TooLong], "{list}");
    }
    assert_eq!(value("queryParams", 4097).len(), 1, "it is said once");
    let weight = |weight: i64| {
        codes(
            KindId::HttpRoute,
            json!({ "rules": [{ "backendRefs": [{ "name": "d", "port": 80, "weight": weight }] }] }),
        )
        .len()
    };
    assert_eq!([-1, 0, 1_000_000, 1_000_001].map(weight), [1, 0, 0, 1]);
    let annotated = |lengths: [usize; 2]| {
        let mut mesh = good(KindId::Mesh);
        let [one, other] = lengths.map(|length| "x".repeat(length));
        mesh["metadata"]["annotations"] = json!({ "a": one, "b": other });
        validate(KindId::Mesh.kind(), &mesh)
            .into_iter()
            .map(|e| (e.path.to_string(), e.code))
            .collect::<Vec<_>>()
    };
    let half = 128 * 1024 - 1;
    assert_eq!(annotated([half, half]), []);
    let too_long = [("metadata.annotations".to_owned(), Code::TooLong)];
    assert_eq!(annotated([half, half + 1]), too_long);
    assert_eq!(annotated([half, half * 2]), too_long);
    assert_eq!(annotated([0, 256 * 1024]), too_long);
}

#[test]
fn lists_that_are_sets_hold_each_text_once() {
    let mut slice = good(KindId::EndpointSlice);
    slice["endpoints"] = json!([{ "addresses": ["10.0.0.1", "10.0.0.1"] }]);
    assert_eq!(
        errors(KindId::EndpointSlice, &slice),
        ["endpoints[0].addresses[1]: `10.0.0.1` is already in endpoints[0].addresses[0]"]
    );
}

#[test]
fn what_may_have_any_field_keeps_them() {
    let known = json!({ "a": { "type": "string" } });
    for (schema, open) in [
        (json!({ "properties": known }), false),
        (json!({ "properties": known, "additionalProperties": { "type": "string" } }), true),
        (json!({ "properties": known, "x-kubernetes-preserve-unknown-fields": true }), true),
        (json!({ "additionalProperties": { "type": "string" } }), true),
    ] {
        let mut object = json!({ "a": "1", "b": "2" });
        let mut found = Vec::new();
        structure::unknown(&schema, &FieldPath::root(), &object, &mut found);
        structure::prune(&schema, &mut object);
        assert_eq!((found.is_empty(), object.get("b").is_some()), (open, open), "{schema}");
    }
}

#[test]
fn advice_is_given_only_where_it_helps() {
    let said = |spec: Value| spec_errors(KindId::Service, spec).remove(0);
    let port = |port: Value| said(json!({ "ports": [{ "port": port }] }));
    assert_eq!(port(json!("http")), "spec.ports[0].port: expected a whole number, found the text `http`");
    assert_eq!(
        port(json!(u64::MAX)),
        format!("spec.ports[0].port: expected a whole number, found the number `{}`", u64::MAX)
    );
    assert_eq!(
        said(json!({ "ports": [{ "port": 80 }], "publishNotReadyAddresses": "yes" })),
        "spec.publishNotReadyAddresses: expected true or false, found the text `yes`"
    );
    // Long texts are cut where they are shown.
    let shown = |length: usize| said(json!({ "ports": [{ "port": "x".repeat(length) }] }));
    assert!(
        shown(60).ends_with(&format!("`{}`", "x".repeat(60)))
            && shown(61).ends_with(&format!("`{}…`", "x".repeat(60)))
    );
    // A schema's sentence goes on with a small letter, unless it begins with a name.
    assert_eq!(structure::first_sentence("The port. More."), "the port");
    assert_eq!(structure::first_sentence("A port"), "a port");
    assert_eq!(structure::first_sentence("DNS name."), "DNS name");
    assert_eq!(structure::first_sentence("`TCP` or so"), "`TCP` or so");
}

#[test]
fn errors_say_where_and_of_which_sort() {
    let path = FieldPath::root().field("spec").field("rules").index(1).key("a");
    assert_eq!(
        path.segments(),
        [
            Segment::Field("spec".into()),
            Segment::Field("rules".into()),
            Segment::Index(1),
            Segment::Key("a".to_owned())
        ]
    );
    assert_eq!((path.to_string().as_str(), path.pointer().as_str()), ("spec.rules[1][a]", "/spec/rules/1/a"));
    let words = [
        (Code::Required, "Required"),
        (Code::Invalid, "Invalid"),
        (Code::NotSupported, "NotSupported"),
        (Code::Unknown, "Unknown"),
        (Code::Duplicate, "Duplicate"),
        (Code::TypeInvalid, "TypeInvalid"),
        (Code::TooLong, "TooLong"),
        (Code::TooMany, "TooMany"),
        (Code::Forbidden, "Forbidden"),
        (Code::NotFound, "NotFound"),
    ];
    for (code, word) in words {
        assert_eq!(code.reason(), format!("FieldValue{word}"));
    }
    let mut owned = good(KindId::Mesh);
    owned["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "Pod", "name": "", "uid": "1" }]);
    assert_eq!(errors(KindId::Mesh, &owned), ["metadata.ownerReferences[0].name: must not be empty"]);
}

#[test]
fn references_are_looked_up_where_they_point() {
    let service = |namespace: &str| {
        let mut service = object(KindId::Service, json!({ "ports": [{ "port": 80 }] }));
        service["metadata"] = json!({ "name": "d", "namespace": namespace });
        (KindId::Service.kind(), service)
    };
    let route = |namespace: &str, backend: Value| {
        let mut route = object(KindId::HttpRoute, json!({ "rules": [{ "backendRefs": [backend] }] }));
        route["metadata"]["namespace"] = json!(namespace);
        (KindId::HttpRoute.kind(), route)
    };
    let objects = [
        service("shop"),
        route("shop", json!({ "name": "d", "port": 80 })),
        route("", json!({ "name": "d", "namespace": "shop", "port": 80 })),
        route("shop", json!({ "name": "d", "namespace": "", "port": 80 })),
        route("", json!({ "name": "d", "port": 80 })),
        route("shop", json!({ "name": "d", "kind": "Other", "port": 80 })),
        route("shop", json!({ "name": "d", "group": "example.com", "port": 80 })),
        route("shop", json!({ "name": "" })),
    ];
    let found: Vec<(usize, String)> = check_references(&objects, |_, _| None)
        .into_iter()
        .map(|(index, e)| (index, e.to_string()))
        .collect();
    assert_eq!(found, [
        (4, "spec.rules[0].backendRefs[0].name: there is no Service `d` in the namespace `default`; there is one in the namespace `shop`".to_owned()),
        (5, "spec.rules[0].backendRefs[0].kind: `Other` as backend is not supported: expected a Service or a Flow".to_owned()),
        (6, "spec.rules[0].backendRefs[0]: `Service` as backend is not supported: expected a Service or a Flow".to_owned()),
    ]);
}

#[test]
fn what_was_allowed_once_may_stay() {
    let kind = KindId::Service.kind();
    let service = |type_: &str, ports: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "c" }, "spec": { "type": type_, "ports": ports },
        })
    };
    let udp = |number: u16| json!({ "name": format!("u{number}"), "port": number, "protocol": "UDP" });
    let tcp = |number: u16| json!({ "name": format!("t{number}"), "port": number });
    let old = service("NodePort", json!([tcp(80), udp(81)]));
    let left = |new: Value| -> Vec<String> {
        let mut errors = validate(kind, &new);
        excuse_old(validate(kind, &old), &mut errors);
        errors.iter().map(|error| error.path.to_string()).collect()
    };
    assert!(!validate(kind, &old).is_empty());
    assert!(left(old.clone()).is_empty());
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert!(left(labelled).is_empty());
    assert!(
        left(service("ClusterIP", json!([udp(81), tcp(80)]))).is_empty(),
        "it has moved, and another is gone"
    );
    assert_eq!(
        left(service("LoadBalancer", json!([tcp(80)]))),
        ["spec.type"],
        "another value is a new error"
    );
    let two = service("NodePort", json!([udp(81), udp(82)]));
    assert_eq!(left(two), ["spec.ports[1].protocol"], "one more is one more");
}

#[test]
fn rules_do_not_go_by_what_is_the_connections() {
    let rule = |list: &str, name: &str| {
        let mut matched = json!({});
        matched[list] = json!([{ "name": name, "value": "a" }]);
        codes(KindId::HttpRoute, json!({ "rules": [{ "matches": [matched] }] }))
    };
    for name in ["Upgrade", "connection", "Keep-Alive", "Transfer-Encoding", "Tulle-Reason"] {
        let found = rule("headers", name);
        assert_eq!(
            found,
            [("spec.rules[0].matches[0].headers[0].name".to_owned(), Code::NotSupported)],
            "{name}"
        );
        assert_eq!(rule("queryParams", name), [], "{name}");
    }
    for name in ["Host", "Cookie", "Content-Length", "TE", "Upgrade-Insecure-Requests"] {
        assert_eq!(rule("headers", name), [], "{name}");
    }
}

/// What is warned of in an object; a route has a parent where it does not say.
fn said(id: KindId, mut spec: Value) -> Vec<String> {
    if id.is_route() && spec["parentRefs"].is_null() {
        spec["parentRefs"] = json!([{ "group": "", "kind": "Service", "name": "c" }]);
    }
    let warnings = warnings(id.kind(), &object(id, spec));
    warnings.iter().map(|warning| format!("{} {}", warning.path, warning.message)).collect()
}

#[test]
fn what_nothing_comes_of_is_said() {
    let ignored = "spec.hostnames is ignored: the route takes the requests of its parent Services, whatever host they \
                   name; leave it out";
    let rules = || json!([{ "backendRefs": [{ "name": "c", "port": 80 }] }]);
    assert_eq!(said(KindId::HttpRoute, json!({ "hostnames": ["a.b"], "rules": rules() })), [ignored]);
    assert!(said(KindId::HttpRoute, json!({ "hostnames": [], "rules": rules() })).is_empty());
    let headers: Vec<_> = ["X", "y", "x"].iter().map(|name| json!({ "name": name, "value": "1" })).collect();
    let matches = json!([{ "headers": headers[..2] }, { "headers": headers }]);
    let rules = json!({ "rules": [{ "matches": matches, "backendRefs": [{ "name": "c", "port": 80 }] }] });
    let second = "spec.rules[0].matches[1].headers[2] is ignored: of several conditions on one header the first counts";
    assert_eq!(said(KindId::HttpRoute, rules.clone()), [second]);
    assert_eq!(said(KindId::GrpcRoute, rules), [second]);
    let name = json!({ "externalName": "a.b", "ports": [{ "port": 80 }] });
    assert_eq!(
        said(KindId::Service, name.clone()),
        ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
    );
    let mut is_name = name;
    is_name["type"] = json!("ExternalName");
    is_name["selector"] = json!({});
    assert!(said(KindId::Service, is_name.clone()).is_empty());
    is_name["selector"] = json!({ "app": "c" });
    assert_eq!(
        said(KindId::Service, is_name),
        ["spec.selector is ignored when spec.type is \"ExternalName\""]
    );
}

#[test]
fn rules_that_nothing_gets_through_are_said() {
    let backend = |weight: u32| json!({ "name": "c", "port": 80, "weight": weight });
    let fails = "every request that it takes would be answered with 500";
    let redirect = json!({ "type": "RequestRedirect", "requestRedirect": { "hostname": "a.b" } });
    let rules = json!({ "rules": [
        { "backendRefs": [backend(0), backend(0)] },
        { "backendRefs": [backend(0), backend(1)] },
        { "backendRefs": [{ "name": "c", "port": 80 }] },
        { "filters": [redirect] },
        { "matches": [] },
    ] });
    let expected = [
        format!("spec.rules[0] has no backend with a weight above 0: {fails}"),
        format!("spec.rules[4] has no backendRefs: {fails}"),
    ];
    assert_eq!(said(KindId::HttpRoute, rules.clone()), expected);
    assert_eq!(said(KindId::GrpcRoute, rules), expected);
    let none = ["spec has no rules: every request would be answered with 500"];
    assert_eq!(said(KindId::HttpRoute, json!({})), none);
    let bytes = |weight| json!({ "rules": [{ "backendRefs": [backend(weight)] }] });
    for kind in [KindId::TcpRoute, KindId::TlsRoute] {
        let expected =
            "spec.rules[0] has no backend with a weight above 0: every connection that it takes fails";
        assert_eq!(said(kind, bytes(0)), [expected]);
        assert!(said(kind, bytes(1)).is_empty());
        let mut of_nobody = bytes(1);
        of_nobody["parentRefs"] = json!([]);
        let expected = "spec has no parentRefs: it is the route of no Service, and nothing comes of it";
        assert_eq!(said(kind, of_nobody), [expected]);
    }
}

#[test]
fn external_services_list_names_of_the_outside_addresses_and_ports() {
    let ports = json!([{ "port": 443, "appProtocol": "https" }]);
    let with = |field: &str, value: Value| {
        let mut spec = json!({ "ports": ports.clone() });
        spec[field] = value;
        spec_errors(KindId::ExternalService, spec)
    };
    for (host, problem) in [
        ("*", "`*` is every name: that is what `Allow` is for, as the Mesh's egress policy"),
        ("192.0.2.1", "`192.0.2.1` is an address: it belongs into `addresses`"),
        ("API.example.com", "`API.example.com` is no DNS name: it must consist of lower case"),
        ("a.*.example.com", "`a.*.example.com` is no DNS name"),
        ("c.shop.mesh", "`c.shop.mesh` is a name of the mesh itself"),
        ("*.svc.cluster.local", "`*.svc.cluster.local` is a name of the mesh itself"),
        ("intranet", "`intranet` has one label"),
    ] {
        let found = with("hosts", json!([host]));
        let [error] = &found[..] else { panic!("{found:?}") };
        assert!(error.starts_with(&format!("spec.hosts[0]: {problem}")), "{error}");
    }
    for (address, problem) in [
        ("192.0.2.1/24", "begins within its range, which is `192.0.2.0/24`"),
        ("::ffff:192.0.2.1", "is of IPv4: write it as such"),
        ("example.com", "is neither an address nor a range of addresses, e.g. `192.0.2.0/24`"),
    ] {
        let found = with("addresses", json!([address]));
        assert_eq!(found, [format!("spec.addresses[0]: `{address}` {problem}")]);
    }
    for good in [json!(["*.com"]), json!(["a.b"])] {
        assert_eq!(with("hosts", good), [""; 0]);
    }
    let codes = |spec: Value| codes(KindId::ExternalService, spec);
    let at = |path: &str, code| (path.to_owned(), code);
    assert_eq!(codes(json!({ "ports": ports })), [at("spec.hosts", Code::Required)]);
    let of_port = |port: Value| codes(json!({ "hosts": ["a.b"], "ports": [port] }));
    assert_eq!(of_port(json!({ "port": 443 })), [at("spec.ports[0].appProtocol", Code::Required)]);
    let quic = json!({ "port": 443, "appProtocol": "quic" });
    assert_eq!(of_port(quic), [at("spec.ports[0].appProtocol", Code::NotSupported)]);
    let dns = json!({ "port": 53, "appProtocol": "tcp" });
    assert_eq!(of_port(dns), [at("spec.ports[0].port", Code::NotSupported)]);
}

#[test]
fn policies_about_the_outside_name_it_and_look_at_no_token() {
    let errors = |target: Value, jwt: Option<Value>| {
        let mut spec = json!({ "targetRefs": [target], "action": "Allow", "rules": [{}] });
        if let Some(jwt) = jwt {
            spec["jwt"] = jwt;
        }
        codes(KindId::AuthorizationPolicy, spec)
    };
    let target = json!({ "group": "tulle.dev", "kind": "ExternalService", "name": "api" });
    assert_eq!(errors(target.clone(), None), []);
    let nameless = json!({ "group": "tulle.dev", "kind": "ExternalService" });
    assert_eq!(errors(nameless, None), [("spec.targetRefs[0].name".to_owned(), Code::Required)]);
    let jwt =
        json!({ "issuers": [{ "issuer": "https://a.example.com", "jwks": { "inline": "{\"keys\":[]}" } }] });
    let found = errors(target, Some(jwt));
    assert!(found.contains(&("spec.targetRefs[0].kind".to_owned(), Code::NotSupported)), "{found:?}");
}
