//! What each of the mesh conformance tests of Gateway API v1.6 is about.

use super::Table;

/// What a rule says of the fields of a request, for a rule and for a backend.
const HEADERS: &[&str] = &[
    "GET http://fruit/set x-other:o => 200 by:one saw:x-set=ours saw:x-other=o",
    "GET http://fruit/set x-set:theirs => 200 saw:x-set=ours",
    "GET http://fruit/add => 200 saw:x-add=ours",
    "GET http://fruit/add x-add:theirs => 200 saw:x-add=theirs,ours",
    "GET http://fruit/remove x-remove:theirs x-other:o => 200 unseen:x-remove saw:x-other=o",
    "GET http://fruit/all x-set-b:t x-add-b:t x-remove-b:t x-other:o => 200 by:one saw:x-set-a=1 saw:x-set-b=2 saw:x-add-a=1 saw:x-add-b=t,2 \
     unseen:x-remove-a unseen:x-remove-b saw:x-other=o",
    "GET http://fruit/all X-SET-A:t X-aDD-a:t X-Remove-A:t => 200 saw:x-set-a=1 saw:x-add-a=t,1 unseen:x-remove-a",
];

/// Of the same rule, with one and with another status: `/plain` and `/host`.
macro_rules! redirect {
    ($of:literal, $status:literal) => {
        Table {
            of: $of,
            routes: &[concat!(
                "HTTPRoute market/r market/fruit:80\n",
                "- {matches: [{path: {value: /away}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: ",
                $status,
                "}}]}\n"
            )],
            asks: &[
                concat!("GET http://fruit/away/x?y => ", $status, " to:http://fruit/away/x?y"),
                concat!("POST http://fruit/away body:b => ", $status, " to:http://fruit/away"),
                "GET http://fruit/awayx => 404",
            ],
        }
    };
}

pub const TABLES: &[Table] = &[
    Table {
        of: "MeshBasic",
        routes: &[],
        asks: &["GET http://fruit/ => 200 by:one|two", "GET http://fruit/ times:40 => 200 share:one=4..36"],
    },
    Table {
        of: "MeshConsumerRoute",
        routes: &["HTTPRoute visitors/r market/one
- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Route, value: visitors}]}}]
  backendRefs: [{name: one, namespace: market, port: 80}]"],
        asks: &[
            "visitors> GET http://one.market/ => 200 by:one has:x-route=visitors",
            "GET http://one.market/ => 200 by:one lacks:x-route",
            "visitors> GET http://two.market/ => 200 by:two lacks:x-route",
        ],
    },
    Table {
        of: "MeshFrontend MeshFrontendHostname",
        routes: &["HTTPRoute market/r market/two
- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Route, value: two}]}}]
  backendRefs: [{name: two, port: 80}]"],
        asks: &[
            "GET http://two/ => 200 by:two has:x-route=two",
            "GET http://127.0.0.1:9524/ => 200 by:two lacks:x-route",
            "GET http://two/ host:one => 200 by:two has:x-route=two host:one",
            "GET http://one/ host:two => 200 by:one lacks:x-route host:two",
        ],
    },
    Table {
        of: "MeshPorts",
        routes: &[
            "HTTPRoute market/a market/one:80
- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Route, value: one}]}}]
  backendRefs: [{name: one, port: 80}]",
            "HTTPRoute market/b market/two
- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Route, value: two}]}}]
  backendRefs: [{name: two, port: 80}]",
        ],
        asks: &[
            "GET http://one/ => 200 by:one has:x-route=one",
            "GET http://one:8080/ => 200 by:one lacks:x-route",
            "GET http://two/ => 200 by:two has:x-route=two",
            "GET http://two:8080/ => 200 by:two has:x-route=two",
        ],
    },
    Table {
        of: "MeshTrafficSplit",
        routes: &["HTTPRoute market/r market/fruit
- {matches: [{path: {type: Exact, value: /one}}], backendRefs: [{name: one, port: 80}]}
- {matches: [{path: {type: Exact, value: /two}}], backendRefs: [{name: two, port: 80}]}"],
        asks: &[
            "GET http://fruit/one times:5 => 200 by:one",
            "GET http://fruit/two times:5 => 200 by:two",
            "GET http://fruit/two/ => 404",
        ],
    },
    Table {
        of: "MeshHTTPRouteSimpleSameNamespace",
        routes: &["HTTPRoute market/r market/fruit:80\n- backendRefs: [{name: one, port: 8080}]"],
        asks: &["GET http://fruit/ times:5 => 200 by:one"],
    },
    Table {
        of: "MeshHTTPRouteMatching",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: kind, value: one}]}]
  backendRefs: [{name: one, port: 8080}]
