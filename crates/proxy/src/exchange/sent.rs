//! What is known of a request's body as it passes.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use crate::metrics::EdgeMetrics;
use crate::reason::Reason;

/// The bytes of a request's body. Which edge they belong to is known only when an endpoint is picked.
#[derive(Default)]
pub(crate) struct Sent {
    pub(super) edge: OnceCell<Arc<EdgeMetrics>>,
    pub(super) bytes: Cell<u64>,
    /// What was wrong with it.
    pub(super) fault: Cell<Option<(Reason, &'static str)>>,
}

impl Sent {
    pub fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        if let Some(edge) = self.edge.get() {
            edge.sent(bytes);
        }
    }

    pub fn broken(&self, fault: Option<(Reason, &'static str)>) {
        self.fault.set(fault);
    }
}
