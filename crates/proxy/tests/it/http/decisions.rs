//! What was decided over a request or connection is in the access log: the object, the field, and the generation of the
//! configuration that both are of.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{
    AppProtocol, Backend, BackendTarget, EgressPolicy, Endpoint, HttpMatch, HttpRouteEntry, HttpRouteTable,
    HttpRule, PathMatch, PortConfig, TcpRule,
};
use tulle_proxy::Capture;

use super::apps;
use super::mesh::{Authority, Node, eventually, identity, plain, service_name};
use crate::mesh::{echo, logged};

/// No other test has it.
const GENERATION: u64 = 90_210;

/// A node whose access log tells, and another one.
struct Mesh {
    authority: Authority,
    near: Node,
    far: Node,
    protocol: AppProtocol,
}

impl Mesh {
    async fn new(protocol: AppProtocol) -> Self {
        let authority = Authority::new();
        let mut near = Node::start("near", &authority).await;
        let far = Node::start("far", &authority).await;
        Arc::make_mut(&mut near.state.snapshot).generation = GENERATION;
        near.change_mesh(|mesh| mesh.access_log = true);
        Self { authority, near, far, protocol }
    }

    /// Adds a service, and has its port changed.
    fn add(&mut self, name: &str, endpoints: Vec<Endpoint>, change: impl FnOnce(&mut PortConfig)) {
        self.near.add_service(name, self.protocol, endpoints);
        self.near.change_port(name, change);
    }

    /// Asks a service once, and waits until the log has a line about it that says all of that.
    async fn expect(&self, service: &str, path: &str, said: &[&str]) {
        let address = self.near.listen(service).await;
        for _ in 0..100 {
            ask(address, &format!("GET {path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n")).await;
            if self.says(service, said) {
                return;
            }
        }
        eventually(|| self.says(service, said).then_some(())).await;
    }

    fn says(&self, service: &str, said: &[&str]) -> bool {
        let protocol = if self.protocol == AppProtocol::Tcp { "tcp" } else { "http" };
        let line = [
            &*format!("destination=default/{service} protocol=\"{protocol}\""),
            &*format!(" generation={GENERATION} "),
        ];
        logged(&[&line[..], said].concat())
    }
}

