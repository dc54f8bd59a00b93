//! Serves the HTTP connections of this node's workloads.

use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::outbound::HttpDestination;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// Serves one connection (HTTP/1 or HTTP/2 by its preface) until it ends. `io` gives the bytes that
/// detection has read once more. Stops gracefully when `worker.drain` starts.
pub async fn serve<IO>(
    _worker: Rc<Worker>,
    _source: Arc<LocalWorkload>,
    _io: IO,
    _destination: HttpDestination,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    unimplemented!()
}
