mod authorization;
mod external;
mod flows;
mod forms;
mod originated;
mod policy_status;
mod precedence;
mod spoken;
mod tls;
mod unreached;
mod workloads;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::decision::inbound_capture;
use crate::snapshot::{
    AppProtocol, Backend, BackendTarget, EgressPolicy, HttpRouteKind, PathMatch, PortConfig, Shape,
};

fn kind(id: KindId) -> &'static Kind {
    id.kind()
}

fn compiler() -> Compiler {
    Compiler::new(TrustDomain::new("mesh.local").unwrap())
}

fn put(id: KindId, object: Value) -> Change {
    Change::Put(kind(id), Arc::new(object))
}

fn name(text: &str) -> NamespacedName {
    text.parse().unwrap()
}

fn delete(id: KindId, object: &str) -> Change {
    Change::Delete(kind(id), name(object))
}

fn service(name: &str, port: Value) -> Change {
    let spec = json!({ "selector": { "app": name, "part-of": "shop" }, "ports": [port] });
    put(KindId::Service, json!({ "metadata": { "namespace": "shop", "name": name }, "spec": spec }))
}

fn workload(name: &str, app: &str, ready: bool) -> Change {
    let ready = if ready { "True" } else { "False" };
    put(
        KindId::Workload,
        json!({
            "metadata": { "namespace": "shop", "name": name, "labels": { "app": app, "part-of": "shop" } },
            "spec": {
                "address": "192.0.2.7",
                "ports": [{ "name": "web", "port": 34567, "targetPort": 8080 }],
                "serviceAccount": app,
                "node": { "name": "n1", "linkAddress": "192.0.2.1:15008" },
            },
            "status": { "conditions": [{
                "type": "Ready", "status": ready, "reason": "Probe", "message": "", "lastTransitionTime": ""
            }] },
        }),
    )
}

fn route_object(name: &str, spec: Value) -> Value {
    json!({ "metadata": { "namespace": "shop", "name": name, "generation": 1 }, "spec": spec })
}

fn parent(service: &str) -> Value {
    json!({ "group": "", "kind": "Service", "name": service })
}

fn http_route(name: &str, parent_service: &str, backends: Value) -> Change {
    let spec = json!({ "parentRefs": [parent(parent_service)], "rules": [{ "backendRefs": backends }] });
    put(KindId::HttpRoute, route_object(name, spec))
}

fn conditions(compiler: &Compiler, id: KindId, route: &str, parent: usize) -> Vec<(bool, &'static str)> {
    let status = &compiler.route_status(kind(id), &name(route)).unwrap()[parent];
    status.conditions.iter().map(|c| (c.status, c.reason)).collect()
}

/// The backends of each entry of the service's first port.
fn backends(compiler: &Compiler, service: &str) -> Vec<Vec<Backend>> {
    let config = compiler.service(&name(service)).unwrap();
    config.ports[0].http_routes.entries().iter().map(|e| e.rule.backends.clone()).collect()
}

const OK: [(bool, &str); 2] = [(true, "Accepted"), (true, "ResolvedRefs")];

#[test]
fn workloads_become_endpoints_of_the_services_that_select_them() {
    let mut compiler = compiler();
    let effects = compiler.apply(service("c", json!({ "port": 80, "targetPort": 8080 })));
    assert_eq!(effects.services, [name("shop/c")]);
    assert_eq!(effects.endpoints, [name("shop/c")]);
    assert!(compiler.endpoints(&name("shop/c")).unwrap().endpoints.is_empty());

    let effects = compiler.apply(workload("c-1", "c", true));
    let of_c = || vec![name("shop/c")];
    let workloads = vec![name("shop/c-1")];
    assert_eq!(effects, Effects { endpoints: of_c(), slices: of_c(), workloads, ..Effects::default() });
    let workloads = vec![name("shop/x-1")];
    assert_eq!(compiler.apply(workload("x-1", "x", true)), Effects { workloads, ..Effects::default() });
    let set = compiler.endpoints(&name("shop/c")).unwrap();
    let endpoint = &set.endpoints[0];
    assert_eq!(set.endpoints.len(), 1);
    assert_eq!(endpoint.target_port(80), Some(34567));
    assert_eq!(endpoint.identity.as_ref().unwrap().as_str(), "spiffe://mesh.local/ns/shop/sa/c");
    assert_eq!(endpoint.node.as_ref().unwrap().link.to_string(), "192.0.2.1:15008");

    // By the port's name; by another number there is no such port.
    compiler.apply(service("c", json!({ "port": 80, "targetPort": "web" })));
    assert_eq!(compiler.endpoints(&name("shop/c")).unwrap().endpoints[0].target_port(80), Some(34567));
    compiler.apply(service("c", json!({ "port": 80 })));
    assert!(compiler.endpoints(&name("shop/c")).unwrap().endpoints.is_empty());
    compiler.apply(service("c", json!({ "port": 80, "targetPort": 8080 })));

    compiler.apply(workload("c-1", "c", false));
    assert!(compiler.endpoints(&name("shop/c")).unwrap().endpoints.is_empty());
    let effects = compiler.apply(delete(KindId::Service, "shop/c"));
    assert_eq!(effects.endpoints, [name("shop/c")]);
    assert_eq!(compiler.endpoints(&name("shop/c")), None);
    assert_eq!(compiler.service(&name("shop/c")), None);
}

#[test]
fn workloads_written_by_hand_are_ready_and_reached_in_plain() {
    let mut compiler = compiler();
    compiler.apply(service("c", json!({ "port": 80, "targetPort": 8080 })));
    let object = json!({
        "metadata": { "namespace": "shop", "name": "old", "labels": { "app": "c", "part-of": "shop" } },
        "spec": { "address": "2001:db8::1" },
    });
    compiler.apply(put(KindId::Workload, object));
    let set = compiler.endpoints(&name("shop/c")).unwrap();
    assert_eq!((set.endpoints[0].node.as_ref(), set.endpoints[0].identity.as_ref()), (None, None));
    assert_eq!(set.endpoints[0].target_port(80), Some(8080));
}

#[test]
fn slices_are_the_endpoints_of_services_without_selector() {
    let mut compiler = compiler();
    let object = json!({
        "metadata": { "namespace": "shop", "name": "db" },
        "spec": { "ports": [{ "name": "sql", "port": 5432, "appProtocol": "tcp" }] },
    });
    compiler.apply(put(KindId::Service, object));
    let slice = |name: &str, addresses: &[&str], port: i64| {
        let endpoint = |a: &&str| json!({ "addresses": [a], "conditions": { "ready": *a != "192.0.2.9" } });
        let metadata = json!({
            "namespace": "shop", "name": name, "labels": { "kubernetes.io/service-name": "db" },
        });
        let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
        let ports = json!([{ "name": "sql", "port": port }]);
        let slice =
            json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports });
        put(KindId::EndpointSlice, slice)
    };
    compiler.apply(slice("db-1", &["192.0.2.2", "192.0.2.1", "192.0.2.9"], 15432));
    compiler.apply(slice("db-2", &["192.0.2.2"], 15432));
    let set = compiler.endpoints(&name("shop/db")).unwrap();
    let addresses: Vec<_> = set.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(set.endpoints[0].target_port(5432), Some(15432));
    // Another process at an address is another endpoint, whichever slices say so.
    compiler.apply(slice("db-3", &["192.0.2.2"], 15433));
    compiler.apply(slice("db-4", &["192.0.2.2"], 15433));
    let places = |compiler: &Compiler| -> Vec<_> {
        let set = compiler.endpoints(&name("shop/db")).unwrap();
        set.endpoints.iter().map(|e| (e.address.to_string(), e.target_port(5432).unwrap())).collect()
    };
    let [one, two, three] =
        [("1", 15432), ("2", 15432), ("2", 15433)].map(|(last, port)| (format!("192.0.2.{last}"), port));
    assert_eq!(places(&compiler), [one, two.clone(), three.clone()]);
    compiler.apply(delete(KindId::EndpointSlice, "shop/db-1"));
    assert_eq!(places(&compiler), [two, three]);
}

