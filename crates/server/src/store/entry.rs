//! What stands in the store.

use bytes::Bytes;

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub value: Bytes,
    /// The revision of the write that made it.
    pub revision: u64,
    /// The revision at which its key was created.
    pub create_revision: u64,
}

/// A part of the keys under a prefix, in their order.
#[derive(Debug, Clone)]
pub struct List {
    pub items: Vec<(String, Stored)>,
    /// The revision that the list shows.
    pub revision: u64,
    /// Whether keys follow after the last item.
    pub more: bool,
}
