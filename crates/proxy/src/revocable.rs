//! Links of one worker by the stamps of their peers' certificates, so that they end when the node at the other end is revoked,
//! and not only when its certificate does.

use std::cell::RefCell;

use tulle_model::snapshot::FastMap;
use tulle_model::stamp::{Revoked, Stamp};

use crate::departing::{Ending, Exit};

/// The links that may have to end.
#[derive(Default)]
pub(crate) struct Revocable(RefCell<FastMap<Stamp, Vec<Exit>>>);

impl Revocable {
    /// Says when a link has to end that stands with a certificate of that stamp. `revoked`: the list of now, which may be newer than
    /// the one that the certificate was held against.
    pub fn watch(&self, stamp: Option<Stamp>, revoked: &Revoked) -> Ending {
        let (exit, ending) = Exit::new();
        let Some(stamp) = stamp else { return ending };
        if revoked.includes(Some(stamp)) {
            exit.end();
            return ending;
        }
        let mut links = self.0.borrow_mut();
        if !links.contains_key(&stamp) {
            // A newcomer is rare, and those who are gone leave with it.
            links.retain(|_, exits| exits.iter().any(|exit| !exit.is_over()));
        }
        let exits = links.entry(stamp).or_default();
        if exits.len() == exits.capacity() {
            exits.retain(|exit| !exit.is_over());
        }
        exits.push(exit);
        ending
    }

    /// Ends those whose peers are revoked; returns how many.
    pub fn end(&self, revoked: &Revoked) -> usize {
        let mut links = self.0.borrow_mut();
        links
            .extract_if(|stamp, _| revoked.includes(Some(*stamp)))
            .flat_map(|(_, exits)| exits)
            .filter_map(|exit| exit.end().then_some(()))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn links_of_who_is_revoked_end_and_no_others() {
        let links = Revocable::default();
        let none = Revoked::default();
        let [mut first, mut second, mut other] = [7, 7, 8].map(|n| links.watch(Some(Stamp(n)), &none));
        let mut unnamed = links.watch(None, &none);
        assert_eq!(links.end(&none), 0);
        drop(links.watch(Some(Stamp(7)), &none));
        let revoked = Revoked::of([Stamp(7), Stamp(9)]);
        assert_eq!(links.end(&revoked), 2);
        assert_eq!(links.end(&revoked), 0);
        assert!(first.told().now_or_never().is_some() && second.told().now_or_never().is_some());
        assert!(other.told().now_or_never().is_none() && unnamed.told().now_or_never().is_none());
        // One that was let in by an older list.
        assert!(links.watch(Some(Stamp(9)), &revoked).told().now_or_never().is_some());
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let links = Revocable::default();
        let none = Revoked::default();
        let kept = links.watch(Some(Stamp(0)), &none);
        for n in 0..1000 {
            drop(links.watch(Some(Stamp(n / 100)), &none));
        }
        let left: usize = links.0.borrow().values().map(Vec::len).sum();
        assert!(left <= 8 && links.0.borrow().len() <= 2, "{left}");
        drop(kept);
    }
}
