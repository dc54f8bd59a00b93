//! Waiting for a place for a stream, on connections that many requests share.
//!
//! Callers have turns, and of each the requests are served in the order in which they came ([`Line`]), also those
//! that had a place and were sent back. How many of one caller may wait for one peer, and for how long, is
//! bounded; who finds no room there, or waits in vain, is answered `streams-full`. What the peer sends back because
//! it takes no more at a time, or goes away before it looked at it, waits again: that is nobody's failure.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::budget::Account;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http2::{Error, Line, Ticket};
use crate::metrics::{Count, StreamWait, WorkerCounts, WorkerRegistry};

/// How often a request is sent again because connections went away under it.
const DEPARTURES: u32 = 4;
/// How long a request waits that was refused though nothing else was open, at first; it doubles so often.
const PAUSE: Duration = Duration::from_millis(5);
const DOUBLINGS: u32 = 7;

/// How many may wait for a stream, or for a connection of HTTP/1, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Requests and tunnels of one caller that wait on one worker for the connections to one peer.
    pub most: usize,
    /// How long one waits in all.
    pub patience: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { most: 8192, patience: Duration::from_secs(10) }
    }
}

/// What holds for that on a worker, and where it counts.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    waiting: Waiting,
    registry: Arc<WorkerRegistry>,
    /// How many have come.
    arrivals: Rc<Cell<u64>>,
}

impl Rules {
    pub fn new(waiting: Waiting, registry: Arc<WorkerRegistry>) -> Self {
        Self { waiting, registry, arrivals: Rc::default() }
    }

    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    fn counts(&self) -> &WorkerCounts {
        &self.registry.counts
    }

    pub fn count(&self, what: StreamWait) {
        self.counts().stream_waits[what as usize].add(1);
    }
}

/// One request's place in the order of those that want a stream. Nothing is held until it has to wait.
pub(crate) struct Turn {
    /// Its number among those that have come.
    arrival: u64,
    ticket: Option<Ticket>,
    until: Option<Instant>,
    refusals: u32,
    departures: u32,
}

impl Turn {
    /// Of one that comes now.
    pub fn begin(rules: &Rules) -> Self {
        let arrival = rules.arrivals.get();
        rules.arrivals.set(arrival + 1);
        Self { arrival, ticket: None, until: None, refusals: 0, departures: 0 }
    }

    /// Whether it may take a place at once.
    pub fn is_now(&self, line: &Line) -> bool {
        self.refusals == 0 && line.is_free()
    }

    /// Waits until `look` finds a place, or an error, for the first in line. `to` names the peer for people.
    pub async fn wait<P>(
        &mut self,
        rules: &Rules,
        line: &Rc<Line>,
        caller: &Rc<Account>,
        to: &dyn std::fmt::Display,
        mut look: impl FnMut() -> Option<Result<P, UpstreamError>>,
    ) -> Result<P, UpstreamError> {
        let Waiting { most, patience } = rules.waiting;
        if line.standing(caller) >= most {
            rules.count(StreamWait::Overflow);
            return Err(full(format!("{most} requests of the caller wait already for a stream to {to}")));
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + patience);
        let ticket = self.ticket.take().filter(|ticket| ticket.is_of(line, caller));
        let ticket = self.ticket.insert(ticket.unwrap_or_else(|| line.ticket(caller, self.arrival)));
        let _counted = Counted::begin(&rules.counts().streams_waiting);
        let found = poll_fn(|cx| {
            if ticket.poll_turn(cx).is_pending() {
                return Poll::Pending;
            }
            match look() {
                Some(found) => Poll::Ready(found),
                None => {
                    ticket.stand(cx);
                    Poll::Pending
                }
            }
        });
        let found = timeout_at(until, found).await;
        rules.count(if found.is_ok() { StreamWait::Served } else { StreamWait::Timeout });
        found.unwrap_or_else(|_| Err(self.in_vain(rules, to)))
    }

    /// Whether a request that failed so, and is still at hand, is to be sent again. `beside`: how many other
    /// streams are open on the connection; their ends are what the request waits for then, or a moment.
    pub async fn again(&mut self, rules: &Rules, error: &Error, beside: usize) -> bool {
        match error {
            Error::Unavailable | Error::NotProcessed => {
                self.departures += 1;
                self.departures < DEPARTURES
            }
            Error::Full => {
                let until = *self.until.get_or_insert_with(|| Instant::now() + rules.waiting.patience);
                if beside == 0 {
                    sleep(PAUSE * (1 << self.refusals.min(DOUBLINGS))).await;
                }
                self.refusals += 1;
                let over = Instant::now() >= until;
                if over {
                    rules.count(StreamWait::Timeout);
                }
                !over
            }
            _ => false,
        }
    }

    /// What is said when the time is over.
    pub fn in_vain(&self, rules: &Rules, to: &dyn std::fmt::Display) -> UpstreamError {
        full(format!("no stream to {to} became free in {:?}", rules.waiting.patience))
    }
}

/// It is final: another attempt would only join the crowd again.
fn full(message: String) -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::StreamsFull, false, message)
}

/// One more in a count, until it is dropped.
struct Counted<'c>(&'c Count);

impl<'c> Counted<'c> {
    fn begin(count: &'c Count) -> Self {
        count.add(1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tulle_model::name::WorkloadName;

    use super::*;
    use crate::budget::{Accounts, Budget, Payer};

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn those_who_were_sent_back_are_served_in_their_order() {
        let rules = Rules::default();
        let payer = Payer::Workload(WorkloadName::new("default", "a"));
        let caller = Accounts::new(Budget::unlimited()).of(&payer);
        let (line, free) = (Rc::<Line>::default(), Rc::new(Cell::new(0)));
        let served = Rc::<RefCell<Vec<u64>>>::default();
        let turns: Vec<Turn> = (0..6).map(|_| Turn::begin(&rules)).collect();
        for (n, mut turn) in turns.into_iter().enumerate() {
            let (rules, line, free, served) = (rules.clone(), line.clone(), free.clone(), served.clone());
            let caller = caller.clone();
            tokio::task::spawn_local(async move {
                if n < 3 {
                    assert!(turn.again(&rules, &Error::Full, 1).await);
                } else {
                    // They come later.
                    tokio::task::yield_now().await;
                }
                let look = || {
                    let left = free.get();
                    free.set(usize::saturating_sub(left, 1));
                    line.call_for(left.saturating_sub(1));
                    (left > 0).then_some(Ok(()))
                };
                turn.wait(&rules, &line, &caller, &"c", look).await.unwrap();
                served.borrow_mut().push(turn.arrival);
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(line.standing(&caller), 6);
        free.set(6);
        line.call();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(*served.borrow(), [0, 1, 2, 3, 4, 5]);
    }
}
