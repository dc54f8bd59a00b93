//! A host's side of the mesh.

mod backoff;
pub mod capture;
mod control;
mod dns;
mod files;
mod node_state;
pub mod probes;
pub mod supervise;
mod vips;
pub mod workloads;
