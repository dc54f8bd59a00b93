//! Which workloads each target of an AuthorizationPolicy says something of. Kept as labels, services and nodes change, a workload
//! at a time: the status of a policy counts them, and is made anew only where its own have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::name::{NamespacedName, WorkloadName};

/// A policy, and the place of one of its targets.
pub(super) type TargetPlace = (NamespacedName, usize);

/// Who holds a workload to what policies say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Enforcer {
    /// That node, whichever way somebody comes.
    Node(Arc<str>),
    /// That node; whoever comes in plain does not pass it.
    NodeForLinks(Arc<str>),
    /// It runs on no node.
    #[default]
    Nobody,
}

impl Enforcer {
    /// The node that has to be told.
    pub(super) fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::Node(node) | Self::NodeForLinks(node) => Some(node),
            Self::Nobody => None,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    by_target: HashMap<TargetPlace, BTreeMap<WorkloadName, Enforcer>>,
    by_workload: HashMap<WorkloadName, (BTreeSet<TargetPlace>, Enforcer)>,
}

impl Coverage {
    /// These targets say something of a workload, and no others; the policies of which something else is true now.
    pub(super) fn set(
        &mut self,
        workload: &WorkloadName,
        targets: BTreeSet<TargetPlace>,
        enforcer: &Enforcer,
    ) -> BTreeSet<NamespacedName> {
        let (before, was) = self.by_workload.remove(workload).unwrap_or_default();
        let mut changed = BTreeSet::new();
        for target in before.difference(&targets) {
            if let Some(workloads) = self.by_target.get_mut(target) {
                workloads.remove(workload);
                if workloads.is_empty() {
                    self.by_target.remove(target);
                }
            }
            changed.insert(target.0.clone());
        }
        for target in targets.iter().filter(|target| was != *enforcer || !before.contains(*target)) {
            let workloads = self.by_target.entry(target.clone()).or_default();
            workloads.insert(workload.clone(), enforcer.clone());
            changed.insert(target.0.clone());
        }
        if !targets.is_empty() {
            self.by_workload.insert(workload.clone(), (targets, enforcer.clone()));
        }
        changed
    }

    /// The workloads that a target says something of.
    pub(super) fn of(&self, target: &TargetPlace) -> impl Iterator<Item = (&WorkloadName, &Enforcer)> {
        self.by_target.get(target).into_iter().flatten()
    }
}
