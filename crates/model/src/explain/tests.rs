use http::HeaderValue;
use serde_json::{Value, json};

use super::rule::shares;
use super::*;
use crate::compile::Change;
use crate::identity::TrustDomain;
use crate::registry::of_object;

fn objects() -> Vec<Value> {
    let service = |name: &str, port: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "selector": { "app": name }, "ports": [port] },
        })
    };
    let workload = |name: &str, node: &str| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1", "kind": "Workload",
            "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
            "spec": { "address": "10.0.0.1", "node": { "name": node, "linkAddress": "10.0.0.1:15008" }, "serviceAccount": name, "ports": [{ "port": 8080 }] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    };
    let http = json!({ "port": 80, "targetPort": 8080, "appProtocol": "http" });
    let route = |kind: &str, name: &str, parent: &str, rules: Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": parent, "port": 80 }], "rules": rules },
        })
    };
    let set = |kind: &str, modifier: &str, value: &str| json!({ "type": kind, (modifier): { "set": [{ "name": "x-by", "value": value }] } });
    let rules = json!([
        {
            "matches": [{ "path": { "value": "/api" }, "method": "GET" }],
            "timeouts": { "request": "5s" },
            "retry": { "codes": [503], "attempts": 1 },
            "filters": [
                set("RequestHeaderModifier", "requestHeaderModifier", "rule"),
                set("ResponseHeaderModifier", "responseHeaderModifier", "rule"),
                { "type": "RequestMirror", "requestMirror": {
                    "backendRef": { "name": "web-v2", "port": 80 }, "percent": 25 } },
                { "type": "URLRewrite", "urlRewrite": {
                    "hostname": "inner", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1" } } },
            ],
            "backendRefs": [
                { "name": "web-v1", "port": 80, "weight": 9,
                  "filters": [set("RequestHeaderModifier", "requestHeaderModifier", "backend")] },
                { "name": "web-v2", "port": 80, "weight": 0 },
                { "name": "nowhere", "port": 80, "weight": 1 },
            ],
        },
        {
            "matches": [{ "path": { "value": "/old" } }],
            "filters": [{ "type": "RequestRedirect", "requestRedirect": { "hostname": "new", "statusCode": 301 } }],
        },
        { "matches": [{ "path": { "value": "/none" } }],
          "backendRefs": [{ "name": "web-v1", "port": 80, "weight": 0 }] },
    ]);
    vec![
        service("web", http.clone()),
        service("web-v1", http.clone()),
        service("web-v2", http.clone()),
        service("plain", http),
        service("db", json!({ "port": 80, "targetPort": 8080, "appProtocol": "tcp" })),
        route("HTTPRoute", "web", "web", rules),
        route(
            "TCPRoute",
            "db",
            "db",
            json!([{ "backendRefs": [{ "name": "db", "port": 80, "weight": 2 }] }]),
        ),
        workload("web-v1", "n1"),
        workload("db", "n2"),
        workload("client", "n1"),
    ]
}

fn known(objects: Vec<Value>) -> Snapshot {
    let mut compiler = Compiler::new(TrustDomain::new("mesh.test").unwrap());
    let puts = objects.into_iter().map(|object| Change::Put(of_object(&object).unwrap(), Arc::new(object)));
    compiler.apply_all(puts);
    snapshot(&compiler)
}

/// What the client on node `n1` is told that sends that.
fn sent(snapshot: &Snapshot, namespace: &str, host: &str, sends: Sends<'_>) -> Explanation {
    let workload = WorkloadName::new(namespace, "client");
    let domain = TrustDomain::new("mesh.test").unwrap();
    let identity = SpiffeId::workload(&domain, namespace, "client").unwrap();
    let caller = Caller { workload: &workload, node: Some("n1"), identity: Some(&identity) };
    explain(snapshot, caller, Described { host, port: 80, sends })
}

/// The same of a request with these headers. `target`: `GET web/path`.
fn asked(snapshot: &Snapshot, target: &str, fields: &[(&'static str, &'static str)]) -> Explanation {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let (method, url) = target.split_once(' ').unwrap();
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let request = DescribedRequest { method, path, query: Some("q=1"), headers: &headers };
    sent(snapshot, "shop", host, Sends::Request(request))
}

/// The only thing that becomes of it, in short, and what decides at last.
fn short(found: &Explanation) -> (String, String) {
    let [Ending { share: 1.0, end }] = &*found.outcomes else { panic!("{found:?}") };
    let decided = found.steps.iter().rfind(|step| step.by.is_some());
    let by = decided.map_or_else(String::new, |step| {
        format!("{} {}", step.by.clone().unwrap(), step.field.clone().unwrap())
    });
    let end = match end {
        End::Forwarded { service, port, .. } => format!("{service}:{port}"),
        End::Redirected { status, location } => format!("{status} {location}"),
        End::Preflight { status, headers } => format!("{status} with {}", headers.len()),
        End::Refused { grpc_status: Some(code), reason, .. } => format!("grpc {code} {reason}"),
        End::Refused { status: Some(status), reason, .. } => format!("{status} {reason}"),
        End::Refused { status: None, reason, .. } => format!("reset {reason}"),
        End::Outside { host, port } => format!("outside {host}:{port}"),
    };
    (end, by)
}

/// The steps of a phase, with what decides.
fn steps(explanation: &Explanation, phase: Phase) -> Vec<String> {
    let of_phase = explanation.steps.iter().filter(|step| step.phase == phase);
    let shown = of_phase.map(|step| match (&step.by, &step.field) {
        (Some(by), Some(field)) => format!("{} [{by} {field}]", step.what),
        _ => step.what.clone(),
    });
    shown.collect()
}

#[test]
fn every_phase_says_what_it_decides_and_by_which_field() {
    let fields =
        [("x-by", "client"), ("connection", "close, x-mine"), ("x-mine", "1"), ("te", "gzip, trailers")];
    let found = asked(&known(objects()), "GET web/%61pi/x", &fields);
    assert_eq!(
        steps(&found, Phase::Normalize),
        [
            "header `connection` is about one connection, or the mesh's own: taken off",
            "header `x-mine` is about one connection, or the mesh's own: taken off",
            "header `te` is about one connection: nothing of it is left but `trailers`",
            "to routes, the path is /api/x"
        ]
    );
    assert_eq!(
        steps(&found, Phase::Route),
        [
            "Service shop/web, whose port 80 speaks HTTP/1 [Service/shop/web spec.ports[80].appProtocol]",
            "rule 0 decides: GET /api/* [HTTPRoute/shop/web spec.rules[0].matches]",
            "90% go to Service shop/web-v1 port 80 [HTTPRoute/shop/web spec.rules[0].backendRefs[0].weight]",
            "answered with 500 invalid-backend: HTTPRoute/shop/web: there is no Service shop/nowhere \
             [HTTPRoute/shop/web spec.rules[0].backendRefs[2]]",
        ]
    );
    assert!(steps(&found, Phase::Admit).is_empty());
    assert_eq!(
        steps(&found, Phase::RequestFilters),
        [
            "sets x-by: rule [HTTPRoute/shop/web spec.rules[0].filters[0].requestHeaderModifier]",
            "the host becomes inner [HTTPRoute/shop/web spec.rules[0].filters[3].urlRewrite]",
            "the path becomes /v1/x [HTTPRoute/shop/web spec.rules[0].filters[3].urlRewrite]",
            "sets x-by: backend \
             [HTTPRoute/shop/web spec.rules[0].backendRefs[0].filters[0].requestHeaderModifier]",
            "copies of 25% go to Service shop/web-v2 port 80, too \
             [HTTPRoute/shop/web spec.rules[0].filters[2].requestMirror]",
        ]
    );
    let pick = steps(&found, Phase::Attempt);
    assert_eq!(
        pick[..2],
        [
            "all of it within 5s, or 504 [HTTPRoute/shop/web spec.rules[0].timeouts.request]",
            "tried again once at most, also after 503, after 25ms at least [HTTPRoute/shop/web spec.rules[0].retry]",
        ]
    );
    assert!(pick[2].contains("Workload shop/web-v1 at 10.0.0.1:8080, on the same node"), "{pick:?}");
    assert_eq!(
        steps(&found, Phase::ResponseFilters),
        ["sets x-by: rule [HTTPRoute/shop/web spec.rules[0].filters[1].responseHeaderModifier]"]
    );
    let [first, second] = &*found.outcomes else { panic!("{found:?}") };
    assert_eq!((first.share, second.share), (0.9, 0.1));
    let End::Forwarded { request: Some(sent), .. } = &first.end else { panic!("{first:?}") };
    assert_eq!((&*sent.host, &*sent.path), ("inner", "/v1/x?q=1"));
    let mut left: Vec<String> = sent.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    left.sort();
    assert_eq!(left, ["te: trailers", "x-by: backend"]);
    assert!(
        matches!(second.end, End::Refused { status: Some(500), ref reason, .. } if reason == "invalid-backend")
    );
}

#[test]
fn what_goes_nowhere_says_why() {
    let mut objects = objects();
    for (name, other) in [("ext", "api.example.com"), ("old", "web.shop.mesh")] {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "type": "ExternalName", "externalName": other },
        }));
    }
    let snapshot = known(objects.clone());
    let end = |snapshot: &Snapshot, host: &str, path: &str| {
        short(&asked(snapshot, &format!("GET {host}{path}"), &[("x-by", "client")]))
    };
    for (host, path, outcome, by) in [
        ("web", "/other", "404 no-route", "HTTPRoute/shop/web spec.rules[*].matches"),
        ("web", "/api/../x", "400 bad-request", "HTTPRoute/shop/web spec.rules[*].matches"),
        ("web.shop.mesh", "/none", "500 invalid-backend", "HTTPRoute/shop/web spec.rules[2].backendRefs"),
        (
            "web",
            "/old/x",
            "301 http://new/old/x?q=1",
            "HTTPRoute/shop/web spec.rules[1].filters[0].requestRedirect",
        ),
        ("plain", "", "503 no-endpoints", "Service/shop/plain spec.selector"),
        ("db", "/", "shop/db:80", "Service/shop/db spec.selector"),
        ("nobody", "/", "502 unknown-service", "Service/shop/nobody metadata.name"),
        ("web.other.mesh", "/", "502 unknown-service", "Service/other/web metadata.name"),
        ("example.org", "/", "outside example.org:80", "Mesh/default spec.egress.policy"),
        ("10.0.0.1", "/", "outside 10.0.0.1:80", "Mesh/default spec.egress.policy"),
        ("ext", "/", "outside api.example.com:80", "Mesh/default spec.egress.policy"),
        ("old", "/other", "404 no-route", "HTTPRoute/shop/web spec.rules[*].matches"),
    ] {
        assert_eq!(end(&snapshot, host, path), (outcome.to_owned(), by.to_owned()), "{host}{path}");
    }
    objects.push(json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
        "spec": { "egress": { "policy": "Deny" } },
    }));
    let denied = ("502 egress-denied".to_owned(), "Mesh/default spec.egress.policy".to_owned());
    let snapshot = known(objects);
    for host in ["example.org", "ext", "nobody"] {
        assert_eq!(end(&snapshot, host, "/"), denied, "{host}");
    }
    let steps = asked(&snapshot, "GET old/other", &[]).steps;
    let alias = |step: &&PhaseStep| step.field.as_deref() == Some("spec.externalName");
    let alias = steps.iter().find(alias).unwrap();
    assert_eq!(alias.what, "Service shop/old stands for web.shop.mesh");
}

