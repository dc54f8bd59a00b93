//! Policies that allow what was seen to be let in, and nothing else: one for each Service, for people to look over.
//!
//! They go by service accounts, ports, methods, paths and calls. Where there is more than a policy may list, or where what was seen
//! cannot be said so, they say less, and a remark says that they do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::fold::{REST, VARIABLE};
use super::{Comer, Summary, Wish};
use crate::identity::{SpiffeId, Subject, TrustDomain};
use crate::name::ServiceName;
use crate::path::ambiguity;
use crate::registry::KindId;
use crate::validate::validate;

/// More paths of one source at one port are none that somebody would want to look over.
const MOST_PATHS: usize = 50;
/// As many rules, sources of a rule and methods as a policy may have.
const MOST_RULES: usize = 100;
const MOST_SOURCES: usize = 100;
const MOST_METHODS: usize = 32;

/// A policy that allows what was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    pub policy: Value,
    /// What is to be known of it, a sentence each.
    pub remarks: Vec<String>,
}

/// What a source did at a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    port: u16,
    what: Granted,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Granted {
    All,
    /// Where none are listed, all.
    Requests {
        methods: Vec<String>,
        paths: Vec<String>,
    },
    Calls(Vec<(String, String)>),
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Paths,
    Methods,
    Ports,
    Sources,
}

/// A source of rules: `None` is the outside.
type Who = Option<SpiffeId>;

/// The policy for a Service, of what was let in there. Without anything, it lets in nobody.
pub fn suggest(service: &ServiceName, domain: &TrustDomain, seen: &[&Summary]) -> Suggestion {
    let mut suggestion = None;
    for detail in [Detail::Paths, Detail::Methods, Detail::Ports, Detail::Sources] {
        let found = with(service, domain, seen, detail);
        let is_valid = validate(KindId::AuthorizationPolicy.kind(), &found.policy).is_empty();
        suggestion = Some(found);
        if is_valid {
            break;
        }
    }
    suggestion.unwrap_or_else(|| with(service, domain, &[], Detail::Sources))
}

fn with(service: &ServiceName, domain: &TrustDomain, seen: &[&Summary], detail: Detail) -> Suggestion {
    let mut remarks = BTreeSet::new();
    if seen.is_empty() {
        remarks.insert("Nobody called it: it lets in nobody.".to_owned());
    }
    match detail {
        Detail::Paths => {}
        Detail::Methods => drop(remarks.insert("There are too many paths to list.".to_owned())),
        Detail::Ports => drop(remarks.insert("There are too many methods and paths to list.".to_owned())),
        Detail::Sources => drop(remarks.insert("There is too much to tell ports apart.".to_owned())),
    }
    let mut by_source: BTreeMap<Who, Vec<&Summary>> = BTreeMap::new();
    for summary in seen {
        let who = match &summary.from {
            Comer::Mesh(identity) => Some(identity.clone()),
            Comer::Outside(_) => None,
        };
        by_source.entry(who).or_default().push(summary);
    }
    let ports = PortLimits::of(seen, &mut remarks);
    let mut groups: BTreeMap<Vec<Grant>, Vec<Who>> = BTreeMap::new();
    for (who, of_source) in &by_source {
        let grants = grants(of_source, &ports, detail, &mut remarks);
        groups.entry(grants).or_default().push(who.clone());
    }
    let outside = addresses(by_source.get(&None).map_or(&[], Vec::as_slice));
    let mut rules = Vec::new();
    for (grants, sources) in groups {
        for sources in sources.chunks(MOST_SOURCES) {
            let sources: Vec<_> =
                sources.iter().map(|who| source(who.as_ref(), service, domain, &outside)).collect();
            if detail == Detail::Sources {
                rules.push(json!({ "sources": sources }));
                continue;
            }
            rules.extend(grants.iter().map(|grant| rule(&sources, grant)));
        }
    }
    let mut spec = json!({
        "targetRefs": [{ "group": "", "kind": "Service", "name": &*service.name }],
        "action": "Allow",
    });
    if !rules.is_empty() {
        spec["rules"] = rules.into();
    }
    let kind = KindId::AuthorizationPolicy.kind();
    let policy = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "name": format!("{}-callers", service.name), "namespace": &*service.namespace },
        "spec": spec,
    });
    Suggestion { policy, remarks: remarks.into_iter().collect() }
}

/// Ports at which rules may not look at all.
#[derive(Default)]
struct PortLimits {
    /// Bytes enter there.
    opaque: BTreeSet<u16>,
    /// Paths that mean several things are asked for there.
    ambiguous: BTreeSet<u16>,
}

