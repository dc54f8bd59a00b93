//! What a proxy runs: the compiled, immutable form of the configuration.
//!
//! A snapshot holds the services that a node asked for and no other. Everything in it is behind an
//! `Arc`, so that the next snapshot shares what did not change.

mod access;
mod access_policies;
mod cors;
pub mod external;
mod external_services;
mod filters;
mod jwt;
mod mirror;
mod outside;
mod places;
mod route_index;
mod session;
mod shape;
mod shown;
mod spoken;
mod tls_routes;
mod workload;

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::identity::SpiffeId;
use crate::name::{NamespacedName, ServiceName, WorkloadName};
use crate::port_settings::Http1Settings;
use crate::stamp::Revoked;

pub use self::access::{AccessPolicy, AccessRule, Action, IdentityPattern, RequestConditions, Source};
pub use self::access_policies::AccessPolicies;
pub(crate) use self::access_policies::Candidates;
pub use self::cors::{AllowedOrigins, Cors, Listing, Origin, OriginHost, OriginPattern};
pub use self::external_services::ExternalServices;
pub(crate) use self::filters::is_of_the_connection;
pub use self::filters::{
    HeaderEdit, HttpFilters, PathRewrite, Redirect, Rewrite, Scheme, take_away, uneditable,
};
pub use self::jwt::{ClaimHeader, ClaimMatch, Claims, JwtConditions, JwtIssuer, JwtKeys, Token, TokenPlace};
pub use self::mirror::{Mirror, Share};
pub use self::outside::originated::{CertificateName, OriginatedRoots, OriginatedTls, TlsAsker};
pub use self::outside::{EgressPolicy, ExternalConfig, ExternalPort, OutsideProtocol};
pub(crate) use self::places::{Place, earlier};
use self::route_index::RouteIndex;
pub use self::session::{Session, SessionCarrier, SessionKey};
pub use self::shape::Shape;
pub use self::spoken::Spoken;
pub use self::tls_routes::{ServerName, TlsRouteEntry, TlsRouteTable};
pub use self::workload::{Selected, ServedPort, Strictness, WorkloadConfig};

/// A map with a fast hash, for lookups on the request path.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// All that a proxy knows of the mesh at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every published snapshot of this process.
    pub generation: u64,
    pub mesh: Arc<MeshSettings>,
    /// The server has not said yet what holds for the mesh: `mesh` is nobody's word, and nothing leaves it ([`crate::egress`]).
    pub mesh_untold: bool,
    /// By name. `Known::Absent` says that the server knows of no such service; a name that is not in the map was never asked for.
    pub services: FastMap<ServiceName, Known<ServiceConfig>>,
    /// The endpoints of every service that a service above sends traffic to.
    pub endpoints: FastMap<ServiceName, Arc<EndpointSet>>,
    /// The node's own workloads, as far as the server knows them.
    pub workloads: FastMap<WorkloadName, Arc<WorkloadConfig>>,
    /// Why what the server says of some of them could not be read. What was said of them before is in force.
    pub unread: FastMap<WorkloadName, Arc<str>>,
    /// Whether a workload of the node is closed for as long as the server has not said who may enter it. Servers that tell
    /// nothing of workloads leave them open.
    pub closed_until_told: bool,
}

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<T> {
    Present(Arc<T>),
    Absent,
}

/// The mesh-wide settings that a proxy needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshSettings {
    /// Where no namespace says otherwise ([`MeshSettings::egress_of`]).
    pub egress: EgressPolicy,
    pub egress_namespaces: BTreeMap<Arc<str>, EgressPolicy>,
    /// Whether TLS is originated to the outside for some workload.
    pub originates_tls: bool,
    pub access_log: bool,
    /// See [`crate::decision::inbound_capture`].
    pub inbound_capture: bool,
    /// `None`: the server does not say, and no request stays with an endpoint.
    pub session_key: Option<SessionKey>,
    /// Whose certificates are taken back.
    pub revoked: Arc<Revoked>,
}

/// How the clients of a service reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    pub name: ServiceName,
    /// Ordered by port number, each number once.
    pub ports: Vec<PortConfig>,
    pub shape: Shape,
}

impl ServiceConfig {
    /// A service with one address.
    pub fn new(name: ServiceName, ports: Vec<PortConfig>) -> Self {
        Self { name, ports, shape: Shape::default() }
    }

