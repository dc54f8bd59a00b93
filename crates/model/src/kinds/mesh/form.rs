//! The Mesh as it is compiled: the policy of the widest level.

use std::collections::BTreeSet;

use crate::decision::Decider;
use crate::policy::{Policies, Policy, Target};
use crate::snapshot::{EgressPolicy, MeshSettings};

/// `None`: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MeshForm {
    pub trust_domain: Option<String>,
    pub egress: Option<EgressPolicy>,
    pub access_log: Option<bool>,
    pub inbound_capture: Option<bool>,
}

impl MeshForm {
    pub(crate) fn policy(self) -> Policy<Self> {
        // There is one: none is older.
        Policy { by: Decider::Mesh, created: None, targets: BTreeSet::from([Target::Mesh]), spec: self }
    }
}

/// What holds for the whole mesh.
pub(crate) fn settings(policies: &Policies<MeshForm>) -> MeshSettings {
    let everywhere = [Target::Mesh];
    let default = MeshSettings::default();
    MeshSettings {
        egress: policies.decide(&everywhere, "spec.egress.policy", |mesh| mesh.egress, default.egress).value,
        access_log: policies
            .decide(&everywhere, "spec.accessLog.enabled", |mesh| mesh.access_log, default.access_log)
            .value,
        inbound_capture: inbound_capture(policies, &everywhere),
        session_key: None,
    }
}

/// Whether what comes to workloads past the mesh is to be captured, where these targets are.
pub(crate) fn inbound_capture(policies: &Policies<MeshForm>, targets: &[Target]) -> bool {
    let default = MeshSettings::default().inbound_capture;
    policies.decide(targets, "spec.inboundCapture.enabled", |mesh| mesh.inbound_capture, default).value
}
