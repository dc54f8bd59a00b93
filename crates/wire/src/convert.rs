//! The model's snapshot as messages, and back.
//!
//! What comes in was written by another process, maybe of another version: everything is checked,
//! and an error names the field that cannot be read. Nothing here panics.

mod authorization;
mod cors;
mod external;
mod filters;
mod originated;
mod summary;
mod tls;
mod workload;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tulle_model::identity::SpiffeId;
use tulle_model::name::{NamespacedName, dns_subdomain_problem};
use tulle_model::port_settings::Http1Settings;
use tulle_model::snapshot as model;
use tulle_model::stamp::{Revoked, Stamp};

use crate::discovery as wire;

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConvertError {
    /// As in `ports[2].http_entries[0].path`.
    pub field: String,
    pub problem: String,
}

type Result<T> = std::result::Result<T, ConvertError>;

fn error(field: impl Into<String>, problem: impl Into<String>) -> ConvertError {
    ConvertError { field: field.into(), problem: problem.into() }
}

/// Says in which field an error lies.
fn within(field: impl std::fmt::Display, inner: ConvertError) -> ConvertError {
    ConvertError { field: format!("{field}.{}", inner.field), problem: inner.problem }
}

/// Converts the items of a list; an error names the index.
fn list<T, U>(field: &str, items: Vec<T>, convert: impl Fn(T) -> Result<U>) -> Result<Vec<U>> {
    let item = |(i, item)| convert(item).map_err(|e| within(format_args!("{field}[{i}]"), e));
    items.into_iter().enumerate().map(item).collect()
}

fn port_number(field: &str, number: u32) -> Result<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(error(field, format!("{number} is no port number, they go from 1 to 65535"))),
    }
}

fn object_name(prefix: &str, namespace: String, name: String) -> Result<NamespacedName> {
    for (field, text) in [("namespace", &namespace), ("name", &name)] {
        if text.is_empty() || text.contains('/') {
            let problem = format!("`{text}` is no name of an object");
            return Err(error(format!("{prefix}{field}"), problem));
        }
    }
    Ok(NamespacedName::new(namespace, name))
}

impl From<&model::MeshSettings> for wire::Mesh {
    fn from(mesh: &model::MeshSettings) -> Self {
        let model::MeshSettings {
            egress,
            egress_namespaces,
            originates_tls,
            access_log,
            inbound_capture,
            session_key,
            revoked,
        } = mesh;
        let policies = egress_namespaces.values().chain([egress]);
        Self {
            egress_deny: policies.into_iter().any(|policy| *policy != model::EgressPolicy::Allow),
            egress: external::policy_message(*egress).into(),
            egress_namespaces: external::namespaces_message(egress_namespaces),
            originates_tls: *originates_tls,
            access_log: *access_log,
            inbound_capture: *inbound_capture,
            session_key: session_key.as_ref().map(|key| key.0.to_vec().into()).unwrap_or_default(),
            revoked: revoked.iter().map(|stamp| stamp.0).collect(),
        }
    }
}

/// Without the key of sessions.
impl fmt::Debug for wire::Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        model::MeshSettings::from(self.clone()).fmt(f)
    }
}

impl From<wire::Mesh> for model::MeshSettings {
    fn from(mesh: wire::Mesh) -> Self {
        let egress = external::policy(mesh.egress, mesh.egress_deny);
        let egress_namespaces = external::namespaces(mesh.egress_namespaces);
        // One of another length is of another version, which seals in another way.
        let session_key = <[u8; model::SessionKey::LENGTH]>::try_from(&*mesh.session_key).ok();
        let session_key = session_key.map(model::SessionKey);
        let revoked = Revoked::of(mesh.revoked.into_iter().map(Stamp)).into();
        Self {
            egress,
            egress_namespaces,
            originates_tls: mesh.originates_tls,
            access_log: mesh.access_log,
            inbound_capture: mesh.inbound_capture,
            session_key,
            revoked,
        }
    }
}

impl From<&model::ServiceConfig> for wire::Service {
    fn from(service: &model::ServiceConfig) -> Self {
        Self {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            ports: service.ports.iter().map(wire::Port::from).collect(),
            headless: service.shape == model::Shape::Headless,
            alias: match &service.shape {
                model::Shape::Alias(name) => name.to_string(),
                _ => String::new(),
            },
        }
    }
}

