//! Which rule of which route takes a request: what is compiled and decided, against a naive model that is made of
//! the same objects, as they are written, and of nothing else that the compiler or the router has.
//!
//! The model knows Gateway API's text (v1.6, HTTPRouteRule.matches) and RFC 3986: it takes all matches that hold, and
//! goes through the criteria one by one, each of which leaves those that are best by it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::LazyLock;

use regex::Regex;

use super::*;
use crate::path::has_dot_segments;
use crate::routing::decide::{Routing, Why, request};
use crate::routing::{RequestParts, join_values};

/// Numbers that look random, the same ones for a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Exact,
    Prefix,
    Pattern,
}

/// The name, how its value is compared, and with what.
type WrittenCondition = (&'static str, How, &'static str);

/// A match as somebody wrote it.
#[derive(Debug, Clone)]
struct Written {
    path: Option<(How, String)>,
    method: Option<&'static str>,
    headers: Vec<WrittenCondition>,
    query: Vec<WrittenCondition>,
}

#[derive(Debug)]
struct Route {
    name: NamespacedName,
    /// The second in which it was created.
    created: Option<i64>,
    rules: Vec<Vec<Written>>,
}

#[derive(Debug)]
struct NaiveRequest {
    namespace: &'static str,
    method: &'static str,
    path: String,
    query: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
}

/// Elements of paths as routes may have them, several of which are written in two ways.
const ELEMENTS: [&str; 10] = ["a", "%61", "b", "ab", "a%62", "A", "~u", "%7eu", "caf%c3%a9", "x;y=1"];
/// What requests have besides.
const ODD_ELEMENTS: [&str; 14] = [
    "",
    "",
    "caf\u{e9}",
    "caf%C3%a9",
    "%2f",
    "a%2Fb",
    "%",
    "%4",
    "%25",
    "a.b",
    "..",
    "%2E",
    "..;v",
    ".%2e%2fa",
];
const PATTERNS: [&str; 14] = [
    "/a.*",
    "/(a|b)",
    "/a/[^/]+",
    ".*b",
    "/caf%C3%A9(/.*)?",
    "/caf%c3%a9",
    "[*]",
    ".*",
    "/a/b/.*",
    "^/b$",
    "a",
    "/(?i)ab",
    "(?:/a.*)",
    "/~u|/x;y=1(/.*)?",
];
const METHODS: [&str; 3] = ["GET", "POST", "HEAD"];
const HEADERS: [&str; 4] = ["x", "X", "y-Z", "Y-z"];
const VALUES: [&str; 5] = ["1", "2", "1,2", "a b", " 1"];
const VALUE_PATTERNS: [&str; 6] = ["[0-9]+", "1|2", ".*", "1,.*", "1", "[^\\s\\S]"];
const PARAMETERS: [&str; 3] = ["q", "Q", "qq"];
const PARAMETER_VALUES: [&str; 5] = ["1", "a b", "ü", "%31", "1%"];
const QUERIES: [&str; 18] = [
    "q=1", "q=%31", "%71=1", "q=a+b", "q=a%20b", "q=%C3%BC", "q=%c3%bc", "q=ü", "q=%2531", "q=1%", "q=%FF",
    "q", "=", "=1", "Q=1", "qq=1", "", "q=1=2",
];
const CREATED: [Option<i64>; 4] = [None, Some(1), Some(2), Some(1_000_000_000)];

fn path(dice: &mut Dice, odd: bool) -> String {
    let elements = (0..dice.below(4)).map(|_| match (odd && dice.percent(20), dice.percent(70)) {
        (true, _) => dice.pick(&ODD_ELEMENTS),
        (false, true) => dice.pick(&ELEMENTS[..4]),
        (false, false) => dice.pick(&ELEMENTS),
    });
    let path: String = elements.flat_map(|element| ["/", element]).collect();
    if path.is_empty() || dice.percent(10) { path + "/" } else { path }
}

fn conditions(dice: &mut Dice, names: &[&'static str], values: &[&'static str]) -> Vec<WrittenCondition> {
    let count = [0, 0, 0, 0, 0, 0, 1, 1, 2, 3][dice.below(10)];
    let mut condition = || match dice.percent(15) {
        true => (dice.pick(names), How::Pattern, dice.pick(&VALUE_PATTERNS)),
        false => (dice.pick(names), How::Exact, dice.pick(values)),
    };
    (0..count).map(|_| condition()).collect()
}

