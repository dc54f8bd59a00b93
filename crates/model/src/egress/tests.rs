use super::*;
use crate::snapshot::{
    AccessPolicies, ExternalPort, MeshSettings, OriginatedRoots, OriginatedTls, ServerName, TlsAsker,
    WorkloadConfig,
};

fn external(
    name: &str,
    hosts: &[&str],
    ranges: &[&str],
    ports: &[(u16, OutsideProtocol)],
) -> Arc<ExternalConfig> {
    let ports = ports.iter().map(|(number, protocol)| ExternalPort::new(*number, *protocol));
    Arc::new(ExternalConfig {
        name: name.parse().unwrap(),
        hosts: hosts.iter().map(|host| ServerName::new(host)).collect(),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ports: ports.collect(),
        policies: AccessPolicies::default(),
    })
}

fn web() -> WorkloadName {
    WorkloadName::new("shop", "web")
}

/// Where egress is so for the mesh, and so for a namespace, and this is listed for [`web`].
fn snapshot(
    policy: EgressPolicy,
    of_namespace: Option<EgressPolicy>,
    external: Vec<Arc<ExternalConfig>>,
) -> Snapshot {
    let mut mesh = MeshSettings { egress: policy, ..MeshSettings::default() };
    mesh.egress_namespaces.extend(of_namespace.map(|policy| ("shop".into(), policy)));
    let mut snapshot = Snapshot { mesh: Arc::new(mesh), ..Snapshot::default() };
    let config = WorkloadConfig { external: external.into(), ..WorkloadConfig::new(web()) };
    snapshot.workloads.insert(web(), Arc::new(config));
    snapshot
}

fn shown<T>(result: Result<T, HeldBack>, ok: impl Fn(T) -> String) -> String {
    match result {
        Ok(value) => ok(value),
        Err(held) => format!("{:?} {}", held.why, held.decision),
    }
}

fn by(listed: ListedBy<'_>) -> String {
    format!("{:?} {}", listed.protocol, listed.decision())
}

#[test]
fn the_policy_of_the_namespace_goes_before_the_meshs() {
    use EgressPolicy::{Allow, Deny, Listed};
    let none = "Policy Mesh/default spec.egress.policy refused";
    let none_there = "Policy Mesh/default spec.egress.namespaces refused";
    for (mesh, namespace, expected) in [
        (Allow, None, "freely spec.egress.policy"),
        (Deny, None, none),
        (Listed, None, "listed"),
        (Deny, Some(Allow), "freely spec.egress.namespaces"),
        (Allow, Some(Deny), none_there),
        (Allow, Some(Listed), "listed"),
        (Listed, Some(Allow), "freely spec.egress.namespaces"),
    ] {
        let snapshot = snapshot(mesh, namespace, Vec::new());
        let web = web();
        let said = shown(leave(&snapshot, &web, &"x"), |leave| match leave {
            Leave::Freely(field) => format!("freely {field}"),
            Leave::Listed(_) => "listed".to_owned(),
        });
        assert_eq!(said, expected, "{mesh:?} {namespace:?}");
    }
}

