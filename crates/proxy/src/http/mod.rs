//! HTTP between a workload and the mesh.
//!
//! A client's connection is served by [`server`]; each request is brought into one form
//! ([`headers`]), routed and sent to an endpoint ([`forward`]), repeated on another where that is safe
//! ([`retry`]), and counted ([`record`]). Upgrades and tunnels leave HTTP in [`upgrade`]; destinations
//! that an explicit proxy's client names are found in [`egress`]. Bodies are streams throughout
//! ([`body`]); answers that the mesh makes itself come from [`reply`].

pub mod body;
mod egress;
mod forward;
pub mod headers;
pub(crate) mod http1;
mod record;
pub mod reply;
pub mod retry;
pub mod server;
mod upgrade;

use std::future::Future;

pub use hyper_util::rt::TokioTimer as Timer;

/// How large the head of a message may be, on any version of HTTP.
pub const HEADER_LIMIT: usize = 64 << 10;

/// Runs what hyper wants to run on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
