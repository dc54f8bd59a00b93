//! The thread that writes: it takes what has queued up, commits it in one durable transaction,
//! tells the watches, and then acknowledges. A sync to disk costs about the same for one write as
//! for a hundred.
//!
//! It asks the disk for room before it adds anything. What trips each state of the store, and what
//! heals it: [`Writer::admit`], [`Writer::make_room`], [`Writer::get_over`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::disk;
use super::open::Opened;
use super::read::{revisions, stored};
use super::{
    COMPACTED, Event, Inner, KV, LOG, LOG_KEPT, LogRow, META, Place, Precondition, REVISION, Row, StoreError,
    Written, prefix_end,
};

/// How many writes, and how many bytes of them, one commit takes at most.
const BATCH_WRITES: usize = 128;
const BATCH_BYTES: usize = 4 << 20;

/// The room that a commit may need: in all, for each write, and for each byte of a value (it is kept as
/// the value, in the log, and in the log of what follows; pages come in powers of two).
const ROOM: u64 = 256 << 10;
const ROOM_OF_A_WRITE: u64 = 16 << 10;
const ROOM_OF_A_BYTE: u64 = 6;

/// How long to wait before the store is opened again, or room is made again, after the first time in a
/// row and at most. Either may read all of the store, and readers may wait for it.
const LEAST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a store that is not well looks whether it could be, with nothing to write.
const TEND: Duration = Duration::from_secs(5);

pub(super) enum Request {
    Write {
        key: String,
        precondition: Precondition,
        operation: Operation,
        reply: oneshot::Sender<Result<Written, StoreError>>,
    },
    Compact {
        keep: u64,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

pub(super) enum Operation {
    Put { value: Bytes, required: Option<(String, u64)> },
    Delete { prefixes: Vec<String> },
}

/// Makes the tables of a new database.
pub(super) fn create_tables(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(StoreError::database)?;
    drop(Tables::open(&transaction)?);
    transaction.commit().map_err(StoreError::database)
}

/// Writes the first value of a new database.
pub(super) fn put_first(database: &Database, key: &str, value: &[u8]) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(StoreError::database)?;
    let mut tables = Tables::open(&transaction)?;
    tables.record(key, Some(Bytes::copy_from_slice(value)), &mut Vec::new())?;
    tables.finish(LOG_KEPT)?;
    drop(tables);
    transaction.commit().map_err(StoreError::database)
}

/// Starts the writer. It ends when all senders of `requests` are gone.
pub(super) fn spawn(inner: Arc<Inner>, requests: mpsc::Receiver<Request>) -> Result<(), StoreError> {
    let cannot = |error| StoreError::Database(format!("cannot start the store's thread: {error}"));
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(cannot)?;
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || Writer::new(inner).run(&clock, requests))
        .map(|_| ())
        .map_err(cannot)
}

/// When something is tried again: at longer and longer intervals.
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Retry {
    fn after(previous: Option<&Self>) -> Self {
        let wait = previous.map_or(LEAST_WAIT, |retry| (retry.wait * 2).min(LONGEST_WAIT));
        Self { at: Instant::now() + wait, wait }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }
}

struct Writer {
    inner: Arc<Inner>,
    /// A write has failed: until then nothing is written.
    held: Option<Retry>,
    /// There was no room: until then none is made.
    low: Option<Retry>,
}

impl Writer {
    fn new(inner: Arc<Inner>) -> Self {
        // One that was opened for reading is opened for writing when that may work again.
        let held = (!inner.database.read().writable).then(|| Retry::after(None));
        Self { inner, held, low: None }
    }

    fn run(mut self, clock: &tokio::runtime::Runtime, mut requests: mpsc::Receiver<Request>) {
        loop {
            let first = match self.held.is_none() && self.low.is_none() {
                true => requests.blocking_recv(),
                false => {
                    let patience = async { tokio::time::timeout(TEND, requests.recv()).await };
                    match clock.block_on(patience) {
                        Ok(first) => first,
                        Err(_) => {
                            self.tend();
                            continue;
                        }
                    }
                }
            };
            let Some(first) = first else { return };
            let mut bytes = size(&first);
            let mut batch = vec![first];
            while batch.len() < BATCH_WRITES
                && bytes < BATCH_BYTES
                && let Ok(request) = requests.try_recv()
            {
                bytes += size(&request);
                batch.push(request);
            }
            self.write(batch);
        }
    }

