//! One durable transaction: the writes of a batch, their entries in the log, and the counters.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::super::transaction::{KeyOperation, Write};
use super::read::stored;
use super::{
    COMPACTED, Event, Inner, KV, LOG, LOG_KEPT, LogRow, META, RECORDS, REVISION, RecordWrite, Row,
    StoreError, WriteOutcome, prefix_end,
};

/// The room that a commit may need: in all, for each write, and for each byte of a value (it is kept as
/// the value, in the log, and in the log of what follows; pages come in powers of two).
pub(super) const ROOM: u64 = 256 << 10;
const ROOM_OF_A_WRITE: u64 = 16 << 10;
const ROOM_OF_A_BYTE: u64 = 6;

pub(super) enum Request {
    Write {
        write: Write,
        reply: oneshot::Sender<Result<WriteOutcome, StoreError>>,
    },
    Records {
        write: RecordWrite,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// What is before a revision is forgotten.
    Compact {
        revision: u64,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// A reader has met an error of the file: the database has to be opened again, if that is still the
    /// one that was opened as number `generation`.
    Reopen {
        generation: u64,
        error: StoreError,
    },
}

impl Request {
    /// How many bytes it writes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Write { write: Write { operation: KeyOperation::Put { value, .. }, .. }, .. } => {
                value.len()
            }
            Self::Records { write, .. } => write.size(),
            _ => 0,
        }
    }

    /// The room that it needs, in bytes; none where it makes the store smaller.
    pub(super) fn room(&self) -> u64 {
        match self {
            Self::Write { write: Write { operation: KeyOperation::Put { value, .. }, .. }, .. } => {
                ROOM_OF_A_WRITE + ROOM_OF_A_BYTE * value.len() as u64
            }
            Self::Records { write, .. } if !write.put.is_empty() => {
                ROOM_OF_A_WRITE + ROOM_OF_A_BYTE * write.size() as u64
            }
            _ => 0,
        }
    }

    pub(super) fn refuse(self, error: &StoreError) {
        // A caller that is gone needs no answer.
        match self {
            Self::Write { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Records { reply, .. } | Self::Compact { reply, .. } => {
                drop(reply.send(Err(error.clone())));
            }
            Self::Reopen { .. } => {}
        }
    }
}

/// How much of the log a commit may leave.
#[derive(Clone, Copy)]
pub(super) struct Log {
    /// How many writes it keeps at most.
    pub(super) keep: u64,
    /// How many bytes of the disk are free: what has no room there is not kept.
    pub(super) free: u64,
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
    tables.finish(LOG_KEPT, 0)?;
    drop(tables);
    transaction.commit().map_err(StoreError::database)
}

/// Commits nothing but the counters, and drops all but `keep` writes from the log.
pub(super) fn trim(database: &Database, keep: u64) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(StoreError::database)?;
    let mut tables = Tables::open(&transaction)?;
    tables.finish(keep, 0)?;
    drop(tables);
    transaction.commit().map_err(StoreError::database)
}

/// What to tell a caller once the transaction is durable.
enum Answer {
    Write(oneshot::Sender<Result<WriteOutcome, StoreError>>, Result<WriteOutcome, StoreError>),
    /// Of records, or of a compaction.
    Done(oneshot::Sender<Result<(), StoreError>>, Result<(), StoreError>),
}