/// As in Kubernetes, whose proxies take all slices of a service, whoever keeps them.
#[test]
fn slices_of_others_add_to_what_a_service_selects() {
    let mut compiler = compiler();
    let ports = json!([
        { "name": "http", "port": 80, "targetPort": 8080 }, { "name": "admin", "port": 90, "targetPort": "admin" },
    ]);
    let selector = json!({ "app": "c", "part-of": "shop" });
    compiler.apply(put(
        KindId::Service,
        json!({ "metadata": { "namespace": "shop", "name": "c" }, "spec": { "selector": selector, "ports": ports } }),
    ));
    compiler.apply(workload("c-1", "c", true));
    let selected = compiler.endpoints(&name("shop/c")).unwrap().endpoints[0].clone();
    let (address, port) = (selected.address.to_string(), selected.target_port(80).unwrap());
    let slice = |addresses: &[&str], port: u16, admin: Option<u16>| {
        let endpoints: Vec<_> =
            addresses.iter().map(|a| json!({ "addresses": [a], "hostname": "old" })).collect();
        let labels = json!({ "kubernetes.io/service-name": "c" });
        let metadata = json!({ "namespace": "shop", "name": "by-hand", "labels": labels });
        let mut ports = vec![json!({ "name": "http", "port": port })];
        ports.extend(admin.map(|admin| json!({ "name": "admin", "port": admin })));
        put(
            KindId::EndpointSlice,
            json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports }),
        )
    };
    compiler.apply(slice(&["192.0.2.1", &address], port, None));
    let set = compiler.endpoints(&name("shop/c")).unwrap();
    assert_eq!(set.endpoints.len(), 2);
    assert_eq!((set.endpoints[0].address, &set.endpoints[0].workload), ("192.0.2.1".parse().unwrap(), &None));
    assert_eq!(set.endpoints[1], selected);
    assert_eq!((set.hostname(0).map(|name| &**name), set.hostname(1)), (Some("old"), None));
    assert_eq!(compiler.own_slices(&name("shop/c"))[0].fields()["endpoints"].as_array().unwrap().len(), 1);
    // Another port of that address is somebody else's.
    compiler.apply(slice(&[&address], port + 1, None));
    assert_eq!(compiler.endpoints(&name("shop/c")).unwrap().endpoints.len(), 2);
    // And so is a port of the service that the workload does not offer.
    compiler.apply(slice(&[&address], port, Some(9090)));
    let endpoints = &compiler.endpoints(&name("shop/c")).unwrap().endpoints;
    assert_eq!(endpoints.iter().map(|e| e.target_port(80)).collect::<Vec<_>>(), [None, Some(port)]);
    assert_eq!(endpoints.iter().map(|e| e.target_port(90)).collect::<Vec<_>>(), [Some(9090), None]);
    // Who is not ready is not reached around its readiness.
    compiler.apply(workload("c-1", "c", false));
    let endpoints = &compiler.endpoints(&name("shop/c")).unwrap().endpoints;
    assert_eq!(endpoints.iter().map(|e| e.target_port(80)).collect::<Vec<_>>(), [None]);
    compiler.apply(workload("c-1", "c", true));
    compiler.apply(delete(KindId::EndpointSlice, "shop/by-hand"));
    assert_eq!(compiler.endpoints(&name("shop/c")).unwrap().endpoints, [selected]);
}

/// Kubernetes: a headless service needs no ports, and is for finding who is there.
#[test]
fn endpoints_of_a_headless_service_without_ports_have_their_own() {
    let mut compiler = compiler();
    let shop_c = name("shop/c");
    let spec = |cluster_ip: &str| json!({ "clusterIP": cluster_ip, "selector": { "app": "c" } });
    let of_c = |spec: Value| {
        let object = json!({ "metadata": { "namespace": "shop", "name": "c" }, "spec": spec });
        put(KindId::Service, object)
    };
    compiler.apply(of_c(spec("None")));
    compiler.apply_all([workload("c-1", "c", true), workload("c-2", "c", false)]);
    let bare = json!({
        "metadata": { "namespace": "shop", "name": "bare", "labels": { "app": "c" } },
        "spec": { "address": "192.0.2.8" },
    });
    compiler.apply(put(KindId::Workload, bare));
    let found = |compiler: &Compiler| {
        let set = compiler.endpoints(&shop_c).unwrap();
        let config = compiler.service(&shop_c).unwrap();
        let apart = crate::apart::services(&config, &set).into_iter();
        let one = |(config, set): (ServiceConfig, EndpointSet)| {
            let to = |port: &PortConfig| (port.number, set.endpoints[0].target_port(port.number).unwrap());
            (config.name.name.to_string(), config.ports.iter().map(to).collect::<Vec<_>>())
        };
        apart.map(one).collect::<Vec<_>>()
    };
    let of_workloads =
        [("bare.c".to_owned(), vec![]), ("c-1.c".to_owned(), vec![(8080, 34567), (34567, 34567)])];
    assert_eq!(found(&compiler), of_workloads);
    // All of them are in its slices, also who is not ready.
    let slices = compiler.own_slices(&shop_c);
    assert_eq!(slices.len(), 1);
    let fields = slices[0].fields();
    assert_eq!(fields["ports"], json!([]));
    let ready = fields["endpoints"].as_array().unwrap().iter().map(|e| e["conditions"]["ready"] == true);
    assert_eq!(ready.collect::<Vec<_>>(), [true, true, false]);

    // What is written by hand stands beside, but for what workloads are.
    let slice = |addresses: &[&str], ports: Value| {
        let metadata = json!({
            "namespace": "shop", "name": "by-hand", "labels": { "kubernetes.io/service-name": "c" },
        });
        let endpoints: Vec<_> = addresses.iter().map(|a| json!({ "addresses": [a] })).collect();
        put(
            KindId::EndpointSlice,
            json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports }),
        )
    };
    let addresses = ["192.0.2.7", "192.0.2.8", "192.0.2.9"];
    let beside = |found: Vec<(String, Vec<(u16, u16)>)>| -> Vec<_> {
        found.into_iter().filter(|one| !of_workloads.contains(one)).collect()
    };
    for (ports, expected) in [
        (json!([]), vec![("192-0-2-9.c", vec![])]),
        (json!([{ "name": "x", "port": 34567 }]), vec![("192-0-2-9.c", vec![34567])]),
        (
            json!([{ "name": "x", "port": 34568 }, { "name": "y", "port": 80 }, { "name": "z", "port": 80 }]),
            vec![("192-0-2-7.c", vec![80, 34568]), ("192-0-2-9.c", vec![80, 34568])],
        ),
    ] {
        compiler.apply(slice(&addresses, ports));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, ports)| (name.to_owned(), ports.into_iter().map(|port| (port, port)).collect()))
            .collect();
        assert_eq!(beside(found(&compiler)), expected);
    }
    compiler.apply(delete(KindId::EndpointSlice, "shop/by-hand"));
    assert_eq!(found(&compiler), of_workloads);

    // With ports, it has the endpoints that have one of them; and one with an address needs ports.
    let mut with_ports = spec("None");
    with_ports["ports"] = json!([{ "port": 80, "targetPort": "nosuch" }]);
    compiler.apply(of_c(with_ports));
    assert_eq!(found(&compiler), []);
    compiler.apply(of_c(spec("")));
    assert_eq!(compiler.endpoints(&shop_c).unwrap().endpoints, []);
}

