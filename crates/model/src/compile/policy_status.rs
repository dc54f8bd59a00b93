//! What became of an AuthorizationPolicy at each of its targets (Gateway API, PolicyAncestorStatus; GEP-713): whether there is
//! something for it to act on, and where nobody holds anybody to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::coverage::Enforcer;
use super::index::renew;
use super::status::StatusCondition;
use super::{Compiler, Refused};
use crate::kinds::authorization_policy::AuthorizationTarget;
use crate::kinds::authorization_policy::form::{AuthorizationForm, TargetForm};
use crate::kinds::route::ParentReference;
use crate::name::{NamespacedName, ServiceName, WorkloadName};
use crate::snapshot::EgressPolicy;

/// What a policy is about, as its status has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StatusTarget {
    Authorization(AuthorizationTarget),
    /// Of policies of Gateway API.
    Parent(ParentReference),
}

/// What became of a policy at one of its targets.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetStatus {
    /// As the policy has it.
    pub target: StatusTarget,
    /// The workloads that it says something of, each with the node that must learn of it for the policy to be `Programmed`.
    pub workloads: Vec<(WorkloadName, Arc<str>)>,
    /// `Accepted`, and `Enforced` where there is something to enforce it at.
    pub conditions: Vec<StatusCondition>,
}

/// How many workloads or endpoints a condition names.
const MOST_NAMED: usize = 5;

impl Compiler {
    /// What became of an AuthorizationPolicy, for each of its targets; `None`: there is no such policy.
    pub fn policy_status(&self, name: &NamespacedName) -> Option<&[TargetStatus]> {
        self.policy_statuses.get(name).map(Vec::as_slice)
    }

    /// Whether something else is true of a policy than before.
    pub(super) fn settle_policy_status(&mut self, name: &NamespacedName) -> bool {
        self.work.policy_statuses += 1;
        let status = self.compile_policy_status(name);
        renew(&mut self.policy_statuses, name, status)
    }

    fn compile_policy_status(&self, name: &NamespacedName) -> Option<Vec<TargetStatus>> {
        let refused = self.refused_policies.get(name);
        let Some(form) = self.authorizations.get(name) else {
            let refused = refused?;
            let status = |target: &AuthorizationTarget| TargetStatus {
                target: StatusTarget::Authorization(target.clone()),
                workloads: Vec::new(),
                conditions: vec![self.invalid(name, refused, None)],
            };
            return Some(refused.references.iter().map(status).collect());
        };
        let status = |(index, (target, reference)): (usize, (&TargetForm, &AuthorizationTarget))| {
            let place = (name.clone(), index);
            let covered: Vec<_> = self.coverage.of(&place).collect();
            let accepted = match refused {
                Some(refused) => self.invalid(name, refused, Some(form)),
                None => self.accepted(form, target, covered.len()),
            };
            let enforced = self.enforced(form, target, &covered);
            let with_node =
                covered.iter().filter_map(|(name, by)| Some(((*name).clone(), by.node()?.clone())));
            TargetStatus {
                target: StatusTarget::Authorization(reference.clone()),
                workloads: with_node.collect(),
                conditions: [Some(accepted), enforced].into_iter().flatten().collect(),
            }
        };
        Some(form.targets.iter().zip(&form.references).enumerate().map(status).collect())
    }

    /// Of an object that does not compile; `form`: what is in force in its place.
    fn invalid(
        &self,
        name: &NamespacedName,
        refused: &Refused<AuthorizationTarget>,
        form: Option<&AuthorizationForm>,
    ) -> StatusCondition {
        let problem = self.problems.get(&(crate::registry::KindId::AuthorizationPolicy, name.clone()));
        let problem = problem.map(ToString::to_string).unwrap_or_default();
        let message = match form.map(|form| form.generation) {
            None => problem,
            Some(None) => format!("{problem}; its last good form stays in force"),
            Some(Some(generation)) => format!("{problem}; generation {generation} stays in force"),
        };
        StatusCondition {
            kind: "Accepted",
            status: false,
            reason: "Invalid",
            message,
            observed_generation: refused.generation,
        }
    }

    fn accepted(&self, form: &AuthorizationForm, target: &TargetForm, covered: usize) -> StatusCondition {
        let missing = match target {
            _ if covered > 0 => None,
            TargetForm::Service(service) => Some(self.nothing_behind(service)),
            TargetForm::Flow(flow) => Some(self.no_trigger(flow)),
            TargetForm::Workloads(_) => {
                Some(format!("no Workload of namespace {} has these labels", form.name.namespace))
            }
            TargetForm::Namespace => Some(format!("namespace {} has no Workload", form.name.namespace)),
            TargetForm::Mesh => Some("the mesh has no Workload".to_owned()),
            TargetForm::External(name) => {
                (!self.external.contains_key(name)).then(|| format!("there is no ExternalService {name}"))
            }
        };
        let (status, reason, message) = match missing {
            Some(why) => {
                (false, "TargetNotFound", format!("{why}: the policy says nothing of anybody there"))
            }
            None if matches!(target, TargetForm::External(_)) => {
                (true, "Accepted", format!("in force for {} that may use it", count(covered, "workload")))
            }
            None => (true, "Accepted", format!("in force for {}", count(covered, "workload"))),
        };
        StatusCondition { kind: "Accepted", status, reason, message, observed_generation: form.generation }
    }