    fn write(&mut self, batch: Vec<Request>) {
        self.get_over();
        if self.held.is_some() {
            let trouble = self.inner.trouble.read().clone().unwrap_or(StoreError::Reopening);
            batch.into_iter().for_each(|request| refuse(request, &trouble).send(Some(&trouble)));
            return;
        }
        let (admitted, refused) = self.admit(batch);
        let thrifty = !refused.is_empty() || self.low.is_some();
        if let Some(full) = self.inner.trouble.read().clone() {
            refused.into_iter().for_each(|request| refuse(request, &full).send(Some(&full)));
        }
        if admitted.is_empty() {
            return;
        }
        // In need the log is not made longer: what is deleted would only move there.
        let keep = if thrifty { 0 } else { LOG_KEPT };
        match commit(&self.inner, admitted, keep) {
            Err(error) => self.fail(error),
            // What was deleted may have made room: that is seen to soon.
            Ok(()) if thrifty => self.low = Some(Retry::after(None)),
            Ok(()) => {}
        }
    }

    /// Divides what there is room for from what there is not. Deleting needs none.
    fn admit(&mut self, batch: Vec<Request>) -> (Vec<Request>, Vec<Request>) {
        let inner = self.inner.clone();
        let Some(place) = &inner.place else { return (batch, Vec::new()) };
        let need: u64 = batch.iter().map(room).sum();
        if need == 0 {
            return (batch, Vec::new());
        }
        if !has_room(place, ROOM + need) {
            self.make_room(place);
            if self.held.is_some() {
                // Making room has failed.
                return (Vec::new(), batch);
            }
        }
        let mut taken = ROOM;
        let (mut admitted, mut refused) = (Vec::new(), Vec::new());
        for request in batch {
            let need = room(&request);
            if need == 0 || has_room(place, taken + need) {
                taken += need;
                admitted.push(request);
            } else {
                refused.push(request);
            }
        }
        match refused.is_empty() {
            true => self.is_well(),
            false => {
                let path = place.path.display();
                self.has_trouble(StoreError::Full(format!("no room is left beside {path}")));
                self.low.get_or_insert_with(|| Retry::after(None));
            }
        }
        (admitted, refused)
    }

    /// Drops the log, makes the file as small as it can be, and fills the reserve from what that gives.
    fn make_room(&mut self, place: &Place) {
        if self.low.as_ref().is_some_and(|retry| !retry.is_due()) {
            return;
        }
        self.low = Some(Retry::after(self.low.as_ref()));
        let drop_log = |database: &Database| {
            let (latest, compacted) = revisions(&database.begin_read().map_err(StoreError::database)?)?;
            if latest == compacted {
                return Ok(());
            }
            let transaction = database.begin_write().map_err(StoreError::database)?;
            let mut tables = Tables::open(&transaction)?;
            tables.finish(0)?;
            drop(tables);
            transaction.commit().map_err(StoreError::database)
        };
        let made = self.inner.read(drop_log).and_then(|()| {
            // Nobody reads meanwhile.
            self.inner.database.write().database.compact().map_err(StoreError::database)
        });
        match made {
            // Whether it worked shows when room is asked for.
            Ok(_) => drop(place.reserve.refill()),
            Err(error) => self.fail(error),
        }
    }

    /// With nothing to write: whether it could be written again.
    fn tend(&mut self) {
        self.get_over();
        let inner = self.inner.clone();
        if let (None, Some(_), Some(place)) = (&self.held, &self.low, &inner.place) {
            if !has_room(place, ROOM) {
                self.make_room(place);
            }
            if self.held.is_none() && has_room(place, ROOM) {
                self.is_well();
            }
        }
    }

    fn has_trouble(&self, trouble: StoreError) {
        let before = self.inner.trouble.write().replace(trouble.clone());
        // Once for each outage.
        if before.is_none() {
            tracing::error!("{trouble}");
        }
    }

    fn is_well(&mut self) {
        self.low = None;
        if self.inner.trouble.write().take().is_some() {
            tracing::info!("the store takes all writes again");
        }
    }

    /// After a failed write: the database takes no more of them, and is opened again for those who read.
    fn fail(&mut self, error: StoreError) {
        let Some(place) = &self.inner.place else { return };
        tracing::debug!(%error, "a write to the store failed");
        self.has_trouble(error);
        self.held = Some(Retry::after(self.held.as_ref()));
        if let Err(error) = reopen(&self.inner, place, true).or_else(|_| reopen(&self.inner, place, false)) {
            tracing::error!(%error, "the store cannot be opened again after a failure");
        }
    }

    /// When a failure has been waited for long enough: writes may be tried again.
    fn get_over(&mut self) {
        if self.held.as_ref().is_none_or(|retry| !retry.is_due()) {
            return;
        }
        let inner = self.inner.clone();
        let Some(place) = &inner.place else { return };
        if !inner.database.read().writable
            && let Err(error) = reopen(&inner, place, true)
        {
            tracing::debug!(%error, "the store still cannot be written");
            self.held = Some(Retry::after(self.held.as_ref()));
            // The attempt has taken the file from the one before.
            if let Err(error) = reopen(&inner, place, false) {
                tracing::error!(%error, "the store cannot be opened for reading");
            }
            return;
        }
        self.held = None;
        let _ = place.reserve.refill();
        if place.reserve.is_whole() {
            self.is_well();
        } else {
            // With what is left, it is seen at the next write whether there is room.
            self.low.get_or_insert_with(|| Retry::after(None));
        }
    }
}