/// What becomes of what that asks for with these things listed.
fn listed(services: Vec<Arc<ExternalConfig>>, check: impl Fn(Listed<'_>)) {
    let snapshot = snapshot(EgressPolicy::Listed, None, services);
    let web = web();
    match leave(&snapshot, &web, &"x") {
        Ok(Leave::Listed(listed)) => check(listed),
        other => panic!("{other:?}"),
    }
}

fn some() -> Vec<Arc<ExternalConfig>> {
    use OutsideProtocol::{Bytes, Http, Tls};
    vec![
        external("shop/api", &["api.example.com"], &[], &[(443, Tls), (80, Http)]),
        external(
            "shop/db",
            &["db.example.com"],
            &["192.0.2.0/28", "2001:db8::/64"],
            &[(5432, Bytes), (443, Tls)],
        ),
        external(
            "tulle-system/all",
            &["*.example.org", "api.example.com"],
            &[],
            &[(443, Tls), (9000, Bytes)],
        ),
    ]
}

const NOT_LISTED: &str = "Policy Mesh/default spec.egress.policy refused";

#[test]
fn connections_go_by_what_was_resolved_or_by_address_and_port() {
    for (names, address, port, expected) in [
        (&["api.example.com"][..], "198.51.100.1", 443, "Tls ExternalService/shop/api spec.hosts[0] routed"),
        (&["api.example.com"], "198.51.100.1", 80, "Http ExternalService/shop/api spec.hosts[0] routed"),
        // Another one lists the port.
        (
            &["api.example.com"],
            "198.51.100.1",
            9000,
            "Bytes ExternalService/tulle-system/all spec.hosts[1] routed",
        ),
        (&["api.example.com"], "198.51.100.1", 81, "Policy ExternalService/shop/api spec.ports refused"),
        (
            &["a.b.example.org"],
            "198.51.100.1",
            443,
            "Tls ExternalService/tulle-system/all spec.hosts[0] routed",
        ),
        (&["example.org"], "198.51.100.1", 443, NOT_LISTED),
        (&["api.example.com.evil.test"], "198.51.100.1", 443, NOT_LISTED),
        (&[], "198.51.100.1", 443, NOT_LISTED),
        (&[], "192.0.2.15", 5432, "Bytes ExternalService/shop/db spec.addresses[0] routed"),
        (&[], "::ffff:192.0.2.15", 5432, "Bytes ExternalService/shop/db spec.addresses[0] routed"),
        (&[], "192.0.2.16", 5432, NOT_LISTED),
        (&[], "2001:db8::9", 5432, "Bytes ExternalService/shop/db spec.addresses[1] routed"),
        (&[], "2001:db8:0:1::9", 5432, NOT_LISTED),
        (&[], "192.0.2.1", 81, "Policy ExternalService/shop/db spec.ports refused"),
        // What looks goes before what does not.
        (
            &["db.example.com", "x.example.org"],
            "198.51.100.1",
            443,
            "Tls ExternalService/shop/db spec.hosts[0] routed",
        ),
    ] {
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        let place = PlaceSeen { names: &names, address: Some(address.parse().unwrap()), port };
        listed(some(), |listed| {
            assert_eq!(shown(listed.connection(place), by), expected, "{names:?} {address} {port}");
        });
    }
}

#[test]
fn what_a_client_names_is_held_against_what_was_resolved() {
    let other = "OtherName ExternalService/shop/api spec.hosts refused";
    let api = "Tls ExternalService/shop/api spec.hosts[0] routed";
    for (names, address, named, expected) in [
        (&["api.example.com"][..], "198.51.100.1", Some("api.example.com"), api),
        (&["api.example.com"], "198.51.100.1", Some("API.Example.COM."), api),
        // Listed, and not what the address was resolved for.
        (&["api.example.com"], "198.51.100.1", Some("x.example.org"), other),
        (&["api.example.com"], "198.51.100.1", Some("evil.test"), other),
        (&["api.example.com"], "198.51.100.1", Some("api.example.com.evil.test"), other),
        (&["api.example.com"], "198.51.100.1", Some(""), other),
        (&["api.example.com"], "198.51.100.1", None, other),
        // An address of two names: either is meant.
        (
            &["api.example.com", "x.example.org"],
            "198.51.100.1",
            Some("x.example.org"),
            "Tls ExternalService/tulle-system/all spec.hosts[0] routed",
        ),
        // Resolved while it was listed, and no longer.
        (&["gone.test"], "198.51.100.1", Some("gone.test"), NOT_LISTED),
        (&["gone.test", "api.example.com"], "198.51.100.1", Some("gone.test"), NOT_LISTED),
        // By its address, whatever it is called.
        (&[], "192.0.2.1", Some("evil.test"), "Tls ExternalService/shop/db spec.addresses[0] routed"),
        (
            &["api.example.com"],
            "192.0.2.1",
            Some("evil.test"),
            "Tls ExternalService/shop/db spec.addresses[0] routed",
        ),
        (&[], "192.0.2.1", None, "Tls ExternalService/shop/db spec.addresses[0] routed"),
    ] {
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        let place = PlaceSeen { names: &names, address: Some(address.parse().unwrap()), port: 443 };
        listed(some(), |listed| {
            let said = shown(listed.named(place, named.map(|named| (named, None))).map(|all| all[0]), by);
            assert_eq!(said, expected, "{names:?} {address} {named:?}");
        });
    }
    let names = ["api.example.com".into()];
    let place = PlaceSeen { names: &names, address: None, port: 80 };
    listed(some(), |listed| {
        for (port, expected) in [
            (Some(80), "Http ExternalService/shop/api spec.hosts[0] routed"),
            (None, "Http ExternalService/shop/api spec.hosts[0] routed"),
            (Some(443), other),
        ] {
            assert_eq!(
                shown(listed.named(place, Some(("api.example.com", port))).map(|all| all[0]), by),
                expected,
                "{port:?}"
            );
        }
    });
}

#[test]
fn bytes_are_for_all_that_they_may_be_for() {
    let names = ["api.example.com".into(), "z.example.org".into(), "nobody.test".into()];
    let place = PlaceSeen { names: &names, address: Some("192.0.2.1".parse().unwrap()), port: 443 };
    listed(some(), |listed| {
        let all: Vec<_> = listed.all(place).iter().map(|by| by.service.name.to_string()).collect();
        assert_eq!(all, ["shop/api", "tulle-system/all", "shop/db"]);
    });
}

#[test]
fn names_resolve_that_something_lists() {
    listed(some(), |listed| {
        for (name, expected) in [
            ("api.example.com", true),
            ("API.example.com.", true),
            ("a.example.org", true),
            ("a.b.example.org.", true),
            ("example.org", false),
            ("xexample.org", false),
            ("com", false),
            ("", false),
            (".example.org", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(listed.lists_name(name), expected, "{name}");
        }
    });
}

#[test]
fn nothing_is_listed_before_the_server_has_said_so() {
    let mut snapshot = snapshot(EgressPolicy::Listed, None, some());
    snapshot.workloads.clear();
    let web = web();
    let Ok(Leave::Listed(listed)) = leave(&snapshot, &web, &"x") else { panic!() };
    assert!(!listed.is_known() && !listed.lists_name("api.example.com"));
    let names = ["api.example.com".into()];
    let held = listed.connection(PlaceSeen { names: &names, address: None, port: 443 }).unwrap_err();
    assert_eq!(held.message, "the server has not said yet what is listed for namespace shop");
}

#[test]
fn nothing_leaves_before_the_server_has_said_what_may() {
    use EgressPolicy::{Allow, Deny, Listed};
    for (policy, mesh_untold, knows_workload, leaves, told) in [
        (Allow, true, true, false, false),
        (Allow, false, false, true, true),
        (Deny, false, false, false, true),
        (Listed, true, true, false, false),
        (Listed, false, false, true, false),
        (Listed, false, true, true, true),
    ] {
        let mut snapshot = Snapshot { mesh_untold, ..snapshot(policy, None, some()) };
        if !knows_workload {
            snapshot.workloads.clear();
        }
        let web = web();
        let case = format!("{policy:?} {mesh_untold} {knows_workload}");
        assert_eq!(leave(&snapshot, &web, &"x").is_ok(), leaves, "{case}");
        assert_eq!(is_told(&snapshot, &web, false), told, "{case}");
        // A Flow's calls go by what is listed, also where others go freely.
        let flow_told = !mesh_untold && (knows_workload || policy == Deny);
        assert_eq!(is_told(&snapshot, &web, true), flow_told, "{case}");
    }
    let snapshot = Snapshot { mesh_untold: true, ..Snapshot::default() };
    let web = web();
    let held = leave(&snapshot, &web, &"x").unwrap_err();
    assert_eq!(
        held.message,
        "x is no service of the mesh, and the server has not said yet what may leave that"
    );
}

/// TLS by that policy, which has nobody to trust where it is not `good`.
fn tls(policy: &str, good: bool) -> Option<Arc<OriginatedTls>> {
    let nobody = OriginatedRoots::Nobody { field: "spec.f".into(), why: "it is not there".into() };
    Some(Arc::new(OriginatedTls {
        by: TlsAsker::Policy(policy.parse().unwrap()),
        hostname: "api.example.com".into(),
        names: Vec::new(),
        roots: if good { OriginatedRoots::System } else { nobody },
    }))
}

/// With that TLS, and that port behind it, at its first port.
fn in_tls(
    external: &Arc<ExternalConfig>,
    tls: Option<Arc<OriginatedTls>>,
    target_port: Option<u16>,
) -> Arc<ExternalConfig> {
    let mut external = ExternalConfig::clone(external);
    external.ports[0] = ExternalPort { tls, target_port, ..external.ports[0].clone() };
    Arc::new(external)
}

#[test]
fn where_all_may_leave_only_what_goes_in_tls_is_looked_at() {
    use OutsideProtocol::{Bytes, Http};
    let api = external("shop/api", &["api.example.com"], &["192.0.2.0/24"], &[(80, Http), (81, Http)]);
    let plain = external("shop/plain", &["plain.example.com"], &[], &[(80, Bytes)]);
    let mut snapshot =
        snapshot(EgressPolicy::Allow, None, vec![plain, in_tls(&api, tls("shop/p", true), Some(443))]);
    let web = web();
    assert!(originated::originated(&snapshot, &web).is_none(), "nothing is for anybody");
    let originates = |snapshot: &mut Snapshot, egress| {
        let mesh = MeshSettings { egress, originates_tls: true, ..MeshSettings::default() };
        snapshot.mesh = Arc::new(mesh);
    };
    originates(&mut snapshot, EgressPolicy::Allow);
    let listed = originated::originated(&snapshot, &web).unwrap();
    let place = |name: &str, port| -> (Vec<Arc<str>>, u16) {
        (Some(name).filter(|name| !name.is_empty()).map(Arc::from).into_iter().collect(), port)
    };
    for (name, port, expected) in [
        ("api.example.com", 80, true),
        ("", 80, true),
        ("api.example.com", 81, false),
        ("plain.example.com", 80, false),
    ] {
        let (names, port) = place(name, port);
        let address = "192.0.2.1".parse().ok().filter(|_| name.is_empty());
        let found = listed.connection(PlaceSeen { names: &names, address, port });
        assert_eq!(found.is_ok(), expected, "{name} {port}");
        if let Ok(by) = found {
            let onward = originated::onward(&[by]);
            assert_eq!((onward.port, onward.tls.is_some()), (Some(443), true));
        }
    }
    assert!(listed.lists_name("API.example.com.") && !listed.lists_name("plain.example.com"));
    // Whom it has is not meant to go in plain; all others are.
    assert!(listed.lets_pass(None) && listed.lets_pass(Some("other.test")));
    assert!(!listed.lets_pass(Some("API.example.com")));
    // Of whom nothing is known yet, nothing leaves.
    let new = WorkloadName::new("shop", "new");
    let held = leave(&snapshot, &new, &"x").unwrap();
    assert!(matches!(held, Leave::Listed(listed) if !listed.is_known()));
    assert!(matches!(leave(&snapshot, &web, &"x"), Ok(Leave::Freely(_))));
    originates(&mut snapshot, EgressPolicy::Listed);
    let Ok(Leave::Listed(listed)) = leave(&snapshot, &web, &"x") else { panic!("it is listed") };
    assert!(!listed.lets_pass(Some("other.test")) && listed.lists_name("plain.example.com"));
}

#[test]
fn of_several_that_list_it_one_that_originates_says_how() {
    use OutsideProtocol::Http;
    let at = |name| external(name, &["api.example.com"], &[], &[(80, Http)]);
    let all = vec![
        in_tls(&at("shop/a"), None, Some(8080)),
        in_tls(&at("shop/b"), tls("shop/p", false), None),
        in_tls(&at("shop/c"), tls("shop/q", true), Some(443)),
    ];
    let snapshot = snapshot(EgressPolicy::Listed, None, all);
    let web = web();
    let Ok(Leave::Listed(listed)) = leave(&snapshot, &web, &"x") else { panic!("it is listed") };
    let names = [Arc::from("api.example.com")];
    let found = listed.all(PlaceSeen { names: &names, address: None, port: 80 });
    let onward = originated::onward(&found);
    let tls = onward.tls.unwrap();
    assert_eq!((onward.port, tls.by.decider().to_string()), (None, "BackendTLSPolicy/shop/p".to_owned()));
    // Though another one could: it is the first that says so.
    assert_eq!(tls.decision().to_string(), "BackendTLSPolicy/shop/p spec.f refused");
    assert_eq!(
        tls.refusal().unwrap(),
        "no TLS can be originated: BackendTLSPolicy shop/p, spec.f: it is not there"
    );
    let good = originated::onward(&found[2..]).tls.unwrap();
    assert_eq!(good.decision().to_string(), "BackendTLSPolicy/shop/q spec.targetRefs originated");
    assert_eq!(good.refusal(), None);
    let plain = originated::onward(&found[..1]);
    assert_eq!((plain.port, plain.tls), (Some(8080), None));
    assert_eq!(originated::onward(&[]), originated::Onward::default());
}

#[test]
fn calls_of_flows_reach_what_is_listed_alone() {
    use EgressPolicy::{Allow, Deny, Listed};
    let names = ["api.example.com".into()];
    let place = |port| PlaceSeen { names: &names, address: None, port };
    for policy in [Allow, Listed, Deny] {
        let snapshot = snapshot(policy, None, some());
        let web = web();
        let listed = match leave_of_flow(&snapshot, &web, "order", &"x") {
            Ok(Leave::Listed(listed)) => listed,
            Ok(Leave::Freely(_)) => panic!("{policy:?}: it may go anywhere"),
            Err(held) => {
                assert_eq!((policy, held.decision.by), (Deny, Decider::Mesh));
                continue;
            }
        };
        assert!(listed.connection(place(443)).is_ok(), "{policy:?}");
        let other = ["other.test".into()];
        let held = listed.connection(PlaceSeen { names: &other, address: None, port: 443 }).unwrap_err();
        assert_eq!(held.decision.to_string(), "Flow/shop/order spec.workflow refused");
        assert!(
            held.message.ends_with("a Flow reaches nothing else outside of the mesh"),
            "{}",
            held.message
        );
    }
}
