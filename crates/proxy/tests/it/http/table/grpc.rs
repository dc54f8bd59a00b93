//! Calls of gRPC (GRPCRoute). Clients of gRPC speak HTTP/2; what they are answered is in trailers, or in the head of an answer
//! that has nothing else.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::apps::http2;
use super::mesh::Mesh;
use super::{Row, WAYS, compile, routes, row, run};

static TABLE: &[Row] = &[
    row(
        "a service and a method, as they stand in the .proto file",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{method: {service: shop.v1.Cart, method: Add}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("CALL /shop.v1.Cart/Add", "v3 | got /shop.v1.Cart/Add | got HTTP/2.0"),
            ("CALL /shop.v1.Cart/Remove", "grpc 12 no-route"),
            ("CALL /shop.v1.Cart/add", "grpc 12 no-route"),
            ("CALL /shop.v1.Carts/Add", "grpc 12 no-route"),
            ("CALL /shop.v1.Cart/Add/", "grpc 12 no-route"),
            ("CALL /v1.Cart/Add", "grpc 12 no-route"),
        ],
    ),
    row(
        "a call is one of HTTP/2 to its backend, too, where its Service declares HTTP/1",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - backendRefs: [{name: v2, port: 80}]
",
        &[("CALL /shop.v1.Cart/Add", "v2 | got HTTP/2.0"), ("GET /", "v2 | got HTTP/1.1")],
    ),
    row(
        "a service alone is all of its methods",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{method: {service: shop.v1.Cart}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("CALL /shop.v1.Cart/Add", "v1"),
            ("CALL /shop.v1.Cart/Remove", "v1"),
            ("CALL /shop.v1.CartX/Add", "grpc 12 no-route"),
            ("CALL /shop.v1/Cart", "grpc 12 no-route"),
        ],
    ),
    row(
        "a method alone is that of any service",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{method: {method: Add}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("CALL /shop.v1.Cart/Add", "v1"),
            ("CALL /other.Service/Add", "v1"),
            ("CALL /shop.v1.Cart/AddAll", "grpc 12 no-route"),
            ("CALL /a/b/Add", "grpc 12 no-route"),
            ("CALL /Add", "grpc 12 no-route"),
        ],
    ),
    row(
        "regular expressions are for all of a name",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{method: {type: RegularExpression, service: 'shop\\..*', method: 'Get.*|List'}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{method: {type: RegularExpression, service: 'a|b'}}]
    backendRefs: [{name: v3, port: 80}]
  - matches: [{method: {type: RegularExpression, method: 'Watch.*'}}]
    backendRefs: [{name: w, namespace: shop, port: 80}]
",
        &[
            ("CALL /shop.v1.Cart/GetAll", "v1"),
            ("CALL /shop.Cart/List", "v1"),
            ("CALL /shop.Cart/ListAll", "grpc 12 no-route"),
            ("CALL /shopping.Cart/List", "grpc 12 no-route"),
            ("CALL /a/X", "v3"),
            ("CALL /b/Y", "v3"),
            ("CALL /ab/Y", "grpc 12 no-route"),
            ("CALL /x/WatchOne", "w"),
            ("CALL /x/Unwatch", "grpc 12 no-route"),
        ],
    ),
    row(
        "headers (metadata) as those of HTTPRoutes; a match without a method is for all calls",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{headers: [{name: X-Canary, value: '1'}]}]
    backendRefs: [{name: v3, port: 80}]
  - matches: [{headers: [{type: RegularExpression, name: x-version, value: '[0-9]+'}]}]
    backendRefs: [{name: w, namespace: shop, port: 80}]
",
        &[
            ("CALL /s.S/M | x-canary: 1", "v3"),
            ("CALL /s.S/M | x-canary: 2", "grpc 12 no-route"),
            ("CALL /s.S/M | x-version: 17", "w"),
            ("CALL /s.S/M", "grpc 12 no-route"),
        ],
    ),
    row(
        "service and method come before a service, that before a method, whatever their order; then most headers",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - backendRefs: [{name: c, port: 80}]
  - matches: [{method: {method: Add}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{method: {service: s.S}}]
    backendRefs: [{name: w, namespace: shop, port: 80}]
  - matches: [{method: {service: s.S, method: Add}}]
    backendRefs: [{name: v3, port: 80}]
  - matches: [{method: {service: s.S, method: Add}, headers: [{name: x, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("CALL /s.S/Add | x: 1", "v1"),
            ("CALL /s.S/Add", "v3"),
            ("CALL /s.S/Remove", "w"),
            ("CALL /t.T/Add", "v1"),
            ("CALL /t.T/Remove", "c"),
        ],
    ),
    row(
        "of equal matches the oldest route's decides",
        "
kind: GRPCRoute
metadata: {name: a, creationTimestamp: 2026-01-02T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{matches: [{method: {service: s.S}}], backendRefs: [{name: v1, port: 80}]}]
---
kind: GRPCRoute
metadata: {name: b, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{matches: [{method: {service: s.S}}], backendRefs: [{name: v3, port: 80}]}]
",
        &[("CALL /s.S/M", "v3")],
    ),
    row(
        "a backend that does not exist, or none, is UNAVAILABLE",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{method: {service: missing}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{method: {service: weightless}}]
    backendRefs: [{name: v1, port: 80, weight: 0}]
  - matches: [{method: {service: none}}]
",
        &[
            ("CALL /missing/M", "grpc 14 invalid-backend"),
            ("CALL /weightless/M", "grpc 14 invalid-backend"),
            ("CALL /none/M", "grpc 14 invalid-backend"),
        ],
    )
    .says(&["r ResolvedRefs=False BackendNotFound"]),
    row(
        "filters change the heads of calls and answers, of the rule and of the backend",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: rule}], add: [{name: x-add, value: rule}], remove: [x-gone]}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-own, value: rule}], remove: [x-twice]}}
    backendRefs:
    - name: v3
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-add, value: backend}]}}
",
        &[(
            "CALL /s.S/M | x-gone: 1 | x-set: a",
            "v3 | got x-set: rule | got x-add: backend | got no x-gone | answer x-own: rule | answer no x-twice",
        )],
    ),
    row(
        "copies go to mirrors",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v3, port: 80}}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("CALL /s.S/M", "v1 | copy v3"), ("CALL /s.S/M | trailer x-t: 1", "v1 | copy v3 | got trailer x-t: 1")],
    ),
    row(
        "a GRPCRoute without rules is refused",
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
",
        &[("CALL /s.S/M", "c"), ("GET /", "c")],
    )
    .says(&["r refused spec.rules"]),
    row(
        "an HTTPRoute takes calls as it takes other requests",
        "
  - matches: [{path: {value: /s.S}, method: POST}]
    backendRefs: [{name: v3, port: 80}]
",
        &[("CALL /s.S/M", "v3"), ("CALL /t.T/M", "grpc 12 no-route"), ("POST /t.T/M | body 3", "404 no-route")],
    ),
    row(
        "a consumer's GRPCRoute takes the place of the producer's HTTPRoute, for its own workloads",
        "
kind: HTTPRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: w}]
  rules: [{backendRefs: [{name: w, port: 80}]}]
