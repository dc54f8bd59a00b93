//! The router against a naive model: all matches of all routes, sorted by nothing, from which the
//! model picks by walking Gateway API's list of criteria.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::name::NamespacedName;
use crate::snapshot::{BackendTarget, HttpRule, Pattern};

#[derive(Debug)]
struct Sent {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Sent {
    fn parts<'a>(&'a self) -> RequestParts<'a, impl Fn(&str) -> Option<Cow<'a, str>>> {
        RequestParts {
            method: &self.method,
            path: &self.path,
            query: (!self.query.is_empty()).then_some(self.query.as_str()),
            header: |name: &str| {
                let of_name = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
                join_values(of_name.map(|(_, value)| value.as_bytes()))
            },
        }
    }
}

fn get(path: &str, query: &str) -> Sent {
    Sent { method: "GET".into(), path: path.into(), query: query.into(), headers: vec![] }
}

fn any_request(path: PathMatch) -> HttpMatch {
    HttpMatch { path, method: None, headers: vec![], query: vec![] }
}

fn is_prefix(prefix: &str, path: &str) -> bool {
    matches(&any_request(PathMatch::Prefix(prefix.into())), &get(path, "").parts())
}

#[test]
fn prefixes_are_whole_path_elements() {
    // The table of Gateway API's documentation of PathPrefix.
    for path in ["/abc", "/abc/", "/abc/def"] {
        assert!(is_prefix("/abc", path), "{path}");
    }
    for path in ["/abcd", "/ABC", "/", "", "/ab", "*"] {
        assert!(!is_prefix("/abc", path), "{path}");
    }
    for path in ["/", "", "/a", "*"] {
        assert!(is_prefix("", path), "{path}");
    }
    let exact = any_request(PathMatch::Exact("/abc".into()));
    assert!(matches(&exact, &get("/abc", "").parts()));
    assert!(!matches(&exact, &get("/abc/", "").parts()));
    let root = any_request(PathMatch::Exact("/".into()));
    assert!(matches(&root, &get("", "").parts()));
}

#[test]
fn the_first_query_parameter_of_a_name_decides() {
    let matcher = |value: TextMatch| HttpMatch {
        query: vec![ValueMatch { name: "a b".into(), value }],
        ..any_request(PathMatch::Prefix(String::new()))
    };
    let exact = matcher(TextMatch::Exact("ü 1%".into()));
    for query in ["a+b=%C3%BC+1%", "x&a%20b=%c3%bc%201%25&a+b=2", "=&a+b=ü 1%"] {
        assert!(matches(&exact, &get("/", query).parts()), "{query}");
    }
    for query in ["", "a+b=2&a+b=%C3%BC+1%25", "A+b=%C3%BC+1%25", "a+b", "a+b=%C3+1%25"] {
        assert!(!matches(&exact, &get("/", query).parts()), "{query}");
    }
    let number = matcher(TextMatch::Regex(Pattern::new("[0-9]+").unwrap()));
    assert!(matches(&number, &get("/", "a+b=12").parts()));
    assert!(!matches(&number, &get("/", "a+b=12x").parts()), "patterns match the whole value");
}

#[test]
fn values_of_a_header_are_joined() {
    let matcher = HttpMatch {
        headers: vec![ValueMatch { name: "x".into(), value: TextMatch::Exact("a,b".into()) }],
        ..any_request(PathMatch::Prefix(String::new()))
    };
    let mut request = get("/", "");
    request.headers = vec![("X".into(), "a".into()), ("y".into(), "c".into()), ("x".into(), "b".into())];
    assert!(matches(&matcher, &request.parts()));
    request.headers.pop();
    assert!(!matches(&matcher, &request.parts()));
    assert_eq!(join_values(std::iter::empty()), None);
    assert_eq!(join_values([b"\xff".as_slice()].into_iter()).unwrap(), "\u{fffd}");
}

/// Gateway API, HTTPRouteRule: between equal matches the older route decides, then the name.
#[test]
fn the_older_route_is_ahead() {
    let candidate = |name: &str, created: Option<i64>| {
        let route = NamespacedName::new("default", name);
        let rule = HttpRule::new(route, 0, None, vec![]);
        let matcher = any_request(PathMatch::Prefix(String::new()));
        let created = created.map(|seconds| jiff::Timestamp::from_second(seconds).unwrap());
        Candidate { created, match_index: 0, entry: HttpRouteEntry { matcher, rule: Arc::new(rule) } }
    };
    let ages = [("a", None), ("b", Some(3)), ("c", Some(2)), ("d", Some(2)), ("e", Some(-1))];
    let sorted = sort_entries(ages.into_iter().map(|(name, created)| candidate(name, created)).collect());
    let names: Vec<_> = sorted.iter().map(|entry| &*entry.rule.route.name).collect();
    assert_eq!(names, ["e", "c", "d", "b", "a"]);
}