#[test]
fn what_has_no_form_is_refused_before_anything_is_looked_up() {
    let snapshot = known(objects());
    for (target, fields, outcome) in [
        ("GET web/x", &[("host", "a"), ("host", "b")][..], "400 bad-request"),
        ("GET web/x", &[("host", "a:b")], "400 bad-request"),
        ("GET web/x", &[("host", "u@b")], "400 bad-request"),
        ("GET web/x", &[("transfer-encoding", "gzip, chunked")], "400 bad-request"),
        ("GET web/x", &[("content-length", "1"), ("content-length", "2")], "400 bad-request"),
        ("GET nobody/x", &[("content-length", "x")], "400 bad-request"),
        ("GET nobody/x", &[("transfer-encoding", "chunked, chunked")], "400 bad-request"),
        ("GET nobody/x", &[("transfer-encoding", "chunked"); 2], "400 bad-request"),
        ("GET plain/x", &[("transfer-encoding", "Chunked"), ("content-length", "2")], "503 no-endpoints"),
        ("GET plain/x", &[("content-length", "1, 1")], "503 no-endpoints"),
        ("GET plain/x", &[("cookie", "a=1"); 300], "503 no-endpoints"),
        ("GET plain/x", &[("a", "1"); 256], "503 no-endpoints"),
        ("GET plain/x", &[("a", "1"); 257], "431 headers-too-large"),
        ("TRACE nobody/x", &[("max-forwards", "0")], "200 max-forwards"),
        ("OPTIONS web/x", &[("max-forwards", "x")], "400 bad-request"),
        ("POST nobody/x", &[("content-type", "application/grpc")], "grpc 14 unknown-service"),
        ("POST web/x", &[("content-type", "Application/GRPC+proto")], "grpc 12 no-route"),
        ("POST web/x", &[("content-type", "application/grpc-web")], "404 no-route"),
    ] {
        assert_eq!(short(&asked(&snapshot, target, fields)).0, outcome, "{target} {fields:?}");
    }
    let large: &'static str = "x".repeat(70_000).leak();
    assert_eq!(short(&asked(&snapshot, "GET web/x", &[("a", large)])).0, "431 headers-too-large");
    let of_room = [("content-length", "1"), ("content-length", "1"), ("host", "a:"), ("max-forwards", "0")];
    assert_eq!(short(&asked(&snapshot, "GET plain/x", &of_room)).0, "503 no-endpoints");
    let upgrade = |to| {
        let found = asked(&snapshot, "GET plain/x", &[("connection", "upgrade"), ("upgrade", to)]);
        steps(&found, Phase::Normalize).iter().any(|step| step.starts_with("asks to go on in"))
    };
    assert_eq!(["websocket", "h2c;x", "h2c x", "TLS/1.2, foo"].map(upgrade), [true, false, false, true]);
}

