//! What has entered the workloads of this node and is still there, on one worker: who, where, and let in by which
//! configuration, so that a later one can end what it no longer allows.
//!
//! An entry is there for as long as the request or connection that it is for, and costs what a few pointers do: there
//! are no more of them than of those, which the budget bounds.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Method};
use slab::Slab;
use tokio::sync::Notify;
use tulle_model::authorization::Traffic;
use tulle_model::name::{NamespacedName, WorkloadName};
use tulle_model::snapshot::{AccessPolicies, FastMap, Token, WorkloadConfig};

use super::kept_head::{KeptHead, request_of};
use super::presence::{Withdrawn, is_authorized, may_stay, was_asked_about};
use super::tokens::{Brought, KeptTokens};
use crate::metrics::{Count, WorkerMetrics};
use crate::peer::Peer;
use crate::state::{LocalWorkload, NodeState};

/// Who wants to go in, and where.
#[derive(Clone, Copy)]
pub(crate) struct Entrance<'a> {
    pub peer: &'a Peer,
    pub workload: &'a Arc<LocalWorkload>,
    pub port: u16,
    /// Where the process is reached.
    pub address: IpAddr,
}

impl<'a> Entrance<'a> {
    /// To the process where it is known to listen.
    pub fn to(peer: &'a Peer, workload: &'a Arc<LocalWorkload>, port: u16) -> Self {
        Self { peer, workload, port, address: workload.app_address }
    }

    pub fn process(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Something that has entered a workload and is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub peer: Peer,
    pub workload: WorkloadName,
    pub port: u16,
    /// Of the configuration that let it in ([`tulle_model::snapshot::Snapshot::generation`]).
    pub generation: u64,
    /// What an upgrade asked for. Of requests it is not kept: they are over soon.
    pub upgrade: Option<Upgrade>,
}

/// A request to leave HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub method: Method,
    pub path: String,
}

/// What has entered by one worker.
#[derive(Default)]
pub struct Visits {
    open: RefCell<Slab<OpenVisit>>,
    /// By address: nothing else is at that of one that is held.
    served: RefCell<FastMap<*const LocalWorkload, Rc<Served>>>,
    /// How many came with a valid token.
    aging: Cell<usize>,
    /// When the first of those has to end that may not grow old.
    next_end: Cell<Option<Instant>>,
    sooner: Notify,
}

/// A visit that goes on, with what can end it.
struct OpenVisit {
    peer: Peer,
    served: Rc<Served>,
    port: u16,
    generation: u64,
    sort: Sort,
    kept: Option<Box<Lasting>>,
    /// Whether it is a request that waits for its answer while what is said of its workload has changed: whoever has its head asks
    /// policies again.
    is_doubtful: bool,
    /// Why it may not stay, if so.
    withdrawn: Option<Withdrawn>,
    /// What waits to hear that.
    waiting: Option<Waker>,
}

/// What a visit is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Bytes,
    /// A request that has no answer yet, or one that is all there.
    Request,
    /// One whose answer is under way, or that has left HTTP.
    Stream,
}

/// What is kept of a request that may go on for long.
#[derive(Default)]
struct Lasting {
    /// Where policies look at requests.
    head: Option<KeptHead>,
    upgrade: Option<Upgrade>,
    /// Since when it is there, of what came with a valid token.
    since: Option<Instant>,
    /// The policies that have had somebody asked about it.
    asked: Vec<NamespacedName>,
}

