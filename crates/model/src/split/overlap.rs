//! Whether two sides of a split stand for the same Workloads: such a Workload would take of both shares.

use super::{MeshObject, Missing, name_of};
use crate::kinds::service;
use crate::kinds::service::form::{Labels, ServiceForm, TargetPort};
use crate::kinds::workload;
use crate::name::{NamespacedName, ServiceName};
use crate::registry::KindId;
use crate::validate::field::{Errors, Field};

/// Two Services of a split that select the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    pub wide: ServiceName,
    pub narrow: ServiceName,
    pub what: Shared,
}

/// What is of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shared {
    /// All that the narrow one selects, which is what has these labels.
    All(String),
    Workload(NamespacedName),
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wide, narrow, what } = self;
        match what {
            Shared::All(labels) => write!(
                f,
                "Service {wide} selects all that Service {narrow} selects ({labels}), which would take of both shares"
            ),
            Shared::Workload(workload) => write!(
                f,
                "Service {wide} and Service {narrow} both select Workload {workload}, which would take of both shares"
            ),
        }
    }
}

/// A side: a Service, and where its Workloads take the traffic.
#[derive(Debug, Clone)]
pub(super) struct Part {
    name: ServiceName,
    selector: Labels,
    target: Option<TargetPort>,
}

impl Part {
    /// `None`: it selects nothing, as a Service whose endpoints EndpointSlices say.
    pub(super) fn of(objects: &[MeshObject], name: &ServiceName, port: u16) -> Option<Self> {
        let form = service::check::check(&Field::root(super::find(objects, name)), &mut Errors::default());
        Self::new(name, form.ok()?, port)
    }

    /// One that is not there yet.
    pub(super) fn of_missing(missing: &Missing, port: u16) -> Option<Self> {
        let form = service::check::check(&Field::root(&missing.service), &mut Errors::default());
        Self::new(&missing.name, form.ok()?, port)
    }

    fn new(name: &ServiceName, form: ServiceForm, port: u16) -> Option<Self> {
        let target = form.port(port).map(|port| port.target.clone());
        let is_selecting = !form.is_alias() && !form.selector.is_empty();
        is_selecting.then_some(Self { name: name.clone(), selector: form.selector, target })
    }

    /// Whether it selects whatever has these labels.
    pub(super) fn covers(&self, labels: &Labels) -> bool {
        includes(labels, &self.selector)
    }

    /// Whether all that it selects has these labels.
    pub(super) fn is_within(&self, labels: &Labels) -> bool {
        includes(&self.selector, labels)
    }

    /// Whether no process can be of both, whatever its labels: each is asked for another port.
    fn is_apart(&self, other: &Self) -> bool {
        match (&self.target, &other.target) {
            (Some(TargetPort::Number(one)), Some(TargetPort::Number(other))) => one != other,
            (Some(TargetPort::Name(one)), Some(TargetPort::Name(other))) => one != other,
            // Of a name and a number, the Workload says whether they are one.
            (Some(_), Some(_)) => true,
            _ => false,
        }
    }
}

fn includes(labels: &Labels, some: &Labels) -> bool {
    some.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The first two sides that select the same: by what their selectors say, or because there is a Workload of both.
pub(super) fn find(objects: &[MeshObject], parts: &[Part]) -> Option<Overlap> {
    let pairs = || {
        let later = |(index, one)| parts.iter().skip(index + 1).map(move |other: &Part| (one, other));
        parts.iter().enumerate().flat_map(later)
    };
    let nested = pairs().filter(|(one, other)| !one.is_apart(other)).find_map(|(one, other)| {
        let (wide, narrow) = match (one.covers(&other.selector), other.covers(&one.selector)) {
            (true, _) => (one, other),
            (false, true) => (other, one),
            (false, false) => return None,
        };
        Some(overlap(wide, narrow, Shared::All(listed(&narrow.selector))))
    });
    if nested.is_some() || parts.len() < 2 {
        return nested;
    }
    let namespace = parts.first().map(|part| &part.name.namespace);
    let workloads = objects.iter().filter(|(kind, _)| kind.id == KindId::Workload);
    let workloads = workloads
        .map(|(_, object)| (name_of(object), object))
        .filter(|(n, _)| Some(&n.namespace) == namespace);
    workloads.into_iter().find_map(|(name, object)| {
        let form = workload::check::check(&Field::root(object), &mut Errors::default()).ok()?;
        let port = |part: &Part| form.port(part.target.as_ref()?);
        let both = |(one, other): &(&Part, &Part)| {
            let selected = one.covers(&form.labels) && other.covers(&form.labels);
            selected && port(one).is_some() && port(one) == port(other)
        };
        pairs().find(both).map(|(one, other)| overlap(one, other, Shared::Workload(name)))
    })
}

fn overlap(wide: &Part, narrow: &Part, what: Shared) -> Overlap {
    Overlap { wide: wide.name.clone(), narrow: narrow.name.clone(), what }
}

fn listed(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
