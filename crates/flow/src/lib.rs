//! Runs workflows (the kind Flow). What is decided of them is in `tulle_model::flow`.
//!
//! Here are the evaluators of expressions that loop or call themselves: processes that can be killed.

mod answer;
pub mod arguments;
mod checker;
pub mod evaluator;
mod jaq;
mod library;
mod pool;
pub mod questions;
mod recent;
mod request;
pub mod runner;
pub mod schema;
pub mod scoped;
pub mod serving;
mod turns;

#[cfg(test)]
mod against_jaq;