#[test]
fn references_that_lead_nowhere_get_their_share_and_say_so() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    let one = json!([{ "name": "d2", "port": 80, "weight": 3 }, { "name": "d", "port": 80 }]);
    compiler.apply(http_route("split", "d", one));
    assert_eq!(
        conditions(&compiler, KindId::HttpRoute, "shop/split", 0),
        [(true, "Accepted"), (false, "BackendNotFound")]
    );
    let found = &backends(&compiler, "shop/d")[0];
    assert!(matches!(&found[0].target, BackendTarget::Invalid { reason } if reason.contains("shop/d2")));
    assert_eq!(found[0].weight, 3);

    // The backend appears: the parent changes, and the route's status.
    let effects = compiler.apply(service("d2", json!({ "port": 80 })));
    assert_eq!(effects.services, [name("shop/d"), name("shop/d2")]);
    assert_eq!(effects.statuses, [(kind(KindId::HttpRoute), name("shop/split"))]);
    assert_eq!(conditions(&compiler, KindId::HttpRoute, "shop/split", 0), OK);
    let status = &compiler.route_status(kind(KindId::HttpRoute), &name("shop/split")).unwrap()[0];
    assert_eq!(status.service, Some(name("shop/d")));
    assert_eq!(status.conditions[0].observed_generation, Some(1));

    for (reference, reason) in [
        (json!({ "name": "d2", "port": 81 }), "BackendNotFound"),
        (json!({ "name": "d2" }), "BackendNotFound"),
        (json!({ "name": "d2", "port": 80, "namespace": "other" }), "BackendNotFound"),
        (json!({ "name": "d2", "port": 80, "kind": "Bucket" }), "InvalidKind"),
    ] {
        compiler.apply(http_route("split", "d", json!([reference])));
        assert_eq!(
            conditions(&compiler, KindId::HttpRoute, "shop/split", 0),
            [(true, "Accepted"), (false, reason)]
        );
        assert!(matches!(&backends(&compiler, "shop/d")[0][0].target, BackendTarget::Invalid { .. }));
    }

    let effects = compiler.apply(delete(KindId::HttpRoute, "shop/split"));
    assert_eq!(effects.services, [name("shop/d")]);
    assert!(backends(&compiler, "shop/d").is_empty());
    assert!(compiler.route_status(kind(KindId::HttpRoute), &name("shop/split")).is_none());
}

#[test]
fn routes_attach_to_parents_that_exist_and_fit() {
    let mut compiler = compiler();
    let mut object = json!({ "metadata": { "namespace": "shop", "name": "d" }, "spec": { "ports": [
        { "name": "web", "port": 80 }, { "name": "admin", "port": 81 },
        { "name": "sql", "port": 82, "appProtocol": "tcp" }, { "name": "dns", "port": 53, "protocol": "UDP" },
    ] } });
    compiler.apply(put(KindId::Service, object.clone()));
    let parents = json!([
        parent("d"),
        { "group": "", "kind": "Service", "name": "d", "port": 81 },
        { "group": "", "kind": "Service", "name": "d", "sectionName": "web" },
        { "group": "", "kind": "Service", "name": "d", "port": 81, "sectionName": "web" },
        { "group": "", "kind": "Service", "name": "d", "port": 82 },
        { "group": "", "kind": "Service", "name": "d", "port": 53 },
        { "group": "", "kind": "Service", "name": "missing" },
        { "group": "", "kind": "Service", "name": "d", "namespace": "other" },
        { "name": "gateway" },
    ]);
    compiler
        .apply(put(KindId::HttpRoute, route_object("r", json!({ "parentRefs": parents, "rules": [{}] }))));
    let expected = [
        (true, "Accepted"),
        (true, "Accepted"),
        (true, "Accepted"),
        (false, "NoMatchingParent"),
        (false, "NotAllowedByListeners"),
        (false, "NoMatchingParent"),
        (false, "NoMatchingParent"),
        (false, "NoMatchingParent"),
        (false, "NoMatchingParent"),
    ];
    for (i, expected) in expected.into_iter().enumerate() {
        assert_eq!(conditions(&compiler, KindId::HttpRoute, "shop/r", i)[0], expected, "{i}");
    }
    let config = compiler.service(&name("shop/d")).unwrap();
    let entries = |config: &ServiceConfig| -> Vec<_> {
        config.ports.iter().map(|p| (p.number, p.http_routes.entries().len())).collect()
    };
    // Several parent references to one port are one attachment.
    assert_eq!(entries(&config), [(80, 1), (81, 1), (82, 0)]);
    assert_eq!(config.ports[0].http_routes.entries()[0].matcher.path, PathMatch::Prefix(String::new()));
    assert!(config.ports[0].http_routes.entries()[0].rule.backends.is_empty());

    object["spec"]["type"] = json!("ExternalName");
    compiler.apply(put(KindId::Service, object.clone()));
    assert_eq!(compiler.service(&name("shop/d")).unwrap().shape, Shape::Balanced, "as it was before");
    object["spec"]["externalName"] = json!("example.com.");
    compiler.apply(put(KindId::Service, object.clone()));
    let config = compiler.service(&name("shop/d")).unwrap();
    assert_eq!((config.ports.len(), &config.shape), (0, &Shape::Alias("example.com".into())));
    assert_eq!(compiler.endpoints(&name("shop/d")), None);
    assert_eq!(conditions(&compiler, KindId::HttpRoute, "shop/r", 0)[0], (false, "NoMatchingParent"));
    object["spec"]["type"] = json!("ClusterIP");
    object["spec"]["clusterIP"] = json!("None");
    compiler.apply(put(KindId::Service, object));
    assert_eq!(compiler.service(&name("shop/d")).unwrap().shape, Shape::Headless);
    assert_eq!(conditions(&compiler, KindId::HttpRoute, "shop/r", 0)[0], (false, "NoMatchingParent"));
}

/// GEP-1324: a consumer's routes take the place of the producer's for the clients of their namespace, and of no other.
#[test]
fn routes_of_another_namespace_are_for_its_own_clients() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    compiler.apply(http_route("own", "d", json!([{ "name": "d", "port": 80 }])));
    let theirs = |route: &str, kind: KindId| {
        let parent = json!({ "group": "", "kind": "Service", "name": "d", "namespace": "shop" });
        let rules = json!([{ "backendRefs": [{ "name": "d", "namespace": "shop", "port": 80 }] }]);
        let mut route = route_object(route, json!({ "parentRefs": [parent], "rules": rules }));
        route["metadata"]["namespace"] = json!("theirs");
        put(kind, route)
    };
    let routes = |compiler: &Compiler, namespace: &str| -> (Vec<String>, Option<String>) {
        let config = compiler.service(&name("shop/d")).unwrap();
        let port = config.ports[0].seen_from(namespace);
        let http = port.http_routes.entries().iter().map(|entry| entry.rule.route.to_string()).collect();
        (http, port.tcp_route.as_ref().map(|rule| rule.route.to_string()))
    };
    let own = (vec!["shop/own".to_owned()], None);
    let effects = compiler.apply(theirs("r", KindId::HttpRoute));
    assert_eq!(effects.services, [name("shop/d")]);
    assert_eq!(routes(&compiler, "theirs"), (vec!["theirs/r".to_owned()], None), "they are not merged");
    for namespace in ["shop", "elsewhere"] {
        assert_eq!(routes(&compiler, namespace), own);
    }
    let status = compiler.route_status(kind(KindId::HttpRoute), &name("theirs/r")).unwrap();
    assert_eq!(conditions(&compiler, KindId::HttpRoute, "theirs/r", 0), OK);
    let message = &status[0].conditions[0].message;
    assert!(
        message.contains("for the workloads of namespace theirs, in place of the Service's own"),
        "{message}"
    );

    // A TCPRoute replaces them, too.
    compiler.apply(delete(KindId::HttpRoute, "theirs/r"));
    assert_eq!(routes(&compiler, "theirs"), own);
    compiler.apply(theirs("t", KindId::TcpRoute));
    assert_eq!(routes(&compiler, "theirs"), (Vec::new(), Some("theirs/t".to_owned())));
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "theirs/t", 0), OK);
    let config = compiler.service(&name("shop/d")).unwrap();
    assert_eq!(config.ports[0].seen_from("theirs").protocol, AppProtocol::Tcp);
    assert_eq!((config.ports[0].protocol, routes(&compiler, "shop")), (AppProtocol::Detect, own));
}

