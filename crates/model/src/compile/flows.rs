//! Flows: the names that their triggers have in the mesh, beside those of Services; who carries them out; what became of them.
//!
//! A name is one object's: where a Service and a Flow with a trigger want the same, the older has it, and the younger is told so.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::index::renew;
use super::status::StatusCondition;
use super::{Compiler, Dirty};
use crate::kinds::flow::form::FlowForm;
use crate::kinds::flow::{FLOW_LABEL, TRIGGER_PORT};
use crate::kinds::service::form::{Labels, ServiceForm, TargetPort};
use crate::kinds::workload::form::WorkloadForm;
use crate::name::{NamespacedName, ServiceName, WorkloadName};
use crate::policy::Seniority;
use crate::port_settings::Http1Settings;
use crate::registry::KindId;
use crate::snapshot::{AppProtocol, Selected, ServedPort};

/// A Flow as the compiler knows it.
#[derive(Debug, Default)]
pub(super) struct FlowState {
    /// Its last good form.
    form: Option<FlowForm>,
    /// That of the newest object, be it good or not.
    generation: Option<i64>,
}

/// Why an object is not in force as it is: the reason of a condition, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// Whether a Flow has the name that a Service wants as well: the older has it, of the same time the Service.
fn flow_has_name(flow: Option<Timestamp>, service: Option<Timestamp>, name: &NamespacedName) -> bool {
    Seniority::new(flow, name) < Seniority::new(service, name)
}

/// What comes of who wants a name that an older one of that kind has.
fn taken(by: KindId, name: &NamespacedName) -> String {
    let (by, what) = match by {
        KindId::Flow => ("Flow", "the Service"),
        _ => ("Service", "the Flow's trigger"),
    };
    format!("the name is that of {by} {name}, which is older: nobody reaches {what} by it")
}

/// Why a Service or a Flow will not have its name beside a Flow or a Service of the same; `None`: it will.
pub fn foretell_name(kind: KindId, object: &Value, other: &Value) -> Option<String> {
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().map(str::to_owned);
    let name = NamespacedName::new(text(object, "namespace")?, text(object, "name")?);
    let is_flow = kind == KindId::Flow;
    let (flow, service) = if is_flow { (object, other) } else { (other, object) };
    flow.pointer("/spec/trigger/http")?;
    let created = |object: &Value| text(object, "creationTimestamp")?.parse().ok();
    let flow_has_it = flow_has_name(created(flow), created(service), &name);
    let holder = if flow_has_it { KindId::Flow } else { KindId::Service };
    (is_flow != flow_has_it).then(|| taken(holder, &name))
}

/// How many nodes a condition names.
const MOST_NAMED: usize = 5;

impl Compiler {
    /// What became of a Flow; `None`: there is no such Flow.
    pub fn flow_status(&self, name: &NamespacedName) -> Option<&[StatusCondition]> {
        self.flow_statuses.get(name).map(Vec::as_slice)
    }

    /// Why an object is not in force as it is; an earlier form may be.
    pub fn refusal(&self, kind: KindId, name: &NamespacedName) -> Option<Refusal> {
        if let Some(problem) = self.problems.get(&(kind, name.clone())) {
            return Some(Refusal { reason: "Invalid", message: problem.to_string() });
        }
        let is_displaced = kind == KindId::Service && self.displaced.contains_key(name);
        is_displaced.then(|| Refusal { reason: "Conflicted", message: taken(KindId::Flow, name) })
    }

    pub(super) fn known_flows(&self) -> impl Iterator<Item = &NamespacedName> {
        self.flows.keys()
    }

    pub(super) fn set_service(&mut self, name: &ServiceName, form: Option<ServiceForm>, dirty: &mut Dirty) {
        let trigger = self.flow(name).and_then(FlowForm::service);
        self.settle_name(name, form, trigger, dirty);
    }

