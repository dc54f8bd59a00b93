//! Experiments of failure: each breaks something on purpose and measures what users notice.
//! `cargo xtask chaos` runs them in full and prints their figures; every test run has the short form.
#![allow(clippy::unwrap_used)]

mod agreed;
mod budget;
mod changes;
mod clock;
mod clones;
mod effects;
mod flows;
mod herd;
mod late_preface;
mod limits;
mod mirrored;
mod names;
mod partition;
mod policies;
mod restarts;
mod server_state;
mod silence;
mod two_nodes;
