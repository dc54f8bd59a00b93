//! The one place where what the proxy works from is put together and published.

use std::sync::Arc;

use parking_lot::Mutex;
use tulle_proxy::state::{NodeState, StateCell};

/// The node's state as its parts change it: discovery the snapshot, the registry the workloads,
/// DNS the virtual addresses. Every change is published at once.
pub struct StatePublisher {
    state: Mutex<NodeState>,
    cell: Arc<StateCell>,
}

impl StatePublisher {
    pub fn new(state: NodeState) -> Arc<Self> {
        Arc::new(Self { cell: StateCell::new(state.clone()), state: Mutex::new(state) })
    }

    /// What the proxy reads.
    pub fn cell(&self) -> &Arc<StateCell> {
        &self.cell
    }

    /// Changes the state and publishes it. Changes are seen in the order in which they were made.
    pub fn update(&self, change: impl FnOnce(&mut NodeState)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.cell.publish(state.clone());
    }
}
