//! How much memory, and how many descriptors, the traffic of this node may take.

use std::sync::Arc;

use tulle_proxy::budget::Budget;
use tulle_sys::{descriptors, memory};

/// Where nothing else is known.
const MEMORY: u64 = 512 << 20;
/// Of descriptors, so many are kept for all that is not traffic: the admin port, probes, the node's socket,
/// name servers, the way to the server, files. A quarter where there are few.
const RESERVE: u64 = 2048;

/// What the traffic of this process may take. `memory_limit` in bytes; else it is half of what this process'
/// cgroup may take, or, where that is not limited, an eighth of the host's memory.
pub(crate) fn of_process(memory_limit: Option<u64>) -> Arc<Budget> {
    let memory = memory_limit
        .or_else(|| memory::of_cgroup().map(|limit| limit / 2))
        .or_else(|| memory::of_host().map(|all| all / 8))
        .unwrap_or(MEMORY);
    let descriptors = match descriptors::limit() {
        Ok(limit) => limit - reserve(limit),
        Err(error) => {
            tracing::warn!("the limit of open files is not known: {error}");
            u64::MAX
        }
    };
    tracing::debug!(memory, descriptors, "what traffic may take");
    Budget::new(memory, descriptors)
}

fn reserve(limit: u64) -> u64 {
    RESERVE.min(limit / 4)
}

/// How many sockets towards name servers there may be at a time, of at most `most`.
pub(crate) fn name_server_sockets(most: usize) -> usize {
    let Ok(limit) = descriptors::limit() else { return most };
    most.min((reserve(limit) / 4).max(8) as usize)
}
