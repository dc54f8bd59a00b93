//! Nodes and a server, over real connections: joining, certificates, discovery, reports, statuses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod attempts;
mod client;
mod clones;
mod discovery;
mod fleet;
mod flow_names;
mod join;
mod node_objects;
mod own_workloads;
mod policies;
mod refusals;
mod revoked;
mod runs;
mod slices;
mod state;
mod summaries;
