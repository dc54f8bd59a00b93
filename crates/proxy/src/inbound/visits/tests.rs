//! What is written down of who is there, and what is ended.

use std::net::Ipv4Addr;

use tulle_model::identity::{SpiffeId, TrustDomain};
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
        in_process: None,
        outside: None,
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
        let enter = |peer, workload| visits.enter(&metrics, Entrance::to(peer, workload, 80), 1, false, None);
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
        rules: vec![AccessRule { index: 0, sources, ports: None, request: None, when: None }],
        external: None,
    };
    let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
    let (a, b) = (workload("a"), workload("b"));
    let peers =
        [Peer::Mesh(identity("x")), Peer::Mesh(identity("y")), Peer::Plain("192.0.2.1:5".parse().unwrap())];
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
