//! All summaries that are known, each with when it was last seen: of an edge as many as are told apart, and of all of them as
//! many as there is room for, of which the oldest go.

use std::collections::HashMap;

use super::{Callee, Comer, OF_EDGE, Summary};
use crate::identity::SpiffeId;

/// How long they are kept: a day.
pub const KEPT_SECONDS: i64 = 24 * 60 * 60;
/// How much more of an edge there may be, of what is no longer told apart: one of each port.
const RESERVE: usize = 16;

/// Of one edge: `None` is the outside.
type EdgeOf = (Option<SpiffeId>, Callee, bool);

/// Time is given in seconds, from whatever start.
#[derive(Debug)]
pub struct Book {
    seen: HashMap<Summary, i64>,
    edges: HashMap<EdgeOf, usize>,
    most: usize,
    swept: i64,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// It is new, or stands for what there was no room for.
    New(Summary),
    /// It was known, and is seen again.
    Again(Summary),
    /// There is no room.
    No,
}

impl Book {
    /// With room for so many.
    pub fn new(most: usize) -> Self {
        Self { seen: HashMap::new(), edges: HashMap::new(), most: most.max(2), swept: i64::MIN }
    }

    /// Something was seen at that time; `now`: the present one.
    pub fn note(&mut self, summary: Summary, at: i64, now: i64) -> Noted {
        self.sweep(now);
        if at <= now - KEPT_SECONDS {
            return Noted::No;
        }
        if let Some(last) = self.seen.get_mut(&summary) {
            *last = at.max(*last);
            return Noted::Again(summary);
        }
        let count = self.edges.get(&edge_of(&summary)).copied().unwrap_or_default();
        let summary = if count >= OF_EDGE { summary.coarse() } else { summary };
        if let Some(last) = self.seen.get_mut(&summary) {
            *last = at.max(*last);
            return Noted::Again(summary);
        }
        if count >= OF_EDGE + RESERVE {
            return Noted::No;
        }
        if self.seen.len() >= self.most {
            self.make_room();
        }
        *self.edges.entry(edge_of(&summary)).or_default() += 1;
        self.seen.insert(summary.clone(), at);
        Noted::New(summary)
    }

    /// All of the last day, with when each was last seen, in no order.
    pub fn iter(&self, now: i64) -> impl Iterator<Item = (&Summary, i64)> {
        self.seen.iter().map(|(summary, at)| (summary, *at)).filter(move |(_, at)| *at > now - KEPT_SECONDS)
    }

    /// When it was last seen, if it is known.
    pub fn last_seen(&self, summary: &Summary) -> Option<i64> {
        self.seen.get(summary).copied()
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Once a minute, forgets what is over a day old.
    fn sweep(&mut self, now: i64) {
        if now < self.swept.saturating_add(60) {
            return;
        }
        self.swept = now;
        self.keep_since(now - KEPT_SECONDS + 1);
    }

    /// The oldest tenth goes.
    fn make_room(&mut self) {
        let mut times: Vec<_> = self.seen.values().copied().collect();
        let tenth = times.len() / 10;
        let (_, since, _) = times.select_nth_unstable(tenth);
        let since = *since;
        self.keep_since(since);
        // All are as old.
        if self.seen.len() >= self.most {
            let mut left = tenth.max(1);
            self.seen.retain(|_, at| {
                let goes = *at == since && left > 0;
                left -= usize::from(goes);
                !goes
            });
            self.count_edges();
        }
    }

    fn keep_since(&mut self, since: i64) {
        let before = self.seen.len();
        self.seen.retain(|_, at| *at >= since);
        if self.seen.len() < before {
            self.count_edges();
        }
    }

    fn count_edges(&mut self) {
        self.seen.shrink_to(2 * self.seen.len());
        self.edges.clear();
        for summary in self.seen.keys() {
            *self.edges.entry(edge_of(summary)).or_default() += 1;
        }
        self.edges.shrink_to(2 * self.edges.len());
    }
}

fn edge_of(summary: &Summary) -> EdgeOf {
    let from = match &summary.from {
        Comer::Mesh(identity) => Some(identity.clone()),
        Comer::Outside(_) => None,
    };
    (from, summary.to.clone(), summary.allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TrustDomain;
    use crate::name::ServiceName;
    use crate::summary::Wish;

    fn summary(from: &str, path: &str, allowed: bool) -> Summary {
        let domain = TrustDomain::new("mesh.test").unwrap();
        Summary {
            from: Comer::Mesh(SpiffeId::workload(&domain, "shop", from).unwrap()),
            to: Callee::Service(ServiceName::new("shop", "c")),
            port: 80,
            asked: Wish::Http { method: "GET".into(), path: path.into() },
            allowed,
        }
    }

    #[test]
    fn they_are_kept_for_a_day_since_they_were_last_seen() {
        let mut book = Book::new(100);
        let (a, b) = (summary("web", "/a", true), summary("web", "/b", true));
        assert_eq!(book.note(a.clone(), 0, 0), Noted::New(a.clone()));
        assert_eq!(book.note(b.clone(), 0, 0), Noted::New(b.clone()));
        let later = KEPT_SECONDS - 1;
        assert_eq!(book.note(b.clone(), later, later), Noted::Again(b.clone()));
        // An older word about it takes nothing back.
        assert_eq!(book.note(b.clone(), 1, later), Noted::Again(b.clone()));
        assert_eq!(book.iter(later).count(), 2);
        assert_eq!(book.iter(KEPT_SECONDS).collect::<Vec<_>>(), [(&b, later)]);
        assert_eq!(book.note(a.clone(), 0, KEPT_SECONDS + 60), Noted::No);
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn an_edge_has_its_share_and_what_is_denied_takes_no_room_of_what_is_not() {
        let mut book = Book::new(100_000);
        for number in 0..3 * OF_EDGE {
            let denied = summary("web", &format!("/d{number}"), false);
            book.note(denied, 0, 0);
        }
        assert_eq!(book.len(), OF_EDGE + 1);
        let coarse = summary("web", "/", false).coarse();
        assert_eq!(coarse.asked, Wish::Requests);
        assert!(book.iter(0).any(|(known, _)| *known == coarse));
        let allowed = summary("web", "/a", true);
        assert_eq!(book.note(allowed.clone(), 0, 0), Noted::New(allowed));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut book = Book::new(100);
        for number in 0..250 {
            book.note(summary(&format!("w{number}"), "/", true), number, 250);
        }
        assert!(book.len() <= 100 && book.len() >= 80, "{}", book.len());
        assert!(book.iter(250).any(|(_, at)| at == 249) && book.iter(250).all(|(_, at)| at > 100));
        // All at once.
        let mut book = Book::new(100);
        (0..250).for_each(|number| drop(book.note(summary(&format!("w{number}"), "/", true), 0, 0)));
        assert!(book.len() <= 100 && book.edges.len() <= 100, "{}", book.len());
    }
}