    pub fn port(&self, number: u16) -> Option<&PortConfig> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// Whether a connection to that port of it can only be reset, whoever opens it: it carries bytes, and nobody is there to
    /// take them. One that may be HTTP gets an answer instead.
    pub fn is_deserted(&self, port: &PortConfig, endpoints: &FastMap<ServiceName, Arc<EndpointSet>>) -> bool {
        port.views().all(|port| self.is_deserted_to_some(port, endpoints))
    }

    fn is_deserted_to_some(
        &self,
        port: &PortConfig,
        endpoints: &FastMap<ServiceName, Arc<EndpointSet>>,
    ) -> bool {
        // Of those that are not known yet nobody says that they are not there.
        let has_takers = |name: &ServiceName, number: u16| {
            endpoints
                .get(name)
                .is_none_or(|set| set.endpoints.iter().any(|endpoint| endpoint.target_port(number).is_some()))
        };
        if port.declared() != Some(Carried::Bytes) {
            return false;
        }
        let mut rules = port.byte_rules().peekable();
        if rules.peek().is_none() {
            return !has_takers(&self.name, port.number);
        }
        !rules.flat_map(|rule| &rule.backends).any(|backend| match &backend.target {
            BackendTarget::Service { name, port } => backend.weight > 0 && has_takers(name, *port),
            BackendTarget::Invalid { .. } => false,
        })
    }

    /// The services whose endpoints its routes lead to, or send copies to, itself included; each once.
    pub fn backends(&self) -> Vec<ServiceName> {
        let mut names = vec![self.name.clone()];
        let mut add = |target: &BackendTarget| {
            if let BackendTarget::Service { name, .. } = target
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        };
        for port in self.ports.iter().flat_map(PortConfig::views) {
            for entry in port.http_routes.entries() {
                entry.rule.backends.iter().for_each(|backend| add(&backend.target));
                entry.rule.all_filters().for_each(|filters| {
                    filters.mirrors.iter().for_each(|mirror| add(&mirror.target));
                });
            }
            port.byte_rules().flat_map(|rule| &rule.backends).for_each(|backend| add(&backend.target));
        }
        names
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    pub number: u16,
    /// As in the Service; empty for a single port without a name.
    pub name: Arc<str>,
    pub protocol: AppProtocol,
    /// Empty: requests go to the service's own endpoints.
    pub http_routes: HttpRouteTable,
    /// Unless it is empty, every connection is for one of its names, or reset.
    pub tls_routes: TlsRouteTable,
    /// `None`: connections go to the service's own endpoints, or as `tls_routes` says.
    pub tcp_route: Option<Arc<TcpRule>>,
    /// An HTTPRoute names the port: what is not HTTP is refused there, though nothing declares a protocol.
    pub http_only: bool,
    /// How HTTP/1 is spoken there.
    pub http1: Http1Settings,
    /// What the port is to the clients of some namespaces instead (GEP-1324, consumer routes), ordered by namespace. These have
    /// none themselves.
    pub consumers: Vec<(Arc<str>, PortConfig)>,
}

impl PortConfig {
    /// What it is to the clients of that namespace.
    pub fn seen_from(&self, namespace: &str) -> &Self {
        let at = self.consumers.binary_search_by(|(consumer, _)| (**consumer).cmp(namespace));
        at.map_or(self, |at| &self.consumers[at].1)
    }

    /// How its applications are spoken to.
    pub fn spoken(&self) -> Spoken {
        Spoken { protocol: self.protocol, preserve_case: self.http1.preserve_case }
    }

    /// What it is to whomever.
    fn views(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.consumers.iter().map(|(_, port)| port))
    }

    /// Its rules for connections.
    fn byte_rules(&self) -> impl Iterator<Item = &Arc<TcpRule>> {
        self.tls_routes.entries().iter().map(|entry| &entry.rule).chain(&self.tcp_route)
    }

    /// What the configuration says that the port carries. An HTTPRoute that names it says so, too; a TLSRoute or TCPRoute,
    /// unless there are HTTPRoutes. `None`: only a connection shows it.
    pub fn declared(&self) -> Option<Carried> {
        match self.protocol {
            AppProtocol::Http1 | AppProtocol::Http2 => Some(Carried::Http),
            AppProtocol::Detect if self.http_only => Some(Carried::Http),
            AppProtocol::Tcp => Some(Carried::Bytes),
            AppProtocol::Detect if self.http_routes.is_empty() && self.byte_rules().next().is_some() => {
                Some(Carried::Bytes)
            }
            AppProtocol::Detect => None,
        }
    }
}

