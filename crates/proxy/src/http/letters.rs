//! Whether a port asks for messages as they are written, where a peer says so of a request that it sends over a link.
//!
//! Its word is held against what this node is told of its own workload: the service that it names has to select that, and to ask
//! for it at the port that is the workload's.

use tulle_model::name::ServiceName;

use crate::http::spelling::Spelling;
use crate::local::Local;
use crate::state::LocalWorkload;

/// Whether what a peer says of how it is written is to be kept of a request for port `port` of `workload`.
#[cold]
pub(crate) fn are_kept(local: &Local, workload: &LocalWorkload, port: u16, spelling: &Spelling) -> bool {
    let Some((service, number)) = spelling.port() else { return false };
    let service = ServiceName::new(workload.name.namespace.clone(), service);
    let view = local.view();
    let served = view.snapshot.workloads.get(&workload.name).and_then(|told| told.serves(&service, number));
    served.is_some_and(|served| served.target_port == port && served.http1.preserve_case)
}
