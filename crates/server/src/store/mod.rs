//! The embedded store: keys and values with revisions, compare-and-put, and watches that replay
//! from a revision. It holds the state of the mesh, one entry per API object.
//!
//! Every write gets a revision of its own, one more than the write before it. The current values
//! (table `kv`), the recent writes (table `log`) and the counters (table `meta`) change in one
//! transaction, so after a crash they agree. One thread owns the writing ([`writer`]): it takes what
//! has queued up, commits it durably at once, and only then acknowledges. Reads go to the database
//! directly, at a snapshot, in the thread that asks: they never wait for a write, and mostly find
//! their pages in the database's cache, so handing them to another thread would cost more than they do.
//! For a database that is opened again, or made smaller, they wait without holding the thread.
//!
//! The log keeps the last [`LOG_KEPT`] writes with the values they replaced. A watch that falls
//! behind reads on from the log, and a list can be read as of an older revision, until the
//! log has dropped that revision: then they get [`StoreError::Compacted`] and must start over.
//!
//! States: *well*; *low*, when the disk has no room for a write: the store shortens its log and
//! shrinks its file, and where that does not help, what adds is refused ([`StoreError::Full`]) and what
//! deletes goes on, with the reserve's room ([`disk`]); *held*, after a write or a read has failed: the
//! database is opened again, at longer and longer intervals, for reading only where it cannot be
//! written. All heal by themselves ([`writer`]).

mod commit;
mod disk;
#[cfg(test)]
mod faults;
mod open;
mod read;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{Database, TableDefinition};
use tokio::sync::{broadcast, mpsc, oneshot, watch as channel};
use tokio::time::{Instant, timeout_at};

use self::disk::Reserve;
pub use self::open::OpenError;
use self::open::Opened;
pub use self::watch::Watch;

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
/// How long those who read wait, all together, for a database that is opened again after a failure.
const REOPEN_PATIENCE: Duration = Duration::from_secs(1);

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
    fn database(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) if disk::is_full(&error) => Self::Full(error.to_string()),
            redb::Error::Io(error) if disk::is_unwritable(&error) => Self::ReadOnly(error.to_string()),
            redb::Error::Io(error) => Self::Io(error.to_string()),
            redb::Error::PreviousIo => Self::Reopening,
            error => Self::Database(error.to_string()),
        }
    }

    /// Whether it is that what must hold for the write does not; nothing has failed then.
    fn is_precondition(&self) -> bool {
        matches!(
            self,
            Self::AlreadyExists(_) | Self::NotFound(_) | Self::Conflict { .. } | Self::RequirementChanged(_)
        )
    }
}

/// A handle to the store; clones share it. The writer ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    writes: mpsc::Sender<commit::Request>,
}

#[derive(Debug)]
struct Inner {
    /// None for one in memory.
    place: Option<Place>,
    /// Written to by the writer only, for as long as nobody may read.
    database: tokio::sync::RwLock<Opened>,
    reopening: channel::Sender<Reopening>,
    /// To the writer, which ends when no handle is left.
    writes: mpsc::WeakSender<commit::Request>,
    /// The revision of the latest committed write.
    revision: AtomicU64,
    events: broadcast::Sender<Arc<[Event]>>,
    /// Why what adds is not written at present.
    trouble: RwLock<Option<StoreError>>,
}

/// Where the database is.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Locked for as long as it is open.
    file: Mutex<Arc<File>>,
    /// Whether that is open for reading only.
    read_only: AtomicBool,
    reserve: Arc<Reserve>,
}

/// What readers and the writer tell each other of a database that has to be opened again.
#[derive(Debug, Default)]
struct Reopening {
    /// Counts how often it was opened again.
    generation: u64,
    /// When a reader asked for it first.
    asked: Option<Instant>,
    /// Why it did not work last.
    failed: Option<StoreError>,
}

