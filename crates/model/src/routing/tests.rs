//! Matches, their order, and the index, held against a walk over all entries. What routes come to as a whole is held
//! against a naive model in the compiler's tests (`precedence`).

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
                join_values(name, of_name.map(|(_, value)| value.as_bytes()))
            },
        }
    }
}

fn sort_entries(mut candidates: Vec<Candidate>) -> Vec<HttpRouteEntry> {
    sort_candidates(&mut candidates);
    candidates.into_iter().map(|candidate| candidate.entry).collect()
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
    assert_eq!(join_values("x", std::iter::empty()), None);
    assert_eq!(join_values("x", [b"\xff".as_slice()].into_iter()).unwrap(), "\u{fffd}");
    let pieces = || [b"a=1".as_slice(), b"b=2"].into_iter();
    assert_eq!(join_values("x", pieces()).unwrap(), "a=1,b=2");
    assert_eq!(join_values("cookie", pieces()).unwrap(), "a=1; b=2");
}

/// Gateway API, HTTPRouteRule: between equal matches the older route decides, then the name.
#[test]
fn the_older_route_is_ahead() {
    let candidate = |name: &str, created: Option<i64>| {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let rule = HttpRule::new(NamespacedName::new(namespace, name), 0, None, vec![]);
        let matcher = any_request(PathMatch::Prefix(String::new()));
        let created = created.map(|seconds| jiff::Timestamp::from_second(seconds).unwrap());
        Candidate { created, match_index: 0, entry: HttpRouteEntry { matcher, rule: Arc::new(rule) } }
    };
    let ages = [("a", None), ("b", Some(3)), ("d/z", Some(2)), ("d-c/d", Some(2)), ("e", Some(-1))];
    let sorted = sort_entries(ages.into_iter().map(|(name, created)| candidate(name, created)).collect());
    let names: Vec<_> = sorted.iter().map(|entry| &*entry.rule.route.name).collect();
    assert_eq!(names, ["e", "d", "z", "b", "a"]);
}

/// How many entries a look-up tries.
fn looked_at(table: &HttpRouteTable, sent: &Sent) -> (Option<usize>, usize) {
    let count = std::cell::Cell::new(0);
    let counted = |found: bool| {
        count.set(count.get() + 1);
        found
    };
    let (entries, parts) = (table.entries(), sent.parts());
    let found = match table.index() {
        Some(index) => index.first(
            &sent.path,
            |at| counted(conditions_hold(&entries[at].matcher, &parts)),
            |at| counted(matches(&entries[at].matcher, &parts)),
        ),
        None => entries.iter().position(|entry| counted(matches(&entry.matcher, &parts))),
    };
    (found, count.get())
}

/// A port with a thousand routes by path and method tries as few of them as one with a handful.
#[test]
fn a_thousand_routes_cost_what_one_costs() {
    let table = |count: usize| {
        let matcher = |i: usize| {
            let (path, method) = match i % 4 {
                0 => (PathMatch::Exact(format!("/shop/exact-{i}")), None),
                1 => (PathMatch::Prefix(format!("/shop/prefix-{i}")), None),
                2 => (PathMatch::Exact(format!("/shop/method-{i}")), Some("PUT")),
                _ => (PathMatch::Exact(format!("/shop/method-{}", i - 1)), Some("GET")),
            };
            HttpMatch { method: method.map(str::to_owned), ..any_request(path) }
        };
        let all = any_request(PathMatch::Prefix(String::new()));
        let entry = |(index, matcher): (usize, HttpMatch)| {
            let rule = HttpRule::new(NamespacedName::new("default", "r"), index as u32, None, vec![]);
            let entry = HttpRouteEntry { matcher, rule: Arc::new(rule) };
            Candidate { created: None, match_index: 0, entry }
        };
        let candidates = (0..count - 1).map(matcher).chain([all]).enumerate().map(entry);
        HttpRouteTable::new(sort_entries(candidates.collect()))
    };
    let thousand = table(1_000);
    for (path, most) in
        [("/shop/exact-0", 1), ("/shop/prefix-1/x/y", 1), ("/shop/method-2", 2), ("/shop/x", 1), ("/", 1)]
    {
        let (found, looked) = looked_at(&thousand, &get(path, ""));
        assert!(found.is_some() && looked <= most, "{path}: {looked}");
    }
    assert_eq!(looked_at(&table(1), &get("/shop/x", "")), (Some(0), 1));
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

fn values() -> impl Strategy<Value = Vec<ValueMatch>> {
    prop::collection::btree_map("[xy]", "[12]", 0..3).prop_map(|values| {
        let exact = |(name, text)| ValueMatch { name, value: TextMatch::Exact(text) };
        values.into_iter().map(exact).collect()
    })
}

fn requests() -> impl Strategy<Value = Sent> {
    let headers = prop::collection::vec(("[xyXY]", "[12]"), 0..3);
    ("GET|PUT|POST", "(/[ab]){0,3}/?", "([xy]=[12]&){0,3}", headers)
        .prop_map(|(method, path, query, headers)| Sent { method, path, query, headers })
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
    #![proptest_config(ProptestConfig::with_cases(500))]
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
}