#[test]
fn bytes_and_tls_go_by_their_own_routes() {
    let mut objects = objects();
    let port = json!({ "port": 80, "targetPort": 8080 });
    let service = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "selector": { "app": "db" }, "ports": [port] },
        })
    };
    let route = |kind: &str, name: &str, namespace: &str, spec: Value| {
        let mut spec = spec;
        spec["parentRefs"] = json!([{ "group": "", "kind": "Service", "name": name, "namespace": "shop" }]);
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": { "name": name, "namespace": namespace }, "spec": spec,
        })
    };
    let to_db = json!([{ "backendRefs": [{ "name": "db", "port": 80 }] }]);
    let calls = json!([{
        "matches": [{ "method": { "service": "cart.Cart", "method": "Add" } }],
        "backendRefs": [{ "name": "nobody", "port": 80 }],
    }]);
    objects.extend([
        service("tls"),
        service("calls"),
        service("open"),
        route("TLSRoute", "tls", "shop", json!({ "hostnames": ["*.example.com"], "rules": to_db })),
        route("GRPCRoute", "calls", "shop", json!({ "rules": calls })),
        route("HTTPRoute", "open", "other", json!({ "rules": [{ "backendRefs": [] }] })),
    ]);
    let snapshot = known(objects);
    let bytes = |is_tls, server| Sends::Bytes { is_tls, server };
    let own = "Service/shop/db spec.selector";
    for (host, sends, outcome, by) in [
        ("tls", bytes(true, Some("A.example.com.")), "shop/db:80", own),
        ("tls", bytes(true, Some("example.com")), "reset no-route", "TLSRoute/shop/tls spec.hostnames"),
        ("tls", bytes(true, None), "reset no-route", "TLSRoute/shop/tls spec.hostnames"),
        ("db", bytes(false, None), "shop/db:80", own),
        ("open", bytes(false, None), "shop/open:80", "Service/shop/open spec.selector"),
        ("web", bytes(true, Some("web")), "reset bad-request", "Service/shop/web spec.ports[80].appProtocol"),
        ("nobody", bytes(false, None), "reset unknown-service", "Service/shop/nobody metadata.name"),
    ] {
        assert_eq!(
            short(&sent(&snapshot, "shop", host, sends)),
            (outcome.into(), by.into()),
            "{host} {sends:?}"
        );
    }
    let no_tls = ("reset bad-request".to_owned(), "TLSRoute/shop/tls spec.hostnames".to_owned());
    assert_eq!(short(&asked(&snapshot, "GET tls/", &[])), no_tls, "requests are no TLS");
    assert_eq!(short(&sent(&snapshot, "shop", "tls", bytes(false, None))), no_tls);
    let grpc = [("content-type", "application/grpc")];
    let found = asked(&snapshot, "POST calls/cart.Cart/Add", &grpc);
    let broken = "GRPCRoute/shop/calls spec.rules[0].backendRefs[0]";
    assert_eq!(short(&found), ("grpc 14 invalid-backend".into(), broken.into()));
    assert!(steps(&found, Phase::Route)[1].contains("/cart.Cart/Add"), "{found:?}");
    let none = ("grpc 12 no-route".to_owned(), "GRPCRoute/shop/calls spec.rules[*].matches".to_owned());
    assert_eq!(short(&asked(&snapshot, "POST calls/cart.Cart/Get", &grpc)), none);
    // A consumer's route is for its own namespace.
    assert_eq!(short(&asked(&snapshot, "GET open/", &[])).0, "shop/open:80");
    let request = DescribedRequest { method: "GET", path: "/", query: None, headers: &HeaderMap::new() };
    let found = sent(&snapshot, "other", "open.shop", Sends::Request(request));
    let ruled = "HTTPRoute/other/open spec.rules[0].backendRefs";
    assert_eq!(short(&found), ("500 invalid-backend".into(), ruled.into()));
    let place = "the routes of namespace other take the place of the Service's own [HTTPRoute/other/open metadata.namespace]";
    assert!(steps(&found, Phase::Route).contains(&place.to_owned()), "{found:?}");
}

