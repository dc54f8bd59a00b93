//! Calls that are refused, where, and with what words.

use super::*;

/// A call with those arguments beside the method.
fn call(with: &str) -> String {
    format!("do: [{{a: {{call: http, with: {{method: get, {with}}}}}}}]\nuse: {{secrets: [shop]}}")
}

#[test]
fn calls() {
    check(&[
        (
            "do: [{a: {call: http}}]",
            "/do/0/a/with",
            "is missing, and is required: the method and the endpoint",
        ),
        ("do: [{a: {call: 1}}]", "/do/0/a/call", "expected a text"),
        (
            "do: [{a: {call: htpp}}]",
            "/do/0/a/call",
            "is neither `http` nor one of `use.functions`; did you mean `http`?",
        ),
        ("do: [{a: {call: ff}}]\nuse: {functions: {f: {set: {x: 1}}}}", "/do/0/a/call", "did you mean `f`?"),
        (
            "do: [{a: {call: f, with: 1}}]\nuse: {functions: {f: {set: {x: 1}}}}",
            "/do/0/a/with",
            "expected an object",
        ),
        ("do: [{a: {call: grpc, with: {}}}]", "/do/0/a/call", "calls of gRPC come later"),
        ("do: [{a: {call: openapi, with: {}}}]", "/do/0/a/call", "come later"),
        ("do: [{a: {call: asyncapi, with: {}}}]", "/do/0/a/call", "a broker of messages"),
        ("do: [{a: {call: a2a, with: {}}}]", "/do/0/a/call", "`call: http` sends its requests"),
        ("do: [{a: {call: mcp, with: {}}}]", "/do/0/a/call", "`call: http` sends its requests"),
        ("do: [{a: {call: 'log:1.0.0@shared', with: {}}}]", "/do/0/a/call", "a function of a catalog"),
        ("do: [{a: {call: 'https://x/function.yaml'}}]", "/do/0/a/call", "a function by its URL"),
        ("do: [{a: {call: http, with: {endpoint: 'http://s/'}}}]", "/do/0/a/with/method", "is missing"),
        (
            "do: [{a: {call: http, with: {method: 'a b', endpoint: 'http://s/'}}}]",
            "/do/0/a/with/method",
            "is no method of HTTP",
        ),
    ]);
    for (with, at, message) in [
        ("a: b, endpoint: 'http://s/'", "/a", "there is no field `a` here"),
        ("uri: 'http://s/'", "/endpoint", "is missing"),
        ("endpoint: 1", "/endpoint", "expected a URI, or an object with `uri`"),
        ("endpoint: orders", "/endpoint", "`orders` is no URI"),
        ("endpoint: '//orders/'", "/endpoint", "is no URI"),
        ("endpoint: 'file:/etc/passwd'", "/endpoint", "the files of a runner's host"),
        ("endpoint: 'ftp://orders/'", "/endpoint", "another scheme than `http` and `https`"),
        ("endpoint: 'http://orders/{+x}'", "/endpoint", "an operator"),
        ("endpoint: 'http://orders/${ .x }'", "/endpoint", "an expression within other text"),
        ("endpoint: {}", "/endpoint/uri", "is missing"),
        ("endpoint: {url: 'http://s/', uri: 'http://s/'}", "/endpoint/url", "there is no field `url` here"),
        ("endpoint: 'http://s/', headers: {a b: c}", "/headers/a b", "is no name of a header"),
        ("endpoint: 'http://s/', headers: {a: 1}", "/headers/a", "write it in quotes: \"1\""),
        ("endpoint: 'http://s/', headers: []", "/headers", "expected an object"),
        ("endpoint: 'http://s/', headers: nothing", "/headers", "expected an object"),
        ("endpoint: 'http://s/', query: {a: {}}", "/query/a", "expected a text, a number, true or false"),
        (
            "endpoint: 'http://s/', output: json",
            "/output",
            "is none of the values that are possible: `content`, `raw`, `response`",
        ),
        ("endpoint: 'http://s/', redirect: 'yes'", "/redirect", "expected true or false"),
    ] {
        let found = problems(&document(&call(with)));
        let pointer = format!("/do/0/a/with{at}");
        let missing = with.starts_with("uri:");
        let expected = found.iter().any(|(at, said)| *at == pointer && said.contains(message));
        assert!(expected && (found.len() == 1 || missing), "{with}: {found:#?}");
    }
}

