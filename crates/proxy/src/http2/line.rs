//! Who waits to open a stream, on any of the connections to one peer: the callers have turns, and of each caller's
//! requests the first come is served first.
//!
//! A place that becomes free calls one, the first in line. Who was called and finds nothing goes back to where
//! it stood; who gives up passes its call on. So a crowd of any size costs what those cost who are served.
//!
//! What its users hold: while somebody stands in line and there is a place, somebody is called. Whoever takes a
//! place therefore calls the next ([`Line::call_for`]) if there are others.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tulle_model::snapshot::FastMap;

use crate::budget::Account;

/// The line before the connections to one peer.
#[derive(Debug, Default)]
pub struct Line {
    standing: RefCell<Callers>,
    /// Who was called and has not looked yet.
    called: Cell<usize>,
}

/// Who stands in line.
#[derive(Debug, Default)]
struct Callers {
    requests: FastMap<*const Account, BTreeMap<u64, Waker>>,
    /// Those of whom there are any, in the order of their turns.
    turns: VecDeque<*const Account>,
}

impl Callers {
    /// Takes the first request of the caller whose turn it is.
    fn pop(&mut self) -> Option<Waker> {
        let caller = self.turns.pop_front()?;
        let requests = self.requests.get_mut(&caller)?;
        let first = requests.pop_first();
        if requests.is_empty() {
            self.requests.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        first.map(|(_, waker)| waker)
    }

    fn remove(&mut self, caller: *const Account, number: u64) -> bool {
        let Some(requests) = self.requests.get_mut(&caller) else { return false };
        let was_there = requests.remove(&number).is_some();
        if requests.is_empty() {
            self.requests.remove(&caller);
            self.turns.retain(|other| *other != caller);
        }
        was_there
    }
}

impl Line {
    /// Whether nobody is before a newcomer.
    pub fn is_free(&self) -> bool {
        self.called.get() == 0 && self.is_empty()
    }

    /// Whether nobody stands in line.
    pub fn is_empty(&self) -> bool {
        self.standing.borrow().turns.is_empty()
    }

    /// How many requests of `caller` stand in line.
    pub fn standing(&self, caller: &Rc<Account>) -> usize {
        self.standing.borrow().requests.get(&Rc::as_ptr(caller)).map_or(0, BTreeMap::len)
    }

    /// Has the first look whether there is a place for it.
    pub fn call(&self) {
        let first = self.standing.borrow_mut().pop();
        if let Some(waker) = first {
            self.called.set(self.called.get() + 1);
            waker.wake();
        }
    }

    /// Has the next look if there are more places left than those who were called.
    pub fn call_for(&self, places: usize) {
        if places > self.called.get() {
            self.call();
        }
    }

    /// Has all look: what they wait for will not come.
    pub fn call_all(&self) {
        while !self.is_empty() {
            self.call();
        }
    }

    /// A ticket for the request of `caller` that came as the one of that number: lower ones of the same caller go
    /// before. No two have the same.
    pub fn ticket(self: &Rc<Self>, caller: &Rc<Account>, number: u64) -> Ticket {
        Ticket { line: self.clone(), caller: caller.clone(), number, stands: false, called: false }
    }
}

/// One who waits. It keeps its place in the order until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    line: Rc<Line>,
    caller: Rc<Account>,
    number: u64,
    /// In line, or called.
    stands: bool,
    /// It was called, and has found nothing if it stands again.
    called: bool,
}

impl Ticket {
    pub fn is_of(&self, line: &Rc<Line>, caller: &Rc<Account>) -> bool {
        Rc::ptr_eq(&self.line, line) && Rc::ptr_eq(&self.caller, caller)
    }

    /// Waits until it is this one's turn to look for a place.
    pub fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let first = {
            let mut standing = self.line.standing.borrow_mut();
            let first = standing.turns.front().copied();
            let own = standing.requests.get_mut(&Rc::as_ptr(&self.caller));
            if self.stands {
                if let Some(waker) = own.and_then(|own| own.get_mut(&self.number)) {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
                self.line.called.set(self.line.called.get() - 1);
                (self.stands, self.called) = (false, true);
                return Poll::Ready(());
            }
            self.line.called.get() == 0
                && first.is_none_or(|first| {
                    first == Rc::as_ptr(&self.caller)
                        && own.is_none_or(|own| own.first_key_value().is_none_or(|(n, _)| *n > self.number))
                })
        };
        if first {
            return Poll::Ready(());
        }
        self.stand(cx);
        Poll::Pending
    }

