//! What names of services stand for.

use std::sync::Arc;

/// What the name of a service stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Shape {
    /// One address, behind which its endpoints share the traffic.
    #[default]
    Balanced,
    /// Its endpoints, each by itself ([`crate::apart`]).
    Headless,
    /// A name outside of the mesh, or another one in it.
    Alias(Arc<str>),
}