fn written(dice: &mut Dice) -> Written {
    let path = match dice.below(20) {
        0 => None,
        1 => Some((How::Prefix, "/".to_owned())),
        2..=9 => Some((How::Prefix, path(dice, false))),
        10..=16 => Some((How::Exact, path(dice, false))),
        _ => Some((How::Pattern, dice.pick(&PATTERNS).to_owned())),
    };
    let method = dice.percent(25).then(|| dice.pick(&METHODS));
    let headers = conditions(dice, &HEADERS, &VALUES);
    Written { path, method, headers, query: conditions(dice, &PARAMETERS, &PARAMETER_VALUES) }
}

fn routes(dice: &mut Dice) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for _ in 0..dice.below(6) {
        let namespace = dice.pick(&["shop", "shop", "shop", "other"]);
        let name = NamespacedName::new(namespace, dice.pick(&["a", "a-b", "ab", "b"]));
        if routes.iter().any(|route| route.name == name) {
            continue;
        }
        let mut rules: Vec<Vec<Written>> = Vec::new();
        for _ in 0..dice.below(4) {
            let mut matches: Vec<Written> = Vec::new();
            for _ in 0..dice.below(4) {
                // Now and then one that is there already, in this route or another.
                let others: Vec<_> = routes.iter().flat_map(|route| route.rules.iter().flatten()).collect();
                let known: Vec<_> =
                    others.into_iter().chain(rules.iter().flatten()).chain(&matches).collect();
                let again = !known.is_empty() && dice.percent(8);
                let next = if again { known[dice.below(known.len())].clone() } else { written(dice) };
                matches.push(next);
            }
            rules.push(matches);
        }
        routes.push(Route { name, created: CREATED[dice.below(4)], rules });
    }
    routes
}

/// A request, mostly one that some match of a route might take.
fn sent(dice: &mut Dice, routes: &[Route]) -> NaiveRequest {
    let all: Vec<_> = routes.iter().flat_map(|route| route.rules.iter().flatten()).collect();
    let aim = (!all.is_empty() && dice.percent(75)).then(|| all[dice.below(all.len())]);
    let path = match aim.and_then(|aim| aim.path.clone()).filter(|(how, _)| *how != How::Pattern) {
        Some((How::Prefix, prefix)) if dice.percent(60) => {
            format!("{}{}", prefix.trim_end_matches('/'), path(dice, true))
        }
        Some((_, path)) => path,
        None if dice.percent(4) => dice.pick(&["*", ""]).to_owned(),
        None => path(dice, true),
    };
    let method = aim.and_then(|aim| aim.method).unwrap_or_else(|| dice.pick(&METHODS));
    let mut headers = Vec::new();
    for &(name, how, value) in aim.map_or(&[][..], |aim| &aim.headers) {
        // Nothing comes with blanks around it.
        headers.push((name, if how == How::Exact { value.trim() } else { "1" }));
    }
    while dice.percent(25) {
        headers.push((dice.pick(&HEADERS), dice.pick(&VALUES).trim()));
    }
    let mut query: Vec<String> = Vec::new();
    for &(name, how, value) in aim.map_or(&[][..], |aim| &aim.query) {
        let value =
            if how == How::Exact { value.replace('%', "%25").replace(' ', "+") } else { "1".to_owned() };
        query.push(format!("{name}={value}"));
    }
    while dice.percent(30) {
        let at = dice.below(query.len() + 1);
        query.insert(at, dice.pick(&QUERIES).to_owned());
    }
    let query = (!query.is_empty()).then(|| query.join("&"));
    let namespace = dice.pick(&["shop", "shop", "other", "third"]);
    NaiveRequest { namespace, method, path, query, headers }
}

/// A path's byte: as it stands, or percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Byte {
    Plain(u8),
    Encoded(u8),
}

/// What a path says (RFC 3986, sections 2.3, 3.3 and 6.2.2).
fn read(path: &str) -> Vec<Byte> {
    let (mut rest, mut read) = (path.as_bytes(), Vec::new());
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| str::from_utf8(code).ok());
        let code = code.filter(|code| code.chars().all(|c| c.is_ascii_hexdigit()));
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match code.filter(|_| first == b'%') {
            Some(code) => {
                let byte = u8::from_str_radix(code, 16).unwrap();
                read.push(if unreserved(byte) { Byte::Plain(byte) } else { Byte::Encoded(byte) });
                rest = &after[2..];
            }
            None => {
                let plain = unreserved(first) || b"!$&'()*+,;=:@/".contains(&first);
                read.push(if plain { Byte::Plain(first) } else { Byte::Encoded(first) });
                rest = after;
            }
        }
    }
    read
}