/// What a connection is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Requests, each of which can be answered.
    Http,
    Bytes,
}

/// What a port speaks, as `appProtocol` declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Nothing declared: find out.
    Detect,
    /// `http`
    Http1,
    /// `kubernetes.io/h2c`, `http2`, `grpc`
    Http2,
    /// `tcp`, `tls`, `https` and whatever else a Service may declare: bytes.
    Tcp,
}

/// The HTTP rules of a port in the order of Gateway API's precedence: the first entry that matches
/// a request decides. It never changes, so that the index always fits.
#[derive(Debug, Clone, Default)]
pub struct HttpRouteTable {
    entries: Vec<HttpRouteEntry>,
    index: Option<Box<RouteIndex>>,
    by_path: bool,
    has_cors: bool,
}

impl HttpRouteTable {
    /// A table of entries that are in order (see [`crate::routing::sort_candidates`]).
    pub fn new(entries: Vec<HttpRouteEntry>) -> Self {
        let index = RouteIndex::new(&entries).map(Box::new);
        let all = |path: &PathMatch| matches!(path, PathMatch::Prefix(prefix) if prefix.is_empty());
        let by_path = entries.iter().any(|e| !all(&e.matcher.path) || e.rule.replaces_prefixes());
        let has_cors = entries.iter().any(|e| e.rule.has_cors());
        Self { entries, index, by_path, has_cors }
    }

    pub fn entries(&self) -> &[HttpRouteEntry] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether an entry asks for more of a path than that there is one, or has its beginning replaced. Requests with dot segments are refused
    /// then (see [`crate::path::has_dot_segments`]).
    pub fn goes_by_path(&self) -> bool {
        self.by_path
    }

    /// Whether a rule, or a backend of one, answers preflights.
    pub fn has_cors(&self) -> bool {
        self.has_cors
    }

    /// `None`: walk the entries.
    pub(crate) fn index(&self) -> Option<&RouteIndex> {
        self.index.as_deref()
    }
}

impl PartialEq for HttpRouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for HttpRouteTable {}

/// One match of one rule; a rule with several matches has several entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteEntry {
    pub matcher: HttpMatch,
    pub rule: Arc<HttpRule>,
}

/// The conditions of one HTTPRouteMatch; all must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    pub path: PathMatch,
    /// `None`: any.
    pub method: Option<String>,
    /// Names in lower case.
    pub headers: Vec<ValueMatch>,
    pub query: Vec<ValueMatch>,
}

/// Compared with the normal form of a request's path (see [`crate::path::normal_form`]), and in it itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    Exact(String),
    /// Whole path elements, without a trailing slash; `""` matches every path.
    Prefix(String),
    Regex(Pattern),
}

/// A named header or query parameter and what its value must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ValueMatch {
    pub name: String,
    pub value: TextMatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextMatch {
    Exact(String),
    Regex(Pattern),
}

/// A regular expression (RE2 syntax) that must match the whole text, compiled once.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: regex::Regex,
    /// Of patterns that stand beside each other in a table, what has more comes first.
    rank: usize,
}

/// How much memory one compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles a pattern; the error says what is wrong with it.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
        // On its own first: `a)|(?:b` only reads inside of the parentheses.
        compile(source)?;
        let regex = compile(&format!("^(?:{source})$"))?;
        Ok(Self { source: source.to_owned(), regex, rank: source.chars().count() })
    }

    /// The same with another rank than its length in characters. It counts where tables are put in order, and is not
    /// handed on.
    pub(crate) fn ranked(self, rank: usize) -> Self {
        Self { rank, ..self }
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

/// What happens to requests that match a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// The route, for logs and explanations, and its kind.
    pub route: NamespacedName,
    pub kind: HttpRouteKind,
    /// The rule's index in it, and its name if it has one.
    pub index: u32,
    pub name: Option<Arc<str>>,
    /// Empty: the request is answered with 500 (Gateway API, HTTPRouteRule.backendRefs), unless it is redirected.
    pub backends: Vec<Backend>,
    /// `None`: requests pass as they are.
    pub filters: Option<Box<HttpFilters>>,
    pub timeouts: Timeouts,
    /// `None`: requests are tried again as by default.
    pub retry: Option<Box<Retry>>,
    /// `None`: the weights decide over each request.
    pub session: Option<Box<Session>>,
}

