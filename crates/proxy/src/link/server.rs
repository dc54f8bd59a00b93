//! Links that other nodes open to this one.

#[derive(Default)]
pub(crate) struct HandshakeLimits;
