//! The proxy as its neighbours see it: nodes in one process, applications and clients on loopback.

#![allow(clippy::unwrap_used)]

mod believer;
mod detection;
mod http;
mod links;
mod mesh;
mod refusals;
mod resilience;
mod revoked;
mod silence;
mod tcp;
mod tls;