    /// Why a Service stands for no workload.
    fn nothing_behind(&self, service: &ServiceName) -> String {
        match self.services.get(service) {
            None => format!("there is no Service {service}"),
            Some(form) if form.is_flow() => format!("{service} is a Flow, and no Service"),
            Some(form) if form.is_alias() => format!("Service {service} is a name of something else"),
            Some(form) if form.selector.is_empty() => format!("Service {service} has no selector"),
            Some(_) => format!("Service {service} selects no Workload"),
        }
    }

    /// Whether somebody holds everybody to the policy, whichever way he comes; `None`: there is nothing to enforce it at.
    fn enforced(
        &self,
        form: &AuthorizationForm,
        target: &TargetForm,
        covered: &[(&WorkloadName, &Enforcer)],
    ) -> Option<StatusCondition> {
        let outside = match target {
            TargetForm::External(_) => return self.enforced_outside(form, covered),
            TargetForm::Service(service) => self.addresses_outside(service),
            TargetForm::Mesh | TargetForm::Namespace | TargetForm::Workloads(_) | TargetForm::Flow(_) => {
                Vec::new()
            }
        };
        if covered.is_empty() && outside.is_empty() {
            return None;
        }
        let of = |which: fn(&Enforcer) -> bool| {
            let found = covered.iter().filter(|(_, by)| which(by));
            found.map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        let nowhere = of(|by| matches!(by, Enforcer::Nobody));
        let in_plain = of(|by| matches!(by, Enforcer::NodeForLinks(_)));
        let mut problems = Vec::new();
        if !outside.is_empty() {
            problems.push(format!(
                "not enforced at {} of EndpointSlices, where no node is: {}",
                count(outside.len(), "endpoint"),
                named(&outside)
            ));
        }
        if !nowhere.is_empty() {
            let workloads = count(nowhere.len(), "workload");
            problems.push(format!("not enforced at {workloads} that no node runs: {}", named(&nowhere)));
        }
        let reason = if problems.is_empty() { "PlainTraffic" } else { "NoNode" };
        if !in_plain.is_empty() {
            problems.push(format!(
                "not enforced for plain traffic, which does not pass the node, at {}: {}",
                count(in_plain.len(), "workload"),
                named(&in_plain)
            ));
        }
        Some(whether_enforced(form, reason, &problems, "whichever way somebody comes"))
    }

    /// The same of who uses an ExternalService: where all may leave, and where nothing captures what does, nobody is held to it.
    fn enforced_outside(
        &self,
        form: &AuthorizationForm,
        covered: &[(&WorkloadName, &Enforcer)],
    ) -> Option<StatusCondition> {
        if covered.is_empty() {
            return None;
        }
        let of = |which: &dyn Fn(&WorkloadName, &Enforcer) -> bool| {
            let found = covered.iter().filter(|(name, by)| which(name, by));
            found.map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        let is_free = |name: &WorkloadName| self.mesh.egress_of(&name.namespace).0 == EgressPolicy::Allow;
        let is_explicit = |by: &Enforcer| by.node().is_some_and(|node| self.explicit_nodes.contains(node));
        let free = of(&|name, _| is_free(name));
        let nowhere = of(&|name, by| !is_free(name) && by.node().is_none());
        let explicit = of(&|name, by| !is_free(name) && is_explicit(by));
        let mut problems = Vec::new();
        if !free.is_empty() {
            let fields: BTreeSet<_> = covered
                .iter()
                .filter(|(name, _)| is_free(name))
                .map(|(name, _)| self.mesh.egress_of(&name.namespace).1)
                .collect();
            let fields = fields.into_iter().collect::<Vec<_>>().join(" and ");
            problems.push(format!(
                "not enforced at {}, which may leave the mesh wherever to (the Mesh's {fields}: Allow), as nothing is looked at there: {}",
                count(free.len(), "workload"),
                named(&free)
            ));
        }
        if !nowhere.is_empty() {
            let workloads = count(nowhere.len(), "workload");
            problems.push(format!("not enforced at {workloads} that no node runs: {}", named(&nowhere)));
        }
        if !explicit.is_empty() {
            problems.push(format!(
                "not enforced for what does not ask the proxy, at {} of nodes with explicit capture: {}",
                count(explicit.len(), "workload"),
                named(&explicit)
            ));
        }
        let reason = match (free.is_empty(), nowhere.is_empty()) {
            (false, _) => "EgressAllowed",
            (true, false) => "NoNode",
            (true, true) => "ExplicitCapture",
        };
        Some(whether_enforced(form, reason, &problems, "where something leaves the mesh"))
    }

    /// The endpoints of a Service that are no workload of it.
    fn addresses_outside(&self, service: &ServiceName) -> Vec<String> {
        let Some(form) = self.services.get(service).filter(|form| !form.is_alias()) else {
            return Vec::new();
        };
        let given = self.given_endpoints(service, form);
        let mut addresses: Vec<_> = given.iter().map(|(endpoint, _)| endpoint.address).collect();
        addresses.dedup();
        addresses.iter().map(ToString::to_string).collect()
    }
}

/// Enforced `where_by` nodes, unless there are problems.
fn whether_enforced(
    form: &AuthorizationForm,
    reason: &'static str,
    problems: &[String],
    where_by: &str,
) -> StatusCondition {
    let (status, reason, message) = match problems {
        [] => (true, "Enforced", format!("by the nodes of the workloads, {where_by}")),
        _ => (false, reason, problems.join("; ")),
    };
    StatusCondition { kind: "Enforced", status, reason, message, observed_generation: form.generation }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn named(all: &[String]) -> String {
    let mut text = all.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if all.len() > MOST_NAMED {
        text.push_str(&format!(" and {} more", all.len() - MOST_NAMED));
    }
    text
}
