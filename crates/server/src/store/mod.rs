//! The embedded store: keys and values with revisions, compare-and-put, and watches that replay
//! from a revision. It holds the state of the mesh, one entry per API object.
//!
//! Every write gets a revision of its own, one more than the write before it. The current values
//! (table `kv`), the recent writes (table `log`) and the counters (table `meta`) change in one
//! transaction, so after a crash they agree. One thread owns the writing ([`writer`]): it takes what
//! has queued up, commits it durably at once, and only then acknowledges. Reads go to the database
//! directly, at a snapshot; they never wait for a write.
//!
//! The log keeps the last [`LOG_KEPT`] writes with the values they replaced. A watch that falls
//! behind reads on from the log, and a list can be read as of an older revision, until the
//! log has dropped that revision: then they get [`StoreError::Compacted`] and must start over.

mod read;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Database, TableDefinition};
use tokio::sync::{broadcast, mpsc, oneshot};

pub use watch::Watch;

/// Current values: key → (revision of the last write, revision of the creation, value).
const KV: TableDefinition<&str, Row<'static>> = TableDefinition::new("kv");
/// Recent writes: revision → (key, new value or none if deleted, what was there before).
const LOG: TableDefinition<u64, LogRow<'static>> = TableDefinition::new("log");
/// Counters: [`REVISION`] and [`COMPACTED`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

type Row<'a> = (u64, u64, &'a [u8]);
type LogRow<'a> = (&'a str, Option<&'a [u8]>, Option<Row<'a>>);

/// The revision of the latest write.
const REVISION: &str = "revision";
/// The highest revision that the log has dropped.
const COMPACTED: &str = "compacted";

/// How many writes the log keeps.
pub const LOG_KEPT: u64 = 10_000;
/// How many writes may wait for the writer; more wait in their callers.
const QUEUE: usize = 1024;
/// How many commits a watch may fall behind before it reads on from the log.
const WATCH_BUFFER: usize = 128;
/// How long opening waits for another process, or another handle of this one, to let go of the file.
const IN_USE_PATIENCE: Duration = Duration::from_secs(1);
/// The database's page cache, in bytes.
const CACHE_BYTES: usize = 64 << 20;
const DAMAGED: &str = "the file is damaged; put it back from a backup, or move it away to start with an \
                       empty store";

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

/// One write, as a watch sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: u64,
    pub key: Arc<str>,
    /// The new value; none if the key was deleted.
    pub value: Option<Bytes>,
    /// The value before; none if the key was created.
    pub previous: Option<Bytes>,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    Any,
    /// The key is not there.
    Absent,
    /// The key's last write was at this revision.
    Revision(u64),
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub revision: u64,
    /// What was there before.
    pub previous: Option<Stored>,
}

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
    #[error("revision {revision} is no longer in the log, which starts after revision {compacted}")]
    Compacted { revision: u64, compacted: u64 },
    #[error("revision {revision} is newer than the latest, {latest}")]
    Future { revision: u64, latest: u64 },
    #[error("the store has shut down")]
    Closed,
    #[error("the store's database failed: {0}")]
    Database(String),
}

impl StoreError {
    fn database(error: impl Into<redb::Error>) -> Self {
        Self::Database(error.into().to_string())
    }

    /// Whether the same call may succeed when it is simply made again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the store {0}; stop that server first")]
    InUse(String),
    #[error("cannot open the store {path}: {cause}")]
    Failed { path: String, cause: String },
}

/// A handle to the store; clones share it. The writer ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    writes: mpsc::Sender<writer::Request>,
}

#[derive(Debug)]
struct Inner {
    /// The database's file; none for one in memory.
    path: Option<PathBuf>,
    /// None only while, and after, [`Inner::reopen`] has failed.
    database: RwLock<Option<Database>>,
    /// The revision of the latest committed write.
    revision: AtomicU64,
    events: broadcast::Sender<Arc<[Event]>>,
}

impl Inner {
    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.database.read() {
            Some(database) => read(database),
            None => Err(StoreError::Database("it could not be opened again after a failure".to_owned())),
        }
    }

    /// Opens the database again: after a failed write (a full disk, say) it takes no more writes, and
    /// reading goes on. A write that was reported as failed may turn out to be there.
    fn reopen(&self) -> Result<(), StoreError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut database = self.database.write();
        // The file is locked for as long as it is open.
        *database = None;
        let opened = open_database(path).map_err(StoreError::database)?;
        *database = Some(opened);
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

/// The store holds what only its owner may read.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

