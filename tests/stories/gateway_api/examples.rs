//! What each of the route examples of Gateway API v1.6 is about, with a Service as the parent in place of a Gateway.

use super::Table;

pub const TABLES: &[Table] = &[
    Table {
        of: "standard/basic-http",
        routes: &["HTTPRoute market/r market/fruit:80 hostnames=shop.example
- {matches: [{path: {type: PathPrefix, value: /one}}], backendRefs: [{name: one, port: 8080}]}
- matches:
  - path: {type: PathPrefix, value: /some/thing}
    method: GET
    headers: [{type: Exact, name: magic, value: wand}]
    queryParams: [{type: Exact, name: how, value: great}]
  backendRefs: [{name: two, port: 8080}]"],
        asks: &[
            "GET http://fruit/one/x => 200 by:one",
            "GET http://fruit/one host:other.example => 200 by:one",
            "GET http://fruit/some/thing?how=great magic:wand => 200 by:two",
            "POST http://fruit/some/thing?how=great magic:wand => 404",
            "GET http://fruit/some/thing?how=great => 404",
            "GET http://fruit/some/thing magic:wand => 404",
            "GET http://fruit/some?how=great magic:wand => 404",
        ],
    },
    Table {
        of: "standard/basic-grpc standard/grpc-routing/foo-grpcroute standard/grpc-routing/reflection-grpcroute",
        routes: &["GRPCRoute market/r market/fruit:7070 hostnames=shop.example
- {matches: [{method: {service: fruit.v1.User, method: Login}}], backendRefs: [{name: one, port: 7070}]}
- matches: [{method: {service: fruit.v1.Things, method: Do}, headers: [{type: Exact, name: magic, value: wand}]}]
  backendRefs: [{name: two, port: 7070}]
- {matches: [{method: {service: fruit.v1.Reflection}}], backendRefs: [{name: two, port: 7070}]}"],
        asks: &[
            "CALL grpc://fruit:7070/fruit.v1.User/Login => 0 by:one",
            "CALL grpc://fruit:7070/fruit.v1.Things/Do magic:wand => 0 by:two",
            "CALL grpc://fruit:7070/fruit.v1.Reflection/Any => 0 by:two",
            "CALL grpc://fruit:7070/fruit.v1.User/Logout => 12",
            "CALL grpc://fruit:7070/fruit.v1.Things/Do => 12",
        ],
    },
    Table {
        of: "standard/grpc-filter",
        routes: &["GRPCRoute market/r market/fruit:7070
- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-added, value: here}]}}]
  backendRefs: [{name: one, port: 7070, weight: 1}]"],
        asks: &["CALL grpc://fruit:7070/a.B/C => 0 by:one saw:x-added=here"],
    },
    Table {
        of: "standard/grpc-routing/bar-grpcroute",
        routes: &["GRPCRoute market/r market/fruit:7070
- {matches: [{headers: [{name: stage, value: canary}]}], backendRefs: [{name: two, port: 7070}]}
- backendRefs: [{name: one, port: 7070}]"],
        asks: &[
            "CALL grpc://fruit:7070/a.B/C stage:canary => 0 by:two",
            "CALL grpc://fruit:7070/a.B/C stage:other => 0 by:one",
        ],
    },
    Table {
        of: "standard/grpc-routing/gateway",
        routes: &["GRPCRoute market/r market/fruit:7070\n- backendRefs: [{name: one, port: 7070}]"],
        asks: &["CALL grpc://fruit:7070/a.B/C times:5 => 0 by:one path:/a.B/C"],
    },
    Table {
        of: "standard/traffic-splitting/grpc-traffic-split-2",
        routes: &["GRPCRoute market/r market/fruit:7070
- backendRefs: [{name: one, port: 7070, weight: 90}, {name: two, port: 7070, weight: 10}]"],
        asks: &["CALL grpc://fruit:7070/a.B/C times:100 => 0 by:one|two share:two=1..30"],
    },
    Table {
        of: "standard/traffic-splitting/simple-split standard/traffic-splitting/traffic-split-2",
        routes: &["HTTPRoute market/r market/fruit:80
- backendRefs: [{name: one, port: 8080, weight: 90}, {name: two, port: 8080, weight: 10}]"],
        asks: &["GET http://fruit/ times:100 => 200 by:one|two share:two=1..30"],
    },
    Table {
        of: "standard/traffic-splitting/traffic-split-1",
        routes: &["HTTPRoute market/r market/fruit:80
- backendRefs: [{name: one, port: 8080}]
- {matches: [{headers: [{name: traffic, value: test}]}], backendRefs: [{name: two, port: 8080}]}"],
        asks: &["GET http://fruit/ => 200 by:one", "GET http://fruit/ traffic:test => 200 by:two"],
    },
    Table {
        of: "standard/traffic-splitting/traffic-split-3",
        routes: &["HTTPRoute market/r market/fruit:80
- backendRefs: [{name: one, port: 8080, weight: 0}, {name: two, port: 8080, weight: 1}]"],
        asks: &["GET http://fruit/ times:30 => 200 by:two"],
    },
    Table {
        of: "standard/cross-namespace-routing/site-route standard/cross-namespace-routing/store-route standard/http-route-attachment/httproute",
        routes: &[
            "HTTPRoute market/home market/fruit:80\n- backendRefs: [{name: one, port: 8080}]",
            "HTTPRoute market/login market/fruit:80
- matches: [{path: {value: /login}}]
  backendRefs: [{name: one, port: 8080, weight: 90}, {name: two, port: 8080, weight: 10}]",
            "HTTPRoute visitors/store market/fruit:80
- {matches: [{path: {value: /store}}], backendRefs: [{name: elsewhere, port: 80}]}",
        ],
        asks: &[
            "GET http://fruit/ => 200 by:one",
            "GET http://fruit/login times:100 => 200 share:two=1..30",
            "GET http://fruit/store => 200 by:one",
            "visitors> GET http://fruit.market/store/x => 200 by:elsewhere",
            "visitors> GET http://fruit.market/ => 404",
        ],
    },
    Table {
        of: "standard/default-match-http",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{headers: [{type: Exact, name: magic, value: wand}]}]
  backendRefs: [{group: shop.example, kind: Shelf, name: one, port: 8080}]
- {matches: [{path: {type: Exact, value: /exact/ly}}], backendRefs: [{name: two, port: 8080}]}"],
        asks: &[
            "GET http://fruit/x magic:wand => 500 reason:invalid-backend",
            "GET http://fruit/exact/ly => 200 by:two",
            "GET http://fruit/exact/ly/ => 404",
        ],
    },
    Table {
        of: "standard/http-cors/httproute-all-fields-set",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {type: PathPrefix, value: /api}}]
  backendRefs: [{name: one, port: 8080}]
  filters:
  - type: CORS
    cors:
      allowOrigins: ['https://www.shop.example', 'https://*.fruit.example']
      allowMethods: [GET, OPTIONS]
      allowHeaders: ['*']
      exposeHeaders: [x-a, x-b]
      allowCredentials: true
      maxAge: 3600"],
        asks: &[
            "OPTIONS http://fruit/api origin:https://a.fruit.example access-control-request-method:GET access-control-request-headers:x-c \
             => 200|204 has:access-control-allow-origin=https://a.fruit.example has:access-control-allow-headers=x-c \
             has:access-control-allow-credentials=true has:access-control-max-age=3600",
            "GET http://fruit/api origin:https://www.shop.example => 200 by:one has:access-control-allow-origin=https://www.shop.example",
            "GET http://fruit/api origin:https://fruit.example => 200 lacks:access-control-allow-origin",
        ],
    },
    Table {
        of: "standard/http-cors/httproute-all-origins-no-creds",
        routes: &["HTTPRoute market/r market/fruit:80
- filters: [{type: CORS, cors: {allowOrigins: ['*'], allowCredentials: false}}]
  backendRefs: [{name: one, port: 8080}]"],
        asks: &[
            "GET http://fruit/ origin:https://any.example => 200 has:access-control-allow-origin=* lacks:access-control-allow-credentials",
        ],
    },
    Table {
        of: "standard/http-cors/httproute-credentials-true standard/http-cors/httproute-specific-origin-no-creds",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /with}}]
  filters: [{type: CORS, cors: {allowOrigins: ['https://app.example'], allowCredentials: true}}]
  backendRefs: [{name: one, port: 8080}]
- matches: [{path: {value: /without}}]
  filters: [{type: CORS, cors: {allowOrigins: ['https://app.example'], allowCredentials: false}}]
  backendRefs: [{name: one, port: 8080}]"],
        asks: &[
            "GET http://fruit/with origin:https://app.example => 200 has:access-control-allow-origin=https://app.example \
             has:access-control-allow-credentials=true",
            "GET http://fruit/without origin:https://app.example => 200 has:access-control-allow-origin=https://app.example \
             lacks:access-control-allow-credentials",
            "GET http://fruit/with origin:https://app.example:8443 => 200 lacks:access-control-allow-origin",
        ],
    },
    Table {
        of: "standard/http-cors/httproute-origins-with-wildcards-no-creds",
        routes: &["HTTPRoute market/r market/fruit:80
- filters:
  - type: CORS
    cors: {allowOrigins: ['https://www.shop.example', 'https://*.a.example', 'https://*.b.example'], allowCredentials: false}
  backendRefs: [{name: one, port: 8080}]"],
        asks: &[
            "GET http://fruit/ origin:https://www.shop.example => 200 has:access-control-allow-origin=https://www.shop.example",
            "GET http://fruit/ origin:https://x.b.example => 200 has:access-control-allow-origin=https://x.b.example",
            "GET http://fruit/ origin:http://x.b.example => 200 lacks:access-control-allow-origin",
        ],
    },
    Table {
        of: "standard/http-filter standard/http-request-header-add standard/http-request-header-remove standard/http-request-header-set",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /add}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-name, value: ours}]}}]
  backendRefs: [{name: one, port: 80, weight: 1}]