---
kind: GRPCRoute
metadata: {name: consumer}
spec:
  parentRefs: [{group: '', kind: Service, name: w, namespace: shop}]
  rules:
  - matches: [{method: {service: s.S}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("CALL /s.S/M | to w:80", "v1"), ("CALL /t.T/M | to w:80", "grpc 12 no-route"), ("GET / | to w:80", "404 no-route")],
    ),
];

/// Messages of a stream pass one by one, both ways, beside a copy that is awaited by nobody; the status comes at the end.
#[tokio::test]
async fn streams() {
    let routed = routes(
        "
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{method: {service: s.S}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}}}]
    backendRefs: [{name: v3, port: 80}]
",
    );
    for way in WAYS {
        let mut mesh = Mesh::new(way).await;
        mesh.publish(&compile(&routed), |name| name == "c");
        let (messages, mut sent) = mpsc::channel(1);
        let body = StreamBody::new(stream::poll_fn(move |cx| sent.poll_recv(cx)));
        let call = Request::post("http://c/s.S/Chat").header("content-type", "application/grpc");
        let call = call.header("te", "trailers").header("x-id", "stream").header("x-app", "stream");
        let call = call.body(BodyExt::boxed(body)).unwrap();
        let answered = async {
            let answer = http2(mesh.entry(("c", 80)).await).await.send_request(call).await.unwrap();
            assert_eq!(answer.headers()["x-app-name"], "v3", "{way:?}");
            let mut body = answer.into_body();
            for number in 0..20u8 {
                let message = Bytes::from(vec![0, 0, 0, 0, 1, number]);
                messages.send(Ok(Frame::data(message.clone()))).await.unwrap();
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), message, "{way:?}");
            }
            drop(messages);
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(
                (&trailers["grpc-status"], &trailers["x-trailer"]),
                (&"0".parse().unwrap(), &"v3".parse().unwrap())
            );
        };
        timeout(Duration::from_secs(20), answered).await.unwrap_or_else(|_| panic!("{way:?}: it stopped"));
    }
}

#[tokio::test]
async fn calls() {
    run(TABLE).await;
}
