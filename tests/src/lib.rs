//! What the stories and the chaos suite share: the real binary, hosts, clients.
#![allow(clippy::unwrap_used)]
// What they make takes effect outside of the process: nothing to have by default.
#![allow(clippy::new_without_default)]

pub mod asks;
pub mod booted;
pub mod chaos;
pub mod counting;
pub mod faked;
pub mod flow_mesh;
pub mod harness;
pub mod one_host;
pub mod pods;
pub mod ports;
pub mod two_hosts;