    /// Notes the newest object of a Flow, which need not be good.
    pub(super) fn note_flow(&mut self, name: &NamespacedName, object: &Value, dirty: &mut Dirty) {
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        self.flows.entry(name.clone()).or_default().generation = generation;
        dirty.flows.insert(name.clone());
        dirty.statuses.insert((KindId::Flow, name.clone()));
    }

    pub(super) fn forget_flow(&mut self, name: &NamespacedName, dirty: &mut Dirty) {
        self.set_flow(name, None, dirty);
        self.flows.remove(name);
    }

    pub(super) fn set_flow(&mut self, name: &NamespacedName, form: Option<FlowForm>, dirty: &mut Dirty) {
        dirty.flows.insert(name.clone());
        if self.flow(name) == form.as_ref() {
            return;
        }
        let own = || self.services.get(name).filter(|form| !form.is_flow());
        let service = self.displaced.get(name).or_else(own).cloned();
        // Policies about the Flow say something of its workloads.
        dirty.workloads.extend(self.labelled(name).map(|(workload, _)| workload.clone()));
        dirty.policies.extend(self.policies_by_service.get(name).cloned());
        let trigger = form.as_ref().and_then(FlowForm::service);
        self.flows.entry(name.clone()).or_default().form = form;
        self.settle_name(name, service, trigger, dirty);
    }

    fn settle_name(
        &mut self,
        name: &ServiceName,
        service: Option<ServiceForm>,
        flow: Option<ServiceForm>,
        dirty: &mut Dirty,
    ) {
        let (holder, displaced) = match (service, flow) {
            (Some(service), Some(flow)) if flow_has_name(flow.created, service.created, name) => {
                (Some(flow), Some(service))
            }
            (service, flow) => (service.or(flow), None),
        };
        if renew(&mut self.displaced, name, displaced) {
            dirty.statuses.insert((KindId::Service, name.clone()));
        }
        if self.flows.contains_key(name) {
            dirty.flows.insert(name.clone());
        }
        self.set_holder(name, holder, dirty);
    }

    pub(super) fn flow(&self, name: &NamespacedName) -> Option<&FlowForm> {
        self.flows.get(name)?.form.as_ref()
    }

    /// Why nobody serves the trigger of a Flow.
    pub(super) fn no_trigger(&self, name: &NamespacedName) -> String {
        match self.flow(name).map(|flow| flow.port) {
            None => format!("there is no Flow {name}"),
            Some(None) => format!("Flow {name} has no `trigger.http`"),
            Some(Some(_)) => format!("no node carries out Flow {name} as yet"),
        }
    }

    /// The workloads with the label of that Flow, whoever gave it to them.
    fn labelled(&self, flow: &NamespacedName) -> impl Iterator<Item = (&WorkloadName, &WorkloadForm)> {
        let label: Labels = [(FLOW_LABEL.to_owned(), flow.name.to_string())].into();
        let names: Vec<_> = self.selectors.workloads(&flow.namespace, &label).collect();
        names.into_iter().filter_map(|name| Some((name, self.workloads.get(name)?)))
    }

    /// The Flow whose trigger a workload serves, and at which port. Of one that is not known (any more) the label says it: what
    /// policies say of it holds for as long as the workload is there.
    pub(super) fn triggered(&self, name: &WorkloadName, form: &WorkloadForm) -> Option<Selected> {
        let flow = NamespacedName::new(&*name.namespace, form.labels.get(FLOW_LABEL)?.as_str());
        let known = self.flow(&flow);
        if known.is_some_and(|flow| !flow.is_carried_out_by(form)) {
            return None;
        }
        let at = form.port_meant(&TargetPort::Name(TRIGGER_PORT.to_owned()));
        let port = |target_port| ServedPort {
            service_port: known.and_then(|flow| flow.port).unwrap_or(target_port),
            target_port,
            protocol: AppProtocol::Http1,
            http1: Http1Settings::DEFAULT,
        };
        Some(Selected { by: flow, ports: at.map(port).into_iter().collect() })
    }

