//! Records: keys and values of bytes beside those that have revisions, in tables of their own. For what is written often, and
//! that nobody watches: a write is no revision, and nothing of it is in the log.

use bytes::Bytes;

use super::StoreError;

/// What becomes of records in one transaction: all of it, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordWrite {
    /// What has to be there for it: a key, and its value or that there is none.
    pub expected: Vec<(Bytes, Option<Bytes>)>,
    /// Ranges of keys, as those of `cleared`, in which there has to be nothing.
    pub expected_none: Vec<(Bytes, Bytes)>,
    /// Ranges of keys that are deleted first: from one (itself included) up to another (itself not).
    pub cleared: Vec<(Bytes, Bytes)>,
    pub deleted: Vec<Bytes>,
    pub put: Vec<(Bytes, Bytes)>,
}

impl RecordWrite {
    /// How many bytes it adds at most.
    pub(super) fn size(&self) -> usize {
        self.put.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Checks one of [`RecordWrite::expected`] against what is there.
    pub(super) fn check(key: &[u8], expected: Option<&[u8]>, found: Option<&[u8]>) -> Result<(), StoreError> {
        if expected == found {
            return Ok(());
        }
        Err(StoreError::RecordChanged(key.escape_ascii().to_string()))
    }
}
