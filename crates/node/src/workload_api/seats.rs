//! How many connections each workload may have: one that takes all it can leaves the others theirs.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tulle_model::name::WorkloadName;

/// Of one workload; and of all processes together that are of none.
const MOST: usize = 64;

/// Connections by whose they are.
#[derive(Default)]
pub(super) struct Seats(Arc<Mutex<HashMap<Option<WorkloadName>, usize>>>);

/// The room that a connection takes.
pub(super) struct Seat {
    taken: Arc<Mutex<HashMap<Option<WorkloadName>, usize>>>,
    whose: Option<WorkloadName>,
}

impl Seats {
    /// `None` where there is no room left.
    pub fn take(&self, whose: Option<WorkloadName>) -> Option<Seat> {
        let mut taken = self.0.lock();
        let count = taken.entry(whose.clone()).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        Some(Seat { taken: self.0.clone(), whose })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_all_leaves_the_others_theirs() {
        let seats = Seats::default();
        let cart = || Some(WorkloadName::new("shop", "cart"));
        let mut held: Vec<_> = (0..MOST).map(|_| seats.take(cart()).unwrap()).collect();
        assert!(seats.take(cart()).is_none());
        let other = seats.take(Some(WorkloadName::new("shop", "web"))).unwrap();
        let strangers: Vec<_> = (0..MOST).map(|_| seats.take(None).unwrap()).collect();
        assert!(seats.take(None).is_none());
        held.pop();
        held.push(seats.take(cart()).unwrap());
        drop((held, other, strangers));
        assert!(seats.0.lock().is_empty());
    }
}
