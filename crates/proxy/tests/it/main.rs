//! The proxy as its neighbours see it: nodes in one process, applications and clients on loopback.

mod http;
mod detection;
mod mesh;
mod refusals;
mod resilience;
mod tcp;