fn text(path: &[Byte]) -> String {
    let show = |byte: &Byte| match byte {
        Byte::Plain(byte) => char::from(*byte).to_string(),
        Byte::Encoded(byte) => format!("%{byte:02X}"),
    };
    path.iter().map(show).collect()
}

/// The elements of a path, which `/` parts. One at the end is ignored where `prefix`.
fn elements(path: &[Byte], prefix: bool) -> Vec<Vec<Byte>> {
    let mut elements: Vec<_> = path.split(|byte| *byte == Byte::Plain(b'/')).map(<[Byte]>::to_vec).collect();
    if prefix && elements.last().is_some_and(Vec::is_empty) {
        elements.pop();
    }
    elements
}

static WHOLE: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let all = PATTERNS.iter().chain(&VALUE_PATTERNS);
    all.map(|source| (*source, Regex::new(&format!("\\A(?:{source})\\z")).unwrap())).collect()
});

fn is_whole(pattern: &str, text: &str) -> bool {
    WHOLE.iter().find(|(source, _)| *source == pattern).unwrap().1.is_match(text)
}

/// Undoes the form of queries (WHATWG URL, section 5.1).
fn undone(text: &str) -> String {
    let (mut rest, mut bytes) = (text.as_bytes(), Vec::new());
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| first == b'%');
        bytes.push(code.unwrap_or(if first == b'+' { b' ' } else { first }));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Of conditions on one name, the first (HTTPRouteMatch.headers, HTTPRouteMatch.queryParams).
fn firsts(conditions: &[WrittenCondition], same: fn(&str, &str) -> bool) -> Vec<WrittenCondition> {
    let mut firsts: Vec<WrittenCondition> = Vec::new();
    for condition in conditions {
        if !firsts.iter().any(|first| same(first.0, condition.0)) {
            firsts.push(*condition);
        }
    }
    firsts
}

