//! What has entered the workloads of this node and is still there, on one worker: who, where, and let in by which
//! configuration, so that a later one can end what it no longer allows.
//!
//! An entry is there for as long as the request or connection that it is for, and costs what a few pointers do: there
//! are no more of them than of those, which the budget bounds.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use http::{HeaderMap, Method};
use slab::Slab;
use tulle_model::authorization::Traffic;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{FastMap, Token, WorkloadConfig};

use super::kept_head::{KeptHead, request_of};
use super::presence::{Withdrawn, is_authorized, may_stay};
use super::tokens::{Brought, KeptTokens};
use crate::metrics::{Count, WorkerMetrics};
use crate::state::{LocalWorkload, NodeState};

/// Who comes to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A workload of the mesh: its certificate says so or, on the same node, whose connection it is.
    Mesh(SpiffeId),
    /// Somebody outside of the mesh, in plain, from that address.
    Plain(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(identity) => identity.fmt(f),
            Self::Plain(address) => address.fmt(f),
        }
    }
}

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
}

/// A visit that goes on, with what can end it.
struct OpenVisit {
    peer: Peer,
    served: Rc<Served>,
    port: u16,
    generation: u64,
    sort: Sort,
    kept: Option<Box<Lasting>>,
    /// Why it may not stay, if so.
    withdrawn: Option<Withdrawn>,
    /// What waits to hear that.
    waiting: Option<Waker>,
}

/// What a visit is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Bytes,
    /// A request that has no answer yet, or one of known length. It is over soon, or goes on for long.
    Request,
    /// One that goes on for long.
    Stream,
}

/// What is kept of a request that may go on for long.
#[derive(Default)]
struct Lasting {
    /// Where policies look at requests.
    head: Option<KeptHead>,
    upgrade: Option<Upgrade>,
}