fn backend(weight: u32) -> Backend {
    Backend::new(BackendTarget::Invalid { reason: weight.to_string().into() }, weight)
}

#[test]
fn backends_get_their_shares() {
    let backends = [backend(0), backend(1), backend(0), backend(3)];
    let step = u64::MAX / 4;
    for (random, weight) in [(0, 1), (step - 1, 1), (step + 2, 3), (u64::MAX, 3)] {
        assert_eq!(backends[draw(&backends, random).unwrap()].weight, weight);
    }
    assert_eq!(draw(&[], 7), None);
    assert_eq!(draw(&[backend(0)], 7), None);
    assert_eq!(draw(&vec![backend(u32::MAX); 100], u64::MAX), Some(99));
}

fn paths() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "(/[ab]){1,3}/?".prop_map(PathMatch::Exact),
        "(/[ab]){0,3}".prop_map(PathMatch::Prefix),
        "/[ab]?[.]?[*]?".prop_map(|p| match Pattern::new(&p) {
            Ok(pattern) => PathMatch::Regex(pattern),
            Err(_) => PathMatch::Prefix(String::new()),
        }),
    ]
}

fn values() -> impl Strategy<Value = Vec<ValueMatch>> {
    prop::collection::btree_map("[xy]", "[12]", 0..3).prop_map(|values| {
        let exact = |(name, text)| ValueMatch { name, value: TextMatch::Exact(text) };
        values.into_iter().map(exact).collect()
    })
}

fn matchers() -> impl Strategy<Value = HttpMatch> {
    (paths(), prop::option::of("GET|PUT"), values(), values())
        .prop_map(|(path, method, headers, query)| HttpMatch { path, method, headers, query })
}

/// Routes of one parent: age in seconds, namespace and name, the matches of each rule.
type Routes = Vec<(Option<i64>, NamespacedName, Vec<Vec<HttpMatch>>)>;

fn routes() -> impl Strategy<Value = Routes> {
    let name = ("(a|a-b)", "[rs]").prop_map(|(namespace, name)| NamespacedName::new(namespace, name));
    let rules = prop::collection::vec(prop::collection::vec(matchers(), 1..3), 1..4);
    let route = (prop::option::of(0i64..2), rules);
    prop::collection::btree_map(name, route, 0..5)
        .prop_map(|routes| routes.into_iter().map(|(name, (age, rules))| (age, name, rules)).collect())
}

fn requests() -> impl Strategy<Value = Sent> {
    let headers = prop::collection::vec(("[xyXY]", "[12]"), 0..3);
    ("GET|PUT|POST", "(/[ab]){0,3}/?", "([xy]=[12]&){0,3}", headers)
        .prop_map(|(method, path, query, headers)| Sent { method, path, query, headers })
}