#[test]
fn a_route_that_names_a_port_makes_it_http_alone() {
    let mut compiler = compiler();
    let ports = json!([{ "name": "web", "port": 80 }, { "name": "admin", "port": 81 }, { "name": "api", "port": 82,
        "appProtocol": "http" }]);
    let object = json!({ "metadata": { "namespace": "shop", "name": "d" }, "spec": { "ports": ports } });
    compiler.apply(put(KindId::Service, object));
    let http_only = |compiler: &Compiler| -> Vec<bool> {
        compiler.service(&name("shop/d")).unwrap().ports.iter().map(|port| port.http_only).collect()
    };
    let warning = |compiler: &Compiler, route: &str| {
        let status = compiler.route_status(kind(KindId::HttpRoute), &name(route)).unwrap();
        status[0].conditions[0].message.clone()
    };
    let attach = |compiler: &mut Compiler, route: &str, parent: Value| {
        compiler.apply(put(
            KindId::HttpRoute,
            route_object(route, json!({ "parentRefs": [parent], "rules": [{}] })),
        ));
    };
    attach(&mut compiler, "all", parent("d"));
    assert_eq!(http_only(&compiler), [false, false, false]);
    let message = warning(&compiler, "shop/all");
    assert!(
        message.contains("warning: protocols other than HTTP pass port 80, 81 of Service shop/d"),
        "{message}"
    );

    attach(&mut compiler, "one", json!({ "group": "", "kind": "Service", "name": "d", "port": 81 }));
    assert_eq!(http_only(&compiler), [false, true, false]);
    assert!(warning(&compiler, "shop/all").contains("pass port 80 of"), "it follows what other routes say");
    assert!(!warning(&compiler, "shop/one").contains("protocols"));
    // Nothing comes of host names at a Service.
    let spec = json!({ "parentRefs": [parent("d")], "hostnames": ["a.b"], "rules": [{}] });
    compiler.apply(put(KindId::HttpRoute, route_object("all", spec)));
    assert!(warning(&compiler, "shop/all").contains("in force; warning: spec.hostnames is ignored: "));

    attach(
        &mut compiler,
        "one",
        json!({ "group": "", "kind": "Service", "name": "d", "sectionName": "web" }),
    );
    assert_eq!(http_only(&compiler), [true, false, false]);
    // A TCPRoute has no part in ports that have HTTPRoutes.
    let spec =
        json!({ "parentRefs": [parent("d")], "rules": [{ "backendRefs": [{ "name": "d", "port": 80 }] }] });
    compiler.apply(put(KindId::TcpRoute, route_object("bytes", spec)));
    let tcp: Vec<_> = compiler
        .service(&name("shop/d"))
        .unwrap()
        .ports
        .iter()
        .map(|port| port.tcp_route.is_some())
        .collect();
    assert_eq!(tcp, [false; 3]);
}

#[test]
fn route_paths_are_compared_in_their_normal_form() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    let with_path = |kind: &str, path: &str| {
        let rule = json!({ "matches": [{ "path": { "type": kind, "value": path } }] });
        put(KindId::HttpRoute, route_object("r", json!({ "parentRefs": [parent("d")], "rules": [rule] })))
    };
    for (kind, path, expected) in [
        ("PathPrefix", "/%7Euser/", PathMatch::Prefix("/~user".into())),
        ("Exact", "/caf%c3%a9/", PathMatch::Exact("/caf%C3%A9/".into())),
    ] {
        compiler.apply(with_path(kind, path));
        let config = compiler.service(&name("shop/d")).unwrap();
        assert_eq!(config.ports[0].http_routes.entries()[0].matcher.path, expected);
    }
    compiler.apply(with_path("PathPrefix", "/a/%2e%2E/b"));
    let problem = compiler.problem(kind(KindId::HttpRoute), &name("shop/r")).unwrap();
    assert_eq!(problem.field, "spec.rules[0].matches[0].path.value");
}

#[test]
fn a_port_has_one_tcp_route() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    compiler.apply(service("h", json!({ "port": 80, "appProtocol": "http" })));
    let tcp = |name: &str, created: &str, parents: Value| {
        let spec =
            json!({ "parentRefs": parents, "rules": [{ "backendRefs": [{ "name": "d", "port": 80 }] }] });
        let mut object = route_object(name, spec);
        object["metadata"]["creationTimestamp"] = json!(created);
        put(KindId::TcpRoute, object)
    };
    compiler.apply(tcp("young", "2026-02-01T00:00:00Z", json!([parent("d"), parent("h")])));
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "shop/young", 0), OK);
    let port = |compiler: &Compiler, service| compiler.service(&name(service)).unwrap().ports[0].clone();
    assert_eq!(port(&compiler, "shop/d").protocol, AppProtocol::Tcp, "a TCPRoute makes it bytes");

    let effects = compiler.apply(tcp("old", "2026-01-01T00:00:00Z", json!([parent("d")])));
    let tcp_route = kind(KindId::TcpRoute);
    assert_eq!(effects.statuses, [(tcp_route, name("shop/old")), (tcp_route, name("shop/young"))]);
    assert_eq!(port(&compiler, "shop/d").tcp_route.unwrap().route, name("shop/old"));
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "shop/young", 0)[0], (false, "Conflicted"));
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "shop/young", 1)[0], (true, "Accepted"));

    // HTTPRoutes come first, also where what the port speaks is to be found out.
    compiler.apply(http_route("web", "h", json!([])));
    compiler.apply(http_route("web2", "d", json!([])));
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "shop/young", 1)[0], (false, "Conflicted"));
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "shop/old", 0)[0], (false, "Conflicted"));
    assert_eq!(port(&compiler, "shop/h").tcp_route, None);
    assert_eq!(port(&compiler, "shop/d").protocol, AppProtocol::Detect);
    assert_eq!(port(&compiler, "shop/d").tcp_route, None);
}

