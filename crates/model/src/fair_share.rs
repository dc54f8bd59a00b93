//! How much of a bound that many share one of them may take: max-min fairness among those that are
//! there and one more that may come.
//!
//! Nobody holds more than what is free. A bound that one wants all of is so shared half and half with
//! whoever comes next; of two, each gets a third; and so on. Who holds less than that never notices
//! the others, and nobody has to be told who the others are. Who came too early and holds more than
//! its share gets nothing more until it does not.

/// How a bound stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub total: u64,
    /// What nobody holds. Negative: what had to be taken was more than there was.
    pub free: i64,
}

/// The part of a bound that anyone may take as long as anything is free, however many others there are.
const CERTAIN: u64 = 64;

impl Bound {
    /// Whether one that holds `held` may take `wanted` more.
    pub fn allows(&self, held: u64, wanted: u64) -> bool {
        self.leaves(held, wanted, 1)
    }

    /// The same where it can do without: it leaves some of its share to what it cannot do without.
    pub fn allows_spare(&self, held: u64, wanted: u64) -> bool {
        self.leaves(held, wanted, 2)
    }

    /// Whether as much is free afterwards as it holds, so many times.
    fn leaves(&self, held: u64, wanted: u64, times: u64) -> bool {
        let Ok(free) = u64::try_from(self.free) else { return false };
        let Some(left) = free.checked_sub(wanted) else { return false };
        let would_hold = held.saturating_add(wanted).saturating_mul(times);
        would_hold <= left || would_hold <= self.total / CERTAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets each take one at a time, in turn, until it has what it wants or may not; what each got.
    fn fill(total: u64, wants: &[u64]) -> Vec<u64> {
        let mut held = vec![0; wants.len()];
        let mut going = true;
        while going {
            going = false;
            for (held_by_it, want) in (0..wants.len()).zip(wants) {
                let free = total as i64 - held.iter().sum::<u64>() as i64;
                if held[held_by_it] < *want && (Bound { total, free }).allows(held[held_by_it], 1) {
                    held[held_by_it] += 1;
                    going = true;
                }
            }
        }
        held
    }

    #[test]
    fn who_wants_little_gets_it_and_the_others_get_the_same() {
        assert_eq!(fill(1000, &[u64::MAX]), [500]);
        assert_eq!(fill(999, &[u64::MAX, u64::MAX]), [333, 333]);
        assert_eq!(fill(1000, &[100, u64::MAX, 50, u64::MAX])[..3], [100, 283, 50]);
    }

    #[test]
    fn one_that_was_first_leaves_room_for_those_that_come() {
        let total = 6400;
        let mut held = vec![fill(total, &[u64::MAX])[0]];
        let mut came = 0;
        loop {
            let free = total as i64 - held.iter().sum::<u64>() as i64;
            let bound = Bound { total, free };
            assert!(!bound.allows(held[0], 1), "the first is over its share");
            if free == 0 {
                break;
            }
            // Half of what is free, and at the end the certain part, whether others come or not.
            let own = (0..).take_while(|n| Bound { total, free: free - *n }.allows(*n as u64, 1)).count();
            assert_eq!(own as u64, (free as u64 / 2).max(total / CERTAIN).min(free as u64), "of {free}");
            held.push(own as u64);
            came += 1;
        }
        assert!(came >= CERTAIN.ilog2(), "room for {came} only");
    }

    #[test]
    fn what_one_can_do_without_leaves_room_for_what_it_cannot() {
        let bound = |held: u64| Bound { total: 900, free: 900 - held as i64 };
        assert!(bound(299).allows_spare(299, 1) && !bound(300).allows_spare(300, 1));
        assert!(bound(300).allows(300, 150));
        assert!(bound(0).allows_spare(0, 7) && !Bound { total: 900, free: 0 }.allows_spare(0, 1));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert!(!Bound { total: 100, free: 0 }.allows(0, 1));
        assert!(!Bound { total: 100, free: -5 }.allows(0, 1));
        assert!(Bound { total: 100, free: 0 }.allows(0, 0));
    }
}