impl TryFrom<wire::Service> for model::ServiceConfig {
    type Error = ConvertError;

    fn try_from(service: wire::Service) -> Result<Self> {
        let name = object_name("", service.namespace, service.name)?;
        let ports = list("ports", service.ports, model::PortConfig::try_from)?;
        if let Some(i) = (1..ports.len()).find(|&i| ports[i].number <= ports[i - 1].number) {
            let problem = "ports must be in ascending order, each number once";
            return Err(error(format!("ports[{i}].number"), problem));
        }
        let shape = match (service.alias, service.headless) {
            (alias, false) if alias.is_empty() => model::Shape::Balanced,
            (alias, true) if alias.is_empty() => model::Shape::Headless,
            (alias, _) => match dns_subdomain_problem(&alias) {
                None => model::Shape::Alias(alias.into()),
                Some(problem) => return Err(error("alias", format!("`{alias}` {problem}"))),
            },
        };
        Ok(Self { name, ports, shape })
    }
}

impl From<&model::PortConfig> for wire::Port {
    fn from(port: &model::PortConfig) -> Self {
        // Entries share their rule; the message holds each rule once.
        let mut rules: Vec<&Arc<model::HttpRule>> = Vec::new();
        let mut indexes = HashMap::new();
        let http_entries = port
            .http_routes
            .entries()
            .iter()
            .map(|entry| {
                let rule = *indexes.entry(Arc::as_ptr(&entry.rule)).or_insert_with(|| {
                    rules.push(&entry.rule);
                    rules.len() as u32 - 1
                });
                http_entry(&entry.matcher, rule)
            })
            .collect();
        let (tls_entries, tls_rules) = tls::messages(&port.tls_routes);
        Self {
            number: port.number.into(),
            name: port.name.to_string(),
            protocol: wire::AppProtocol::from(port.protocol).into(),
            http_entries,
            http_rules: rules.into_iter().map(|rule| wire::Rule::from(&**rule)).collect(),
            tcp_rule: port.tcp_route.as_deref().map(wire::Rule::from),
            http_only: port.http_only,
            http1: http1_message(port.http1),
            consumers: (port.consumers.iter())
                .map(|(namespace, port)| wire::Consumer {
                    namespace: namespace.to_string(),
                    port: Some(wire::Port::from(port)),
                })
                .collect(),
            tls_entries,
            tls_rules,
        }
    }
}

impl From<model::AppProtocol> for wire::AppProtocol {
    fn from(protocol: model::AppProtocol) -> Self {
        match protocol {
            model::AppProtocol::Detect => Self::Detect,
            model::AppProtocol::Http1 => Self::Http1,
            model::AppProtocol::Http2 => Self::Http2,
            model::AppProtocol::Tcp => Self::Tcp,
        }
    }
}

fn app_protocol(protocol: i32) -> Result<model::AppProtocol> {
    match wire::AppProtocol::try_from(protocol) {
        Ok(wire::AppProtocol::Detect) => Ok(model::AppProtocol::Detect),
        Ok(wire::AppProtocol::Http1) => Ok(model::AppProtocol::Http1),
        Ok(wire::AppProtocol::Http2) => Ok(model::AppProtocol::Http2),
        Ok(wire::AppProtocol::Tcp) => Ok(model::AppProtocol::Tcp),
        Err(_) => Err(error("protocol", format!("{protocol} is no known protocol"))),
    }
}

/// `None`: it is the default.
fn http1_message(http1: Http1Settings) -> Option<wire::Http1> {
    (http1 != Http1Settings::DEFAULT).then(|| wire::Http1 {
        preserve_case: http1.preserve_case,
        half_close_ms: u32::try_from(http1.half_close.as_millis()).unwrap_or(u32::MAX),
    })
}

fn http1_settings(http1: Option<wire::Http1>) -> Http1Settings {
    http1.map_or(Http1Settings::DEFAULT, |http1| Http1Settings {
        preserve_case: http1.preserve_case,
        half_close: Duration::from_millis(http1.half_close_ms.into()),
    })
}

impl TryFrom<wire::Port> for model::PortConfig {
    type Error = ConvertError;

