use super::*;
use crate::registry::of_object;

const WEB: &str = "web";

fn object(value: Value) -> MeshObject {
    (of_object(&value).unwrap(), Arc::new(value))
}

fn service(name: &str, ports: Value) -> MeshObject {
    object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": { "app": name }, "ports": ports },
    }))
}

fn http(name: &str) -> MeshObject {
    service(name, json!([{ "port": 80, "appProtocol": "http", "targetPort": 8080, "protocol": "TCP" }]))
}

fn workload(name: &str, labels: Value) -> MeshObject {
    object(json!({
        "apiVersion": "tulle.dev/v1alpha1", "kind": "Workload",
        "metadata": { "name": name, "namespace": "shop", "labels": labels }, "spec": {},
    }))
}

/// A route of the Service `web`.
fn route(kind: &str, namespace: &str, name: &str, port: Option<u16>) -> MeshObject {
    let mut parent = json!({ "group": "", "kind": "Service", "name": WEB, "namespace": "shop" });
    if let Some(port) = port {
        parent["port"] = port.into();
    }
    object(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "parentRefs": [parent], "rules": [{ "backendRefs": [{ "name": WEB, "port": 80 }] }] },
    }))
}

fn domain() -> TrustDomain {
    TrustDomain::new("mesh.test").unwrap()
}

fn split(objects: &[MeshObject], port: Option<&str>, sides: &[&str]) -> Result<Plan, SplitError> {
    let sides: Vec<Side> = sides.iter().map(|side| side.parse().unwrap()).collect();
    let service = ServiceName::new("shop", WEB);
    plan(objects, &domain(), SplitRequest { service: &service, port, sides: &sides })
}

/// What a plan is, in a line: the kind, the name, the port, and the backends.
fn shown(plan: &Plan) -> String {
    let route = &plan.route;
    let backends = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap().iter();
    let backends: Vec<_> =
        backends.map(|b| format!("{}:{}={}", b["name"].as_str().unwrap(), b["port"], b["weight"])).collect();
    let (name, port) = (&route["metadata"]["name"], &route["spec"]["parentRefs"][0]["port"]);
    format!("{} {} {port} {}", plan.kind, name.as_str().unwrap(), backends.join(" "))
}

#[test]
fn sides_are_read() {
    let side = |name: &str, port, weight| Ok(Side { name: name.to_owned(), port, weight });
    assert_eq!("v1=90".parse(), side("v1", None, 90));
    assert_eq!("web-v1:8080=0".parse(), side("web-v1", Some(8080), 0));
    for (bad, why) in [
        ("v1", "NAME=WEIGHT"),
        ("=1", "NAME=WEIGHT"),
        ("v1=", "a weight is"),
        ("v1=-1", "a weight is"),
        ("v1=+1", "a weight is"),
        ("v1=1.5", "a weight is"),
        ("v1=1000001", "a weight is"),
        ("v1:0=1", "no port"),
        ("v1:x=1", "no port"),
        ("V1=1", "no name of a Service"),
        ("a/b=1", "no Service of the namespace"),
        ("b.a=1", "no Service of the namespace"),
        ("svc/=1", "NAME=WEIGHT"),
    ] {
        let said = bad.parse::<Side>().unwrap_err();
        assert!(said.contains(why), "{bad}: {said}");
    }
}

#[test]
fn the_kind_goes_with_the_port_and_names_are_the_services() {
    let both = |ports: Value| ["web", "web-v1", "web-v2"].map(|name| service(name, ports.clone())).to_vec();
    for (ports, expected) in [
        (json!([{ "port": 80, "appProtocol": "http" }]), "HTTPRoute web-split 80 web-v1:80=90 web-v2:80=10"),
        (json!([{ "port": 80 }]), "HTTPRoute web-split null web-v1:80=90 web-v2:80=10"),
        (json!([{ "port": 80, "appProtocol": "grpc" }]), "GRPCRoute web-split 80 web-v1:80=90 web-v2:80=10"),
        (json!([{ "port": 80, "appProtocol": "tcp" }]), "TCPRoute web-split 80 web-v1:80=90 web-v2:80=10"),
    ] {
        let plan = split(&both(ports), None, &["v1=90", "web-v2=10"]).unwrap();
        assert_eq!(shown(&plan), expected);
        assert!(is_own(&plan.route) && plan.replaces.is_empty());
        assert_eq!(crate::validate::validate(plan.kind, &plan.route), []);
        let undeclared = plan.warnings.iter().filter(|warning| warning.contains("does not say")).count();
        assert_eq!(undeclared, usize::from(expected.contains("null")), "{:?}", plan.warnings);
    }
    // Where there is a Service of that very name, it is meant.
    let mut objects = both(json!([{ "port": 80, "appProtocol": "http" }]));
    objects.push(http("v1"));
    let plan = split(&objects, None, &["v1=1", "web=3"]).unwrap();
    assert_eq!(shown(&plan), "HTTPRoute web-split 80 v1:80=1 web:80=3");
}

