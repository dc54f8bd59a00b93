//! Whether somebody may be in a workload: the same question for who comes, and for who is there when the configuration changes.

use std::io;
use std::sync::Arc;

use tulle_model::identity::SpiffeId;

use super::visits::Peer;
use crate::state::LocalWorkload;

/// Why what was let in may not stay: a newer configuration would not let it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Withdrawn {
    #[error("the workload is no longer on this node")]
    Gone,
    #[error("the workload no longer offers this port to the mesh")]
    PortClosed,
}

impl Withdrawn {
    /// Whether that is why something broke.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Whether a peer may be in a workload at that port: one that comes, or one that came to a workload of that identity when it was
/// let in. `workload`: as it is now, if it is still on this node.
pub(super) fn may_be_in(
    peer: &Peer,
    identity: &SpiffeId,
    workload: Option<&Arc<LocalWorkload>>,
    port: u16,
) -> Result<(), Withdrawn> {
    let Some(workload) = workload.filter(|workload| workload.identity == *identity) else {
        return Err(Withdrawn::Gone);
    };
    match peer {
        // Only what the workload offers to the mesh is reachable through it, not whatever else listens there.
        Peer::Mesh(_) if !workload.ports.contains(&port) => Err(Withdrawn::PortClosed),
        Peer::Mesh(_) | Peer::Plain(_) => Ok(()),
    }
}
