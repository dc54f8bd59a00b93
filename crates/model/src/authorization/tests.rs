//! What policies decide, and that the index leaves nothing out.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::identity::TrustDomain;
use crate::snapshot::external::{EXTERNAL_TIMEOUT, ExternalAuth, ExternalProtocol};
use crate::snapshot::{
    Claims, IdentityPattern, JwtIssuer, JwtKeys, PathMatch, Pattern, ServerName, Strictness, TextMatch,
    TokenPlace, ValueMatch,
};

fn identity(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), namespace, account).unwrap()
}

fn pattern(text: &str) -> Source {
    Source::Identity(IdentityPattern::new(text).unwrap())
}

/// What a rule says of sources, and of ports.
type Says = (Option<Vec<Source>>, Option<Vec<u16>>);

fn policy(name: &str, action: Action, rules: Vec<Says>) -> AccessPolicy {
    let rules = rules.into_iter().enumerate();
    let rules = rules
        .map(|(index, (sources, ports))| AccessRule { index, sources, ports, request: None, when: None })
        .collect();
    AccessPolicy { name: name.parse().unwrap(), action, at: None, issuers: Vec::new(), rules, external: None }
}

#[test]
fn a_deny_wins_and_who_is_allowed_somewhere_needs_to_be() {
    let web = Some(vec![pattern("spiffe://mesh.test/ns/shop/sa/web")]);
    let anybody_at_80 = (None, Some(vec![80]));
    let allow = |name, rules| policy(name, Action::Allow, rules);
    let outcome = |policies: &[AccessPolicy], namespace: &str, account: &str, port| {
        let caller = identity(namespace, account);
        match by_policies(
            &policies.to_vec().into(),
            Ambiguities::default(),
            Visitor::Mesh(&caller),
            port,
            &Traffic::Bytes,
        ) {
            Ok(None) => "open".to_owned(),
            Ok(Some(matched)) => matched.decision(Effect::Routed).to_string(),
            Err(denial) => format!("{} {}", denial.reason(), denial.decision()),
        }
    };
    assert_eq!(outcome(&[], "shop", "web", 80), "open");
    let audit = [policy("shop/a", Action::Audit, vec![(None, None)])];
    assert_eq!(outcome(&audit, "shop", "web", 80), "open");

    let nobody = [allow("shop/none", vec![])];
    let refused = "no-allow-policy AuthorizationPolicy/shop/none spec.rules[*] refused";
    assert_eq!(outcome(&nobody, "shop", "web", 80), refused);
    assert_eq!(outcome(&[allow("shop/none", vec![(Some(vec![]), None)])], "shop", "web", 80), refused);

    // Allows of several policies are united.
    let some =
        [allow("shop/none", vec![]), allow("shop/web", vec![(None, Some(vec![1])), (web.clone(), None)])];
    assert_eq!(outcome(&some, "shop", "web", 80), "AuthorizationPolicy/shop/web spec.rules[1] routed");
    assert_eq!(outcome(&some, "shop", "api", 1), "AuthorizationPolicy/shop/web spec.rules[0] routed");
    assert!(outcome(&some, "shop", "api", 80).starts_with("no-allow-policy"));
    assert!(outcome(&some, "other", "web", 80).starts_with("no-allow-policy"));

    // Both of a rule must hold.
    let both = [allow("shop/both", vec![(web.clone(), Some(vec![80, 81]))])];
    assert!(outcome(&both, "shop", "web", 81).ends_with("routed"));
    assert!(outcome(&both, "shop", "web", 82).starts_with("no-allow-policy"));
    assert!(outcome(&both, "shop", "api", 80).starts_with("no-allow-policy"));

    // A policy of a Service is about its ports alone.
    let of_service = [AccessPolicy {
        at: Some(vec![80]),
        issuers: Vec::new(),
        ..allow("shop/web", vec![(web.clone(), None)])
    }];
    assert!(outcome(&of_service, "shop", "api", 80).starts_with("no-allow-policy"));
    assert_eq!(outcome(&of_service, "shop", "api", 81), "open");

    let denied = [
        allow("shop/all", vec![(None, None)]),
        policy("shop/no", Action::Deny, vec![(web, None), anybody_at_80]),
    ];
    let by = |rule| format!("denied-by=shop/no AuthorizationPolicy/shop/no spec.rules[{rule}] refused");
    assert_eq!(outcome(&denied, "shop", "web", 81), by(0));
    assert_eq!(outcome(&denied, "shop", "api", 80), by(1));
    assert!(outcome(&denied, "shop", "api", 81).ends_with("routed"));
}

