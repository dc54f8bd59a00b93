//! What rules make of the heads of requests and answers, and to whom they send copies.

use super::{Row, row, run};

static HEADERS: &[Row] = &[
    row(
        "fields of requests are set, added and removed, by whatever letters they are named",
        "
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set, value: rule}, {name: x-new, value: rule}]
        add: [{name: x-add, value: rule}, {name: X-More, value: rule}]
        remove: [X-Gone, x-never]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            (
                "GET / | x-set: a | x-set: b | x-add: a | x-gone: 1 | x-gone: 2 | x-kept: a",
                "v1 | got x-set: rule | got x-new: rule | got x-add: a, rule | got x-more: rule | got no x-gone \
                 | got x-kept: a",
            ),
            ("POST / | body 70000", "v1 | got x-set: rule | got x-add: rule | got no x-gone"),
        ],
    ),
    row(
        "fields of answers are, too",
        "
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: X-Own, value: rule}]
        add: [{name: x-more, value: rule}, {name: set-cookie, value: a=1}]
        remove: [X-Twice]
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /", "v2 | answer x-own: rule | answer x-more: rule | answer no x-twice | answer set-cookie: a=1"),
            ("GET / | x-app: 404", "404 v2 | answer x-own: rule | answer no x-twice"),
            ("GET / | x-app: 500", "500 v2 | answer x-own: rule | answer no x-twice"),
            ("HEAD /", "v2 | answer x-own: rule"),
        ],
    ),
    row(
        "a request passes the rule's filters and then its backend's; an answer the backend's and then the rule's",
        "
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-a, value: rule}], add: [{name: x-b, value: rule}]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-own, value: rule}], add: [{name: x-d, value: rule}]}
    backendRefs:
    - name: v3
      port: 80
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {set: [{name: x-a, value: backend}], add: [{name: x-b, value: backend}]}
      - type: ResponseHeaderModifier
        responseHeaderModifier: {set: [{name: x-own, value: backend}], add: [{name: x-d, value: backend}]}
",
        &[(
            "GET / | x-b: client",
            "v3 | got x-a: backend | got x-b: client, rule, backend | answer x-own: rule | answer x-d: backend, rule",
        )],
    ),
    row(
        "a backend's filters are for what it takes alone",
        "
  - matches: [{path: {value: /a}}]
    backendRefs:
    - {name: v1, port: 80}
    - name: v2
      port: 80
      weight: 0
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: backend}]}}
  - matches: [{path: {value: /b}}]
    backendRefs:
    - {name: v1, port: 80, weight: 0}
    - name: v2
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: backend}]}}
",
        &[("GET /a", "v1 | got no x-a"), ("GET /b", "v2 | got x-a: backend")],
    ),
    row(
        "rules match what the client said, not what filters make of it",
        "
  - matches: [{headers: [{name: x-a, value: '2'}]}]
    backendRefs: [{name: v2, port: 80}]
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: '2'}]}}
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET / | x-a: 1", "v1 | got x-a: 2"), ("GET / | x-a: 2", "v2")],
    ),
    row(
        "what says where a message ends, whose it is, or is about one connection is nobody's to change",
        "
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: d.org}]}}]
---
kind: HTTPRoute
metadata: {name: b}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Content-Length]}}]
---
kind: HTTPRoute
metadata: {name: d}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: connection, value: x}]}}]
---
kind: HTTPRoute
metadata: {name: e}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: '1'}], remove: [A]}}]
---
kind: HTTPRoute
metadata: {name: f}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: example.org, kind: Thing, name: x}}]
",
        &[("GET /", "c")],
    )
    .says(&[
        "a refused spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
        "b refused spec.rules[0].filters[0].responseHeaderModifier.remove[0]",
        "d refused spec.rules[0].filters[0].requestHeaderModifier.add[0].name",
        "e refused spec.rules[0].filters[0].requestHeaderModifier",
        "f refused spec.rules[0].filters[0].type",
    ]),
];

#[tokio::test]
async fn header_modifiers() {
    run(HEADERS).await;
}

