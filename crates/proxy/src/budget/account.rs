//! A worker's side of the budget.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::snapshot::FastMap;

use super::{Budget, Held, Need, Payer, Resource, SLICE, Shed, cost};
use crate::pace::Pace;

/// When so many bytes were given back, the allocator is told to do the same, after a pause in which more
/// may come.
const COLLECTED: u64 = 2 << 20;
const COLLECTION_PAUSE: Duration = Duration::from_secs(1);
/// After so long pools have closed what a busy time left idle.
const POOLS_PAUSE: Duration = Duration::from_secs(9);
/// How long who got no memory goes on with little before it asks again: all workers and payers share what is asked.
const RETRY: Duration = Duration::from_millis(10);
/// Accounts that a worker remembers though nobody uses them.
const MAX_IDLE_ACCOUNTS: usize = 1024;

/// The accounts of one worker.
pub struct Accounts {
    shared: Rc<Shared>,
    accounts: RefCell<FastMap<Payer, Rc<Account>>>,
}

struct Shared {
    budget: Arc<Budget>,
    /// Bytes given back since the allocator was told.
    returned: Cell<u64>,
    collecting: Cell<bool>,
}

/// What one worker has taken for one payer.
pub struct Account {
    payer: Payer,
    shared: Rc<Shared>,
    held: Arc<Held>,
    leases: [Lease; 2],
    /// It got none the last time that it asked for memory to spare.
    over: Cell<bool>,
    /// When it did.
    asked: Cell<Option<Instant>>,
    pace: Pace,
}

#[derive(Default)]
struct Lease {
    used: Cell<u64>,
    leased: Cell<u64>,
}

impl Accounts {
    pub fn new(budget: Arc<Budget>) -> Self {
        let shared = Shared { budget, returned: Cell::new(0), collecting: Cell::new(false) };
        Self { shared: Rc::new(shared), accounts: RefCell::default() }
    }

    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// The account of `payer`.
    pub fn of(&self, payer: &Payer) -> Rc<Account> {
        if let Some(account) = self.accounts.borrow().get(payer) {
            return account.clone();
        }
        let mut accounts = self.accounts.borrow_mut();
        if accounts.len() >= MAX_IDLE_ACCOUNTS {
            accounts.retain(|_, account| Rc::strong_count(account) > 1);
        }
        let account = Rc::new(Account {
            payer: payer.clone(),
            shared: self.shared.clone(),
            held: self.shared.budget.held(payer),
            leases: Default::default(),
            over: Cell::new(false),
            asked: Cell::new(None),
            pace: Pace::default(),
        });
        accounts.insert(payer.clone(), account.clone());
        account
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Account").field(&self.payer).finish()
    }
}

impl Account {
    pub fn payer(&self) -> &Payer {
        &self.payer
    }

    /// A connection, with a descriptor and that much memory.
    pub fn seat(self: &Rc<Self>, bytes: usize) -> Result<Seat, Shed> {
        let memory = self.charge(bytes)?;
        if !self.take(Resource::Descriptors, 1) {
            return Err(self.count(Shed::Descriptors));
        }
        Ok(Seat { memory })
    }

    /// A connection that is not refused: there are few of its kind, and others depend on it.
    pub fn certain_seat(self: &Rc<Self>, bytes: usize) -> Seat {
        self.owe(Resource::Memory, bytes as u64);
        self.owe(Resource::Descriptors, 1);
        Seat { memory: Charge { account: Some(self.clone()), bytes } }
    }

    /// Memory, until the charge is dropped.
    pub fn charge(self: &Rc<Self>, bytes: usize) -> Result<Charge, Shed> {
        if !self.take(Resource::Memory, bytes as u64) {
            return Err(self.refused(0));
        }
        Ok(Charge { account: Some(self.clone()), bytes })
    }

    #[cold]
    fn refused(&self, bytes: usize) -> Shed {
        // What was there already is freed now.
        self.shared.returned(bytes as u64);
        self.count(Shed::Memory)
    }

    /// Counts that something was refused.
    pub fn count(&self, why: Shed) -> Shed {
        self.shared.budget.count(why);
        why
    }

    /// Whether it gets no memory for now: what can do with less should.
    pub fn is_over(&self) -> bool {
        self.over.get() && !self.recovers()
    }

    /// Whether it gets some again.
    #[cold]
    fn recovers(&self) -> bool {
        let lease = &self.leases[Resource::Memory as usize];
        let spare = lease.leased.get() - lease.used.get();
        if spare >= SLICE {
            self.over.set(false);
            return true;
        }
        if self.asked.get().is_some_and(|asked| asked.elapsed() < RETRY) {
            return false;
        }
        self.lease_more(Resource::Memory, SLICE - spare, Need::Spare)
    }

    /// Waits until one more of its requests may begin.
    pub fn turn(&self) -> impl Future<Output = ()> {
        self.pace.turn()
    }

    fn take(&self, of: Resource, amount: u64) -> bool {
        self.take_for(Need::Firm, of, amount)
    }

