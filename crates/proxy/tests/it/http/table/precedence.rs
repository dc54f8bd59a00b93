//! Which of several matches that a request fits decides (HTTPRouteRule.matches): the order of rules and routes counts last.

use super::{Row, row, run};

static ORDER: &[Row] = &[
    row(
        "an exact path comes before any prefix",
        "
  - matches: [{path: {value: /a/b}, method: GET, headers: [{name: x, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {type: Exact, value: /a/b}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a/b | x: 1", "v2"), ("GET /a/b/ | x: 1", "v1"), ("GET /a/b/c | x: 1", "v1")],
    ),
    row(
        "a longer prefix comes before a shorter one",
        "
  - backendRefs: [{name: c, port: 80}]
  - matches: [{path: {value: /a}, method: GET, headers: [{name: x, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a/bc}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /a/bc/d}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /a/bc/d/e | x: 1", "v3"),
            ("GET /a/bc/de | x: 1", "v2"),
            ("GET /a/b | x: 1", "v1"),
            ("GET /a", "c"),
            ("GET /abc | x: 1", "c"),
        ],
    ),
    row(
        "regular expressions come after prefixes, longer ones first, and before the prefix /",
        "
  - matches: [{headers: [{name: x, value: '1'}]}]
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '/a.*'}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '/a.*c.*'}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /a/b}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /a/b/c | x: 1", "v3"),
            ("GET /a/c | x: 1", "v2"),
            ("GET /a/d | x: 1", "v1"),
            ("GET /d | x: 1", "c"),
        ],
    ),
    row(
        "of the same path, a method comes first",
        "
  - matches: [{path: {value: /a}, headers: [{name: x, value: '1'}, {name: y, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a}, method: GET}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a | x: 1 | y: 1", "v2"), ("POST /a | x: 1 | y: 1", "v1")],
    ),
    row(
        "then who has more headers",
        "
  - matches: [{headers: [{name: x, value: '1'}], queryParams: [{name: a, value: '1'}, {name: b, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{name: x, value: '1'}, {name: y, value: '1'}]}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /?a=1&b=1 | x: 1 | y: 1", "v2"), ("GET /?a=1&b=1 | x: 1", "v1")],
    ),
    row(
        "conditions on one header are one, by whatever letters it is named",
        "
  - matches: [{headers: [{name: x, value: '1'}, {name: X, value: '2'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{name: x, value: '1'}, {name: y, value: '1'}]}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET / | x: 1 | y: 1", "v2"), ("GET / | x: 1", "v1")],
    ),
    row(
        "then who has more parameters",
        "
  - matches: [{queryParams: [{name: a, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{queryParams: [{name: a, value: '1'}, {name: b, value: '1'}]}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /?a=1&b=1", "v2"), ("GET /?a=1", "v1")],
    ),
    row(
        "of equal ones the first rule of a route decides",
        "
  - matches: [{path: {value: /a}, headers: [{name: x, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a/}, headers: [{name: y, value: '1'}]}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a | x: 1 | y: 1", "v1"), ("GET /a | y: 1", "v2")],
    ),
    row(
        "what is more special decides, in whatever match of whatever rule it is",
        "
  - matches: [{path: {value: /a}}, {path: {type: Exact, value: /b/c}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {type: Exact, value: /a/b}}, {path: {value: /b}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a/b", "v2"), ("GET /a/c", "v1"), ("GET /b/c", "v1"), ("GET /b", "v2")],
    ),
    row(
        "a prefix counts without the slash at its end",
        "
  - matches: [{path: {value: /a/}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a}, method: GET}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a/x", "v2"), ("POST /a/x", "v1")],
    ),
];

#[tokio::test]
async fn within_a_route() {
    run(ORDER).await;
}

static ROUTES: &[Row] = &[
    row(
        "all routes of a service are one table: what is more special decides, in whatever route it is",
        "
kind: HTTPRoute
metadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
---
kind: HTTPRoute
metadata: {name: b, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a/b}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{method: PUT}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /a/b", "v2"),
            ("GET /a", "v1"),
            ("PUT /a", "v1"),
            ("PUT /b", "v3"),
            ("GET /b", "404 no-route"),
        ],
    ),
    row(
        "of equal matches the oldest route's decides",
        "
kind: HTTPRoute
metadata: {name: a, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: b, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[("GET /", "v2")],
    ),
    row(
        "of equal matches of routes of one age that of the first name decides",
        "
kind: HTTPRoute
metadata: {name: b, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[("GET /", "v2")],
    ),
    row(
        "age counts before the order of rules: an older route's last rule comes before a younger one's first",
        "
kind: HTTPRoute
metadata: {name: b, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /x}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v2, port: 80}]
---
kind: HTTPRoute
metadata: {name: a, creationTimestamp: 2026-01-01T00:00:01Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[("GET /a", "v2")],
    ),
    row(
        "a rule that is the first of its kind decides also where it leads nowhere",
        "
kind: HTTPRoute
metadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: missing, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: b, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[("GET /", "500 invalid-backend")],
    )
    .says(&["a ResolvedRefs=False BackendNotFound", "b Accepted=True"]),
];

#[tokio::test]
async fn across_routes() {
    run(ROUTES).await;
}
