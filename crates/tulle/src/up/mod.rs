//! `tulle up`: a whole mesh on one machine.

mod command;
pub mod config;
mod field;
mod files;