    fn take_for(&self, need: Need, of: Resource, amount: u64) -> bool {
        let lease = &self.leases[of as usize];
        let used = lease.used.get() + amount;
        if used > lease.leased.get() && !self.lease_more(of, used - lease.leased.get(), need) {
            return false;
        }
        lease.used.set(used);
        true
    }

    #[cold]
    fn lease_more(&self, of: Resource, missing: u64, need: Need) -> bool {
        let budget = &self.shared.budget;
        let slice = budget.stocks[of as usize].slice.max(missing);
        let leased = if budget.try_lease(&self.held, of, slice, need) {
            slice
        } else if slice > missing && budget.try_lease(&self.held, of, missing, need) {
            missing
        } else {
            0
        };
        if of == Resource::Memory && (leased == 0 || need == Need::Spare) {
            self.over.set(leased == 0);
            if leased == 0 {
                self.asked.set(Some(Instant::now()));
            }
        }
        let lease = &self.leases[of as usize];
        lease.leased.set(lease.leased.get() + leased);
        leased > 0
    }

    /// Takes what is there already, whether it may be or not.
    fn owe(&self, of: Resource, amount: u64) {
        if self.take(of, amount) {
            return;
        }
        let lease = &self.leases[of as usize];
        let used = lease.used.get() + amount;
        let missing = used.saturating_sub(lease.leased.get());
        self.shared.budget.lease(&self.held, of, missing);
        lease.leased.set(lease.leased.get() + missing);
        lease.used.set(used);
    }

    fn give(&self, of: Resource, amount: u64) {
        let lease = &self.leases[of as usize];
        let used = lease.used.get().saturating_sub(amount);
        lease.used.set(used);
        let spare = lease.leased.get() - used;
        let slice = self.shared.budget.stocks[of as usize].slice;
        if spare > 2 * slice || used == 0 {
            let kept = if used == 0 { 0 } else { slice };
            self.return_lease(of, spare.saturating_sub(kept));
        }
    }

    #[cold]
    fn return_lease(&self, of: Resource, amount: u64) {
        let lease = &self.leases[of as usize];
        lease.leased.set(lease.leased.get() - amount);
        self.shared.budget.give_back(&self.held, of, amount);
        if of == Resource::Memory {
            self.shared.returned(amount);
        }
    }
}

impl Shared {
    /// Has the allocator give memory back to the kernel after a busy time, which it would otherwise do
    /// when it is next busy.
    fn returned(self: &Rc<Self>, bytes: u64) {
        let returned = self.returned.get() + bytes;
        self.returned.set(returned);
        if returned < COLLECTED || self.collecting.replace(true) {
            return;
        }
        let shared = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(COLLECTION_PAUSE).await;
                shared.returned.set(0);
                tulle_sys::memory::collect();
                tokio::time::sleep(POOLS_PAUSE).await;
                tulle_sys::memory::collect();
                if shared.returned.replace(0) < COLLECTED {
                    break;
                }
            }
            shared.collecting.set(false);
        });
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        for of in [Resource::Memory, Resource::Descriptors] {
            self.shared.budget.give_back(&self.held, of, self.leases[of as usize].leased.get());
        }
    }
}

/// Memory that somebody holds, until it is dropped. The default is nothing, for nobody.
#[derive(Default)]
pub struct Charge {
    account: Option<Rc<Account>>,
    bytes: usize,
}

impl Charge {
    /// Nothing yet, on `account`.
    pub fn on(account: Rc<Account>) -> Self {
        Self { account: Some(account), bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn account(&self) -> Option<&Rc<Account>> {
        self.account.as_ref()
    }

    pub fn is_of(&self, account: &Rc<Account>) -> bool {
        self.account.as_ref().is_some_and(|own| Rc::ptr_eq(own, account))
    }

    /// Whether its account gets nothing for now.
    pub fn is_over(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.is_over())
    }

    /// Nothing yet, on the same account.
    pub fn nothing(&self) -> Charge {
        Charge { account: self.account.clone(), bytes: 0 }
    }

    /// More memory on the same account.
    pub fn another(&self, bytes: usize) -> Result<Charge, Shed> {
        match &self.account {
            Some(account) => account.charge(bytes),
            None => Ok(Charge { account: None, bytes }),
        }
    }

    /// Makes it so many bytes, if that is allowed; less always is.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Shed> {
        if self.change(bytes, Need::Firm) {
            return Ok(());
        }
        Err(self.account.as_ref().map_or(Shed::Memory, |account| account.refused(bytes)))
    }

    /// The same for what can be done without; whether it did.
    pub fn try_resize(&mut self, bytes: usize) -> bool {
        self.change(bytes, Need::Spare)
    }

    fn change(&mut self, bytes: usize, need: Need) -> bool {
        if let Some(account) = &self.account {
            if bytes > self.bytes {
                if !account.take_for(need, Resource::Memory, (bytes - self.bytes) as u64) {
                    return false;
                }
            } else {
                account.give(Resource::Memory, (self.bytes - bytes) as u64);
            }
        }
        self.bytes = bytes;
        true
    }

