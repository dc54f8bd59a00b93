//! What TLSRoutes make of a port.

use serde_json::{Value, json};

use super::{OK, compiler, conditions, http_route, kind, name, parent, put, route_object, service};
use crate::compile::{Change, Compiler};
use crate::registry::KindId;
use crate::snapshot::{AppProtocol, PortConfig};

fn route(id: KindId, name: &str, created: &str, spec: Value) -> Change {
    let mut object = route_object(name, spec);
    object["metadata"]["creationTimestamp"] = json!(created);
    put(id, object)
}

fn tls(name: &str, created: &str, hostnames: &[&str]) -> Change {
    let rules = json!([{ "backendRefs": [{ "name": "v1", "port": 443 }] }]);
    let spec = json!({ "parentRefs": [parent("d")], "hostnames": hostnames, "rules": rules });
    route(KindId::TlsRoute, name, created, spec)
}

fn with_services() -> Compiler {
    let mut compiler = compiler();
    compiler.apply(service("d", json!({ "port": 443 })));
    compiler.apply(service("v1", json!({ "port": 443, "appProtocol": "https" })));
    compiler
}

fn port(compiler: &Compiler) -> PortConfig {
    compiler.service(&name("shop/d")).unwrap().ports[0].clone()
}

/// Which route is for that server.
fn holder(compiler: &Compiler, server: &str) -> Option<String> {
    port(compiler).tls_routes.find(server).map(|rule| rule.route.name.to_string())
}

fn message(compiler: &Compiler, id: KindId, route: &str) -> String {
    let status = compiler.route_status(kind(id), &name(route)).unwrap();
    status[0].conditions[0].message.clone()
}

#[test]
fn host_names_are_the_oldest_routes() {
    let mut compiler = with_services();
    compiler.apply(tls("young", "2026-02-01T00:00:00Z", &["a.test", "*.test", "b.test"]));
    assert_eq!(port(&compiler).protocol, AppProtocol::Tcp, "a TLSRoute makes it bytes");
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "shop/young", 0), OK);
    assert_eq!(message(&compiler, KindId::TlsRoute, "shop/young"), "the route is in force");

    let effects = compiler.apply(tls("old", "2026-01-01T00:00:00Z", &["a.test", "c.test"]));
    let tls_route = kind(KindId::TlsRoute);
    assert_eq!(effects.statuses, [(tls_route, name("shop/old")), (tls_route, name("shop/young"))]);
    for (server, route) in [("a.test", "old"), ("b.test", "young"), ("c.test", "old"), ("d.test", "young")] {
        assert_eq!(holder(&compiler, server).as_deref(), Some(route), "{server}");
    }
    assert_eq!(holder(&compiler, "test"), None);
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "shop/young", 0), OK);
    let shared = "the route is in force; warning: a.test is for TLSRoute shop/old on port 443, which is older, or first by name";
    assert_eq!(message(&compiler, KindId::TlsRoute, "shop/young"), shared);

    // Of the same age, the first by name; one without any host name of its own has no say.
    compiler.apply(tls("older", "2026-01-01T00:00:00Z", &["c.test"]));
    assert_eq!(holder(&compiler, "c.test").as_deref(), Some("old"));
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "shop/older", 0)[0], (false, "Conflicted"));
    let taken = "port 443 already has TLSRoute shop/old for c.test, which is older, or first by name";
    assert_eq!(message(&compiler, KindId::TlsRoute, "shop/older"), taken);
}

#[test]
fn routes_of_requests_come_before_those_of_tls_and_these_before_others() {
    let mut compiler = with_services();
    let spec =
        json!({ "parentRefs": [parent("d")], "rules": [{ "backendRefs": [{ "name": "v1", "port": 443 }] }] });
    compiler.apply(route(KindId::TcpRoute, "bytes", "2025-01-01T00:00:00Z", spec));
    assert!(port(&compiler).tcp_route.is_some());
    compiler.apply(tls("names", "2026-01-01T00:00:00Z", &["a.test"]));
    assert_eq!(port(&compiler).tcp_route, None);
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "shop/names", 0), OK);
    assert_eq!(conditions(&compiler, KindId::TcpRoute, "shop/bytes", 0)[0], (false, "Conflicted"));
    assert_eq!(
        message(&compiler, KindId::TcpRoute, "shop/bytes"),
        "port 443 has TLSRoutes, which come first"
    );

    compiler.apply(http_route("web", "d", json!([])));
    assert!(port(&compiler).tls_routes.is_empty());
    assert_eq!(port(&compiler).protocol, AppProtocol::Detect);
    for (id, route) in [(KindId::TlsRoute, "shop/names"), (KindId::TcpRoute, "shop/bytes")] {
        assert_eq!(conditions(&compiler, id, route, 0)[0], (false, "Conflicted"), "{route}");
    }
    compiler.apply(super::delete(KindId::HttpRoute, "shop/web"));
    assert_eq!(holder(&compiler, "a.test").as_deref(), Some("names"));
}

#[test]
fn clients_of_another_namespace_take_its_tls_routes() {
    let mut compiler = with_services();
    compiler.apply(tls("names", "2026-01-01T00:00:00Z", &["a.test"]));
    let parent = json!({ "group": "", "kind": "Service", "name": "d", "namespace": "shop" });
    let backend = json!({ "name": "v1", "namespace": "shop", "port": 443 });
    let spec =
        json!({ "parentRefs": [parent], "hostnames": ["b.test"], "rules": [{ "backendRefs": [backend] }] });
    let metadata = json!({ "namespace": "bank", "name": "theirs" });
    compiler.apply(put(KindId::TlsRoute, json!({ "metadata": metadata, "spec": spec })));
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "bank/theirs", 0), OK);
    for (namespace, server, route) in [
        ("shop", "a.test", Some("names")),
        ("shop", "b.test", None),
        ("bank", "a.test", None),
        ("bank", "b.test", Some("theirs")),
    ] {
        let port = port(&compiler);
        let found = port.seen_from(namespace).tls_routes.find(server).map(|rule| rule.route.name.to_string());
        assert_eq!(found.as_deref(), route, "{namespace} {server}");
    }
}

#[test]
fn ports_that_declare_http_have_no_tls_routes() {
    let mut compiler = with_services();
    compiler.apply(service("v1", json!({ "port": 443, "appProtocol": "http" })));
    compiler.apply(tls("names", "2026-01-01T00:00:00Z", &["a.test"]));
    let resolved = conditions(&compiler, KindId::TlsRoute, "shop/names", 0);
    assert_eq!(resolved, [(true, "Accepted"), (false, "UnsupportedProtocol")]);
    compiler.apply(service("d", json!({ "port": 443, "appProtocol": "kubernetes.io/h2c" })));
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "shop/names", 0)[0], (false, "NotAllowedByListeners"));
    assert!(port(&compiler).tls_routes.is_empty());
    compiler.apply(service("d", json!({ "port": 443, "appProtocol": "tls" })));
    assert_eq!(conditions(&compiler, KindId::TlsRoute, "shop/names", 0)[0], (true, "Accepted"));
}

#[test]
fn a_route_without_host_names_keeps_the_last_ones() {
    let mut compiler = with_services();
    compiler.apply(tls("names", "2026-01-01T00:00:00Z", &["a.test"]));
    compiler.apply(tls("names", "2026-01-01T00:00:00Z", &[]));
    assert_eq!(holder(&compiler, "a.test").as_deref(), Some("names"));
    let problem = compiler.problem(kind(KindId::TlsRoute), &name("shop/names")).unwrap();
    assert_eq!(problem.field, "spec.hostnames");
}
