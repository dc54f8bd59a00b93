//! What was asked of this node's workloads in the last day, and what of it the server is still to be told. A server that begins anew
//! knows none of it: with each stream of reports all of it is told again, some in each report.

use std::collections::VecDeque;
use std::time::Instant;

use tulle_model::summary::{Book, Noted, Summary};
use tulle_wire::node as wire;

/// How many are kept.
const MOST: usize = 20_000;
/// How many a report tells of.
const OF_REPORT: usize = 1_000;

/// See the module.
pub struct SeenSummaries {
    book: Book,
    untold: VecDeque<Summary>,
    started: Instant,
}

impl Default for SeenSummaries {
    fn default() -> Self {
        Self { book: Book::new(MOST), untold: VecDeque::new(), started: Instant::now() }
    }
}

impl SeenSummaries {
    /// A stream of reports begins: nothing has been told.
    pub fn begin(&mut self) {
        let now = self.now();
        self.untold = self.book.iter(now).map(|(summary, _)| summary.clone()).collect();
    }

    /// Takes what was seen since the last report, and returns what this one tells of.
    pub fn report(&mut self, seen: Vec<Summary>) -> Vec<wire::Summary> {
        let now = self.now();
        for summary in seen {
            match self.book.note(summary, now, now) {
                Noted::New(summary) | Noted::Again(summary) => self.untold.push_back(summary),
                Noted::No => {}
            }
        }
        // Workers tell each again after a while, and it may still wait here.
        if self.untold.len() > 2 * MOST {
            self.begin();
        }
        let mut told = Vec::new();
        while told.len() < OF_REPORT
            && let Some(summary) = self.untold.pop_front()
        {
            // What has been forgotten since is not told.
            if let Some(at) = self.book.last_seen(&summary) {
                told.push(wire::Summary::new(&summary, u64::try_from(now - at).unwrap_or_default()));
            }
        }
        told
    }

    fn now(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::name::NamespacedName;
    use tulle_model::summary::{Callee, Wish};

    use super::*;

    fn summary(number: usize) -> Summary {
        Summary {
            from: format!("spiffe://mesh.test/ns/shop/sa/w{number}").parse().unwrap(),
            to: Callee::Service(NamespacedName::new("shop", "c")),
            port: 80,
            asked: Wish::Tcp,
            allowed: true,
        }
    }

    #[test]
    fn each_stream_is_told_all() {
        let mut seen = SeenSummaries::default();
        seen.begin();
        assert_eq!(seen.report((0..OF_REPORT + 5).map(summary).collect()).len(), OF_REPORT);
        assert_eq!(seen.report(Vec::new()).len(), 5);
        assert_eq!(seen.report(vec![summary(3)]).len(), 1, "it is seen again");
        assert_eq!(seen.report(Vec::new()).len(), 0);
        seen.begin();
        let all = seen.report(Vec::new()).len() + seen.report(Vec::new()).len();
        assert_eq!(all, OF_REPORT + 5);
    }
}
