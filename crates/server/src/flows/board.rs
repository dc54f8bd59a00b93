//! Who carries out what: the runners, the runs that they have, and how many runs each Flow has. All of it is in memory, and follows
//! from the store and from who is heard. No clock and no I/O.
//!
//! A run on the board is active in the store, or is about to be. It is *carried* by a node, or an *orphan*, which somebody is to take up. A runner
//! that was not heard for longer than a lease carries nothing; its runs are orphans from then on. Who may still write of a run is not decided
//! here but by the numbers of leases ([`super::RunBook`]).

mod counts;
mod runner;
mod unheard;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tulle_model::flow::history::HistoryEntry;
use tulle_model::name::NamespacedName;
use tulle_model::stamp::Stamp;

pub use self::counts::FlowTally;
pub(super) use self::counts::{MOST_QUEUED, Refusal};
use self::runner::{Link, MOST_UNREADABLE, Runner};
use self::unheard::Unheard;
use super::{RunHeader, RunName, RunWish, RunWishes};

/// What a runner is told, beside the Flows.
#[derive(Debug, Clone, PartialEq)]
pub enum RunnerNote {
    /// It has a run now, under a lease of this number, and these are wanted of it.
    Given(RunName, u64, Vec<RunWish>),
    Wish(RunName, RunWish),
    Lost(RunName, u64),
}

/// A runner that says hello.
#[derive(Debug)]
pub struct NewRunner {
    pub node: Arc<str>,
    pub instance: Arc<str>,
    /// Of its certificate.
    pub stamp: Option<Stamp>,
    pub spaces: Arc<[String]>,
    pub most: usize,
    pub notes: mpsc::Sender<RunnerNote>,
    /// What it has, and under which leases.
    pub holds: Vec<(RunName, u64)>,
}

#[derive(Debug)]
struct Carried {
    /// Who has it; of an orphan, who had it.
    taker: Taker,
    is_orphan: bool,
    /// Zero while it is not known yet.
    lease: u64,
    account: Arc<str>,
    wanted: RunWishes,
    /// Its runner has asked for it, or added to it, under this lease.
    is_heard: bool,
    /// Since when who had it before was not there any more, where that is known.
    nobody_since: Option<Instant>,
}

/// Who takes up a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taker {
    pub(super) node: Arc<str>,
    pub(super) instance: Arc<str>,
}

impl Taker {
    /// By the name in a run's header; nobody has an empty one.
    pub(super) fn named(name: &str) -> Self {
        let (node, instance) = name.split_once('/').unwrap_or((name, ""));
        Self { node: node.into(), instance: instance.into() }
    }

    /// As the run's header names it.
    pub(super) fn name(&self) -> Arc<str> {
        format!("{}/{}", self.node, self.instance).into()
    }
}

/// Why nobody takes up a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTaker {
    /// No runner may have it that is connected.
    Nobody,
    /// All that may have as many as they take.
    Full,
    /// Somebody has it, or is about to.
    Taken,
    /// Those that may have it were given it before, and cannot read it.
    Unreadable,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    runners: HashMap<Arc<str>, Runner>,
    runs: HashMap<RunName, Carried>,
    /// By their namespaces: where one has no runner, others may have.
    orphans: BTreeMap<Arc<str>, VecDeque<RunName>>,
    flows: BTreeMap<NamespacedName, FlowTally>,
    /// Those with runs that wait for their turn.
    waiting: BTreeSet<NamespacedName>,
    /// They are counted as open, though the store may know of that or not: it has failed.
    unsure: HashSet<RunName>,
    unheard: Unheard,
    sessions: u64,
}

/// Whether a list of namespaces has one.
pub(crate) fn allows(spaces: &[String], namespace: &str) -> bool {
    spaces.iter().any(|space| space == "*" || space == namespace)
}

impl Board {
    /// How many runners are connected.
    pub(super) fn runners(&self) -> usize {
        self.runners.values().filter(|runner| runner.link.is_some()).count()
    }

