//! Objects read into what the compiler needs of them, everything checked.
//!
//! An object that does not read is refused as a whole. What only affects some other part (a status,
//! an annotation of somebody else's) is not read, so that two objects that mean the same are equal here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::identity::{SpiffeId, TrustDomain};
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::kinds::mesh::Mesh;
use crate::kinds::meta::ObjectMeta;
use crate::kinds::port::{app_protocol, named};
use crate::kinds::service::{IntOrString, Service};
use crate::kinds::workload::{STALE, Workload};
use crate::name::{NamespacedName, ServiceName, dns_subdomain_problem};
use crate::port_settings::{self, Http1Settings, Named};
use crate::snapshot::{AppProtocol, EgressPolicy, MeshSettings, NodeAddress, PortMapping, Shape};

/// Why an object cannot be used: the field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidObject {
    /// As in `spec.rules[0].backendRefs[1].port`.
    pub field: String,
    pub problem: String,
}

pub(super) type Result<T> = std::result::Result<T, InvalidObject>;

pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> InvalidObject {
    InvalidObject { field: field.into(), problem: problem.into() }
}

pub(super) fn read<T: DeserializeOwned>(object: &Value) -> Result<T> {
    serde_path_to_error::deserialize(object).map_err(|e| {
        let field = e.path().to_string();
        invalid(if field == "." { "object".into() } else { field }, e.into_inner().to_string())
    })
}

/// The name of an object, read even where the rest of it cannot be.
pub(super) fn name_of(object: &Value, namespaced: bool) -> NamespacedName {
    let text = |field| object.pointer(field).and_then(Value::as_str);
    let namespace = if namespaced { text("/metadata/namespace").unwrap_or("default") } else { "" };
    NamespacedName::new(namespace, text("/metadata/name").unwrap_or_default())
}

pub(super) fn port_number(field: impl Into<String>, number: i64) -> Result<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(invalid(field, format!("{number} is no port number, they go from 1 to 65535"))),
    }
}