impl OpenVisit {
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
                )
            {
                entry.withdrawn = Some(why);
                count += 1;
                tracing::debug!(
                    peer = %entry.peer, workload = %entry.served.workload.name, port = entry.port,
                    let_in_by = entry.generation, generation = state.snapshot.generation, "to be ended: {why}"
                );
                if let Some(waiting) = entry.waiting.take() {
                    waiting.wake();
                }
            }
        }
        for served in served.values() {
            *served.seen.borrow_mut() = now(served);
        }
        count
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
        let tokens = kept.under(&config.policies);
        let seen = match &tokens {
            Some(tokens) => Traffic::Request(request_of(head, tokens)),
            None => Traffic::Forgotten,
        };
        if entry.generation != state.snapshot.generation
            && is_authorized(&entry.peer, Some(config), entry.port, seen).is_err()
        {
            entry.withdrawn.get_or_insert(Withdrawn::Denied);
        }
        entry.kept.get_or_insert_default().head = KeptHead::new(head, &config.policies, kept);
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
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tulle_model::identity::TrustDomain;
    use tulle_model::snapshot::{AccessPolicy, AccessRule, Action, IdentityPattern, Source};

    use super::*;

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", account).unwrap()
    }

    fn workload(name: &str) -> Arc<LocalWorkload> {
        Arc::new(LocalWorkload {
            name: WorkloadName::new("default", name),
            service: name.into(),
            identity: identity(name),
            app_address: Ipv4Addr::LOCALHOST.into(),
            ports: vec![80],
            certificate: None,
            draining: false,
        })
    }

    /// Entries are asked for in another order than they were made.
    #[test]
    fn what_has_entered_is_there_until_it_leaves() {
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (a, b) = (workload("a"), workload("b"));
        let (mesh, plain) = (Peer::Mesh(identity("x")), Peer::Plain("192.0.2.1:5".parse().unwrap()));
        let visit = |peer: &Peer, workload: &str, generation| Visit {
            peer: peer.clone(),
            workload: WorkloadName::new("default", workload),
            port: 80,
            generation,
            upgrade: None,
        };
        let enter = |peer, workload, generation| {
            visits.enter(&metrics, Entrance::to(peer, workload, 80), generation, false, None)
        };
        let first = enter(&mesh, &a, 1);
        let second = enter(&plain, &b, 1);
        let third = enter(&mesh, &a, 2);
        let in_flight = |of: &Arc<LocalWorkload>| metrics.registry().in_flight(&of.name);
        assert_eq!((in_flight(&a), in_flight(&b)), (2, 1));
        drop(first);
        assert_eq!(visits.list(), [visit(&plain, "b", 1), visit(&mesh, "a", 2)]);
        drop(third);
        assert_eq!((in_flight(&a), in_flight(&b)), (0, 1));
        drop(second);
        assert_eq!((visits.list(), in_flight(&b)), (vec![], 0));
    }

    /// What is renewed goes on counting where the one before did.
    #[test]
    fn workloads_that_are_gone_are_forgotten_when_nothing_is_in_flight() {
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (old, new) = (workload("a"), workload("a"));
        let peer = Peer::Mesh(identity("x"));
        let enter = |workload| visits.enter(&metrics, Entrance::to(&peer, workload, 80), 1, false, None);
        let mut state = NodeState::default();
        state.workloads.insert(new.name.clone(), new.clone());
        let (first, second) = (enter(&old), enter(&new));
        assert_eq!(metrics.registry().in_flight(&new.name), 2);
        let known = |state| {
            visits.forget(state);
            visits.served.borrow().len()
        };
        assert_eq!(known(&state), 2);
        drop(first);
        assert_eq!(known(&state), 1);
        drop(second);
        assert_eq!(known(&state), 1);
        assert_eq!(known(&NodeState::default()), 0);
    }

    /// A state with these workloads.
    fn state(workloads: &[&Arc<LocalWorkload>]) -> NodeState {
        let mut state = NodeState::default();
        for &workload in workloads {
            state.workloads.insert(workload.name.clone(), workload.clone());
        }
        state
    }

    #[test]
    fn a_change_withdraws_what_it_would_not_let_in_and_nothing_else() {
        let changed = |change: &dyn Fn(&mut LocalWorkload)| {
            let mut workload = Arc::into_inner(workload("a")).unwrap();
            change(&mut workload);
            Arc::new(workload)
        };
        let (mesh, plain) = (Peer::Mesh(identity("x")), Peer::Plain("192.0.2.1:5".parse().unwrap()));
        for (case, now, withdrawn) in [
            ("renewed", Some(changed(&|_| ())), [None, None]),
            ("draining", Some(changed(&|workload| workload.draining = true)), [None, None]),
            ("more ports", Some(changed(&|workload| workload.ports.push(81))), [None, None]),
            (
                "other ports",
                Some(changed(&|workload| workload.ports = vec![81])),
                [Some(Withdrawn::PortClosed), None],
            ),
            (
                "another of its name",
                Some(changed(&|workload| workload.identity = identity("other"))),
                [Some(Withdrawn::Gone), Some(Withdrawn::Gone)],
            ),
            ("gone", None, [Some(Withdrawn::Gone), Some(Withdrawn::Gone)]),
        ] {
            let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
            let (a, b) = (workload("a"), workload("b"));
            let enter =
                |peer, workload| visits.enter(&metrics, Entrance::to(peer, workload, 80), 1, false, None);
            let entered = [enter(&mesh, &a), enter(&plain, &a)];
            let elsewhere = enter(&mesh, &b);
            let cx = Context::from_waker(Waker::noop());
            let poll = |entered: &Entered| match entered.poll_withdrawn(&cx) {
                Poll::Ready(why) => Some(why),
                Poll::Pending => None,
            };
            assert_eq!(visits.withdraw(&state(&[&a, &b])), 0);
            assert_eq!(entered.each_ref().map(poll), [None, None], "{case}");
            let now: Vec<_> = now.iter().chain([&b]).collect();
            assert_eq!(visits.withdraw(&state(&now)), withdrawn.iter().flatten().count(), "{case}");
            assert_eq!(entered.each_ref().map(poll), withdrawn, "{case}");
            assert_eq!(poll(&elsewhere), None, "{case}");
            assert_eq!(visits.withdraw(&state(&now)), 0, "{case}: once");
            // It stays so, whatever comes.
            visits.withdraw(&state(&[&a, &b]));
            assert_eq!(entered.each_ref().map(poll), withdrawn, "{case}");
        }
    }

    #[test]
    fn a_policy_withdraws_whom_it_would_not_let_in() {
        let pattern = IdentityPattern::new("spiffe://*/ns/default/sa/x").unwrap();
        let policy = |action, sources| AccessPolicy {
            name: "default/p".parse().unwrap(),
            action,
            at: None,
            issuers: Vec::new(),
            rules: vec![AccessRule { index: 0, sources, ports: None, request: None }],
        };
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (a, b) = (workload("a"), workload("b"));
        let peers = [
            Peer::Mesh(identity("x")),
            Peer::Mesh(identity("y")),
            Peer::Plain("192.0.2.1:5".parse().unwrap()),
        ];
        let entered = peers.each_ref().map(|peer| {
            [&a, &b].map(|workload| visits.enter(&metrics, Entrance::to(peer, workload, 80), 1, false, None))
        });
        let state = |policies: Vec<AccessPolicy>| {
            let mut state = state(&[&a, &b]);
            let policies = policies.into();
            let config = WorkloadConfig { policies, ..WorkloadConfig::new(a.name.clone()) };
            let mut snapshot = tulle_model::snapshot::Snapshot::default();
            snapshot.workloads.insert(a.name.clone(), Arc::new(config));
            state.snapshot = Arc::new(snapshot);
            state
        };
        let identity = |pattern: &IdentityPattern| Some(vec![Source::Identity(pattern.clone())]);
        assert_eq!(visits.withdraw(&state(vec![policy(Action::Audit, None)])), 0);
        assert_eq!(visits.withdraw(&state(vec![policy(Action::Deny, identity(&pattern))])), 1);
        assert_eq!(visits.withdraw(&state(vec![policy(Action::Allow, identity(&pattern))])), 2);
        let cx = Context::from_waker(Waker::noop());
        for [of_a, of_b] in &entered {
            assert_eq!(of_a.poll_withdrawn(&cx), Poll::Ready(Withdrawn::Denied));
            assert_eq!(of_b.poll_withdrawn(&cx), Poll::Pending);
        }
    }

    #[tokio::test(flavor = "local")]
    async fn who_waits_for_it_is_woken_by_the_state_itself() {
        let a = workload("a");
        let worker = crate::worker::Worker::idle("n1", state(&[&a]));
        let local = worker.local.clone();
        tokio::task::spawn_local(super::super::door::follow(local.clone()));
        let peer = Peer::Mesh(identity("x"));
        let entrance = Entrance::to(&peer, &a, 80);
        let entered = local.visits.enter(&local.metrics, entrance, 1, false, None);
        let mut polled = 0;
        let withdrawn = std::future::poll_fn(|cx| {
            polled += 1;
            if polled == 1 {
                local.state.publish(state(&[]));
            }
            entered.poll_withdrawn(cx)
        });
        assert_eq!(withdrawn.await, Withdrawn::Gone);
        assert_eq!(polled, 2);
    }

    #[test]
    fn a_busy_time_leaves_no_memory_taken() {
        let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
        let (peer, workload) = (Peer::Mesh(identity("x")), workload("a"));
        let entrance = Entrance::to(&peer, &workload, 80);
        let many: Vec<_> = (0..1000).map(|_| visits.enter(&metrics, entrance, 1, false, None)).collect();
        drop(many);
        visits.forget(&NodeState::default());
        assert_eq!(visits.open.borrow().capacity(), 0);
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<OpenVisit>() <= 80, "{}", size_of::<OpenVisit>());
    }
}