    /// A run that the store has as active when the server starts; `runner` as its header names it. That has a lease to come back.
    pub(super) fn recall(&mut self, header: RunHeader, now: Instant) {
        let RunHeader { name: run, runner, lease, account, wanted, .. } = header;
        let taker = Taker::named(&runner);
        let known = self.runners.entry(taker.node.clone()).or_insert_with(|| Runner {
            instance: taker.instance.clone(),
            spaces: Arc::default(),
            most: 0,
            heard: now,
            link: None,
            is_leaving: false,
            runs: HashSet::new(),
            unreadable: HashSet::new(),
        });
        known.runs.insert(run.clone());
        let (is_orphan, is_heard, nobody_since) = (false, false, None);
        let carried = Carried { taker, is_orphan, lease, account, wanted, is_heard, nobody_since };
        self.runs.insert(run, carried);
    }

    /// A runner's stream opens: it keeps what it has, unless somebody else has it by now. Returns the stream's number, and what a
    /// former process of the node had: that is for this one, under new leases.
    pub(super) fn open(&mut self, new: NewRunner, now: Instant) -> (u64, Vec<RunName>) {
        self.sessions += 1;
        let session = self.sessions;
        let NewRunner { node, instance, stamp, spaces, most, notes, holds } = new;
        let before = self.runners.remove(&node);
        let is_same = before.as_ref().is_none_or(|before| before.instance == instance);
        let silent_since = before.as_ref().map(|before| before.heard);
        let (runs, mut unreadable) =
            before.map(|before| (before.runs, before.unreadable)).unwrap_or_default();
        if !is_same {
            unreadable.clear();
        }
        let link = Some(Link { session, stamp, notes });
        let is_leaving = false;
        let mut runner = Runner {
            instance: instance.clone(),
            spaces,
            most,
            heard: now,
            link,
            is_leaving,
            runs,
            unreadable,
        };
        let mut told = HashSet::new();
        for (run, lease) in holds {
            match self.runs.get_mut(&run) {
                Some(carried)
                    if carried.lease == lease
                        && carried.taker.node == node
                        && carried.taker.instance == instance =>
                {
                    (carried.is_orphan, carried.is_heard) = (false, true);
                    let since = carried.wanted.since(lease);
                    since.for_each(|wish| runner.tell(RunnerNote::Wish(run.clone(), wish)));
                    runner.runs.insert(run.clone());
                    told.insert(run);
                }
                _ => runner.tell(RunnerNote::Lost(run, lease)),
            }
        }
        let others = runner.runs.iter().filter(|run| !told.contains(*run)).cloned();
        let others: Vec<RunName> = others.collect();
        let mut inherited = Vec::new();
        for run in others {
            match self.runs.get_mut(&run) {
                // It has not heard of it yet.
                Some(carried) if is_same && carried.lease > 0 => {
                    runner.tell(RunnerNote::Given(run, carried.lease, carried.wanted.all()));
                }
                Some(carried) if !is_same => {
                    carried.nobody_since = silent_since;
                    inherited.push(run);
                }
                _ => {}
            }
        }
        self.runners.insert(node, runner);
        (session, inherited)
    }

    /// A runner cannot read a run that it was given: it is for others. Whether it had it.
    pub(super) fn cannot_read(&mut self, node: &str, session: u64, run: &RunName, lease: u64) -> bool {
        let Some(runner) = self.linked(node, session) else { return false };
        let instance = runner.instance.clone();
        let is_its = |carried: &&mut Carried| {
            carried.lease == lease
                && !carried.is_orphan
                && &*carried.taker.node == node
                && carried.taker.instance == instance
        };
        let Some(carried) = self.runs.get_mut(run).filter(is_its) else { return false };
        carried.is_orphan = true;
        if let Some(runner) = self.runners.get_mut(node) {
            runner.runs.remove(run);
            if runner.unreadable.len() < MOST_UNREADABLE {
                runner.unreadable.insert(run.clone());
            } else {
                runner.most = 0;
            }
        }
        self.put_back_orphan(run.clone());
        true
    }

    /// Something came of a runner's stream; whether it was given up before.
    pub(super) fn heard(&mut self, node: &str, session: u64, now: Instant, lease: Duration) -> bool {
        let Some(runner) = self.linked(node, session) else { return false };
        let is_back = !runner.is_heard(now, lease);
        runner.heard = now;
        is_back
    }

    /// A runner's stream is over: its lease runs on, unless it said that it goes.
    pub(super) fn closed(&mut self, node: &str, session: u64) {
        let Some(runner) = self.linked(node, session) else { return };
        runner.link = None;
        if runner.is_leaving {
            self.revoke(node);
        }
    }

