//! HTTP between a workload and the mesh.

pub mod body;
pub mod headers;
pub mod server;
