use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::identity::TrustDomain;

struct WhoComes {
    web: SpiffeId,
    headers: HeaderMap,
    claims: Claims,
}

impl WhoComes {
    fn new() -> Self {
        let domain = TrustDomain::new("mesh.test").unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x-team", "shop".parse().unwrap());
        headers.append("x-many", "a".parse().unwrap());
        headers.append("x-many", "b".parse().unwrap());
        let claims = json!({
            "sub": "ann", "groups": ["staff", "admins"], "age": 30, "big": u64::MAX, "half": 0.5, "on": true,
            "of": {"unit": {"name": "cart"}}, "https://example.com/role": "cook", "none": null,
        });
        let serde_json::Value::Object(claims) = claims else { panic!("it is an object") };
        Self { web: SpiffeId::workload(&domain, "shop", "web").unwrap(), headers, claims: Claims(claims) }
    }

    fn facts(&self) -> ConditionFacts<'_> {
        let request =
            RequestFacts { method: "GET", path: "/items/1", host: "c.shop", headers: &self.headers };
        ConditionFacts {
            source: Ok(&self.web),
            port: 8080,
            request: Some(request),
            token: Some(("https://issuer.test", &self.claims)),
            claims: OnceLock::new(),
        }
    }
}

#[test]
fn conditions_are_asked_of_who_comes_and_what_it_asks() {
    let case = WhoComes::new();
    for (text, expected) in [
        ("request.method == 'GET'", Some(true)),
        ("request.method in ['GET', 'HEAD'] && request.path.startsWith('/items/')", Some(true)),
        ("request.path.matches('^/items/[0-9]+$')", Some(true)),
        ("request.path.matches('^/[0-9]+$')", Some(false)),
        ("request.host == 'c.shop'", Some(true)),
        ("request.host.endsWith('.shop') ? destination.port == 8080 : false", Some(true)),
        ("request.headers['x-team'] == source.namespace", Some(true)),
        ("request.headers['x-many'] == 'a,b'", Some(true)),
        ("'x-team' in request.headers && !('x-other' in request.headers)", Some(true)),
        ("has(request.headers.host)", Some(false)),
        ("request.headers['x-other'] == 'a'", None),
        ("request.headers['x-other'] == 'a' || request.method == 'GET'", Some(true)),
        ("source.principal == 'spiffe://mesh.test/ns/shop/sa/web'", Some(true)),
        ("source.serviceAccount == 'web' && source.trustDomain == 'mesh.test'", Some(true)),
        ("source.address == ''", Some(true)),
        ("jwt.issuer == 'https://issuer.test'", Some(true)),
        ("'admins' in jwt.claims.groups", Some(true)),
        ("jwt.claims.groups.exists(g, g.startsWith('adm'))", Some(true)),
        ("jwt.claims.groups.all(g, g == 'staff')", Some(false)),
        ("jwt.claims.groups.filter(g, g != 'staff') == ['admins']", Some(true)),
        ("size(jwt.claims.groups) == 2", Some(true)),
        ("jwt.claims.age >= 18 && jwt.claims.age + 1 == 31", Some(true)),
        ("jwt.claims.big > 0u && jwt.claims.half < 1.0", Some(true)),
        ("jwt.claims.on", Some(true)),
        ("jwt.claims.of.unit.name == 'cart'", Some(true)),
        ("jwt.claims['https://example.com/role'] == 'cook'", Some(true)),
        ("has(jwt.claims.sub) && !has(jwt.claims.act)", Some(true)),
        ("jwt.claims.act == 'a'", None),
        ("jwt.claims.sub", None),
        ("jwt.claims.sub < 3", None),
        ("jwt.claims.none == null", Some(true)),
        ("1 / 0 == 1", None),
        ("9223372036854775807 + 1 > 0", None),
        ("-9223372036854775808 / -1 > 0", None),
        ("true", Some(true)),
    ] {
        let holds = CelCondition::new(text).expect(text).holds(&case.facts());
        assert_eq!(holds.as_ref().ok(), expected.as_ref(), "{text}: {holds:?}");
    }
}

#[test]
fn who_is_outside_has_an_address_and_no_name() {
    let case = WhoComes::new();
    let facts = ConditionFacts {
        source: Err(IpAddr::from(Ipv4Addr::new(192, 0, 2, 7))),
        request: None,
        token: None,
        ..case.facts()
    };
    for (text, expected) in [
        ("source.address == '192.0.2.7'", Some(true)),
        (
            "source.principal + source.namespace + source.serviceAccount + source.trustDomain == ''",
            Some(true),
        ),
        ("destination.port == 8080", Some(true)),
        ("request.method == 'GET'", None),
        ("'x-team' in request.headers", None),
        ("jwt.claims.sub == 'ann'", None),
    ] {
        assert_eq!(CelCondition::new(text).unwrap().holds(&facts).ok(), expected, "{text}");
    }
}

#[test]
fn what_a_condition_asks_for_is_known() {
    for (text, request, path, token, beyond, headers) in [
        ("source.namespace == 'shop'", false, false, false, [false, false], ""),
        ("source.address == '::1'", false, false, false, [true, false], ""),
        ("request.method == 'GET'", true, false, false, [false, false], ""),
        ("request.path == '/'", true, true, false, [true, true], ""),
        ("request.host == 'a'", true, false, false, [true, true], ""),
        (
            "'b' in request.headers || request.headers['a'] == request.headers.b",
            true,
            false,
            false,
            [true, true],
            "b a",
        ),
        ("jwt.claims.groups.exists(g, g == 'a')", true, false, true, [true, true], ""),
    ] {
        let condition = CelCondition::new(text).unwrap();
        let asks = (condition.reads_requests(), condition.goes_by_path(), condition.asks_for_token());
        assert_eq!(asks, (request, path, token), "{text}");
        assert_eq!([false, true].map(|knows| condition.asks_beyond(knows)), beyond, "{text}");
        let names: Vec<_> = condition.headers().iter().map(HeaderName::as_str).collect();
        assert_eq!(names.join(" "), headers, "{text}");
        assert_eq!(condition.text(), text);
    }
}

