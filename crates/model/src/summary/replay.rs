//! What policies say of what was seen: [`crate::authorization::decide`] is asked again, as by the node at the time.
//!
//! A summary says less than the request did. What it leaves open is tried both ways, and where that makes a difference,
//! nothing is claimed ([`Foreseen::Depends`]), nor where somebody else is asked: headers and hosts, addresses that are not told apart, segments of paths that are folded (which
//! rules name some of), and requests that are not told apart.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;

use super::{Comer, REST, Summary, VARIABLE, Wish, fold};
use crate::authorization::{RequestSeen, Traffic, Visitor, decide, to_ask};
use crate::decision::{Decision, Effect};
use crate::snapshot::{
    AccessPolicies, AccessPolicy, AccessRule, Action, PathMatch, RequestConditions, Source, WorkloadConfig,
};

/// How many paths are tried for one that is folded.
const TRIED: usize = 100;

/// What becomes of who comes as a summary says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub verdict: Foreseen,
    /// What decides; of what depends, what would deny.
    pub by: Option<Decision>,
}

/// Whether somebody may enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreseen {
    Allowed,
    Denied,
    /// On what summaries do not say.
    Depends(Unknown),
}

/// What summaries do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Headers,
    Address,
    Path,
    Requests,
    Bytes,
    Asked,
}

impl Unknown {
    /// For people: what it depends on.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers or hosts",
            Self::Address => "the address",
            Self::Path => "a part of the path that varies",
            Self::Requests => "which requests they are",
            Self::Bytes => "whether the bytes are requests, and which",
            Self::Asked => "what the service says that a policy asks",
        }
    }
}

/// A workload as policies have it, ready to be asked often.
pub struct Judge {
    config: WorkloadConfig,
    /// Where headers and hosts are as whoever comes would like them, and as he would not.
    headers: [WorkloadConfig; 2],
    /// The same for addresses, too.
    addresses: [WorkloadConfig; 2],
    /// Paths that rules name.
    named: Vec<String>,
}

impl Judge {
    pub fn new(config: &WorkloadConfig) -> Self {
        let with = |knows_address, lenient| {
            let policies = config.policies.iter().map(|policy| bounded(policy, knows_address, lenient));
            let policies = AccessPolicies::from(policies.collect::<Vec<_>>());
            WorkloadConfig { policies, ..config.clone() }
        };
        let rules = config.policies.iter().flat_map(|policy| &policy.rules);
        let named = rules.filter_map(|rule| rule.request.as_ref()).flat_map(|request| &request.paths);
        Self {
            config: config.clone(),
            headers: [with(true, true), with(true, false)],
            addresses: [with(false, true), with(false, false)],
            named: named.map(text_of).collect(),
        }
    }

    /// What becomes of a summary now and then, at the port of each at which the workload listens.
    pub fn compare(before: (&Self, u16), after: (&Self, u16), summary: &Summary) -> [Judged; 2] {
        let named = || before.0.named.iter().chain(&after.0.named);
        let paths = match &summary.asked {
            Wish::Http { path, .. } => concrete(path, named),
            Wish::Grpc { path } => vec![path.to_string()],
            Wish::Tcp | Wish::Requests => vec![String::new()],
        };
        [before, after].map(|(judge, port)| judge.of_all(summary, port, &paths))
    }

    /// What becomes of a summary.
    pub fn judge(&self, summary: &Summary, port: u16) -> Judged {
        let [judged, _] = Self::compare((self, port), (self, port), summary);
        judged
    }

    /// Whether policies, and what the Mesh says, are the same for both.
    pub fn is_like(&self, other: &Self) -> bool {
        let of = |judge: &Self| (judge.config.inbound_capture, judge.config.denies_by_default);
        self.config.policies == other.config.policies
            && self.config.strict == other.config.strict
            && of(self) == of(other)
    }

    fn of_all(&self, summary: &Summary, port: u16, paths: &[String]) -> Judged {
        let mut all = paths.iter().map(|path| self.one(summary, port, path));
        let Some(first) = all.next() else { return Judged { verdict: Foreseen::Allowed, by: None } };
        let Some(other) = all.find(|other| other.verdict != first.verdict) else { return first };
        let denial = [&first, &other].into_iter().find(|judged| judged.verdict == Foreseen::Denied);
        let by = denial.unwrap_or(&other).by.clone();
        Judged { verdict: Foreseen::Depends(Unknown::Path), by }
    }