/// Whether so many bytes fit, with the reserve untouched.
fn has_room(place: &Place, need: u64) -> bool {
    let folder = place.path.parent().unwrap_or(std::path::Path::new("."));
    (place.reserve.is_whole() || place.reserve.refill().is_ok()) && disk::free(folder) >= need
}

/// The room that a request needs; none where it makes the store smaller.
fn room(request: &Request) -> u64 {
    match request {
        Request::Write { operation: Operation::Put { value, .. }, .. } => {
            ROOM_OF_A_WRITE + ROOM_OF_A_BYTE * value.len() as u64
        }
        _ => 0,
    }
}

/// Opens the database again, and tells the watches of what is in the log though its writer was told
/// that it failed.
fn reopen(inner: &Inner, place: &Place, writable: bool) -> Result<(), StoreError> {
    inner.database.read().retire();
    let opened = if writable { Opened::writable(place) } else { Opened::image(place) };
    // Its predecessor ends outside of the lock.
    let before = std::mem::replace(&mut *inner.database.write(), opened.map_err(StoreError::database)?);
    *inner.generation.lock() += 1;
    inner.reopened.notify_all();
    drop(before);
    loop {
        let known = inner.revision.load(Ordering::Acquire);
        let replay = inner.read(|database| super::read::replay(database, "", known))?;
        inner.revision.store(replay.position, Ordering::Release);
        if !replay.events.is_empty() {
            // No watch is open if this fails.
            let _ = inner.events.send(replay.events.into());
        }
        if replay.complete {
            return Ok(());
        }
    }
}

fn size(request: &Request) -> usize {
    match request {
        Request::Write { operation: Operation::Put { value, .. }, .. } => value.len(),
        _ => 0,
    }
}

/// What to tell a caller once the transaction is durable.
enum Answer {
    Write(oneshot::Sender<Result<Written, StoreError>>, Result<Written, StoreError>),
    Compact(oneshot::Sender<Result<(), StoreError>>, Result<(), StoreError>),
}

impl Answer {
    fn send(self, failure: Option<&StoreError>) {
        // A caller that is gone needs no answer.
        match (self, failure) {
            (Self::Write(reply, result), None) => drop(reply.send(result)),
            (Self::Write(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Self::Compact(reply, result), None) => drop(reply.send(result)),
            (Self::Compact(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
        }
    }
}

fn commit(inner: &Inner, batch: Vec<Request>, keep: u64) -> Result<(), StoreError> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    let failure = transact(inner, batch, keep, &mut answers, &mut events).err();
    if failure.is_none()
        && let Some(last) = events.last()
    {
        inner.revision.store(last.revision, Ordering::Release);
        // No watch is open if this fails.
        let _ = inner.events.send(events.into());
    }
    answers.into_iter().for_each(|answer| answer.send(failure.as_ref()));
    failure.map_or(Ok(()), Err)
}

fn transact(
    inner: &Inner,
    batch: Vec<Request>,
    mut keep: u64,
    answers: &mut Vec<Answer>,
    events: &mut Vec<Event>,
) -> Result<(), StoreError> {
    // Every caller gets the failure if the transaction cannot even start.
    let begun = inner.read(|database| database.begin_write().map_err(StoreError::database));
    let mut transaction = match begun {
        Ok(transaction) => Some(transaction),
        Err(error) => {
            answers.extend(batch.into_iter().map(|request| refuse(request, &error)));
            return Err(error);
        }
    };
    let mut failure = None;
    if let Some(transaction) = &transaction {
        let mut tables = match Tables::open(transaction) {
            Ok(tables) => tables,
            Err(error) => {
                answers.extend(batch.into_iter().map(|request| refuse(request, &error)));
                return Err(error);
            }
        };
        for request in batch {
            match request {
                Request::Write { key, precondition, operation, reply } => {
                    let result = tables.write(&key, precondition, operation, events);
                    if let Err(error @ StoreError::Database(_)) = &result {
                        failure = Some(error.clone());
                    }
                    answers.push(Answer::Write(reply, result));
                }
                Request::Compact { keep: wanted, reply } => {
                    keep = keep.min(wanted);
                    answers.push(Answer::Compact(reply, Ok(())));
                }
            }
        }
        if failure.is_none() {
            failure = tables.finish(keep).err();
        }
    }
    match (failure, transaction.take()) {
        (None, Some(transaction)) => transaction.commit().map_err(StoreError::database),
        (failure, transaction) => {
            drop(transaction);
            Err(failure.unwrap_or(StoreError::Closed))
        }
    }
}

fn refuse(request: Request, error: &StoreError) -> Answer {
    match request {
        Request::Write { reply, .. } => Answer::Write(reply, Err(error.clone())),
        Request::Compact { reply, .. } => Answer::Compact(reply, Err(error.clone())),
    }
}

/// The tables of one write transaction, and the counters as they will be after it.
struct Tables<'t> {
    kv: Table<'t, &'static str, Row<'static>>,
    log: Table<'t, u64, LogRow<'static>>,
    meta: Table<'t, &'static str, u64>,
    revision: u64,
    compacted: u64,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        let kv = transaction.open_table(KV).map_err(StoreError::database)?;
        let log = transaction.open_table(LOG).map_err(StoreError::database)?;
        let meta = transaction.open_table(META).map_err(StoreError::database)?;
        let counter = |name: &str| -> Result<u64, StoreError> {
            Ok(meta.get(name).map_err(StoreError::database)?.map_or(0, |value| value.value()))
        };
        let (revision, compacted) = (counter(REVISION)?, counter(COMPACTED)?);
        Ok(Self { kv, log, meta, revision, compacted })
    }