#[test]
fn mirrors_lead_somewhere_or_are_told_of() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    let mirror = |name: &str| json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": name, "port": 80 } } });
    let backends = json!([{ "name": "d", "port": 80, "filters": [mirror("e")] }]);
    let rules = json!([{ "filters": [mirror("d"), mirror("f")], "backendRefs": backends }]);
    compiler.apply(put(
        KindId::HttpRoute,
        route_object("r", json!({ "parentRefs": [parent("d")], "rules": rules })),
    ));
    let resolved = |compiler: &Compiler| {
        let status = &compiler.route_status(kind(KindId::HttpRoute), &name("shop/r")).unwrap()[0];
        status.conditions[1].message.clone()
    };
    let told = resolved(&compiler);
    for field in
        ["spec.rules[0].filters[1].requestMirror", "spec.rules[0].backendRefs[0].filters[0].requestMirror"]
    {
        assert!(told.contains(field), "{told}");
    }
    let needed = |compiler: &Compiler| compiler.service(&name("shop/d")).unwrap().backends();
    assert_eq!(needed(&compiler), [name("shop/d")]);
    for service_name in ["e", "f"] {
        compiler.apply(service(service_name, json!({ "port": 80 })));
    }
    assert!(!resolved(&compiler).contains("requestMirror"), "{}", resolved(&compiler));
    assert_eq!(needed(&compiler), ["shop/d", "shop/f", "shop/e"].map(name));
}

#[test]
fn a_route_that_does_not_act_on_all_of_its_ports_says_so() {
    let mut compiler = compiler();
    let ports = json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 81 }]);
    let object = json!({ "metadata": { "namespace": "shop", "name": "d" }, "spec": { "ports": ports } });
    compiler.apply(put(KindId::Service, object));
    compiler.apply(http_route("web", "d", json!([])));
    let parent = json!({ "group": "", "kind": "Service", "name": "d", "port": 80 });
    let spec = |name: &str, parent: &Value| {
        let spec =
            json!({ "parentRefs": [parent], "rules": [{ "backendRefs": [{ "name": "d", "port": 80 }] }] });
        put(KindId::GrpcRoute, route_object(name, spec))
    };
    compiler.apply(spec("calls", &parent));
    let message = |compiler: &Compiler, id, route: &str| {
        compiler.route_status(kind(id), &name(route)).unwrap()[0].conditions[0].message.clone()
    };
    let told = message(&compiler, KindId::HttpRoute, "shop/web");
    assert!(
        told.contains("warning: not at all of its ports: port 80 has GRPCRoutes, which come first"),
        "{told}"
    );
    let kinds = |compiler: &Compiler| -> Vec<_> {
        let ports = &compiler.service(&name("shop/d")).unwrap().ports;
        ports.iter().map(|port| (port.http_routes.entries()[0].rule.kind, port.http_only)).collect()
    };
    assert_eq!(kinds(&compiler), [(HttpRouteKind::Grpc, true), (HttpRouteKind::Http, false)]);
    // Those of another namespace have their own, for their clients alone.
    let mut consumer =
        spec("consumer", &json!({ "group": "", "kind": "Service", "name": "d", "namespace": "shop" }));
    if let Change::Put(_, object) = &mut consumer {
        Arc::make_mut(object)["metadata"]["namespace"] = json!("tests");
    }
    compiler.apply(consumer);
    assert_eq!(kinds(&compiler), [(HttpRouteKind::Grpc, true), (HttpRouteKind::Http, false)]);
    assert!(
        message(&compiler, KindId::GrpcRoute, "tests/consumer")
            .contains("for the workloads of namespace tests")
    );
}

#[test]
fn one_kind_of_route_acts_on_a_port() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    let backends = json!([{ "name": "d", "port": 80 }]);
    let spec = |rules: Value| json!({ "parentRefs": [parent("d")], "rules": rules });
    let bytes = spec(json!([{ "backendRefs": backends }]));
    compiler.apply(put(KindId::TcpRoute, route_object("bytes", bytes)));
    compiler.apply(http_route("web", "d", json!([])));
    let calls = spec(json!([
        { "matches": [{ "method": { "service": "s.S", "method": "M" } }], "backendRefs": backends },
        { "matches": [{ "method": { "service": "s.S" } }, { "method": { "method": "M" } }], "backendRefs": backends }
    ]));
    let effects = compiler.apply(put(KindId::GrpcRoute, route_object("calls", calls)));
    let changed = [
        (kind(KindId::HttpRoute), name("shop/web")),
        (kind(KindId::GrpcRoute), name("shop/calls")),
        (kind(KindId::TcpRoute), name("shop/bytes")),
    ];
    assert_eq!(effects.statuses, changed);
    let accepted = |compiler: &Compiler, kind, route| conditions(compiler, kind, route, 0)[0];
    assert_eq!(accepted(&compiler, KindId::GrpcRoute, "shop/calls"), (true, "Accepted"));
    assert_eq!(accepted(&compiler, KindId::HttpRoute, "shop/web"), (false, "Conflicted"));
    assert_eq!(accepted(&compiler, KindId::TcpRoute, "shop/bytes"), (false, "Conflicted"));
    let told = &compiler.route_status(kind(KindId::HttpRoute), &name("shop/web")).unwrap()[0].conditions[0];
    assert_eq!(told.message, "port 80 has GRPCRoutes, which come first");
    let port = compiler.service(&name("shop/d")).unwrap().ports[0].clone();
    let paths: Vec<_> = port.http_routes.entries().iter().map(|entry| entry.matcher.path.clone()).collect();
    let [PathMatch::Exact(exact), PathMatch::Prefix(prefix), PathMatch::Regex(any)] = &paths[..] else {
        panic!("{paths:?}")
    };
    assert_eq!((&**exact, &**prefix), ("/s.S/M", "/s.S"));
    assert!(any.matches("/t.T/M") && !any.matches("/t.T/N") && !any.matches("/a/b/M"));
    assert!(port.http_routes.entries().iter().all(|entry| entry.rule.kind == HttpRouteKind::Grpc));

    compiler.apply(delete(KindId::GrpcRoute, "shop/calls"));
    assert_eq!(accepted(&compiler, KindId::HttpRoute, "shop/web"), (true, "Accepted"));
    assert_eq!(accepted(&compiler, KindId::TcpRoute, "shop/bytes"), (false, "Conflicted"));
    compiler.apply(delete(KindId::HttpRoute, "shop/web"));
    assert_eq!(accepted(&compiler, KindId::TcpRoute, "shop/bytes"), (true, "Accepted"));
}

#[test]
fn a_bad_object_keeps_its_last_good_form() {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 80 })));
    compiler.apply(workload("d-1", "d", true));
    let effects = compiler.apply(service("d", json!({ "port": 70000 })));
    assert_eq!(effects.services, []);
    assert_eq!(effects.statuses, [(kind(KindId::Service), name("shop/d"))]);
    let problem = compiler.problem(kind(KindId::Service), &name("shop/d")).unwrap();
    assert_eq!(problem.field, "spec.ports[0].port");
    assert_eq!(compiler.service(&name("shop/d")).unwrap().ports[0].number, 80);
    let effects = compiler.apply(service("d", json!({ "port": 80 })));
    assert_eq!(effects.statuses, [(kind(KindId::Service), name("shop/d"))]);
    assert_eq!(compiler.problem(kind(KindId::Service), &name("shop/d")), None);

    // A wrong type is named by its path.
    compiler.apply(service("d", json!({ "port": "eighty" })));
    let problem = compiler.problem(kind(KindId::Service), &name("shop/d")).unwrap();
    assert_eq!(problem.field, "spec.ports[0].port");

    // A route falls back as a whole, and says so as Gateway API wants it.
    compiler.apply(http_route("r", "d", json!([{ "name": "d", "port": 80 }])));
    let good = backends(&compiler, "shop/d");
    let bad = json!({ "parentRefs": [parent("d")], "rules": [{ "retry": { "attempts": 11 } }] });
    let mut bad = route_object("r", bad);
    bad["metadata"]["generation"] = json!(2);
    let effects = compiler.apply(put(KindId::HttpRoute, bad.clone()));
    assert_eq!(effects.services, []);
    assert_eq!(backends(&compiler, "shop/d"), good);
    let status = compiler.route_status(kind(KindId::HttpRoute), &name("shop/r")).unwrap();
    let [accepted, _, invalid] = &status[0].conditions[..] else { panic!("{status:?}") };
    assert_eq!((accepted.status, accepted.observed_generation), (true, Some(1)));
    assert_eq!(
        (invalid.kind, invalid.status, invalid.observed_generation),
        ("PartiallyInvalid", true, Some(2))
    );
    assert!(invalid.message.starts_with("Fall Back to generation 1: spec.rules[0].retry.attempts: "));

    // Without a good form it is not accepted.
    bad["metadata"]["name"] = json!("never");
    compiler.apply(put(KindId::HttpRoute, bad));
    assert_eq!(conditions(&compiler, KindId::HttpRoute, "shop/never", 0), [(false, "UnsupportedValue")]);
    compiler.apply(delete(KindId::HttpRoute, "shop/never"));
    assert_eq!(compiler.route_status(kind(KindId::HttpRoute), &name("shop/never")), None);
    assert_eq!(compiler.problem(kind(KindId::HttpRoute), &name("shop/never")), None);
}

