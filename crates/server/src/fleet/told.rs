//! What nodes tell of workloads that are not theirs: it is not believed, and the audit log names it.

use tulle_model::legible::legible_start;
use tulle_wire::node::{RefusedWorkload, Summary};

use super::{Fleet, NodeTask};
use crate::audit::AuditEntry;

/// How many namespaces of others the audit log names of a node.
const MOST_FOREIGN: usize = 100;

impl NodeTask {
    /// Takes what was asked of the node's workloads: it is believed only of namespaces in which it runs some.
    pub(super) fn take_summaries(&mut self, told: Vec<Summary>, second: u64) {
        if told.is_empty() {
            return;
        }
        let is_own = |namespace: &str| self.held.keys().any(|name| *name.namespace == *namespace);
        let foreign = self.fleet.summaries.lock().take(told, is_own, second);
        for namespace in foreign {
            if self.foreign.len() < MOST_FOREIGN && self.foreign.insert(namespace.clone()) {
                let object = format!("summaries/{}", legible_start(&namespace, 253));
                let reason = "it runs no workload of that namespace".to_owned();
                self.fleet.audit.note(AuditEntry::of_node(&self.node, "report", object, reason));
            }
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
