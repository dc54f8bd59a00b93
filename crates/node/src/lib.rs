//! A host's side of the mesh: it joins the server, keeps identities and configuration, captures and
//! supervises workloads, and hosts the proxy.
//!
//! [`Node::start`] puts everything together. Its state is in `$TULLE_HOME/node/`: with the server
//! down, a node starts from it and serves what it knew.

mod admin;
pub mod arrival;
mod backoff;
mod budget;
pub mod capture;
pub mod client;
mod control;
mod dialer;
mod dns;
pub mod ending;
mod exposure;
mod files;
mod flows;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gates;
mod keeper;
mod lock;
mod node;
mod node_state;
mod passage;
pub mod probes;
pub mod process_state;
pub mod reset;
mod resolv_conf;
mod scope;
mod socket;
mod socket_file;
pub mod status;
pub mod supervise;
mod vips;
mod workload_api;
pub mod workloads;

pub use control::join::MalformedToken;
pub use control::services::ServicesOfNamespace;
pub use lock::InUse;
pub use node::{Node, NodeConfig};
pub use tulle_proxy::Bounds;
