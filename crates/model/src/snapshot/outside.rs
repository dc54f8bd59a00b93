//! Destinations outside of the mesh, as a node is told of them with each workload that may reach them.

pub(super) mod originated;

use std::sync::Arc;

use ipnet::IpNet;

use super::{AccessPolicies, MeshSettings, OriginatedTls, ServerName};
use crate::name::NamespacedName;

/// What happens to a connection whose destination is no part of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EgressPolicy {
    #[default]
    Allow,
    Deny,
    /// It passes where an ExternalService lists it ([`crate::egress`]).
    Listed,
}

/// What may be reached: by one of its names or addresses, at one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalConfig {
    pub name: NamespacedName,
    pub hosts: Vec<ServerName>,
    pub ranges: Vec<IpNet>,
    /// Each number once.
    pub ports: Vec<ExternalPort>,
    /// Those that say who may use it ([`crate::authorization::decide_leaving`]).
    pub policies: AccessPolicies,
}

/// A port of a destination outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalPort {
    pub number: u16,
    pub protocol: OutsideProtocol,
    /// Where it goes, if that is another.
    pub target_port: Option<u16>,
    /// The TLS in which it goes, where clients speak none. Not of [`OutsideProtocol::Tls`].
    pub tls: Option<Arc<OriginatedTls>>,
}

/// What is spoken at a port outside, and so what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutsideProtocol {
    /// In plain: each request.
    Http,
    /// The server that the client names.
    Tls,
    /// Nothing.
    Bytes,
}

impl MeshSettings {
    /// What holds for workloads of a namespace, and the field that says so.
    pub fn egress_of(&self, namespace: &str) -> (EgressPolicy, &'static str) {
        match self.egress_namespaces.get(namespace) {
            Some(policy) => (*policy, "spec.egress.namespaces"),
            None => (self.egress, "spec.egress.policy"),
        }
    }
}

impl ExternalPort {
    /// One that is passed on as it is.
    pub fn new(number: u16, protocol: OutsideProtocol) -> Self {
        Self { number, protocol, target_port: None, tls: None }
    }
}

impl ExternalConfig {
    /// Whether TLS is originated at some port of it.
    pub fn originates_tls(&self) -> bool {
        self.ports.iter().any(|port| port.tls.is_some())
    }

    pub fn port(&self, number: u16) -> Option<&ExternalPort> {
        self.ports.iter().find(|port| port.number == number)
    }
}
