//! A route as it is compiled.

use std::sync::Arc;

use super::session::SessionForm;
use super::{BackendRef, ParentReference};
use crate::kinds::id::KindId;
use crate::kinds::service::form::ServicePortForm;
use crate::name::{NamespacedName, ServiceName};
use crate::policy::Seniority;
use crate::snapshot::{BackendTarget, HttpFilters, HttpMatch, Retry, Timeouts};

/// All kinds of route; the only rule of a TLSRoute or TCPRoute has no matches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteForm {
    pub kind: KindId,
    pub name: NamespacedName,
    pub created: Option<jiff::Timestamp>,
    pub generation: Option<i64>,
    pub parents: Vec<ParentForm>,
    pub rules: Vec<RuleForm>,
    /// It has host names, which count for nothing.
    pub hostnames: bool,
    /// Those of a TLSRoute, which count: one at least.
    pub server_names: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParentForm {
    pub reference: ParentReference,
    /// `None`: the parent is no Service.
    pub service: Option<ServiceName>,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RuleForm {
    pub name: Option<Arc<str>>,
    pub matches: Vec<HttpMatch>,
    pub backends: Vec<BackendForm>,
    pub filters: Option<Box<HttpFilters>>,
    pub timeouts: Timeouts,
    pub retry: Option<Box<Retry>>,
    pub session: Option<SessionForm>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BackendForm {
    pub reference: BackendRef,
    /// `None`: the backend is neither a Service nor a Flow.
    pub service: Option<ServiceName>,
    /// Whether it is a Flow.
    pub is_flow: bool,
    pub port: Option<u16>,
    pub weight: u32,
    pub filters: Option<Box<HttpFilters>>,
}

impl RouteForm {
    /// The Services that it wants as parents.
    pub(crate) fn parent_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.parents.iter().filter_map(|p| p.service.as_ref())
    }

    /// The Services and Flows that its backends name, and those that get copies.
    pub(crate) fn backend_services(&self) -> impl Iterator<Item = &ServiceName> {
        let backends = || self.rules.iter().flat_map(|rule| &rule.backends);
        let of_backends = backends().filter_map(|backend| backend.filters.as_deref());
        let filters = self.rules.iter().filter_map(|rule| rule.filters.as_deref()).chain(of_backends);
        let copied = filters.flat_map(|filters| &filters.mirrors).filter_map(|mirror| match &mirror.target {
            BackendTarget::Service { name, .. } => Some(name),
            BackendTarget::Invalid { .. } => None,
        });
        backends().filter_map(|backend| backend.service.as_ref()).chain(copied)
    }

    /// Whether one of its parent references names that port of the Service, by number or by name.
    pub(crate) fn names_port_of(&self, service: &ServiceName, port: &ServicePortForm) -> bool {
        let mut named = self.parents.iter().filter(|p| p.port.is_some() || p.section().is_some());
        named.any(|parent| parent.service.as_ref() == Some(service) && parent.wants(port))
    }

    pub(crate) fn seniority(&self) -> Seniority {
        Seniority::new(self.created, &self.name)
    }
}

impl ParentForm {
    /// The name of a port, if it gives one.
    pub(crate) fn section(&self) -> Option<&str> {
        self.reference.section_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether it means that port of its Service, by name or because it means all.
    pub(crate) fn wants(&self, port: &ServicePortForm) -> bool {
        self.port.is_none_or(|wanted| wanted == port.number)
            && self.section().is_none_or(|wanted| wanted == &*port.name)
    }
}
