//! What the process may take of memory and descriptors, shared fairly by those it is taken for: the
//! workloads of this node, and the peers of its links.
//!
//! [`Budget`] is the process'. Each worker has an [`Account`] for everyone that it serves, which leases a
//! slice of the budget and takes from that: the budget itself is touched only when a slice is used up or
//! given back. Whether one may have another slice is decided by [`tulle_model::fair_share`]: who is over
//! its share gets nothing more, while others do. What is charged is what is held, decoded heads and
//! buffers, and fixed amounts for what there is one of for each connection or request ([`cost`]).

mod account;
pub mod cost;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tulle_model::fair_share::Bound;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::FastMap;

pub use self::account::{Account, Accounts, Charge, Seat};

/// Whom something is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Payer {
    /// A workload of this node, for what it sends.
    Workload(WorkloadName),
    /// Whoever is at the other end of links to this node.
    Peer(SpiffeId),
    /// Peers that have not said yet who they are.
    Handshakes,
    /// All whose connections to workloads inbound capture has diverted, or come by published ports. They are one: whoever
    /// is no part of the mesh can have as many addresses as he likes, and would have a share for each.
    Outside,
}

impl std::fmt::Display for Payer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Workload(name) => name.fmt(f),
            Self::Peer(identity) => identity.fmt(f),
            Self::Handshakes => f.write_str("handshakes"),
            Self::Outside => f.write_str("the outside"),
        }
    }
}

/// What is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Resource {
    Memory,
    Descriptors,
}

/// What something is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// What would be refused without.
    Firm,
    /// What goes on without, more slowly.
    Spare,
}

/// Why something was not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Shed {
    Memory,
    Descriptors,
    /// Too many wait for a connection to an application, or one waited too long.
    Applications,
}

pub(crate) const SHEDS: [(Shed, &str); 3] = [
    (Shed::Memory, "memory"),
    (Shed::Descriptors, "descriptors"),
    (Shed::Applications, "application-connections"),
];

impl Shed {
    /// Its name, as `tulle-reason` and metrics have it.
    pub fn as_str(self) -> &'static str {
        SHEDS[self as usize].1
    }

    /// The one of that name.
    pub fn of(name: &str) -> Option<Self> {
        SHEDS.iter().find(|(_, known)| *known == name).map(|(shed, _)| *shed)
    }

    /// What is said to people.
    pub fn message(self) -> &'static str {
        match self {
            Self::Memory => "the caller has its share of the memory of this node already",
            Self::Descriptors => "the caller has its share of the connections of this node already",
            Self::Applications => "the application has as many connections as it may, and too many wait",
        }
    }
}

impl std::fmt::Display for Shed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Shed {}

/// The slice of memory that a worker leases for one payer at a time, at most.
const SLICE: u64 = 64 << 10;
/// Payers that are remembered though they hold nothing.
const MAX_IDLE_PAYERS: usize = 1024;
/// Payers that metrics tell apart; the others are one.
const MAX_ROWS: usize = 64;

/// What the process may take, and who has how much of it.
pub struct Budget {
    stocks: [Stock; 2],
    payers: Mutex<FastMap<Payer, Arc<Held>>>,
    sheds: [AtomicU64; SHEDS.len()],
}

struct Stock {
    total: u64,
    free: AtomicI64,
    slice: u64,
}

/// What all workers together have leased for one payer.
#[derive(Default)]
struct Held([AtomicU64; 2]);

/// What one payer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `None`: all that found no room.
    pub payer: Option<Payer>,
    pub memory: u64,
    pub descriptors: u64,
}

impl Budget {
    /// `memory` in bytes, `descriptors` in number: what connections and requests may take of the process'.
    pub fn new(memory: u64, descriptors: u64) -> Arc<Self> {
        let stock = |total: u64, slice| Stock {
            total: total.min(i64::MAX as u64 / 2),
            free: AtomicI64::new(total.min(i64::MAX as u64 / 2) as i64),
            slice,
        };
        let slice = (memory / 1024).clamp(4 << 10, SLICE);
        Arc::new(Self {
            stocks: [stock(memory, slice), stock(descriptors, 1)],
            payers: Mutex::default(),
            sheds: Default::default(),
        })
    }

    /// One that nobody notices.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, u64::MAX)
    }

    fn held(&self, payer: &Payer) -> Arc<Held> {
        let mut payers = self.payers.lock();
        if payers.len() >= MAX_IDLE_PAYERS {
            // Those that a worker has an account for are held by that, too.
            payers.retain(|_, held| Arc::strong_count(held) > 1 || !held.is_nothing());
        }
        payers.entry(payer.clone()).or_default().clone()
    }

    /// Leases `wanted`, if the payer's share allows it.
    fn try_lease(&self, held: &Held, of: Resource, wanted: u64, need: Need) -> bool {
        let stock = &self.stocks[of as usize];
        let holds = held.0[of as usize].load(Relaxed);
        let leased = stock.free.fetch_update(Relaxed, Relaxed, |free| {
            let bound = Bound { total: stock.total, free };
            let allowed = match need {
                Need::Firm => bound.allows(holds, wanted),
                Need::Spare => bound.allows_spare(holds, wanted),
            };
            allowed.then_some(free - wanted as i64)
        });
        if leased.is_ok() {
            held.0[of as usize].fetch_add(wanted, Relaxed);
        }
        leased.is_ok()
    }

    /// Takes what cannot be refused any more.
    fn lease(&self, held: &Held, of: Resource, wanted: u64) {
        self.stocks[of as usize].free.fetch_sub(wanted as i64, Relaxed);
        held.0[of as usize].fetch_add(wanted, Relaxed);
    }

    fn give_back(&self, held: &Held, of: Resource, amount: u64) {
        held.0[of as usize].fetch_sub(amount, Relaxed);
        self.stocks[of as usize].free.fetch_add(amount as i64, Relaxed);
    }

    /// How much there is in all.
    pub fn total(&self, of: Resource) -> u64 {
        self.stocks[of as usize].total
    }

    /// Counts what was not taken on.
    pub fn count(&self, why: Shed) {
        self.sheds[why as usize].fetch_add(1, Relaxed);
    }

    /// What was not taken on so far, by why.
    pub fn sheds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SHEDS.iter().map(|(why, name)| (*name, self.sheds[*why as usize].load(Relaxed)))
    }

    /// Who holds how much, those with the most memory first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .payers
            .lock()
            .iter()
            .filter(|(_, held)| !held.is_nothing())
            .map(|(payer, held)| Row {
                payer: Some(payer.clone()),
                memory: held.0[Resource::Memory as usize].load(Relaxed),
                descriptors: held.0[Resource::Descriptors as usize].load(Relaxed),
            })
            .collect();
        rows.sort_by(|a, b| (b.memory, b.descriptors, &a.payer).cmp(&(a.memory, a.descriptors, &b.payer)));
        if rows.len() > MAX_ROWS {
            let rest = rows.split_off(MAX_ROWS);
            rows.push(Row {
                payer: None,
                memory: rest.iter().map(|row| row.memory).sum(),
                descriptors: rest.iter().map(|row| row.descriptors).sum(),
            });
        }
        rows
    }
}

impl Held {
    fn is_nothing(&self) -> bool {
        self.0.iter().all(|held| held.load(Relaxed) == 0)
    }
}