fn same_header(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn same_parameter(one: &str, other: &str) -> bool {
    one == other
}

fn fits(how: How, wanted: &str, value: Option<&str>) -> bool {
    match how {
        How::Pattern => value.is_some_and(|value| is_whole(wanted, value)),
        _ => value == Some(wanted),
    }
}

fn holds(written: &Written, sent: &NaiveRequest) -> bool {
    let of_sent = if sent.path.is_empty() { "/" } else { &sent.path };
    let given = read(of_sent);
    let path = match &written.path {
        None => true,
        Some((How::Exact, wanted)) => read(wanted) == given,
        // Whatever it begins with.
        Some((How::Prefix, wanted)) if wanted == "/" => true,
        Some((How::Prefix, wanted)) => elements(&given, false).starts_with(&elements(&read(wanted), true)),
        Some((How::Pattern, pattern)) => is_whole(pattern, &text(&given)),
    };
    let header = |name: &str| {
        let lines = sent.headers.iter().filter(|(given, _)| same_header(given, name));
        let values: Vec<_> = lines.map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let parameter = |name: &str| {
        let pairs = sent.query.iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find_map(|(given, value)| (undone(given) == name).then(|| undone(value)))
    };
    path && written.method.is_none_or(|method| method == sent.method)
        && firsts(&written.headers, same_header)
            .iter()
            .all(|(name, how, wanted)| fits(*how, wanted, header(name).as_deref()))
        && firsts(&written.query, same_parameter)
            .iter()
            .all(|(name, how, wanted)| fits(*how, wanted, parameter(name).as_deref()))
}

/// The route, the rule and the match.
type Chosen = (NamespacedName, usize, usize);

#[derive(Debug, PartialEq)]
enum NaiveOutcome {
    NoRoutes,
    Ambiguous,
    NoneMatches,
    Rule(NamespacedName, usize),
}

/// Gateway API's default.
fn everything() -> Written {
    Written { path: Some((How::Prefix, "/".to_owned())), method: None, headers: vec![], query: vec![] }
}

/// The matches of the routes that count for who sends it: of its own namespace, or else of the Service's (GEP-1324).
fn that_count<'a>(routes: &'a [Route], namespace: &str) -> Vec<(&'a Route, Chosen, Written)> {
    let of = |namespace: &str| {
        let of_namespace: Vec<&Route> = routes.iter().filter(|r| &*r.name.namespace == namespace).collect();
        of_namespace
    };
    let own = of(namespace);
    let counting = if own.is_empty() { of("shop") } else { own };
    let mut all = Vec::new();
    for route in counting {
        let none = [vec![]];
        let rules = if route.rules.is_empty() { &none[..] } else { &route.rules };
        for (i, rule) in rules.iter().enumerate() {
            let matches = if rule.is_empty() { vec![everything()] } else { rule.clone() };
            let place = |(j, written)| (route, (route.name.clone(), i, j), written);
            all.extend(matches.into_iter().enumerate().map(place));
        }
    }
    all
}

/// Leaves those for which `of` is greatest.
fn keep_greatest<T, K: Ord>(candidates: &mut Vec<T>, of: impl Fn(&T) -> K) {
    let greatest = candidates.iter().map(&of).max();
    candidates.retain(|candidate| Some(of(candidate)) == greatest);
}

/// What the API says becomes of a request, and the match that takes it.
fn expected(routes: &[Route], sent: &NaiveRequest) -> (NaiveOutcome, Option<Chosen>) {
    let mut all = that_count(routes, sent.namespace);
    if all.is_empty() {
        return (NaiveOutcome::NoRoutes, None);
    }
    let is_all =
        |path: &Option<(How, String)>| path.as_ref().is_none_or(|(how, p)| *how == How::Prefix && p == "/");
    if all.iter().any(|(.., written)| !is_all(&written.path)) && has_dot_segments(&sent.path) {
        return (NaiveOutcome::Ambiguous, None);
    }
    all.retain(|(.., written)| holds(written, sent));
    keep_greatest(&mut all, |(.., written)| matches!(written.path, Some((How::Exact, _))));
    // Of prefixes of one path, the one with more elements has more characters, however they are written.
    keep_greatest(&mut all, |(.., written)| match &written.path {
        Some((How::Prefix, prefix)) if prefix != "/" => elements(&read(prefix), true).len(),
        _ => 0,
    });
    // For implementations to say: here, the longest before the prefix of all.
    keep_greatest(&mut all, |(.., written)| match &written.path {
        Some((How::Pattern, pattern)) => pattern.chars().count(),
        _ => 0,
    });
    keep_greatest(&mut all, |(.., written)| written.method.is_some());
    keep_greatest(&mut all, |(.., written)| firsts(&written.headers, same_header).len());
    keep_greatest(&mut all, |(.., written)| firsts(&written.query, same_parameter).len());
    keep_greatest(&mut all, |(route, ..)| Reverse(route.created.unwrap_or(i64::MAX)));
    keep_greatest(&mut all, |(route, ..)| Reverse(format!("{}/{}", route.name.namespace, route.name.name)));
    keep_greatest(&mut all, |(_, (_, rule, matched), _)| Reverse((*rule, *matched)));
    match all.pop() {
        Some((_, chosen, _)) => (NaiveOutcome::Rule(chosen.0.clone(), chosen.1), Some(chosen)),
        None => (NaiveOutcome::NoneMatches, None),
    }
}

fn object(route: &Route) -> Value {
    let conditions = |all: &[WrittenCondition]| -> Vec<Value> {
        let condition = |(name, how, value): &WrittenCondition| match how {
            How::Pattern => json!({ "name": name, "type": "RegularExpression", "value": value }),
            _ => json!({ "name": name, "value": value }),
        };
        all.iter().map(condition).collect()
    };
    let matched = |written: &Written| {
        let mut object = json!({
            "headers": conditions(&written.headers), "queryParams": conditions(&written.query),
        });
        if let Some((how, path)) = &written.path {
            object["path"] = match how {
                How::Exact => json!({ "type": "Exact", "value": path }),
                How::Prefix => json!({ "type": "PathPrefix", "value": path }),
                How::Pattern => json!({ "type": "RegularExpression", "value": path }),
            };
        }
        if let Some(method) = written.method {
            object["method"] = json!(method);
        }
        object
    };
    let rules =
        route.rules.iter().map(|rule| json!({ "matches": rule.iter().map(matched).collect::<Vec<_>>() }));
    let created = route.created.map(|second| jiff::Timestamp::from_second(second).unwrap().to_string());
    let parent = json!({ "group": "", "kind": "Service", "name": "s", "namespace": "shop" });
    json!({
        "metadata": { "namespace": &*route.name.namespace, "name": &*route.name.name, "creationTimestamp": created },
        "spec": { "parentRefs": [parent], "rules": rules.collect::<Vec<_>>() },
    })
}

/// Objects as a server has them.
fn compiled(routes: &[Route]) -> Compiler {
    let mut compiler = compiler();
    compiler.apply_all(
        [super::service("s", json!({ "port": 80 }))]
            .into_iter()
            .chain(routes.iter().map(|route| put(KindId::HttpRoute, object(route)))),
    );
    compiler
}

fn decided(service: &ServiceConfig, sent: &NaiveRequest) -> NaiveOutcome {
    let parts = RequestParts {
        method: sent.method,
        path: &sent.path,
        query: sent.query.as_deref(),
        header: |name: &str| -> Option<Cow<'_, str>> {
            let lines = sent.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
            join_values(name, lines.map(|(_, value)| value.as_bytes()))
        },
    };
    match request(service, 80, sent.namespace, parts, || 0, |_| None) {
        Ok(Routing::To(routed)) if routed.rule.is_none() => NaiveOutcome::NoRoutes,
        Ok(routing) => panic!("no rule has backends or redirects: {routing:?}"),
        Err(unrouted) => match (unrouted.why, unrouted.rule) {
            (Why::NoBackend, Some(rule)) => NaiveOutcome::Rule(rule.route.clone(), rule.index as usize),
            (Why::AmbiguousPath, _) => NaiveOutcome::Ambiguous,
            (Why::NoRoute, _) => NaiveOutcome::NoneMatches,
            (why, _) => panic!("{why:?}"),
        },
    }
}

