//! What became of a BackendTLSPolicy at each of its targets (Gateway API, PolicyAncestorStatus; GEP-1897).

use super::Compiler;
use super::index::renew;
use super::policy_status::{StatusTarget, TargetStatus};
use super::status::StatusCondition;
use crate::kinds::backend_tls_policy::form::{BackendTlsForm, RootsForm, TlsTarget};
use crate::kinds::route::ParentReference;
use crate::name::NamespacedName;
use crate::policy::Target;
use crate::registry::KindId;
use crate::snapshot::OutsideProtocol;

impl Compiler {
    /// What became of a BackendTLSPolicy, for each of its targets; `None`: there is no such policy.
    pub fn tls_status(&self, name: &NamespacedName) -> Option<&[TargetStatus]> {
        self.tls.statuses.get(name).map(Vec::as_slice)
    }

    /// Whether something else is true of a policy than before.
    pub(super) fn settle_tls_status(&mut self, name: &NamespacedName) -> bool {
        let status = self.compile_tls_status(name);
        renew(&mut self.tls.statuses, name, status)
    }

    fn compile_tls_status(&self, name: &NamespacedName) -> Option<Vec<TargetStatus>> {
        let refused = self.tls.refused.get(name);
        let form = self.tls.forms.get(name);
        if let Some(refused) = refused {
            let problem = self.problems.get(&(KindId::BackendTlsPolicy, name.clone()));
            let mut message = problem.map(ToString::to_string).unwrap_or_default();
            if form.is_some() {
                message.push_str("; its last good form stays in force");
            }
            let invalid = StatusCondition {
                observed_generation: refused.generation,
                ..no("Accepted", "Invalid", message)
            };
            let status = |target: &ParentReference| TargetStatus {
                target: StatusTarget::Parent(target.clone()),
                workloads: Vec::new(),
                conditions: vec![invalid.clone()],
            };
            return Some(refused.references.iter().map(status).collect());
        }
        let form = form?;
        let status = |target: &TlsTarget| {
            let conditions = [self.tls_accepted(form, target), self.tls_resolved(form)];
            let of_form = |condition| StatusCondition { observed_generation: form.generation, ..condition };
            TargetStatus {
                target: StatusTarget::Parent(target.reference(&name.namespace)),
                workloads: Vec::new(),
                conditions: conditions.map(of_form).into(),
            }
        };
        Some(form.targets.iter().map(status).collect())
    }

    /// Whether it counts at a target.
    fn tls_accepted(&self, form: &BackendTlsForm, target: &TlsTarget) -> StatusCondition {
        let TlsTarget::External { service, port } = target else {
            let message =
                "within the mesh links are mutual TLS already: TLS is originated to ExternalServices alone";
            return no("Accepted", "NotApplicable", message.to_owned());
        };
        let Some(external) = self.external.get(service) else {
            return no("Accepted", "TargetNotFound", format!("there is no ExternalService {service}"));
        };
        let is_meant = |name: Option<&str>| port.as_deref().is_none_or(|port| name == Some(port));
        let mut ports = external.ports.iter().filter(|port| is_meant(port.name.as_deref())).peekable();
        if let (None, Some(port)) = (ports.peek(), port) {
            let message = format!("ExternalService {service} has no port with the name {port}");
            return no("Accepted", "TargetNotFound", message);
        }
        if ports.all(|port| port.port.protocol == OutsideProtocol::Tls) {
            let message = format!(
                "clients of ExternalService {service} speak TLS there themselves, by its `appProtocol`: no other is put around that"
            );
            return no("Accepted", "Invalid", message);
        }
        let place = match port {
            Some(port) => Target::ExternalPort(service.clone(), port.clone()),
            None => Target::External(service.clone()),
        };
        if let Some(winner) = self.tls.acting(&place).filter(|acting| acting.name != form.name) {
            let message = format!("BackendTLSPolicy {} is about the same, and older", winner.name);
            return no("Accepted", "Conflicted", message);
        }
        if let Err(unresolved) = self.tls.roots(form) {
            let is_all = match &form.roots {
                RootsForm::References(references) => unresolved.len() == references.len(),
                RootsForm::System | RootsForm::Unknown(_) => true,
            };
            if let Some(first) = unresolved.first().filter(|_| is_all) {
                let reason = if first.reason == "Invalid" { "Invalid" } else { "NoValidCACertificate" };
                let message = format!("{}: {}: nothing leaves for it", first.field, first.why);
                return no("Accepted", reason, message);
            }
        }
        yes(
            "Accepted",
            "Accepted",
            format!("nodes speak TLS to ExternalService {service}, asking for {}", form.hostname),
        )
    }

    fn tls_resolved(&self, form: &BackendTlsForm) -> StatusCondition {
        match self.tls.roots(form) {
            Ok(_) => yes("ResolvedRefs", "ResolvedRefs", "all references have certificates".to_owned()),
            Err(unresolved) => {
                let reason = unresolved.first().map_or("InvalidCACertificateRef", |first| first.reason);
                let each = unresolved.iter().map(|of| format!("{}: {}", of.field, of.why));
                let message = each.collect::<Vec<_>>().join("; ");
                no("ResolvedRefs", reason, format!("{message}: nothing leaves for it"))
            }
        }
    }
}

fn yes(kind: &'static str, reason: &'static str, message: String) -> StatusCondition {
    StatusCondition { kind, status: true, reason, message, observed_generation: None }
}

fn no(kind: &'static str, reason: &'static str, message: String) -> StatusCondition {
    StatusCondition { status: false, ..yes(kind, reason, message) }
}
