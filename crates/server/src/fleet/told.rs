//! What nodes tell of workloads that are not theirs: it is not believed, and the audit log names it.

use std::collections::BTreeSet;

use tulle_model::legible::legible_start;
use tulle_wire::node::{Edge, RefusedWorkload, Summary};

use super::{Fleet, NodeTask};
use crate::audit::AuditEntry;

/// How many namespaces of others the audit log names of a node.
const MOST_FOREIGN: usize = 100;
/// What nodes call a source outside of the mesh, and all those together that they do not tell apart.
const EXTERNAL: &str = "external";
const OTHER: &str = "other";

impl NodeTask {
    /// Takes what was asked of the node's workloads: it is believed only of namespaces in which it runs some.
    pub(super) fn take_summaries(&mut self, told: Vec<Summary>, second: u64) {
        if told.is_empty() {
            return;
        }
        let is_own = |namespace: &str| self.held.keys().any(|name| *name.namespace == *namespace);
        let foreign = self.fleet.summaries.lock().take(told, is_own, second);
        for namespace in foreign {
            self.note_foreign("summaries", &namespace, "it runs no workload of that namespace");
        }
    }

    /// Takes who calls whom. A node is believed of calls that begin in namespaces of which it may run workloads, and of what
    /// comes from outside of the mesh to these: not of those alone that run now, as one that lives for a moment is over before
    /// the node has told of it. What a node does not tell apart any more names nobody who calls.
    pub(super) async fn take_edges(&mut self, mut told: Vec<Edge>, second: u64) {
        let mut foreign = BTreeSet::new();
        if !told.is_empty() {
            // Where the grant cannot be read nobody is believed: the next report has what was counted in all.
            let Ok(grant) = self.fleet.enrolment.grant(&self.node).await else { return };
            told.retain(|edge| {
                let namespace = match (&*edge.source_namespace, &*edge.source) {
                    ("", EXTERNAL) => &edge.destination_namespace,
                    ("", OTHER) => return true,
                    (namespace, _) => namespace,
                };
                let is_own = grant.as_ref().is_some_and(|grant| grant.permits_some_of(namespace));
                if !is_own {
                    self.fleet.metrics.edges_refused.add(1);
                    if foreign.len() < MOST_FOREIGN {
                        foreign.insert(namespace.to_owned());
                    }
                }
                is_own
            });
        }
        for namespace in foreign {
            self.note_foreign("edges", &namespace, "it may run no workload of that namespace");
        }
        self.fleet.roll_up.lock().take(&self.node, &self.instance, &told, second);
    }

    fn note_foreign(&mut self, what: &str, namespace: &str, reason: &str) {
        if self.foreign.len() < MOST_FOREIGN && self.foreign.insert(format!("{what}/{namespace}")) {
            let object = format!("{what}/{}", legible_start(namespace, 253));
            self.fleet.audit.note(AuditEntry::of_node(&self.node, "report", object, reason.to_owned()));
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
