//! A Workload as it is compiled.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::identity::ServiceAccount;
use crate::kinds::service::form::{Labels, TargetPort};
use crate::snapshot::{PeerNode, PortMapping};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadForm {
    pub labels: Labels,
    pub ready: bool,
    /// Always there when it is ready.
    pub address: Option<IpAddr>,
    /// Empty: none where a node runs it, which knows its ports; else whatever a service asks for.
    pub ports: Vec<WorkloadPortForm>,
    pub node: Option<PeerNode>,
    pub account: ServiceAccount,
    /// Since when nothing is heard of its node, in seconds since the epoch; 0 where it is.
    pub stale_since: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadPortForm {
    pub name: Option<String>,
    pub port: u16,
    /// What a Service's targetPort calls it.
    pub target: u16,
}

impl WorkloadForm {
    /// The ports that clients find by themselves, and where: as a Service's targetPort would call them, and their own
    /// numbers where these are nobody's else.
    pub(crate) fn own_ports(&self) -> Vec<PortMapping> {
        let by_target = self.ports.iter().map(|port| (port.target, port.port));
        let by_number = self.ports.iter().map(|port| (port.port, port.port));
        let mut taken = BTreeSet::new();
        let free = by_target.chain(by_number).filter(|&(number, _)| taken.insert(number));
        free.map(|(service_port, target_port)| PortMapping { service_port, target_port }).collect()
    }

    /// The port that answers for a service's port with that target.
    pub(crate) fn port(&self, target: &TargetPort) -> Option<u16> {
        // What a node says of its own processes is all that they have.
        let says = !self.ports.is_empty() || self.node.is_none();
        says.then(|| self.port_meant(target)).flatten()
    }

    /// The port that would be meant by that target: of a workload that says no ports, the one of that number.
    pub(crate) fn port_meant(&self, target: &TargetPort) -> Option<u16> {
        let of = |found: Option<&WorkloadPortForm>| found.map(|p| p.port);
        match target {
            TargetPort::Number(n) if self.ports.is_empty() => Some(*n),
            TargetPort::Number(n) => of(self.ports.iter().find(|p| p.target == *n)),
            TargetPort::Name(name) => of(self.ports.iter().find(|p| p.name.as_ref() == Some(name))),
        }
    }
}
