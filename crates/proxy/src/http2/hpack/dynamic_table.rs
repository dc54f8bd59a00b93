//! The decoder's dynamic table (RFC 7541, 2.3.2 and 4): typed fields, the newest first.

use std::collections::VecDeque;

use super::decode::Name;
use super::{ENTRY_OVERHEAD, Field, MalformedField};

/// What an index stands for. A malformed field has its place too: the peer counts it.
#[derive(Debug)]
pub(super) struct Entry {
    /// As RFC 7541, 4.1 counts: what was on the wire, whatever it takes here.
    pub size: usize,
    pub field: Result<Field, (MalformedField, Name)>,
}

#[derive(Debug)]
pub(super) struct DynamicTable {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl DynamicTable {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, max }
    }

    #[cfg(test)]
    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.evict(max);
    }

    /// Counted from the newest entry.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// An entry that is larger than the table empties it (RFC 7541, 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        debug_assert!(entry.size >= ENTRY_OVERHEAD);
        let Some(room) = self.max.checked_sub(entry.size) else {
            self.evict(0);
            return;
        };
        self.evict(room);
        self.size += entry.size;
        self.entries.push_front(entry);
    }

    fn evict(&mut self, room: usize) {
        while self.size > room {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
