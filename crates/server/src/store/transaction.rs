//! What is written together, and on what condition.

use bytes::Bytes;

use super::{StoreError, Stored};

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    Any,
    /// The key is not there.
    Absent,
    /// The key's last write was at this revision.
    Revision(u64),
}

impl Precondition {
    /// Checks it against what is there of a key.
    pub(super) fn check(self, key: &str, current: Option<&Stored>) -> Result<(), StoreError> {
        match (self, current) {
            (Self::Absent, Some(_)) => Err(StoreError::AlreadyExists(key.to_owned())),
            (Self::Revision(_), None) => Err(StoreError::NotFound(key.to_owned())),
            (Self::Revision(expected), Some(current)) if current.revision != expected => {
                Err(StoreError::Conflict { key: key.to_owned(), revision: current.revision })
            }
            _ => Ok(()),
        }
    }
}

/// A transaction.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: String,
    pub(super) precondition: Precondition,
    pub(super) operation: KeyOperation,
}

/// What is done to the key of a transaction, and with it.
#[derive(Debug)]
pub(super) enum KeyOperation {
    Put {
        value: Bytes,
        /// Another key, and the revision of its last write.
        required: Option<(String, u64)>,
        /// Whether that key is deleted with it.
        consume: bool,
    },
    /// The key must be there.
    Delete {
        /// All keys that start with one of these, as this key does not, are deleted with it.
        prefixes: Vec<String>,
    },
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOutcome {
    pub revision: u64,
    /// What was there before.
    pub previous: Option<Stored>,
}