#[test]
fn pages_of_other_origins_are_told_of_before_and_after() {
    let mut objects = objects();
    let cors = json!({ "type": "CORS", "cors": {
        "allowOrigins": ["https://a.example"], "allowMethods": ["PUT"], "exposeHeaders": ["x-1"], "maxAge": 60,
    } });
    objects.push(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "plain", "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "plain" }],
            "rules": [{ "matches": [{ "method": "PUT" }], "filters": [cors], "backendRefs": [{ "name": "web-v1", "port": 80 }] }],
        },
    }));
    let snapshot = known(objects);
    let preflight = |origin| [("origin", origin), ("access-control-request-method", "PUT")];
    let field = "HTTPRoute/shop/plain spec.rules[0].filters[0].cors";
    let found = asked(&snapshot, "OPTIONS plain/", &preflight("https://a.example"));
    assert_eq!(short(&found), ("204 with 5".into(), field.into()), "{found:?}");
    let route = steps(&found, Phase::Route);
    assert_eq!(
        route[1..],
        [
            "rule 0 decides: PUT [HTTPRoute/shop/plain spec.rules[0].matches]".to_owned(),
            format!("a preflight for PUT, answered with 204: origin https://a.example is allowed [{field}]"),
        ]
    );
    let denied = format!("{field}.allowOrigins");
    let found = asked(&snapshot, "OPTIONS plain/", &preflight("https://b.example"));
    assert_eq!(short(&found), ("403 with 1".into(), denied.clone()), "{found:?}");
    let marks = |origin| {
        let found = asked(&snapshot, "PUT plain/", &[("origin", origin)]);
        assert_eq!(short(&found).0, "shop/web-v1:80");
        steps(&found, Phase::ResponseFilters)
    };
    let marked = marks("https://a.example");
    assert!(
        marked.contains(&format!("sets access-control-allow-origin: https://a.example [{field}]")),
        "{marked:?}"
    );
    assert!(marked.contains(&format!("sets access-control-expose-headers: x-1 [{field}]")), "{marked:?}");
    let marked = marks("https://b.example");
    let says =
        format!("origin https://b.example is not allowed: its pages may not read the answer [{denied}]");
    assert!(marked.contains(&says) && !marked.iter().any(|step| step.starts_with("sets")), "{marked:?}");
}

