//! How many HTTP/1 connections to one application there may be, and who waits for one.
//!
//! Those that carry requests are shared as all else is ([`tulle_model::fair_share`]), by the callers whose
//! requests they carry: one that wants all of them leaves as many as it has for others. One that is idle is
//! nobody's, whoever opened it: it is counted for the caller that takes it next, and where there may be no more
//! it makes room for one that is wanted. Who finds none waits behind those of the same caller; when one is
//! given back, the callers have turns.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tulle_model::fair_share::Bound;
use tulle_model::snapshot::FastMap;

use super::http1::IdleConnection;
use crate::budget::{Account, Shed};
use crate::turn::Waiting;

/// Callers of one application that are remembered though they have no connection.
const MAX_ABSENT: usize = 64;

/// The connections of one worker, by application.
pub(super) struct Places {
    /// Connections to one application.
    most: usize,
    /// For the requests of one caller.
    waiting: Waiting,
    lines: RefCell<FastMap<SocketAddr, Rc<ApplicationLine>>>,
}

/// Those to one application, and the callers that wait for them.
struct ApplicationLine {
    places: Weak<Places>,
    address: SocketAddr,
    most: usize,
    /// How many there are, idle or not.
    open: Cell<usize>,
    /// How many carry requests.
    used: Cell<usize>,
    callers: RefCell<FastMap<*const Account, Rc<CallerShare>>>,
    /// The callers that wait, in the order of their turns.
    turns: RefCell<VecDeque<Rc<CallerShare>>>,
}

/// What one caller has of those to one application.
struct CallerShare {
    account: Rc<Account>,
    /// Connections that carry its requests.
    used: Cell<usize>,
    waiting: RefCell<VecDeque<oneshot::Sender<Given>>>,
    /// How many of those are still there whose request has gone.
    abandoned: Cell<usize>,
    has_turn: Cell<bool>,
}

/// One request that waits.
struct WaitingRequest {
    caller: Rc<CallerShare>,
    given: oneshot::Receiver<Given>,
}

/// What somebody has waited for.
pub(super) enum Given {
    /// A place for a new connection.
    Place(Place),
    /// A connection that another is done with.
    Connection(IdleConnection),
}

/// A place for a connection, until it is dropped.
pub struct Place {
    line: Rc<ApplicationLine>,
    /// Who uses it, or did so last.
    caller: Rc<CallerShare>,
    used: bool,
}

impl Places {
    pub fn new(most: usize, waiting: Waiting) -> Rc<Self> {
        Rc::new(Self { most, waiting, lines: RefCell::default() })
    }

    /// As many of another pool.
    pub fn of_another(&self) -> Rc<Self> {
        Self::new(self.most, self.waiting)
    }

    /// A place, or a connection, for `account`: at once, or when it is its turn. `make_room` closes a
    /// connection that is idle.
    pub async fn enter(
        self: &Rc<Self>,
        address: SocketAddr,
        account: &Rc<Account>,
        make_room: impl FnOnce(),
    ) -> Result<Given, Shed> {
        let mut wait = {
            let line = self.line(address);
            let caller = line.caller(account);
            if line.admits(&caller) {
                line.begin(&caller);
                if line.open.get() >= line.most {
                    make_room();
                }
                return Ok(Given::Place(line.place(caller)));
            }
            let mut waiting = caller.waiting.borrow_mut();
            if waiting.len() - caller.abandoned.get() >= self.waiting.most {
                return Err(account.count(Shed::Applications));
            }
            if !caller.has_turn.replace(true) {
                line.turns.borrow_mut().push_back(caller.clone());
            }
            let (give, given) = oneshot::channel();
            waiting.push_back(give);
            drop(waiting);
            WaitingRequest { caller, given }
        };
        match timeout(self.waiting.patience, &mut wait.given).await {
            Ok(Ok(given)) => Ok(given),
            _ => Err(account.count(Shed::Applications)),
        }
    }

    fn line(self: &Rc<Self>, address: SocketAddr) -> Rc<ApplicationLine> {
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(address).or_insert_with(|| {
            Rc::new(ApplicationLine {
                places: Rc::downgrade(self),
                address,
                most: self.most,
                open: Cell::new(0),
                used: Cell::new(0),
                callers: RefCell::default(),
                turns: RefCell::default(),
            })
        });
        line.clone()
    }
}