pub(super) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceForm {
    /// TCP ports only, ordered by number, each once.
    pub ports: Vec<ServicePortForm>,
    /// Empty: only EndpointSlices say who answers.
    pub selector: Labels,
    pub shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePortForm {
    pub number: u16,
    pub name: Arc<str>,
    pub protocol: AppProtocol,
    pub target: Target,
    pub http1: Http1Settings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Number(u16),
    Name(String),
}

impl ServiceForm {
    pub(super) fn read(object: &Value) -> Result<Self> {
        let service: Service = read(object)?;
        let mut ports: Vec<ServicePortForm> = Vec::new();
        let mut numbers = BTreeSet::new();
        for (i, port) in service.spec.ports.into_iter().enumerate() {
            if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
                continue;
            }
            let number = port_number(format!("spec.ports[{i}].port"), port.port)?;
            if !numbers.insert(number) {
                return Err(invalid(
                    format!("spec.ports[{i}].port"),
                    format!("port {number} is there twice"),
                ));
            }
            let target = match port.target_port {
                None => Target::Number(number),
                Some(IntOrString::Int(n)) => {
                    Target::Number(port_number(format!("spec.ports[{i}].targetPort"), n)?)
                }
                Some(IntOrString::String(name)) => Target::Name(name),
            };
            ports.push(ServicePortForm {
                number,
                name: port.name.unwrap_or_default().into(),
                protocol: app_protocol(port.app_protocol.as_deref()),
                target,
                http1: Http1Settings::DEFAULT,
            });
        }
        ports.sort_by_key(|p| p.number);
        let named: Vec<Named<'_>> =
            ports.iter().map(|port| named(port.number, &port.name, port.protocol)).collect();
        let annotations = &service.metadata.annotations;
        let settings = port_settings::settings(|key| annotations.get(key).map(String::as_str), &named);
        let settings =
            settings.map_err(|(key, problem)| invalid(format!("metadata.annotations[{key}]"), problem))?;
        for (port, settings) in ports.iter_mut().zip(settings) {
            port.http1 = settings;
        }
        let shape = match (service.spec.type_.as_deref(), service.spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => {
                let name = service.spec.external_name.unwrap_or_default();
                let name = name.strip_suffix('.').unwrap_or(&name);
                if let Some(problem) = dns_subdomain_problem(name) {
                    return Err(invalid("spec.externalName", format!("`{name}` {problem}")));
                }
                Shape::Alias(name.into())
            }
            (_, Some("None")) => Shape::Headless,
            _ => Shape::Balanced,
        };
        Ok(Self { ports, selector: service.spec.selector, shape })
    }

    /// Whether it says who is there, and no port of them: headless services need none.
    pub(super) fn is_portless(&self) -> bool {
        self.ports.is_empty() && self.shape == Shape::Headless
    }

    /// Whether it is another name for something else.
    pub(super) fn is_alias(&self) -> bool {
        matches!(self.shape, Shape::Alias(_))
    }

    pub(super) fn port(&self, number: u16) -> Option<&ServicePortForm> {
        self.ports.iter().find(|p| p.number == number)
    }

    pub(super) fn selects(&self, labels: &Labels) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkloadForm {
    pub labels: Labels,
    pub ready: bool,
    /// Always there when it is ready.
    pub address: Option<IpAddr>,
    /// Empty: whatever a service asks for.
    pub ports: Vec<WorkloadPortForm>,
    pub node: Option<NodeAddress>,
    pub identity: SpiffeId,
    /// Since when nothing is heard of its node, in seconds since the epoch; 0 where it is.
    pub stale_since: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkloadPortForm {
    pub name: Option<String>,
    pub port: u16,
    /// What a Service's targetPort calls it.
    pub target: u16,
}

impl WorkloadForm {
    pub(super) fn read(object: &Value, domain: &TrustDomain) -> Result<Self> {
        let workload: Workload = read(object)?;
        let spec = workload.spec;
        let mut conditions = workload.status.iter().flat_map(|s| &s.conditions);
        let stale = conditions.find(|c| c.kind == STALE && c.status == "True");
        // Stale is stale, since whenever.
        let stale_since = stale.map_or(0, |c| {
            c.last_transition_time.parse::<jiff::Timestamp>().map_or(1, |at| at.as_second().max(1))
        });
        let condition = workload.status.iter().flat_map(|s| &s.conditions).find(|c| c.kind == "Ready");
        let ready = match condition {
            Some(condition) => condition.status == "True",
            // Written by hand: nobody will ever say that it is ready.
            None => spec.node.is_none(),
        };
        let address = match spec.address.as_deref() {
            Some(text) => Some(ip_address("spec.address", text)?),
            None if ready => return Err(invalid("spec.address", "a workload that is ready needs one")),
            None => None,
        };
        let ports = spec.ports.into_iter().enumerate().map(|(i, port)| {
            let number = port_number(format!("spec.ports[{i}].port"), port.port)?;
            let target = match port.target_port {
                Some(target) => port_number(format!("spec.ports[{i}].targetPort"), target)?,
                None => number,
            };
            Ok(WorkloadPortForm { name: port.name, port: number, target })
        });
        let node = spec.node.map(|node| match node.link_address.parse::<SocketAddr>() {
            Ok(link) => Ok(NodeAddress { name: node.name.into(), link }),
            Err(_) => Err(invalid(
                "spec.node.linkAddress",
                format!("`{}` is no IP address with a port, such as 192.0.2.1:15008", node.link_address),
            )),
        });
        let account = spec.service_account.as_deref().unwrap_or("default");
        if let Some(problem) = dns_subdomain_problem(account) {
            return Err(invalid("spec.serviceAccount", format!("`{account}` {problem}")));
        }
        let identity = SpiffeId::workload(domain, workload.metadata.namespace_or_default(), account)
            .map_err(|e| invalid("metadata.namespace", e.to_string()))?;
        Ok(Self {
            ready,
            stale_since,
            address,
            ports: ports.collect::<Result<_>>()?,
            node: node.transpose()?,
            identity,
            labels: workload.metadata.labels,
        })
    }

    /// The ports that clients find by themselves, and where: as a Service's targetPort would call them, and their own
    /// numbers where these are nobody's else.
    pub(super) fn own_ports(&self) -> Vec<PortMapping> {
        let by_target = self.ports.iter().map(|port| (port.target, port.port));
        let by_number = self.ports.iter().map(|port| (port.port, port.port));
        let mut taken = BTreeSet::new();
        let free = by_target.chain(by_number).filter(|&(number, _)| taken.insert(number));
        free.map(|(service_port, target_port)| PortMapping { service_port, target_port }).collect()
    }

    /// The port that answers for a service's port with that target.
    pub(super) fn port(&self, target: &Target) -> Option<u16> {
        let of = |found: Option<&WorkloadPortForm>| found.map(|p| p.port);
        match target {
            Target::Number(n) if self.ports.is_empty() => Some(*n),
            Target::Number(n) => of(self.ports.iter().find(|p| p.target == *n)),
            Target::Name(name) => of(self.ports.iter().find(|p| p.name.as_ref() == Some(name))),
        }
    }
}

fn ip_address(field: impl Into<String>, text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| invalid(field, format!("`{text}` is no IP address")))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceForm {
    pub service: Option<ServiceName>,
    /// Of the endpoints that are ready, with the name that each has in its service, or an empty one.
    pub addresses: Vec<(IpAddr, Arc<str>)>,
    /// Of the endpoints that are not.
    pub not_ready: Vec<IpAddr>,
    /// The name of a service's port, and the number at the addresses.
    pub ports: Vec<(String, u16)>,
}

impl SliceForm {
    pub(super) fn read(object: &Value) -> Result<Self> {
        let slice: EndpointSlice = read(object)?;
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            let problem = format!("`{}` is not supported, only `IPv4` and `IPv6` are", slice.address_type);
            return Err(invalid("addressType", problem));
        }
        let (mut addresses, mut not_ready) = (Vec::new(), Vec::new());
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                not_ready.extend(endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()));
                continue;
            }
            let field = format!("endpoints[{i}].addresses");
            let first =
                endpoint.addresses.first().ok_or_else(|| invalid(&field, "at least one is needed"))?;
            let hostname = endpoint.hostname.as_deref().unwrap_or_default().into();
            addresses.push((ip_address(format!("{field}[0]"), first)?, hostname));
        }
        let mut ports = Vec::new();
        for (i, port) in slice.ports.into_iter().enumerate() {
            if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
                continue;
            }
            // Kubernetes: without a number it stands for all ports, which nobody can connect to.
            let Some(number) = port.port else { continue };
            ports.push((port.name.unwrap_or_default(), port_number(format!("ports[{i}].port"), number)?));
        }
        let service = slice.metadata.labels.get("kubernetes.io/service-name");
        let service =
            service.map(|name| ServiceName::new(slice.metadata.namespace_or_default(), name.as_str()));
        Ok(Self { service, addresses, not_ready, ports })
    }
}