#[test]
fn the_bits_of_a_share_draw_its_backend() {
    use crate::routing::draw;
    use crate::snapshot::{Backend, BackendTarget};
    for weights in [&[1][..], &[0, 1], &[3, 0, 1], &[1, 1, 1], &[1_000_000, 1, 999_999], &[7, 11, 13, 0]] {
        let backend = |weight: &u32| Backend::new(BackendTarget::Invalid { reason: "".into() }, *weight);
        let backends: Vec<_> = weights.iter().map(backend).collect();
        let drawn = shares(&backends).into_iter().map(|(_, random)| draw(&backends, random));
        let expected = (0..weights.len()).filter(|at| weights[*at] > 0).map(Some);
        assert_eq!(drawn.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{weights:?}");
    }
    assert!(shares(&[]).is_empty());
    assert_eq!([1.0, 0.5, 1.0 / 3.0, 0.0].map(percent), ["100%", "50%", "33.33%", "0%"]);
}

#[test]
fn sessions_go_on_where_no_weight_is_left_and_that_is_said() {
    let mut objects = objects();
    objects.push(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "kept", "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "plain", "port": 80 }],
            "rules": [{
                "sessionPersistence": { "sessionName": "s" },
                "backendRefs": [{ "name": "web-v1", "port": 80, "weight": 0 }],
            }],
        },
    }));
    let explanation = asked(&known(objects), "GET plain/x", &[]);
    assert_eq!(short(&explanation).0, "500 invalid-backend");
    let session = |step: &&PhaseStep| step.field.as_deref() == Some("spec.rules[0].sessionPersistence");
    let said: Vec<_> = explanation.steps.iter().filter(session).collect();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].phase, Phase::Route);
    assert!(said[0].what.starts_with("clients of a session (cookie s) stay"), "{}", said[0].what);
}