#[test]
fn each_port_is_shared_out_by_itself() {
    let ports = json!([{ "name": "a", "port": 80, "appProtocol": "http" }, { "name": "b", "port": 81 }]);
    let mut objects = vec![service(WEB, ports)];
    objects.push(service("v1", json!([{ "port": 7000 }])));
    objects.push(service("v2", json!([{ "name": "b", "port": 7000 }, { "name": "c", "port": 7001 }])));
    let error = split(&objects, None, &["v1=1"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Service shop/web has several ports (80 (a), 81 (b)), and which of them is meant is not said"
    );
    let error = split(&objects, Some("82"), &["v1=1"]).unwrap_err();
    assert_eq!(error.to_string(), "Service shop/web has no port 82 (it has 80 (a), 81 (b))");
    // The only one that it has, or that of the same name, or the one that is said.
    let plan = split(&objects, Some("b"), &["v1=1", "v2=2"]).unwrap();
    assert_eq!(shown(&plan), "HTTPRoute web-81-split 81 v1:7000=1 v2:7000=2");
    assert!(
        plan.warnings[0].ends_with("what is not HTTP is refused there from now on"),
        "{:?}",
        plan.warnings
    );
    let plan = split(&objects, Some("80"), &["v2:7001=2"]).unwrap();
    assert_eq!(shown(&plan), "HTTPRoute web-80-split 80 v2:7001=2");
    let error = split(&objects, Some("80"), &["v2=2"]).unwrap_err();
    assert!(error.to_string().contains("none fits (it has 7000 (b), 7001 (c))"), "{error}");
}

#[test]
fn what_cannot_be_is_refused() {
    let objects = [http(WEB), http("web-v1"), http("web-v2")];
    let fails = |objects: &[MeshObject], sides: &[&str]| split(objects, None, sides).unwrap_err().to_string();
    assert_eq!(fails(&[], &["v1=1"]), "there is no Service shop/web");
    assert!(fails(&objects, &["v1=0", "v2=0"]).starts_with("all weights are 0"));
    assert_eq!(fails(&objects, &["v1=1", "web-v1=2"]), "Service shop/web-v1 is named twice");
    let ports = json!([{ "port": 80 }]);
    let mut headless = service(WEB, ports.clone());
    Arc::make_mut(&mut headless.1)["spec"]["clusterIP"] = "None".into();
    assert!(fails(&[headless, http("web-v1")], &["v1=1"]).ends_with("it is headless"));
    // A backend that carries bytes.
    let bytes = service("web-v1", json!([{ "port": 80, "appProtocol": "tcp" }]));
    assert!(fails(&[http(WEB), bytes], &["v1=1"]).contains("does not speak HTTP"));
    assert!(fails(&objects, &["v1:81=1"]).contains("has no TCP port 81"));
}

#[test]
fn routes_of_others_are_left_alone_and_own_ones_are_found() {
    let services = [http(WEB), http("web-v1"), http("web-v2")];
    let with = |route: MeshObject| [&services[..], &[route]].concat();
    for (other, port) in [("HTTPRoute", None), ("HTTPRoute", Some(80)), ("TCPRoute", Some(80))] {
        let error = split(&with(route(other, "shop", "by-hand", port)), None, &["v1=1"]).unwrap_err();
        let expected = format!(
            "{other} shop/by-hand is there already for port 80 of Service shop/web, and not made by `tulle split`"
        );
        assert_eq!(error.to_string(), expected);
    }
    // For another port, or another Service; but of that name.
    let error = split(&with(route("HTTPRoute", "shop", "web-split", Some(81))), None, &["v1=1"]).unwrap_err();
    assert!(error.to_string().starts_with("HTTPRoute shop/web-split is there already"), "{error}");
    assert!(split(&with(route("HTTPRoute", "shop", "x", Some(81))), None, &["v1=1"]).is_ok());
    let plan = split(&with(route("HTTPRoute", "tests", "double", None)), None, &["v1=1"]).unwrap();
    let instead = "the workloads of namespace tests go by HTTPRoute tests/double instead";
    assert!(plan.warnings.iter().any(|warning| warning == instead), "{:?}", plan.warnings);
    let own = |mut route: MeshObject| {
        Arc::make_mut(&mut route.1)["metadata"]["labels"] = json!({ (MANAGED_BY.0): MANAGED_BY.1 });
        route
    };
    let renamed = with(own(route("HTTPRoute", "shop", "renamed", Some(80))));
    let plan = split(&renamed, None, &["v1=1"]).unwrap();
    assert_eq!((&*shown(&plan), plan.replaces.len()), ("HTTPRoute renamed 80 web-v1:80=1", 0));
    let name = ServiceName::new("shop", WEB);
    assert_eq!(own_routes(&renamed, &domain(), &name, Some("80")).unwrap()[0].1.to_string(), "shop/renamed");
    // The port spoke something else before.
    let other = with(own(route("TCPRoute", "shop", "web-split", Some(80))));
    let plan = split(&other, None, &["v1=1"]).unwrap();
    assert_eq!(plan.replaces, [(KindId::TcpRoute.kind(), beside(&name, "web-split"))]);
    assert!(
        own_routes(&with(route("HTTPRoute", "shop", "x", None)), &domain(), &name, None).unwrap().is_empty()
    );
}

#[test]
fn a_missing_service_is_made_of_its_parent() {
    let derived = |workloads: &[MeshObject]| {
        let Err(SplitError::Missing(missing)) =
            split(&[&[http(WEB), http("web-v2")], workloads].concat(), None, &["v1=1", "v2=1"])
        else {
            panic!()
        };
        let [Missing { name, service, selects }] = &*missing else { panic!("{missing:?}") };
        assert_eq!(name.to_string(), "shop/web-v1");
        assert_eq!(crate::validate::validate(KindId::Service.kind(), service), []);
        assert_eq!(
            service["spec"]["ports"],
            json!([{ "port": 80, "appProtocol": "http", "targetPort": 8080 }])
        );
        (service["spec"]["selector"].clone(), *selects)
    };
    assert_eq!(derived(&[]), (json!({ "app": "web", "version": "v1" }), false));
    let track = workload("a", json!({ "app": "web", "track": "v1" }));
    assert_eq!(derived(&[track]), (json!({ "app": "web", "track": "v1" }), true));
    let called = workload("web-v1", json!({ "app": "web-v1" }));
    assert_eq!(derived(&[called]), (json!({ "app": "web-v1" }), true));
    let others = workload("a", json!({ "app": "other", "version": "v1" }));
    assert_eq!(derived(&[others]), (json!({ "app": "web", "version": "v1" }), false));
}

fn selecting(name: &str, selector: Value, target: Value) -> MeshObject {
    object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": selector, "ports": [{ "port": 80, "appProtocol": "http", "targetPort": target }] },
    }))
}