impl OpenVisit {
    fn withdraw(&mut self, why: Withdrawn) {
        self.withdrawn = Some(why);
        self.wake();
        tracing::debug!(
            peer = %self.peer, workload = %self.served.workload.name, port = self.port,
            let_in_by = self.generation, "to be ended: {why}"
        );
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// When it has to end by its age.
    fn end(&self, config: &WorkloadConfig) -> Option<Instant> {
        let since = self.kept.as_ref()?.since?;
        since.checked_add(config.policies.max_stream_age(self.port)?)
    }

    /// `tokens`: where those of a request are put.
    fn seen<'s>(&'s self, config: Option<&WorkloadConfig>, tokens: &'s mut Vec<Token>) -> Traffic<'s> {
        let head = self.kept.as_ref().and_then(|kept| kept.head.as_ref());
        match (self.sort, head, config) {
            (Sort::Bytes, ..) => Traffic::Bytes,
            (Sort::Request, ..) => Traffic::Requests,
            (Sort::Stream, Some(head), Some(config)) => head.seen(&config.policies, tokens),
            (Sort::Stream, ..) => Traffic::Forgotten,
        }
    }
}

/// A workload that is visited, and how much is in flight to it.
struct Served {
    workload: Arc<LocalWorkload>,
    /// As it was when what has entered was last looked at.
    seen: RefCell<LastSeen>,
    in_flight: Arc<Count>,
}

/// A workload, and what the server says of it; `None`: it is gone, or nothing is said.
#[derive(Clone, Default)]
struct LastSeen {
    workload: Option<Arc<LocalWorkload>>,
    config: Option<Arc<WorkloadConfig>>,
}

impl LastSeen {
    fn in_state(state: &NodeState, name: &WorkloadName) -> Self {
        let workload = state.workloads.get(name).cloned();
        Self { workload, config: state.snapshot.workloads.get(name).cloned() }
    }

    /// By their addresses: what is said anew may say the same.
    fn is(&self, other: &Self) -> bool {
        self.workload.as_ref().map(Arc::as_ptr) == other.workload.as_ref().map(Arc::as_ptr)
            && self.config.as_ref().map(Arc::as_ptr) == other.config.as_ref().map(Arc::as_ptr)
    }
}

impl Served {
    fn has_changed(&self, now: &LastSeen) -> bool {
        !self.seen.borrow().is(now)
    }
}

/// Keeps a visit written down, and counts it as in flight, until it is dropped.
pub struct Entered {
    visits: Rc<Visits>,
    key: usize,
    /// Where policies have issuers of tokens.
    brought: Option<Box<Brought>>,
}

impl Visits {
    pub(super) fn enter(
        self: &Rc<Self>,
        metrics: &WorkerMetrics,
        Entrance { peer, workload, port, .. }: Entrance<'_>,
        generation: u64,
        is_request: bool,
        brought: Option<Box<Brought>>,
    ) -> Entered {
        let served = self.served(metrics, workload);
        served.in_flight.add(1);
        let key = self.open.borrow_mut().insert(OpenVisit {
            peer: peer.clone(),
            served,
            port,
            generation,
            sort: if is_request { Sort::Request } else { Sort::Bytes },
            kept: None,
            is_doubtful: false,
            withdrawn: None,
            waiting: None,
        });
        Entered { visits: self.clone(), key, brought }
    }