#[test]
fn authentications() {
    let oauth2 = "authority: 'https://login/', grant: client_credentials, client: {id: a, secret: b}";
    let without = |what: &str| oauth2.replace(what, "");
    for (policy, at, message) in [
        ("shop".to_owned(), "", "expected an object"),
        ("{}".to_owned(), "", "says nothing: expected `basic`"),
        ("{use: a}".to_owned(), "/use", "there is no `a` in `use.authentications`"),
        ("{use: a, basic: {}}".to_owned(), "/basic", "expected one of `use`"),
        ("{basik: {}}".to_owned(), "/basik", "did you mean `basic`?"),
        ("{basic: {use: shop}, bearer: {use: shop}}".to_owned(), "/bearer", "cannot be beside `basic`"),
        ("{digest: {username: a, password: b}}".to_owned(), "/digest", "it rests on MD5"),
        ("{certificate: {}}".to_owned(), "/certificate", "the Flow's own identity"),
        ("{basic: {username: a}}".to_owned(), "/basic/password", "is missing"),
        (
            "{basic: {use: shopp}}".to_owned(),
            "/basic/use",
            "there is no `shopp` in `use.secrets`; did you mean `shop`?",
        ),
        ("{basic: {use: shop, username: a}}".to_owned(), "/basic/username", "expected one of `use`"),
        ("{bearer: {}}".to_owned(), "/bearer/token", "is missing"),
        ("{bearer: {token: 1}}".to_owned(), "/bearer/token", "expected a text"),
        ("{oauth2: {use: nothing}}".to_owned(), "/oauth2/use", "in `use.secrets`"),
        (
            format!("{{oauth2: {{{}}}}}", without("authority: 'https://login/', ")),
            "/oauth2/authority",
            "is missing",
        ),
        (
            format!("{{oauth2: {{{}}}}}", without("grant: client_credentials, ")),
            "/oauth2/grant",
            "is missing",
        ),
        (format!("{{oauth2: {{{}}}}}", without("id: a, ")), "/oauth2/client/id", "is missing"),
        (
            format!("{{oauth2: {{{}}}}}", oauth2.replace("client_credentials", "password")),
            "/oauth2/grant",
            "a Flow acts for itself",
        ),
        (
            format!("{{oauth2: {{{}}}}}", oauth2.replace("client_credentials", "credentials")),
            "/oauth2/grant",
            "is none of the values",
        ),
        (format!("{{oauth2: {{{oauth2}, username: a}}}}"), "/oauth2/username", "a `grant` other than"),
        (
            format!("{{oauth2: {{{}}}}}", oauth2.replace("id: a", "id: a, authentication: private_key_jwt")),
            "/oauth2/client/authentication",
            "a client shows its secret",
        ),
        (
            format!("{{oauth2: {{{}}}}}", oauth2.replace("id: a", "id: a, assertion: x")),
            "/oauth2/client/assertion",
            "a client shows its secret",
        ),
        (
            format!("{{oauth2: {{{oauth2}, endpoints: {{token: 'http://x/'}}}}}}"),
            "/oauth2/endpoints/token",
            "is no path at the authority",
        ),
        (
            format!("{{oidc: {{{oauth2}, endpoints: {{token: /x}}}}}}"),
            "/oidc/endpoints",
            "there is no field `endpoints`",
        ),
        (
            format!("{{oauth2: {{{oauth2}, request: {{encoding: text/plain}}}}}}"),
            "/oauth2/request/encoding",
            "is none of the values",
        ),
        (format!("{{oauth2: {{{oauth2}, issuers: [login]}}}}"), "/oauth2/issuers/0", "is no URI"),
        (format!("{{oauth2: {{{oauth2}, scopes: api}}}}"), "/oauth2/scopes", "expected a list"),
        (format!("{{oauth2: {{{oauth2}, audiences: [1]}}}}"), "/oauth2/audiences/0", "expected a text"),
    ] {
        let found =
            problems(&document(&call(&format!("endpoint: {{uri: 'http://s/', authentication: {policy}}}"))));
        let pointer = format!("/do/0/a/with/endpoint/authentication{at}");
        let expected = matches!(&found[..], [(at, said)] if *at == pointer && said.contains(message));
        assert!(expected, "{policy}\nexpected {pointer}: {message}\nfound {found:#?}");
    }
}

#[test]
fn methods_are_mistyped_or_of_ones_own() {
    let with = |method: &str| {
        format!("do: [{{a: {{call: http, with: {{method: {method}, endpoint: 'http://s/'}}}}}}]")
    };
    for (method, meant) in
        [("pots", "post"), ("GTE", "get"), ("delte", "delete"), ("pathc", "patch"), ("option", "options")]
    {
        let message = format!("is no method of HTTP that is known; did you mean `{meant}`?");
        check(&[(&with(method), "/do/0/a/with/method", &message)]);
    }
    // Those of IANA's registry are right, and so are expressions and whatever else is near to none.
    let known = "GET head Post PUT patch DELETE options acl baseline-control bind checkin checkout copy label link lock \
                 merge mkactivity mkcalendar mkcol mkredirectref mkworkspace move orderpatch pri propfind proppatch \
                 query rebind report search unbind uncheckout unlink unlock update updateredirectref version-control \
                 purge notify subscribe";
    for method in known.split(' ').filter(|method| !method.is_empty()).chain(["'${ \"POTS\" }'"]) {
        assert_eq!(problems(&document(&with(method))), [], "{method}");
    }
}