/// Gives a connection that is free to who waits for one; back, as idle, if nobody does.
pub(super) fn offer(mut idle: IdleConnection) -> Option<IdleConnection> {
    loop {
        let Some(place) = idle.connection.io_mut().place() else { return Some(idle) };
        place.free();
        let Some((waiter, caller)) = place.line.next() else { return Some(idle) };
        let account = caller.account.clone();
        (place.caller, place.used) = (caller, true);
        let line = place.line.clone();
        idle.connection.io_mut().pay(&account);
        match waiter.send(Given::Connection(idle)) {
            Err(Given::Connection(back)) => idle = back,
            _ => {
                line.serve();
                return None;
            }
        }
    }
}

impl ApplicationLine {
    fn caller(&self, account: &Rc<Account>) -> Rc<CallerShare> {
        let mut callers = self.callers.borrow_mut();
        if let Some(caller) = callers.get(&Rc::as_ptr(account)) {
            return caller.clone();
        }
        if callers.len() >= MAX_ABSENT {
            callers.retain(|_, caller| Rc::strong_count(caller) > 1);
        }
        let caller = Rc::new(CallerShare {
            account: account.clone(),
            used: Cell::new(0),
            waiting: RefCell::default(),
            abandoned: Cell::new(0),
            has_turn: Cell::new(false),
        });
        callers.insert(Rc::as_ptr(account), caller.clone());
        caller
    }

    /// Whether one who comes now may use one more.
    fn admits(&self, caller: &CallerShare) -> bool {
        caller.waiting.borrow().is_empty() && self.allows(caller)
    }

    fn allows(&self, caller: &CallerShare) -> bool {
        let bound = Bound { total: self.most as u64, free: self.most as i64 - self.used.get() as i64 };
        bound.allows(caller.used.get() as u64, 1)
    }

    fn begin(&self, caller: &CallerShare) {
        self.used.set(self.used.get() + 1);
        caller.used.set(caller.used.get() + 1);
    }

    /// A place for one more connection, which `caller` uses already.
    fn place(self: &Rc<Self>, caller: Rc<CallerShare>) -> Place {
        self.open.set(self.open.get() + 1);
        Place { line: self.clone(), caller, used: true }
    }

    /// Gives places to those who wait and may have them: one that is given back can make room in the share of its
    /// caller, and for another one's.
    fn serve(self: &Rc<Self>) {
        while self.open.get() < self.most
            && let Some((waiter, caller)) = self.next()
        {
            // One that has gone gives it back by dropping it.
            drop(waiter.send(Given::Place(self.place(caller))));
        }
    }

    /// The next who waits and may use one more, which is counted for it.
    fn next(&self) -> Option<(oneshot::Sender<Given>, Rc<CallerShare>)> {
        let mut turns = self.turns.borrow_mut();
        for _ in 0..turns.len() {
            let caller = turns.pop_front()?;
            let mut waiting = caller.waiting.borrow_mut();
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
                caller.abandoned.set(caller.abandoned.get() - 1);
            }
            let waiter = if self.allows(&caller) { waiting.pop_front() } else { None };
            caller.has_turn.set(!waiting.is_empty());
            if caller.has_turn.get() {
                turns.push_back(caller.clone());
            }
            drop(waiting);
            if let Some(waiter) = waiter {
                self.begin(&caller);
                return Some((waiter, caller));
            }
        }
        None
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        self.given.close();
        // What was given meanwhile is given back; otherwise it is still among those that wait. These are looked
        // through only when half of them are gone: otherwise many that give up together would look at all, each.
        if self.given.is_terminated() || self.given.try_recv().is_ok() {
            return;
        }
        let mut waiting = self.caller.waiting.borrow_mut();
        self.caller.abandoned.set(self.caller.abandoned.get() + 1);
        if 2 * self.caller.abandoned.get() > waiting.len() {
            waiting.retain(|waiter| !waiter.is_closed());
            self.caller.abandoned.set(0);
        }
    }
}

impl Place {
    /// Has an idle connection counted for `account`, whose request it is to carry, if its share allows that.
    pub(super) fn take(&mut self, account: &Rc<Account>) -> bool {
        if !Rc::ptr_eq(&self.caller.account, account) {
            self.caller = self.line.caller(account);
        }
        self.used = self.line.admits(&self.caller);
        if self.used {
            self.line.begin(&self.caller);
        }
        self.used
    }