impl Store {
    /// Opens the database file, creating it if it is not there, and repairs what a crash left.
    /// Blocks; a predecessor that is about to end is waited for, up to a second.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |cause: String| OpenError::Failed { path: path.display().to_string(), cause };
        let deadline = Instant::now() + IN_USE_PATIENCE;
        make_private(path).map_err(|error| failed(error.to_string()))?;
        let mut database = loop {
            // The database takes the file's structure for granted until it is checked.
            let opened = catch_unwind(|| open_database(path));
            match opened.map_err(|_| failed(DAMAGED.to_owned()))? {
                Ok(database) => break database,
                Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                    return Err(OpenError::InUse(path.display().to_string()));
                }
                Err(redb::DatabaseError::Storage(redb::StorageError::Corrupted(what))) => {
                    return Err(failed(format!("{DAMAGED} ({what})")));
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        };
        // By its checksums: reading a damaged page would end the process later.
        match catch_unwind(AssertUnwindSafe(|| database.check_integrity())) {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::warn!(
                path = %path.display(),
                "the store was damaged and is repaired; what was written last may be gone"
            ),
            Ok(Err(error)) => return Err(failed(format!("{DAMAGED} ({error})"))),
            Err(_) => return Err(failed(DAMAGED.to_owned())),
        }
        // Free pages are given back here, where nobody waits for a write yet.
        if let Err(error) = database.compact() {
            tracing::warn!(%error, path = %path.display(), "could not compact the store");
        }
        Self::start(database, Some(path.to_owned())).map_err(|error| failed(error.to_string()))
    }

    /// A store that is gone with its last handle.
    pub fn in_memory() -> Result<Self, OpenError> {
        let backend = redb::backends::InMemoryBackend::new();
        let failed = |cause: String| OpenError::Failed { path: "(memory)".to_owned(), cause };
        let database =
            Database::builder().create_with_backend(backend).map_err(|error| failed(error.to_string()))?;
        Self::start(database, None).map_err(|error| failed(error.to_string()))
    }

    fn start(database: Database, path: Option<PathBuf>) -> Result<Self, StoreError> {
        let revision = read::create_tables(&database)?;
        let (events, _) = broadcast::channel(WATCH_BUFFER);
        let inner = Arc::new(Inner {
            path,
            database: RwLock::new(Some(database)),
            revision: AtomicU64::new(revision),
            events,
        });
        let (writes, requests) = mpsc::channel(QUEUE);
        writer::spawn(inner.clone(), requests)?;
        Ok(Self { inner, writes })
    }

    /// The revision of the latest acknowledged write.
    pub fn revision(&self) -> u64 {
        self.inner.revision.load(Ordering::Acquire)
    }

    pub fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.inner.read(|database| read::get(database, key))
    }

    /// The first `limit` keys after `after` (itself excluded) that start with `prefix`, as of the latest revision.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<List, StoreError> {
        self.inner.read(|database| read::list(database, prefix, after, limit, None))
    }

    /// Like [`Store::list`], as of an older revision.
    pub fn list_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<List, StoreError> {
        self.inner.read(|database| read::list(database, prefix, after, limit, Some(revision)))
    }

    /// Writes a value; it is durable when this returns. Returns the write's revision.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<u64, StoreError> {
        Ok(self.put_requiring(key, value, precondition, None).await?.revision)
    }

    /// Like [`Store::put`], if the last write of another key is at that moment still the one given.
    pub async fn put_requiring(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        precondition: Precondition,
        required: Option<(&str, u64)>,
    ) -> Result<Written, StoreError> {
        let required = required.map(|(key, revision)| (key.to_owned(), revision));
        let operation = writer::Operation::Put { value: value.into(), required };
        self.write(key, precondition, operation).await
    }

    /// Deletes a key. Returns the revision of the deletion and what was there.
    pub async fn delete(&self, key: &str, precondition: Precondition) -> Result<(u64, Stored), StoreError> {
        self.delete_with(key, precondition, Vec::new()).await
    }

    /// Deletes a key and, in the same transaction, all keys that start with one of `prefixes`.
    pub async fn delete_with(
        &self,
        key: &str,
        precondition: Precondition,
        prefixes: Vec<String>,
    ) -> Result<(u64, Stored), StoreError> {
        let written = self.write(key, precondition, writer::Operation::Delete { prefixes }).await?;
        match written.previous {
            Some(previous) => Ok((written.revision, previous)),
            None => Err(StoreError::NotFound(key.to_owned())),
        }
    }

    async fn write(
        &self,
        key: &str,
        precondition: Precondition,
        operation: writer::Operation,
    ) -> Result<Written, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = writer::Request::Write { key: key.to_owned(), precondition, operation, reply };
        self.writes.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// All writes to keys that start with `prefix` after `revision`, then new ones as they come.
    pub fn watch(&self, prefix: &str, revision: u64) -> Result<Watch, StoreError> {
        Watch::open(self.inner.clone(), prefix, revision)
    }

    /// Drops all but the last `keep` writes from the log. The writer does so by itself for [`LOG_KEPT`].
    pub async fn compact(&self, keep: u64) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes.send(writer::Request::Compact { keep, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// The end of the range of keys that start with `prefix`; none if there is no end.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        let next = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32);
        if let Some(next) = next {
            end.push(next);
            return Some(end.into_iter().collect());
        }
    }
    None
}