/// How often something came of requests, to see that the tables are worth something.
#[derive(Debug, Default)]
struct Compared {
    ruled: usize,
    none: usize,
    ambiguous: usize,
    unreached: usize,
}

/// So many tables, with so many requests each. No match that is said to be unreached may take one.
fn compare(seed: u64, tables: usize, requests: usize) -> Compared {
    let mut dice = Dice(seed);
    let mut seen = Compared::default();
    for table in 0..tables {
        let routes = routes(&mut dice);
        let compiler = compiled(&routes);
        let service = compiler.service(&name("shop/s")).unwrap();
        let unreached = compiler.unreached.get(&name("shop/s"));
        let unreached: Vec<Chosen> = unreached
            .into_iter()
            .flatten()
            .flat_map(|(key, matches)| matches.iter().map(|unreached| (key.name.clone(), unreached.place)))
            .map(|(route, place)| (route, place.rule as usize, place.matched as usize))
            .collect();
        seen.unreached += unreached.len();
        for _ in 0..requests {
            let sent = sent(&mut dice, &routes);
            let (outcome, chosen) = expected(&routes, &sent);
            assert_eq!(
                decided(&service, &sent),
                outcome,
                "table {table} of seed {seed}: {sent:?}\n{routes:#?}"
            );
            match outcome {
                NaiveOutcome::Rule(..) => seen.ruled += 1,
                NaiveOutcome::NoneMatches => seen.none += 1,
                NaiveOutcome::Ambiguous => seen.ambiguous += 1,
                NaiveOutcome::NoRoutes => {}
            }
            if let Some(chosen) = chosen {
                assert!(
                    !unreached.contains(&chosen),
                    "table {table} of seed {seed}: {chosen:?}, {sent:?}\n{routes:#?}"
                );
            }
        }
    }
    seen
}

#[test]
fn routes_are_taken_as_gateway_api_says() {
    let seen = compare(7, 500, 20);
    assert!(seen.ruled > 2_000 && seen.none > 500 && seen.ambiguous > 100, "{seen:?}");
    assert!(seen.unreached > 100, "{seen:?}");
}

#[test]
#[ignore = "takes minutes; after a change of what routes do, by hand: see CONTRIBUTING.md"]
fn a_hundred_thousand_tables_are_taken_as_gateway_api_says() {
    compare(1, 100_000, 10);
}
