//! Who comes to a workload.

use std::fmt;
use std::net::SocketAddr;

use tulle_model::identity::SpiffeId;

/// Who comes to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A workload of the mesh: its certificate says so or, on the same node, whose connection it is.
    Mesh(SpiffeId),
    /// Somebody outside of the mesh, in plain, from that address.
    Plain(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(identity) => identity.fmt(f),
            Self::Plain(address) => address.fmt(f),
        }
    }
}
