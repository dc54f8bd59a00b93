//! What a node is told of each workload that it runs, and no other node is.

use std::collections::BTreeSet;

use super::Snapshot;
use crate::name::{ServiceName, WorkloadName};
use crate::path::Ambiguities;
use crate::port_settings::Http1Settings;
use crate::snapshot::{AccessPolicies, AppProtocol, ExternalServices};

/// A workload, as what enters it sees it: the services that lead to it, and what applies to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadConfig {
    pub name: WorkloadName,
    /// Those that select it, ordered by their names.
    pub services: Vec<Selected>,
    /// See [`crate::decision::inbound_capture`].
    pub inbound_capture: bool,
    /// Those that say who may enter, ordered by their names ([`crate::authorization::decide`]).
    pub policies: AccessPolicies,
    /// Where what comes in plain from outside of the mesh is refused.
    pub strict: Strictness,
    /// Whether nobody may enter whom no policy allows.
    pub denies_by_default: bool,
    /// What paths may have that servers read differently, where rules go by paths.
    pub allowed_paths: Ambiguities,
    /// What is listed for it outside of the mesh, which counts where egress is `Listed` ([`crate::egress`]).
    pub external: ExternalServices,
}

/// At which ports of a workload something is so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strictness {
    pub everywhere: bool,
    /// Ports where it is otherwise.
    pub except: Vec<u16>,
}

impl Strictness {
    pub fn is_at(&self, port: u16) -> bool {
        self.everywhere != self.except.contains(&port)
    }

    pub fn is_anywhere(&self) -> bool {
        self.everywhere || !self.except.is_empty()
    }
}

/// What a service that selects a workload makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    pub by: ServiceName,
    /// The ports that the workload answers for, in the order of the service's.
    pub ports: Vec<ServedPort>,
}

/// A port of a service, and the workload's that answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedPort {
    pub service_port: u16,
    pub target_port: u16,
    /// As the Service declares it.
    pub protocol: AppProtocol,
    pub http1: Http1Settings,
}

impl Snapshot {
    /// Whether nobody may enter a workload of the node, as it is not known yet who may.
    pub fn is_closed(&self, workload: &WorkloadName) -> bool {
        self.closed_until_told && !self.workloads.contains_key(workload)
    }

    /// Why nobody may enter a workload of the node, where that is not known: as a sentence of the workload.
    pub fn closed_because(&self, workload: &WorkloadName) -> Option<String> {
        self.is_closed(workload).then(|| match self.unread.get(workload) {
            Some(why) => format!("the node cannot read what the server says of who may enter it: {why}"),
            None => "the server has not said yet who may enter it".to_owned(),
        })
    }
}

impl WorkloadConfig {
    /// One that no service selects, and that is open to all.
    pub fn new(name: WorkloadName) -> Self {
        Self {
            name,
            services: Vec::new(),
            inbound_capture: false,
            policies: AccessPolicies::default(),
            strict: Strictness::default(),
            denies_by_default: false,
            allowed_paths: Ambiguities::default(),
            external: ExternalServices::default(),
        }
    }

    /// Whether whoever comes may enter, at all ports.
    pub fn is_open(&self) -> bool {
        self.policies.is_empty() && !self.denies_by_default && !self.strict.is_anywhere()
    }

    /// The ports at which TLS to the outside is originated for it, each once, in order.
    pub fn originated_ports(&self) -> BTreeSet<u16> {
        let ports = self.external.iter().flat_map(|service| &service.ports);
        ports.filter(|port| port.tls.is_some()).map(|port| port.number).collect()
    }

    /// What answers for a service's port.
    pub fn serves(&self, service: &ServiceName, service_port: u16) -> Option<&ServedPort> {
        let selected = self.services.iter().find(|selected| selected.by == *service)?;
        selected.ports.iter().find(|port| port.service_port == service_port)
    }

    /// Whether a service wants the letters of HTTP/1 kept at a port of the workload.
    pub fn preserves_case(&self, target_port: u16) -> bool {
        let mut ports = self.services.iter().flat_map(|selected| &selected.ports);
        ports.any(|port| port.target_port == target_port && port.http1.preserve_case)
    }

    /// What the services declare that a port of the workload speaks; `None` where none does, or not all say the same.
    pub fn declared(&self, target_port: u16) -> Option<AppProtocol> {
        let ports = self.services.iter().flat_map(|selected| &selected.ports);
        let mut declared = ports
            .filter(|port| port.target_port == target_port && port.protocol != AppProtocol::Detect)
            .map(|port| port.protocol);
        let first = declared.next()?;
        declared.all(|protocol| protocol == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_what_all_services_say_of_it() {
        use AppProtocol::{Detect, Http1, Http2};
        let port = |service_port, target_port, protocol| ServedPort {
            service_port,
            target_port,
            protocol,
            http1: Http1Settings::DEFAULT,
        };
        let services = [
            ("a", vec![port(80, 1, Http2), port(81, 2, Http2), port(82, 3, Detect)]),
            ("b", vec![port(90, 1, Detect), port(81, 2, Http1)]),
        ];
        let selected = |(name, ports)| Selected { by: ServiceName::new("shop", name), ports };
        let services = services.into_iter().map(selected).collect();
        let config = WorkloadConfig { services, ..WorkloadConfig::new(WorkloadName::new("shop", "w")) };
        assert_eq!([1, 2, 3, 4].map(|port| config.declared(port)), [Some(Http2), None, None, None]);
        let [a, b] = ["a", "b"].map(|name| ServiceName::new("shop", name));
        let serves = |service, port| config.serves(service, port).map(|port| port.protocol);
        assert_eq!((serves(&a, 81), serves(&b, 81), serves(&b, 80)), (Some(Http2), Some(Http1), None));
    }
}
