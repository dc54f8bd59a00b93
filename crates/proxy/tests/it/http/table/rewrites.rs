//! What applications are told instead of what clients asked for (HTTPURLRewriteFilter).

use super::{Row, row, run};

static TABLE: &[Row] = &[
    row(
        "another host, without a port; the path stays",
        "
  - filters: [{type: URLRewrite, urlRewrite: {hostname: d.org}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /a?b | host: c:80", "v1 | got /a?b | got host d.org"),
            ("POST / | body 70000", "v1 | got host d.org"),
        ],
    ),
    row(
        "another path; the query and the host stay",
        "
  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all/of/it}}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /a/b?c=d&e | host: c:80", "v2 | got /all/of/it?c=d&e | got host c:80"),
            ("GET /", "v2 | got /all/of/it"),
            ("GET /?", "v2 | got /all/of/it?"),
            ("OPTIONS *", "v2 | got *"),
        ],
    ),
    row(
        "a prefix is replaced by whole elements",
        "
  - matches: [{path: {value: /foo}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz}}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /slashes/}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz/}}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /gone}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}]
    backendRefs: [{name: v3, port: 80}]
  - matches: [{path: {value: /root}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a/b}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /foo/bar?q", "v1 | got /xyz/bar?q"),
            ("GET /foo", "v1 | got /xyz"),
            ("GET /foo?q", "v1 | got /xyz?q"),
            ("GET /foo/", "v1 | got /xyz/"),
            ("GET /%66oo/b%20r//x/", "v1 | got /xyz/b%20r//x/"),
            ("GET /foobar", "404 no-route"),
            ("GET /slashes/bar", "v2 | got /xyz/bar"),
            ("GET /slashes/", "v2 | got /xyz/"),
            ("GET /slashes", "v2 | got /xyz"),
            ("GET /gone/bar", "v3 | got /bar"),
            ("GET /gone/", "v3 | got /"),
            ("GET /gone", "v3 | got /"),
            ("GET /gone?q", "v3 | got /?q"),
            ("GET /gone//evil.org", "v3 | got //evil.org"),
            ("GET /root/bar", "v1 | got /bar"),
            ("GET /root/", "v1 | got /"),
            ("GET /root", "v1 | got /"),
            ("GET /a/b/c?d", "v1 | got /x/c?d"),
            ("GET /foo/../x", "400 bad-request"),
            ("GET /foo/%2e%2e/x", "400 bad-request"),
        ],
    ),
    row(
        "a prefix before all paths",
        "
  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /", "v3 | got /new/"),
            ("GET /a/b?c", "v3 | got /new/a/b?c"),
            ("GET /../secret", "400 bad-request"),
        ],
    ),
    row(
        "a rewritten request passes no routes again, and goes where it was to go, whatever host it names then",
        "
  - matches: [{path: {value: /a}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: v2, path: {type: ReplaceFullPath, replaceFullPath: /b}}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /b}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[("GET /a", "v1 | got /b | got host v2"), ("GET /b", "v2 | got host c")],
    ),
    row(
        "a backend's counts over the rule's, and both go by what the client asked for",
        "
  - matches: [{path: {value: /a}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: rule.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /rule}}
    backendRefs:
    - name: v1
      port: 80
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /backend}}}]
  - matches: [{path: {value: /b}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /rule}}}]
    backendRefs:
    - name: v2
      port: 80
      filters: [{type: URLRewrite, urlRewrite: {hostname: backend.org}}]
",
        &[
            ("GET /a/x", "v1 | got /backend/x | got host rule.org"),
            ("GET /b/x?q", "v2 | got /rule?q | got host backend.org"),
        ],
    ),
    row(
        "matches of another type than a prefix, or several, have no prefix to replace",
        "
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {type: Exact, value: /a}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]
    backendRefs: [{name: v1, port: 80}]
---
kind: HTTPRoute
metadata: {name: b}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules:
  - matches: [{path: {value: /a}}, {path: {value: /b}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /a", "c")],
    )
    .says(&[
        "a refused spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch",
        "b refused spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch",
    ]),
];

#[tokio::test]
async fn rewrites() {
    run(TABLE).await;
}