impl HttpRule {
    /// A rule that shares requests out, and nothing else.
    pub fn new(route: NamespacedName, index: u32, name: Option<Arc<str>>, backends: Vec<Backend>) -> Self {
        let kind = HttpRouteKind::Http;
        let timeouts = Timeouts::default();
        Self { route, kind, index, name, backends, filters: None, timeouts, retry: None, session: None }
    }
}

impl HttpRule {
    /// Its filters, and those of its backends.
    fn all_filters(&self) -> impl Iterator<Item = &HttpFilters> {
        let of_backends = self.backends.iter().filter_map(|backend| backend.filters.as_deref());
        self.filters.as_deref().into_iter().chain(of_backends)
    }

    /// Whether it, or a backend of it, puts something in the place of the beginning of a path.
    fn replaces_prefixes(&self) -> bool {
        self.all_filters().any(HttpFilters::replaces_prefixes)
    }

    /// Whether it, or a backend of it, answers preflights.
    pub(crate) fn has_cors(&self) -> bool {
        self.all_filters().any(|filters| filters.cors.is_some())
    }
}

/// The kinds of routes whose rules are for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpRouteKind {
    Http,
    Grpc,
}

/// How often, and after what, a request of a rule is tried again (Gateway API, HTTPRouteRetry).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Statuses after which it is, whatever its method.
    pub codes: Vec<u16>,
    /// How often at most; `None`: as by default.
    pub attempts: Option<u32>,
    /// How long the next attempt waits at least; `None`: a moment.
    pub backoff: Option<Duration>,
}

/// How long requests of a rule may take; `None`: as long as they like (Gateway API, HTTPRouteTimeouts).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From when the request is here until all of its answer is.
    pub request: Option<Duration>,
    /// The same of each attempt.
    pub backend_request: Option<Duration>,
}

/// What happens to connections of a port with a TCPRoute, or to those for a host name of a TLSRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRule {
    pub route: NamespacedName,
    pub backends: Vec<Backend>,
}

/// One of the places that a rule sends traffic to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub target: BackendTarget,
    /// Its share is `weight` over the sum of the rule's weights; 0 gets nothing.
    pub weight: u32,
    /// What its requests pass besides the rule's; none of TCP.
    pub filters: Option<Box<HttpFilters>>,
    /// `None`: it leads nowhere, or the server is older and does not say.
    pub spoken: Option<Spoken>,
}

impl Backend {
    /// One that gets requests as the rule has them.
    pub fn new(target: BackendTarget, weight: u32) -> Self {
        Self { target, weight, filters: None, spoken: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// The endpoints of that service (not its routes: they don't apply again).
    Service { name: ServiceName, port: u16 },
    /// A reference that leads nowhere: its share of the traffic is answered with 500. The text
    /// says why.
    Invalid { reason: Arc<str> },
}

/// Where a service runs. Only what is ready to take traffic is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSet {
    pub service: ServiceName,
    /// Ordered by workload name, then address.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Since when the server hears nothing of the node of each endpoint, in seconds since the epoch, 0 where
    /// it does; empty where that is so for all of them. See [`crate::staleness`].
    pub stale_since: Vec<i64>,
    /// What each endpoint is called in its service, where an EndpointSlice says so, else empty; empty where none says so.
    pub hostnames: Vec<Arc<str>>,
}

impl EndpointSet {
    /// A set of endpoints, each with the time since when it is stale, 0 where it is not.
    pub fn new(service: ServiceName, endpoints: Vec<(Arc<Endpoint>, i64)>) -> Self {
        let (endpoints, mut stale_since): (Vec<_>, Vec<_>) = endpoints.into_iter().unzip();
        if stale_since.iter().all(|&since| since == 0) {
            stale_since = Vec::new();
        }
        Self { service, endpoints, stale_since, hostnames: Vec::new() }
    }

    /// With the names of its endpoints, in their order; an empty one where an endpoint has none.
    pub fn with_hostnames(mut self, hostnames: Vec<Arc<str>>) -> Self {
        let any = hostnames.iter().any(|name| !name.is_empty());
        self.hostnames = if any { hostnames } else { Vec::new() };
        self
    }

    /// What an endpoint is called by its EndpointSlice.
    pub fn hostname(&self, index: usize) -> Option<&Arc<str>> {
        self.hostnames.get(index).filter(|name| !name.is_empty())
    }

    /// Since when an endpoint is stale, in seconds since the epoch; 0 where it is not.
    pub fn stale_since(&self, index: usize) -> i64 {
        self.stale_since.get(index).copied().unwrap_or(0)
    }

