//! What routes are attached to (parentRefs), and for whom they are.

use super::Version::Http1;
use super::{Row, row, run};

static PORTS: &[Row] = &[
    row(
        "a route that names no port is for all ports of its Service",
        "
  - backendRefs: [{name: v1, port: 80}]
",
        &[("GET /", "v1"), ("GET / | to c:8080", "v1"), ("GET / | to v2:80", "v2")],
    ),
    row(
        "one that names a port is for that alone",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 8080}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[("GET /", "c"), ("GET / | to c:8080", "v1")],
    ),
    row(
        "a sectionName is the name of a port",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c, sectionName: other}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[("GET /", "c"), ("GET / | to c:8080", "v1")],
    ),
    row(
        "of a port and a sectionName both must fit",
        "
kind: HTTPRoute
metadata: {name: fits}
spec:
  parentRefs: [{group: '', kind: Service, name: c, sectionName: other, port: 8080}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: unfit}
spec:
  parentRefs: [{group: '', kind: Service, name: c, sectionName: web, port: 8080}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[("GET /", "c"), ("GET / | to c:8080", "v1")],
    )
    .says(&["fits Accepted=True", "unfit Accepted=False NoMatchingParent 8080 web"]),
    row(
        "a parent may be given several times, with different ports, and a route may have several parents",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs:
  - {group: '', kind: Service, name: c, port: 80}
  - {group: '', kind: Service, name: c, sectionName: other}
  - {group: '', kind: Service, name: v1}
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[
            ("GET /", "v2"),
            ("GET / | to c:8080", "v2"),
            ("GET / | to v1:80", "v2"),
            ("GET / | to v3:80", "v3"),
        ],
    ),
    row(
        "routes of one port are no matter of another",
        "
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
---
kind: HTTPRoute
metadata: {name: b}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 8080}]
  rules:
  - matches: [{path: {value: /b}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /a", "v1"),
            ("GET /b", "404 no-route"),
            ("GET /a | to c:8080", "404 no-route"),
            ("GET /b | to c:8080", "v2"),
        ],
    ),
    row(
        "what is no Service with an address of its own is no parent",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs:
  - {group: '', kind: Service, name: missing}
  - {group: '', kind: Service, name: headless}
  - {group: '', kind: Service, name: alias}
  - {group: '', kind: Service, name: bytes}
  - {name: gateway}
  - {group: '', kind: Service, name: v1}
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[("GET / | to v1:80", "v2")],
    )
    .says(&[
        "missing Accepted=False NoMatchingParent",
        "headless Accepted=False NoMatchingParent",
        "alias Accepted=False NoMatchingParent",
        "bytes Accepted=False NotAllowedByListeners",
        "gateway Accepted=False NoMatchingParent",
        "v1 Accepted=True",
    ]),
    row(
        "rules may have names, which change nothing",
        "
  - name: first
    matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
  - name: second
    matches: [{path: {value: /b}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a", "v1"), ("GET /b", "v2"), ("GET /", "404 no-route")],
    ),
    row(
        "no two rules have one name",
        "
  - {name: same, backendRefs: [{name: v1, port: 80}]}
  - {name: same, backendRefs: [{name: v2, port: 80}]}
",
        &[("GET /", "c")],
    )
    .says(&["r refused spec.rules[1].name"]),
];

#[tokio::test]
async fn parents_and_ports() {
    run(PORTS).await;
}

static CLIENTS: &[Row] = &[
    row(
        "hostnames are ignored, with a warning: the Service that a client connects to decides",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [d.org]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[
            ("GET / | host: d.org", "v1 | got host d.org"),
            ("GET / | host: e.org", "v1 | got host e.org"),
            ("GET / | host: v2", "v1 | got host v2"),
            ("GET / | host: d.org | to v3:80", "v3"),
        ],
    )
    .says(&["r Accepted=True spec.hostnames ignored"]),
    row(
        "a client of the HTTP proxy names the Service in the request",
        "
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /a | host: c | proxied", "v1 | got host c"),
            ("GET /b | host: c.default.svc:80 | proxied", "404 no-route"),
            ("GET /a | host: c:8080 | proxied", "v1 | got host c:8080"),
            ("GET /a | host: v2.default | proxied", "v2"),
            ("GET /a | host: w.shop | proxied", "w"),
            ("GET /a | host: c:81 | proxied", "502 unknown-service"),
            ("GET /a | host: missing | proxied", "502 unknown-service"),
        ],
    )
    .only(Http1, "that is how a proxy is spoken to"),
    row(
        "a consumer's route takes the place of the producer's for the workloads of its namespace; nothing is merged",
        "
kind: HTTPRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: w}]
  rules:
  - matches: [{path: {value: /producer}}]
    backendRefs: [{name: w, port: 80}]
---
kind: HTTPRoute
metadata: {name: consumer, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: w, namespace: shop}]
  rules:
  - matches: [{path: {value: /consumer}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /consumer | to w:80", "v1"),
            ("GET /producer | to w:80", "404 no-route"),
            ("GET /producer", "c"),
        ],
    )
    .says(&["consumer Accepted=True for the workloads of namespace default"]),
    row(
        "a consumer's route is no matter of the clients of other namespaces",
        "
kind: HTTPRoute
metadata: {name: consumer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: c, namespace: default}]
  rules: [{backendRefs: [{name: w, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: producer, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /a", "v1"), ("GET /b", "404 no-route")],
    ),
    row(
        "a producer's route is for all who have none of their own",
        "
kind: HTTPRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: w}]
  rules: [{backendRefs: [{name: v1, namespace: default, port: 80}]}]
",
        &[("GET / | to w:80", "v1")],
    ),
];

#[tokio::test]
async fn clients() {
    run(CLIENTS).await;
}

static KINDS: &[Row] = &[
    row(
        "one kind acts on a port: an HTTPRoute comes before TLSRoutes and TCPRoutes",
        "
kind: HTTPRoute
metadata: {name: http}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
---
kind: TCPRoute
metadata: {name: tcp}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
---
kind: TLSRoute
metadata: {name: tls}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [d.org]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[("GET /a", "v1"), ("GET /b", "404 no-route")],
    )
    .says(&[
        "http Accepted=True",
        "tcp Accepted=False Conflicted HTTPRoutes",
        "tls Accepted=False Conflicted HTTPRoutes",
    ]),
    row(
        "a GRPCRoute comes before HTTPRoutes: what is none of its calls has no route",
        "
kind: HTTPRoute
metadata: {name: http}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
kind: GRPCRoute
metadata: {name: grpc}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules:
  - matches: [{method: {service: s.S}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /s.S/M", "v3"),
            ("GET /a", "404 no-route"),
            ("GET /a | to c:8080", "v1"),
            ("CALL /s.S/M | to c:8080", "v1"),
        ],
    )
    .says(&["grpc Accepted=True", "http Accepted=True warning port 80 has GRPCRoutes"]),
    row(
        "a GRPCRoute whose rule has no matches takes all, and not calls alone",
        "
kind: HTTPRoute
metadata: {name: http}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
kind: GRPCRoute
metadata: {name: grpc}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules: [{backendRefs: [{name: v3, port: 80}]}]
",
        &[("CALL /s.S/M", "v3"), ("GET /a", "v3"), ("POST /s.S/M", "v3")],
    )
    .says(&["grpc Accepted=True", "http Accepted=False Conflicted GRPCRoutes"]),
];

#[tokio::test]
async fn kinds_on_one_port() {
    run(KINDS).await;
}