#[test]
fn the_mesh_settings_have_defaults() {
    let mut compiler = compiler();
    let mesh =
        |name: &str, spec: Value| put(KindId::Mesh, json!({ "metadata": { "name": name }, "spec": spec }));
    assert!(compiler.apply(mesh("default", json!({ "egress": { "policy": "Deny" } }))).mesh);
    assert_eq!(compiler.mesh().egress, EgressPolicy::Deny);
    assert_eq!(inbound_capture(&compiler.mesh(), None), None);
    assert!(compiler.apply(mesh("default", json!({ "inboundCapture": { "enabled": true } }))).mesh);
    let captured = inbound_capture(&compiler.mesh(), None).unwrap();
    assert_eq!(captured.to_string(), "Mesh/default spec.inboundCapture.enabled captured");
    assert!(!compiler.apply(mesh("default", json!({ "egress": { "policy": "Maybe" } }))).mesh);
    let default = NamespacedName::new("", "default");
    assert_eq!(compiler.problem(kind(KindId::Mesh), &default).unwrap().field, "spec.egress.policy");
    assert!(compiler.apply(Change::Delete(kind(KindId::Mesh), default)).mesh);
    assert_eq!(*compiler.mesh(), MeshSettings::default());
    assert!(!compiler.apply(mesh("other", json!({ "egress": { "policy": "Deny" } }))).mesh);
}

/// What a service selects, as its EndpointSlices show it.
#[test]
fn selected_workloads_are_shown_in_slices_that_are_no_endpoints() {
    let mut compiler = compiler();
    let shop_c = name("shop/c");
    assert_eq!(compiler.own_slices(&shop_c), []);
    compiler.apply(service("c", json!({ "name": "http", "port": 80, "targetPort": 8080 })));
    let slices = compiler.own_slices(&shop_c);
    assert_eq!(slices[0].fields(), json!({ "addressType": "IPv4", "endpoints": [], "ports": [] }));
    let effects = compiler.apply_all([
        workload("c-1", "c", true),
        workload("c-2", "c", false),
        workload("x", "x", true),
    ]);
    assert_eq!(effects.slices, [name("shop/c")]);
    let slices = compiler.own_slices(&shop_c);
    assert_eq!(slices.len(), 1);
    let fields = slices[0].fields();
    assert_eq!(fields["ports"], json!([{ "name": "http", "port": 34567, "protocol": "TCP" }]));
    let ready: Vec<_> = fields["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                e["targetRef"]["name"].as_str().unwrap(),
                e["conditions"]["ready"].as_bool().unwrap(),
                e["nodeName"].as_str(),
            )
        })
        .collect();
    assert_eq!(ready, [("c-1", true, Some("n1")), ("c-2", false, Some("n1"))]);
    // It is a valid object, and one that leads nowhere.
    let object = slices[0].object(&slices[0].name, &shop_c, "u");
    assert_eq!(crate::validate::validate(kind(KindId::EndpointSlice), &object), []);
    assert_eq!(slices::own_service(&object), Some("c"));
    let effects = compiler.apply(put(KindId::EndpointSlice, object.clone()));
    assert_eq!(effects, Effects::default());
    // Not even where the service selects nothing any more.
    let spec = json!({ "ports": [{ "name": "http", "port": 80 }] });
    compiler.apply(put(
        KindId::Service,
        json!({ "metadata": { "namespace": "shop", "name": "c" }, "spec": spec }),
    ));
    assert_eq!(compiler.endpoints(&shop_c).unwrap().endpoints, []);
    assert_eq!(compiler.own_slices(&shop_c), []);
    // A change of readiness alone changes the slice, under the same name.
    compiler.apply(service("c", json!({ "name": "http", "port": 80, "targetPort": 8080 })));
    let before = compiler.own_slices(&shop_c);
    let effects = compiler.apply(workload("c-2", "c", true));
    assert_eq!(effects.slices, [name("shop/c")]);
    let after = compiler.own_slices(&shop_c);
    assert!(before[0].name == after[0].name && before != after);
    // At most 100 in one.
    compiler.apply_all((0..250).map(|i| workload(&format!("c-{i}"), "c", true)));
    let slices = compiler.own_slices(&shop_c);
    let names: BTreeSet<_> = slices.iter().map(|slice| slice.name.clone()).collect();
    assert_eq!((slices.len(), names.len()), (3, 3));
}