fn naive_match(matcher: &HttpMatch, request: &Sent) -> bool {
    let path = if request.path.is_empty() { "/" } else { &request.path };
    let elements = |text: &str| text.split('/').filter(|e| !e.is_empty()).map(str::to_owned).collect();
    let path_fits = match &matcher.path {
        PathMatch::Exact(wanted) => wanted == path,
        PathMatch::Prefix(prefix) => {
            let (wanted, given): (Vec<String>, Vec<String>) = (elements(prefix), elements(path));
            given.starts_with(&wanted)
        }
        PathMatch::Regex(pattern) => pattern.matches(path),
    };
    let equals = |matcher: &ValueMatch, value: Option<String>| match &matcher.value {
        TextMatch::Exact(wanted) => value.as_ref() == Some(wanted),
        TextMatch::Regex(_) => unreachable!("not generated"),
    };
    let header = |name: &str| {
        let found = request.headers.iter().filter(|(n, _)| n.to_lowercase() == name);
        let values: Vec<_> = found.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let parameter = |name: &str| {
        let found = request.query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        found.map(str::to_owned)
    };
    path_fits
        && matcher.method.as_ref().is_none_or(|m| *m == request.method)
        && matcher.headers.iter().all(|m| equals(m, header(&m.name)))
        && matcher.query.iter().all(|m| equals(m, parameter(&m.name)))
}

/// Keeps those for which `of` is greatest.
fn keep_greatest<T, K: Ord>(candidates: &mut Vec<T>, of: impl Fn(&T) -> K) {
    let greatest = candidates.iter().map(&of).max();
    candidates.retain(|c| Some(of(c)) == greatest);
}

/// The route, rule and match that Gateway API's criteria choose, one criterion at a time.
fn naive_route(routes: &Routes, request: &Sent) -> Option<(NamespacedName, u32, HttpMatch)> {
    let mut candidates = Vec::new();
    for (age, name, rules) in routes {
        for (i, matchers) in rules.iter().enumerate() {
            for (j, matcher) in matchers.iter().enumerate() {
                if naive_match(matcher, request) {
                    candidates.push((*age, name.clone(), i as u32, j, matcher.clone()));
                }
            }
        }
    }
    keep_greatest(&mut candidates, |c| matches!(c.4.path, PathMatch::Exact(_)));
    keep_greatest(&mut candidates, |c| match &c.4.path {
        PathMatch::Prefix(prefix) => prefix.len(),
        _ => 0,
    });
    keep_greatest(&mut candidates, |c| match &c.4.path {
        PathMatch::Regex(pattern) => pattern.source().len(),
        _ => 0,
    });
    keep_greatest(&mut candidates, |c| c.4.method.is_some());
    keep_greatest(&mut candidates, |c| c.4.headers.len());
    keep_greatest(&mut candidates, |c| c.4.query.len());
    keep_greatest(&mut candidates, |c| Reverse(c.0.unwrap_or(i64::MAX)));
    keep_greatest(&mut candidates, |c| Reverse(format!("{}/{}", c.1.namespace, c.1.name)));
    keep_greatest(&mut candidates, |c| Reverse((c.2, c.3)));
    candidates.pop().map(|(_, route, rule, _, matcher)| (route, rule, matcher))
}

/// Elements that are empty, percent-encoded or prefixes of each other.
const PATHS: &str = "(/(a|ab|b|%61|ü|)){0,4}";
const PATTERNS: [&str; 6] = ["/a.*", "/[ab]+", ".*b", "/a/?", "[*]", "(/a)*/b"];

/// Whatever a server could send, and more: with slashes at the end, and without one at the beginning.
fn odd_matchers() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        3 => PATHS.prop_map(PathMatch::Exact),
        4 => PATHS.prop_map(PathMatch::Prefix),
        1 => prop::sample::select(&PATTERNS[..]).prop_map(|p| PathMatch::Regex(Pattern::new(p).unwrap())),
        1 => "[a*](/a)?".prop_map(PathMatch::Prefix),
        1 => "[a*](/a)?".prop_map(PathMatch::Exact),
    ];
    // Few have conditions, so that what stands behind is found as well.
    let method = prop::option::weighted(0.3, "GET|PUT");
    let values = || prop_oneof![3 => Just(Vec::new()), 1 => values()];
    (path, method, values(), values()).prop_map(|(path, method, headers, query)| HttpMatch {
        path,
        method,
        headers,
        query,
    })
}

fn odd_requests() -> impl Strategy<Value = Sent> {
    let path = prop_oneof![8 => PATHS, 1 => "[a*](/a)?", 1 => "/{0,40}a?"];
    (requests(), path).prop_map(|(request, path)| Sent { path, ..request })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_index_finds_what_a_walk_finds(
        matchers in prop::collection::vec(odd_matchers(), 0..40),
        in_order: bool,
        requests in prop::collection::vec(odd_requests(), 1..16),
    ) {
        let entry = |(index, matcher): (usize, &HttpMatch)| {
            let route = NamespacedName::new("default", "r");
            let rule = HttpRule::new(route, index as u32, None, vec![]);
            HttpRouteEntry { matcher: matcher.clone(), rule: Arc::new(rule) }
        };
        let entries = matchers.iter().enumerate().map(entry);
        let table = HttpRouteTable::new(match in_order {
            true => sort_entries(entries.map(|entry| Candidate { created: None, match_index: 0, entry }).collect()),
            false => entries.collect(),
        });
        for request in requests {
            let walked = table.entries().iter().find(|entry| matches(&entry.matcher, &request.parts()));
            let found = super::route(&table, &request.parts());
            prop_assert_eq!(found.map(|e| e.rule.index), walked.map(|e| e.rule.index));
        }
    }

    #[test]
    fn routes_as_gateway_api_says(routes in routes(), requests in prop::collection::vec(requests(), 1..8)) {
        let mut candidates = Vec::new();
        // In the wrong order, to see that the order given does not matter.
        for (age, route, rules) in routes.iter().rev() {
            let created = age.map(|seconds| jiff::Timestamp::from_second(seconds).unwrap());
            for (index, matchers) in rules.iter().enumerate().rev() {
                let rule = HttpRule::new(route.clone(), index as u32, None, vec![]);
                let rule = Arc::new(rule);
                for (match_index, matcher) in matchers.iter().enumerate().rev() {
                    let entry = HttpRouteEntry { matcher: matcher.clone(), rule: rule.clone() };
                    candidates.push(Candidate { created, match_index: match_index as u32, entry });
                }
            }
        }
        let table = HttpRouteTable::new(sort_entries(candidates));
        for request in requests {
            let found = super::route(&table, &request.parts())
                .map(|entry| (entry.rule.route.clone(), entry.rule.index, entry.matcher.clone()));
            prop_assert_eq!(found, naive_route(&routes, &request));
        }
    }
}
