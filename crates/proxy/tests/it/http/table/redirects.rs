//! Where clients are sent elsewhere (HTTPRequestRedirectFilter).

use super::{Row, row, run};

static TABLE: &[Row] = &[
    row(
        "what is not said stays as the client had it",
        "
  - matches: [{path: {value: /scheme}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /host}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org}}]
  - matches: [{path: {value: /port}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 8443}}]
  - matches: [{path: {value: /all}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, hostname: d.org, port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /x}}
  - matches: [{path: {value: /nothing}}]
    filters: [{type: RequestRedirect, requestRedirect: {}}]
",
        &[
            ("GET /scheme/a?b=%20", "302 https://c/scheme/a?b=%20"),
            ("GET /scheme | host: c.shop:4711", "302 https://c.shop/scheme"),
            ("GET /host/a", "302 http://d.org/host/a"),
            ("POST /port | body 100000", "302 http://c:8443/port"),
            ("GET /all/a?b", "302 https://d.org:8443/x?b"),
            ("GET /nothing?", "302 http://c/nothing?"),
            ("GET /nothing | host: c:4711", "302 http://c:4711/nothing"),
            ("GET /nothing | to c:8080", "302 http://c:8080/nothing"),
            ("GET /host | to c:8080", "302 http://d.org:8080/host"),
        ],
    ),
    row(
        "a port that goes without saying is not said",
        "
  - matches: [{path: {value: /a}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 80}}]
  - matches: [{path: {value: /b}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443}}]
  - matches: [{path: {value: /c}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: http, port: 443}}]
  - matches: [{path: {value: /d}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 80}}]
  - matches: [{path: {value: /e}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: http}}]
",
        &[
            ("GET /a", "302 http://c/a"),
            ("GET /b", "302 https://c/b"),
            ("GET /c", "302 http://c:443/c"),
            ("GET /d", "302 https://c:80/d"),
            ("GET /e | to c:8080", "302 http://c/e"),
        ],
    ),
    row(
        "each status",
        "
  - matches: [{path: {value: /301}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 301}}]
  - matches: [{path: {value: /302}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 302}}]
  - matches: [{path: {value: /303}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 303}}]
  - matches: [{path: {value: /307}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 307}}]
  - matches: [{path: {value: /308}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 308}}]
",
        &[
            ("GET /301", "301 http://d.org/301"),
            ("HEAD /302", "302 http://d.org/302"),
            ("POST /303 | body 3", "303 http://d.org/303"),
            ("PUT /307 | body 3", "307 http://d.org/307"),
            ("DELETE /308", "308 http://d.org/308"),
        ],
    ),
    row(
        "another status than those is refused",
        "
  - filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org, statusCode: 300}}]
",
        &[("GET /", "c")],
    )
    .says(&["r refused spec.rules[0].filters[0].requestRedirect.statusCode"]),
    row(
        "a prefix is replaced by whole elements",
        "
  - matches: [{path: {value: /foo}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz}}}
  - matches: [{path: {value: /slashes/}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz/}}}
  - matches: [{path: {value: /gone}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}
  - matches: [{path: {value: /root}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
",
        &[
            ("GET /foo/bar?q", "302 http://c/xyz/bar?q"),
            ("GET /foo", "302 http://c/xyz"),
            ("GET /foo?q", "302 http://c/xyz?q"),
            ("GET /foo/", "302 http://c/xyz/"),
            ("GET /f%6fo/b%20r", "302 http://c/xyz/b%20r"),
            ("GET /slashes/bar", "302 http://c/xyz/bar"),
            ("GET /slashes/", "302 http://c/xyz/"),
            ("GET /slashes", "302 http://c/xyz"),
            ("GET /gone/bar", "302 http://c/bar"),
            ("GET /gone/", "302 http://c/"),
            ("GET /gone", "302 http://c/"),
            ("GET /gone?q", "302 http://c/?q"),
            // Another host must not come out of a path.
            ("GET /gone//evil.org/", "302 http://c//evil.org/"),
            ("GET /root/bar", "302 http://c/bar"),
            ("GET /root/", "302 http://c/"),
            ("GET /root", "302 http://c/"),
            ("GET /foo/../x", "400 bad-request"),
        ],
    ),
    row(
        "a prefix before all paths",
        "
  - filters:
    - type: RequestRedirect
      requestRedirect: {statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
",
        &[
            ("GET /", "308 http://c/new/"),
            ("GET /a/b?c", "308 http://c/new/a/b?c"),
            ("GET /%2e%2e/a", "400 bad-request"),
        ],
    ),
    row(
        "answers have the rule's headers",
        "
  - filters:
    - {type: RequestRedirect, requestRedirect: {hostname: d.org}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: cache-control, value: no-store}]}}
",
        &[("GET /", "302 http://d.org/ | answer cache-control: no-store")],
    ),
    row(
        "beside a rewrite, or with backends, it is refused",
        "
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters:
    - {type: RequestRedirect, requestRedirect: {hostname: d.org}}
    - {type: URLRewrite, urlRewrite: {hostname: d.org}}
---
kind: HTTPRoute
metadata: {name: b}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {hostname: d.org}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /", "c")],
    )
    .says(&["a refused spec.rules[0].filters", "b refused spec.rules[0].backendRefs"]),
    row(
        "an IPv6 address stays in its brackets",
        "
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
",
        &[("GET /a | host: [fd00::1]:80", "302 https://[fd00::1]/a")],
    ),
];

#[tokio::test]
async fn redirects() {
    run(TABLE).await;
}