    /// A runner is to have no more runs than it has.
    pub(super) fn leaves(&mut self, node: &str, session: u64) {
        if let Some(runner) = self.linked(node, session) {
            (runner.is_leaving, runner.most) = (true, 0);
        }
    }

    /// Somebody has joined under a node's name, with a grant of his own: who has its stream opens it anew, if he still may.
    pub(super) fn joined(&mut self, node: &str) {
        if let Some(runner) = self.runners.get_mut(node) {
            runner.link = None;
        }
    }

    /// A node may carry out nothing any more.
    pub(super) fn revoke(&mut self, node: &str) {
        if let Some(runner) = self.runners.remove(node) {
            self.abandon_all(runner.runs, runner.heard);
        }
    }

    fn linked(&mut self, node: &str, session: u64) -> Option<&mut Runner> {
        let runner = self.runners.get_mut(node)?;
        runner.link.as_ref().is_some_and(|link| link.session == session).then_some(runner)
    }

    /// Whether a stream of a runner is the present one.
    pub(super) fn is_open(&mut self, node: &str, session: u64) -> bool {
        self.linked(node, session).is_some()
    }

    /// The namespaces of the Flows that a connected runner carries out, where it is the one with that stamp.
    pub(super) fn spaces(&self, node: &str, stamp: Option<Stamp>) -> Option<Arc<[String]>> {
        let runner = self.runners.get(node)?;
        runner.link.as_ref().filter(|link| link.stamp == stamp).map(|_| runner.spaces.clone())
    }

    /// Takes from those that were not heard for longer than a lease what they have; whether that was anything.
    pub(super) fn expire(&mut self, now: Instant, lease: Duration) -> bool {
        let mut orphaned = Vec::new();
        self.runners.retain(|_, runner| {
            if runner.is_heard(now, lease) {
                return true;
            }
            for run in std::mem::take(&mut runner.runs) {
                let lease = self.runs.get(&run).map_or(0, |carried| carried.lease);
                runner.tell(RunnerNote::Lost(run.clone(), lease));
                orphaned.push((run, runner.heard));
            }
            runner.link.is_some()
        });
        let any = !orphaned.is_empty();
        orphaned.into_iter().for_each(|(run, since)| self.abandon_all([run], since));
        any
    }

    /// Nobody has these, since then.
    fn abandon_all(&mut self, runs: impl IntoIterator<Item = RunName>, since: Instant) {
        for run in runs {
            if let Some(carried) = self.runs.get_mut(&run) {
                carried.is_orphan = true;
                carried.nobody_since = Some(since);
                self.put_back_orphan(run);
            }
        }
    }

    /// When the next of those that are silent loses its runs.
    pub(super) fn next_expiry(&self, lease: Duration) -> Option<Instant> {
        let running = self.runners.values().filter(|runner| runner.link.is_none() || !runner.runs.is_empty());
        running.map(|runner| runner.heard + lease).min()
    }

    /// Somebody is to take up a run that was `of` somebody; nothing happens where another one has it by now.
    pub(super) fn orphan(&mut self, run: RunName, account: Arc<str>, lease: u64, of: &Taker) {
        let carried = self.runs.entry(run.clone()).or_insert_with(|| Carried {
            taker: of.clone(),
            is_orphan: true,
            lease,
            account,
            wanted: RunWishes::default(),
            is_heard: false,
            nobody_since: None,
        });
        if carried.taker != *of {
            return;
        }
        if let Some(runner) = self.runners.get_mut(&carried.taker.node) {
            runner.runs.remove(&run);
        }
        carried.is_orphan = true;
        self.put_back_orphan(run);
    }

    /// The same of a run that the store has under its header's lease.
    pub(super) fn orphan_of(&mut self, header: &RunHeader) {
        let RunHeader { name, account, lease, runner, .. } = header;
        self.orphan(name.clone(), account.clone(), *lease, &Taker::named(runner));
    }

    /// The namespaces with orphans.
    pub(super) fn with_orphans(&self) -> Vec<Arc<str>> {
        self.orphans.keys().cloned().collect()
    }