pub(super) fn read_mesh(object: &Value, domain: &TrustDomain) -> Result<MeshSettings> {
    let mesh: Mesh = read(object)?;
    if mesh.metadata.name.as_deref() != Some("default") {
        return Err(invalid("metadata.name", "the settings of the mesh are the object named `default`"));
    }
    if let Some(other) = mesh.spec.trust_domain.filter(|d| d != domain.as_str()) {
        let problem = format!("it is `{domain}` since the server first started, and cannot become `{other}`");
        return Err(invalid("spec.trustDomain", problem));
    }
    let egress = match mesh.spec.egress.and_then(|e| e.policy).as_deref() {
        None | Some("Allow") => EgressPolicy::Allow,
        Some("Deny") => EgressPolicy::Deny,
        Some(other) => {
            return Err(invalid("spec.egress.policy", format!("`{other}` is neither `Allow` nor `Deny`")));
        }
    };
    Ok(MeshSettings { egress, access_log: mesh.spec.access_log.and_then(|a| a.enabled).unwrap_or(false) })
}

/// When an object was created; by it, the oldest of several routes wins.
pub(super) fn created(metadata: &ObjectMeta) -> Result<Option<jiff::Timestamp>> {
    let Some(text) = metadata.creation_timestamp.as_deref() else { return Ok(None) };
    let problem = |_| invalid("metadata.creationTimestamp", format!("`{text}` is no RFC 3339 time"));
    text.parse().map(Some).map_err(problem)
}