fn running(name: &str, labels: Value, ports: Value) -> MeshObject {
    let (kind, mut workload) = workload(name, labels);
    Arc::make_mut(&mut workload)["spec"] = json!({ "address": "192.0.2.1", "ports": ports });
    (kind, workload)
}

#[test]
fn sides_that_select_the_same_are_refused() {
    let number = || json!(8080);
    let web = || selecting(WEB, json!({ "app": "web" }), number());
    let v2 = |target| selecting("web-v2", json!({ "app": "web", "version": "v2" }), target);
    let nested = "Service shop/web selects all that Service shop/web-v2 selects (app=web,version=v2), which would take \
                  of both shares";
    for sides in [&["web=90", "v2=10"], &["v2=10", "web=90"], &["web=1", "v2=0"]] {
        let error = split(&[web(), v2(number())], None, sides).unwrap_err();
        assert_eq!(error.to_string(), nested);
    }
    let same = selecting("web-v1", json!({ "app": "web" }), number());
    let error = split(&[same, web()], None, &["v1=1", "web=1"]).unwrap_err();
    assert!(error.to_string().contains("shop/web-v1 selects all that Service shop/web "), "{error}");
    // One process that has a port for each version.
    assert!(split(&[web(), v2(json!(8081))], None, &["web=90", "v2=10"]).is_ok());
    // The parent is no side: that is what it is for.
    let v1 = selecting("web-v1", json!({ "app": "web", "version": "v1" }), number());
    assert!(split(&[web(), v1, v2(number())], None, &["v1=90", "v2=10"]).is_ok());
    // A process may be of both, and one is.
    let canary = || selecting("web-v2", json!({ "track": "canary" }), json!("http"));
    assert!(split(&[web(), canary()], None, &["web=90", "v2=10"]).is_ok());
    let both = |ports| running("w-1", json!({ "app": "web", "track": "canary" }), ports);
    let objects = [web(), canary(), both(json!([{ "name": "http", "port": 8080 }]))];
    let error = split(&objects, None, &["web=90", "v2=10"]).unwrap_err();
    let of_both = "Service shop/web and Service shop/web-v2 both select Workload shop/w-1, which would take of both shares";
    assert_eq!(error.to_string(), of_both);
    let ports = json!([{ "name": "http", "port": 8081 }, { "port": 8080 }]);
    assert!(split(&[web(), canary(), both(ports)], None, &["web=90", "v2=10"]).is_ok());
}