    fn write(
        &mut self,
        key: &str,
        precondition: Precondition,
        operation: Operation,
        events: &mut Vec<Event>,
    ) -> Result<Written, StoreError> {
        let current = self.kv.get(key).map_err(StoreError::database)?.map(|row| stored(row.value()));
        match (precondition, &current) {
            (Precondition::Absent, Some(_)) => return Err(StoreError::AlreadyExists(key.to_owned())),
            (Precondition::Revision(_), None) => return Err(StoreError::NotFound(key.to_owned())),
            (Precondition::Revision(expected), Some(current)) if current.revision != expected => {
                return Err(StoreError::Conflict { key: key.to_owned(), revision: current.revision });
            }
            _ => {}
        }
        match operation {
            Operation::Put { value, required } => {
                if let Some((required, revision)) = required {
                    let found = self.kv.get(required.as_str()).map_err(StoreError::database)?;
                    if found.is_none_or(|row| stored(row.value()).revision != revision) {
                        return Err(StoreError::RequirementChanged(required));
                    }
                }
                self.record(key, Some(value), events)?;
            }
            Operation::Delete { prefixes } => {
                if current.is_none() {
                    return Err(StoreError::NotFound(key.to_owned()));
                }
                for prefix in prefixes {
                    for inside in self.keys(&prefix)? {
                        self.record(&inside, None, events)?;
                    }
                }
                self.record(key, None, events)?;
            }
        }
        Ok(Written { revision: self.revision, previous: current })
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let end = prefix_end(prefix);
        let until = end.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self
            .kv
            .range::<&str>((std::ops::Bound::Included(prefix), until))
            .map_err(StoreError::database)?;
        range.map(|entry| Ok(entry.map_err(StoreError::database)?.0.value().to_owned())).collect()
    }

    /// Writes one key and its entry in the log, at the next revision.
    fn record(&mut self, key: &str, value: Option<Bytes>, events: &mut Vec<Event>) -> Result<(), StoreError> {
        let revision = self.revision + 1;
        let current = self.kv.get(key).map_err(StoreError::database)?.map(|row| stored(row.value()));
        match &value {
            Some(value) => {
                let created = current.as_ref().map_or(revision, |current| current.create_revision);
                self.kv.insert(key, (revision, created, value.as_ref())).map_err(StoreError::database)?;
            }
            None => {
                self.kv.remove(key).map_err(StoreError::database)?;
            }
        }
        let before = current
            .as_ref()
            .map(|current| (current.revision, current.create_revision, current.value.as_ref()));
        self.log.insert(revision, (key, value.as_deref(), before)).map_err(StoreError::database)?;
        self.revision = revision;
        let previous = current.map(|current| current.value);
        events.push(Event { revision, key: Arc::from(key), value, previous });
        Ok(())
    }

    /// Writes the counters, and drops what the log need not keep.
    fn finish(&mut self, keep: u64) -> Result<(), StoreError> {
        let last_dropped = self.revision.saturating_sub(keep);
        if last_dropped > self.compacted {
            self.log
                .retain_in(self.compacted + 1..=last_dropped, |_, _| false)
                .map_err(StoreError::database)?;
            self.compacted = last_dropped;
        }
        self.meta.insert(REVISION, self.revision).map_err(StoreError::database)?;
        self.meta.insert(COMPACTED, self.compacted).map_err(StoreError::database)?;
        Ok(())
    }
}