static MIRRORS: &[Row] = &[
    row(
        "a copy goes to another service, and nobody sees its answer",
        "
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /", "v1 | copy v2"),
            ("POST /x | body 60000", "v1 | copy v2"),
            ("POST /x | body 100 | trailer x-t: 1", "v1 | copy v2 | got trailer x-t: 1"),
            ("GET / | x-app: 503", "503 v1 | copy v2"),
            ("HEAD /", "v1 | copy v2"),
        ],
    ),
    row(
        "several mirrors are several copies, of the rule and of the backend that takes it",
        "
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: w, namespace: shop, port: 80}}}
    backendRefs:
    - name: v1
      port: 80
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v3, port: 80}}}]
    - name: v2
      port: 80
      weight: 0
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: c, port: 80}}}]
",
        &[("POST / | body 10", "v1 | copy v2 | copy v3 | copy w")],
    ),
    row(
        "percent and fraction say of how many; of none, and of all",
        "
  - matches: [{path: {value: /none}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 0}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: v3, port: 80}, fraction: {numerator: 0}}}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /all}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 100}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: v3, port: 80}, fraction: {numerator: 7, denominator: 7}}
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /none", "v1"), ("GET /all", "v1 | copy v2 | copy v3")],
    ),
    row(
        "a copy is the request as it goes to its backend, after all filters",
        "
  - matches: [{path: {value: /a}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
    - {type: URLRewrite, urlRewrite: {hostname: d.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: rule}]}}
    backendRefs:
    - name: v1
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-a, value: backend}]}}
",
        &[("GET /a/c", "v1 | copy v2 | got /b/c | got host d.org | got x-a: rule, backend")],
    ),
    row(
        "the mirror's own routes do not apply, nor those of the backend",
        "
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}]
    backendRefs: [{name: v1, port: 80}]
---
kind: HTTPRoute
metadata: {name: s}
spec:
  parentRefs: [{group: '', kind: Service, name: v1}, {group: '', kind: Service, name: v2}]
  rules:
  - backendRefs: [{name: v3, port: 80}]
",
        &[("GET /", "v1 | copy v2"), ("GET / | to v1:80", "v3"), ("GET / | to v2:80", "v3")],
    ),
    row(
        "a mirror that does not exist gets nothing, and keeps nobody; what is redirected is not mirrored",
        "
  - matches: [{path: {value: /a}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: missing, port: 80}}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /b}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {hostname: d.org}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
",
        &[("GET /a", "v1"), ("GET /b", "302 http://d.org/b")],
    )
    .says(&["r ResolvedRefs=False BackendNotFound spec.rules[0].filters[0].requestMirror.backendRef"]),
    row(
        "a copy is one of the request that is tried again, not one of each attempt",
        "
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}]
    retry: {codes: [503], attempts: 2, backoff: 1ms}
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET / | x-app: 503*2", "v1 | tries 3 | copy v2")],
    ),
];

#[tokio::test]
async fn mirrors() {
    run(MIRRORS).await;
}

static CORS: &[Row] = &[row(
    "preflights of allowed origins are answered, those of others refused, and answers say who may read them",
    "
  - filters:
    - type: CORS
      cors: {allowOrigins: ['https://a.example', 'https://*.b.example'], allowMethods: [PUT], exposeHeaders: [x-own]}
    backendRefs: [{name: v1, port: 80}]
",
    &[
        (
            "OPTIONS / | origin: https://a.example | access-control-request-method: PUT",
            "204 | answer access-control-allow-origin: https://a.example | answer access-control-allow-methods: PUT",
        ),
        (
            "OPTIONS / | origin: https://x.y.b.example | access-control-request-method: PUT",
            "204 | answer access-control-allow-origin: https://x.y.b.example",
        ),
        (
            "OPTIONS / | origin: https://b.example | access-control-request-method: PUT",
            "403 | answer no access-control-allow-origin",
        ),
        ("OPTIONS / | origin: https://a.example", "v1"),
        (
            "PUT / | origin: https://a.example | body 5",
            "v1 | answer access-control-allow-origin: https://a.example | answer access-control-expose-headers: x-own",
        ),
        ("PUT / | origin: https://evil.example | body 5", "v1 | answer no access-control-allow-origin | answer vary: Origin"),
        ("GET /", "v1 | answer no access-control-allow-origin | answer vary: Origin"),
    ],
)];

#[tokio::test]
async fn cors() {
    run(CORS).await;
}
