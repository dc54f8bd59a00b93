//! What may leave the mesh.

use std::collections::BTreeMap;
use std::sync::Arc;

use tulle_model::snapshot::{
    AccessPolicy, EgressPolicy, ExternalConfig, ExternalPort, OriginatedTls, OutsideProtocol, ServerName,
};

use super::{ConvertError, Result, error, list, object_name, port_number, within};
use crate::discovery as wire;

pub(super) fn policy_message(policy: EgressPolicy) -> wire::EgressPolicy {
    match policy {
        EgressPolicy::Allow => wire::EgressPolicy::Allow,
        EgressPolicy::Deny => wire::EgressPolicy::Deny,
        EgressPolicy::Listed => wire::EgressPolicy::Listed,
    }
}

/// `deny`: what an older server says. One that this node does not know lets nothing out.
pub(super) fn policy(policy: i32, deny: bool) -> EgressPolicy {
    match wire::EgressPolicy::try_from(policy) {
        Ok(wire::EgressPolicy::Unspecified) if !deny => EgressPolicy::Allow,
        Ok(wire::EgressPolicy::Allow) => EgressPolicy::Allow,
        Ok(wire::EgressPolicy::Listed) => EgressPolicy::Listed,
        Ok(wire::EgressPolicy::Unspecified | wire::EgressPolicy::Deny) | Err(_) => EgressPolicy::Deny,
    }
}

pub(super) fn namespaces_message(
    namespaces: &BTreeMap<Arc<str>, EgressPolicy>,
) -> Vec<wire::NamespaceEgress> {
    let message = |(namespace, policy): (&Arc<str>, &EgressPolicy)| wire::NamespaceEgress {
        namespace: namespace.to_string(),
        egress: policy_message(*policy).into(),
    };
    namespaces.iter().map(message).collect()
}

pub(super) fn namespaces(namespaces: Vec<wire::NamespaceEgress>) -> BTreeMap<Arc<str>, EgressPolicy> {
    namespaces.into_iter().map(|of| (of.namespace.into(), policy(of.egress, true))).collect()
}

impl From<&ExternalConfig> for wire::ExternalService {
    fn from(service: &ExternalConfig) -> Self {
        let ExternalConfig { name, hosts, ranges, ports, policies } = service;
        let port = |port: &ExternalPort| wire::ExternalPort {
            number: port.number.into(),
            protocol: match (port.protocol, &port.tls) {
                (OutsideProtocol::Http, None) => wire::OutsideProtocol::Http,
                (OutsideProtocol::Http, Some(_)) => wire::OutsideProtocol::HttpInTls,
                (OutsideProtocol::Tls, _) => wire::OutsideProtocol::Tls,
                (OutsideProtocol::Bytes, None) => wire::OutsideProtocol::Bytes,
                (OutsideProtocol::Bytes, Some(_)) => wire::OutsideProtocol::BytesInTls,
            }
            .into(),
            target_port: port.target_port.unwrap_or_default().into(),
            tls: port.tls.as_deref().map(wire::OriginatedTls::from),
        };
        Self {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            ranges: ranges.iter().map(ToString::to_string).collect(),
            ports: ports.iter().map(port).collect(),
            policies: policies.iter().map(wire::AuthorizationPolicy::from).collect(),
        }
    }
}

impl TryFrom<wire::ExternalService> for ExternalConfig {
    type Error = ConvertError;

    fn try_from(service: wire::ExternalService) -> Result<Self> {
        let range =
            |text: String| text.parse().map_err(|_| error("", format!("`{text}` is no range of addresses")));
        Ok(Self {
            name: object_name("", service.namespace, service.name)?,
            hosts: service.hosts.iter().map(|host| ServerName::new(host)).collect(),
            ranges: list("ranges", service.ranges, range)?,
            ports: list("ports", service.ports, ExternalPort::try_from)?,
            policies: list("policies", service.policies, AccessPolicy::try_from)?.into(),
        })
    }
}

impl TryFrom<wire::ExternalPort> for ExternalPort {
    type Error = ConvertError;

    fn try_from(port: wire::ExternalPort) -> Result<Self> {
        let (protocol, in_tls) = match port.protocol() {
            wire::OutsideProtocol::Http => (OutsideProtocol::Http, false),
            wire::OutsideProtocol::HttpInTls => (OutsideProtocol::Http, true),
            wire::OutsideProtocol::Tls => (OutsideProtocol::Tls, false),
            wire::OutsideProtocol::Bytes => (OutsideProtocol::Bytes, false),
            wire::OutsideProtocol::BytesInTls => (OutsideProtocol::Bytes, true),
            wire::OutsideProtocol::Unspecified => {
                return Err(error("protocol", "is none that this node knows"));
            }
        };
        if in_tls != port.tls.is_some() {
            return Err(error(
                "tls",
                "it and the protocol do not fit: it would not be known whether it goes in plain",
            ));
        }
        let target_port = match port.target_port {
            0 => None,
            number => Some(port_number("target_port", number)?),
        };
        let tls = port.tls.map(|tls| OriginatedTls::try_from(tls).map(Arc::new)).transpose();
        let tls = tls.map_err(|e| within("tls", e))?;
        Ok(Self { number: port_number("number", port.number)?, protocol, target_port, tls })
    }
}