    fn one(&self, summary: &Summary, port: u16, path: &str) -> Judged {
        let (visitor, [lenient, strict], unknown) = match &summary.from {
            // What the node does not see, it lets in.
            Comer::Outside(_) if !self.config.inbound_capture => {
                return Judged { verdict: Foreseen::Allowed, by: None };
            }
            Comer::Mesh(identity) => (Visitor::Mesh(identity), &self.headers, Unknown::Headers),
            Comer::Outside(Some(address)) => (Visitor::Outside(*address), &self.headers, Unknown::Headers),
            Comer::Outside(None) => {
                let somewhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                (Visitor::Outside(somewhere), &self.addresses, Unknown::Address)
            }
        };
        let headers = HeaderMap::new();
        let request = |method| {
            Traffic::Request(RequestSeen { method, path, authority: "", headers: &headers, tokens: &[] })
        };
        let policies = &self.config.policies;
        let (best, worst, unknown) = match &summary.asked {
            // Where requests are looked at, bytes are read as such.
            Wish::Tcp if summary.allowed && policies.reading(port).is_some() => {
                (Traffic::Requests, Traffic::Bytes, Unknown::Bytes)
            }
            Wish::Tcp => (Traffic::Bytes, Traffic::Bytes, unknown),
            Wish::Requests => (Traffic::Requests, Traffic::Forgotten, Unknown::Requests),
            Wish::Http { path, .. } if path.ends_with(REST) && policies.by_path(port).is_some() => {
                (Traffic::Requests, Traffic::Forgotten, Unknown::Path)
            }
            Wish::Http { method, .. } => (request(method), request(method), unknown),
            Wish::Grpc { .. } => (request("POST"), request("POST"), unknown),
        };
        match (decide(lenient, visitor, port, best), decide(strict, visitor, port, worst)) {
            (Err(denial), _) => Judged { verdict: Foreseen::Denied, by: Some(denial.decision()) },
            (Ok(_), Err(denial)) => {
                Judged { verdict: Foreseen::Depends(unknown), by: Some(denial.decision()) }
            }
            (Ok(_), Ok(_))
                if let Some(asked) =
                    to_ask(strict, visitor, port, worst).ok().and_then(|all| all.first().copied()) =>
            {
                Judged { verdict: Foreseen::Depends(Unknown::Asked), by: Some(asked.decision(Effect::Asked)) }
            }
            // A token that is there must be valid.
            (Ok(_), Ok(_)) if policies.with_tokens(port).is_some() => {
                Judged { verdict: Foreseen::Depends(Unknown::Headers), by: None }
            }
            (Ok(matched), Ok(_)) => Judged {
                verdict: Foreseen::Allowed,
                by: matched.map(|matched| matched.decision(Effect::Routed)),
            },
        }
    }
}

/// A policy in which all that is not known is as whoever comes would like it (`lenient`), or is not.
fn bounded(policy: &AccessPolicy, knows_address: bool, lenient: bool) -> AccessPolicy {
    let matches = (policy.action == Action::Allow) == lenient;
    let rules = policy.rules.iter().map(|rule| bounded_rule(rule, knows_address, matches)).collect();
    AccessPolicy { rules, ..policy.clone() }
}

fn bounded_rule(rule: &AccessRule, knows_address: bool, matches: bool) -> AccessRule {
    let mut rule = rule.clone();
    let mut is_known = true;
    if let Some(request) = &mut rule.request {
        // All of them are looked at: what a rule may ask for besides is to be seen to here.
        let RequestConditions { methods: _, paths: _, calls: _, hosts, headers, jwt } = &mut **request;
        if !hosts.is_empty() || !headers.is_empty() || jwt.is_some() {
            hosts.clear();
            headers.clear();
            *jwt = None;
            is_known = false;
        }
    }
    if rule.when.as_ref().is_some_and(|when| when.asks_beyond(knows_address)) {
        rule.when = None;
        is_known = false;
    }
    if !is_known && !matches {
        rule.sources = Some(Vec::new());
    }
    if let Some(sources) = rule.sources.as_mut().filter(|_| !knows_address) {
        let is_range = |source: &Source| matches!(source, Source::Outside(ranges) if !ranges.is_empty());
        if matches {
            sources.iter_mut().filter(|source| is_range(source)).for_each(|range| {
                *range = Source::Outside(Vec::new());
            });
        } else {
            sources.retain(|source| !is_range(source));
        }
    }
    rule
}