impl PortLimits {
    fn of(seen: &[&Summary], remarks: &mut BTreeSet<String>) -> Self {
        let mut ports = Self::default();
        let is_spoken = |port| {
            let is_request = |summary: &&&Summary| summary.port == port && summary.asked != Wish::Tcp;
            seen.iter().any(|summary| is_request(&summary))
        };
        for summary in seen {
            let port = summary.port;
            match &summary.asked {
                // Nobody has looked into what comes past the mesh: where the mesh's own speak HTTP, that most likely does, too.
                Wish::Tcp if matches!(summary.from, Comer::Outside(_)) && is_spoken(port) => {
                    let remark = format!(
                        "Bytes came to port {port} from outside of the mesh: what is no HTTP would no longer enter there."
                    );
                    remarks.insert(remark);
                }
                Wish::Tcp => drop(ports.opaque.insert(port)),
                Wish::Http { path, .. } if ambiguity(path).is_some() => {
                    ports.ambiguous.insert(port);
                }
                _ => {}
            }
        }
        for port in &ports.opaque {
            if is_spoken(*port) {
                let remark = format!("Port {port} has bytes as well as requests: all of both are let in.");
                remarks.insert(remark);
            }
        }
        for port in ports.ambiguous.difference(&ports.opaque) {
            let remark = format!(
                "At port {port} paths are asked for that servers read differently: no rule goes by paths, which would refuse them."
            );
            remarks.insert(remark);
        }
        ports
    }
}

fn grants(
    seen: &[&Summary],
    ports: &PortLimits,
    detail: Detail,
    remarks: &mut BTreeSet<String>,
) -> Vec<Grant> {
    let mut by_port: BTreeMap<u16, Vec<&Wish>> = BTreeMap::new();
    for summary in seen {
        by_port.entry(summary.port).or_default().push(&summary.asked);
    }
    let mut grants = Vec::new();
    for (port, asked) in by_port {
        let has_all = asked.iter().any(|asked| matches!(asked, Wish::Requests | Wish::Tcp));
        let is_coarse = matches!(detail, Detail::Ports | Detail::Sources);
        if has_all || is_coarse || ports.opaque.contains(&port) {
            if asked.iter().any(|asked| **asked == Wish::Requests) {
                let remark = format!("There were too many different requests at port {port} to list.");
                remarks.insert(remark);
            }
            grants.push(Grant { port, what: Granted::All });
            continue;
        }
        let mut paths: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut calls = BTreeSet::new();
        for wish in asked {
            match wish {
                Wish::Http { method, path } => drop(paths.entry(path).or_default().insert(method)),
                Wish::Grpc { path } => match call(path) {
                    Some((service, method)) => drop(calls.insert((service.to_owned(), method.to_owned()))),
                    None => drop(paths.entry(path).or_default().insert("POST")),
                },
                Wish::Tcp | Wish::Requests => {}
            }
        }
        let by_path = detail == Detail::Paths && !ports.ambiguous.contains(&port);
        if !calls.is_empty() && by_path {
            let calls: Vec<_> = calls.into_iter().collect();
            grants.extend(
                calls.chunks(MOST_RULES).map(|calls| Grant { port, what: Granted::Calls(calls.to_vec()) }),
            );
        } else if !calls.is_empty() {
            paths.entry("").or_default().insert("POST");
        }
        grants.extend(requests(&paths, by_path, port, remarks).into_iter().map(|what| Grant { port, what }));
    }
    grants
}

/// What the methods of each path come to.
fn requests(
    paths: &BTreeMap<&str, BTreeSet<&str>>,
    by_path: bool,
    port: u16,
    remarks: &mut BTreeSet<String>,
) -> Vec<Granted> {
    let sayable = |path: &&str| path.starts_with('/');
    let by_path = by_path && paths.len() <= MOST_PATHS && paths.keys().all(sayable);
    if !by_path && paths.len() > MOST_PATHS {
        remarks.insert(format!("There were too many different paths at port {port} to list."));
    }
    let mut by_methods: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    if by_path {
        for (path, methods) in paths {
            by_methods.entry(methods.clone()).or_default().push((*path).to_owned());
        }
    } else if !paths.is_empty() {
        by_methods.insert(paths.values().flatten().copied().collect(), Vec::new());
    }
    let granted = |(methods, paths): (BTreeSet<&str>, Vec<String>)| {
        let is_method = |method: &&str| {
            method.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_' | b'0'..=b'9'))
        };
        let listed = methods.len() <= MOST_METHODS && methods.iter().all(is_method);
        let methods = if listed { methods } else { BTreeSet::new() };
        match methods.is_empty() && paths.is_empty() {
            true => Granted::All,
            false => Granted::Requests { methods: methods.into_iter().map(str::to_owned).collect(), paths },
        }
    };
    by_methods.into_iter().map(granted).collect()
}

