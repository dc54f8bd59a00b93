//! Pools of HTTP connections to this node's processes, and to plain destinations.

/// The HTTP connections of one worker.
#[derive(Default)]
pub struct AppPool;