impl Inner {
    /// Reads at a snapshot. An error of the file breaks the database for all that follow: the writer opens
    /// it again, and that is waited for.
    async fn read<T>(&self, read: impl Fn(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let before = self.reopening.borrow().generation;
        let result = read(&self.database.read().await.database);
        match result {
            Err(StoreError::Reopening | StoreError::Io(_)) if self.place.is_some() => {}
            result => return result,
        }
        let error = result.err().unwrap_or(StoreError::Reopening);
        self.wait_for_another(before, error).await?;
        read(&self.database.read().await.database)
    }

    /// Waits until the database that was opened as number `before`, and broke with `error`, is replaced.
    async fn wait_for_another(&self, before: u64, error: StoreError) -> Result<(), StoreError> {
        let mut reopening = self.reopening.subscribe();
        self.reopening.send_if_modified(|now| {
            if now.generation == before && now.asked.is_none() && now.failed.is_none() {
                // If its queue is full, this is for the next reader, or for what stands there.
                let request = commit::Request::Reopen { generation: before, error };
                let asked = self.writes.upgrade().is_some_and(|writes| writes.try_send(request).is_ok());
                now.asked = asked.then(Instant::now);
            }
            false
        });
        // Never for longer than the first who asked: a request is not to wait for a disk again and again.
        let until = reopening.borrow().asked.map_or_else(Instant::now, |asked| asked + REOPEN_PATIENCE);
        let is_decided = |now: &Reopening| now.generation != before || now.failed.is_some();
        let decided = timeout_at(until, reopening.wait_for(|now| is_decided(now))).await;
        match decided {
            Ok(Ok(now)) if now.generation != before => Ok(()),
            Ok(Ok(now)) => Err(now.failed.clone().unwrap_or(StoreError::Reopening)),
            Ok(Err(_)) | Err(_) => Err(StoreError::Reopening),
        }
    }

    fn is_generation(&self, generation: u64) -> bool {
        self.reopening.borrow().generation == generation
    }

    /// Whether the database that is open does not even take reads.
    fn is_broken(&self) -> bool {
        self.reopening.borrow().failed.is_some()
    }

    fn has_reopened(&self) {
        self.reopening.send_modify(|now| {
            *now = Reopening { generation: now.generation + 1, ..Reopening::default() };
        });
    }

    /// Readers are told so until it works.
    fn cannot_reopen(&self, error: StoreError) {
        self.reopening.send_modify(|now| now.failed = Some(error));
    }
}

impl Store {
    /// Makes a store that holds one value at first, and opens it. One that is there whole is opened as
    /// it is: the store appears under its name only when it is whole.
    pub fn create(path: &Path, key: &str, value: &[u8]) -> Result<Self, OpenError> {
        if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
            open::create(path, key, value)?;
        }
        Self::open(path)
    }

    /// Opens the store, which must be there, and repairs what a crash left. On a disk that is full or
    /// can only be read, it is opened for reading. Blocks; a predecessor that is about to end is waited
    /// for, up to a second.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (opened, place, trouble) = open::open(path)?;
        Self::start(opened, Some(place), trouble)
            .map_err(|error| OpenError::Failed { path: path.display().to_string(), cause: error.to_string() })
    }

    /// A store that is gone with its last handle.
    pub fn in_memory() -> Result<Self, OpenError> {
        let failed = |cause: String| OpenError::Failed { path: "(memory)".to_owned(), cause };
        let opened = Opened::in_memory().map_err(|error| failed(error.to_string()))?;
        Self::start(opened, None, None).map_err(|error| failed(error.to_string()))
    }

    fn start(opened: Opened, place: Option<Place>, trouble: Option<StoreError>) -> Result<Self, StoreError> {
        let revision = read::latest(&opened.database)?;
        let (events, _) = broadcast::channel(WATCH_BUFFER);
        let (writes, requests) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            place,
            database: tokio::sync::RwLock::new(opened),
            reopening: channel::Sender::default(),
            revision: AtomicU64::new(revision),
            events,
            writes: writes.downgrade(),
            trouble: RwLock::new(trouble),
        });
        writer::spawn(inner.clone(), requests)?;
        Ok(Self { inner, writes })
    }

    /// Why what adds is not written at present: the disk is full, or can only be read.
    pub fn trouble(&self) -> Option<StoreError> {
        self.inner.trouble.read().clone()
    }

    /// The revision of the latest acknowledged write.
    pub async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.inner.revision.load(Ordering::Acquire))
    }

    pub async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.inner.read(|database| read::get(database, key)).await
    }

    /// The first `limit` keys after `after` (itself excluded) that start with `prefix`, as of the latest revision.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<List, StoreError> {
        self.inner.read(|database| read::list(database, prefix, after, limit, None)).await
    }

    /// Like [`Store::list`], as of an older revision.
    pub async fn list_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<List, StoreError> {
        self.inner.read(|database| read::list(database, prefix, after, limit, Some(revision))).await
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
        let operation = commit::Operation::Put { value: value.into(), required, consume: false };
        self.write(key, precondition, operation).await
    }

    /// Like [`Store::put_requiring`], and deletes that key in the same transaction.
    pub async fn put_consuming(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        precondition: Precondition,
        consumed: (&str, u64),
    ) -> Result<Written, StoreError> {
        let required = Some((consumed.0.to_owned(), consumed.1));
        let operation = commit::Operation::Put { value: value.into(), required, consume: true };
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
        let written = self.write(key, precondition, commit::Operation::Delete { prefixes }).await?;
        match written.previous {
            Some(previous) => Ok((written.revision, previous)),
            None => Err(StoreError::NotFound(key.to_owned())),
        }
    }

    async fn write(
        &self,
        key: &str,
        precondition: Precondition,
        operation: commit::Operation,
    ) -> Result<Written, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = commit::Request::Write { key: key.to_owned(), precondition, operation, reply };
        self.writes.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// All writes to keys that start with `prefix` after `revision`, then new ones as they come.
    pub async fn watch(&self, prefix: &str, revision: u64) -> Result<Watch, StoreError> {
        Watch::open(self.inner.clone(), prefix, revision).await
    }

    /// Forgets what was before a revision: it is the earliest that can still be listed, and watched from. The
    /// store does so by itself for all but the last [`LOG_KEPT`] writes.
    pub async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes
            .send(commit::Request::Compact { revision, reply })
            .await
            .map_err(|_| StoreError::Closed)?;
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