/// The service and the method of a call.
fn call(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_service = service.split('.').all(is_word);
    (is_service && is_word(method)).then_some((service, method))
}

/// Those of the outside, if all of them are known and can be listed.
fn addresses(seen: &[&Summary]) -> BTreeSet<IpAddr> {
    let address = |summary: &&Summary| match summary.from {
        Comer::Outside(address) => address.map(|address| address.to_canonical()),
        Comer::Mesh(_) => None,
    };
    let all: Option<BTreeSet<_>> = seen.iter().map(address).collect();
    all.filter(|all| all.len() <= MOST_SOURCES).unwrap_or_default()
}

fn source(
    who: Option<&SpiffeId>,
    service: &ServiceName,
    domain: &TrustDomain,
    outside: &BTreeSet<IpAddr>,
) -> Value {
    let Some(identity) = who else {
        if outside.is_empty() {
            return json!({ "type": "External" });
        }
        let range = |address: &IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        return json!({ "type": "External", "external": { "cidrs": outside.iter().map(range).collect::<Vec<_>>() } });
    };
    match identity.subject() {
        Subject::Workload { namespace, service_account } if identity.trust_domain() == *domain => {
            let mut account = json!({ "name": service_account });
            if *namespace != *service.namespace {
                account["namespace"] = namespace.into();
            }
            json!({ "type": "ServiceAccount", "serviceAccount": account })
        }
        _ => json!({ "type": "SPIFFE", "spiffe": identity.as_str() }),
    }
}