/// By names and addresses that are listed, what the client names, and who may use it.
#[test]
fn what_leaves_is_listed_and_allowed() {
    let tulle = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
        })
    };
    let mut objects = objects();
    objects.push(json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
        "spec": { "egress": { "namespaces": [{ "name": "shop", "policy": "Listed" }] } },
    }));
    objects.push(tulle(
        "ExternalService",
        "api",
        json!({
            "hosts": ["*.example.com"], "addresses": ["192.0.2.0/24"],
            "ports": [{ "port": 80, "appProtocol": "http" }, { "port": 443, "appProtocol": "https" }, { "port": 9000, "appProtocol": "tcp" }],
        }),
    ));
    objects.push(tulle(
        "AuthorizationPolicy",
        "no-admin",
        json!({
            "targetRefs": [{ "group": "tulle.dev", "kind": "ExternalService", "name": "api" }], "action": "Deny",
            "rules": [{ "http": { "paths": [{ "value": "/admin" }] }, "networkAttributes": { "ports": [80] } }],
        }),
    ));
    let told = known(objects);
    for (target, fields, outcome, by) in [
        (
            "GET api.example.com/",
            &[][..],
            "outside api.example.com:80",
            "ExternalService/shop/api spec.hosts[0]",
        ),
        (
            "GET 192.0.2.9/",
            &[("host", "x")],
            "outside 192.0.2.9:80",
            "ExternalService/shop/api spec.addresses[0]",
        ),
        (
            "GET api.example.com/",
            &[("host", "evil.test")],
            "421 misdirected",
            "ExternalService/shop/api spec.hosts",
        ),
        (
            "GET api.example.com/admin/x",
            &[],
            "403 denied-by=shop/no-admin",
            "AuthorizationPolicy/shop/no-admin spec.rules[0]",
        ),
        ("GET evil.test/", &[], "502 egress-denied", "Mesh/default spec.egress.namespaces"),
    ] {
        let found = asked(&told, target, fields);
        assert_eq!(short(&found), (outcome.to_owned(), by.to_owned()), "{target} {fields:?}");
    }
}

