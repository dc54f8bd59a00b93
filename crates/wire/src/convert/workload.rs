//! What a node is told of a workload that it runs.

use std::sync::Arc;

use tulle_model::path::Ambiguities;
use tulle_model::snapshot as model;

use super::{
    ConvertError, Result, app_protocol, http1_message, http1_settings, list, object_name, port_number,
};
use crate::discovery as wire;

impl From<&model::WorkloadConfig> for wire::Workload {
    fn from(workload: &model::WorkloadConfig) -> Self {
        Self {
            namespace: workload.name.namespace.to_string(),
            name: workload.name.name.to_string(),
            services: workload.services.iter().map(wire::Selected::from).collect(),
            inbound_capture: workload.inbound_capture,
            policies: workload.policies.iter().map(wire::AuthorizationPolicy::from).collect(),
            strict: workload.strict.everywhere,
            strict_except: workload.strict.except.iter().copied().map(u32::from).collect(),
            denies_by_default: workload.denies_by_default,
            allowed_paths: workload.allowed_paths.names().map(str::to_owned).collect(),
            external: workload.external.iter().map(|of| wire::ExternalService::from(&**of)).collect(),
        }
    }
}

impl TryFrom<wire::Workload> for model::WorkloadConfig {
    type Error = ConvertError;

    fn try_from(workload: wire::Workload) -> Result<Self> {
        Ok(Self {
            name: object_name("", workload.namespace, workload.name)?,
            services: list("services", workload.services, model::Selected::try_from)?,
            inbound_capture: workload.inbound_capture,
            policies: list("policies", workload.policies, model::AccessPolicy::try_from)?.into(),
            strict: model::Strictness {
                everywhere: workload.strict,
                except: list("strict_except", workload.strict_except, |port| port_number("", port))?,
            },
            denies_by_default: workload.denies_by_default,
            allowed_paths: Ambiguities::named(workload.allowed_paths.iter().map(String::as_str)),
            external: list("external", workload.external, |of| {
                model::ExternalConfig::try_from(of).map(Arc::new)
            })?
            .into(),
        })
    }
}

impl From<&model::Selected> for wire::Selected {
    fn from(selected: &model::Selected) -> Self {
        Self {
            namespace: selected.by.namespace.to_string(),
            name: selected.by.name.to_string(),
            ports: selected.ports.iter().map(wire::ServedPort::from).collect(),
        }
    }
}

impl TryFrom<wire::Selected> for model::Selected {
    type Error = ConvertError;

    fn try_from(selected: wire::Selected) -> Result<Self> {
        Ok(Self {
            by: object_name("", selected.namespace, selected.name)?,
            ports: list("ports", selected.ports, model::ServedPort::try_from)?,
        })
    }
}

impl From<&model::ServedPort> for wire::ServedPort {
    fn from(port: &model::ServedPort) -> Self {
        Self {
            service_port: port.service_port.into(),
            target_port: port.target_port.into(),
            protocol: wire::AppProtocol::from(port.protocol).into(),
            http1: http1_message(port.http1),
        }
    }
}

impl TryFrom<wire::ServedPort> for model::ServedPort {
    type Error = ConvertError;

    fn try_from(port: wire::ServedPort) -> Result<Self> {
        Ok(Self {
            service_port: port_number("service_port", port.service_port)?,
            target_port: port_number("target_port", port.target_port)?,
            protocol: app_protocol(port.protocol)?,
            http1: http1_settings(port.http1),
        })
    }
}
