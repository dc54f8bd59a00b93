//! The resource kinds, as users write them and as the API serves them: a folder each.
//!
//! The structs are the typed reading of an object; which fields exist, their types and their
//! documentation come from the schemas derived from them.

pub mod endpoint_slice;
pub mod event;
pub mod http_route;
pub(crate) mod id;
pub(crate) mod kind;
pub mod mesh;
pub mod meta;
pub mod namespace;
pub mod node;
pub(crate) mod port;
pub mod route;
pub mod service;
pub mod tcp_route;
pub mod workload;