#[test]
fn what_goes_in_tls_is_told_by_the_policy_that_says_so() {
    let mesh = |policy: &str| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": "default" },
            "spec": { "egress": { "policy": policy } },
        })
    };
    let external = json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "ExternalService", "metadata": { "name": "api", "namespace": "shop" },
        "spec": {
            "hosts": ["api.example.com"],
            "ports": [
                { "name": "web", "port": 80, "targetPort": 443, "appProtocol": "http" },
                { "name": "db", "port": 9000, "appProtocol": "tcp" },
            ],
        },
    });
    let tls = |name: &str, section: &str, validation: Value| {
        let target =
            json!({ "group": "tulle.dev", "kind": "ExternalService", "name": "api", "sectionName": section });
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "targetRefs": [target], "validation": validation },
        })
    };
    let map = json!([{ "group": "", "kind": "ConfigMap", "name": "ca" }]);
    for policy in ["Allow", "Listed"] {
        let mut objects = objects();
        objects.extend([
            mesh(policy),
            external.clone(),
            tls("web", "web", json!({ "hostname": "api.example.com", "wellKnownCACertificates": "System" })),
            tls("db", "db", json!({ "hostname": "db.example.com", "caCertificateRefs": map })),
        ]);
        let told = known(objects);
        let steps = |found: &Explanation| {
            found
                .steps
                .iter()
                .map(|step| format!("{} ({})", step.what, step.by.as_deref().unwrap_or("-")))
                .collect::<Vec<_>>()
        };
        let found = asked(&told, "GET api.example.com/", &[]);
        let says =
            "the node speaks TLS to it, asking for api.example.com, to port 443 (BackendTLSPolicy/shop/web)";
        assert!(steps(&found).iter().any(|step| step == says), "{found:?}");
        assert!(matches!(found.outcomes[0].end, End::Outside { .. }), "{found:?}");
        // Another host at the same address, which is not meant.
        let found = asked(&told, "GET api.example.com/", &[("host", "other.test")]);
        assert_eq!(matches!(found.outcomes[0].end, End::Outside { .. }), policy == "Allow", "{found:?}");
        assert!(!steps(&found).iter().any(|step| step.contains("TLS")), "{found:?}");
        let workload = WorkloadName::new("shop", "client");
        let caller = Caller { workload: &workload, node: Some("n1"), identity: None };
        let sends = Sends::Bytes { is_tls: false, server: None };
        let found = explain(&told, caller, Described { host: "api.example.com", port: 9000, sends });
        let End::Refused { reason, message, .. } = &found.outcomes[0].end else { panic!("{found:?}") };
        assert!(reason == "tls-failed" && message.contains("there is no ConfigMap shop/ca"), "{found:?}");
    }
}

/// By the node of the endpoint, of what the application would be asked.
#[test]
fn who_may_enter_is_told_of_each_endpoint() {
    let policy = |spec: Value| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "p", "namespace": "shop" }, "spec": spec,
        })
    };
    let namespace = json!([{ "group": "", "kind": "Namespace" }]);
    let rule = json!({ "http": { "paths": [{ "value": "/v1" }] } });
    let mut objects = objects();
    let allow = |rule: Value| json!({ "targetRefs": namespace.clone(), "action": "Allow", "rules": [rule] });
    objects.push(policy(allow(rule)));
    let told = known(objects);
    let by = ("AuthorizationPolicy/shop/p", "spec.rules[0]");
    let authorized = |found: &Explanation| {
        let step = found.steps.iter().find(|step| step.phase == Phase::Authorize).unwrap();
        (step.by.clone().unwrap(), step.field.clone().unwrap().into_owned())
    };
    let found = asked(&told, "GET web-v1/v1/x", &[]);
    assert!(matches!(found.outcomes[0].end, End::Forwarded { .. }), "{found:?}");
    assert_eq!(authorized(&found), (by.0.to_owned(), by.1.to_owned()));
    for (path, fields, status, reason) in [
        ("/other", &[][..], 403, "no-allow-policy"),
        ("/other", &[("content-type", "application/grpc")], 200, "no-allow-policy"),
        ("/v1;x", &[], 400, "bad-request"),
    ] {
        let found = asked(&told, &format!("POST web-v1{path}"), fields);
        let End::Refused { status: Some(told), reason: said, .. } = &found.outcomes[0].end else {
            panic!("{found:?}")
        };
        assert_eq!((*told, &**said), (status, reason), "{path}");
        assert_eq!(authorized(&found), (by.0.to_owned(), "spec.rules[*]".to_owned()));
    }
    // Bytes to where requests are looked at.
    let found = sent(&told, "shop", "db", Sends::Bytes { is_tls: false, server: None });
    assert!(
        matches!(&found.outcomes[0].end, End::Refused { status: None, reason, .. } if reason == "denied-by=shop/p"),
        "{found:?}"
    );
}