- matches: [{path: {value: /remove}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-request-id]}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {value: /set}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-name, value: ours}]}}]
  backendRefs: [{name: one, port: 80}]"],
        asks: &[
            "GET http://fruit/add x-name:theirs => 200 by:one saw:x-name=theirs,ours",
            "GET http://fruit/remove x-request-id:1 => 200 unseen:x-request-id",
            "GET http://fruit/set x-name:theirs => 200 saw:x-name=ours",
        ],
    },
    Table {
        of: "experimental/http-response-header",
        routes: &["HTTPRoute market/r market/fruit:80
- filters:
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      add: [{name: X-A, value: '1'}, {name: X-B, value: '2'}, {name: Content-Disposition, value: attachment;filename=\"a.txt\"}]
  backendRefs: [{name: one, port: 8080}]"],
        asks: &[
            "GET http://fruit/ x-answer-set:x-a=0 => 200 by:one has:x-a=0,1 has:x-b=2 has:content-disposition=attachment;filename=\"a.txt\"",
        ],
    },
    Table {
        of: "experimental/http-route-rule-name",
        routes: &["HTTPRoute market/r market/fruit:80
- {name: reading, matches: [{method: GET}], backendRefs: [{name: one, port: 8080}]}
- {name: writing, matches: [{method: POST}, {method: PATCH}, {method: DELETE}], backendRefs: [{name: two, port: 8080}]}"],
        asks: &[
            "GET http://fruit/ => 200 by:one",
            "POST http://fruit/ => 200 by:two",
            "DELETE http://fruit/x => 200 by:two",
            "PUT http://fruit/ => 404",
        ],
    },
    Table {
        of: "experimental/http-route-timeouts/timeout-example",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {type: PathPrefix, value: /slow}}]
  timeouts: {request: 10s, backendRequest: 200ms}
  backendRefs: [{name: one, port: 8080}]"],
        asks: &[
            "GET http://fruit/slow => 200 by:one",
            "GET http://fruit/slow x-answer-after:1 => 504 reason:timeout",
        ],
    },
    Table {
        of: "standard/http-redirect-path standard/http-redirect-rewrite/httproute-redirect-303 standard/http-redirect-rewrite/httproute-redirect-307 \
             standard/http-redirect-rewrite/httproute-redirect-308 standard/http-redirect-rewrite/httproute-redirect-full \
             standard/http-redirect-rewrite/httproute-redirect-prefix",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {type: Exact, value: /form}, method: POST}]
  filters: [{type: RequestRedirect, requestRedirect: {statusCode: 303, path: {type: ReplaceFullPath, replaceFullPath: /thanks}}}]
- matches: [{path: {value: /v1}}]
  filters: [{type: RequestRedirect, requestRedirect: {statusCode: 307, path: {type: ReplaceFullPath, replaceFullPath: /v2}}}]
- matches: [{path: {value: /old}}]
  filters: [{type: RequestRedirect, requestRedirect: {statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
- matches: [{path: {value: /salt}}]
  filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302, path: {type: ReplacePrefixMatch, replacePrefixMatch: /pepper}}}]
- filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /rest}}}]"],
        asks: &[
            "POST http://fruit/form body:b => 303 to:http://fruit/thanks",
            "GET http://fruit/form => 302 to:http://fruit/rest",
            "PUT http://fruit/v1/x?q => 307 to:http://fruit/v2?q",
            "GET http://fruit/old/x => 308 to:http://fruit/new",
            "GET http://fruit/salt/x => 302 to:http://fruit/pepper/x",
            "GET http://fruit/any => 302 to:http://fruit/rest",
        ],
    },
    Table {
        of: "standard/http-redirect standard/http-redirect-rewrite/httproute-redirect-http standard/http-redirect-rewrite/httproute-redirect-https \
             standard/simple-http-https/tls-redirect-route standard/simple-http-https/foo-route standard/simple-http-https/bar-route",
        routes: &[
            "HTTPRoute market/a market/one:80
- matches: [{path: {value: /moved}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
- filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443}}]",
            "HTTPRoute market/b market/one:8080
- {matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: one, port: 80, weight: 1}]}
- {matches: [{path: {type: PathPrefix, value: /orders}}], backendRefs: [{name: two, port: 80}]}",
        ],
        asks: &[
            "GET http://one/moved => 301 to:https://one/moved",
            "GET http://one/x?q => 302 to:https://one/x?q",
            "GET http://one:8080/x => 200 by:one",
            "GET http://one:8080/orders/1 => 200 by:two",
        ],
    },
    Table {
        of: "standard/http-redirect-rewrite/httproute-rewrite standard/http-redirect-rewrite/httproute-rewrite-full-path \
             standard/http-redirect-rewrite/httproute-rewrite-prefix-path",
        routes: &["HTTPRoute market/r market/fruit:80
- matches: [{path: {value: /full}}]
  filters: [{type: URLRewrite, urlRewrite: {hostname: else.example, path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
  backendRefs: [{name: one, port: 80, weight: 1}]
- matches: [{path: {value: /prefix}}]
  filters: [{type: URLRewrite, urlRewrite: {hostname: else.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  backendRefs: [{name: one, port: 80, weight: 1}]
- filters: [{type: URLRewrite, urlRewrite: {hostname: else.example}}]
  backendRefs: [{name: one, port: 80, weight: 1}]"],
        asks: &[
            "GET http://fruit/x/y?q => 200 by:one host:else.example path:/x/y?q",
            "GET http://fruit/full/x => 200 host:else.example path:/all",
            "GET http://fruit/prefix/x => 200 host:else.example path:/new/x",
        ],
    },
    Table {
        of: "standard/http-rewrite",
        routes: &["HTTPRoute market/r market/fruit:80
- filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /foo}}}]"],
        asks: &["GET http://fruit/x => 500 reason:invalid-backend"],
    },
    Table {
        of: "standard/http-request-mirroring/httproute-mirroring",
        routes: &["HTTPRoute market/r market/fruit:80
- backendRefs: [{name: one, port: 8080}]
  filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, port: 8080}}}]"],
        asks: &[
            "GET http://fruit/ x-id:kept times:5 => 200 by:one",
            // By the workload's own address: what has come there is counted.
            "GET http://127.0.0.1:9524/_count/kept => 200 by:two count:1",
        ],
    },
    Table {
        of: "standard/http-routing/bar-httproute standard/http-routing/foo-httproute standard/http-routing/gateway standard/simple-gateway/httproute",
        routes: &["HTTPRoute market/r market/fruit:80 hostnames=bar.example
- {matches: [{headers: [{type: Exact, name: stage, value: canary}]}], backendRefs: [{name: two, port: 8080}]}
- {matches: [{path: {type: PathPrefix, value: /login}}], backendRefs: [{name: two, port: 8080}]}
- backendRefs: [{name: one, port: 8080}]"],
        asks: &[
            "GET http://fruit/ stage:canary host:bar.example => 200 by:two",
            "GET http://fruit/login => 200 by:two",
            "GET http://fruit/ => 200 by:one",
        ],
    },
    Table {
        of: "standard/httproute",
        routes: &["HTTPRoute market/r market/fruit:80
- {matches: [{path: {type: PathPrefix, value: /mine}}], backendRefs: [{name: one, port: 8080}]}
- {matches: [{path: {type: PathPrefix, value: /mine-too}}], backendRefs: [{name: two, port: 8080}]}
- {matches: [{path: {type: PathPrefix, value: /a%20blank/1}}], backendRefs: [{name: two, port: 8080}]}"],
        asks: &[
            "GET http://fruit/mine/x => 200 by:one",
            "GET http://fruit/mine-too/x => 200 by:two",
            "GET http://fruit/mine-three => 404",
            "GET http://fruit/a%20blank/1/2 => 200 by:two",
            "GET http://fruit/a%20blank => 404",
        ],
    },
    Table {
        of: "standard/tcp-routing/tcp-route standard/basic-tcp experimental/basic-tcp",
        routes: &[
            "TCPRoute market/a market/one:9090\n- backendRefs: [{name: two, port: 9090}]",
            "TCPRoute market/b market/fruit:9090 version=v1alpha2\n- backendRefs: [{name: one, port: 9090}]",
        ],
        asks: &["OPEN tcp://one:9090 => 0 by:two", "OPEN tcp://fruit:9090 times:5 => 0 by:one"],
    },
    Table {
        of: "standard/tls-routing/tls-route experimental/v1alpha3/tls-routing/tls-route",
        routes: &[
            "TLSRoute market/a market/secret:443 hostnames=foo.example\n- backendRefs: [{name: secret, port: 444}]",
            "TLSRoute market/b market/secret:443 hostnames=bar.example version=v1alpha3\n- backendRefs: [{name: secret, port: 443}]",
        ],
        asks: &[
            "OPEN tls://secret:443 sni:foo.example => 0 by:secret-two",
            "OPEN tls://secret:443 sni:bar.example => 0 by:secret-one",
            "OPEN tls://secret:443 sni:baz.example => reset",
        ],
    },
];
