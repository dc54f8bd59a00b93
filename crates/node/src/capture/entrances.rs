//! How what comes to workloads past the mesh enters, where it is captured.

use std::collections::BTreeMap;

use tulle_model::name::WorkloadName;

/// How what comes to a workload past the mesh enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// By the listener at this port, on loopback addresses of IPv4 and IPv6.
    Gate(u16),
    /// Straight to its process: it is not captured, though others of the node are.
    Direct,
    /// Not at all.
    Closed,
}

/// The entrances of a node's workloads.
pub type Entrances = BTreeMap<WorkloadName, Entrance>;

/// A workload's; it is closed until it is known.
pub(super) fn entrance_of(entrances: Option<&Entrances>, name: &WorkloadName) -> Entrance {
    entrances.and_then(|entrances| entrances.get(name).copied()).unwrap_or(Entrance::Closed)
}