/// By its label, or by its owner and name; what lost all of them is somebody else's, and another name is taken.
#[test]
fn own_slices_are_known_without_their_labels() {
    let mut compiler = compiler();
    let shop_c = name("shop/c");
    compiler.apply(service("c", json!({ "port": 80 })));
    let slice = compiler.own_slices(&shop_c).remove(0);
    let object = slice.object(&slice.name, &shop_c, "u");
    let without = |fields: &[&str]| {
        let mut object = object.clone();
        for field in fields {
            object["metadata"].as_object_mut().unwrap().remove(*field);
        }
        object
    };
    let named = |object: &Value, name: &str| {
        let mut object = object.clone();
        object["metadata"]["name"] = json!(name);
        object
    };
    assert_eq!(slices::own_service(&without(&["labels"])), Some("c"));
    assert_eq!(slices::own_service(&without(&["ownerReferences"])), Some("c"));
    assert_eq!(slices::own_service(&without(&["labels", "ownerReferences"])), None);
    let mut moved = object.clone();
    moved["metadata"]["labels"]["kubernetes.io/service-name"] = json!("d");
    assert_eq!(slices::own_service(&moved), Some("c"), "its name says of which it is");
    let mut taken = object.clone();
    taken["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("me");
    assert_eq!(slices::own_service(&taken), Some("c"));
    // As Kubernetes' own controller names them, and people.
    for theirs in ["c-x7k2p", "c", "c-1234567", "d-0123abcd", "c-0123ABCD"] {
        assert_eq!(slices::own_service(&named(&without(&["labels"]), theirs)), None, "{theirs}");
    }
    let names: BTreeSet<_> = (0..5).map(|taken| slice.name_beside(&shop_c, taken)).collect();
    assert_eq!(names.len(), 5);
    assert!(names.iter().all(|name| slices::named_after(&named(&object, name)) == Some("c")), "{names:?}");
}

#[test]
fn a_change_costs_what_its_service_costs() {
    let mut compiler = compiler();
    let names: Vec<_> = (0..1000).map(|i| format!("s{i}")).collect();
    let services = names.iter().map(|name| service(name, json!({ "port": 80, "targetPort": 8080 })));
    let workloads =
        names.iter().flat_map(|app| (0..3).map(move |i| workload(&format!("{app}-{i}"), app, true)));
    let routes = names.iter().map(|s| http_route(s, s, json!([{ "name": s, "port": 80 }])));
    let effects = compiler.apply_all(services.chain(workloads).chain(routes).collect::<Vec<_>>());
    assert_eq!((effects.services.len(), effects.endpoints.len()), (1000, 1000));
    let all = Work { services: 1000, endpoints: 1000, routes: 1000, workloads: 3000, policy_statuses: 0 };
    assert_eq!((effects.workloads.len(), compiler.work()), (3000, all), "a batch compiles everything once");

    // One of the replicas dies.
    let effects = compiler.apply(workload("s500-1", "s500", false));
    let of_s500 = || vec![name("shop/s500")];
    assert_eq!(effects, Effects { endpoints: of_s500(), slices: of_s500(), ..Effects::default() });
    let all = Work { endpoints: 1001, workloads: 3001, ..all };
    assert_eq!(compiler.work(), all);

    // A route changes.
    let split = json!([{ "name": "s7", "port": 80 }, { "name": "s8", "port": 80 }]);
    let effects = compiler.apply(http_route("s7", "s7", split));
    assert_eq!((&effects.services[..], effects.endpoints.len()), (&[name("shop/s7")][..], 0));
    assert_eq!(compiler.work(), Work { services: 1001, routes: 1001, ..all });

    // A service changes: it, the routes that lead to it, and their parents, and the workloads that it selects.
    let effects = compiler.apply(service("s8", json!({ "port": 81 })));
    assert_eq!(effects.workloads, [0, 1, 2].map(|i| name(&format!("shop/s8-{i}"))));
    let work = Work { services: 1003, endpoints: 1002, routes: 1003, workloads: 3004, ..all };
    assert_eq!(compiler.work(), work);

    // Nothing that matters changes.
    let before = compiler.work();
    assert_eq!(compiler.apply(workload("s500-1", "s500", false)), Effects::default());
    assert_eq!(compiler.apply(service("s8", json!({ "port": 81 }))), Effects::default());
    assert_eq!(compiler.work(), before);
}

/// A small world in which everything depends on everything; some of the objects do not read.
fn changes() -> impl Strategy<Value = (KindId, String, Option<Value>)> {
    let app = prop::sample::select(vec!["a", "b", "c"]);
    let port = prop::sample::select(vec![80, 81]);
    let protocol = prop::sample::select(vec![None, Some("http"), Some("tcp")]);
    let selector = prop::option::weighted(0.8, app.clone());
    let service_ports = prop::collection::btree_map(port.clone(), protocol, 1..3);
    let created = prop::sample::select(vec!["", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"]);
    let services = (app.clone(), selector, service_ports, prop::bool::weighted(0.1), created.clone()).prop_map(
        |(name, selector, ports, bad, created)| {
            let ports = ports.into_iter().map(|(port, protocol)| {
                json!({ "name": port.to_string(), "port": if bad { 0 } else { port }, "appProtocol": protocol })
            });
            let ports = ports.collect::<Vec<_>>();
            let selector = selector.map(|app| json!({ "app": app, "all": "x" })).unwrap_or(json!({}));
            let metadata = json!({ "creationTimestamp": created });
            let spec = json!({ "ports": ports, "selector": selector });
            (KindId::Service, name.to_owned(), json!({ "metadata": metadata, "spec": spec }))
        },
    );
    let account = prop::sample::select(vec!["default", "other"]);
    let trigger = prop::option::weighted(0.8, port.clone());
    let flows = (app.clone(), account.clone(), trigger, prop::bool::weighted(0.1), created).prop_map(
        |(name, account, port, bad, created)| {
            let task = if bad { json!({}) } else { json!({ "set": { "a": 1 } }) };
            let workflow = json!({
                "document": { "dsl": "1.0.3", "namespace": "a", "name": "b", "version": "0.1.0" },
                "do": [{ "t": task }],
            });
            let trigger = port.map(|port| json!({ "http": { "port": port } }));
            let spec = json!({ "workflow": workflow, "serviceAccount": account, "trigger": trigger });
            let metadata = json!({ "creationTimestamp": created });
            (KindId::Flow, name.to_owned(), json!({ "metadata": metadata, "spec": spec }))
        },
    );
    let carried = prop::option::weighted(0.3, (app.clone(), account));
    let workload = ("w[1-4]", app.clone(), port.clone(), any::<bool>(), prop::bool::weighted(0.1), carried);
    let workloads = workload.prop_map(|(name, app, port, node, bad, carried)| {
        let mut labels = json!({ "app": app, "all": "x" });
        let address = if bad { "nowhere" } else { "192.0.2.1" };
        let mut spec = json!({ "address": address, "ports": [{ "port": port }] });
        if let Some((flow, account)) = carried {
            labels["tulle.dev/flow"] = json!(flow);
            spec["serviceAccount"] = json!(account);
            spec["ports"][0]["name"] = json!("trigger");
        }
        if node {
            spec["node"] = json!({ "name": "n", "linkAddress": "192.0.2.1:15008" });
        }
        let status = json!({ "conditions": [{
                "type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": ""
            }] });
        let object = json!({ "metadata": { "labels": labels }, "spec": spec, "status": status });
        (KindId::Workload, name, object)
    });
    let slices = ("e[12]", app.clone(), port.clone()).prop_map(|(name, app, port)| {
        let metadata = json!({ "labels": { "kubernetes.io/service-name": app } });
        let object = json!({
            "metadata": metadata, "addressType": "IPv4", "endpoints": [{ "addresses": ["192.0.2.2"] }],
            "ports": [{ "name": port.to_string(), "port": 8080 }],
        });
        (KindId::EndpointSlice, name, object)
    });
    let references = |range| {
        let reference = (app.clone(), prop::option::of(port.clone()), 0..3, prop::bool::weighted(0.2));
        prop::collection::vec(reference, range).prop_map(|references| {
            let reference = |(name, port, weight, is_flow)| {
                let (group, kind) = if is_flow { ("tulle.dev", "Flow") } else { ("", "Service") };
                json!({ "group": group, "kind": kind, "name": name, "port": port, "weight": weight })
            };
            references.into_iter().map(reference).collect::<Vec<_>>()
        })
    };
    let route_kind = prop::sample::select(vec![KindId::HttpRoute, KindId::TcpRoute]);
    let path = prop::sample::select(vec!["/", "/x", "wrong"]);
    let routes = ("r[1-4]", route_kind, references(1..3), references(0..3), path, 0..3).prop_map(
        |(name, kind, parents, backends, path, created)| {
            let parents: Vec<_> = parents
                .into_iter()
                .map(|mut parent| {
                    parent.as_object_mut().unwrap().remove("weight");
                    parent
                })
                .collect();
            let mut rule = json!({ "backendRefs": backends });
            if kind == KindId::HttpRoute {
                rule["matches"] = json!([{ "path": { "value": path } }]);
            }
            let created = format!("2026-01-01T00:00:0{created}Z");
            let metadata = json!({ "creationTimestamp": created, "generation": 1 });
            let object = json!({ "metadata": metadata, "spec": { "parentRefs": parents, "rules": [rule] } });
            (kind, name, object)
        },
    );
    let meshes = any::<bool>().prop_map(|enabled| {
        (KindId::Mesh, "default".to_owned(), json!({ "spec": { "inboundCapture": { "enabled": enabled } } }))
    });
    let change =
        prop_oneof![5 => services, 3 => flows, 5 => workloads, 5 => slices, 5 => routes, 1 => meshes];
    (change, prop::bool::weighted(0.7)).prop_map(|((kind, name, mut object), keep)| {
        object["metadata"]["name"] = json!(name);
        (kind, name, keep.then_some(object))
    })
}

/// All that a compiler says.
#[derive(Debug, PartialEq)]
struct Told {
    services: BTreeMap<ServiceName, Arc<ServiceConfig>>,
    endpoints: BTreeMap<ServiceName, Arc<EndpointSet>>,
    statuses: BTreeMap<(KindId, NamespacedName), Vec<ParentStatus>>,
    problems: BTreeMap<(KindId, NamespacedName), InvalidObject>,
    /// Statuses of Flows, and what Services are refused for.
    names: BTreeMap<(KindId, NamespacedName), Vec<StatusCondition>>,
    workloads: BTreeMap<WorkloadName, LocalWorkload>,
}

fn told(compiler: &Compiler) -> Told {
    let statuses = compiler.statuses.iter();
    let flows = compiler.flow_statuses.iter();
    let flows = flows.map(|(name, status)| ((KindId::Flow, name.clone()), status.clone()));
    let displaced = compiler.displaced.keys().map(|name| ((KindId::Service, name.clone()), Vec::new()));
    Told {
        names: flows.chain(displaced).collect(),
        services: compiler.configs.clone().into_iter().collect(),
        endpoints: compiler.endpoints.clone().into_iter().collect(),
        statuses: statuses.map(|(key, s)| ((key.kind, key.name.clone()), s.clone())).collect(),
        problems: compiler.problems.clone(),
        workloads: compiler.local.clone().into_iter().collect(),
    }
}

fn differences<K: Ord + Clone, V: PartialEq>(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>) -> Vec<K> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter(|k| before.get(k) != after.get(k)).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn changes_add_up_to_compiling_from_scratch(changes in prop::collection::vec(changes(), 1..40)) {
        let mut compiler = compiler();
        // For each object its last good form, and a bad one that came after it.
        let mut objects: BTreeMap<(KindId, String), Vec<Value>> = BTreeMap::new();
        let mut all = Vec::new();
        for (id, object_name, object) in changes {
            let before = told(&compiler);
            let key = (id, object_name.clone());
            all.extend(object.clone().map(|object| (key.clone(), object)));
            let namespace = if kind(id).namespaced { "default" } else { "" };
            let full_name = NamespacedName::new(namespace, object_name);
            let effects = match &object {
                Some(object) => compiler.apply(put(id, object.clone())),
                None => compiler.apply(Change::Delete(kind(id), full_name.clone())),
            };
            match object {
                None => _ = objects.remove(&key),
                Some(object) => {
                    let forms = objects.entry(key).or_default();
                    let good = forms.iter().take(1).filter(|_| {
                        compiler.problem(kind(id), &full_name).is_some()
                    });
                    *forms = good.cloned().chain([object]).collect();
                }
            }

            let after = told(&compiler);
            prop_assert_eq!(&effects.services, &differences(&before.services, &after.services));
            prop_assert_eq!(&effects.endpoints, &differences(&before.endpoints, &after.endpoints));
            prop_assert_eq!(&effects.workloads, &differences(&before.workloads, &after.workloads));
            let mut statuses: BTreeSet<_> = differences(&before.statuses, &after.statuses).into_iter().collect();
            statuses.extend(differences(&before.problems, &after.problems));
            statuses.extend(differences(&before.names, &after.names));
            let reported: BTreeSet<_> = effects.statuses.iter().map(|(k, n)| (k.id, n.clone())).collect();
            prop_assert!(reported.is_superset(&statuses));
            prop_assert!(reported.difference(&statuses).all(|(k, n)| (*k, n) == (id, &full_name)));

            // From a compiler that knows what is gone by now, too.
            let mut replaced = self::compiler();
            let gone = all.iter().filter(|(key, _)| !objects.contains_key(key));
            replaced.apply_all(gone.map(|((id, _), object)| put(*id, object.clone())).collect::<Vec<_>>());
            for at in [<[Value]>::first, <[Value]>::last] {
                let list = objects.iter().filter_map(|((id, _), forms)| Some((kind(*id), at(forms)?)));
                replaced.replace_all(list.map(|(kind, object)| (kind, Arc::new(object.clone()))));
            }
            prop_assert_eq!(&after, &told(&replaced));

            let mut scratch = self::compiler();
            let all = objects.iter().flat_map(|((id, _), forms)| forms.iter().map(|f| put(*id, f.clone())));
            scratch.apply_all(all.collect::<Vec<_>>());
            prop_assert_eq!(after, told(&scratch));
        }
    }
}

#[test]
fn a_silent_nodes_workload_stays_an_endpoint_and_is_stale() {
    let mut compiler = compiler();
    compiler.apply(service("c", json!({ "port": 80, "targetPort": 8080 })));
    compiler.apply(workload("c-0", "c", true));
    compiler.apply(workload("c-1", "c", true));
    let set = compiler.endpoints(&name("shop/c")).unwrap();
    assert!(set.stale_since.is_empty() && set.endpoints.len() == 2);
    let Change::Put(kind, object) = workload("c-1", "c", true) else { unreachable!() };
    let mut object = Value::clone(&object);
    object["status"]["conditions"].as_array_mut().unwrap().push(json!({
        "type": "Stale", "status": "True", "reason": "NodeSilent", "message": "",
        "lastTransitionTime": "1970-01-01T00:01:40Z"
    }));
    let effects = compiler.apply(Change::Put(kind, Arc::new(object)));
    assert!(effects.endpoints.contains(&name("shop/c")), "nodes are told");
    let set = compiler.endpoints(&name("shop/c")).unwrap();
    assert_eq!((set.endpoints.len(), set.stale_since.as_slice(), set.stale()), (2, &[0, 100][..], 1));
}

/// Without anything else of the object.
#[test]
fn annotations_change_what_a_port_is() {
    let annotated = |annotations: Value| {
        let spec = json!({ "ports": [{ "name": "web", "port": 80 }, { "name": "b", "port": 81 }] });
        let metadata = json!({ "namespace": "shop", "name": "c", "annotations": annotations });
        put(KindId::Service, json!({ "metadata": metadata, "spec": spec }))
    };
    let mut compiler = compiler();
    let settings = |compiler: &Compiler| -> Vec<(bool, u64)> {
        let config = compiler.service(&name("shop/c")).unwrap();
        config.ports.iter().map(|p| (p.http1.preserve_case, p.http1.half_close.as_secs())).collect()
    };
    compiler.apply_all([annotated(json!({ "other": "x" }))]);
    assert_eq!(settings(&compiler), [(false, 15), (false, 15)]);
    let both = json!({ "tulle.dev/preserve-header-case": "b", "tulle.dev/half-close-timeout": "web=1m" });
    let published = compiler.apply_all([annotated(both)]);
    assert_eq!(settings(&compiler), [(false, 60), (true, 15)]);
    drop(published);
    // What is wrong leaves the last good form in force.
    compiler.apply_all([annotated(json!({ "tulle.dev/preserve-header-case": "c" }))]);
    assert_eq!(settings(&compiler), [(false, 60), (true, 15)]);
}
