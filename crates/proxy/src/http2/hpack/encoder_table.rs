//! The encoder's dynamic table (RFC 7541, 2.3.2 and 4), with what finds an entry, and what decides
//! whether there should be one.

use std::collections::VecDeque;

use super::{ENTRY_OVERHEAD, static_table};

/// Few enough that a place in the table fits 16 bits many times over.
pub(super) const MOST_BYTES: usize = 4096;

#[derive(Debug)]
struct EncoderEntry {
    /// The name, then the value. A copy: a value that is shared may keep a whole buffer alive.
    text: Box<[u8]>,
    name_length: usize,
}

impl EncoderEntry {
    fn name(&self) -> &[u8] {
        &self.text[..self.name_length]
    }

    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        // The value first: names are the same far more often.
        self.text.len() == name.len() + value.len()
            && self.name_length == name.len()
            && self.text[name.len()..] == *value
            && self.text[..name.len()] == *name
    }

    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }
}

#[derive(Debug)]
pub(super) struct EncoderTable {
    /// The newest at the back.
    entries: VecDeque<EncoderEntry>,
    size: usize,
    max: usize,
    /// How many were ever inserted, modulo 2^16: an entry is as old as the difference.
    inserted: u16,
    fields: HashIndex<128>,
    names: HashIndex<32>,
}

impl EncoderTable {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: MOST_BYTES,
            inserted: 0,
            fields: HashIndex::default(),
            names: HashIndex::default(),
        }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max.min(MOST_BYTES);
        self.evict(self.max);
    }

    /// The index of an entry with this name and value.
    #[inline]
    pub(super) fn field(&self, hash: u64, name: &[u8], value: &[u8]) -> Option<usize> {
        self.find(self.fields.candidates(hash), hash, |entry| entry.is(name, value))
    }

    /// The index of an entry with this name.
    pub(super) fn name(&self, hash: u64, name: &[u8]) -> Option<usize> {
        self.find(self.names.candidates(hash), hash, |entry| entry.name() == name)
    }

    #[inline]
    fn find(&self, places: &[IndexSlot], hash: u64, is: impl Fn(&EncoderEntry) -> bool) -> Option<usize> {
        for place in places {
            // The newest is of age one. Those that were evicted are older than the table is long.
            let age = usize::from(self.inserted.wrapping_sub(place.number));
            if place.tag == tag(hash)
                && let Some(at) = self.entries.len().checked_sub(age)
                && let Some(entry) = self.entries.get(at)
                && is(entry)
            {
                return Some(static_table::LENGTH + age);
            }
        }
        None
    }

    /// Whether an entry of that size may push out others: one that takes much of the table is not
    /// worth what goes for it.
    pub(super) fn admits(&self, name: &str, value: &[u8]) -> bool {
        name.len() + value.len() + ENTRY_OVERHEAD <= self.max / 4
    }

    /// `name_hash`: of a name that only this table has.
    pub(super) fn insert(&mut self, hash: u64, name_hash: Option<u64>, name: &str, value: &[u8]) {
        let text = [name.as_bytes(), value].concat().into_boxed_slice();
        let entry = EncoderEntry { text, name_length: name.len() };
        let Some(room) = self.max.checked_sub(entry.size()) else {
            self.evict(0);
            return;
        };
        self.evict(room);
        self.size += entry.size();
        self.entries.push_back(entry);
        self.fields.insert(hash, self.inserted);
        if let Some(hash) = name_hash {
            self.names.insert(hash, self.inserted);
        }
        self.inserted = self.inserted.wrapping_add(1);
    }

    fn evict(&mut self, room: usize) {
        while self.size > room {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.size -= oldest.size();
        }
    }
}

/// Where to look for the entry of a hash: sets of four places, of which the oldest gives way. So a look-up
/// is bounded whatever the hashes, and nothing needs to be removed: a place whose entry is gone, or whose
/// number came round again, leads to an entry that is not what was looked for.
#[derive(Debug, Default)]
struct HashIndex<const SETS: usize> {
    /// Empty until the first insertion: most connections that idle have none.
    sets: Vec<[IndexSlot; 4]>,
}

#[derive(Debug, Default, Clone, Copy)]
struct IndexSlot {
    tag: u16,
    /// The entry's, as [`EncoderTable::inserted`] counts.
    number: u16,
}

fn tag(hash: u64) -> u16 {
    (hash >> 48) as u16
}

impl<const SETS: usize> HashIndex<SETS> {
    #[inline]
    fn candidates(&self, hash: u64) -> &[IndexSlot] {
        self.sets.get(hash as usize % SETS).map_or(&[], |set| set)
    }

    fn insert(&mut self, hash: u64, number: u16) {
        if self.sets.is_empty() {
            self.sets = vec![[IndexSlot { tag: 0, number: number.wrapping_sub(1) }; 4]; SETS];
        }
        let set = &mut self.sets[hash as usize % SETS];
        let place = IndexSlot { tag: tag(hash), number };
        if let Some(oldest) = set.iter_mut().max_by_key(|old| number.wrapping_sub(old.number)) {
            *oldest = place;
        }
    }
}

/// What was seen of late and is not in the table: how often, as far as it matters. Bounded: what is new
/// takes the place of something else.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Of each hash 30 bits, and a count of up to three. Empty until the first.
    sets: Vec<[u32; 4]>,
    /// How many were new. It chooses who gives way, as good as at random: with an order, what returns
    /// together could push itself out forever.
    new: u64,
}

/// With four places each, about as many as the table has entries: what returns later than that would not
/// be there any more.
const SIGHTING_SETS: usize = 32;

impl Sightings {
    /// How often this hash was seen, with this time.
    pub(super) fn count(&mut self, hash: u64) -> u32 {
        if self.sets.is_empty() {
            self.sets = vec![[0; 4]; SIGHTING_SETS];
        }
        let set = &mut self.sets[hash as usize % SIGHTING_SETS];
        let tag = (hash >> 32) as u32 & !3;
        for seen in &mut *set {
            if *seen != 0 && *seen & !3 == tag {
                *seen = tag | ((*seen & 3) + 1).min(3);
                return *seen & 3;
            }
        }
        self.new = self.new.wrapping_add(1);
        let other = (self.new.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62) as usize;
        let place = set.iter().position(|&seen| seen == 0).unwrap_or(other);
        set[place] = tag | 1;
        1
    }
}
