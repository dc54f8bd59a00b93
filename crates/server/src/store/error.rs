//! Why the store did not do what it was asked for.

/// Why a read or a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the key {0} exists already")]
    AlreadyExists(String),
    #[error("there is no key {0}")]
    NotFound(String),
    #[error("the key {key} has changed: it is at revision {revision}")]
    Conflict { key: String, revision: u64 },
    #[error("the key {0} that the write depends on has changed, or is not there")]
    RequirementChanged(String),
    #[error("the record {0} that the write depends on is another one by now")]
    RecordChanged(String),
    #[error("revision {revision} is no longer in the log, which starts after revision {compacted}")]
    Compacted { revision: u64, compacted: u64 },
    #[error("revision {revision} is newer than the latest, {latest}")]
    Future { revision: u64, latest: u64 },
    #[error("the store has shut down")]
    Closed,
    #[error(
        "the server's disk is full ({0}): nothing was written; reading and deleting work, and writing \
         works again when there is room"
    )]
    Full(String),
    #[error("the server's store can only be read ({0}): nothing was written")]
    ReadOnly(String),
    /// A failure is got over.
    #[error("the store's database is being opened again after a failure; try again")]
    Reopening,
    #[error("the store's file cannot be used ({0}); it is tried again every 1 to 30 s")]
    Io(String),
    #[error("the store's database failed: {0}")]
    Database(String),
}

impl StoreError {
    /// Whether it is that what must hold for the write does not; nothing has failed then.
    pub(super) fn is_precondition(&self) -> bool {
        matches!(
            self,
            Self::AlreadyExists(_)
                | Self::NotFound(_)
                | Self::Conflict { .. }
                | Self::RequirementChanged(_)
                | Self::RecordChanged(_)
        )
    }
}