#[test]
fn what_is_no_condition_is_refused_with_its_reason() {
    let long = format!("request.method == '{}'", "x".repeat(LONGEST));
    let deep = format!("{}true{}", "(".repeat(400), ")".repeat(400));
    for (text, expected) in [
        ("", "no expression of CEL"),
        ("request.method = 'GET'", "no expression of CEL"),
        ("request.method == 'GET' )", "(column"),
        (&*long, "longer than 1024 bytes"),
        (&*deep, "more than 50 parentheses"),
        ("request", "asks for `request`: there are `request.method`"),
        ("user.name == 'a'", "asks for `user`: there are `request.method`"),
        ("request.url == '/'", "asks for `request.url`: there are `request.method`, `request.path`"),
        ("request.method.length == 3", "asks `request.method` for a field, `length`"),
        ("request.headers['X-Team'] == 'a'", "write it in lower case"),
        ("request.headers['x team'] == 'a'", "no name of one"),
        ("request.headers[request.method] == 'a'", "asks for all headers"),
        ("size(request.headers) > 1", "asks for all headers"),
        ("request.headers.exists(h, h == 'a')", "asks for all headers"),
        ("has(request.method)", "there always is"),
        ("has(request.headers)", "asks for all headers"),
        ("request.method", "neither true nor false"),
        ("'a' + 'b'", "neither true nor false"),
        ("[1].map(x, x)", "neither true nor false"),
        ("true ? 1 : 2", "neither true nor false"),
        ("request.method.reverse() == 'TEG'", "calls `reverse`"),
        ("request.path.matches('(')", "a pattern that cannot be read: error: unclosed group"),
        ("request.path.matches(request.method)", "not written in it"),
        ("request.path.matches('\\\\w{200}')", "Compiled regex exceeds size limit"),
        (
            "request.path.matches('a') || request.path.matches('b') || request.path.matches('c')",
            "`matches` more than 2 times",
        ),
        ("['a'].exists(x, x.matches('a'))", "`matches` within a loop"),
        ("[1].exists(x, [2].exists(y, y == x))", "within another"),
        ("['a'].map(x, x + x).map(x, x + x) == []", "within another"),
        ("[1].exists(request, request == 1)", "means something else"),
        ("{'a': 1}['a'] == 1", "makes a map"),
        ("jwt{} == 1", "makes a map"),
        ("a.?b", "no expression of CEL"),
    ] {
        let problem = CelCondition::new(text).expect_err(text);
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

/// Parts of conditions, sensible and not.
const PARTS: [&str; 44] = [
    "request",
    ".",
    "method",
    "path",
    "headers",
    "[",
    "]",
    "'a'",
    "(",
    ")",
    "==",
    "&&",
    "||",
    "!",
    "-",
    "1",
    "0u",
    "1.5",
    "1e999",
    ",",
    "source",
    "namespace",
    "jwt",
    "claims",
    "?",
    ":",
    "in",
    "has",
    "exists",
    "all",
    "map",
    "x",
    "+",
    "*",
    "/",
    "%",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "b'\\xff'",
    "r'",
    "matches",
];

proptest! {
    /// However it is put together: it is refused, or can be asked.
    #[test]
    fn no_text_ends_the_process(
        parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..120),
        blanks in any::<bool>(),
    ) {
        let text = parts.join(if blanks { " " } else { "" });
        if let Ok(condition) = CelCondition::new(&text) {
            let _: Result<bool, String> = condition.holds(&WhoComes::new().facts());
        }
    }

    #[test]
    fn no_characters_end_the_process(text in "\\PC{0,200}") {
        prop_assert!(CelCondition::new(&text).is_err() || CelCondition::new(&text).unwrap().text() == text);
    }
}

/// The parser is optimized in builds for tests, too (Cargo.toml): else each level takes 100 KB. In a thread with as little stack as the server's and the node's.
#[test]
fn depth_is_bounded_however_it_is_made() {
    let deep = |begin: &str, middle: &str, end: &str| {
        let count = LONGEST / (begin.len() + end.len()).max(1);
        [count, 90, 40, 20].map(|count| format!("{}{middle}{}", begin.repeat(count), end.repeat(count)))
    };
    let all = [
        deep("(", "true", ")"),
        deep("!", "true", ""),
        deep("-", "1", ""),
        deep("[", "", "]"),
        deep("true ? ", "true", " : true"),
        deep("", "true", " ? true : true"),
        deep("true && ", "true", ""),
        deep("", "jwt.claims", ".a"),
        deep("", "jwt.claims", "[0]"),
        deep("size(", "''", ")"),
        deep("1 + ", "1", ""),
        deep("{1:", "1", "}"),
        deep("a{b:", "1", "}"),
        deep("1 == ", "1", ""),
        deep("1 in ", "1", ""),
    ];
    let tried = std::thread::Builder::new().stack_size(1 << 21).spawn(move || {
        for text in all.as_flattened() {
            if let Ok(condition) = CelCondition::new(&text[..text.len().min(LONGEST)]) {
                let _: Result<bool, String> = condition.holds(&WhoComes::new().facts());
            }
        }
    });
    tried.unwrap().join().unwrap();
}
