//! What the RFCs say of messages and frames, case by case, against the proxy: see `tables/README.md`.

#![allow(clippy::unwrap_used)]

mod answers;
#[allow(dead_code)]
#[path = "../it/believer.rs"]
mod believer;
mod clients;
mod downgrades;
mod exchange;
mod frames;
mod http1;
// These are the other tests' as well, which use more of them.
#[allow(dead_code)]
#[path = "../it/http/mesh.rs"]
mod http_mesh;
#[allow(dead_code)]
#[path = "../it/mesh.rs"]
mod mesh;
mod recorder;
mod requests;
mod script;
mod servers;
mod stage;
mod table;