- matches: [{path: {type: PathPrefix, value: /two}}, {headers: [{name: kind, value: two}]}]
  backendRefs: [{name: two, port: 8080}]"],
        asks: &[
            "GET http://fruit/ => 200 by:one",
            "GET http://fruit/any => 200 by:one",
            "GET http://fruit/ Kind:one => 200 by:one",
            "GET http://fruit/two => 200 by:two",
            "GET http://fruit/two/any => 200 by:two",
            "GET http://fruit/two/ => 200 by:two",
            "GET http://fruit/ Kind:two => 200 by:two",
            "GET http://fruit/twofold => 200 by:one",
            "GET http://fruit/any/two => 200 by:one",
        ],
    },
    Table {
        of: "MeshHTTPRouteQueryParamMatching",
        routes: &["HTTPRoute market/r market/fruit:80
- {matches: [{queryParams: [{name: pet, value: cat}]}], backendRefs: [{name: one, port: 8080}]}
- {matches: [{queryParams: [{name: pet, value: dog}]}], backendRefs: [{name: two, port: 8080}]}
- {matches: [{path: {value: /a}, queryParams: [{name: pet, value: cat}]}], backendRefs: [{name: two, port: 8080}]}
- {matches: [{headers: [{name: kind, value: x}], queryParams: [{name: pet, value: cat}]}], backendRefs: [{name: two, port: 8080}]}
- matches:
  - {path: {value: /b}, queryParams: [{name: pet, value: cow}]}
  - {path: {value: /c}, headers: [{name: kind, value: z}], queryParams: [{name: pet, value: hen}]}
  backendRefs: [{name: one, port: 8080}]
- {matches: [{path: {value: /d}}], backendRefs: [{name: one, port: 8080}]}
- {matches: [{queryParams: [{name: pet, value: pig}]}], backendRefs: [{name: two, port: 8080}]}"],
        asks: &[
            "GET http://fruit/?pet=cat => 200 by:one",
            "GET http://fruit/?pet=dog => 200 by:two",
            "GET http://fruit/?pet=cat&more=1 => 200 by:one",
            "GET http://fruit/?more=1&pet=dog => 200 by:two",
            "GET http://fruit/?more=1 => 404",
            "GET http://fruit/?pet=ant => 404",
            "GET http://fruit/?pet=catdog => 404",
            "GET http://fruit/ => 404",
            "GET http://fruit/a?pet=cat => 200 by:two",
            "GET http://fruit/?pet=cat kind:x => 200 by:two",
            "GET http://fruit/b?pet=cow => 200 by:one",
            "GET http://fruit/c?pet=hen kind:z => 200 by:one",
            "GET http://fruit/?pet=cow => 404",
            "GET http://fruit/c?pet=hen => 404",
            "GET http://fruit/d?pet=pig => 200 by:one",
        ],
    },
    Table {
        of: "MeshHTTPRouteNamedRule",
        routes: &["HTTPRoute market/r market/fruit:80
- {name: first, matches: [{path: {value: /with-name}}], backendRefs: [{name: one, port: 8080}]}
- {matches: [{path: {value: /without}}], backendRefs: [{name: two, port: 8080}]}"],
        asks: &[
            "GET http://fruit/with-name => 200 by:one path:/with-name",
            "GET http://fruit/without => 200 by:two path:/without",
        ],
    },
    Table {
        of: "MeshHTTPRouteRequestHeaderModifier",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /set}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: ours}]}}]
  backendRefs: [{name: one, port: 8080}]
- matches: [{path: {value: /add}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Add, value: ours}]}}]
  backendRefs: [{name: one, port: 8080}]
- matches: [{path: {value: /remove}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Remove]}}]
  backendRefs: [{name: one, port: 8080}]
- matches: [{path: {value: /all}}]
  filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: X-Set-A, value: '1'}, {name: X-Set-B, value: '2'}]
      add: [{name: X-Add-A, value: '1'}, {name: X-Add-B, value: '2'}]
      remove: [X-Remove-A, X-Remove-B]
  backendRefs: [{name: one, port: 8080}]"],
        asks: HEADERS,
    },
    Table {
        of: "MeshHTTPRouteBackendRequestHeaderModifier",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /set}}]
  backendRefs:
  - {name: one, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: ours}]}}]}
- matches: [{path: {value: /add}}]
  backendRefs:
  - {name: one, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Add, value: ours}]}}]}
- matches: [{path: {value: /remove}}]
  backendRefs: [{name: one, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Remove]}}]}]