    /// The first orphans of a namespace, and whom they call as. They are to be taken up, or put back. Those that nobody who is there
    /// can read are left where they are.
    pub(super) fn take_orphans(
        &mut self,
        namespace: &str,
        most: usize,
        now: Instant,
        lease: Duration,
    ) -> Vec<(RunName, Arc<str>)> {
        let mut taken: Vec<(RunName, Arc<str>)> = Vec::new();
        let Some(mut orphans) = self.orphans.remove(namespace) else { return taken };
        let present: Vec<_> = self.runners.values().filter(|r| r.may_have(namespace, now, lease)).collect();
        let is_unreadable = |run: &RunName| {
            !present.is_empty() && present.iter().all(|runner| runner.unreadable.contains(run))
        };
        let mut left = VecDeque::new();
        while taken.len() < most
            && let Some(run) = orphans.pop_front()
        {
            let orphan = self.runs.get(&run).filter(|carried| carried.is_orphan);
            let Some(account) = orphan.map(|carried| carried.account.clone()) else { continue };
            if is_unreadable(&run) {
                left.push_back(run);
            } else if !taken.iter().any(|(other, _)| *other == run) {
                taken.push((run, account));
            }
        }
        left.append(&mut orphans);
        if !left.is_empty() {
            self.orphans.insert(namespace.into(), left);
        }
        taken
    }

    pub(super) fn put_back_orphan(&mut self, run: RunName) {
        self.orphans.entry(run.namespace.clone()).or_default().push_back(run);
    }

    /// Chooses who takes up a run, and has him have it: `first` where it may, else the one with the most room.
    pub(super) fn take_up(
        &mut self,
        run: &RunName,
        account: &Arc<str>,
        first: Option<&str>,
        now: Instant,
        lease: Duration,
    ) -> Result<Taker, NoTaker> {
        if self.runs.get(run).is_some_and(|carried| !carried.is_orphan) {
            return Err(NoTaker::Taken);
        }
        let may = |runner: &&mut Runner| runner.may_have(&run.namespace, now, lease);
        let mut candidates: Vec<_> = self.runners.iter_mut().filter(|(_, runner)| may(runner)).collect();
        if candidates.is_empty() {
            return Err(NoTaker::Nobody);
        }
        candidates.retain(|(_, runner)| !runner.unreadable.contains(run));
        if candidates.is_empty() {
            return Err(NoTaker::Unreadable);
        }
        candidates.retain(|(_, runner)| runner.runs.len() < runner.most);
        // Shares of what each takes, so that a small one is not filled first.
        let load = |runner: &Runner| (runner.runs.len() << 20) / runner.most.max(1);
        // One that could not read some is of an older version than others.
        let is_older = |runner: &Runner| !runner.unreadable.is_empty();
        let best = candidates
            .into_iter()
            .min_by_key(|(node, runner)| (first != Some(&***node), is_older(runner), load(runner)));
        let (node, runner) = best.ok_or(NoTaker::Full)?;
        runner.runs.insert(run.clone());
        let taker = Taker { node: node.clone(), instance: runner.instance.clone() };
        self.reserve(run, account, taker.clone());
        Ok(taker)
    }

    /// Has a process of a node have what a former one had; `false` where it is gone itself, or somebody else has it, or it does already.
    pub(super) fn inherit(&mut self, run: &RunName, heir: &Taker) -> bool {
        let is_present = self.runners.get(&heir.node).is_some_and(|runner| runner.instance == heir.instance);
        let is_of_former = |carried: &&Carried| {
            carried.taker.node == heir.node && carried.taker.instance != heir.instance && !carried.is_orphan
        };
        let Some(carried) = self.runs.get(run).filter(is_of_former).filter(|_| is_present) else {
            return false;
        };
        let account = carried.account.clone();
        self.reserve(run, &account, heir.clone());
        true
    }

    fn reserve(&mut self, run: &RunName, account: &Arc<str>, taker: Taker) {
        let before = self.runs.remove(run).map(|carried| (carried.wanted, carried.nobody_since));
        let (wanted, nobody_since) = before.unwrap_or_default();
        let (account, is_orphan, is_heard) = (account.clone(), false, false);
        let carried = Carried { taker, is_orphan, lease: 0, account, wanted, is_heard, nobody_since };
        self.runs.insert(run.clone(), carried);
    }