#[test]
fn addresses_count_outside_of_the_mesh_alone() {
    let outside = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        [policy("shop/o", Action::Allow, vec![(Some(vec![Source::Outside(ranges)]), None)])]
    };
    let enters = |policies: &[AccessPolicy], from: &str| {
        by_policies(
            &policies.to_vec().into(),
            Ambiguities::default(),
            Visitor::Outside(from.parse().unwrap()),
            80,
            &Traffic::Bytes,
        )
        .is_ok()
    };
    let office = outside(&["192.0.2.0/24", "2001:db8::/32"]);
    for (from, expected) in [
        ("192.0.2.7", true),
        ("::ffff:192.0.2.7", true),
        ("192.0.3.7", false),
        ("2001:db8::1", true),
        ("2001:db9::1", false),
    ] {
        assert_eq!(enters(&office, from), expected, "{from}");
    }
    assert!(enters(&outside(&[]), "203.0.113.9"));
    let mesh = identity("shop", "web");
    assert!(
        by_policies(
            &outside(&[]).to_vec().into(),
            Ambiguities::default(),
            Visitor::Mesh(&mesh),
            80,
            &Traffic::Bytes
        )
        .is_err()
    );
    let anybody_of_the_mesh =
        [policy("shop/m", Action::Allow, vec![(Some(vec![pattern("spiffe://*/**")]), None)])];
    assert!(
        by_policies(
            &anybody_of_the_mesh.to_vec().into(),
            Ambiguities::default(),
            Visitor::Mesh(&mesh),
            80,
            &Traffic::Bytes
        )
        .is_ok()
    );
    assert!(!enters(&anybody_of_the_mesh, "192.0.2.7"));
}

#[test]
fn each_policy_that_audits_is_named_once() {
    let audit = |name| policy(name, Action::Audit, vec![(Some(vec![]), None), (None, None), (None, None)]);
    let policies: AccessPolicies =
        vec![audit("shop/a"), policy("shop/d", Action::Deny, vec![(None, None)]), audit("shop/b")].into();
    let web = identity("shop", "web");
    let named: Vec<_> = audits(&policies, Visitor::Mesh(&web), 80, Traffic::Bytes)
        .into_iter()
        .map(|m| (m.policy.name.to_string(), m.rule))
        .collect();
    assert_eq!(named, [("shop/a".to_owned(), 1), ("shop/b".to_owned(), 1)]);
}