    fn try_from(port: wire::Port) -> Result<Self> {
        let rules =
            list("http_rules", port.http_rules, |rule| model::HttpRule::try_from(rule).map(Arc::new))?;
        let entries = list("http_entries", port.http_entries, |entry| {
            let Some(rule) = usize::try_from(entry.rule).ok().and_then(|i| rules.get(i)) else {
                return Err(error("rule", format!("there is no http_rules[{}]", entry.rule)));
            };
            Ok(model::HttpRouteEntry { rule: rule.clone(), matcher: http_match(entry)? })
        })?;
        let number = port_number("number", port.number)?;
        let consumers = list("consumers", port.consumers, |consumer| {
            let port =
                consumer.port.filter(|port| port.consumers.is_empty() && port.number == u32::from(number));
            let port =
                port.ok_or_else(|| error("port", "it is missing, another one, or has consumers itself"))?;
            let namespace: Arc<str> = consumer.namespace.into();
            Ok((namespace, model::PortConfig::try_from(port).map_err(|e| within("port", e))?))
        })?;
        if let Some(i) = (1..consumers.len()).find(|&i| consumers[i].0 <= consumers[i - 1].0) {
            let problem = "consumers must be in ascending order, each namespace once";
            return Err(error(format!("consumers[{i}].namespace"), problem));
        }
        let tcp_route = port.tcp_rule.map(model::TcpRule::try_from).transpose();
        let tcp_route = tcp_route.map_err(|e| within("tcp_rule", e))?.map(Arc::new);
        Ok(Self {
            number,
            name: port.name.into(),
            protocol: app_protocol(port.protocol)?,
            http_routes: model::HttpRouteTable::new(entries),
            tls_routes: tls::table(port.tls_entries, port.tls_rules)?,
            tcp_route,
            http_only: port.http_only,
            http1: http1_settings(port.http1),
            consumers,
        })
    }
}

fn http_entry(matcher: &model::HttpMatch, rule: u32) -> wire::HttpEntry {
    use wire::http_entry::Path;
    let values = |list: &[model::ValueMatch]| list.iter().map(wire::ValueMatch::from).collect();
    wire::HttpEntry {
        rule,
        method: matcher.method.clone(),
        headers: values(&matcher.headers),
        query: values(&matcher.query),
        path: Some(match &matcher.path {
            model::PathMatch::Exact(path) => Path::Exact(path.clone()),
            model::PathMatch::Prefix(path) => Path::Prefix(path.clone()),
            model::PathMatch::Regex(pattern) => Path::Regex(pattern.source().to_owned()),
        }),
    }
}

fn http_match(entry: wire::HttpEntry) -> Result<model::HttpMatch> {
    use wire::http_entry::Path;
    let path = match entry.path {
        Some(Path::Exact(path)) => model::PathMatch::Exact(path),
        Some(Path::Prefix(path)) => prefix(path)?,
        Some(Path::Regex(source)) => model::PathMatch::Regex(pattern(&source)?),
        None => return Err(error("path", "it is missing, or of a kind that this version does not know")),
    };
    Ok(model::HttpMatch {
        path,
        method: entry.method,
        headers: list("headers", entry.headers, header_match)?,
        query: list("query", entry.query, model::ValueMatch::try_from)?,
    })
}

fn prefix(path: String) -> Result<model::PathMatch> {
    match path.ends_with('/') {
        true => Err(error("prefix", format!("`{path}` must not end with a slash"))),
        false => Ok(model::PathMatch::Prefix(path)),
    }
}

fn header_match(header: wire::ValueMatch) -> Result<model::ValueMatch> {
    let header = model::ValueMatch::try_from(header)?;
    match header.name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Err(error("name", format!("`{}` must be in lower case", header.name))),
        false => Ok(header),
    }
}

fn pattern(source: &str) -> Result<model::Pattern> {
    model::Pattern::new(source).map_err(|e| error("regex", e.to_string()))
}

impl From<&model::ValueMatch> for wire::ValueMatch {
    fn from(matcher: &model::ValueMatch) -> Self {
        use wire::value_match::Value;
        let value = match &matcher.value {
            model::TextMatch::Exact(text) => Value::Exact(text.clone()),
            model::TextMatch::Regex(pattern) => Value::Regex(pattern.source().to_owned()),
        };
        Self { name: matcher.name.clone(), value: Some(value) }
    }
}

impl TryFrom<wire::ValueMatch> for model::ValueMatch {
    type Error = ConvertError;

