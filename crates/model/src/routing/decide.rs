//! Where a request or connection to a service goes, and by which field of which object.

use std::borrow::Cow;
use std::sync::Arc;

use super::{RequestParts, cors, draw, route, route_preflight};
use crate::decision::{Decider, Decision, Effect};
use crate::name::{NamespacedName, ServiceName};
use crate::path::{has_dot_segments, normal_form};
use crate::snapshot::{
    Backend, BackendTarget, Cors, HttpFilters, HttpRouteEntry, HttpRule, PortConfig, Redirect, ServiceConfig,
    Spoken,
};

/// What becomes of a request.
#[derive(Debug)]
pub enum Routing<'s> {
    To(Routed<'s>),
    /// It is answered: its client is sent elsewhere.
    Redirect(&'s Arc<HttpRule>, &'s Redirect),
    /// It is answered: it asks what pages of another origin may do.
    Preflight(Preflight<'s>),
}

/// What answers a preflight.
#[derive(Debug)]
pub struct Preflight<'s> {
    pub rule: &'s Arc<HttpRule>,
    pub cors: &'s Cors,
    /// The backend whose filter it is; `None`: it is the rule's.
    backend: Option<usize>,
}

impl Preflight<'_> {
    /// The decision of the filter over an origin that is allowed, or not.
    pub fn decision(&self, allowed: bool) -> Decision {
        let rule = self.rule.index;
        let backend = self.backend.map(|backend| format!(".backendRefs[{backend}]")).unwrap_or_default();
        let (field, effect) =
            if allowed { ("", Effect::Answered) } else { (".allowOrigins", Effect::Refused) };
        let field = format!("spec.rules[{rule}]{backend}.filters[{}].cors{field}", self.cors.index);
        Decision::new(Decider::rule(self.rule), field, effect)
    }
}

/// Where it goes.
#[derive(Debug)]
pub struct Routed<'s> {
    /// The service whose endpoints take it, and which of its ports.
    pub backend: &'s ServiceName,
    pub port: u16,
    /// How its applications are spoken to.
    pub spoken: Spoken,
    /// How those of the port are that was asked.
    pub asked: Spoken,
    /// The rule that says so, and its backend's index; `None` where the port has no routes.
    pub rule: Option<(&'s Arc<HttpRule>, usize)>,
    /// Its session decided, and not the weights.
    pub in_session: bool,
}

impl Routed<'_> {
    /// The decision of the rule, if one decided.
    pub fn decision(&self) -> Option<Decision> {
        let (rule, backend) = self.rule?;
        let field = match self.in_session {
            true => format!("spec.rules[{}].sessionPersistence", rule.index),
            false => format!("spec.rules[{}].backendRefs[{backend}].weight", rule.index),
        };
        Some(Decision::new(Decider::rule(rule), field, Effect::Routed))
    }
}

/// The decision of a rule that redirects.
pub fn redirected(rule: &HttpRule, redirect: &Redirect) -> Decision {
    let field = format!("spec.rules[{}].filters[{}].requestRedirect", rule.index, redirect.index);
    Decision::new(Decider::rule(rule), field, Effect::Redirected)
}

/// Why it goes nowhere.
#[derive(Debug)]
pub struct Unrouted {
    pub why: Why,
    /// The rule that matched, if one did.
    pub rule: Option<Arc<HttpRule>>,
    pub decision: Decision,
    /// For people: what is wrong with which object.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The service has no such port.
    NoPort,
    /// Routes go by paths, and that of the request means something else to others.
    AmbiguousPath,
    /// The port has routes, and none matches.
    NoRoute,
    /// The rule has no backend that could take it.
    NoBackend,
}

impl Why {
    /// The status and the `tulle-reason` that a client gets.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Self::NoPort => (502, "unknown-service"),
            Self::AmbiguousPath => (400, "bad-request"),
            Self::NoRoute => (404, "no-route"),
            Self::NoBackend => (500, "invalid-backend"),
        }
    }
}

impl Unrouted {
    fn new(why: Why, decision: Decision, message: String) -> Box<Self> {
        Box::new(Self { why, rule: None, decision, message })
    }
}

