//! The API as clients see it: over TLS, with the certificates of the kubeconfig.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod apply;
mod authorization;
mod client;
mod describe;
mod history;
mod lists;
mod types;
mod versions;
mod warnings;
mod watches;
mod writes;