    fn served(&self, metrics: &WorkerMetrics, workload: &Arc<LocalWorkload>) -> Rc<Served> {
        let mut served = self.served.borrow_mut();
        let known = served.entry(Arc::as_ptr(workload)).or_insert_with(|| {
            let in_flight = metrics.in_flight(&workload.name);
            // Until it is looked at, nothing is said of it.
            let seen = RefCell::new(LastSeen { workload: Some(workload.clone()), config: None });
            Rc::new(Served { workload: workload.clone(), seen, in_flight })
        });
        known.clone()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Visit> {
        let visit = |(_, entry): (usize, &OpenVisit)| Visit {
            peer: entry.peer.clone(),
            workload: entry.served.workload.name.clone(),
            port: entry.port,
            generation: entry.generation,
            upgrade: entry.kept.as_ref().and_then(|kept| kept.upgrade.clone()),
        };
        self.open.borrow().iter().map(visit).collect()
    }

    /// Withdraws from what is there what a newer state no longer lets in: whoever waits for that ends it. How much that was.
    pub fn withdraw(&self, state: &NodeState) -> usize {
        let now = |served: &Served| LastSeen::in_state(state, &served.workload.name);
        let served = self.served.borrow();
        // What is said of a workload that is as it was says nothing new of what is in it.
        if !served.values().any(|served| served.has_changed(&now(served))) {
            return 0;
        }
        let (mut count, mut tokens) = (0, Vec::new());
        for (_, entry) in self.open.borrow_mut().iter_mut() {
            let now = now(&entry.served);
            if !entry.served.has_changed(&now) {
                continue;
            }
            if entry.withdrawn.is_none()
                && let Err(why) = may_stay(
                    &entry.peer,
                    &entry.served.workload.identity,
                    now.workload.as_ref(),
                    now.config.as_deref(),
                    entry.port,
                    entry.seen(now.config.as_deref(), &mut tokens),
                    entry.kept.as_ref().map_or(&[][..], |kept| &kept.asked),
                )
            {
                entry.withdraw(why);
                count += 1;
            } else if entry.sort == Sort::Request {
                entry.is_doubtful = true;
                entry.wake();
            }
        }
        for served in served.values() {
            *served.seen.borrow_mut() = now(served);
        }
        count
    }

    /// Withdraws what came with a token, and is older than policies allow. How much that was.
    pub fn withdraw_old(&self, state: &NodeState, now: Instant) -> usize {
        if self.aging.get() == 0 {
            return 0;
        }
        let (mut count, mut next) = (0, None::<Instant>);
        for (_, entry) in self.open.borrow_mut().iter_mut() {
            let config = state.snapshot.workloads.get(&entry.served.workload.name);
            let Some(end) = config.and_then(|config| entry.end(config)) else { continue };
            if entry.withdrawn.is_some() {
                continue;
            }
            if end > now {
                next = Some(next.map_or(end, |next| next.min(end)));
                continue;
            }
            entry.withdraw(Withdrawn::Old);
            count += 1;
        }
        self.next_end.set(next);
        count
    }

    /// Ready when [`Visits::withdraw_old`] has something to do.
    pub async fn some_are_old(&self) {
        loop {
            match self.next_end.get() {
                None => self.sooner.notified().await,
                Some(end) => tokio::select! {
                    () = self.sooner.notified() => {}
                    () = tokio::time::sleep_until(end.into()) => return,
                },
            }
        }
    }

    /// Forgets workloads that are gone or have changed, and gives back what memory a busy time took. To be asked from
    /// time to time.
    pub fn forget(&self, state: &NodeState) {
        self.served.borrow_mut().retain(|address, served| {
            let now = state.workloads.get(&served.workload.name);
            Rc::strong_count(served) > 1 || now.is_some_and(|now| Arc::as_ptr(now) == *address)
        });
        let mut open = self.open.borrow_mut();
        if open.len() < open.capacity() / 4 {
            open.shrink_to_fit();
        }
    }
}

impl Entered {
    /// Whether what came of its tokens changes what the application is told.
    pub(super) fn tells_claims(&self) -> bool {
        self.brought.as_ref().is_some_and(|brought| brought.changes_headers())
    }

    /// Tells the client what those have added to the answer who were asked.
    pub(crate) fn tell_client(&self, headers: &mut HeaderMap) {
        if let Some(answers) = self.brought.as_ref().and_then(|brought| brought.answers.as_ref()) {
            answers.write_answer(headers);
        }
    }

    /// Tells the application what its tokens say.
    pub(super) fn tell_claims(&self, headers: &mut HeaderMap) {
        if let Some(brought) = &self.brought {
            brought.write_headers(headers);
        }
    }