#[test]
fn a_missing_service_is_apart_from_the_sides_that_are_there() {
    let derived = |services: &[MeshObject], sides: &[&str]| {
        let missing = match split(services, None, sides) {
            Err(SplitError::Missing(missing)) => missing,
            other => panic!("{other:?}"),
        };
        missing.iter().map(|of| (of.service["spec"]["selector"].clone(), of.selects)).collect::<Vec<_>>()
    };
    let sides = ["web=90", "v2=10"];
    assert_eq!(derived(&[http(WEB)], &sides), [(json!({ "app": "web-v2" }), false)]);
    let of_web = workload("a", json!({ "app": "web", "version": "v2" }));
    assert_eq!(derived(&[http(WEB), of_web], &sides), [(json!({ "app": "web-v2" }), false)]);
    let called = workload("a", json!({ "app": "web-v2" }));
    assert_eq!(derived(&[http(WEB), called], &sides), [(json!({ "app": "web-v2" }), true)]);
    // Another side selects all of the parent's.
    let whole = selecting("web-v1", json!({ "app": "web" }), json!(8080));
    assert_eq!(derived(&[http(WEB), whole], &["v1=1", "v2=1"]), [(json!({ "app": "web-v2" }), false)]);
    // Two that are missing, beside a parent that is a side.
    let expected = [(json!({ "app": "web-v1" }), false), (json!({ "app": "web-v2" }), false)];
    assert_eq!(derived(&[http(WEB)], &["web=1", "v1=1", "v2=1"]), expected);
    // Nothing is left to tell them apart by.
    let other = selecting("x", json!({ "app": "web-v2" }), json!(8080));
    let error = split(&[http(WEB), other], None, &["web=1", "v2=1", "x=1"]).unwrap_err();
    assert!(matches!(error, SplitError::Overlap(_)), "{error}");
}

#[test]
fn a_share_that_nobody_takes_is_warned_of() {
    let warned = |objects: &[MeshObject], sides: &[&str]| split(objects, None, sides).unwrap().warnings;
    let services = [http(WEB), http("web-v1"), http("web-v2")];
    let there = running("a", json!({ "app": "web-v1" }), json!([{ "port": 8080 }]));
    let objects = [&services[..], &[there]].concat();
    let of_v2 =
        "Service shop/web-v2 has no endpoint that is ready at port 80: its 10% of requests will fail (503)";
    assert_eq!(warned(&objects, &["v1=90", "v2=10"]), [of_v2]);
    assert!(warned(&objects, &["v1=1", "v2=0"]).is_empty());
    // One that has another port, or that is not ready.
    let elsewhere = running("b", json!({ "app": "web-v2" }), json!([{ "port": 9 }]));
    assert_eq!(warned(&[&objects[..], &[elsewhere]].concat(), &["v1=90", "v2=10"]), [of_v2]);
    let mut unready = running("b", json!({ "app": "web-v2" }), json!([{ "port": 8080 }]));
    Arc::make_mut(&mut unready.1)["status"] =
        json!({ "conditions": [{ "type": "Ready", "status": "False" }] });
    assert_eq!(warned(&[&objects[..], &[unready]].concat(), &["v1=90", "v2=10"]), [of_v2]);
    // Where an EndpointSlice says so.
    let slice = object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "s", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web-v2" } },
        "endpoints": [{ "addresses": ["192.0.2.2"] }], "ports": [{ "port": 8080 }],
    }));
    assert!(warned(&[&objects[..], &[slice]].concat(), &["v1=90", "v2=10"]).is_empty());
}
