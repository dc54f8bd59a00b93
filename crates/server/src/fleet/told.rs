//! What nodes tell of workloads that are not theirs: it is not believed, and the audit log names it.

use std::collections::BTreeSet;

use tulle_model::legible::legible_start;
use tulle_wire::node::{Edge, RefusedWorkload, Summary};

use super::{Fleet, NodeTask};
use crate::audit::AuditEntry;

/// How many namespaces of others the audit log names of a node.
const MOST_FOREIGN: usize = 100;
/// For how many seconds after its last workload a node is believed of a namespace.
const REMEMBERED: u64 = 600;
/// What nodes call a source outside of the mesh, and all those together that they do not tell apart.
const EXTERNAL: &str = "external";
const OTHER: &str = "other";

impl NodeTask {
    /// Takes what the node tells of its workloads.
    pub(super) fn take_told(&mut self, edges: Vec<Edge>, summaries: Vec<Summary>) {
        let second = self.fleet.second();
        self.note_namespaces(second);
        self.take_edges(edges, second);
        self.take_summaries(summaries, second);
    }

    /// Takes what was asked of the node's workloads: it is believed only of namespaces in which it runs some.
    fn take_summaries(&mut self, told: Vec<Summary>, second: u64) {
        if told.is_empty() {
            return;
        }
        let ran = std::mem::take(&mut self.ran);
        let is_own = |namespace: &str| ran.contains_key(namespace);
        let foreign = self.fleet.summaries.lock().take(told, is_own, second);
        self.ran = ran;
        foreign.iter().for_each(|namespace| self.note_foreign("summaries", namespace));
    }

    /// Takes who calls whom: of calls a node is believed that begin in namespaces in which it runs workloads, and of what comes to these from
    /// outside of the mesh. What it does not tell apart any more names nobody who calls.
    fn take_edges(&mut self, mut told: Vec<Edge>, second: u64) {
        let before = told.len();
        let mut foreign = BTreeSet::new();
        told.retain(|edge| {
            let namespace = match (&*edge.source_namespace, &*edge.source) {
                ("", EXTERNAL) => &edge.destination_namespace,
                ("", OTHER) => return !self.ran.is_empty(),
                (namespace, _) => namespace,
            };
            let is_own = self.ran.contains_key(namespace);
            if !is_own && foreign.len() < MOST_FOREIGN {
                foreign.insert(namespace.to_owned());
            }
            is_own
        });
        self.fleet.metrics.edges_refused.add((before - told.len()) as u64);
        foreign.iter().for_each(|namespace| self.note_foreign("edges", namespace));
        self.fleet.roll_up.lock().take(&self.node, &self.instance, &told, second);
    }

    /// Keeps in mind in which namespaces the node runs workloads: of one that has ended a moment ago it still tells.
    fn note_namespaces(&mut self, second: u64) {
        for name in self.held.keys() {
            if self.ran.get(&name.namespace) != Some(&second) {
                self.ran.insert(name.namespace.clone(), second);
            }
        }
        self.ran.retain(|_, seen| *seen + REMEMBERED > second);
    }

    fn note_foreign(&mut self, what: &str, namespace: &str) {
        if self.foreign.len() < MOST_FOREIGN && self.foreign.insert(format!("{what}/{namespace}")) {
            let object = format!("{what}/{}", legible_start(namespace, 253));
            let reason = "it runs no workload of that namespace".to_owned();
            self.fleet.audit.note(AuditEntry::of_node(&self.node, "report", object, reason));
        }
    }
}

impl Fleet {
    /// Writes down that a workload is not taken from a node.
    pub(super) fn note_refusal(&self, node: &str, refused: &RefusedWorkload) {
        let (namespace, name) = (legible_start(&refused.namespace, 253), legible_start(&refused.name, 253));
        let object = format!("workloads/{namespace}/{name}");
        self.audit.note(AuditEntry::of_node(node, "report", object, refused.message.clone()));
    }
}