    /// Ready, with the reason, when it may not stay. One alone can wait for that.
    pub(super) fn poll_withdrawn(&self, cx: &Context<'_>) -> Poll<Withdrawn> {
        let mut open = self.visits.open.borrow_mut();
        let Some(entry) = open.get_mut(self.key) else { return Poll::Pending };
        if let Some(why) = entry.withdrawn {
            return Poll::Ready(why);
        }
        if !entry.waiting.as_ref().is_some_and(|waiting| waiting.will_wake(cx.waker())) {
            entry.waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The same for a request that waits for its answer; ready without a reason when who has its head is to ask policies again.
    pub(super) fn poll_doubt(&self, cx: &Context<'_>) -> Poll<Option<Withdrawn>> {
        if let Some(entry) = self.visits.open.borrow_mut().get_mut(self.key)
            && std::mem::take(&mut entry.is_doubtful)
        {
            return Poll::Ready(entry.withdrawn);
        }
        self.poll_withdrawn(cx).map(Some)
    }

    /// What its tokens are under other policies than those that let it in; `None` where there is an issuer whom nobody has asked about them.
    pub(super) fn tokens_under(&self, policies: &AccessPolicies) -> Option<Vec<Token>> {
        let none = KeptTokens::default();
        self.brought.as_ref().map_or(&none, |brought| &brought.tokens).under(policies)
    }

    /// The policies that have had somebody asked about it.
    pub(super) fn asked(&self) -> &[NamespacedName] {
        let answers = self.brought.as_ref().and_then(|brought| brought.answers.as_ref());
        answers.map_or(&[][..], |answers| answers.policies())
    }

    /// What came with a valid token may not grow older than policies say.
    pub(super) fn ages(&self, state: &NodeState) {
        if !self.brought.as_ref().is_some_and(|brought| brought.tokens.have_valid()) {
            return;
        }
        let (visits, mut open) = (&self.visits, self.visits.open.borrow_mut());
        let Some(entry) = open.get_mut(self.key) else { return };
        entry.kept.get_or_insert_default().since = Some(tokio::time::Instant::now().into_std());
        visits.aging.update(|aging| aging + 1);
        let config = state.snapshot.workloads.get(&entry.served.workload.name);
        if let Some(end) = config.and_then(|config| entry.end(config))
            && visits.next_end.get().is_none_or(|next| end < next)
        {
            visits.next_end.set(Some(end));
            visits.sooner.notify_one();
        }
    }

    /// It may be there for long: what policies ask for is kept, where they look at requests. Those of now may not be those
    /// that let it in.
    pub(super) fn stays(&self, state: &NodeState, head: &Parts) {
        let mut open = self.visits.open.borrow_mut();
        let Some(entry) = open.get_mut(self.key) else { return };
        entry.sort = Sort::Stream;
        let config = state.snapshot.workloads.get(&entry.served.workload.name).map(|config| &**config);
        let Some(config) = config.filter(|config| config.policies.reading(entry.port).is_some()) else {
            return;
        };
        let none = KeptTokens::default();
        let kept = self.brought.as_ref().map_or(&none, |brought| &brought.tokens);
        let tokens = self.tokens_under(&config.policies);
        let seen = match &tokens {
            Some(tokens) => Traffic::Request(request_of(head, tokens)),
            None => Traffic::Forgotten,
        };
        let asked = self.asked();
        if entry.generation != state.snapshot.generation
            && (is_authorized(&entry.peer, Some(config), entry.port, seen).is_err()
                || !was_asked_about(&entry.peer, Some(config), entry.port, seen, asked))
        {
            entry.withdrawn.get_or_insert(Withdrawn::Denied);
        }
        let lasting = entry.kept.get_or_insert_default();
        lasting.head = KeptHead::new(head, config.policies.headers().clone(), kept);
        lasting.asked = asked.to_vec();
    }

    /// It leaves HTTP: what it asked for is kept.
    pub(super) fn leaves_http(&self, state: &NodeState, head: &Parts) {
        self.stays(state, head);
        if let Some(entry) = self.visits.open.borrow_mut().get_mut(self.key) {
            let upgrade = Upgrade { method: head.method.clone(), path: head.uri.path().to_owned() };
            entry.kept.get_or_insert_default().upgrade = Some(upgrade);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = self.visits.open.borrow_mut().try_remove(self.key);
        if let Some(entry) = left {
            entry.served.in_flight.subtract(1);
            if entry.kept.is_some_and(|kept| kept.since.is_some()) {
                self.visits.aging.update(|aging| aging - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