    fn try_from(matcher: wire::ValueMatch) -> Result<Self> {
        use wire::value_match::Value;
        let value = match matcher.value {
            Some(Value::Exact(text)) => model::TextMatch::Exact(text),
            Some(Value::Regex(source)) => model::TextMatch::Regex(pattern(&source)?),
            None => {
                return Err(error("value", "it is missing, or of a kind that this version does not know"));
            }
        };
        Ok(Self { name: matcher.name, value })
    }
}

impl From<&model::HttpRule> for wire::Rule {
    fn from(rule: &model::HttpRule) -> Self {
        Self {
            route_namespace: rule.route.namespace.to_string(),
            route_name: rule.route.name.to_string(),
            index: rule.index,
            name: rule.name.as_deref().map(str::to_owned),
            backends: rule.backends.iter().map(wire::Backend::from).collect(),
            filters: rule.filters.as_deref().map(wire::Filters::from),
            request_timeout_ms: filters::timeout_message(rule.timeouts.request),
            backend_request_timeout_ms: filters::timeout_message(rule.timeouts.backend_request),
            retry: rule.retry.as_deref().map(wire::Retry::from),
            grpc: rule.kind == model::HttpRouteKind::Grpc,
            session: rule.session.as_deref().map(wire::Session::from),
        }
    }
}

impl TryFrom<wire::Rule> for model::HttpRule {
    type Error = ConvertError;

    fn try_from(rule: wire::Rule) -> Result<Self> {
        let session = rule.session;
        let mut rule = Self {
            route: object_name("route_", rule.route_namespace, rule.route_name)?,
            index: rule.index,
            name: rule.name.map(Arc::from),
            backends: list("backends", rule.backends, model::Backend::try_from)?,
            filters: filters::read(rule.filters)?,
            timeouts: model::Timeouts {
                request: filters::timeout(rule.request_timeout_ms),
                backend_request: filters::timeout(rule.backend_request_timeout_ms),
            },
            retry: rule.retry.map(filters::retry).transpose()?.map(Box::new),
            kind: if rule.grpc { model::HttpRouteKind::Grpc } else { model::HttpRouteKind::Http },
            session: None,
        };
        rule.session = session.map(|session| filters::session(&rule, session)).transpose()?.map(Box::new);
        Ok(rule)
    }
}

