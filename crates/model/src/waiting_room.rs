//! Peers that have connected and not said yet what they want. They cost next to nothing each, so there is
//! room for many; when it is full, the one who has kept silent for the longest goes, not the newcomer,
//! who may be about to speak. So nobody keeps others out by saying nothing.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::snapshot::FastMap;

/// A bounded number of places, each with something that the caller keeps there (`T`: what ends the peer).
///
/// `G` tells groups of peers apart, addresses for example: a full room makes space in the group that has the
/// most places, so that one address in a flood gets in its own way before it gets in that of others.
#[derive(Debug)]
pub struct WaitingRoom<G, T> {
    capacity: usize,
    next: u64,
    /// In the order in which they came.
    places: BTreeMap<Ticket, (G, T)>,
    groups: FastMap<G, usize>,
}

/// A place in a [`WaitingRoom`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl<G: Hash + Eq + Copy, T> WaitingRoom<G, T> {
    /// A room with `capacity` places, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), next: 0, places: BTreeMap::new(), groups: FastMap::default() }
    }

    /// Takes a place. What had to go for it comes back, and is to be ended by the caller.
    pub fn enter(&mut self, group: G, kept: T) -> (Ticket, Option<T>) {
        let evicted = if self.places.len() >= self.capacity { self.evict() } else { None };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.places.insert(ticket, (group, kept));
        *self.groups.entry(group).or_default() += 1;
        (ticket, evicted)
    }

    /// Gives a place back; `None` where somebody else was let in for it.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let (group, kept) = self.places.remove(&ticket)?;
        if let Entry::Occupied(mut count) = self.groups.entry(group) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(kept)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The oldest of the group that has the most places; of groups as large, the one with the oldest.
    fn evict(&mut self) -> Option<T> {
        let most = *self.groups.values().max()?;
        let (ticket, _) = self.places.iter().find(|(_, (group, _))| self.groups[group] == most)?;
        self.leave(*ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_the_newcomer_stays() {
        let mut room = WaitingRoom::new(2);
        let (first, none) = room.enter((), "first");
        assert_eq!(none, None);
        let (second, _) = room.enter((), "second");
        assert_eq!(room.enter((), "third").1, Some("first"));
        assert_eq!(room.leave(first), None, "its place is somebody else's");
        assert_eq!(room.leave(second), Some("second"));
        assert_eq!(room.enter((), "fourth").1, None);
        assert_eq!(room.len(), 2);
    }

    #[test]
    fn a_flood_from_one_address_costs_that_address_its_places() {
        let mut room = WaitingRoom::new(8);
        let (quiet, _) = room.enter("neighbour", 0);
        for n in 1..1000 {
            let (_, evicted) = room.enter("flood", n);
            assert_ne!(evicted, Some(0));
        }
        assert_eq!(room.leave(quiet), Some(0));
        // Of two groups of one size, the older place goes.
        let mut room = WaitingRoom::new(2);
        room.enter("a", 'a');
        room.enter("b", 'b');
        assert_eq!(room.enter("c", 'c').1, Some('a'));
        assert_eq!(room.groups.len(), 2);
    }
}
