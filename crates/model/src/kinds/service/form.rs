//! A Service as it is compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::identity::ServiceAccount;
use crate::port_settings::Http1Settings;
use crate::snapshot::{AppProtocol, Shape};

/// Keys and values.
pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceForm {
    /// TCP ports only, ordered by number, each once.
    pub ports: Vec<ServicePortForm>,
    /// Empty: only EndpointSlices say who answers.
    pub selector: Labels,
    pub shape: Shape,
    pub created: Option<Timestamp>,
    /// Of a Flow, which is a service to those who call it: the account of its workloads.
    pub flow_account: Option<ServiceAccount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePortForm {
    pub number: u16,
    pub name: Arc<str>,
    pub protocol: AppProtocol,
    pub target: TargetPort,
    pub http1: Http1Settings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    Name(String),
}

impl ServiceForm {
    /// Whether it says who is there, and no port of them: headless services need none.
    pub(crate) fn is_portless(&self) -> bool {
        self.ports.is_empty() && self.shape == Shape::Headless
    }

    /// Whether it is another name for something else.
    pub(crate) fn is_alias(&self) -> bool {
        matches!(self.shape, Shape::Alias(_))
    }

    pub(crate) fn port(&self, number: u16) -> Option<&ServicePortForm> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// Whether a Flow has the name, and no Service.
    pub(crate) fn is_flow(&self) -> bool {
        self.flow_account.is_some()
    }

    /// Whether it selects a workload with these labels, of that account.
    pub(crate) fn selects(&self, labels: &Labels, account: &ServiceAccount) -> bool {
        self.flow_account.as_ref().is_none_or(|own| own == account) && self.has_labels(labels)
    }

    /// Whether all labels of the selector are among these.
    pub(crate) fn has_labels(&self, labels: &Labels) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}
