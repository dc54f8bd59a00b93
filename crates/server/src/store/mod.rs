//! The store: keys and values with revisions, transactions with preconditions, watches that go on from a
//! revision, and leases ([`lease`]). It holds the state of the mesh, one entry per API object.
//!
//! [`Store`] is one interface over several back ends, and promises no more than all of them keep, etcd among them:
//!
//! - A revision grows with each transaction, and says nothing else: it may skip numbers, and the writes of one
//!   transaction may share it or have one each.
//! - A transaction is about one key: what must hold of it, and at most of another; what becomes of both; and
//!   prefixes that are deleted with it. It is done whole or not at all, and durable when it is answered.
//! - Whoever stops waiting for a write does not know whether it happens.
//! - Old revisions are forgotten after a while. A list or a watch that needs one gets
//!   [`StoreError::Compacted`] and must start over.
//! - Records ([`records`]) are beside all that: they have no revisions, and no watch sees them.
//! - A lease ends when it was not kept alive for its time, when it is taken back, or when its name is leased anew. It
//!   is no key: what stands in the store says nothing of it.
//! - Any call may wait, be it for a disk or for a network.
//!
//! Back ends: [`embedded`], on the server's disk; [`memory`], for tests, which does all that the above allows.
//! Both pass the same tests ([`conformance`]).

#[cfg(test)]
mod conformance;
mod embedded;
mod entry;
mod error;
mod event;
mod lease;
mod memory;
mod records;
mod transaction;
mod watch;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use self::embedded::Embedded;
pub use self::embedded::OpenError;
pub use self::entry::{List, Stored};
pub use self::error::StoreError;
pub use self::event::Event;
pub use self::lease::Lease;
use self::memory::Memory;
pub use self::records::RecordWrite;
use self::transaction::{KeyOperation, Write};
pub use self::transaction::{Precondition, WriteOutcome};
pub use self::watch::Watch;

/// A handle to the store; clones share it.
#[derive(Clone, Debug)]
pub enum Store {
    /// On this server's disk. Its writer ends when the last handle is gone.
    Embedded(Embedded),
    /// Gone with its last handle.
    Memory(Memory),
}

impl Store {
    /// Makes an embedded store that holds one value at first, and opens it. One that is there whole is
    /// opened as it is: the store appears under its name only when it is whole.
    pub fn create(path: &Path, key: &str, value: &[u8]) -> Result<Self, OpenError> {
        Embedded::create(path, key, value).map(Self::Embedded)
    }

    /// Opens an embedded store, which must be there, and repairs what a crash left. On a disk that is full
    /// or can only be read, it is opened for reading. Blocks; a predecessor that is about to end is waited
    /// for, up to a second.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Embedded::open(path).map(Self::Embedded)
    }

    /// A store in memory.
    pub fn in_memory() -> Self {
        Self::Memory(Memory::default())
    }

    /// Why what adds is not written at present, as far as this server knows: the disk is full, or can only
    /// be read.
    pub fn trouble(&self) -> Option<StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.trouble(),
            Self::Memory(_) => None,
        }
    }

    /// The revision of the latest transaction that was answered, to whomever.
    pub async fn revision(&self) -> Result<u64, StoreError> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.revision()),
            Self::Memory(memory) => Ok(memory.revision()),
        }
    }

    pub async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.get(key).await,
            Self::Memory(memory) => Ok(memory.get(key)),
        }
    }

    /// The first `limit` keys after `after` (itself excluded) that start with `prefix`, as of the latest revision.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<List, StoreError> {
        self.list_as_of(prefix, after, limit, None).await
    }

    /// Like [`Store::list`], as of an older revision.
    pub async fn list_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<List, StoreError> {
        self.list_as_of(prefix, after, limit, Some(revision)).await
    }

    async fn list_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<u64>,
    ) -> Result<List, StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.list(prefix, after, limit, at).await,
            Self::Memory(memory) => memory.list(prefix, after, limit, at),
        }
    }

    /// Writes a value. Returns the write's revision.
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
    ) -> Result<WriteOutcome, StoreError> {
        let required = required.map(|(key, revision)| (key.to_owned(), revision));
        self.write(key, precondition, KeyOperation::Put { value: value.into(), required, consume: false })
            .await
    }

    /// Like [`Store::put_requiring`], and deletes that key in the same transaction.
    pub async fn put_consuming(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        precondition: Precondition,
        consumed: (&str, u64),
    ) -> Result<WriteOutcome, StoreError> {
        let required = Some((consumed.0.to_owned(), consumed.1));
        self.write(key, precondition, KeyOperation::Put { value: value.into(), required, consume: true })
            .await
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
        let written = self.write(key, precondition, KeyOperation::Delete { prefixes }).await?;
        match written.previous {
            Some(previous) => Ok((written.revision, previous)),
            None => Err(StoreError::NotFound(key.to_owned())),
        }
    }

    async fn write(
        &self,
        key: &str,
        precondition: Precondition,
        operation: KeyOperation,
    ) -> Result<WriteOutcome, StoreError> {
        let write = Write { key: key.to_owned(), precondition, operation };
        match self {
            Self::Embedded(embedded) => embedded.write(write).await,
            Self::Memory(memory) => memory.write(write),
        }
    }

    /// A record's value.
    pub async fn record(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.record(key).await,
            Self::Memory(memory) => Ok(memory.record(key)),
        }
    }

    /// The first `limit` records from one key (itself included) up to another (itself not), in the order of their keys.
    pub async fn records(
        &self,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.records(from, until, limit).await,
            Self::Memory(memory) => Ok(memory.records(from, until, limit)),
        }
    }

    /// Writes records. What is there otherwise than expected is [`StoreError::RecordChanged`].
    pub async fn write_records(&self, write: RecordWrite) -> Result<(), StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.write_records(write).await,
            Self::Memory(memory) => memory.write_records(write),
        }
    }

    /// All writes to keys that start with `prefix` after `revision`, then new ones as they come.
    pub async fn watch(&self, prefix: &str, revision: u64) -> Result<Watch, StoreError> {
        Watch::open(self, prefix, revision).await
    }

    /// Leases a name for a time, whoever had it before.
    pub async fn grant_lease(&self, name: &str, time: Duration) -> Result<Lease, StoreError> {
        match self {
            Self::Embedded(Embedded { leases, .. }) | Self::Memory(Memory { leases, .. }) => {
                Ok(leases.grant(name, time))
            }
        }
    }

    /// Has a lease go on for its time from now; false where it has ended.
    pub async fn keep_alive(&self, lease: &Lease) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(Embedded { leases, .. }) | Self::Memory(Memory { leases, .. }) => {
                Ok(leases.keep_alive(lease))
            }
        }
    }

    /// Takes a lease back; nothing happens to one that has ended.
    pub async fn revoke_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        match self {
            Self::Embedded(Embedded { leases, .. }) | Self::Memory(Memory { leases, .. }) => {
                leases.revoke(lease);
                Ok(())
            }
        }
    }

    /// Waits until nobody has a lease of a name.
    pub async fn lease_ended(&self, name: &str) -> Result<(), StoreError> {
        match self {
            Self::Embedded(Embedded { leases, .. }) | Self::Memory(Memory { leases, .. }) => {
                leases.ended(name).await;
                Ok(())
            }
        }
    }

    /// Forgets what was before a revision: it is the earliest that can still be listed, and watched from. The
    /// store does so by itself after a while.
    pub async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        match self {
            Self::Embedded(embedded) => embedded.compact(revision).await,
            Self::Memory(memory) => {
                memory.compact(revision);
                Ok(())
            }
        }
    }
}