fn rule(sources: &[Value], grant: &Grant) -> Value {
    let mut rule = json!({ "sources": sources, "networkAttributes": { "ports": [grant.port] } });
    match &grant.what {
        Granted::All => {}
        Granted::Requests { methods, paths } => {
            if !methods.is_empty() {
                rule["http"]["methods"] = json!(methods);
            }
            if !paths.is_empty() {
                let path = |path: &String| {
                    let varies = path.contains(VARIABLE) || path.contains(REST);
                    json!({ "type": if varies { "Template" } else { "Exact" }, "value": path })
                };
                rule["http"]["paths"] = paths.iter().map(path).collect();
            }
        }
        Granted::Calls(calls) => {
            let call = |(service, method): &(String, String)| json!({ "service": service, "method": method });
            rule["grpc"]["methods"] = calls.iter().map(call).collect();
        }
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Callee;

    fn summary(from: &str, port: u16, asked: Wish) -> Summary {
        let from = match from.contains(['/', '.', ':']) || from == "outside" {
            true => from.parse().unwrap(),
            false => format!("spiffe://mesh.test/ns/shop/sa/{from}").parse().unwrap(),
        };
        let to = Callee::Service(ServiceName::new("shop", "cart"));
        Summary { from, to, port, asked, allowed: true }
    }

    fn http(method: &str, path: &str) -> Wish {
        Wish::Http { method: method.into(), path: path.into() }
    }

    fn of(seen: &[Summary]) -> Suggestion {
        let domain = TrustDomain::new("mesh.test").unwrap();
        let suggestion =
            suggest(&ServiceName::new("shop", "cart"), &domain, &seen.iter().collect::<Vec<_>>());
        let errors = validate(KindId::AuthorizationPolicy.kind(), &suggestion.policy);
        assert_eq!(errors, [], "{}", suggestion.policy);
        suggestion
    }

    #[test]
    fn who_did_the_same_share_a_rule() {
        let call = Wish::Grpc { path: "/shop.v1.Cart/Add".into() };
        let seen = [
            summary("web", 80, http("GET", "/items")),
            summary("web", 80, http("HEAD", "/items")),
            summary("web", 80, http("POST", "/items/{x}")),
            summary("web", 80, http("POST", "/orders")),
            summary("spiffe://mesh.test/ns/tests/sa/load", 80, http("POST", "/orders")),
            summary("stock", 81, call.clone()),
            summary("spiffe://other.test/ns/a/sa/b", 81, call),
            summary("web", 82, Wish::Tcp),
            summary("192.0.2.7", 82, Wish::Tcp),
            summary("2001:db8::1", 82, Wish::Tcp),
        ];
        let Suggestion { policy, remarks } = of(&seen);
        assert_eq!(remarks, Vec::<String>::new());
        let account = |name| json!({ "type": "ServiceAccount", "serviceAccount": { "name": name } });
        let port = |port: u16| json!({ "ports": [port] });
        let expected = json!([
            {
                "sources": [account("web")], "networkAttributes": port(80),
                "http": { "methods": ["GET", "HEAD"], "paths": [{ "type": "Exact", "value": "/items" }] },
            },
            {
                "sources": [account("web")], "networkAttributes": port(80),
                "http": { "methods": ["POST"], "paths": [
                    { "type": "Template", "value": "/items/{x}" }, { "type": "Exact", "value": "/orders" },
                ] },
            },
            { "sources": [account("web")], "networkAttributes": port(82) },
            {
                "sources": [{ "type": "ServiceAccount", "serviceAccount": { "name": "load", "namespace": "tests" } }],
                "networkAttributes": port(80),
                "http": { "methods": ["POST"], "paths": [{ "type": "Exact", "value": "/orders" }] },
            },
            {
                "sources": [account("stock"), { "type": "SPIFFE", "spiffe": "spiffe://other.test/ns/a/sa/b" }],
                "networkAttributes": port(81),
                "grpc": { "methods": [{ "service": "shop.v1.Cart", "method": "Add" }] },
            },
            {
                "sources": [{ "type": "External", "external": { "cidrs": ["192.0.2.7/32", "2001:db8::1/128"] } }],
                "networkAttributes": port(82),
            },
        ]);
        let rules = policy["spec"]["rules"].as_array().unwrap();
        let missing: Vec<_> =
            expected.as_array().unwrap().iter().filter(|rule| !rules.contains(rule)).collect();
        assert!(missing.is_empty() && rules.len() == 6, "{missing:#?} in {rules:#?}");
        assert_eq!(policy["metadata"], json!({ "name": "cart-callers", "namespace": "shop" }));
    }

    #[test]
    fn what_cannot_be_said_is_left_out_and_told() {
        // Bytes and requests; ambiguous paths; words that are no methods; `OPTIONS *`.
        let rule_of = |seen: &[Summary]| {
            let Suggestion { policy, remarks } = of(seen);
            let rules = policy["spec"]["rules"].as_array().unwrap().clone();
            assert_eq!(rules.len(), 1, "{rules:?}");
            (rules[0]["http"].clone(), remarks.len())
        };
        let both = [summary("web", 80, Wish::Tcp), summary("web", 80, http("GET", "/"))];
        assert_eq!(rule_of(&both), (Value::Null, 1));
        let ambiguous = [summary("web", 80, http("GET", "/a//b")), summary("web", 80, http("PUT", "/a"))];
        assert_eq!(rule_of(&ambiguous), (json!({ "methods": ["GET", "PUT"] }), 1));
        let lower = [summary("web", 80, http("get", "/a"))];
        assert_eq!(rule_of(&lower), (json!({ "paths": [{ "type": "Exact", "value": "/a" }] }), 0));
        let star = [summary("web", 80, http("OPTIONS", "*"))];
        assert_eq!(rule_of(&star), (json!({ "methods": ["OPTIONS"] }), 0));
        let past = [summary("192.0.2.7", 80, Wish::Tcp), summary("web", 80, http("GET", "/a"))];
        let Suggestion { policy, remarks } = of(&past);
        assert_eq!((policy["spec"]["rules"].as_array().unwrap().len(), remarks.len()), (2, 1), "{policy}");
        let coarse = [summary("web", 80, Wish::Requests), summary("web", 80, http("GET", "/"))];
        assert_eq!(rule_of(&coarse), (Value::Null, 1));
        let many: Vec<_> =
            (0..60).map(|number| summary("web", 80, http("GET", &format!("/p{number}")))).collect();
        assert_eq!(rule_of(&many), (json!({ "methods": ["GET"] }), 1));
        // Nobody.
        let Suggestion { policy, remarks } = of(&[]);
        assert_eq!((policy["spec"].get("rules"), remarks.len()), (None, 1));
    }

    #[test]
    fn crowds_get_a_policy_that_is_valid() {
        for sources in [150, 300] {
            let seen: Vec<_> = (0..sources)
                .map(|number| {
                    let path = format!("/p{number}");
                    summary(&format!("w{number}"), 80 + number % 3, http("GET", &path))
                })
                .collect();
            let Suggestion { policy, remarks } = of(&seen);
            let rules = policy["spec"]["rules"].as_array().unwrap();
            assert!(rules.len() <= MOST_RULES && !remarks.is_empty(), "{}", rules.len());
        }
    }
}
