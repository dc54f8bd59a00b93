//! Nodes and a server, over real connections: joining, certificates, discovery, reports, statuses.

mod client;
mod discovery;
mod fleet;
mod join;
