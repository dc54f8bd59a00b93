//! A host's side of the mesh.

pub mod capture;
