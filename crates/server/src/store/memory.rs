//! The store in memory, for tests where the disk does not matter. It does what [`super::Store`] allows and the
//! embedded one does not: revisions skip numbers, and the writes of one transaction share theirs.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::event::Reading;
use super::lease::LeaseTable;
use super::transaction::{KeyOperation, Write};
use super::{Event, List, RecordWrite, StoreError, Stored, WriteOutcome};

/// How many writes are remembered.
const REMEMBERED: usize = 10_000;
/// How far a transaction's revision is from the one before.
const STEP: u64 = 3;

/// The store; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    contents: Arc<Mutex<Contents>>,
    /// Told of each transaction.
    written: Arc<watch::Sender<()>>,
    pub(super) leases: LeaseTable,
}

#[derive(Debug, Default)]
struct Contents {
    now: BTreeMap<String, Stored>,
    records: BTreeMap<Bytes, Bytes>,
    log: VecDeque<Logged>,
    revision: u64,
    /// The highest revision that is forgotten.
    compacted: u64,
}

#[derive(Debug)]
struct Logged {
    event: Event,
    before: Option<Stored>,
}

impl Memory {
    pub(super) fn revision(&self) -> u64 {
        self.contents.lock().revision
    }

    pub(super) fn get(&self, key: &str) -> Option<Stored> {
        self.contents.lock().now.get(key).cloned()
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<u64>,
    ) -> Result<List, StoreError> {
        let contents = self.contents.lock();
        let revision = at.unwrap_or(contents.revision);
        contents.check(revision)?;
        let mut then: BTreeMap<&str, Option<&Stored>> =
            contents.under(prefix).map(|(key, stored)| (key.as_str(), Some(stored))).collect();
        // What was written since is undone, the latest first.
        for Logged { event, before } in contents.log.iter().rev() {
            if event.revision > revision && event.key.starts_with(prefix) {
                then.insert(&event.key, before.as_ref());
            }
        }
        let items = then.into_iter().filter_map(|(key, stored)| Some((key.to_owned(), stored?.clone())));
        let mut items = items.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let part = items.by_ref().take(limit).collect();
        Ok(List { items: part, revision, more: items.next().is_some() })
    }

    pub(super) fn write(&self, write: Write) -> Result<WriteOutcome, StoreError> {
        let written = self.contents.lock().write(write)?;
        self.written.send_replace(());
        Ok(written)
    }

    pub(super) fn record(&self, key: &[u8]) -> Option<Bytes> {
        self.contents.lock().records.get(key).cloned()
    }

    pub(super) fn records(&self, from: &[u8], until: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
        let contents = self.contents.lock();
        let range =
            contents.records.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until.max(from))));
        range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn write_records(&self, write: RecordWrite) -> Result<(), StoreError> {
        let records = &mut self.contents.lock().records;
        for (key, expected) in &write.expected {
            RecordWrite::check(key, expected.as_deref(), records.get(key).map(|found| &**found))?;
        }
        for (from, until) in &write.expected_none {
            let range = (Bound::Included(from), Bound::Excluded(until.max(from)));
            if let Some((key, found)) = records.range::<Bytes, _>(range).next() {
                RecordWrite::check(key, None, Some(found))?;
            }
        }
        for (from, until) in &write.cleared {
            records.retain(|key, _| key < from || key >= until);
        }
        write.deleted.iter().for_each(|key| drop(records.remove(key)));
        records.extend(write.put);
        Ok(())
    }

    pub(super) fn compact(&self, revision: u64) {
        let mut contents = self.contents.lock();
        let revision = revision.min(contents.revision);
        contents.forget(revision);
    }

    pub(super) fn follow(&self) -> MemoryFollow {
        MemoryFollow { memory: self.clone(), written: self.written.subscribe() }
    }
}

impl Contents {
    fn check(&self, revision: u64) -> Result<(), StoreError> {
        let (latest, compacted) = (self.revision, self.compacted);
        if revision > latest {
            return Err(StoreError::Future { revision, latest });
        }
        if revision < compacted { Err(StoreError::Compacted { revision, compacted }) } else { Ok(()) }
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = (&String, &Stored)> {
        self.now.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn write(&mut self, write: Write) -> Result<WriteOutcome, StoreError> {
        let Write { key, precondition, operation } = write;
        let previous = self.now.get(&key).cloned();
        precondition.check(&key, previous.as_ref())?;
        let revision = self.revision + STEP;
        match operation {
            KeyOperation::Put { value, required, consume } => {
                if let Some((required, at)) = &required
                    && self.now.get(required).is_none_or(|found| found.revision != *at)
                {
                    return Err(StoreError::RequirementChanged(required.clone()));
                }
                if let (Some((consumed, _)), true) = (&required, consume) {
                    self.record(revision, consumed, None);
                }
                let created = previous.as_ref().map_or(revision, |previous| previous.create_revision);
                self.record(revision, &key, Some(Stored { value, revision, create_revision: created }));
            }
            KeyOperation::Delete { prefixes } => {
                if previous.is_none() {
                    return Err(StoreError::NotFound(key));
                }
                for prefix in prefixes {
                    let inside: Vec<_> = self.under(&prefix).map(|(key, _)| key.clone()).collect();
                    inside.iter().for_each(|key| self.record(revision, key, None));
                }
                self.record(revision, &key, None);
            }
        }
        self.revision = revision;
        let too_old = self.log.len().checked_sub(REMEMBERED + 1).and_then(|last| self.log.get(last));
        if let Some(last) = too_old.map(|logged| logged.event.revision) {
            self.forget(last);
        }
        Ok(WriteOutcome { revision, previous })
    }

    fn record(&mut self, revision: u64, key: &str, stored: Option<Stored>) {
        let value = stored.as_ref().map(|stored| stored.value.clone());
        let before = match stored {
            Some(stored) => self.now.insert(key.to_owned(), stored),
            None => self.now.remove(key),
        };
        let previous = before.as_ref().map(|before| before.value.clone());
        self.log.push_back(Logged { event: Event { revision, key: key.into(), value, previous }, before });
    }

    /// Forgets all up to a revision.
    fn forget(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision);
        while self.log.front().is_some_and(|logged| logged.event.revision <= self.compacted) {
            self.log.pop_front();
        }
    }
}

/// Where a watch gets its writes.
#[derive(Debug)]
pub struct MemoryFollow {
    memory: Memory,
    written: watch::Receiver<()>,
}

impl MemoryFollow {
    /// Waits until there is more.
    pub(super) async fn fill(&mut self, read: &mut Reading) -> Result<(), StoreError> {
        if self.fill_ready(read)? {
            return Ok(());
        }
        self.written.changed().await.map_err(|_| StoreError::Closed)
    }

    /// Takes what there is; false where there is nothing.
    pub(super) fn fill_ready(&mut self, read: &mut Reading) -> Result<bool, StoreError> {
        // What is written from now on wakes whoever waits.
        self.written.mark_unchanged();
        let contents = self.memory.contents.lock();
        contents.check(read.to)?;
        let from = contents.log.partition_point(|logged| logged.event.revision <= read.to);
        let new = contents.log.range(from..).map(|logged| &logged.event);
        let before = read.pending.len();
        read.pending.extend(new.filter(|event| event.key.starts_with(&read.prefix)).cloned());
        read.to = contents.revision;
        Ok(read.pending.len() > before)
    }
}
