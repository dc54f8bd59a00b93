//! Requests that arrive for a workload of this node, over a link or from inside the process.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use tulle_model::identity::SpiffeId;

use crate::http::body::Body;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Peer {
    pub identity: SpiffeId,
}

/// Passes a request to port `port` of `workload`'s process. The caller has checked that the peer meant
/// this workload, and holds nothing of the answer: refusals are answers with `tulle-reason`.
pub async fn serve_request(
    _worker: &Rc<Worker>,
    _peer: &Peer,
    _workload: &Arc<LocalWorkload>,
    _port: u16,
    _request: Request<Body>,
) -> Response<Body> {
    unimplemented!()
}
