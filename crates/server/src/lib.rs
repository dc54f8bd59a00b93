//! The control plane: store, API, certificate authority, discovery, telemetry.

pub mod ca;
pub mod objects;
pub mod store;