async fn ask(address: std::net::SocketAddr, text: &str) {
    // What carries bytes is reset, as early as it likes.
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fn to(service: &str, weight: u32) -> Backend {
    Backend::new(BackendTarget::Service { name: service_name(service), port: 80 }, weight)
}

/// Puts a route before a port, which sends what is below `/here` or is no HTTP to the second of two backends.
fn route(name: &'static str, backend: &'static str) -> impl FnOnce(&mut PortConfig) {
    move |port| {
        let backends = vec![to("none", 0), to(backend, 3)];
        if port.protocol == AppProtocol::Tcp {
            port.tcp_route =
                Some(Arc::new(TcpRule { route: NamespacedName::new("default", name), backends }));
            return;
        }
        let route = NamespacedName::new("default", name);
        let rule = Arc::new(HttpRule::new(route, 0, None, backends));
        let path = PathMatch::Prefix("/here".to_owned());
        let matcher = HttpMatch { path, method: None, headers: Vec::new(), query: Vec::new() };
        port.http_routes = HttpRouteTable::new(vec![HttpRouteEntry { matcher, rule }]);
    }
}

#[tokio::test]
async fn each_decision_names_its_object_its_field_and_its_generation() {
    for protocol in [AppProtocol::Http1, AppProtocol::Tcp] {
        let bytes = protocol == AppProtocol::Tcp;
        let mut mesh = Mesh::new(protocol).await;
        let app = if bytes { echo().await } else { apps::serve(apps::app).await };
        let held: Vec<_> = (0..4).map(|_| apps::nowhere()).collect();
        let dead = |number: usize| plain(held[number].1);

        mesh.add("d-v2", vec![plain(app)], |_| {});
        mesh.add("d-split", Vec::new(), route("d-split", "d-v2"));
        let kind = if bytes { "TCPRoute" } else { "HTTPRoute" };
        let weight = format!("{kind}/default/d-split spec.rules[0].backendRefs[1].weight routed");
        let ask_split = mesh.near.listen("d-split").await;
        ask(ask_split, "GET /here HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await;
        let routed = [&*weight, "attempts=1", "result=\"success\""];
        eventually(|| mesh.says("d-v2", &routed).then_some(())).await;
        if !bytes {
            let unmatched = "HTTPRoute/default/d-split spec.rules[*].matches refused";
            mesh.expect("d-split", "/there", &[unmatched, "reason=\"no-route\""]).await;
            mesh.add("d-broken", Vec::new(), |port| {
                route("d-broken", "c")(port);
                let rule = HttpRule::clone(&port.http_routes.entries()[0].rule);
                let target = BackendTarget::Invalid { reason: "there is no service default/x".into() };
                let rule = HttpRule { backends: vec![Backend::new(target, 1)], ..rule };
                let entry = port.http_routes.entries()[0].clone();
                port.http_routes =
                    HttpRouteTable::new(vec![HttpRouteEntry { rule: Arc::new(rule), ..entry }]);
            });
            let broken = "HTTPRoute/default/d-broken spec.rules[0].backendRefs[0] refused";
            let ruled_by = "route=default/d-broken rule=0 ";
            mesh.expect("d-broken", "/here", &[broken, ruled_by, "reason=\"invalid-backend\""]).await;
            // The kernel refuses connections of bytes there.
            mesh.add("d-empty", Vec::new(), |_| {});
            let selector = "Service/default/d-empty spec.selector refused";
            mesh.expect("d-empty", "/", &[selector, "reason=\"no-endpoints\""]).await;
            let unknown = "Service/default/d-gone metadata.name refused";
            mesh.expect("d-gone", "/", &[unknown, "reason=\"unknown-service\""]).await;
        }

        mesh.add("d-flaky", vec![plain(app), dead(0)], |_| {});
        let retried = "Service/default/d-flaky retry.attempts (default) retried";
        let tried = format!("tried=\"{} plaintext connect-failed after ", held[0].1);
        mesh.expect("d-flaky", "/", &[retried, &tried, "attempts=2", "result=\"success\""]).await;
        let passed_over = format!("Endpoint/{} health passed-over", held[0].1.ip());
        mesh.expect("d-flaky", "/", &[&passed_over, "attempts=1", "result=\"success\""]).await;

        mesh.add("d-dead", vec![dead(1), dead(2), dead(3)], |_| {});
        let budget = "Service/default/d-dead retryConstraint.budget (default) not-retried";
        mesh.expect("d-dead", "/", &[budget, "reason=\"connect-failed\""]).await;

        let far = mesh.far.add_workload(&mesh.authority, "d-0", &[app.port()]);
        let own = mesh.near.add_workload(&mesh.authority, "d-1", &[app.port()]);
        for (name, endpoint) in [("d-0", &far), ("d-1", &own)] {
            let service = format!("{name}-imposed");
            let imposed = Endpoint { identity: Some(identity("another")), ..endpoint.clone() };
            mesh.add(&service, vec![imposed], |_| {});
            let wrong = format!("Workload/default/{name} spec.serviceAccount failed");
            mesh.expect(&service, "/", &[&wrong, "reason=\"connect-failed\""]).await;
        }
        mesh.far.drain_workload("d-0");
        mesh.near.drain_workload("d-1");
        for (name, endpoint) in [("d-0", far), ("d-1", own)] {
            let service = format!("{name}-stopping");
            mesh.add(&service, vec![endpoint], |_| {});
            let draining = format!("Workload/default/{name} status.conditions[Ready] failed");
            // In the same words on one node and over a link.
            let words = format!("detail=\"default/{name} is stopping\"");
            mesh.expect(&service, "/", &[&draining, "reason=\"draining\"", &words]).await;
        }
    }
}

#[tokio::test]
async fn the_mesh_object_is_named_where_it_lets_nobody_out() {
    let mut mesh = Mesh::new(AppProtocol::Http1).await;
    mesh.near.change_mesh(|mesh| mesh.egress = EgressPolicy::Deny);
    let proxy = mesh.near.listen_as(Capture::HttpProxy).await;
    let denied = "Mesh/default spec.egress.policy refused";
    let line = [
        "destination=external protocol=\"http\"",
        &*format!(" generation={GENERATION} "),
        denied,
        "reason=\"egress-denied\"",
    ];
    for (method, target) in [("GET", "http://192.0.2.1/d-egress"), ("CONNECT", "192.0.2.1:4711")] {
        ask(proxy, &format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        let asked = format!("method=\"{method}\"");
        eventually(|| logged(&[&line[..], &[&*asked]].concat()).then_some(())).await;
    }
}
