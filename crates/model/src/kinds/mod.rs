//! The resource kinds, as users write them and as the API serves them: a folder each.
//!
//! Which fields exist, their types and their documentation are those of the structs, from which schemas are derived
//! ([`crate::schema`]). What more an object must be, `check` says, in one walk: it finds all that is wrong, and makes of the
//! object the form that the compiler works with, where there can be one. There can be one of some objects that are refused
//! today and were not when they were written: these stay in force.

pub mod authorization_policy;
pub mod backend_tls_policy;
pub mod config_map;
pub mod endpoint_slice;
pub mod event;
pub mod external_service;
pub mod flow;
pub mod flow_run;
pub mod grpc_route;
pub mod http_route;
pub(crate) mod id;
pub(crate) mod kind;
pub mod mesh;
pub mod meta;
pub mod namespace;
pub mod node;
pub(crate) mod port;
pub mod reference_grant;
pub mod role;
pub mod role_binding;
pub mod route;
pub mod secret;
pub mod service;
pub mod tcp_route;
pub mod tls_route;
mod values;
pub mod workload;