    /// Goes in line, or back to where it stood: there is no place.
    pub fn stand(&mut self, cx: &Context<'_>) {
        self.stands = true;
        let mut standing = self.line.standing.borrow_mut();
        let Callers { requests, turns } = &mut *standing;
        let caller = Rc::as_ptr(&self.caller);
        let own = requests.entry(caller).or_default();
        let has_turn = !own.is_empty();
        own.insert(self.number, cx.waker().clone());
        if std::mem::take(&mut self.called) {
            // The turn that it had is still its caller's.
            turns.retain(|other| *other != caller);
            turns.push_front(caller);
        } else if !has_turn {
            turns.push_back(caller);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.stands && !self.line.standing.borrow_mut().remove(Rc::as_ptr(&self.caller), self.number) {
            self.line.called.set(self.line.called.get() - 1);
            self.line.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tulle_model::name::WorkloadName;

    use super::*;
    use crate::budget::{Accounts, Budget, Payer};

    fn account(name: &str) -> Rc<Account> {
        Accounts::new(Budget::unlimited()).of(&Payer::Workload(WorkloadName::new("default", name)))
    }

    /// A pool whose places are handed out through a line, as the pools do it.
    struct FakePool {
        line: Rc<Line>,
        caller: Rc<Account>,
        came: Cell<u64>,
        free: Cell<usize>,
        looks: Cell<usize>,
        served: RefCell<Vec<u64>>,
    }

    impl FakePool {
        fn with(free: usize) -> Rc<Self> {
            let (line, came, looks, served) = Default::default();
            Rc::new(Self { line, caller: account("a"), came, free: Cell::new(free), looks, served })
        }

        async fn enter(&self) {
            let number = self.came.get();
            self.came.set(number + 1);
            self.enter_with(self.line.ticket(&self.caller, number)).await;
        }

        async fn enter_with(&self, mut ticket: Ticket) {
            poll_fn(|cx| {
                if ticket.poll_turn(cx).is_pending() {
                    return Poll::Pending;
                }
                self.looks.set(self.looks.get() + 1);
                match self.free.get() {
                    0 => {
                        ticket.stand(cx);
                        Poll::Pending
                    }
                    free => {
                        self.free.set(free - 1);
                        self.line.call_for(free - 1);
                        Poll::Ready(())
                    }
                }
            })
            .await;
            self.served.borrow_mut().push(ticket.number);
        }

        fn leave(&self) {
            self.free.set(self.free.get() + 1);
            self.line.call();
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_crowd_is_served_in_order_and_one_is_woken_for_a_place() {
        let places = FakePool::with(4);
        let crowd: Vec<_> = (0..4000)
            .map(|_| {
                let places = places.clone();
                tokio::task::spawn_local(async move {
                    places.enter().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    places.leave();
                })
            })
            .collect();
        for one in crowd {
            one.await.unwrap();
        }
        assert_eq!(*places.served.borrow(), (0..4000).collect::<Vec<_>>());
        assert!(places.looks.get() < 4100, "{} looked for 4000 places", places.looks.get());
        assert!(places.line.is_free());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_gives_up_passes_its_turn_on() {
        let places = FakePool::with(0);
        let enter = || {
            let places = places.clone();
            tokio::task::spawn_local(async move { places.enter().await })
        };
        let (first, second, third) = (enter(), enter(), enter());
        tokio::task::yield_now().await;
        assert_eq!(places.line.standing(&places.caller), 3);
        // Called, and gone before it looks; and one that goes from the middle of the line.
        places.leave();
        first.abort();
        second.abort();
        assert!(first.await.is_err() && second.await.is_err());
        third.await.unwrap();
        assert_eq!(*places.served.borrow(), [2]);
        assert!(places.line.is_free());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn nobody_overtakes_who_was_called() {
        let places = FakePool::with(0);
        let enter = || {
            let places = places.clone();
            tokio::task::spawn_local(async move { places.enter().await })
        };
        let waits = enter();
        tokio::task::yield_now().await;
        places.leave();
        // Comes before the other has looked.
        let newcomer = enter();
        waits.await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(*places.served.borrow(), [0]);
        places.leave();
        newcomer.await.unwrap();
        assert_eq!(*places.served.borrow(), [0, 1]);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_is_sent_back_stands_where_it_stood() {
        let places = FakePool::with(0);
        let enter = |number| {
            let places = places.clone();
            let ticket = places.line.ticket(&places.caller, number);
            tokio::task::spawn_local(async move { places.enter_with(ticket).await })
        };
        let newcomers = [7, 8].map(enter);
        tokio::task::yield_now().await;
        let sent_back = [3, 4, 5].map(enter);
        tokio::task::yield_now().await;
        places.free.set(5);
        places.line.call();
        for one in sent_back.into_iter().chain(newcomers) {
            one.await.unwrap();
        }
        assert_eq!(*places.served.borrow(), [3, 4, 5, 7, 8]);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_crowd_of_one_caller_leaves_others_their_turns() {
        let places = FakePool::with(0);
        let other = account("b");
        let enter = |caller: &Rc<Account>, number| {
            let places = places.clone();
            let ticket = places.line.ticket(caller, number);
            tokio::task::spawn_local(async move { places.enter_with(ticket).await })
        };
        let settled = || tokio::time::sleep(Duration::from_millis(1));
        let leave = async |count| {
            for _ in 0..count {
                places.leave();
                settled().await;
            }
        };
        let mut crowd: Vec<_> = (0..1000).map(|number| enter(&places.caller, number)).collect();
        settled().await;
        // Half of them are served before others come, and they come when there are many again.
        leave(500).await;
        crowd.extend((1000..1500).map(|number| enter(&places.caller, number)));
        let others = [2000, 2001, 2002].map(|number| enter(&other, number));
        settled().await;
        assert_eq!((places.line.standing(&places.caller), places.line.standing(&other)), (1000, 3));
        leave(1003).await;
        for one in crowd.into_iter().chain(others) {
            one.await.unwrap();
        }
        assert_eq!(places.served.borrow()[500..507], [500, 2000, 501, 2001, 502, 2002, 503]);
        assert!(places.line.is_free());
    }
}