/// A port of a service, as it is to clients of that namespace.
pub fn port_of<'s>(
    service: &'s ServiceConfig,
    port: u16,
    namespace: &str,
) -> Result<&'s PortConfig, Box<Unrouted>> {
    service.port(port).map(|port| port.seen_from(namespace)).ok_or_else(|| {
        let name = &service.name;
        let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
        let has = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        let decision = Decision::new(Decider::Service(name.clone()), "spec.ports", Effect::Refused);
        Unrouted::new(Why::NoPort, decision, format!("service {name} has no port {port} (it has {has})"))
    })
}

/// What becomes of a request to port `port` of `service` that comes from a workload of `namespace`. `request`: its path is as it came; `random`
/// draws among backends; `session`: which backend of its rule it stays with, asked for where the rule has sessions.
pub fn request<'s, 'r, H>(
    service: &'s ServiceConfig,
    port: u16,
    namespace: &str,
    request: RequestParts<'r, H>,
    random: impl FnOnce() -> u64,
    session: impl FnOnce(&'s HttpRouteEntry) -> Option<usize>,
) -> Result<Routing<'s>, Box<Unrouted>>
where
    H: Fn(&str) -> Option<Cow<'r, str>>,
{
    let name = &service.name;
    let own = port_of(service, port, namespace)?;
    let asked = own.spoken();
    let table = &own.http_routes;
    if table.is_empty() {
        if !own.tls_routes.is_empty() {
            // What has no server that it names goes nowhere there.
            return Err(unnamed(service, own, None));
        }
        return Ok(Routing::To(Routed {
            backend: name,
            port,
            spoken: asked,
            asked,
            rule: None,
            in_session: false,
        }));
    }
    if table.goes_by_path() && has_dot_segments(request.path) {
        let message = format!(
            "the path has a dot segment (`.` or `..`), and routes of service {name} port {port} go by paths"
        );
        return Err(Unrouted::new(Why::AmbiguousPath, matches_of(service, own), message));
    }
    let path = if table.goes_by_path() { normal_form(request.path) } else { request.path.into() };
    let RequestParts { method, query, header, .. } = request;
    // Not what was handed in itself: the path may be of shorter life.
    let request = RequestParts { method, path: &path, query, header: |name: &str| header(name) };
    let announced =
        if table.has_cors() { cors::announced(request.method, |name| (request.header)(name)) } else { None };
    let entry = match &announced {
        None => route(table, &request),
        Some(announced) => route_preflight(table, &request, announced),
    };
    let Some(entry) = entry else {
        let message = format!("no route of service {name} port {port} matches the request");
        return Err(Unrouted::new(Why::NoRoute, matches_of(service, own), message));
    };
    let rule = &entry.rule;
    if announced.is_some()
        && let Some(cors) = cors_of(rule.filters.as_deref())
    {
        return Ok(Routing::Preflight(Preflight { rule, cors, backend: None }));
    }
    if let Some(redirect) = rule.filters.as_ref().and_then(|filters| filters.redirect.as_ref()) {
        return Ok(Routing::Redirect(rule, redirect));
    }
    let by = || Decider::rule(rule);
    let kept = if rule.session.is_some() { session(entry) } else { None };
    let drawn = kept.or_else(|| draw(&rule.backends, random()));
    let (index, backend, port) = target_of(&rule.backends, drawn, by, rule.index).map_err(|unrouted| {
        let rule = Some(rule.clone());
        Box::new(Unrouted { rule, ..*unrouted })
    })?;
    if announced.is_some()
        && let Some(cors) = cors_of(rule.backends[index].filters.as_deref())
    {
        return Ok(Routing::Preflight(Preflight { rule, cors, backend: Some(index) }));
    }
    let spoken = rule.backends[index].spoken.map_or(asked, |spoken| spoken.or(asked));
    let in_session = kept.is_some();
    Ok(Routing::To(Routed { backend, port, spoken, asked, rule: Some((rule, index)), in_session }))
}

fn cors_of(filters: Option<&HttpFilters>) -> Option<&Cors> {
    filters.and_then(|filters| filters.cors.as_ref())
}

/// Where a connection from a workload of `namespace` to port `port` of `service` goes, and the decision of its TLSRoute or TCPRoute, if it
/// has one. `server`: the one that its client names (SNI), in lower case, where the port goes by that.
pub fn connection<'s>(
    service: &'s ServiceConfig,
    port: u16,
    namespace: &str,
    server: Option<&str>,
    random: impl FnOnce() -> u64,
) -> Result<(&'s ServiceName, u16, Option<Decision>), Box<Unrouted>> {
    let own = port_of(service, port, namespace)?;
    let (rule, kind): (_, fn(NamespacedName) -> Decider) = match &own.tcp_route {
        _ if !own.tls_routes.is_empty() => {
            let rule = server.and_then(|server| own.tls_routes.find(server));
            (rule.ok_or_else(|| unnamed(service, own, server))?, Decider::TlsRoute)
        }
        Some(rule) => (rule, Decider::TcpRoute),
        None => return Ok((&service.name, port, None)),
    };
    let by = || kind(rule.route.clone());
    let (index, name, port) = target_of(&rule.backends, draw(&rule.backends, random()), by, 0)?;
    let field = format!("spec.rules[0].backendRefs[{index}].weight");
    Ok((name, port, Some(Decision::new(by(), field, Effect::Routed))))
}

