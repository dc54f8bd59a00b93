//! What the stories and the chaos suite share: the real binary, hosts, clients.
#![allow(clippy::unwrap_used)]

pub mod chaos;
pub mod harness;