/// A rule of a policy that goes by requests.
fn of_requests(action: Action, request: RequestConditions) -> AccessPolicies {
    let rule =
        AccessRule { index: 0, sources: None, ports: None, request: Some(Box::new(request)), when: None };
    let name = "shop/p".parse().unwrap();
    vec![AccessPolicy { name, action, at: None, issuers: Vec::new(), rules: vec![rule], external: None }]
        .into()
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

#[test]
fn a_rule_that_allows_takes_words_as_written_and_one_that_denies_in_all_their_forms() {
    let exact =
        |path: &str| RequestConditions { paths: vec![PathMatch::Exact(path.into())], ..Default::default() };
    let below =
        |path: &str| RequestConditions { paths: vec![PathMatch::Prefix(path.into())], ..Default::default() };
    let method = |method: &str| RequestConditions { methods: vec![method.into()], ..Default::default() };
    let host = |host: &str| RequestConditions { hosts: vec![ServerName::new(host)], ..Default::default() };
    let header = |value: &str| {
        let wanted = ValueMatch { name: "x-role".into(), value: TextMatch::Exact(value.into()) };
        RequestConditions { headers: vec![wanted], ..Default::default() }
    };
    let none = HeaderMap::new();
    let admin = headers(&[("x-role", "admin")]);
    let two_lines = headers(&[("x-role", "user"), ("x-role", "admin")]);
    let a_list = headers(&[("x-role", "user, admin")]);
    // Method, path, authority, headers; whether a rule that allows is about it, and one that denies.
    for (conditions, method, path, authority, headers, allows, denies) in [
        (method("GET"), "GET", "/", "c", &none, true, true),
        (method("GET"), "get", "/", "c", &none, false, true),
        (method("GET"), "HEAD", "/", "c", &none, false, false),
        (exact("/a"), "GET", "/a", "c", &none, true, true),
        (exact("/a"), "GET", "/%61", "c", &none, true, true),
        (exact("/a"), "GET", "/a/", "c", &none, false, true),
        (exact("/a/"), "GET", "/a", "c", &none, false, true),
        (exact("/a"), "GET", "/a/b", "c", &none, false, false),
        (exact("/a"), "GET", "/A", "c", &none, false, false),
        (exact("/"), "OPTIONS", "", "c", &none, true, true),
        (below("/a"), "GET", "/a/b", "c", &none, true, true),
        (below("/a"), "GET", "/ab", "c", &none, false, false),
        (below(""), "GET", "/ab", "c", &none, true, true),
        (host("c.shop"), "GET", "/", "c.shop", &none, true, true),
        (host("c.shop"), "GET", "/", "C.Shop.:8080", &none, true, true),
        (host("c.shop"), "GET", "/", "a.c.shop", &none, false, false),
        (host("*.shop"), "GET", "/", "a.c.shop:1", &none, true, true),
        (host("*.shop"), "GET", "/", "shop", &none, false, false),
        (host("*.shop"), "GET", "/", ".shop", &none, false, false),
        (header("admin"), "GET", "/", "c", &admin, true, true),
        (header("admin"), "GET", "/", "c", &two_lines, false, true),
        (header("admin"), "GET", "/", "c", &a_list, false, true),
        (header("admin"), "GET", "/", "c", &none, false, false),
    ] {
        let seen = Traffic::Request(RequestSeen { method, path, authority, headers, tokens: &[] });
        let visitor = Visitor::Outside([192, 0, 2, 1].into());
        let is_in = |action| {
            by_policies(&of_requests(action, conditions.clone()), Ambiguities::default(), visitor, 80, &seen)
                .is_ok()
        };
        let found = (is_in(Action::Allow), !is_in(Action::Deny));
        assert_eq!(found, (allows, denies), "{method} {authority}{path} {headers:?} {conditions:?}");
    }
}

#[test]
fn where_requests_are_looked_at_nothing_else_enters() {
    let none = HeaderMap::new();
    let request = |path| {
        Traffic::Request(RequestSeen { method: "GET", path, authority: "c", headers: &none, tokens: &[] })
    };
    // Nobody would see what is in it.
    let tunnel = Traffic::Request(RequestSeen {
        method: "CONNECT",
        path: "",
        authority: "c:80",
        headers: &none,
        tokens: &[],
    });
    let paths = RequestConditions { paths: vec![PathMatch::Exact("/a".into())], ..Default::default() };
    let methods = RequestConditions { methods: vec!["GET".into()], ..Default::default() };
    let allow = of_requests(Action::Allow, paths.clone());
    let deny = of_requests(Action::Deny, paths.clone());
    let audit = of_requests(Action::Audit, paths);
    let visitor = Visitor::Outside([192, 0, 2, 1].into());
    let reason = |policies: &AccessPolicies, seen| {
        by_policies(policies, Ambiguities::default(), visitor, 80, &seen).err().map(|denial| denial.reason())
    };
    let (by, none, bad) = (
        || Some("denied-by=shop/p".to_owned()),
        || Some("no-allow-policy".to_owned()),
        || Some("bad-request".to_owned()),
    );
    for (policies, seen, expected) in [
        (&allow, Traffic::Bytes, by()),
        (&allow, Traffic::Requests, None),
        (&allow, Traffic::Forgotten, none()),
        (&allow, request("/a"), None),
        (&allow, request("/b"), none()),
        (&allow, request("/b/%2e%2e/a"), bad()),
        (&allow, tunnel, by()),
        (&deny, tunnel, by()),
        (&deny, Traffic::Bytes, by()),
        (&deny, Traffic::Requests, None),
        (&deny, Traffic::Forgotten, by()),
        (&deny, request("/b"), None),
        (&deny, request("/b//a"), bad()),
        (&audit, Traffic::Bytes, None),
        (&audit, Traffic::Forgotten, None),
        (&audit, request("/b//a"), None),
        // Who asks for no path takes them as they are.
        (&of_requests(Action::Allow, methods), request("/b//a"), None),
    ] {
        assert_eq!(reason(policies, seen), expected, "{policies:?} {seen:?}");
    }
}

/// A condition that is not so, or of which nobody can say, keeps out.
#[test]
fn conditions_are_asked_of_whatever_they_can_be_asked_of() {
    let issuer = JwtIssuer {
        issuer: "https://a".into(),
        audiences: Vec::new(),
        keys: JwtKeys { source: None, set: None },
        place: TokenPlace::bearer(),
        claim_headers: Vec::new(),
        max_stream_age: None,
    };
    let policies = |action, when: &str| {
        let when = Some(CelCondition::new(when).unwrap());
        let rule = AccessRule { index: 0, sources: None, ports: None, request: None, when };
        let issuers = vec![Arc::new(issuer.clone())];
        let issuers = if rule.asks_for_token() { issuers } else { Vec::new() };
        AccessPolicies::from(vec![AccessPolicy {
            name: "shop/p".parse().unwrap(),
            action,
            at: None,
            issuers,
            rules: vec![rule],
            external: None,
        }])
    };
    let web = identity("shop", "web");
    let (none, admin) = (HeaderMap::new(), headers(&[("x-role", "admin")]));
    let claims = |groups: &str| {
        let claims = serde_json::json!({ "groups": [groups] });
        vec![Token::Valid(Arc::new(Claims(claims.as_object().unwrap().clone())))]
    };
    let (staff, guests) = (claims("staff"), claims("guests"));
    let request = |path, headers, tokens| {
        Traffic::Request(RequestSeen { method: "GET", path, authority: "C.shop:80", headers, tokens })
    };
    let (get, of_admin) = (request("/a", &none, &[]), request("/%61", &admin, &[]));
    let (of_staff, of_guests) = (request("/a", &none, &staff), request("/a", &none, &guests));
    let (in_, by, nobody) = ("in", "denied-by=shop/p", "no-allow-policy");
    // What becomes of it where that allows, and where it denies.
    for (when, seen, allow, deny) in [
        ("source.namespace == 'shop'", Traffic::Bytes, in_, by),
        ("source.namespace == 'bank'", Traffic::Bytes, nobody, in_),
        ("destination.port == 81", Traffic::Requests, nobody, in_),
        ("source.serviceAccount == 'web'", Traffic::Forgotten, in_, by),
        ("1 / 0 == 1", Traffic::Bytes, nobody, by),
        ("request.path == '/a' && request.host == 'c.shop'", of_admin, in_, by),
        ("request.path == '/a'", Traffic::Bytes, by, by),
        ("request.path == '/a'", Traffic::Requests, in_, in_),
        ("request.path == '/a'", Traffic::Forgotten, nobody, by),
        ("request.path == '/a'", request("/a//b", &none, &[]), "bad-request", "bad-request"),
        ("request.method == 'GET'", request("/a//b", &none, &[]), in_, by),
        ("request.headers['x-role'] == 'admin'", of_admin, in_, by),
        // The header is not there.
        ("request.headers['x-role'] == 'admin'", get, nobody, by),
        ("'staff' in jwt.claims.groups", of_staff, in_, by),
        ("'staff' in jwt.claims.groups", of_guests, nobody, in_),
        ("'staff' in jwt.claims.groups", get, "token-required", by),
        ("'staff' in jwt.claims.groups && request.method == 'PUT'", get, "token-required", in_),
    ] {
        for (action, expected) in [(Action::Allow, allow), (Action::Deny, deny)] {
            let policies = policies(action, when);
            let found = by_policies(&policies, Ambiguities::default(), Visitor::Mesh(&web), 80, &seen);
            let found = found.map_or_else(Denial::reason, |_| in_.to_owned());
            assert_eq!(found, expected, "{action:?} {when} {seen:?}");
        }
        // Who is to be asked where it holds, is where nobody can say that it does not.
        let asking = WorkloadConfig {
            policies: policies(Action::Ask, when),
            ..WorkloadConfig::new("shop/c-0".parse().unwrap())
        };
        if matches!(seen, Traffic::Request(_) | Traffic::Forgotten) {
            match to_ask(&asking, Visitor::Mesh(&web), 80, seen) {
                Ok(all) => assert_eq!(all.len(), usize::from(deny == by), "{when} {seen:?}"),
                // Whoever is asked goes by the path, too.
                Err(denial) => assert_eq!(denial.reason(), "bad-request", "{when} {seen:?}"),
            }
        }
    }
}

/// What paths may have, they are compared with.
#[test]
fn a_mesh_may_let_paths_pass_that_servers_read_differently() {
    let below = RequestConditions { paths: vec![PathMatch::Prefix("/a".into())], ..Default::default() };
    let policies = of_requests(Action::Allow, below);
    let config = WorkloadConfig {
        policies,
        allowed_paths: Ambiguities::named(["EncodedSlash", "EncodedNul"]),
        ..WorkloadConfig::new("shop/c-0".parse().unwrap())
    };
    let none = HeaderMap::new();
    for (path, expected) in [
        ("/a/b%2Fc", "in"),
        ("/b%2Fa", "no-allow-policy"),
        ("/a/b;c", "bad-request"),
        ("/a/%2e", "bad-request"),
        ("/a/%00", "bad-request"),
    ] {
        let seen = Traffic::Request(RequestSeen {
            method: "GET",
            path,
            authority: "c",
            headers: &none,
            tokens: &[],
        });
        let found = decide(&config, Visitor::Outside([192, 0, 2, 1].into()), 80, seen);
        assert_eq!(found.map_or_else(Denial::reason, |_| "in".to_owned()), expected, "{path}");
    }
}

#[test]
fn somebody_is_asked_about_requests_that_nothing_denies() {
    let asking = |name: &str, spared: &[u16], request: Option<RequestConditions>, ports| AccessPolicy {
        rules: vec![AccessRule {
            index: 0,
            sources: None,
            ports,
            request: request.map(Box::new),
            when: None,
        }],
        external: Some(Arc::new(ExternalAuth {
            service: "shop/authz".parse().unwrap(),
            port: 80,
            protocol: ExternalProtocol::Grpc { headers: Vec::new() },
            max_body: 0,
            timeout: EXTERNAL_TIMEOUT,
            fail_open: false,
            spared: spared.to_vec(),
        })),
        ..policy(name, Action::Ask, vec![])
    };
    let get = || Some(RequestConditions { methods: vec!["GET".into()], ..Default::default() });
    let below =
        || Some(RequestConditions { paths: vec![PathMatch::Exact("/a".into())], ..Default::default() });
    let config = |policies: Vec<AccessPolicy>| WorkloadConfig {
        policies: policies.into(),
        ..WorkloadConfig::new(WorkloadName::new("shop", "c"))
    };
    let none = HeaderMap::new();
    let request = |method, path| {
        Traffic::Request(RequestSeen { method, path, authority: "c", headers: &none, tokens: &[] })
    };
    let web = identity("shop", "web");
    let asked = |config: &WorkloadConfig, port, seen| {
        to_ask(config, Visitor::Mesh(&web), port, seen)
            .map(|all| all.iter().map(|one| one.policy.name.name.to_string()).collect::<Vec<_>>().join(" "))
            .map_err(|denial| denial.reason())
    };
    let all = config(vec![
        asking("shop/a", &[], get(), None),
        asking("shop/b", &[81], None, Some(vec![80, 81])),
        asking("shop/c", &[], below(), None),
    ]);
    for (port, seen, expected) in [
        (80, request("GET", "/"), Ok("a b")),
        // In whatever letters, and with a slash more.
        (80, request("get", "/a/"), Ok("a b c")),
        (80, request("PUT", "/"), Ok("b")),
        (81, request("PUT", "/"), Ok("")),
        (81, request("GET", "/"), Ok("a")),
        (82, request("GET", "/%2e"), Err("bad-request")),
        (80, Traffic::Forgotten, Ok("a b c")),
        // Nobody is asked about what is no request, which does not enter.
        (80, Traffic::Bytes, Ok("")),
        (80, Traffic::Requests, Ok("")),
        (80, request("CONNECT", ""), Err("denied-by=shop/a")),
    ] {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(asked(&all, port, seen), expected, "{port} {seen:?}");
    }
    let visitor = Visitor::Mesh(&web);
    // It counts neither as one that allows nor as one that denies.
    assert!(matches!(decide(&all, visitor, 80, request("GET", "/")), Ok(None)));
    assert!(matches!(decide(&all, visitor, 80, Traffic::Requests), Ok(None)));
    let refused = decide(&all, visitor, 80, Traffic::Bytes).unwrap_err();
    assert_eq!(refused.reason(), "denied-by=shop/a");
    let ask = || asking("shop/a", &[], None, None);
    let deny = policy("shop/no", Action::Deny, vec![(None, Some(vec![80]))]);
    let denying = config(vec![ask(), deny]);
    assert_eq!(asked(&denying, 80, request("GET", "/")), Err("denied-by=shop/no".to_owned()));
    assert_eq!(asked(&denying, 81, request("GET", "/")), Ok("a".to_owned()));
    // Before what allows: also of whom nothing does.
    let allowing = config(vec![ask(), policy("shop/none", Action::Allow, vec![])]);
    assert_eq!(asked(&allowing, 80, request("GET", "/")), Ok("a".to_owned()));
    assert!(decide(&allowing, visitor, 80, request("GET", "/")).is_err());
    let strict = Strictness { everywhere: true, except: vec![81] };
    let strict = WorkloadConfig { strict, ..config(vec![ask()]) };
    let outside = Visitor::Outside([192, 0, 2, 1].into());
    let plain = |port| to_ask(&strict, outside, port, request("GET", "/")).map(|all| all.len());
    assert_eq!(
        (plain(80).map_err(|denial| denial.reason()), plain(81)),
        (Err("plaintext".to_owned()), Ok(1))
    );
    assert_eq!(asked(&config(vec![]), 80, request("GET", "/%2e")), Ok(String::new()));

    let found = to_ask(&all, visitor, 80, request("PUT", "/")).unwrap()[0];
    let decision = found.decision(Effect::Asked).to_string();
    assert_eq!(decision, "AuthorizationPolicy/shop/b spec.externalAuth asked");
    let question = found.question().unwrap();
    assert_eq!(question, "AuthorizationPolicy shop/b asks Service shop/authz port 80 about it");
}

fn any_path((kind, number): (u8, u8)) -> PathMatch {
    match kind {
        0 => PathMatch::Prefix(format!("/p{number}")),
        1 => PathMatch::Exact(format!("/p{number}/x")),
        _ => PathMatch::Regex(Pattern::new(&format!("/p{number}/[^/]+")).unwrap()),
    }
}

/// Which of them there are is drawn, so that many rules are about the same callers.
fn any_policies() -> impl Strategy<Value = Vec<AccessPolicy>> {
    let identity = prop_oneof![
        (0..3, 0..3).prop_map(|(n, a)| pattern(&format!("spiffe://mesh.test/ns/n{n}/sa/a{a}"))),
        (0..3).prop_map(|n| pattern(&format!("spiffe://mesh.test/ns/n{n}/sa/*"))),
        (0..3).prop_map(|a| pattern(&format!("spiffe://mesh.test/ns/*/sa/a{a}"))),
        Just(pattern("spiffe://*/ns/n1/**")),
        Just(pattern("spiffe://other.test/**")),
        Just(Source::Outside(Vec::new())),
        Just(Source::Outside(vec!["192.0.2.0/31".parse().unwrap()])),
    ];
    let sources = prop::option::of(prop::collection::vec(identity, 0..4));
    let ports = || prop::option::of(prop::collection::vec(80..83u16, 0..3));
    let request = prop::option::weighted(
        0.4,
        (
            prop::collection::vec(prop_oneof![Just("GET"), Just("PUT")], 0..2),
            prop::collection::vec((0..3u8, 0..3u8), 0..3),
        ),
    );
    let rule = (sources, ports(), request).prop_map(|(sources, ports, request)| {
        let request = request.map(|(methods, paths)| RequestConditions {
            methods: methods.into_iter().map(str::to_owned).collect(),
            paths: paths.into_iter().map(any_path).collect(),
            ..Default::default()
        });
        AccessRule { index: 0, sources, ports, request: request.map(Box::new), when: None }
    });
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Audit)];
    let policy = (action, ports(), prop::collection::vec(rule, 0..5)).prop_map(|(action, at, mut rules)| {
        rules.iter_mut().enumerate().for_each(|(index, rule)| rule.index = index);
        AccessPolicy {
            name: "shop/p".parse().unwrap(),
            action,
            at,
            issuers: Vec::new(),
            rules,
            external: None,
        }
    });
    prop::collection::vec(policy, 0..8).prop_map(|mut policies| {
        policies.iter_mut().enumerate().for_each(|(i, p)| p.name = format!("shop/p{i}").parse().unwrap());
        policies
    })
}