/// Where the backend that was drawn leads, if one was.
fn target_of(
    backends: &[Backend],
    drawn: Option<usize>,
    by: impl Fn() -> Decider,
    rule: u32,
) -> Result<(usize, &ServiceName, u16), Box<Unrouted>> {
    let refuse = |field: String, what: &str| {
        let by = by();
        let message = format!("{by}: {what}");
        Unrouted::new(Why::NoBackend, Decision::new(by, field, Effect::Refused), message)
    };
    let Some(index) = drawn else {
        return Err(refuse(
            format!("spec.rules[{rule}].backendRefs"),
            "the rule has no backend with a weight",
        ));
    };
    match &backends[index].target {
        BackendTarget::Service { name, port } => Ok((index, name, *port)),
        BackendTarget::Invalid { reason } => {
            Err(refuse(format!("spec.rules[{rule}].backendRefs[{index}]"), reason))
        }
    }
}

/// No TLSRoute of a port is for the server that a client names, if it names one.
fn unnamed(service: &ServiceConfig, port: &PortConfig, server: Option<&str>) -> Box<Unrouted> {
    let of = format!("service {} port {}", service.name, port.number);
    let message = match server {
        Some(server) => format!("no TLSRoute of {of} is for the server {server} (SNI)"),
        None => format!("the client names no server (SNI), and {of} has TLSRoutes, which go by that"),
    };
    Unrouted::new(Why::NoRoute, hostnames_of(service, port), message)
}

/// The host names of a port's TLSRoutes: of the one that it has, or else of whatever names the port.
pub fn hostnames_of(service: &ServiceConfig, port: &PortConfig) -> Decision {
    let mut routes = port.tls_routes.entries().iter().map(|entry| &entry.rule.route);
    let first = routes.next();
    match first.filter(|first| routes.all(|route| route == *first)) {
        Some(route) => Decision::new(Decider::TlsRoute(route.clone()), "spec.hostnames", Effect::Refused),
        None => of_port(service, port),
    }
}

/// The matches of a port's routes: of the one that it has, or else of whatever names the port.
fn matches_of(service: &ServiceConfig, port: &PortConfig) -> Decision {
    let mut rules = port.http_routes.entries().iter().map(|entry| &entry.rule);
    let first = rules.next();
    match first.filter(|first| rules.all(|rule| rule.route == first.route)) {
        Some(rule) => Decision::new(Decider::rule(rule), "spec.rules[*].matches", Effect::Refused),
        None => of_port(service, port),
    }
}