    /// How many of the endpoints are stale.
    pub fn stale(&self) -> usize {
        self.stale_since.iter().filter(|&&since| since != 0).count()
    }
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `None` for an address of an EndpointSlice that is no workload of the mesh.
    pub workload: Option<WorkloadName>,
    /// The node that runs it and answers for it over links; `None`: connect to `address` in plain.
    pub node: Option<PeerNode>,
    pub address: IpAddr,
    /// Which of the workload's ports answers for which of the service's.
    pub ports: Vec<PortMapping>,
    /// Who must answer there. Always there when `node` is.
    pub identity: Option<SpiffeId>,
}

impl Endpoint {
    /// The endpoint's port that answers for the service's port `service_port`.
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.service_port == service_port).map(|p| p.target_port)
    }
}

/// A node as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerNode {
    pub name: Arc<str>,
    /// Where it takes links.
    pub link: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    pub service_port: u16,
    pub target_port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16, protocol: AppProtocol) -> PortConfig {
        PortConfig {
            number,
            name: "".into(),
            protocol,
            http_routes: HttpRouteTable::default(),
            tls_routes: TlsRouteTable::default(),
            tcp_route: None,
            http_only: false,
            http1: Http1Settings::DEFAULT,
            consumers: Vec::new(),
        }
    }

    #[test]
    fn bytes_without_takers_are_deserted_and_what_may_be_http_is_not() {
        let [db, other] = ["db", "other"].map(|name| ServiceName::new("shop", name));
        let taker = |service: &ServiceName, service_port| {
            let endpoint = Endpoint {
                workload: None,
                node: None,
                address: "10.0.0.1".parse().unwrap(),
                ports: vec![PortMapping { service_port, target_port: 1 }],
                identity: None,
            };
            Arc::new(EndpointSet::new(service.clone(), vec![(Arc::new(endpoint), 0)]))
        };
        let nobody = Arc::new(EndpointSet::new(db.clone(), Vec::new()));
        let service = ServiceConfig::new(db.clone(), Vec::new());
        let mut endpoints = FastMap::default();
        let tcp = port(5432, AppProtocol::Tcp);
        assert!(!service.is_deserted(&tcp, &endpoints), "nothing is known");
        endpoints.insert(db.clone(), nobody.clone());
        assert!(service.is_deserted(&tcp, &endpoints));
        for protocol in [AppProtocol::Detect, AppProtocol::Http1, AppProtocol::Http2] {
            assert!(!service.is_deserted(&port(5432, protocol), &endpoints), "{protocol:?}");
        }
        endpoints.insert(db.clone(), taker(&db, 80));
        assert!(service.is_deserted(&tcp, &endpoints), "it answers for another port");
        endpoints.insert(db.clone(), taker(&db, 5432));
        assert!(!service.is_deserted(&tcp, &endpoints));

        // A TCPRoute declares bytes, and says who takes them.
        let backend = |name: &ServiceName, weight| {
            Backend::new(BackendTarget::Service { name: name.clone(), port: 7 }, weight)
        };
        let invalid = Backend::new(BackendTarget::Invalid { reason: "".into() }, 1);
        let routed = |backends: &[Backend]| {
            let route = NamespacedName::new("shop", "r");
            let rule = TcpRule { route, backends: backends.to_vec() };
            PortConfig { tcp_route: Some(Arc::new(rule)), ..port(5432, AppProtocol::Detect) }
        };
        endpoints.insert(other.clone(), nobody);
        assert!(service.is_deserted(&routed(&[backend(&other, 1), invalid.clone()]), &endpoints));
        assert!(service.is_deserted(&routed(&[]), &endpoints));
        endpoints.insert(other.clone(), taker(&other, 7));
        assert!(!service.is_deserted(&routed(&[invalid, backend(&other, 1)]), &endpoints));
        assert!(service.is_deserted(&routed(&[backend(&other, 0)]), &endpoints), "it has no share");
    }

    #[test]
    fn patterns_match_the_whole_text() {
        let pattern = Pattern::new("a|b+").unwrap();
        assert!(pattern.matches("a") && pattern.matches("bb"));
        assert!(!pattern.matches("ab") && !pattern.matches("bb\n") && !pattern.matches("xa"));
        for bad in ["(", "a)|(?:b", "(a)\\1", "a{1000}{1000}"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }
}
