//! Which requests a match is for (HTTPRouteMatch).

use super::Version::{Http1, Http2};
use super::{Row, row, run};

static PATHS: &[Row] = &[
    row(
        "an exact path is that path and no other; its query does not count",
        "
  - matches: [{path: {type: Exact, value: /one}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /one", "v1"),
            ("GET /one?q=1", "v1 | got /one?q=1"),
            ("GET /one?", "v1"),
            ("GET /one/", "404 no-route"),
            ("GET /one/two", "404 no-route"),
            ("GET /On%65", "404 no-route"),
            ("GET /on%65", "v1 | got /on%65"),
            ("GET /ONE", "404 no-route"),
            ("GET /", "404 no-route"),
            ("GET /one;v=1", "404 no-route"),
            ("GET /one%2F", "404 no-route"),
        ],
    ),
    row(
        "an exact path with a slash at its end is another one than without",
        "
  - matches: [{path: {type: Exact, value: /one/}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /one/", "v1"), ("GET /one", "404 no-route"), ("GET /one//", "404 no-route")],
    ),
    row(
        "the exact path / is the root alone",
        "
  - matches: [{path: {type: Exact, value: /}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /", "v1"), ("GET /?a", "v1"), ("GET /a", "404 no-route"), ("GET //", "404 no-route")],
    ),
    row(
        "a prefix is for whole elements of a path",
        "
  - matches: [{path: {type: PathPrefix, value: /foo/bar}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /foo/bar", "v1"),
            ("GET /foo/bar/", "v1"),
            ("GET /foo/bar/baz", "v1"),
            ("GET /foo/bar?q", "v1"),
            ("GET /foo/bar//x", "v1"),
            ("GET /foo/barbaz", "404 no-route"),
            ("GET /foo/bar%2Fbaz", "404 no-route"),
            ("GET /foo/bar;v", "404 no-route"),
            ("GET /foo", "404 no-route"),
            ("GET /foo//bar", "404 no-route"),
            ("GET /x/foo/bar", "404 no-route"),
        ],
    ),
    row(
        "a slash at the end of a prefix does not count",
        "
  - matches: [{path: {type: PathPrefix, value: /foo/}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /foo", "v1 | got /foo"),
            ("GET /foo/", "v1 | got /foo/"),
            ("GET /foo/x", "v1"),
            ("GET /fo", "404 no-route"),
        ],
    ),
    row(
        "the prefix / is for all, and so is a match that says nothing of the path, or a rule without matches",
        "
  - matches: [{path: {type: PathPrefix, value: /}, headers: [{name: a, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{name: a, value: '2'}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /any | a: 1", "v1"),
            ("GET / | a: 1", "v1"),
            ("OPTIONS * | a: 1", "v1 | got *"),
            ("GET /any | a: 2", "v2"),
            ("GET /any", "v3"),
            ("POST / | body 10", "v3"),
        ],
    ),
    row(
        "without a type, a path is a prefix",
        "
  - matches: [{path: {value: /foo}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /foo/x", "v1"), ("GET /foox", "404 no-route")],
    ),
    row(
        "a regular expression is for all of a path, without the query",
        "
  - matches: [{path: {type: RegularExpression, value: '/v[0-9]+/(a|b)'}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '/x.*'}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /v10/a", "v1"),
            ("GET /v1/b?c", "v1"),
            ("GET /v1/c", "404 no-route"),
            ("GET /v1/a/", "404 no-route"),
            ("GET /v1/ab", "404 no-route"),
            ("GET /0/v1/a", "404 no-route"),
            ("GET /x", "v2"),
            ("GET /x/y?z", "v2"),
            ("GET /y/x", "404 no-route"),
            ("GET /y?/x", "404 no-route"),
            ("GET /%78/y", "v2"),
        ],
    ),
    row(
        "paths are compared in their normal form, and go on as they came",
        "
  - matches: [{path: {type: Exact, value: '/caf%c3%a9'}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /~user}}]
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /caf%c3%a9", "v1 | got /caf%c3%a9"),
            ("GET /caf%C3%A9", "v1 | got /caf%C3%A9"),
            ("GET /%63af%c3%A9", "v1"),
            ("GET /%7euser/x", "v2 | got /%7euser/x"),
            ("GET /%7Euse%72", "v2"),
            ("GET /~user%2fx", "404 no-route"),
        ],
    ),
    row(
        "a path with dot segments, which would mean another one to some, is refused where rules go by paths",
        "
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /a/../b", "400 bad-request"),
            ("GET /a/%2e%2e/b", "400 bad-request"),
            ("GET /a/./b", "400 bad-request"),
            ("GET /a/.", "400 bad-request"),
            ("GET /a/..;x/b", "400 bad-request"),
            ("GET /a/...", "v1"),
            ("GET /a/.b", "v1"),
            ("GET /a?x=/../b", "v1"),
        ],
    ),
    row(
        "a path of many elements, an empty one among them, is found as a short one is, in a table that has an index",
        "
  - matches:
    - {path: {value: /1}}
    - {path: {value: /1/2}}
    - {path: {value: /1/2/3}}
    - {path: {value: /a}}
    - {path: {value: /b}}
    - {path: {type: Exact, value: /1/2}}
    - {path: {type: Exact, value: /1/2/}}
    backendRefs: [{name: v1, port: 80}]
  - matches:
    - {path: {type: Exact, value: /1/2/3/4}}
    - {path: {type: RegularExpression, value: '/c/.*'}}
    - {path: {value: /1/2/3/4/5}}
    backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /1/2/3/4", "v2"),
            ("GET /1/2/3/4/", "v1"),
            ("GET /1/2/3/4/5/6/7", "v2"),
            ("GET /1//2", "v1"),
            ("GET /12", "404 no-route"),
            ("GET /c/", "v2"),
            ("GET /c", "404 no-route"),
            ("GET //1", "404 no-route"),
        ],
    ),
];

#[tokio::test]
async fn paths() {
    run(PATHS).await;
}

static HEADERS: &[Row] = &[
    row(
        "a header's value is compared as a whole, its name without regard to upper and lower case",
        "
  - matches: [{headers: [{name: X-Version, value: two}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET / | x-version: two", "v2"),
            ("GET / | X-VERSION: two", "v2"),
            ("GET / | x-version: Two", "v1"),
            ("GET / | x-version: two!", "v1"),
            ("GET / | x-version: ", "v1"),
            ("GET / | x-versions: two", "v1"),
            ("GET /", "v1"),
        ],
    ),
    row(
        "a regular expression is for all of a value",
        "
  - matches: [{headers: [{type: RegularExpression, name: x-version, value: '[0-9]+|latest'}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET / | x-version: 17", "v2"),
            ("GET / | x-version: latest", "v2"),
            ("GET / | x-version: v17", "v1"),
            ("GET / | x-version: 17latest", "v1"),
            ("GET / | x-version: latests", "v1"),
            ("GET /", "v1"),
        ],
    ),
    row(
        "a header that comes in several lines is one value, with commas",
        "
  - matches: [{headers: [{name: x-list, value: 'a,b'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{type: RegularExpression, name: x-list, value: '(.*,)?c(,.*)?'}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET / | x-list: a | x-list: b", "v1 | got x-list: a, b"),
            ("GET / | x-list: a,b", "v1"),
            ("GET / | x-list: b | x-list: a", "v3"),
            ("GET / | x-list: x | x-list: c | x-list: y", "v2"),
            ("GET / | x-list: a", "v3"),
        ],
    ),
    row(
        "all conditions of a match must hold; of several on one header the first counts",
        "
  - matches:
    - headers: [{name: a, value: '1'}, {name: b, value: '1'}, {name: A, value: '2'}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET / | a: 1 | b: 1", "v1"),
            ("GET / | a: 1", "404 no-route"),
            ("GET / | b: 1", "404 no-route"),
            ("GET / | a: 2 | b: 1", "404 no-route"),
        ],
    ),
    row(
        "the host that a request names is a header, too, in whatever version it comes",
        "
  - matches: [{headers: [{name: Host, value: d.org}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{type: RegularExpression, name: host, value: 'e\\.org(:[0-9]+)?'}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET / | host: d.org", "v1 | got host d.org"),
            ("GET / | host: e.org:80", "v2"),
            ("GET / | host: d.org:80", "v3"),
            ("GET /", "v3"),
        ],
    ),
    row(
        "cookies are one value, also where they come in pieces",
        "
  - matches: [{headers: [{name: cookie, value: 'a=1; b=2'}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{type: RegularExpression, name: cookie, value: '(.*; ?)?canary=on(;.*)?'}]}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET / | cookie: a=1; b=2", "v1"),
            ("GET / | cookie: a=1 | cookie: b=2", "v1"),
            ("GET / | cookie: x=1 | cookie: canary=on | cookie: y=1", "v2"),
            ("GET / | cookie: canary=on; y", "v2"),
            ("GET / | cookie: canary=off", "v3"),
        ],
    ),
    row(
        "a name of the mesh's own, or of the connection, is refused: no rule ever sees such a header",
        "
  - matches: [{headers: [{name: tulle-reason, value: a}]}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET / | tulle-reason: a", "c | got no tulle-reason")],
    )
    .says(&["r refused spec.rules[0].matches[0].headers[0].name"]),
];

#[tokio::test]
async fn headers() {
    run(HEADERS).await;
}

static QUERIES: &[Row] = &[
    row(
        "a parameter's value is compared as a whole, its name letter by letter",
        "
  - matches: [{queryParams: [{name: animal, value: whale}]}]
    backendRefs: [{name: v1, port: 80}]
  - backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /?animal=whale", "v1"),
            ("GET /x?a=1&animal=whale&b", "v1 | got /x?a=1&animal=whale&b"),
            ("GET /?animal=whales", "v2"),
            ("GET /?animal=Whale", "v2"),
            ("GET /?Animal=whale", "v2"),
            ("GET /?animal", "v2"),
            ("GET /?animals=whale", "v2"),
            ("GET /?x=animal=whale", "v2"),
            ("GET /animal=whale", "v2"),
            ("GET /", "v2"),
        ],
    ),
    row(
        "what is encoded is what it stands for",
        "
  - matches: [{queryParams: [{name: q, value: 'a b&c'}]}]
    backendRefs: [{name: v1, port: 80}]
  - backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /?q=a+b%26c", "v1"),
            ("GET /?%71=a%20b%26c", "v1 | got /?%71=a%20b%26c"),
            ("GET /?q=a%2Bb%26c", "v2"),
            ("GET /?q=a+b&c", "v2"),
        ],
    ),
    row(
        "of a parameter that is there several times the first one counts",
        "
  - matches: [{queryParams: [{name: a, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
  - backendRefs: [{name: v2, port: 80}]
",
        &[("GET /?a=1&a=2", "v1"), ("GET /?a=2&a=1", "v2"), ("GET /?a=&a=1", "v2"), ("GET /?a&a=1", "v2")],
    ),
    row(
        "a regular expression is for all of a value, which may be empty, but has to be there",
        "
  - matches: [{queryParams: [{type: RegularExpression, name: a, value: '[0-9]*'}]}]
    backendRefs: [{name: v1, port: 80}]
  - backendRefs: [{name: v2, port: 80}]
",
        &[
            ("GET /?a=17", "v1"),
            ("GET /?a=", "v1"),
            ("GET /?a", "v1"),
            ("GET /?a=1x", "v2"),
            ("GET /?b", "v2"),
            ("GET /?", "v2"),
        ],
    ),
    row(
        "all conditions of a match must hold",
        "
  - matches: [{queryParams: [{name: a, value: '1'}, {name: b, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET /?b=1&a=1", "v1"), ("GET /?a=1", "404 no-route"), ("GET /?a=2&b=1", "404 no-route")],
    ),
];

static TWICE: &[Row] = &[row(
    "no two conditions of a match have one name",
    "
kind: HTTPRoute
metadata: {name: h}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{matches: [{headers: [{name: a, value: '1'}, {name: a, value: '2'}]}]}]
---
kind: HTTPRoute
metadata: {name: q}
spec:
  parentRefs: [{group: '', kind: Service, name: c}]
  rules: [{matches: [{queryParams: [{name: a, value: '1'}, {name: a, value: '2'}]}]}]
",
    &[("GET /?a=1 | a: 1", "c")],
)
.says(&[
    "h refused spec.rules[0].matches[0].headers[1]",
    "q refused spec.rules[0].matches[0].queryParams[1]",
])];

#[tokio::test]
async fn queries() {
    run(QUERIES).await;
    run(TWICE).await;
}

static METHODS: &[Row] = &[
    row(
        "a method is that one alone",
        "
  - matches: [{method: GET}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{method: POST}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{method: HEAD}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET /", "v1"),
            ("POST / | body 5", "v2"),
            ("HEAD /", "v3"),
            ("PUT / | body 5", "404 no-route"),
            ("DELETE /", "404 no-route"),
            ("OPTIONS /", "404 no-route"),
            ("get /", "404 no-route"),
            ("GETS /", "404 no-route"),
        ],
    ),
    row(
        "an upgrade is a GET, as HTTP/1 has it",
        "
  - matches: [{method: GET}]
    backendRefs: [{name: v1, port: 80}]
",
        &[("GET / | connection: upgrade | upgrade: thing", "v1 | got upgrade: thing")],
    )
    .only(Http1, "HTTP/2 has no upgrades but extended CONNECT, which hyper's client does not speak"),
    row(
        "one match of several is enough, and what they ask for is asked for by each alone",
        "
  - matches:
    - {path: {value: /a}, method: GET}
    - {path: {value: /b}}
    - {headers: [{name: x, value: '1'}]}
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("GET /a", "v1"),
            ("POST /a", "404 no-route"),
            ("POST /b", "v1"),
            ("GET /c", "404 no-route"),
            ("GET /c | x: 1", "v1"),
        ],
    ),
    row(
        "path, method, header and parameter of one match must all hold",
        "
  - matches:
    - path: {type: Exact, value: /a}
      method: PUT
      headers: [{name: x, value: '1'}]
      queryParams: [{name: q, value: '2'}]
    backendRefs: [{name: v1, port: 80}]
",
        &[
            ("PUT /a?q=2 | x: 1 | body 3", "v1"),
            ("PUT /a?q=2 | body 3", "404 no-route"),
            ("PUT /a | x: 1 | body 3", "404 no-route"),
            ("GET /a?q=2 | x: 1", "404 no-route"),
            ("PUT /b?q=2 | x: 1", "404 no-route"),
        ],
    ),
    row(
        "a client's version goes on where nothing else is declared, and what is declared where that is",
        "
  - matches: [{path: {value: /1}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /2}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /3}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[("GET /1", "v1 | got HTTP/2.0"), ("GET /2", "v2 | got HTTP/1.1"), ("GET /3", "v3 | got HTTP/2.0")],
    )
    .only(Http2, "a client of HTTP/1 is spoken for otherwise"),
    row(
        "the same where the node knows those Services, as its workloads use them",
        "
  - matches: [{path: {value: /2}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /3}}]
    backendRefs: [{name: v3, port: 80}]
",
        &[
            ("GET / | to v2:80", "v2 | got HTTP/1.1"),
            ("GET / | to v3:80", "v3 | got HTTP/2.0"),
            ("GET /2", "v2 | got HTTP/1.1"),
            ("GET /3", "v3 | got HTTP/2.0"),
        ],
    ),
];

#[tokio::test]
async fn methods_and_several_conditions() {
    run(METHODS).await;
}
