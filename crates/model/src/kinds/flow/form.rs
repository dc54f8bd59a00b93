//! A Flow as it is compiled: who carries it out, and what it is to those who call it.

use jiff::Timestamp;

use super::{FLOW_LABEL, TRIGGER_PORT};
use crate::identity::ServiceAccount;
use crate::kinds::service::form::{ServiceForm, ServicePortForm, TargetPort};
use crate::kinds::workload::form::WorkloadForm;
use crate::name::NamespacedName;
use crate::port_settings::Http1Settings;
use crate::snapshot::{AppProtocol, Shape};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlowForm {
    pub name: NamespacedName,
    pub created: Option<Timestamp>,
    pub generation: Option<i64>,
    /// As whom it calls.
    pub account: ServiceAccount,
    /// That of its HTTP trigger, where it has one.
    pub port: Option<u16>,
}

impl FlowForm {
    /// Whether a workload carries it out: a label alone, which anybody may have written, is not enough.
    pub(crate) fn is_carried_out_by(&self, workload: &WorkloadForm) -> bool {
        workload.account == self.account
            && workload.labels.get(FLOW_LABEL).is_some_and(|of| **of == *self.name.name)
    }

    /// What it is to those who call it, where anybody can.
    pub(crate) fn service(&self) -> Option<ServiceForm> {
        let port = ServicePortForm {
            number: self.port?,
            name: "http".into(),
            protocol: AppProtocol::Http1,
            target: TargetPort::Name(TRIGGER_PORT.to_owned()),
            http1: Http1Settings::DEFAULT,
        };
        Some(ServiceForm {
            ports: vec![port],
            selector: [(FLOW_LABEL.to_owned(), self.name.name.to_string())].into(),
            shape: Shape::Balanced,
            created: self.created,
            flow_account: Some(self.account.clone()),
        })
    }
}
