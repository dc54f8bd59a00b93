//! How long requests of a rule may take (HTTPRouteTimeouts), and how often they are tried (HTTPRouteRetry).

use super::{Row, row, run};

static TIMEOUTS: &[Row] = &[
    row(
        "what has no answer in time is answered with 504",
        "
  - matches: [{path: {value: /request}}]
    timeouts: {request: 400ms}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /each}}]
    timeouts: {request: 20s, backendRequest: 400ms}
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /request | x-app: hang", "504 timeout | at v1"),
            ("GET /each | x-app: hang", "504 timeout | at v2"),
        ],
    ),
    row(
        "0s is no limit, and one is none for what comes in time",
        "
  - matches: [{path: {value: /none}}]
    timeouts: {request: 0s, backendRequest: 0s}
    backendRefs: [{name: v1, port: 80}]
  - timeouts: {request: 20s, backendRequest: 20s}
    backendRefs: [{name: v3, port: 80}]
",
        &[("GET /none", "v1"), ("GET /", "v3"), ("POST / | body 100000", "v3")],
    ),
    row(
        "an attempt may not take longer than all together",
        "
  - timeouts: {request: 1s, backendRequest: 2s}
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /", "c")],
    )
    .says(&["r refused spec.rules[0].timeouts.backendRequest"]),
];

#[tokio::test]
async fn timeouts() {
    run(TIMEOUTS).await;
}

static RETRIES: &[Row] = &[
    row(
        "after one of its codes a request is tried again, whatever its method, twice where nothing is said",
        "
  - retry: {codes: [503, 429], backoff: 1ms}
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET / | x-app: 503*1", "v1 | tries 2"),
            ("POST / | x-app: 429*2 | body 1000", "v1 | tries 3"),
            ("PATCH / | x-app: 503 | body 1000", "503 v1 | tries 3"),
            ("GET / | x-app: 500*1", "500 v1"),
            ("GET / | x-app: 404*1", "404 v1"),
        ],
    ),
    row(
        "as often as it says",
        "
  - matches: [{path: {value: /0}}]
    retry: {codes: [500], attempts: 0}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /1}}]
    retry: {codes: [500], attempts: 1, backoff: 0s}
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /10}}]
    retry: {codes: [500], attempts: 10, backoff: 0s}
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /0 | x-app: 500*1", "500 v1"),
            ("GET /1 | x-app: 500*2", "500 v2 | tries 2"),
            ("GET /1 | x-app: 500*1", "v2 | tries 2"),
            ("POST /10 | x-app: 500*9 | body 3", "v3 | tries 10"),
            ("POST /10 | x-app: 500 | body 3", "500 v3 | tries 11"),
        ],
    ),
    row(
        "a body of 64 KiB is sent again, a longer one is not",
        "
  - retry: {codes: [503], backoff: 1ms}
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("POST / | x-app: 503*1 | body 65536", "v2 | tries 2"),
            ("POST / | x-app: 503*1 | body 65537", "503 v2"),
            ("POST / | x-app: 503*1 | body 300000", "503 v2"),
        ],
    ),
    row(
        "without codes no answer is tried again",
        "
  - matches: [{path: {value: /a}}]
    retry: {attempts: 5}
    backendRefs: [{name: v1, port: 80}]
  - backendRefs: [{name: v1, port: 80}]
",
        &[("GET /a | x-app: 503*1", "503 v1"), ("GET /b | x-app: 503*1", "503 v1")],
    ),
    row(
        "an attempt that took too long is followed by another where the method is idempotent, within the time of all",
        "
  - timeouts: {request: 20s, backendRequest: 400ms}
    retry: {attempts: 1, backoff: 1ms}
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET / | x-app: hang", "504 timeout | at v3 | tries 2"),
            ("POST / | x-app: hang | body 10", "504 timeout | at v3"),
        ],
    ),
    row(
        "what is tried again is what the rule made of the request, and so is its answer",
        "
  - matches: [{path: {value: /a}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: d.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-add, value: rule}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-twice, value: rule}]}}
    retry: {codes: [503], backoff: 1ms}
    backendRefs: [{name: v1, port: 80}]
",
        &[(
            "POST /a/c | x-app: 503*2 | body 20000",
            "v1 | tries 3 | got /b/c | got host d.org | got x-add: rule | answer x-twice: 1, 2, rule",
        )],
    ),
    row(
        "codes of successes, and more than ten attempts, are refused",
        "
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{retry: {codes: [200]}}]
---
kind: HTTPRoute
metadata: {name: b}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{retry: {attempts: 11}}]
",
        &[("GET /", "c")],
    )
    .says(&["a refused spec.rules[0].retry.codes[0]", "b refused spec.rules[0].retry.attempts"]),
];

#[tokio::test]
async fn retries() {
    run(RETRIES).await;
}