- matches: [{path: {value: /all}}]
  backendRefs:
  - name: one
    port: 8080
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set-A, value: '1'}, {name: X-Set-B, value: '2'}]
        add: [{name: X-Add-A, value: '1'}, {name: X-Add-B, value: '2'}]
        remove: [X-Remove-A, X-Remove-B]"],
        asks: HEADERS,
    },
    Table {
        of: "MeshHTTPRouteRewritePath",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /a/b}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {value: /gone}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {value: /whole}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {value: /whole/and}}]
  filters:
  - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: a}, {name: X-More, value: m}], remove: [X-Remove]}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {value: /a/and}}]
  filters:
  - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}}
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: a}, {name: X-More, value: m}], remove: [X-Remove]}
  backendRefs: [{name: one, port: 80}]"],
        asks: &[
            "GET http://fruit/a/b/c => 200 by:one path:/b/c",
            "GET http://fruit/gone/x => 200 by:one path:/x",
            "GET http://fruit/gone => 200 by:one path:/",
            "GET http://fruit/gone/?q => 200 by:one path:/?q",
            "GET http://fruit/whole/x => 200 by:one path:/one",
            "GET http://fruit/whole/and/x x-set:t x-more:t x-remove:t => 200 by:one path:/new saw:x-set=s saw:x-add=a saw:x-more=t,m unseen:x-remove",
            "GET http://fruit/a/and/x x-set:t x-more:t x-remove:t => 200 by:one path:/a/x saw:x-set=s saw:x-add=a saw:x-more=t,m unseen:x-remove",
        ],
    },
    Table {
        of: "MeshHTTPRouteRedirectHostAndStatus",
        routes: &["HTTPRoute market/r market/fruit:80
- {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: shop.example}}]}
- {matches: [{path: {value: /both}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: shop.example, statusCode: 301}}]}"],
        asks: &[
            "GET http://fruit/host => 302 to:http://shop.example/host",
            "GET http://fruit/both/x => 301 to:http://shop.example/both/x",
        ],
    },
    Table {
        of: "MeshHTTPRouteRedirectPath",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /old}}]
  filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
- matches: [{path: {value: /whole}}]
  filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
- matches: [{path: {value: /old-host}}]
  filters:
  - {type: RequestRedirect, requestRedirect: {hostname: shop.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
- matches: [{path: {value: /old-status}}]
  filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
- matches: [{path: {value: /whole-host}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: shop.example, path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
- matches: [{path: {value: /whole-status}}]
  filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /all}}}]"],
        asks: &[
            "GET http://fruit/old/x => 302 to:http://fruit/new/x",
            "GET http://fruit/whole/x/y => 302 to:http://fruit/all",
            "GET http://fruit/old-host => 302 to:http://shop.example/new",
            "GET http://fruit/old-status => 301 to:http://fruit/new",
            "GET http://fruit/whole-host => 302 to:http://shop.example/all",
            "GET http://fruit/whole-status => 301 to:http://fruit/all",
        ],
    },
    Table {
        of: "MeshHTTPRouteRedirectPort",
        routes: &["HTTPRoute market/r market/fruit:80
- {matches: [{path: {value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083}}]}
- {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083, hostname: shop.example}}]}
- {matches: [{path: {value: /status}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083, statusCode: 301}}]}
- matches: [{path: {value: /all}}]
  filters: [{type: RequestRedirect, requestRedirect: {port: 8083, hostname: shop.example, statusCode: 302}}]"],
        asks: &[
            "GET http://fruit/port => 302 to:http://fruit:8083/port",
            "GET http://fruit/host => 302 to:http://shop.example:8083/host",
            "GET http://fruit/status => 301 to:http://fruit:8083/status",
            "GET http://fruit/all => 302 to:http://shop.example:8083/all",
        ],
    },
    Table {
        of: "MeshHTTPRouteSchemeRedirect",
        routes: &["HTTPRoute market/r market/fruit:80
- {matches: [{path: {value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}
- {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: shop.example}}]}
- {matches: [{path: {value: /status}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}
- matches: [{path: {value: /all}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: shop.example, statusCode: 302}}]"],
        asks: &[
            "GET http://fruit/scheme => 302 to:https://fruit/scheme",
            "GET http://fruit/host => 302 to:https://shop.example/host",
            "GET http://fruit/status => 301 to:https://fruit/status",
            "GET http://fruit/all => 302 to:https://shop.example/all",
        ],
    },
    redirect!("MeshHTTPRoute303Redirect", "303"),
    redirect!("MeshHTTPRoute307Redirect", "307"),
    redirect!("MeshHTTPRoute308Redirect", "308"),
    Table {
        of: "MeshHTTPRouteWeight",
        routes: &["HTTPRoute market/r market/fruit:80
- backendRefs: [{name: one, port: 8080, weight: 70}, {name: two, port: 8080, weight: 30}]"],
        asks: &["GET http://fruit/ times:200 => 200 by:one|two share:two=30..90"],
    },
    Table {
        of: "MeshGRPCRouteWeight",
        routes: &["GRPCRoute market/r market/fruit:7070
- backendRefs: [{name: one, port: 7070, weight: 70}, {name: two, port: 7070, weight: 30}, {name: elsewhere, port: 7070, weight: 0}]"],
        asks: &["CALL grpc://fruit:7070/fruit.v1.Basket/Fill times:200 => 0 by:one|two share:two=30..90"],
    },
];