    /// Notes what Flows are carried out by workloads that came, went or changed.
    pub(super) fn touch_flows(
        &self,
        namespace: &Arc<str>,
        forms: [Option<&WorkloadForm>; 2],
        dirty: &mut Dirty,
    ) {
        let labels = forms.into_iter().flatten().filter_map(|form| form.labels.get(FLOW_LABEL));
        for flow in labels.map(|label| NamespacedName::new(&**namespace, label.as_str())) {
            dirty.policies.extend(self.policies_by_service.get(&flow).cloned());
            if self.flows.contains_key(&flow) {
                dirty.flows.insert(flow);
            }
        }
    }

    /// Whether something else is true of a Flow than before.
    pub(super) fn settle_flow_status(&mut self, name: &NamespacedName) -> bool {
        let status = self.compile_flow_status(name);
        renew(&mut self.flow_statuses, name, status)
    }

    fn compile_flow_status(&self, name: &NamespacedName) -> Option<Vec<StatusCondition>> {
        let state = self.flows.get(name)?;
        let form = state.form.as_ref();
        let accepted = self.accepted_flow(name, state);
        Some([Some(accepted), form.map(|form| self.programmed_flow(form))].into_iter().flatten().collect())
    }

    fn accepted_flow(&self, name: &NamespacedName, state: &FlowState) -> StatusCondition {
        let kind = "Accepted";
        let problem = self.problems.get(&(KindId::Flow, name.clone()));
        if let Some(problem) = problem {
            let message = match state.form.as_ref().map(|form| form.generation) {
                None => problem.to_string(),
                Some(None) => format!("{problem}; its last good form stays in force"),
                Some(Some(generation)) => format!("{problem}; generation {generation} stays in force"),
            };
            let observed_generation = state.generation;
            return StatusCondition { kind, status: false, reason: "Invalid", message, observed_generation };
        }
        let form = state.form.as_ref();
        let port = form.and_then(|form| form.port);
        let has_name = self.services.get(name).is_some_and(ServiceForm::is_flow);
        let (status, reason, message) = match port {
            Some(_) if !has_name => (false, "Conflicted", taken(KindId::Service, name)),
            Some(port) => {
                (true, "Accepted", format!("services call it at {}.{}:{port}", name.name, name.namespace))
            }
            None => (true, "Accepted", "nothing but people start it: it has no trigger".to_owned()),
        };
        let observed_generation = form.and_then(|form| form.generation);
        StatusCondition { kind, status, reason, message, observed_generation }
    }

    fn programmed_flow(&self, form: &FlowForm) -> StatusCondition {
        let carriers = self.labelled(&form.name).filter(|(_, workload)| form.is_carried_out_by(workload));
        let (ready, waiting): (Vec<_>, Vec<_>) =
            carriers.partition(|(_, workload)| workload.ready && workload.address.is_some());
        let nodes = |workloads: &[(&WorkloadName, &WorkloadForm)]| {
            let place = |(name, workload): &(&WorkloadName, &WorkloadForm)| match &workload.node {
                Some(node) => node.name.to_string(),
                None => name.to_string(),
            };
            let mut names: Vec<_> = workloads.iter().map(place).collect();
            names.sort();
            names.dedup();
            let more = names.len().saturating_sub(MOST_NAMED);
            names.truncate(MOST_NAMED);
            match more {
                0 => names.join(", "),
                more => format!("{} and {more} more", names.join(", ")),
            }
        };
        let (status, reason, message) = match (ready.as_slice(), waiting.as_slice()) {
            ([], []) => {
                let namespace = &form.name.namespace;
                let message = format!(
                    "no node runs Flows of namespace {namespace}: start one with a token of `tulle token create --flows {namespace}`"
                );
                (false, "NoRunner", message)
            }
            ([], waiting) => (false, "Pending", format!("not ready as yet: {}", nodes(waiting))),
            (ready, _) => (true, "Programmed", format!("carried out by {}", nodes(ready))),
        };
        let observed_generation = form.generation;
        StatusCondition { kind: "Programmed", status, reason, message, observed_generation }
    }
}
