//! The resource kinds, as users write them and as the API serves them.
//!
//! The structs are the typed reading of an object; which fields exist, their types and their
//! documentation come from the schemas derived from them.

pub mod core;
pub mod event;
pub mod gateway;
pub mod meta;
pub mod tulle;