    /// A lease is in the store: its runner is told. `false`: nobody knows of the run any more, or somebody else has it by now.
    pub(super) fn hand_over(&mut self, taker: &Taker, leased: &RunHeader) -> bool {
        let RunHeader { name: run, lease, .. } = leased;
        let lease = *lease;
        let Some(carried) = self.runs.get_mut(run).filter(|carried| carried.taker == *taker) else {
            return false;
        };
        if carried.lease >= lease {
            return false;
        }
        carried.lease = lease;
        // Others may have said something since that was written.
        let mut wanted = leased.wanted.clone();
        wanted.add_since(&carried.wanted, lease);
        let wishes = wanted.all();
        carried.wanted = wanted;
        if carried.is_orphan {
            return true;
        }
        self.unheard.add(run, lease);
        let note = RunnerNote::Given(run.clone(), lease, wishes);
        if let Some(runner) = self.runners.get_mut(&taker.node) {
            runner.tell(note);
        }
        true
    }

    /// A run that its runner has begun itself is in the store. As [`Board::hand_over`] otherwise.
    pub(super) fn begun(&mut self, run: &RunName, taker: &Taker, lease: u64) -> bool {
        match self.runs.get_mut(run).filter(|carried| carried.taker == *taker && carried.lease < lease) {
            Some(carried) => {
                carried.lease = lease;
                self.unheard.add(run, lease);
                true
            }
            None => false,
        }
    }

    /// Nobody has a run any more, nor is to take it up: it waits, or is over. `false` where it was released before, or is under
    /// another lease.
    pub(super) fn release(&mut self, run: &RunName, lease: u64) -> bool {
        let is_had = self.runs.get(run).is_some_and(|carried| carried.lease == lease);
        if is_had {
            self.drop_run(run);
        }
        is_had
    }

    /// As [`Board::release`], whatever the lease is.
    pub(super) fn drop_run(&mut self, run: &RunName) {
        for runner in self.runners.values_mut() {
            runner.unreadable.remove(run);
        }
        if let Some(carried) = self.runs.remove(run)
            && let Some(runner) = self.runners.get_mut(&carried.taker.node)
        {
            runner.runs.remove(run);
        }
    }

    /// As [`Board::drop_run`], of a run that was cancelled under a lease; its runner is told that it has it no more. Who has it under a
    /// later one has had it go on since. Whoever is about to have it finds out himself.
    pub(super) fn take_away(&mut self, run: &RunName, cancelled: u64) {
        let Some(carried) = self.runs.get(run) else { return };
        let is_earlier = carried.lease < cancelled && (carried.is_orphan || carried.lease > 0);
        if !is_earlier {
            return;
        }
        if let Some(runner) = self.runners.get_mut(&carried.taker.node)
            && runner.runs.contains(run)
        {
            runner.tell(RunnerNote::Lost(run.clone(), carried.lease));
        }
        self.drop_run(run);
    }

    /// Something is wanted of a run since the lease that its header says: its runner is told, now or together with the run.
    pub(super) fn wish(&mut self, header: &RunHeader, wish: RunWish) {
        let RunHeader { name: run, lease, .. } = header;
        let Some(carried) = self.runs.get_mut(run).filter(|carried| carried.lease <= *lease) else { return };
        carried.wanted.add(wish.clone(), *lease);
        if !carried.is_orphan
            && carried.lease == *lease
            && let Some(runner) = self.runners.get_mut(&carried.taker.node)
        {
            runner.tell(RunnerNote::Wish(run.clone(), wish));
        }
    }

    /// A run's history has these now.
    pub(super) fn shown(&mut self, run: &RunName, entries: &[HistoryEntry]) {
        if let Some(carried) = self.runs.get_mut(run) {
            carried.wanted.shown(entries);
        }
    }

    pub(super) fn knows(&self, run: &RunName) -> bool {
        self.runs.contains_key(run)
    }

    /// Whether a node has that lease of a run, as far as is known here.
    pub(super) fn has(&self, run: &RunName, node: &str, lease: u64) -> bool {
        self.runs.get(run).is_some_and(|carried| &*carried.taker.node == node && carried.lease == lease)
    }

    /// Since when nobody had a run before who has it now ([`Carried::nobody_since`]).
    pub(super) fn nobody_since(&self, run: &RunName) -> Option<Instant> {
        self.runs.get(run)?.nobody_since
    }

    /// Whether a node has a run that calls as a service account.
    pub(super) fn calls_as(&self, node: &str, namespace: &str, account: &str) -> bool {
        let Some(runner) = self.runners.get(node) else { return false };
        let calls = |carried: &Carried| &*carried.account == account;
        let mut of_namespace = runner.runs.iter().filter(|run| &*run.namespace == namespace);
        of_namespace.any(|run| self.runs.get(run).is_some_and(calls))
    }
}

#[cfg(test)]
mod tests;