    /// Nobody uses the connection any longer.
    fn free(&mut self) {
        if std::mem::replace(&mut self.used, false) {
            self.line.used.set(self.line.used.get() - 1);
            self.caller.used.set(self.caller.used.get() - 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free();
        let line = &self.line;
        line.open.set(line.open.get() - 1);
        line.serve();
        if line.open.get() == 0
            && line.turns.borrow().is_empty()
            && let Some(places) = line.places.upgrade()
        {
            places.lines.borrow_mut().remove(&line.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tulle_model::name::WorkloadName;

    use super::*;
    use crate::budget::{Accounts, Budget, Payer};

    fn account(accounts: &Accounts, name: &str) -> Rc<Account> {
        accounts.of(&Payer::Workload(WorkloadName::new("default", name)))
    }

    fn all(places: &Rc<Places>, account: &Rc<Account>, room: &dyn Fn()) -> Vec<Place> {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        std::iter::from_fn(|| match places.enter(address, account, room).now_or_never()? {
            Ok(Given::Place(place)) => Some(place),
            _ => None,
        })
        .collect()
    }

    #[tokio::test(flavor = "local")]
    async fn an_idle_connection_is_counted_for_who_takes_it() {
        let accounts = Accounts::new(Budget::unlimited());
        let [polite, greedy] = ["polite", "greedy"].map(|name| account(&accounts, name));
        let places = Places::new(128, Waiting::default());
        let mut idle = all(&places, &polite, &|| unreachable!());
        assert_eq!(idle.len(), 64);
        idle.iter_mut().for_each(Place::free);
        // Those that are there, and new ones, are half of all together.
        idle.truncate(30);
        assert!(idle.iter_mut().all(|place| place.take(&greedy)));
        let new = all(&places, &greedy, &|| unreachable!());
        assert_eq!(new.len(), 34);
        drop((idle, new));
        assert!(places.lines.borrow().is_empty());
    }

    #[tokio::test(flavor = "local")]
    async fn requests_that_give_up_leave_their_room() {
        let accounts = Accounts::new(Budget::unlimited());
        let account = account(&accounts, "a");
        let waiting = Waiting { most: 100, patience: std::time::Duration::from_secs(60) };
        let places = Places::new(4, waiting);
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let held = all(&places, &account, &|| ());
        let full = || places.enter(address, &account, || ()).now_or_never();
        for _ in 0..3 {
            let mut waits: Vec<_> = (0..100)
                .map(|_| Box::pin(places.enter(address, &account, || ())))
                .filter_map(|mut wait| (&mut wait).now_or_never().is_none().then_some(wait))
                .collect();
            assert_eq!(waits.len(), 100);
            assert!(matches!(full(), Some(Err(Shed::Applications))));
            // The last come is left, behind many that have gone.
            let mut last = waits.pop();
            drop(waits);
            assert!(full().is_none(), "it waits");
            assert!(last.as_mut().unwrap().now_or_never().is_none());
        }
        let mut next = Box::pin(places.enter(address, &account, || ()));
        assert!((&mut next).now_or_never().is_none());
        assert_eq!(places.lines.borrow().values().next().map(|line| line.turns.borrow().len()), Some(1));
        drop(held);
        assert!(matches!((&mut next).now_or_never(), Some(Ok(Given::Place(_)))));
        assert!(places.lines.borrow().is_empty());
    }

    #[tokio::test(flavor = "local")]
    async fn a_place_that_frees_can_be_for_two() {
        let accounts = Accounts::new(Budget::unlimited());
        let [a, b, c] = ["a", "b", "c"].map(|name| account(&accounts, name));
        let places = Places::new(128, Waiting::default());
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let enter = |account| Box::pin(places.enter(address, account, || ()));
        let take = |account, count| -> Vec<_> {
            (0..count).map(|_| enter(account).now_or_never().unwrap().ok().unwrap()).collect()
        };
        let (mut of_a, of_b, of_c) = (take(&a, 40), take(&b, 40), take(&c, 7));
        let mut waits = [&b, &a].map(enter);
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        // Now there are 41 for b, and with what a gave back, as many for a.
        of_a.pop();
        // Looked at together: one that is dropped would make room for the other.
        let given = waits.each_mut().map(|wait| wait.now_or_never());
        assert!(given.iter().all(|given| matches!(given, Some(Ok(_)))));
        drop((of_b, of_c));
    }

    #[tokio::test(flavor = "local")]
    async fn idle_connections_make_room() {
        let accounts = Accounts::new(Budget::unlimited());
        let [a, b, c] = ["a", "b", "c"].map(|name| account(&accounts, name));
        let places = Places::new(16, Waiting::default());
        let idle = RefCell::new(all(&places, &a, &|| unreachable!()));
        idle.borrow_mut().iter_mut().for_each(Place::free);
        let make_room = || drop(idle.borrow_mut().pop());
        let of_b = all(&places, &b, &make_room);
        let of_c = all(&places, &c, &make_room);
        assert_eq!((of_b.len(), of_c.len(), idle.borrow().len()), (8, 4, 4));
        assert_eq!(places.lines.borrow().values().next().map(|line| line.open.get()), Some(16));
    }
}
