//! Connections that carry bytes: TCPRoutes, which share them out, and TLSRoutes, which go by the server that a client of TLS
//! names. `TLS d.org` is such a client; what else there is asks as HTTP does, and is nothing but bytes to the mesh.

use super::Version::Http1;
use super::{Row, row, run};

static TCP: &[Row] = &[
    row(
        "a TCPRoute leads connections to its backends",
        "
kind: TCPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[
            ("GET /any", "v1 | got /any | got host c"),
            ("POST / | body 300000", "v1"),
            ("GET / | to c:8080", "c"),
            ("GET / | host: v2", "v1 | got host v2"),
        ],
    )
    .says(&["r Accepted=True"]),
    row(
        "by weight",
        "
kind: TCPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v1, port: 80, weight: 0}, {name: w, namespace: shop, port: 80, weight: 7}]}]
",
        &[("GET /", "w"), ("GET /", "w"), ("GET /", "w"), ("GET /", "w")],
    ),
    row(
        "a port all of whose connections lead nowhere refuses them",
        "
kind: TCPRoute
metadata: {name: weightless}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules: [{backendRefs: [{name: v1, port: 80, weight: 0}]}]
---
kind: TCPRoute
metadata: {name: missing}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 8080}]
  rules: [{backendRefs: [{name: missing, port: 80}]}]
",
        &[("GET /", "refused"), ("GET / | to c:8080", "refused")],
    )
    .says(&["missing ResolvedRefs=False BackendNotFound", "weightless Accepted=True"]),
    row(
        "what a backend that does not exist takes is reset",
        "
kind: TCPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules: [{backendRefs: [{name: missing, port: 80, weight: 1000000}, {name: v1, port: 80, weight: 1}]}]
",
        &[("GET /", "reset")],
    )
    .says(&["r ResolvedRefs=False BackendNotFound"]),
    row(
        "of several the oldest acts",
        "
kind: TCPRoute
metadata: {name: a, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
kind: TCPRoute
metadata: {name: b, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  rules: [{backendRefs: [{name: v2, port: 80}]}]
",
        &[("GET /", "v2"), ("GET / | to c:8080", "v1")],
    )
    .says(&["b Accepted=True", "a Accepted=True warning port 80 already has TCPRoute default/b"]),
    row(
        "a consumer's takes the place of the producer's",
        "
kind: TCPRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: w}]
  rules: [{backendRefs: [{name: w, port: 80}]}]
---
kind: TCPRoute
metadata: {name: consumer}
spec:
  parentRefs: [{group: '', kind: Service, name: w, namespace: shop}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[("GET / | to w:80", "v1")],
    ),
    row(
        "it has one rule, and that a backend",
        "
kind: TCPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: []}]
---
kind: TCPRoute
metadata: {name: b}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: v1, port: 80}]}, {backendRefs: [{name: v1, port: 80}]}]
",
        &[("GET /", "c")],
    )
    .says(&["a refused spec.rules[0].backendRefs", "b refused spec.rules"]),
];

#[tokio::test]
async fn tcp_routes() {
    run(TCP).await;
}