    /// Makes it what waits in the buffers of a connection or stream, beside `base`, and beyond what that costs
    /// anyway, allowed or not: it is there. Who is not allowed ([`Charge::is_over`]) takes less from now on.
    pub fn hold(&mut self, base: usize, waiting: usize) {
        let bytes = base + waiting.saturating_sub(cost::WAITING);
        if bytes != self.bytes {
            self.set(bytes);
        }
    }

    /// The same where it can be refused: what waits is no message yet.
    pub fn try_hold(&mut self, waiting: usize) -> Result<(), Shed> {
        self.resize(waiting.saturating_sub(cost::WAITING))
    }

    /// How much may be read at a time of what may have to wait then.
    pub fn readable(&self, most: usize) -> usize {
        if self.is_over() { cost::WAITING / 2 } else { most }
    }

    /// Makes it what is there, allowed or not.
    pub fn set(&mut self, bytes: usize) {
        if !self.change(bytes, Need::Spare)
            && let Some(account) = &self.account
        {
            account.owe(Resource::Memory, (bytes - self.bytes) as u64);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.give(Resource::Memory, self.bytes as u64);
        }
    }
}

/// A connection's descriptor and the memory that it takes in any case, until it is dropped.
pub struct Seat {
    memory: Charge,
}

impl Seat {
    pub fn account(&self) -> Option<&Rc<Account>> {
        self.memory.account()
    }

    pub fn is_of(&self, account: &Rc<Account>) -> bool {
        self.memory.is_of(account)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(account) = self.memory.account() {
            account.give(Resource::Descriptors, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_model::name::WorkloadName;

    const MIB: usize = 1 << 20;

    fn payer(name: &str) -> Payer {
        Payer::Workload(WorkloadName::new("default", name))
    }

    fn held(budget: &Budget) -> (u64, u64) {
        budget.rows().iter().fold((0, 0), |(m, d), row| (m + row.memory, d + row.descriptors))
    }

    #[tokio::test(flavor = "local")]
    async fn one_gets_half_and_the_next_what_it_needs() {
        let budget = Budget::new(64 * MIB as u64, 100);
        // The shares hold over all workers.
        let workers = [Accounts::new(budget.clone()), Accounts::new(budget.clone())];
        let greedy = workers.each_ref().map(|worker| worker.of(&payer("greedy")));
        let mut taken = Vec::new();
        while let Ok(charge) = greedy[taken.len() % 2].charge(MIB / 4) {
            taken.push(charge);
        }
        assert!((30 * 4..=32 * 4).contains(&taken.len()), "{}", taken.len());
        assert!(greedy.iter().any(|account| account.is_over()));
        let other = workers[0].of(&payer("other"));
        let polite: Vec<_> = (0..40).map(|_| other.charge(MIB / 4).unwrap()).collect();
        assert!(greedy[0].charge(MIB).is_err(), "it is over its share");
        drop(taken);
        assert!(greedy[0].charge(20 * MIB).is_ok());
        drop(polite);
        assert_eq!(held(&budget), (0, 0));
        assert_eq!(budget.sheds().next(), Some(("memory", 2)));
    }

    #[tokio::test(flavor = "local")]
    async fn descriptors_are_shared_as_well() {
        let budget = Budget::new(u64::MAX, 100);
        let worker = Accounts::new(budget.clone());
        let (greedy, other) = (worker.of(&payer("greedy")), worker.of(&payer("other")));
        let taken: Vec<_> = std::iter::from_fn(|| greedy.seat(1).ok()).collect();
        assert_eq!(taken.len(), 50);
        assert!(matches!(greedy.seat(1), Err(Shed::Descriptors)));
        assert_eq!(std::iter::from_fn(|| other.seat(1).ok().map(std::mem::forget)).count(), 25);
        drop(taken);
        assert_eq!(held(&budget).1, 25);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_got_none_does_not_ask_all_the_time() {
        let budget = Budget::new(MIB as u64, 100);
        let worker = Accounts::new(budget.clone());
        let (own, other) = (worker.of(&payer("own")), worker.of(&payer("other")));
        let mut charge = Charge::on(own.clone());
        let taken = other.charge(MIB / 2).unwrap();
        charge.set(MIB / 2);
        assert!(own.is_over());
        drop(taken);
        charge.set(MIB / 4);
        assert!(own.is_over(), "it has just asked");
        tokio::time::advance(RETRY).await;
        assert!(!own.is_over());
    }

    #[tokio::test(flavor = "local")]
    async fn what_is_there_is_counted_even_if_it_may_not_be() {
        let budget = Budget::new(MIB as u64, 100);
        let worker = Accounts::new(budget.clone());
        let mut charge = Charge::on(worker.of(&payer("a")));
        assert!(charge.resize(MIB).is_err());
        charge.set(2 * MIB);
        assert!(held(&budget).0 >= 2 * MIB as u64);
        assert!(worker.of(&payer("b")).charge(1).is_err(), "there is nothing");
        charge.set(0);
        assert_eq!(held(&budget).0, 0);
        assert!(worker.of(&payer("b")).charge(1).is_ok());
    }
}
