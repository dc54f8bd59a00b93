//! What nodes are to know of the workloads that they run: the services that select each, and what applies to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::coverage::{Enforcer, TargetPlace};
use super::endpoints::ports_meant;
use super::{Compiler, Dirty, Effects};
use crate::identity::SpiffeId;
use crate::kinds::authorization_policy::form::{AuthorizationForm, TargetForm};
use crate::kinds::mesh::form::{of_workloads, settings};
use crate::kinds::service::form::ServiceForm;
use crate::kinds::workload::form::WorkloadForm;
use crate::name::{NamespacedName, ServiceName, WorkloadName};
use crate::policy::Target;
use crate::port_settings::Http1Settings;
use crate::snapshot::{AccessPolicies, AppProtocol, Selected, ServedPort, WorkloadConfig};

/// A workload that runs on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalWorkload {
    /// The node, which alone is told.
    pub node: Arc<str>,
    pub config: Arc<WorkloadConfig>,
}

/// A policy that says something of a workload, once for each of the targets by which it does: with the ports of the Service, where that is one.
type Applying<'a> = (&'a AuthorizationForm, Vec<Option<&'a [ServedPort]>>);

impl Compiler {
    /// All that run on nodes, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = (&WorkloadName, &LocalWorkload)> {
        self.local.iter()
    }

    /// As whom a workload calls.
    pub fn identity(&self, name: &WorkloadName) -> Option<SpiffeId> {
        self.workloads.get(name).map(|form| SpiffeId::of(&self.domain, &form.account))
    }

    /// A workload of which nothing has been said is held shut by what holds for the mesh: so that is told which says that
    /// some may be.
    pub(super) fn settle_mesh(&mut self, dirty: &mut Dirty) {
        let has_policies = self.authorizations.values().any(AuthorizationForm::holds_off);
        let settings = settings(&self.meshes, has_policies, self.originates_tls());
        if *self.mesh != settings {
            self.mesh = Arc::new(settings);
            dirty.mesh = true;
            dirty.policies.extend(self.policies_about_outside());
        }
    }

    /// Compiles a workload, and notes which policies say something of it; whether its node has to be told something else than
    /// before.
    pub(super) fn settle_workload(&mut self, name: &WorkloadName, dirty: &mut Dirty) -> bool {
        self.work.workloads += 1;
        let (compiled, targets) = self.compile_workload(name, self.selecting(name));
        let enforcer = compiled.as_ref().map_or(Enforcer::Nobody, |local| {
            let node = local.node.clone();
            // What carries a Flow out is the node itself: there is nothing else to come to.
            let is_flow = self.workloads.get(name).is_some_and(|form| self.triggered(name, form).is_some());
            let passes_by =
                !is_flow && (!local.config.inbound_capture || self.explicit_nodes.contains(&node));
            if passes_by { Enforcer::NodeForLinks(node) } else { Enforcer::Node(node) }
        });
        dirty.policies.extend(self.coverage.set(name, targets, &enforcer));
        if self.local.get(name) == compiled.as_ref() {
            return false;
        }
        match compiled {
            Some(compiled) => self.local.insert(name.clone(), compiled),
            None => self.local.remove(name),
        };
        true
    }

    /// The services that select a workload, and their ports there.
    fn selecting(&self, name: &WorkloadName) -> Vec<Selected> {
        let Some(form) = self.workloads.get(name) else { return Vec::new() };
        let candidates: BTreeSet<_> =
            self.selectors.services(&name.namespace, &form.labels).into_iter().collect();
        let selected = candidates.into_iter().filter_map(|by| {
            let service = self.services.get(&by)?;
            if service.is_alias() || !service.selects(&form.labels, &form.account) {
                return None;
            }
            Some(Selected { ports: served_ports(service, form), by })
        });
        selected.collect()
    }

    /// The policies that say something of a workload, each with the ports of the Service for every target that is one; and the targets, with
    /// those of what it may use outside of the mesh.
    fn applying<'a>(
        &'a self,
        name: &WorkloadName,
        form: &WorkloadForm,
        services: &'a [Selected],
        of_flow: Option<&'a Selected>,
    ) -> (Vec<Applying<'a>>, BTreeSet<TargetPlace>) {
        let (mut applying, mut places) = (Vec::new(), BTreeSet::new());
        for policy in self.authorizations.values().filter(|policy| policy.reaches(&name.namespace)) {
            let mut of_policy = Vec::new();
            for (index, target) in policy.targets.iter().enumerate() {
                // A Flow may have a name that is a Service's target.
                let of_service = |service: &ServiceName| {
                    let is_flow = self.services.get(service).is_some_and(ServiceForm::is_flow);
                    served(services, service).filter(|_| !is_flow)
                };
                let of_trigger =
                    |flow: &NamespacedName| of_flow.filter(|of| of.by == *flow).map(|of| &*of.ports);
                let applies = policy.applies(target, name, &form.labels, of_service, of_trigger);
                let may_use =
                    matches!(target, TargetForm::External(of) if self.lists_for(of, &name.namespace));
                if applies.is_some() || may_use {
                    places.insert((policy.name.clone(), index));
                }
                of_policy.extend(applies);
            }
            if !of_policy.is_empty() {
                applying.push((policy, of_policy));
            }
        }
        (applying, places)
    }

    /// What the node of a workload is to know of it, and the targets that say something of it.
    fn compile_workload(
        &self,
        name: &WorkloadName,
        services: Vec<Selected>,
    ) -> (Option<LocalWorkload>, BTreeSet<TargetPlace>) {
        let Some(form) = self.workloads.get(name) else { return (None, BTreeSet::new()) };
        let of_flow = self.triggered(name, form);
        let (applying, targets) = self.applying(name, form, &services, of_flow.as_ref());
        let Some(node) = form.node.as_ref().map(|node| node.name.clone()) else { return (None, targets) };
        // Where it answers those who ask for a policy.
        let answering = |policy: &'_ AuthorizationForm| {
            let external = policy.external.clone()?;
            let ports = served(&services, &external.service)?
                .iter()
                .filter(move |of| of.service_port == external.port);
            Some(ports.map(|port| port.target_port).collect::<Vec<_>>())
        };
        let answering = self.authorizations.values().filter_map(|policy| Some((policy, answering(policy)?)));
        let answering: Vec<_> = answering.collect();
        let spared = |policy: &AuthorizationForm| -> Vec<u16> {
            let of = answering.iter().filter(|(asked_for, _)| policy.spares_those_behind(asked_for));
            of.flat_map(|(_, ports)| ports).copied().collect::<BTreeSet<_>>().into_iter().collect()
        };
        let policies = applying.iter().flat_map(|(policy, of_services)| {
            let keys = |source: &Arc<str>| self.keys_of(&policy.name, source).cloned();
            policy.of_workload(&self.domain, of_services, keys, &spared(policy))
        });
        let policies = AccessPolicies::from(policies.collect::<Vec<_>>());
        let mesh = of_workloads(&self.meshes, &name.namespace);
        let holds_off =
            mesh.strict.is_anywhere() || mesh.denies_by_default || policies.holding_off().is_some();
        let config = WorkloadConfig {
            name: name.clone(),
            policies,
            inbound_capture: mesh.inbound_capture.unwrap_or(holds_off),
            strict: mesh.strict,
            denies_by_default: mesh.denies_by_default,
            allowed_paths: mesh.allowed_paths,
            external: self.external_services(&name.namespace),
            services,
        };
        (Some(LocalWorkload { node, config: Arc::new(config) }), targets)
    }

    /// The workloads that a service selects, as it is now.
    pub(super) fn selected_by(&self, service: &ServiceName) -> Vec<WorkloadName> {
        let Some(form) = self.services.get(service) else { return Vec::new() };
        self.selected(service, form).map(|(workload, _)| workload.clone()).collect()
    }

    /// The workloads that a policy may apply to.
    pub(super) fn reached_by(&self, policy: &AuthorizationForm) -> Vec<WorkloadName> {
        self.workloads.keys().filter(|name| policy.reaches(&name.namespace)).cloned().collect()
    }

    /// The workloads that answer for a policy.
    pub(super) fn asked_by(&self, policy: &AuthorizationForm) -> Vec<WorkloadName> {
        policy.external.as_ref().map(|external| self.selected_by(&external.service)).unwrap_or_default()
    }

    /// Takes in the keys that were read from there, as JSON (RFC 7517).
    pub fn set_keys(&mut self, source: Arc<str>, keys: Arc<str>) -> Effects {
        let mut dirty = Dirty::default();
        if self.keys.insert(source.clone(), keys.clone()).as_ref() != Some(&keys) {
            let names = |policy: &&AuthorizationForm| {
                policy.issuers.iter().any(|issuer| issuer.keys.source.as_ref() == Some(&source))
            };
            let policies = self.authorizations.values().filter(names);
            dirty.workloads.extend(policies.flat_map(|policy| self.reached_by(policy)));
        }
        self.settle(dirty)
    }

    /// The workloads that what is attached to these targets applies to.
    pub(super) fn workloads_below(&self, targets: &BTreeSet<Target>) -> Vec<WorkloadName> {
        let covered = |name: &&WorkloadName| targets.iter().any(|t| t.covers_workloads(&name.namespace));
        if targets.is_empty() { Vec::new() } else { self.workloads.keys().filter(covered).cloned().collect() }
    }
}

/// The ports of a workload that one of the services that select it stands for.
fn served<'s>(services: &'s [Selected], service: &ServiceName) -> Option<&'s [ServedPort]> {
    services.iter().find(|selected| selected.by == *service).map(|selected| &*selected.ports)
}

fn served_ports(service: &ServiceForm, workload: &WorkloadForm) -> Vec<ServedPort> {
    let served = ports_meant(service, workload).into_iter().map(|mapping| {
        // A service without ports declares nothing of those that its workloads have.
        let declared = service.port(mapping.service_port);
        ServedPort {
            service_port: mapping.service_port,
            target_port: mapping.target_port,
            protocol: declared.map_or(AppProtocol::Detect, |port| port.protocol),
            http1: declared.map_or(Http1Settings::DEFAULT, |port| port.http1),
        }
    });
    served.collect()
}
