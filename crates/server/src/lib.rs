//! The control plane: store, API, certificate authority, discovery, telemetry.
//!
//! What is known flows one way: from the [`store`] to [`objects`], [`enrolment`] and [`events`], then [`fleet`], then the
//! [`controller`], which fills the [`publication`]. Nodes are served by [`grpc`], people by the [`api`] and its [`views`].

pub(crate) mod access;
pub mod api;
pub mod audit;
pub mod ca;
pub mod controller;
pub mod enrolment;
pub mod events;
pub mod fleet;
pub mod flows;
mod founding;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
mod history;
mod key_sets;
pub mod metrics;
pub mod objects;
pub mod publication;
pub mod revocations;
mod server;
pub mod store;
mod strangers;
mod summaries;
pub mod telemetry;
pub mod timestamp;
mod token_secret;
pub mod views;

pub use founding::StateError;
pub use server::{Server, ServerConfig, StartError};
