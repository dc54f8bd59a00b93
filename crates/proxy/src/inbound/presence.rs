//! Whether somebody may be in a workload: the same question for who comes, and for who is there when the configuration changes.

use std::io;
use std::sync::Arc;

use tulle_model::authorization::{self, Denial, Traffic, Visitor};
use tulle_model::identity::SpiffeId;
use tulle_model::snapshot::WorkloadConfig;

use super::visits::Peer;
use crate::state::LocalWorkload;

/// Why what was let in may not stay: a newer configuration would not let it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Withdrawn {
    #[error("the workload is no longer on this node")]
    Gone,
    #[error("the workload no longer offers this port to the mesh")]
    PortClosed,
    #[error("an AuthorizationPolicy no longer lets this caller in")]
    Denied,
    #[error("it came with a token, and is older than `spec.jwt.maxStreamAge` of an AuthorizationPolicy")]
    Old,
}

impl Withdrawn {
    /// Whether that is why something broke.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Whether a peer that came to a workload of that identity may stay there, at that port. `workload`: as it is now, if it is still
/// on this node; `config`: what the server says of it; `seen`: what is known of what came.
pub(super) fn may_stay(
    peer: &Peer,
    identity: &SpiffeId,
    workload: Option<&Arc<LocalWorkload>>,
    config: Option<&WorkloadConfig>,
    port: u16,
    seen: Traffic<'_>,
) -> Result<(), Withdrawn> {
    is_offered(peer, identity, workload, port)?;
    is_authorized(peer, config, port, seen).map_err(|_| Withdrawn::Denied)
}

/// Whether policies let a peer in that is there, or comes to a workload of which the server has spoken.
pub(super) fn is_authorized<'a>(
    peer: &Peer,
    config: Option<&'a WorkloadConfig>,
    port: u16,
    seen: Traffic<'_>,
) -> Result<(), Denial<'a>> {
    let Some(config) = config else { return Ok(()) };
    authorization::decide(config, visitor(peer), port, seen).map(drop)
}

/// As whom policies see it.
pub(super) fn visitor(peer: &Peer) -> Visitor<'_> {
    match peer {
        Peer::Mesh(identity) => Visitor::Mesh(identity),
        Peer::Plain(address) => Visitor::Outside(address.ip()),
    }
}

/// Whether a peer finds a workload of that identity at that port.
pub(super) fn is_offered(
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
