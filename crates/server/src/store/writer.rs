//! The thread that writes: it takes what has queued up, commits it in one durable transaction,
//! tells the watches, and then acknowledges. A sync to disk costs about the same for one write as
//! for a hundred.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::read::stored;
use super::{
    COMPACTED, Event, Inner, KV, LOG, LOG_KEPT, LogRow, META, Precondition, REVISION, Row, StoreError,
    Written, prefix_end,
};

/// How many writes, and how many bytes of them, one commit takes at most.
const BATCH_WRITES: usize = 128;
const BATCH_BYTES: usize = 4 << 20;

/// How often a database that has failed is opened again at most, when there is something to write.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

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

/// Starts the writer. It ends when all senders of `requests` are gone.
pub(super) fn spawn(inner: Arc<Inner>, requests: mpsc::Receiver<Request>) -> Result<(), StoreError> {
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || run(&inner, requests))
        .map(|_| ())
        .map_err(|error| StoreError::Database(format!("cannot start the store's thread: {error}")))
}

fn run(inner: &Inner, mut requests: mpsc::Receiver<Request>) {
    let mut failed = false;
    let mut reopened: Option<Instant> = None;
    while let Some(first) = requests.blocking_recv() {
        let mut bytes = size(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH_WRITES
            && bytes < BATCH_BYTES
            && let Ok(request) = requests.try_recv()
        {
            bytes += size(&request);
            batch.push(request);
        }
        // Not for every write: opening may have to repair, and readers wait for it.
        if failed && reopened.is_none_or(|at| at.elapsed() >= REOPEN_AFTER) {
            reopened = Some(Instant::now());
            match reopen(inner) {
                Ok(()) => failed = false,
                Err(error) => tracing::error!(%error, "the store cannot be opened again"),
            }
        }
        failed |= commit(inner, batch).is_err();
    }
}

/// Gets over a failed write, and tells the watches of what is in the log though its writer was told
/// that it failed.
fn reopen(inner: &Inner) -> Result<(), StoreError> {
    inner.reopen()?;
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

fn commit(inner: &Inner, batch: Vec<Request>) -> Result<(), StoreError> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    let failure = transact(inner, batch, &mut answers, &mut events).err();
    if let Some(error) = &failure {
        tracing::error!(%error, "a write to the store failed");
    } else if let Some(last) = events.last() {
        inner.revision.store(last.revision, Ordering::Release);
        // No watch is open if this fails.
        let _ = inner.events.send(events.into());
    }
    for answer in answers {
        // A caller that is gone needs no answer.
        match (answer, &failure) {
            (Answer::Write(reply, result), None) => drop(reply.send(result)),
            (Answer::Write(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Answer::Compact(reply, result), None) => drop(reply.send(result)),
            (Answer::Compact(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
        }
    }
    failure.map_or(Ok(()), Err)
}

fn transact(
    inner: &Inner,
    batch: Vec<Request>,
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
        let mut keep = LOG_KEPT;
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
