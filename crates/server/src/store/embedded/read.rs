//! Reading the database at a snapshot, and as of an older revision.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableError};

use super::{COMPACTED, Event, KV, LOG, List, META, RECORDS, REVISION, Row, StoreError, Stored, prefix_end};

/// The latest revision; an error where the tables are not there.
pub(super) fn latest(database: &Database) -> Result<u64, StoreError> {
    Ok(revisions(&database.begin_read().map_err(StoreError::database)?)?.0)
}

pub(super) fn stored(row: Row<'_>) -> Stored {
    let (revision, create_revision, value) = row;
    Stored { value: Bytes::copy_from_slice(value), revision, create_revision }
}

pub(super) fn get(database: &Database, key: &str) -> Result<Option<Stored>, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database)?;
    let table = transaction.open_table(KV).map_err(StoreError::database)?;
    let row = table.get(key).map_err(StoreError::database)?;
    Ok(row.map(|row| stored(row.value())))
}

type RecordTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// `None` where no server that has records has written yet.
fn records_of(transaction: &ReadTransaction) -> Result<Option<RecordTable>, StoreError> {
    match transaction.open_table(RECORDS) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(StoreError::database(error)),
    }
}

pub(super) fn record(database: &Database, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database)?;
    let Some(table) = records_of(&transaction)? else { return Ok(None) };
    let value = table.get(key).map_err(StoreError::database)?;
    Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
}

pub(super) fn records(
    database: &Database,
    from: &[u8],
    until: &[u8],
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database)?;
    let Some(table) = records_of(&transaction)? else { return Ok(Vec::new()) };
    let range = table.range::<&[u8]>(from..until.max(from)).map_err(StoreError::database)?;
    let copied = |entry: Result<_, redb::StorageError>| {
        let (key, value): (redb::AccessGuard<'_, &'static [u8]>, redb::AccessGuard<'_, &'static [u8]>) =
            entry.map_err(StoreError::database)?;
        Ok((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())))
    };
    range.take(limit).map(copied).collect()
}

/// The latest revision and the highest one dropped from the log.
pub(super) fn revisions(transaction: &ReadTransaction) -> Result<(u64, u64), StoreError> {
    let meta = transaction.open_table(META).map_err(StoreError::database)?;
    let counter = |name: &str| -> Result<u64, StoreError> {
        Ok(meta.get(name).map_err(StoreError::database)?.map_or(0, |value| value.value()))
    };
    Ok((counter(REVISION)?, counter(COMPACTED)?))
}

pub(super) fn list(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    at: Option<u64>,
) -> Result<List, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database)?;
    let (latest, compacted) = revisions(&transaction)?;
    let revision = at.unwrap_or(latest);
    if revision > latest {
        return Err(StoreError::Future { revision, latest });
    }
    if revision < compacted {
        return Err(StoreError::Compacted { revision, compacted });
    }
    let mut undone = undo(&transaction, prefix, revision)?;
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    // What was deleted since then is not in the table: it is merged in, in the order of the keys.
    let mut gone: BTreeMap<String, Stored> = BTreeMap::new();
    let table = transaction.open_table(KV).map_err(StoreError::database)?;
    for (key, then) in &undone {
        let excluded = matches!(from, Bound::Excluded(after) if key.as_str() <= after);
        if let (Some(then), false) = (then, excluded)
            && table.get(key.as_str()).map_err(StoreError::database)?.is_none()
        {
            gone.insert(key.clone(), then.clone());
        }
    }
    let end = prefix_end(prefix);
    let until = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut items = Vec::new();
    for entry in table.range::<&str>((from, until)).map_err(StoreError::database)? {
        let (key, row) = entry.map_err(StoreError::database)?;
        let key = key.value();
        while items.len() <= limit
            && let Some(first) = gone.first_entry()
            && first.key().as_str() < key
        {
            items.push(first.remove_entry());
        }
        if items.len() > limit {
            break;
        }
        match undone.remove(key) {
            Some(Some(then)) => items.push((key.to_owned(), then)),
            Some(None) => {}
            None => items.push((key.to_owned(), stored(row.value()))),
        }
    }
    while items.len() <= limit
        && let Some(first) = gone.pop_first()
    {
        items.push(first);
    }
    let more = items.len() > limit;
    items.truncate(limit);
    Ok(List { items, revision, more })
}

/// For each key under `prefix` that was written after `revision`: what it held at that revision.
fn undo(
    transaction: &ReadTransaction,
    prefix: &str,
    revision: u64,
) -> Result<BTreeMap<String, Option<Stored>>, StoreError> {
    let log = transaction.open_table(LOG).map_err(StoreError::database)?;
    let mut undone = BTreeMap::new();
    for entry in log.range(revision + 1..).map_err(StoreError::database)? {
        let (_, row) = entry.map_err(StoreError::database)?;
        let (key, _, previous) = row.value();
        if key.starts_with(prefix) && !undone.contains_key(key) {
            undone.insert(key.to_owned(), previous.map(stored));
        }
    }
    Ok(undone)
}

/// A stretch of the log.
pub(super) struct Replay {
    pub(super) events: Vec<Event>,
    /// The revision up to which the log has been read.
    pub(super) position: u64,
    /// Whether that is the end of the log.
    pub(super) complete: bool,
}

/// How many events a replay returns, and how many entries of the log it looks at, at once.
const REPLAY_EVENTS: usize = 256;
const REPLAY_SCANNED: usize = 4096;

/// The writes under `prefix` after revision `position`, up to a bound.
pub(super) fn replay(database: &Database, prefix: &str, position: u64) -> Result<Replay, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database)?;
    let (latest, compacted) = revisions(&transaction)?;
    if position < compacted {
        return Err(StoreError::Compacted { revision: position, compacted });
    }
    if position > latest {
        return Err(StoreError::Future { revision: position, latest });
    }
    let log = transaction.open_table(LOG).map_err(StoreError::database)?;
    let mut replay = Replay { events: Vec::new(), position, complete: false };
    let entries = log.range(position + 1..).map_err(StoreError::database)?;
    for (scanned, entry) in entries.enumerate() {
        if scanned == REPLAY_SCANNED || replay.events.len() == REPLAY_EVENTS {
            return Ok(replay);
        }
        let (revision, row) = entry.map_err(StoreError::database)?;
        replay.position = revision.value();
        let (key, value, previous) = row.value();
        if key.starts_with(prefix) {
            replay.events.push(Event {
                revision: revision.value(),
                key: Arc::from(key),
                value: value.map(Bytes::copy_from_slice),
                previous: previous.map(|(_, _, value)| Bytes::copy_from_slice(value)),
            });
        }
    }
    replay.position = latest;
    replay.complete = true;
    Ok(replay)
}
