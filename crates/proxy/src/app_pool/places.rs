//! How many HTTP/1 connections to one application there may be, and who waits for one.
//!
//! They are shared as all else is ([`tulle_model::fair_share`]): one caller that wants all of them leaves
//! as many as it has for others. Who finds none waits behind those of the same caller; when one is given
//! back, the callers have turns.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tulle_model::fair_share::Bound;
use tulle_model::snapshot::FastMap;

use super::http1::Idle;
use crate::budget::{Account, Shed};

/// Requests of one caller that wait on one worker for connections to one application.
const MAX_WAITING: usize = 8192;
/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connections of one worker, by application.
pub(super) struct Places {
    /// Connections to one application.
    most: usize,
    lines: RefCell<FastMap<SocketAddr, Line>>,
}

/// Those to one application.
#[derive(Default)]
struct Line {
    held: usize,
    callers: FastMap<*const Account, Caller>,
    /// The callers that wait, in the order of their turns.
    turns: VecDeque<*const Account>,
}

struct Caller {
    account: Rc<Account>,
    held: usize,
    waiting: VecDeque<oneshot::Sender<Given>>,
}

/// What somebody has waited for.
pub(super) enum Given {
    /// A place for a new connection.
    Place(Place),
    /// A connection that another is done with.
    Connection(Idle),
}

/// A place for a connection, until it is dropped.
pub struct Place {
    places: Weak<Places>,
    address: SocketAddr,
    caller: Rc<Account>,
}

impl Places {
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, lines: RefCell::default() })
    }

    /// A place, or a connection, for `account`: at once, or when it is its turn.
    pub async fn enter(self: &Rc<Self>, address: SocketAddr, account: &Rc<Account>) -> Result<Given, Shed> {
        let given = {
            let mut lines = self.lines.borrow_mut();
            let line = lines.entry(address).or_default();
            let caller = line.callers.entry(Rc::as_ptr(account)).or_insert_with(|| Caller {
                account: account.clone(),
                held: 0,
                waiting: VecDeque::new(),
            });
            if caller.waiting.is_empty() && allows(self.most, line.held, caller.held) {
                caller.held += 1;
                line.held += 1;
                return Ok(Given::Place(self.place(address, account)));
            }
            if caller.waiting.len() >= MAX_WAITING {
                caller.waiting.retain(|waiter| !waiter.is_closed());
            }
            if caller.waiting.len() >= MAX_WAITING {
                return Err(account.count(Shed::Applications));
            }
            if caller.waiting.is_empty() {
                line.turns.push_back(Rc::as_ptr(account));
            }
            let (give, given) = oneshot::channel();
            caller.waiting.push_back(give);
            given
        };
        match timeout(PATIENCE, given).await {
            Ok(Ok(given)) => Ok(given),
            _ => Err(account.count(Shed::Applications)),
        }
    }

    /// Gives a connection that is free to who waits for one; back if nobody does.
    pub fn offer(self: &Rc<Self>, address: SocketAddr, mut idle: Idle) -> Option<Idle> {
        loop {
            let (waiter, account) = {
                let mut lines = self.lines.borrow_mut();
                let Some(line) = lines.get_mut(&address).filter(|line| !line.turns.is_empty()) else {
                    return Some(idle);
                };
                let Some(place) = idle.connection.io_mut().place().as_mut() else { return Some(idle) };
                line.free(&place.caller);
                let Some((waiter, account)) = line.next(self.most) else {
                    line.take(&place.caller);
                    return Some(idle);
                };
                place.caller = account.clone();
                (waiter, account)
            };
            idle.connection.io_mut().pay(&account);
            match waiter.send(Given::Connection(idle)) {
                Ok(()) => return None,
                Err(Given::Connection(back)) => idle = back,
                Err(Given::Place(_)) => return None,
            }
        }
    }

    fn place(self: &Rc<Self>, address: SocketAddr, account: &Rc<Account>) -> Place {
        Place { places: Rc::downgrade(self), address, caller: account.clone() }
    }

    /// A place is free.
    fn leave(self: &Rc<Self>, address: SocketAddr, caller: &Rc<Account>) {
        let next = {
            let mut lines = self.lines.borrow_mut();
            let Some(line) = lines.get_mut(&address) else { return };
            line.free(caller);
            let next = line.next(self.most);
            if line.held == 0 && line.turns.is_empty() {
                lines.remove(&address);
            }
            next
        };
        if let Some((waiter, account)) = next {
            // One that has gone gives it back by dropping it.
            drop(waiter.send(Given::Place(self.place(address, &account))));
        }
    }
}

impl Line {
    fn free(&mut self, caller: &Rc<Account>) {
        self.held -= 1;
        if let Some(own) = self.callers.get_mut(&Rc::as_ptr(caller)) {
            own.held -= 1;
            if own.held == 0 && own.waiting.is_empty() {
                self.callers.remove(&Rc::as_ptr(caller));
            }
        }
    }

    fn take(&mut self, caller: &Rc<Account>) {
        self.held += 1;
        let own = self.callers.entry(Rc::as_ptr(caller)).or_insert_with(|| Caller {
            account: caller.clone(),
            held: 0,
            waiting: VecDeque::new(),
        });
        own.held += 1;
    }

    /// The next who waits and may have a place, which is taken for it.
    fn next(&mut self, most: usize) -> Option<(oneshot::Sender<Given>, Rc<Account>)> {
        for _ in 0..self.turns.len() {
            let key = self.turns.pop_front()?;
            let Some(caller) = self.callers.get_mut(&key) else { continue };
            while caller.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                caller.waiting.pop_front();
            }
            if caller.waiting.is_empty() {
                if caller.held == 0 {
                    self.callers.remove(&key);
                }
                continue;
            }
            if !allows(most, self.held, caller.held) {
                self.turns.push_back(key);
                continue;
            }
            let waiter = caller.waiting.pop_front()?;
            caller.held += 1;
            self.held += 1;
            let account = caller.account.clone();
            if !caller.waiting.is_empty() {
                self.turns.push_back(key);
            }
            return Some((waiter, account));
        }
        None
    }
}

fn allows(most: usize, held: usize, own: usize) -> bool {
    let bound = Bound { total: most as u64, free: most as i64 - held as i64 };
    bound.allows(own as u64, 1)
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.upgrade() {
            places.leave(self.address, &self.caller);
        }
    }
}
