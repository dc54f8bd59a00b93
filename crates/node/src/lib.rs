//! A host's side of the mesh.

mod backoff;
pub mod capture;
mod control;
mod files;
mod node_state;
mod vips;