static TLS: &[Row] = &[
    row(
        "a whole name comes before the longest wildcard, in whatever route they are",
        "
kind: TLSRoute
metadata: {name: wide}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  hostnames: ['*.test', a.example]
  rules: [{backendRefs: [{name: t1, port: 80}]}]
---
kind: TLSRoute
metadata: {name: narrow}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  hostnames: ['*.a.test']
  rules: [{backendRefs: [{name: t2, port: 80}]}]
---
kind: TLSRoute
metadata: {name: whole}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  hostnames: [b.a.test]
  rules: [{backendRefs: [{name: t1, port: 80, weight: 0}, {name: t3, namespace: shop, port: 80}]}]
",
        &[
            ("TLS a.test", "t1"),
            ("TLS x.test", "t1"),
            ("TLS x.y.test", "t1"),
            ("TLS x.a.test", "t2"),
            ("TLS y.x.a.test", "t2"),
            ("TLS b.a.test", "t3"),
            ("TLS c.b.a.test", "t2"),
            ("TLS a.example", "t1"),
            ("TLS test", "reset"),
            ("TLS x.a.example", "reset"),
            ("TLS other", "reset"),
            ("TLS 192.0.2.1", "reset"),
        ],
    ),
    row(
        "of one name the oldest route's decides",
        "
kind: TLSRoute
metadata: {name: a, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [a.test, b.test]
  rules: [{backendRefs: [{name: t1, port: 80}]}]
---
kind: TLSRoute
metadata: {name: b, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [a.test]
  rules: [{backendRefs: [{name: t2, port: 80}]}]
",
        &[("TLS a.test", "t2"), ("TLS b.test", "t1"), ("TLS b.test | to c:8080", "t1")],
    )
    .says(&["a Accepted=True warning a.test default/b"]),
    row(
        "what leads nowhere is reset, and so is what is no TLS",
        "
kind: TLSRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [missing.test]
  rules: [{backendRefs: [{name: missing, port: 80}]}]
---
kind: TLSRoute
metadata: {name: s}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [weightless.test]
  rules: [{backendRefs: [{name: t1, port: 80, weight: 0}]}]
---
kind: TLSRoute
metadata: {name: t}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  hostnames: [t.test]
  rules: [{backendRefs: [{name: t1, port: 80}]}]
",
        &[
            ("TLS missing.test", "reset"),
            ("TLS weightless.test", "reset"),
            ("TLS t.test", "t1"),
            ("GET / | host: t.test", "reset"),
            ("GET / | to c:8080", "refused"),
        ],
    )
    .says(&["r ResolvedRefs=False BackendNotFound"]),
    row(
        "a client of the HTTP proxy that asks for such a port is answered with 404",
        "
kind: TLSRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  hostnames: [c]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
",
        &[("GET / | host: c | proxied", "404 no-route")],
    )
    .only(Http1, "that is how a proxy is spoken to"),
    row(
        "a TLSRoute comes before a TCPRoute",
        "
kind: TLSRoute
metadata: {name: tls}
spec:
  parentRefs: [{group: '', kind: Service, name: c, port: 80}]
  hostnames: [a.test]
  rules: [{backendRefs: [{name: t1, port: 80}]}]
---
kind: TCPRoute
metadata: {name: tcp}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: t2, port: 80}]}]
",
        &[("TLS a.test", "t1"), ("TLS b.test", "reset"), ("TLS b.test | to c:8080", "t2")],
    )
    .says(&["tls Accepted=True", "tcp Accepted=True warning port 80 has TLSRoutes"]),
    row(
        "a consumer's takes the place of the producer's",
        "
kind: TLSRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: w}]
  hostnames: [producer.test]
  rules: [{backendRefs: [{name: t1, namespace: default, port: 80}]}]
---
kind: TLSRoute
metadata: {name: consumer}
spec:
  parentRefs: [{group: '', kind: Service, name: w, namespace: shop}]
  hostnames: [consumer.test]
  rules: [{backendRefs: [{name: t2, port: 80}]}]
",
        &[("TLS consumer.test | to w:80", "t2"), ("TLS producer.test | to w:80", "reset")],
    ),
    row(
        "a port that declares HTTP without TLS has no TLSRoutes, and is no backend of one",
        "
kind: TLSRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: v2}, {group: '', kind: Service, name: c}]
  hostnames: [a.test]
  rules: [{backendRefs: [{name: v3, port: 80}]}]
",
        &[("GET / | to v2:80", "v2"), ("TLS a.test", "refused")],
    )
    .says(&[
        "r v2 Accepted=False NotAllowedByListeners",
        "r c Accepted=True",
        "r ResolvedRefs=False UnsupportedProtocol",
    ]),
    row(
        "it has host names, each once",
        "
kind: TLSRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{backendRefs: [{name: t1, port: 80}]}]
",
        &[("GET /", "c")],
    )
    .says(&["a refused spec.hostnames"]),
];

#[tokio::test]
async fn tls_routes() {
    run(TLS).await;
}
