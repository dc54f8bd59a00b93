//! Streams that a client never opened, and cannot any more: it has opened later ones (RFC 9113, section 5.1.1).

use std::ops::Range;

/// So many gaps are remembered. Clients leave none, as a rule.
const MOST: usize = 16;

/// What tells streams that were skipped from such as are over.
#[derive(Debug, Default)]
pub(super) struct Skipped(Vec<Range<u32>>);

impl Skipped {
    /// A client has opened `id` after `last`; 0: after none.
    #[inline]
    pub fn note(&mut self, last: u32, id: u32) {
        // Of odd numbers, of which the first is 1.
        if id - last > 2 && self.0.len() < MOST {
            self.0.push(last + 1..id);
        }
    }

    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|gap| gap.contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_remembered_up_to_a_number() {
        let mut skipped = Skipped::default();
        let mut last = 0;
        for id in [1, 3, 9, 11, 13, 17] {
            skipped.note(last, id);
            last = id;
        }
        let found: Vec<u32> = (1..20).step_by(2).filter(|id| skipped.contains(*id)).collect();
        assert_eq!(found, [5, 7, 15]);
        let mut orderly = Skipped::default();
        (0..100).for_each(|n: u32| orderly.note((2 * n).saturating_sub(1), 2 * n + 1));
        assert_eq!(orderly.0, [], "who leaves none takes no room from later ones");
        let mut late = Skipped::default();
        late.note(0, 5);
        assert!(late.contains(1) && late.contains(3) && !late.contains(5));
        for n in 0..100 {
            late.note(5 + 10 * n, 15 + 10 * n);
        }
        assert_eq!(late.0.len(), MOST);
    }
}
