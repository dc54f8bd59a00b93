//! The control plane: store, API, certificate authority, discovery, telemetry.

pub mod api;
pub mod ca;
pub mod controller;
pub mod enrolment;
pub mod fleet;
mod founding;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod metrics;
pub mod objects;
mod server;
pub mod store;
mod strangers;
pub mod telemetry;
mod timestamp;
pub mod views;

pub use founding::StateError;
pub use server::{Server, ServerConfig, StartError};