impl From<&model::TcpRule> for wire::Rule {
    fn from(rule: &model::TcpRule) -> Self {
        Self {
            route_namespace: rule.route.namespace.to_string(),
            route_name: rule.route.name.to_string(),
            backends: rule.backends.iter().map(wire::Backend::from).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<wire::Rule> for model::TcpRule {
    type Error = ConvertError;

    fn try_from(rule: wire::Rule) -> Result<Self> {
        Ok(Self {
            route: object_name("route_", rule.route_namespace, rule.route_name)?,
            backends: list("backends", rule.backends, model::Backend::try_from)?,
        })
    }
}

impl From<&model::Backend> for wire::Backend {
    fn from(backend: &model::Backend) -> Self {
        use wire::backend::Target;
        let target = match &backend.target {
            model::BackendTarget::Service { name, port } => Target::Service(wire::ServicePort {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                port: (*port).into(),
            }),
            model::BackendTarget::Invalid { reason } => Target::Invalid(reason.to_string()),
        };
        let filters = backend.filters.as_deref().map(wire::Filters::from);
        let spoken = backend.spoken.map(|spoken| wire::Spoken {
            protocol: wire::AppProtocol::from(spoken.protocol).into(),
            preserve_case: spoken.preserve_case,
        });
        Self { weight: backend.weight, target: Some(target), filters, spoken }
    }
}

impl TryFrom<wire::Backend> for model::Backend {
    type Error = ConvertError;

    fn try_from(backend: wire::Backend) -> Result<Self> {
        use wire::backend::Target;
        let target = match backend.target {
            Some(Target::Service(service)) => model::BackendTarget::Service {
                name: object_name("service.", service.namespace, service.name)?,
                port: port_number("service.port", service.port)?,
            },
            Some(Target::Invalid(reason)) => model::BackendTarget::Invalid { reason: reason.into() },
            None => {
                return Err(error("target", "it is missing, or of a kind that this version does not know"));
            }
        };
        // One that only newer servers know is no reason to refuse all that leads there.
        let spoken = backend.spoken.and_then(|spoken| {
            let protocol = app_protocol(spoken.protocol).ok()?;
            Some(model::Spoken { protocol, preserve_case: spoken.preserve_case })
        });
        let filters = filters::read(backend.filters)?;
        Ok(Self { target, weight: backend.weight, filters, spoken })
    }
}

impl From<&model::EndpointSet> for wire::Endpoints {
    fn from(set: &model::EndpointSet) -> Self {
        Self {
            namespace: set.service.namespace.to_string(),
            name: set.service.name.to_string(),
            endpoints: (set.endpoints.iter().enumerate())
                .map(|(i, endpoint)| wire::Endpoint {
                    stale_since: set.stale_since(i),
                    hostname: set.hostname(i).map(|name| name.to_string()).unwrap_or_default(),
                    ..wire::Endpoint::from(&**endpoint)
                })
                .collect(),
        }
    }
}

impl TryFrom<wire::Endpoints> for model::EndpointSet {
    type Error = ConvertError;

    fn try_from(set: wire::Endpoints) -> Result<Self> {
        let service = object_name("", set.namespace, set.name)?;
        let hostnames = set.endpoints.iter().map(|endpoint| endpoint.hostname.as_str().into()).collect();
        let endpoints = list("endpoints", set.endpoints, |endpoint| {
            let stale_since = endpoint.stale_since;
            Ok((Arc::new(model::Endpoint::try_from(endpoint)?), stale_since))
        })?;
        Ok(Self::new(service, endpoints).with_hostnames(hostnames))
    }
}

impl From<&model::Endpoint> for wire::Endpoint {
    fn from(endpoint: &model::Endpoint) -> Self {
        let workload = |part: fn(&NamespacedName) -> &Arc<str>| {
            endpoint.workload.as_ref().map(|name| part(name).to_string()).unwrap_or_default()
        };
        let node = endpoint.node.as_ref();
        Self {
            workload_namespace: workload(|name| &name.namespace),
            workload_name: workload(|name| &name.name),
            node: node.map(|node| node.name.to_string()).unwrap_or_default(),
            link_address: node.map(|node| node.link.to_string()).unwrap_or_default(),
            address: match endpoint.address {
                IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
                IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
            },
            ports: endpoint
                .ports
                .iter()
                .map(|port| wire::PortMapping {
                    service_port: port.service_port.into(),
                    target_port: port.target_port.into(),
                })
                .collect(),
            identity: endpoint.identity.as_ref().map(SpiffeId::to_string).unwrap_or_default(),
            // The set knows these.
            stale_since: 0,
            hostname: String::new(),
        }
    }
}

impl TryFrom<wire::Endpoint> for model::Endpoint {
    type Error = ConvertError;

    fn try_from(endpoint: wire::Endpoint) -> Result<Self> {
        let identity = match endpoint.identity.as_str() {
            "" => None,
            text => Some(text.parse::<SpiffeId>().map_err(|e| error("identity", e.to_string()))?),
        };
        let node = match endpoint.node.as_str() {
            "" => None,
            name => {
                let text = &endpoint.link_address;
                let link = text.parse::<SocketAddr>();
                let link = link.map_err(|_| error("link_address", format!("`{text}` is no address:port")))?;
                // Without it nobody could tell who answers there.
                if identity.is_none() {
                    return Err(error("identity", "it is missing, though a node answers for the endpoint"));
                }
                Some(model::PeerNode { name: name.into(), link })
            }
        };
        let workload = match (endpoint.workload_namespace, endpoint.workload_name) {
            (namespace, name) if namespace.is_empty() && name.is_empty() => None,
            (namespace, name) => Some(object_name("workload_", namespace, name)?),
        };
        Ok(Self {
            workload,
            node,
            address: ip_address(&endpoint.address)?,
            ports: list("ports", endpoint.ports, |port| {
                Ok(model::PortMapping {
                    service_port: port_number("service_port", port.service_port)?,
                    target_port: port_number("target_port", port.target_port)?,
                })
            })?,
            identity,
        })
    }
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(octets));
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(octets) => Ok(IpAddr::from(octets)),
        Err(_) => Err(error("address", format!("an IP address has 4 or 16 bytes, not {}", bytes.len()))),
    }
}
