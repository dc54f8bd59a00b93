//! Where a rule's requests go (HTTPRouteRule.backendRefs), and what becomes of those that go nowhere.

use std::collections::HashMap;

use super::asked::Asked;
use super::expected::Expected;
use super::mesh::Mesh;
use super::{Row, Version, Way, compile, routes, row, run};

static TABLE: &[Row] = &[
    row(
        "without routes, requests go to the service's own endpoints",
        "",
        &[("GET /a?b", "c | got /a?b | got host c"), ("GET / | to v1:80", "v1"), ("GET / | to w:80", "w")],
    ),
    row(
        "a weight of 0 is none",
        "
  - backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 1}, {name: v3, port: 80, weight: 0}]
",
        &[("GET /", "v2"), ("GET /", "v2"), ("GET /", "v2"), ("GET /", "v2"), ("GET /", "v2")],
    ),
    row(
        "where all weights are 0, requests are answered with 500",
        "
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 0}]
  - backendRefs: [{name: v3, port: 80}]
",
        &[("GET /a", "500 invalid-backend"), ("GET /b", "v3")],
    ),
    row(
        "so they are where a rule has no backends",
        "
  - matches: [{path: {value: /a}}]
    backendRefs: []
  - matches: [{path: {value: /b}}]
  - backendRefs: [{name: v3, port: 80}]
",
        &[("GET /a", "500 invalid-backend"), ("POST /b | body 9", "500 invalid-backend"), ("GET /c", "v3")],
    ),
    row(
        "a backend that does not exist has its share, which is answered with 500",
        "
  - matches: [{path: {value: /service}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {value: /port}}]
    backendRefs: [{name: v1, port: 81}]
  - matches: [{path: {value: /weightless}}]
    backendRefs: [{name: missing, port: 80, weight: 0}, {name: v1, port: 80}]
",
        &[
            ("GET /service", "500 invalid-backend"),
            ("GET /port", "500 invalid-backend"),
            ("GET /weightless", "v1"),
        ],
    )
    .says(&["r ResolvedRefs=False BackendNotFound spec.rules[0].backendRefs[0] spec.rules[1].backendRefs[0]"]),
    row(
        "a backend of another kind, or one that speaks no HTTP, is none",
        "
  - matches: [{path: {value: /kind}}]
    backendRefs: [{group: example.org, kind: Thing, name: v1, port: 80}]
  - matches: [{path: {value: /bytes}}]
    backendRefs: [{name: bytes, port: 80}]
  - matches: [{path: {value: /alias}}]
    backendRefs: [{name: alias, port: 80}]
",
        &[
            ("GET /kind", "500 invalid-backend"),
            ("GET /bytes", "500 invalid-backend"),
            ("GET /alias", "500 invalid-backend"),
        ],
    )
    .says(&["r ResolvedRefs=False InvalidKind spec.rules[0].backendRefs[0] spec.rules[1].backendRefs[0] spec.rules[2].backendRefs[0]"]),
    row(
        "a backend may be in another namespace, without a grant",
        "
  - backendRefs: [{name: w, namespace: shop, port: 80}]
",
        &[("GET /a", "w | got /a")],
    ),
    row(
        "a backend's own routes are not applied, also where it is the service itself",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /b}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a}}}]
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /c}}]
    backendRefs: [{name: c, port: 8080}]
---
kind: HTTPRoute
metadata: {name: s}
spec:
  parentRefs: [{group: '', kind: Service, name: v1}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[
            ("GET /a", "v1"),
            ("GET /b", "c | got /a"),
            ("GET /c", "c"),
            ("GET /a | to v1:80", "v2"),
            ("GET /a | to v2:80", "v2"),
        ],
    ),
];

#[tokio::test]
async fn backends() {
    run(TABLE).await;
}

/// Backends take as many requests as their weights say, one that does not exist among them.
#[tokio::test]
async fn shares() {
    const COUNT: usize = 400;
    for (rules, expected) in [
        (
            "  - backendRefs: [{name: v1, port: 80, weight: 3}, {name: v2, port: 80, weight: 1}]",
            [("v1", 300), ("v2", 100), ("500", 0)],
        ),
        (
            "  - backendRefs: [{name: v1, port: 80}, {name: missing, port: 80}]",
            [("v1", 200), ("v2", 0), ("500", 200)],
        ),
        (
            "  - backendRefs: [{name: v1, port: 80, weight: 1000000}, {name: v2, port: 80, weight: 1000000}]",
            [("v1", 200), ("v2", 200), ("500", 0)],
        ),
    ] {
        let mut mesh = Mesh::new(Way::SameNode).await;
        mesh.publish(&compile(&routes(rules)), |name| name == "c");
        let mut shares: HashMap<String, usize> = HashMap::new();
        let asked = Asked::parse("GET /");
        for _ in 0..COUNT {
            *shares.entry(mesh.who(Version::Http1, &asked).await).or_default() += 1;
        }
        for (name, wanted) in expected {
            let share = shares.get(name).copied().unwrap_or_default();
            // Six standard deviations; nothing where nothing is to come.
            let most = if wanted == 0 { 0 } else { 60 };
            assert!(share.abs_diff(wanted) <= most, "{rules}: {shares:?}");
        }
    }
}

#[test]
fn what_is_expected_is_read() {
    let expected = Expected::parse("503 v1 | tries 2 | copy v2 | got no x | answer y: 1");
    assert_eq!((expected.status, expected.at, expected.is_answered), (503, Some("v1"), true));
    assert_eq!(expected.arrivals(), ["v1", "v1", "v2"]);
    assert_eq!((&*expected.got, &*expected.answer), (&["no x"][..], &["y: 1"][..]));
    let expected = Expected::parse("504 timeout | at v1");
    assert_eq!((expected.reason, expected.is_answered), (Some("timeout"), false));
    assert_eq!(expected.arrivals(), ["v1"]);
}