/// A policy, and which of its rules.
type Rule<'a> = (&'a AccessPolicy, usize);

/// As the documentation says it, rule by rule.
fn naive<'a>(
    policies: &'a [AccessPolicy],
    visitor: Visitor<'_>,
    port: u16,
    request: Option<(&str, &str)>,
) -> (Result<Option<Rule<'a>>, String>, Vec<Rule<'a>>) {
    let has = |ports: &Option<Vec<u16>>| ports.as_ref().is_none_or(|ports| ports.contains(&port));
    let is_like = |rule: &AccessRule| match (&rule.request, request) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(asked), Some((method, path))) => {
            let below = |wanted: &PathMatch| match wanted {
                PathMatch::Prefix(above) => path == above || path.starts_with(&format!("{above}/")),
                PathMatch::Exact(whole) => path == whole,
                PathMatch::Regex(template) => {
                    let above = template.source().strip_suffix("/[^/]+").unwrap();
                    path.strip_prefix(above)
                        .and_then(|rest| rest.strip_prefix('/'))
                        .is_some_and(|last| !last.is_empty() && !last.contains('/'))
                }
            };
            (asked.methods.is_empty() || asked.methods.iter().any(|wanted| wanted == method))
                && (asked.paths.is_empty() || asked.paths.iter().any(below))
        }
    };
    let is_from = |rule: &AccessRule| {
        rule.sources.as_ref().is_none_or(|sources| {
            sources.iter().any(|source| match (source, visitor) {
                (Source::Identity(pattern), Visitor::Mesh(identity)) => pattern.matches(identity),
                (Source::Outside(ranges), Visitor::Outside(address)) => {
                    ranges.is_empty() || ranges.iter().any(|range| range.contains(&address))
                }
                _ => false,
            })
        })
    };
    let first = |policy: &'a AccessPolicy| {
        let is_about = |rule: &&AccessRule| has(&rule.ports) && is_from(rule) && is_like(rule);
        Some((policy, policy.rules.iter().find(is_about)?.index))
    };
    let of = |action| policies.iter().filter(move |policy| policy.action == action && has(&policy.at));
    let reads =
        |policy: &&AccessPolicy| policy.rules.iter().any(|rule| rule.request.is_some() && has(&rule.ports));
    let audits = of(Action::Audit).filter_map(first).collect();
    let decided = if let Some((policy, _)) = of(Action::Deny).find_map(first) {
        Err(format!("denied-by={}", policy.name))
    } else if let Some(policy) =
        policies.iter().find(|policy| policy.action != Action::Audit && has(&policy.at) && reads(policy))
        && request.is_none()
    {
        Err(format!("denied-by={}", policy.name))
    } else if of(Action::Allow).next().is_none() {
        Ok(None)
    } else {
        of(Action::Allow).find_map(first).map(Some).ok_or("no-allow-policy".to_owned())
    };
    (decided, audits)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_index_decides_as_all_rules_one_by_one(
        policies in any_policies(),
        callers in prop::collection::vec((0..4u8, 0..4u8, 80..84u16, (0..4u8, 0..4u8), any::<bool>()), 50),
    ) {
        let all = AccessPolicies::from(policies.clone());
        let none = HeaderMap::new();
        for (namespace, account, port, path, is_get) in callers {
            let identity = identity(&format!("n{namespace}"), &format!("a{account}"));
            let outside = namespace == 3;
            let visitor = if outside { Visitor::Outside([192, 0, 2, account].into()) } else { Visitor::Mesh(&identity) };
            let path = format!("/p{}{}", path.0, ["", "/x", "/y", "/x/y"][usize::from(path.1)]);
            let method = if is_get { "GET" } else { "PUT" };
            let request = (account != 3).then_some((method, path.as_str()));
            let seen = match request {
                Some((method, path)) => Traffic::Request(RequestSeen { method, path, authority: "c", headers: &none, tokens: &[] }),
                None => Traffic::Bytes,
            };
            let (expected, audited) = naive(&policies, visitor, port, request);
            let found = by_policies(&all, Ambiguities::default(), visitor, port, &seen);
            let found = found.map(|m| m.map(|m| (m.policy, m.rule))).map_err(|denial| denial.reason());
            prop_assert_eq!(found, expected);
            let found: Vec<_> = audits(&all, visitor, port, seen).into_iter().map(|m| (m.policy, m.rule)).collect();
            prop_assert_eq!(found, audited);
        }
    }
}