/// A port with routes of several objects, none of which is for what came.
fn of_port(service: &ServiceConfig, port: &PortConfig) -> Decision {
    let field = format!("spec.ports[{}]", port.number);
    Decision::new(Decider::Service(service.name.clone()), field, Effect::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_settings::Http1Settings;
    use crate::snapshot::{
        AllowedOrigins, AppProtocol, HttpMatch, HttpRouteEntry, HttpRouteTable, Listing, PathMatch,
        ServerName, Session, SessionCarrier, TcpRule, TlsRouteEntry, TlsRouteTable,
    };

    fn name(name: &str) -> NamespacedName {
        NamespacedName::new("default", name)
    }

    fn to(target: &str, weight: u32) -> Backend {
        let target = match target {
            "" => BackendTarget::Invalid { reason: "there is no service default/x".into() },
            target => BackendTarget::Service { name: name(target), port: 8080 },
        };
        Backend::new(target, weight)
    }

    fn entry(route: &str, prefix: &str, backends: Vec<Backend>) -> HttpRouteEntry {
        let path = PathMatch::Prefix(prefix.into());
        let rule = HttpRule::new(name(route), 2, None, backends);
        HttpRouteEntry {
            matcher: HttpMatch { path, method: None, headers: vec![], query: vec![] },
            rule: Arc::new(rule),
        }
    }

    fn service(entries: Vec<HttpRouteEntry>, tcp_route: Option<Vec<Backend>>) -> ServiceConfig {
        let port = PortConfig {
            number: 80,
            name: "".into(),
            protocol: AppProtocol::Detect,
            http_routes: HttpRouteTable::new(entries),
            tls_routes: TlsRouteTable::default(),
            tcp_route: tcp_route.map(|backends| Arc::new(TcpRule { route: name("t"), backends })),
            http_only: false,
            http1: Http1Settings::default(),
            consumers: Vec::new(),
        };
        ServiceConfig::new(name("s"), vec![port])
    }

    /// Where a request goes, as far as a draw of 0 decides; or why not. Each with what decided.
    fn decided(service: &ServiceConfig, port: u16, path: &str) -> (Result<String, Why>, String) {
        let parts = RequestParts { method: "GET", path, query: None, header: |_: &str| None };
        match request(service, port, "default", parts, || 0, |_| None) {
            Ok(Routing::Redirect(rule, redirect)) => {
                (Ok(redirect.status.to_string()), redirected(rule, redirect).to_string())
            }
            Ok(Routing::Preflight(preflight)) => {
                (Ok("preflight".to_owned()), preflight.decision(true).to_string())
            }
            Ok(Routing::To(routed)) => {
                let by = routed.decision().map_or_else(String::new, |decision| decision.to_string());
                (Ok(routed.backend.name.to_string()), by)
            }
            Err(unrouted) => {
                assert!(unrouted.message.contains("default/"), "{}", unrouted.message);
                (Err(unrouted.why), unrouted.decision.to_string())
            }
        }
    }

    #[test]
    fn each_outcome_names_the_object_and_the_field_that_decided() {
        let plain = service(vec![], None);
        assert_eq!(decided(&plain, 80, "/"), (Ok("s".into()), String::new()));
        let no_port = (Err(Why::NoPort), "Service/default/s spec.ports refused".to_owned());
        assert_eq!(decided(&plain, 81, "/"), no_port);
        let split = service(vec![entry("r", "/a", vec![to("v1", 0), to("v2", 3), to("", 1)])], None);
        let weight = "HTTPRoute/default/r spec.rules[2].backendRefs[1].weight routed";
        assert_eq!(decided(&split, 80, "/a/x"), (Ok("v2".into()), weight.to_owned()));
        // As it is written, or as it is read.
        assert_eq!(decided(&split, 80, "/%61"), (Ok("v2".into()), weight.to_owned()));
        let unmatched = "HTTPRoute/default/r spec.rules[*].matches refused".to_owned();
        assert_eq!(decided(&split, 80, "/b"), (Err(Why::NoRoute), unmatched.clone()));
        assert_eq!(decided(&split, 80, "/a/../b"), (Err(Why::AmbiguousPath), unmatched));
        let two = service(vec![entry("r", "/a", vec![]), entry("q", "/c", vec![to("", 1)])], None);
        let ports = "Service/default/s spec.ports[80] refused".to_owned();
        assert_eq!(decided(&two, 80, "/b"), (Err(Why::NoRoute), ports));
        let none = "HTTPRoute/default/r spec.rules[2].backendRefs refused".to_owned();
        assert_eq!(decided(&two, 80, "/a"), (Err(Why::NoBackend), none));
        let broken = "HTTPRoute/default/q spec.rules[2].backendRefs[0] refused".to_owned();
        assert_eq!(decided(&two, 80, "/c"), (Err(Why::NoBackend), broken));
        let mut away = entry("r", "/a", vec![]);
        let redirect =
            Redirect { index: 1, scheme: None, hostname: None, port: None, path: None, status: 307 };
        let filters = HttpFilters { redirect: Some(redirect), ..HttpFilters::default() };
        Arc::make_mut(&mut away.rule).filters = filters.into_option();
        let field = "HTTPRoute/default/r spec.rules[2].filters[1].requestRedirect redirected".to_owned();
        assert_eq!(decided(&service(vec![away], None), 80, "/a"), (Ok("307".into()), field));
    }

    /// That rule and a filter for each backend, and for itself if `of_rule`.
    fn with_cors(mut entry: HttpRouteEntry, method: Option<&str>, of_rule: bool) -> HttpRouteEntry {
        let cors = |index| Cors {
            index,
            origins: AllowedOrigins::Any,
            credentials: false,
            methods: Listing::default(),
            headers: Listing::default(),
            exposed: Listing::default(),
            max_age: Cors::MAX_AGE,
        };
        let filters = |index| HttpFilters { cors: Some(cors(index)), ..HttpFilters::default() };
        entry.matcher.method = method.map(str::to_owned);
        let rule = Arc::make_mut(&mut entry.rule);
        match of_rule {
            true => rule.filters = filters(1).into_option(),
            false => rule.backends.iter_mut().for_each(|backend| backend.filters = filters(0).into_option()),
        }
        entry
    }

    #[test]
    fn preflights_belong_to_the_rule_of_the_request_that_they_announce() {
        let of = |method: Option<&str>, entry: HttpRouteEntry| HttpRouteEntry {
            matcher: HttpMatch { method: method.map(str::to_owned), ..entry.matcher },
            ..entry
        };
        let plain = |route: &str, prefix: &str| entry(route, prefix, vec![to(route, 1)]);
        let cors = |route: &str, prefix: &str, method| with_cors(plain(route, prefix), method, true);
        let get = cors("get", "/a", Some("GET"));
        let all = cors("all", "", None);
        // More than are walked, none of which has anything to do with it.
        let others: Vec<_> = (0..20).map(|i| plain("other", &format!("/other/{i}"))).collect();
        for (entries, announced, expected) in [
            // A rule that takes none but GET.
            (vec![get.clone()], "GET", "HTTPRoute/default/get spec.rules[2].filters[1].cors answered"),
            (vec![get.clone()], "PUT", "HTTPRoute/default/get spec.rules[2].filters[1].cors answered"),
            // Each method its rule.
            (
                vec![get.clone(), cors("put", "/a", Some("PUT"))],
                "PUT",
                "HTTPRoute/default/put spec.rules[2].filters[1].cors answered",
            ),
            (
                vec![get.clone(), all.clone()],
                "PUT",
                "HTTPRoute/default/all spec.rules[2].filters[1].cors answered",
            ),
            (
                vec![get.clone(), all.clone()],
                "GET",
                "HTTPRoute/default/get spec.rules[2].filters[1].cors answered",
            ),
            (
                vec![cors("options", "/a", Some("OPTIONS")), get.clone()],
                "GET",
                "HTTPRoute/default/get spec.rules[2].filters[1].cors answered",
            ),
            // No rule allows what another one takes, which has no filter.
            (
                vec![get.clone(), plain("rest", "")],
                "PUT",
                "HTTPRoute/default/rest spec.rules[2].backendRefs[0].weight routed",
            ),
            (
                vec![get.clone(), of(Some("PUT"), plain("get", "/a"))],
                "PUT",
                "HTTPRoute/default/get spec.rules[*].matches refused",
            ),
            // What the request that they announce never reaches.
            (
                vec![of(Some("GET"), plain("first", "/a")), get.clone(), plain("rest", "")],
                "GET",
                "HTTPRoute/default/rest spec.rules[2].backendRefs[0].weight routed",
            ),
            // What stands before it, and takes them itself, has no filter.
            (
                vec![plain("a", "/a"), all.clone()],
                "GET",
                "HTTPRoute/default/a spec.rules[2].backendRefs[0].weight routed",
            ),
            (
                vec![of(Some("OPTIONS"), plain("a", "/a")), all.clone()],
                "PATCH",
                "HTTPRoute/default/all spec.rules[2].filters[1].cors answered",
            ),
            (
                vec![cors("b", "/b", None), plain("rest", "")],
                "GET",
                "HTTPRoute/default/rest spec.rules[2].backendRefs[0].weight routed",
            ),
            (vec![cors("b", "/b", None)], "GET", "HTTPRoute/default/b spec.rules[*].matches refused"),
            // Filters of backends.
            (
                vec![with_cors(entry("r", "/a", vec![to("v0", 0), to("v1", 1)]), Some("GET"), false)],
                "GET",
                "HTTPRoute/default/r spec.rules[2].backendRefs[1].filters[0].cors answered",
            ),
        ] {
            for others in [&[], &others[..]] {
                let which = format!("{announced} {expected} {}", others.len());
                let entries = [&entries[..], others].concat();
                let service = service(entries, None);
                let header = |name: &str| match name {
                    "origin" => Some("https://a.example".into()),
                    "access-control-request-method" => Some(Cow::Borrowed(announced)),
                    _ => None,
                };
                let parts = RequestParts { method: "OPTIONS", path: "/a/x", query: None, header };
                let by = match request(&service, 80, "default", parts, || 0, |_| None) {
                    Ok(Routing::Preflight(preflight)) => preflight.decision(true).to_string(),
                    Ok(Routing::To(routed)) => routed.decision().unwrap().to_string(),
                    Ok(Routing::Redirect(..)) => panic!("{which}"),
                    Err(unrouted) => unrouted.decision.to_string(),
                };
                match expected.contains("matches") && !others.is_empty() {
                    true => assert_eq!(by, "Service/default/s spec.ports[80] refused", "{which}"),
                    false => assert_eq!(by, expected, "{which}"),
                }
            }
        }
    }

    #[test]
    fn only_preflights_are_answered() {
        let entry = with_cors(entry("r", "/a", vec![to("v1", 1)]), None, true);
        let service = service(vec![entry], None);
        for (method, origin, announced) in [
            ("OPTIONS", None, Some("GET")),
            ("OPTIONS", Some("https://a.example"), None),
            ("GET", Some("https://a.example"), Some("GET")),
        ] {
            let header = |name: &str| match name {
                "origin" => origin.map(Cow::Borrowed),
                "access-control-request-method" => announced.map(Cow::Borrowed),
                _ => None,
            };
            let parts = RequestParts { method, path: "/a", query: None, header };
            let routed = request(&service, 80, "default", parts, || 0, |_| None);
            assert!(matches!(routed, Ok(Routing::To(_))), "{method} {origin:?} {announced:?}");
        }
    }

    #[test]
    fn a_session_outweighs_the_weights_of_its_rule() {
        let mut kept = entry("r", "/a", vec![to("v1", 1), to("v2", 0)]);
        let plain = entry("q", "", vec![to("v1", 1), to("v2", 1)]);
        let rule = Arc::make_mut(&mut kept.rule);
        rule.session = Some(Box::new(Session::of(rule, None, SessionCarrier::Header)));
        let service = service(vec![kept, plain], None);
        for (path, session, expected) in [
            ("/a", Some(1), "HTTPRoute/default/r spec.rules[2].sessionPersistence routed"),
            ("/a", None, "HTTPRoute/default/r spec.rules[2].backendRefs[0].weight routed"),
            ("/b", Some(1), "HTTPRoute/default/q spec.rules[2].backendRefs[0].weight routed"),
        ] {
            let parts = RequestParts { method: "GET", path, query: None, header: |_: &str| None };
            let Ok(Routing::To(routed)) = request(&service, 80, "default", parts, || 0, |_| session) else {
                panic!("{path}")
            };
            assert_eq!(routed.decision().unwrap().to_string(), expected);
            let backend = if expected.contains("session") { "v2" } else { "v1" };
            assert_eq!(&*routed.backend.name, backend, "{path} {session:?}");
        }
    }

    #[test]
    fn clients_of_a_namespace_take_its_own_routes() {
        let entry = |target| vec![entry("r", "", vec![to(target, 1)])];
        let (mut own, theirs) = (service(entry("v1"), None), service(entry("v2"), Some(vec![to("v2", 1)])));
        own.ports[0].consumers = vec![("theirs".into(), theirs.ports[0].clone())];
        for (namespace, expected) in
            [("default", ("v1", "s")), ("other", ("v1", "s")), ("theirs", ("v2", "v2"))]
        {
            let parts = RequestParts { method: "GET", path: "/", query: None, header: |_: &str| None };
            let Ok(Routing::To(routed)) = request(&own, 80, namespace, parts, || 0, |_| None) else {
                panic!()
            };
            let (bytes, ..) = connection(&own, 80, namespace, None, || 0).unwrap();
            assert_eq!((&*routed.backend.name, &*bytes.name), expected, "{namespace}");
        }
    }

    #[test]
    fn a_connections_route_names_itself() {
        let decided = |service: &ServiceConfig| match connection(service, 80, "default", None, || 0) {
            Ok((name, port, by)) => {
                format!("{name}:{port} {}", by.map_or_else(String::new, |by| by.to_string()))
            }
            Err(unrouted) => unrouted.decision.to_string(),
        };
        assert_eq!(decided(&service(vec![], None)), "default/s:80 ");
        let weight = "default/v1:8080 TCPRoute/default/t spec.rules[0].backendRefs[0].weight routed";
        assert_eq!(decided(&service(vec![], Some(vec![to("v1", 1)]))), weight);
        let none = "TCPRoute/default/t spec.rules[0].backendRefs refused";
        assert_eq!(decided(&service(vec![], Some(vec![]))), none);
    }

    #[test]
    fn the_server_that_a_client_names_decides_over_its_connection() {
        let tls = |entries: &[(&str, &str, &str)]| {
            let mut service = service(vec![], Some(vec![to("plain", 1)]));
            let entry = |&(hostname, route, target): &(&str, &str, &str)| {
                let rule = TcpRule { route: name(route), backends: vec![to(target, 1)] };
                TlsRouteEntry { name: ServerName::new(hostname), rule: Arc::new(rule) }
            };
            service.ports[0].tls_routes = TlsRouteTable::new(entries.iter().map(entry).collect());
            service
        };
        let decided = |service: &ServiceConfig, server: Option<&str>| match connection(
            service,
            80,
            "default",
            server,
            || 0,
        ) {
            Ok((name, port, by)) => format!("{name}:{port} {}", by.unwrap()),
            Err(unrouted) => format!("{:?} {} {}", unrouted.why, unrouted.decision, unrouted.message),
        };
        let one = tls(&[("a.test", "r", "v1"), ("*.test", "r", "v1")]);
        // A request of HTTP, which names none, does not get past that.
        let refused = (Err(Why::NoRoute), "TLSRoute/default/r spec.hostnames refused".to_owned());
        assert_eq!(super::tests::decided(&one, 80, "/"), refused);
        let weight = "default/v1:8080 TLSRoute/default/r spec.rules[0].backendRefs[0].weight routed";
        assert_eq!(decided(&one, Some("a.test")), weight);
        assert_eq!(decided(&one, Some("b.c.test")), weight);
        assert_eq!(
            decided(&one, Some("test")),
            "NoRoute TLSRoute/default/r spec.hostnames refused no TLSRoute of service default/s port 80 is for \
             the server test (SNI)"
        );
        let two = tls(&[("a.test", "r", "v1"), ("b.test", "q", "")]);
        assert_eq!(
            decided(&two, None),
            "NoRoute Service/default/s spec.ports[80] refused the client names no server (SNI), and service \
             default/s port 80 has TLSRoutes, which go by that"
        );
        assert_eq!(
            decided(&two, Some("b.test")),
            "NoBackend TLSRoute/default/q spec.rules[0].backendRefs[0] refused TLSRoute/default/q: there is no \
             service default/x"
        );
    }
}
