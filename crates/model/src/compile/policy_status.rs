//! What became of an AuthorizationPolicy at each of its targets (Gateway API, PolicyAncestorStatus; GEP-713): whether there is
//! something for it to act on, and where nobody holds anybody to it.

use std::sync::Arc;

use super::coverage::Enforcer;
use super::status::StatusCondition;
use super::{Compiler, Refused};
use crate::kinds::authorization_policy::AuthorizationTarget;
use crate::kinds::authorization_policy::form::{AuthorizationForm, TargetForm};
use crate::name::{NamespacedName, ServiceName, WorkloadName};

/// What became of a policy at one of its targets.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetStatus {
    /// As the policy has it.
    pub target: AuthorizationTarget,
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
        if self.policy_statuses.get(name) == status.as_ref() {
            return false;
        }
        match status {
            Some(status) => self.policy_statuses.insert(name.clone(), status),
            None => self.policy_statuses.remove(name),
        };
        true
    }

    fn compile_policy_status(&self, name: &NamespacedName) -> Option<Vec<TargetStatus>> {
        let refused = self.refused_policies.get(name);
        let Some(form) = self.authorizations.get(name) else {
            let refused = refused?;
            let status = |target: &AuthorizationTarget| TargetStatus {
                target: target.clone(),
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
                target: reference.clone(),
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
                (true, "Accepted", "in force where something leaves the mesh for it".to_owned())
            }
            None => (true, "Accepted", format!("in force for {}", count(covered, "workload"))),
        };
        StatusCondition { kind: "Accepted", status, reason, message, observed_generation: form.generation }
    }

    /// Why a Service stands for no workload.
    fn nothing_behind(&self, service: &ServiceName) -> String {
        match self.services.get(service) {
            None => format!("there is no Service {service}"),
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
            TargetForm::Service(service) => self.addresses_outside(service),
            TargetForm::Mesh | TargetForm::Namespace | TargetForm::Workloads(_) | TargetForm::External(_) => {
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
        let (status, reason, message) = match problems.is_empty() {
            true => {
                (true, "Enforced", "by the nodes of the workloads, whichever way somebody comes".to_owned())
            }
            false => (false, reason, problems.join("; ")),
        };
        Some(StatusCondition {
            kind: "Enforced",
            status,
            reason,
            message,
            observed_generation: form.generation,
        })
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