impl Answer {
    fn send(self, failure: Option<&StoreError>) {
        // A caller that is gone needs no answer.
        match (self, failure) {
            (Self::Write(reply, result), None) => drop(reply.send(result)),
            (Self::Write(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Self::Done(reply, result), None) => drop(reply.send(result)),
            (Self::Done(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// Commits a batch, tells the watches, and answers. Returns how many bytes of the database it has
/// written or left behind, which is what a compaction may give back one day.
pub(super) fn commit(inner: &Inner, batch: Vec<Request>, log: Log) -> Result<u64, StoreError> {
    let mut answers = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    let done = transact(inner, batch, log, &mut answers, &mut events);
    if done.is_ok()
        && let Some(last) = events.last()
    {
        inner.revision.store(last.revision, Ordering::Release);
        let left: u64 = events.iter().map(weight).sum();
        // No watch is open if this fails.
        let _ = inner.events.send(events.into());
        answers.into_iter().for_each(|answer| answer.send(None));
        return done.map(|recorded| recorded + left);
    }
    answers.into_iter().for_each(|answer| answer.send(done.as_ref().err()));
    done
}

fn weight(event: &Event) -> u64 {
    let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
    (event.key.len() + length(&event.value) + length(&event.previous)) as u64
}

fn transact(
    inner: &Inner,
    batch: Vec<Request>,
    log: Log,
    answers: &mut Vec<Answer>,
    events: &mut Vec<Event>,
) -> Result<u64, StoreError> {
    // The writer waits for nobody: only it could open again what is broken.
    let begun = inner.database.blocking_read().database.begin_write().map_err(StoreError::database);
    let transaction = match begun {
        Ok(transaction) => transaction,
        // Every caller gets the failure if the transaction cannot even start.
        Err(error) => {
            batch.into_iter().for_each(|request| request.refuse(&error));
            return Err(error);
        }
    };
    let recorded = apply(&transaction, batch, log, answers, events)?;
    // Dropped instead, it has done nothing.
    transaction.commit().map_err(StoreError::database)?;
    Ok(recorded)
}

fn apply(
    transaction: &WriteTransaction,
    batch: Vec<Request>,
    log: Log,
    answers: &mut Vec<Answer>,
    events: &mut Vec<Event>,
) -> Result<u64, StoreError> {
    let mut forgotten = 0;
    let mut tables = match Tables::open(transaction) {
        Ok(tables) => tables,
        Err(error) => {
            batch.into_iter().for_each(|request| request.refuse(&error));
            return Err(error);
        }
    };
    tables.log_room = if log.keep == 0 { 0 } else { log.free.saturating_sub(ROOM) / ROOM_OF_A_BYTE };
    let mut failure = None;
    for request in batch {
        if let Some(failure) = &failure {
            request.refuse(failure);
            continue;
        }
        match request {
            Request::Write { write, reply } => {
                let result = tables.write(write, events);
                // What failed may be half done: only a precondition is checked before anything is.
                failure = result.as_ref().err().filter(|error| !error.is_precondition()).cloned();
                answers.push(Answer::Write(reply, result));
            }
            Request::Records { write, reply } => {
                let result = tables.write_records(write);
                failure = result.as_ref().err().filter(|error| !error.is_precondition()).cloned();
                answers.push(Answer::Done(reply, result));
            }
            Request::Compact { revision, reply } => {
                forgotten = forgotten.max(revision);
                answers.push(Answer::Done(reply, Ok(())));
            }
            Request::Reopen { .. } => {}
        }
    }
    failure.map_or_else(|| tables.finish(log.keep, forgotten).map(|()| tables.recorded), Err)
}

/// The tables of one write transaction, and the counters as they will be after it.
struct Tables<'t> {
    kv: Table<'t, &'static str, Row<'static>>,
    records: Table<'t, &'static [u8], &'static [u8]>,
    log: Table<'t, u64, LogRow<'static>>,
    meta: Table<'t, &'static str, u64>,
    revision: u64,
    compacted: u64,
    /// How many bytes of writes the log takes; with less than it needs it is dropped.
    log_room: u64,
    logged: u64,
    /// How many bytes of records were written, or left behind.
    recorded: u64,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        let kv = transaction.open_table(KV).map_err(StoreError::database)?;
        let records = transaction.open_table(RECORDS).map_err(StoreError::database)?;
        let log = transaction.open_table(LOG).map_err(StoreError::database)?;
        let meta = transaction.open_table(META).map_err(StoreError::database)?;
        let counter = |name: &str| -> Result<u64, StoreError> {
            Ok(meta.get(name).map_err(StoreError::database)?.map_or(0, |value| value.value()))
        };
        let (revision, compacted) = (counter(REVISION)?, counter(COMPACTED)?);
        Ok(Self { kv, records, log, meta, revision, compacted, log_room: u64::MAX, logged: 0, recorded: 0 })
    }

    fn write(&mut self, write: Write, events: &mut Vec<Event>) -> Result<WriteOutcome, StoreError> {
        let Write { key, precondition, operation } = write;
        let key = key.as_str();
        let current = self.kv.get(key).map_err(StoreError::database)?.map(|row| stored(row.value()));
        precondition.check(key, current.as_ref())?;
        match operation {
            KeyOperation::Put { value, required, consume } => {
                if let Some((required, revision)) = &required {
                    let found = self.kv.get(required.as_str()).map_err(StoreError::database)?;
                    if found.is_none_or(|row| row.value().0 != *revision) {
                        return Err(StoreError::RequirementChanged(required.clone()));
                    }
                }
                if let (Some((consumed, _)), true) = (&required, consume) {
                    self.record(consumed, None, events)?;
                }
                self.record(key, Some(value), events)?;
            }
            KeyOperation::Delete { prefixes } => {
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
        Ok(WriteOutcome { revision: self.revision, previous: current })
    }

    fn write_records(&mut self, write: RecordWrite) -> Result<(), StoreError> {
        for (key, expected) in &write.expected {
            let found = self.records.get(&**key).map_err(StoreError::database)?;
            RecordWrite::check(key, expected.as_deref(), found.as_ref().map(|found| found.value()))?;
        }
        for (from, until) in &write.expected_none {
            let range = from.as_ref()..until.max(from).as_ref();
            let mut found = self.records.range::<&[u8]>(range).map_err(StoreError::database)?;
            if let Some(found) = found.next() {
                let (key, value) = found.map_err(StoreError::database)?;
                RecordWrite::check(key.value(), None, Some(value.value()))?;
            }
        }
        for (from, until) in &write.cleared {
            let range = from.as_ref()..until.max(from).as_ref();
            let cleared = self.records.extract_from_if(range, |_, _| true).map_err(StoreError::database)?;
            for entry in cleared {
                let (key, value) = entry.map_err(StoreError::database)?;
                self.recorded += (key.value().len() + value.value().len()) as u64;
            }
        }
        for key in &write.deleted {
            let before = self.records.remove(&**key).map_err(StoreError::database)?;
            self.recorded += before.map_or(0, |before| before.value().len() as u64);
        }
        self.recorded += write.size() as u64;
        for (key, value) in &write.put {
            self.records.insert(&**key, &**value).map_err(StoreError::database)?;
        }
        Ok(())
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let end = prefix_end(prefix);
        let until = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.kv.range::<&str>((Bound::Included(prefix), until)).map_err(StoreError::database)?;
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
        let lengths = [key.len(), value.as_ref().map_or(0, Bytes::len), before.map_or(0, |b| b.2.len())];
        self.logged += lengths.iter().sum::<usize>() as u64;
        // On a full disk, what is deleted would only move to the log.
        if self.logged <= self.log_room {
            self.log.insert(revision, (key, value.as_deref(), before)).map_err(StoreError::database)?;
        }
        self.revision = revision;
        let previous = current.map(|current| current.value);
        events.push(Event { revision, key: Arc::from(key), value, previous });
        Ok(())
    }

    /// Writes the counters, and drops what the log need not keep: all but the last `keep` writes, and what is
    /// `forgotten` up to a revision.
    fn finish(&mut self, keep: u64, forgotten: u64) -> Result<(), StoreError> {
        let keep = if self.logged <= self.log_room { keep } else { 0 };
        let needless = self.revision.saturating_sub(keep).max(forgotten.min(self.revision));
        let last_dropped = needless.max(self.compacted);
        if last_dropped != self.compacted {
            let dropped = (Bound::Excluded(self.compacted), Bound::Included(last_dropped));
            self.log.retain_in(dropped, |_, _| false).map_err(StoreError::database)?;
            self.compacted = last_dropped;
        }
        self.meta.insert(REVISION, self.revision).map_err(StoreError::database)?;
        self.meta.insert(COMPACTED, self.compacted).map_err(StoreError::database)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::ReadableDatabase;

    use super::super::super::{Precondition, Store};
    use super::super::{Embedded, read};
    use super::*;

    fn put(length: usize) -> Request {
        let operation = KeyOperation::Put { value: vec![0; length].into(), required: None, consume: false };
        request(operation)
    }

    fn request(operation: KeyOperation) -> Request {
        let (reply, _) = oneshot::channel();
        let write = Write { key: "/a".to_owned(), precondition: Precondition::Any, operation };
        Request::Write { write, reply }
    }

    #[test]
    fn only_what_adds_needs_room() {
        let delete = request(KeyOperation::Delete { prefixes: Vec::new() });
        let (reply, _) = oneshot::channel();
        let compact = Request::Compact { revision: 0, reply };
        let records = |put: &'static [u8]| {
            let (reply, _) = oneshot::channel();
            let put = if put.is_empty() { vec![] } else { vec![(Bytes::from_static(b"k"), put.into())] };
            Request::Records { write: RecordWrite { put, ..RecordWrite::default() }, reply }
        };
        for (request, size, room) in [
            (put(0), 0, 16_384),
            (put(10), 10, 16_444),
            (delete, 0, 0),
            (compact, 0, 0),
            (records(b"123456789"), 10, 16_444),
            (records(b""), 0, 0),
        ] {
            assert_eq!((request.size(), request.room()), (size, room));
        }
        assert_eq!(ROOM, 262_144);
    }

    #[test]
    fn an_event_weighs_what_the_disk_holds_of_it() {
        let bytes = |length: usize| Some(Bytes::from(vec![0; length]));
        let event = |value, previous| Event { revision: 1, key: "/a".into(), value, previous };
        assert_eq!(weight(&event(bytes(3), bytes(5))), 10);
        assert_eq!(weight(&event(None, bytes(5))), 7);
        assert_eq!(weight(&event(bytes(3), None)), 5);
    }

    #[tokio::test]
    async fn the_log_is_dropped_up_to_what_is_kept_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::create(&folder.path().join("store.redb"), "/a", b"1").unwrap();
        let store = Store::Embedded(embedded.clone());
        for value in ["2", "3", "4"] {
            store.put("/a", value, Precondition::Any).await.unwrap();
        }
        let database = embedded.inner.database.read().await;
        let logged = || {
            let transaction = database.database.begin_read().unwrap();
            let log = transaction.open_table(LOG).unwrap();
            let kept: Vec<_> = log.range(0..).unwrap().map(|entry| entry.unwrap().0.value()).collect();
            (read::revisions(&transaction).unwrap(), kept)
        };
        assert_eq!(logged(), ((4, 0), vec![1, 2, 3, 4]));
        for (keep, expected) in [
            (9, ((4, 0), vec![1, 2, 3, 4])),
            (2, ((4, 2), vec![3, 4])),
            (3, ((4, 2), vec![3, 4])),
            (0, ((4, 4), vec![])),
        ] {
            trim(&database.database, keep).unwrap();
            assert_eq!(logged(), expected, "{keep}");
        }
    }
}
