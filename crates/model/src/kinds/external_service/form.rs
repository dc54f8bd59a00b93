//! An ExternalService as it is compiled: without the policies that say who may use it.

use std::sync::Arc;

use ipnet::IpNet;

use crate::name::{NamespacedName, SYSTEM_NAMESPACE};
use crate::snapshot::{ExternalPort, ServerName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExternalForm {
    pub name: NamespacedName,
    pub hosts: Vec<ServerName>,
    pub ranges: Vec<IpNet>,
    pub ports: Vec<ExternalPortForm>,
}

/// A port, without the TLS that is originated there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExternalPortForm {
    pub name: Option<Arc<str>>,
    pub port: ExternalPort,
}

impl ExternalForm {
    /// Whether it lists something for the workloads of that namespace.
    pub(crate) fn lists_for(&self, namespace: &str) -> bool {
        lists_for(&self.name, namespace)
    }
}

/// Whether an ExternalService of that name does.
pub(crate) fn lists_for(name: &NamespacedName, namespace: &str) -> bool {
    *name.namespace == *namespace || *name.namespace == *SYSTEM_NAMESPACE
}