/// A path that a rule names, with [`VARIABLE`] for what varies in it.
fn text_of(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text.clone(),
        // A template, as its check compiles it.
        PathMatch::Regex(pattern) => {
            let source = pattern.source();
            let source = source.strip_suffix("(?:/.*)?").unwrap_or(source).replace("[^/]+", VARIABLE);
            let mut text = String::with_capacity(source.len());
            let mut characters = source.chars();
            while let Some(character) = characters.next() {
                text.extend(if character == '\\' { characters.next() } else { Some(character) });
            }
            text
        }
    }
}

/// Paths that fold to that one: one that no rule names, and those that rules do.
fn concrete<'n, N: Iterator<Item = &'n String>>(path: &str, named: impl Fn() -> N) -> Vec<String> {
    if !path.contains(VARIABLE) {
        return vec![path.replace(REST, "rest")];
    }
    let mut number = 7_000_001_u64;
    while named().any(|named| named.contains(&number.to_string())) {
        number += 1;
    }
    let number = number.to_string();
    let any = |path: &str| path.replace(VARIABLE, &number).replace(REST, "rest");
    let mut all = vec![any(path)];
    for named in named() {
        let mut wanted = named.split('/');
        let filled = path.split('/').map(|segment| match wanted.next() {
            Some(wanted) if segment == VARIABLE && !wanted.is_empty() => wanted,
            _ => segment,
        });
        let filled = any(&filled.collect::<Vec<_>>().join("/"));
        if all.len() < TRIED && fold(&filled) == path && !all.contains(&filled) {
            all.push(filled);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compile::{Change, Compiler};
    use crate::identity::TrustDomain;
    use crate::name::{ServiceName, WorkloadName};
    use crate::registry::KindId;
    use crate::summary::Callee;

    /// A workload of a Service with policies of these specs, but for their targets.
    fn judge(policies: &[serde_json::Value]) -> Judge {
        let mut compiler = Compiler::new(TrustDomain::new("mesh.test").unwrap());
        let mut objects = vec![
            (
                KindId::Service,
                json!({ "metadata": { "namespace": "shop", "name": "c" },
                    "spec": { "selector": { "app": "c" }, "ports": [{ "port": 80 }] } }),
            ),
            (
                KindId::Workload,
                json!({ "metadata": { "namespace": "shop", "name": "c-1", "labels": { "app": "c" } },
                    "spec": { "address": "192.0.2.1", "ports": [{ "port": 80 }],
                        "node": { "name": "n1", "linkAddress": "192.0.2.1:15008" } } }),
            ),
        ];
        for (index, spec) in policies.iter().enumerate() {
            let mut spec = spec.clone();
            spec["targetRefs"] = json!([{ "group": "", "kind": "Service", "name": "c" }]);
            let metadata = json!({ "namespace": "shop", "name": format!("p{index}") });
            objects.push((KindId::AuthorizationPolicy, json!({ "metadata": metadata, "spec": spec })));
        }
        let changes = objects.into_iter().map(|(kind, object)| Change::Put(kind.kind(), object.into()));
        compiler.apply_all(changes);
        let config = &compiler.workload(&WorkloadName::new("shop", "c-1")).unwrap().config;
        assert_eq!(config.policies.len(), policies.len(), "one of them is not valid");
        Judge::new(config)
    }

    fn summary(from: &str, asked: Wish) -> Summary {
        let from = match from {
            "web" => "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
            other => other.parse().unwrap(),
        };
        Summary { from, to: Callee::Service(ServiceName::new("shop", "c")), port: 80, asked, allowed: true }
    }

    fn get(path: &str) -> Wish {
        Wish::Http { method: "GET".into(), path: path.into() }
    }

    #[test]
    fn what_summaries_leave_open_is_not_claimed() {
        use Foreseen::{Allowed, Denied, Depends};
        use Unknown::{Address, Bytes, Headers, Path, Requests};
        let rule = |action: &str, rule: serde_json::Value| json!({ "action": action, "rules": [rule] });
        let path = |action, kind: &str, value: &str| {
            rule(action, json!({ "http": { "paths": [{ "type": kind, "value": value }] } }))
        };
        let role = json!({ "http": { "headers": [{ "name": "x-role", "value": "admin" }] } });
        let host = json!({ "http": { "hosts": ["c.shop"] } });
        let office =
            json!({ "sources": [{ "type": "External", "external": { "cidrs": ["192.0.2.0/24"] } }] });
        let web = json!({ "sources": [{ "type": "ServiceAccount", "serviceAccount": { "name": "web" } }] });
        let mut web_by_role = role.clone();
        web_by_role["sources"] = web["sources"].clone();
        let call = json!({ "grpc": { "methods": [{ "service": "a.B", "method": "C" }] } });
        for (policies, from, asked, expected) in [
            (vec![], "web", get("/"), Allowed),
            (vec![rule("Allow", web.clone())], "web", Wish::Tcp, Allowed),
            (vec![rule("Deny", web.clone())], "web", get("/"), Denied),
            (vec![rule("Audit", web.clone())], "web", get("/"), Allowed),
            // Headers and hosts.
            (vec![rule("Allow", role.clone())], "web", get("/"), Depends(Headers)),
            (vec![rule("Deny", role.clone())], "web", get("/"), Depends(Headers)),
            (vec![rule("Deny", host)], "web", get("/"), Depends(Headers)),
            (vec![rule("Deny", role.clone()), rule("Deny", web.clone())], "web", get("/"), Denied),
            (vec![rule("Allow", role.clone()), rule("Allow", web.clone())], "web", get("/"), Allowed),
            (vec![rule("Allow", web_by_role)], "spiffe://mesh.test/ns/shop/sa/other", get("/"), Denied),
            // Addresses. What is not captured is not seen.
            (vec![rule("Allow", office.clone())], "192.0.2.7", Wish::Tcp, Allowed),
            (vec![rule("Allow", office.clone())], "192.0.3.7", Wish::Tcp, Denied),
            (vec![rule("Allow", office.clone())], "outside", Wish::Tcp, Depends(Address)),
            (vec![rule("Deny", office.clone())], "outside", Wish::Tcp, Depends(Address)),
            (vec![rule("Audit", office)], "outside", Wish::Tcp, Allowed),
            (vec![rule("Allow", web)], "outside", Wish::Tcp, Denied),
            // Paths.
            (vec![path("Allow", "Template", "/items/{id}")], "web", get("/items/{x}"), Allowed),
            (vec![path("Allow", "PathPrefix", "/items")], "web", get("/items/{x}"), Allowed),
            (vec![path("Allow", "Exact", "/items/42")], "web", get("/items/{x}"), Depends(Path)),
            (vec![path("Deny", "Exact", "/items/42")], "web", get("/items/{x}"), Depends(Path)),
            (vec![path("Deny", "PathPrefix", "/items/42")], "web", get("/items/{x}/r"), Depends(Path)),
            (vec![path("Deny", "Template", "/items/42/{a=**}")], "web", get("/items/{x}/r"), Depends(Path)),
            // It would not have been folded.
            (vec![path("Deny", "Exact", "/items/latest")], "web", get("/items/{x}"), Allowed),
            (vec![path("Deny", "Exact", "/items/7000001")], "web", get("/items/{x}"), Depends(Path)),
            (vec![path("Allow", "PathPrefix", "/a")], "web", get("/a//b"), Denied),
            (vec![path("Allow", "PathPrefix", "/a")], "web", get("/a/{x=**}"), Depends(Path)),
            (vec![rule("Allow", call.clone())], "web", Wish::Grpc { path: "/a.B/C".into() }, Allowed),
            (vec![rule("Allow", call.clone())], "web", Wish::Grpc { path: "/a.B/D".into() }, Denied),
            // Requests that are not told apart, and bytes that may be some.
            (vec![rule("Allow", call.clone())], "web", Wish::Requests, Depends(Requests)),
            (vec![rule("Deny", call.clone())], "web", Wish::Requests, Depends(Requests)),
            (vec![rule("Allow", json!({}))], "web", Wish::Requests, Allowed),
            (vec![rule("Allow", json!({ "sources": [] }))], "web", Wish::Requests, Denied),
            (vec![rule("Allow", call)], "web", Wish::Tcp, Depends(Bytes)),
        ] {
            let summary = summary(from, asked);
            assert_eq!(judge(&policies).judge(&summary, 80).verdict, expected, "{summary:?} {policies:?}");
        }
    }

    #[test]
    fn both_sides_are_asked_about_the_same() {
        let path = |value: &str| {
            let path = json!({ "type": "Exact", "value": value });
            json!({ "action": "Deny", "rules": [{ "http": { "paths": [path] } }] })
        };
        let (before, after) = (judge(&[path("/items/latest")]), judge(&[path("/items/42")]));
        let [now, then] = Judge::compare((&before, 80), (&after, 80), &summary("web", get("/items/{x}")));
        assert_eq!((now.verdict, then.verdict), (Foreseen::Allowed, Foreseen::Depends(Unknown::Path)));
        let by = then.by.unwrap().to_string();
        assert_eq!(by, "AuthorizationPolicy/shop/p0 spec.rules[0] refused");
        assert!(!before.is_like(&after) && before.is_like(&before));
    }
}
