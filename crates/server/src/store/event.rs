//! What a watch is told, and how far it has come.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

/// One write, as a watch sees it: that of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: u64,
    pub key: Arc<str>,
    /// The new value; none if the key was deleted.
    pub value: Option<Bytes>,
    /// The value before; none if the key was created.
    pub previous: Option<Bytes>,
}

/// How far a watch has come.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) prefix: String,
    /// Every matching write up to this revision is in `pending` or was returned.
    pub(super) to: u64,
    /// Read, but not yet returned.
    pub(super) pending: VecDeque<Event>,
}
