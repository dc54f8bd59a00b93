//! What workloads began past the proxy while they might leave the mesh freely ends when they may not any more. The rules refuse its next
//! packet; here the kernel is asked to end it at once, for both sides.

use std::collections::BTreeSet;
use std::io;

use tulle_sys::begun::{self, Whose};
use tulle_sys::cgroup::Cgroup;
use tulle_sys::{NODE_MARK, PROCESS_MARK};

/// Ends what processes in these cgroups have begun past the proxy. Not with the lock of the state: it takes as long as the kernel has sockets.
pub(super) fn end_of_cgroups(cgroups: &[Cgroup]) {
    if cgroups.is_empty() {
        return;
    }
    let ids = cgroups.iter().map(Cgroup::ids).collect::<io::Result<Vec<BTreeSet<u64>>>>();
    tell(ids.and_then(|ids| begun::end(Whose::Cgroups(&ids.into_iter().flatten().collect()))));
}

/// The same of all in the network namespace but the node itself.
pub(super) fn end_of_namespace() {
    tell(begun::end(Whose::NotMarked(&[NODE_MARK, PROCESS_MARK])));
}

fn tell(ended: io::Result<usize>) {
    match ended {
        Ok(0) => {}
        Ok(ended) => {
            tracing::info!(
                "{ended} connections out of the mesh have ended: its egress policy no longer lets them be"
            );
        }
        Err(e) => {
            tracing::warn!(
                "connections out of the mesh that its egress policy no longer lets be end with their next packet, and not at once: {e}"
            );
        }
    }
}
