//! The Mesh as it is compiled: the policy of the widest level.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::decision::Decider;
use crate::path::Ambiguities;
use crate::policy::{Policies, Policy, Target};
use crate::snapshot::{EgressPolicy, MeshSettings, Strictness};

/// `None`: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MeshForm {
    pub trust_domain: Option<String>,
    pub egress: Option<EgressPolicy>,
    pub egress_namespaces: BTreeMap<Arc<str>, EgressPolicy>,
    pub access_log: Option<bool>,
    pub inbound_capture: Option<bool>,
    pub strict: StrictForm,
    pub strict_namespaces: BTreeMap<Arc<str>, StrictForm>,
    pub denies: Option<bool>,
    pub denying_namespaces: BTreeMap<Arc<str>, bool>,
    pub allowed_paths: Ambiguities,
}

/// Where what comes in plain is refused; `None`: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StrictForm {
    pub mode: Option<bool>,
    pub ports: BTreeMap<u16, bool>,
}

impl MeshForm {
    /// What holds for a namespace: its own ports, its own mode, the ports and the mode of the mesh.
    fn strictness(&self, namespace: &str) -> Strictness {
        let none = StrictForm::default();
        let own = self.strict_namespaces.get(namespace).unwrap_or(&none);
        let everywhere = own.mode.or(self.strict.mode).unwrap_or(false);
        let inherited = self.strict.ports.iter().filter(|_| own.mode.is_none());
        let ports: BTreeMap<_, _> = inherited.chain(&own.ports).collect();
        let others = ports.into_iter().filter(|(_, mode)| **mode != everywhere);
        Strictness { everywhere, except: others.map(|(port, _)| *port).collect() }
    }

    /// Whether somebody may be held off from workloads of some namespace.
    fn holds_off(&self) -> bool {
        let strict = |form: &StrictForm| form.mode == Some(true) || form.ports.values().any(|mode| *mode);
        strict(&self.strict)
            || self.strict_namespaces.values().any(strict)
            || self.denies == Some(true)
            || self.denying_namespaces.values().any(|denies| *denies)
    }

    fn denies_by_default(&self, namespace: &str) -> bool {
        self.denying_namespaces.get(namespace).copied().or(self.denies).unwrap_or(false)
    }

    pub(crate) fn policy(self) -> Policy<Self> {
        // There is one: none is older.
        Policy { by: Decider::Mesh, created: None, targets: BTreeSet::from([Target::Mesh]), spec: self }
    }
}

/// What holds for the whole mesh. `has_policies`: whether somebody may be held off by an AuthorizationPolicy.
/// `originates_tls`: whether a BackendTLSPolicy has something to say.
pub(crate) fn settings(
    policies: &Policies<MeshForm>,
    has_policies: bool,
    originates_tls: bool,
) -> MeshSettings {
    let everywhere = [Target::Mesh];
    let default = MeshSettings::default();
    MeshSettings {
        egress: policies.decide(&everywhere, "spec.egress.policy", |mesh| mesh.egress, default.egress).value,
        egress_namespaces: policies
            .acting(&Target::Mesh)
            .map(|mesh| mesh.spec.egress_namespaces.clone())
            .unwrap_or_default(),
        originates_tls,
        access_log: policies
            .decide(&everywhere, "spec.accessLog.enabled", |mesh| mesh.access_log, default.access_log)
            .value,
        inbound_capture: {
            let mesh = policies.acting(&Target::Mesh).map(|mesh| &mesh.spec);
            let holds_off = has_policies || mesh.is_some_and(MeshForm::holds_off);
            mesh.and_then(|mesh| mesh.inbound_capture).unwrap_or(holds_off)
        },
        session_key: None,
        revoked: Arc::default(),
    }
}

/// What holds for the workloads of a namespace.
#[derive(Debug, Default)]
pub(crate) struct OfWorkloads {
    pub strict: Strictness,
    pub denies_by_default: bool,
    pub allowed_paths: Ambiguities,
    /// Whether what comes past the mesh is to be captured; `None`: where something is held off.
    pub inbound_capture: Option<bool>,
}

pub(crate) fn of_workloads(policies: &Policies<MeshForm>, namespace: &str) -> OfWorkloads {
    let Some(Policy { spec: mesh, .. }) = policies.acting(&Target::Mesh) else {
        return OfWorkloads::default();
    };
    OfWorkloads {
        strict: mesh.strictness(namespace),
        denies_by_default: mesh.denies_by_default(namespace),
        allowed_paths: mesh.allowed_paths,
        inbound_capture: mesh.inbound_capture,
    }
}
