//! The embedded store, on redb: one server's, on its own disk.
//!
//! Every write gets a revision of its own, one more than the write before it. The current values
//! (table `kv`), the recent writes (table `log`) and the counters (table `meta`) change in one
//! transaction, so after a crash they agree. One thread owns the writing ([`writer`]): it takes what
//! has queued up, commits it durably at once, and only then acknowledges. Reads go to the database
//! directly, at a snapshot, in the thread that asks: they never wait for a write, and mostly find
//! their pages in the database's cache. Handing one to another thread would cost six times what it does,
//! and a list is a sixth of what its objects' JSON costs after it (both measured).
//! For a database that is opened again, or made smaller, they wait without holding the thread.
//!
//! The log keeps the last [`LOG_KEPT`] writes with the values they replaced: watches that fall behind, and
//! lists as of an older revision, are served from it.
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
mod follow;
mod open;
mod read;
#[cfg(test)]
mod tests;
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
pub(super) use self::follow::EmbeddedFollow;
pub use self::open::OpenError;
use self::open::Opened;
use super::lease::LeaseTable;
use super::transaction::Write;
use super::{Event, List, RecordWrite, StoreError, Stored, WriteOutcome};

/// Current values: key → (revision of the last write, revision of the creation, value).
const KV: TableDefinition<&str, Row<'static>> = TableDefinition::new("kv");
/// Recent writes: revision → (key, new value or none if deleted, what was there before).
const LOG: TableDefinition<u64, LogRow<'static>> = TableDefinition::new("log");
/// What has no revisions.
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// Counters: [`REVISION`] and [`COMPACTED`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

type Row<'a> = (u64, u64, &'a [u8]);
type LogRow<'a> = (&'a str, Option<&'a [u8]>, Option<Row<'a>>);

/// The revision of the latest write.
const REVISION: &str = "revision";
/// The highest revision that the log has dropped.
const COMPACTED: &str = "compacted";

/// How many writes the log keeps.
const LOG_KEPT: u64 = 10_000;
/// How many writes may wait for the writer; more wait in their callers.
const QUEUE: usize = 1024;
/// How many commits a watch may fall behind before it reads on from the log.
const WATCH_BUFFER: usize = 128;
/// How long those who read wait, all together, for a database that is opened again after a failure.
const REOPEN_PATIENCE: Duration = Duration::from_secs(1);

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
}

/// A handle to the store; clones share it. The writer ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Embedded {
    inner: Arc<Inner>,
    writes: mpsc::Sender<commit::Request>,
    pub(super) leases: LeaseTable,
}

#[derive(Debug)]
struct Inner {
    place: Place,
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
            Err(StoreError::Reopening | StoreError::Io(_)) => {}
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
        let decided = timeout_at(until, reopening.wait_for(is_decided)).await;
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

impl Embedded {
    /// [`super::Store::create`]
    pub(super) fn create(path: &Path, key: &str, value: &[u8]) -> Result<Self, OpenError> {
        if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
            open::create(path, key, value)?;
        }
        Self::open(path)
    }

    /// [`super::Store::open`]
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let (opened, place, trouble) = open::open(path)?;
        Self::start(opened, place, trouble)
            .map_err(|error| OpenError::Failed { path: path.display().to_string(), cause: error.to_string() })
    }

    fn start(opened: Opened, place: Place, trouble: Option<StoreError>) -> Result<Self, StoreError> {
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
        Ok(Self { inner, writes, leases: LeaseTable::default() })
    }

    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.inner.trouble.read().clone()
    }

    pub(super) fn revision(&self) -> u64 {
        self.inner.revision.load(Ordering::Acquire)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.inner.read(|database| read::get(database, key)).await
    }

    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<u64>,
    ) -> Result<List, StoreError> {
        self.inner.read(|database| read::list(database, prefix, after, limit, at)).await
    }

    pub(super) async fn write(&self, write: Write) -> Result<WriteOutcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = commit::Request::Write { write, reply };
        self.writes.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) async fn record(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.read(|database| read::record(database, key)).await
    }

    pub(super) async fn records(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.read(|database| read::records(database, from, until, limit)).await
    }

    pub(super) async fn write_records(&self, write: RecordWrite) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = commit::Request::Records { write, reply };
        self.writes.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn follow(&self) -> EmbeddedFollow {
        EmbeddedFollow::new(self.inner.clone())
    }

    pub(super) async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = commit::Request::Compact { revision, reply };
        self.writes.send(request).await.map_err(|_| StoreError::Closed)?;
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
