//! What one worker keeps of each service that it sends to: its endpoints with what is in flight to them and how they do,
//! how much of it may be retries, what its ports have spoken. It is made anew when the endpoints change, and is gone
//! when the service is. How an endpoint stands is one thing for all services that have it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tulle_model::health::{AttemptOutcome, Health};
use tulle_model::name::WorkloadName;
use tulle_model::retry_budget::RetryBudget;
use tulle_model::routing::session::endpoint_id;
use tulle_model::snapshot::{Endpoint, EndpointSet, FastMap, PeerNode, PortMapping};

use crate::http::link_headers::LinkHeaders;

/// One service, with the endpoints that it has now.
pub(crate) struct Destination {
    pub set: Arc<EndpointSet>,
    /// In the order of the set.
    pub members: Box<[Rc<Member>]>,
    budget: Rc<RefCell<RetryBudget>>,
    /// What ports that nothing is declared of have spoken, with these very endpoints.
    learned: RefCell<Vec<(u16, Learnt)>>,
}

/// An endpoint of a service.
pub(crate) struct Member {
    pub endpoint: Arc<Endpoint>,
    /// What requests to it carry on links.
    pub link_headers: LinkHeaders,
    standing: Rc<Standing>,
}

/// How an endpoint does, as this worker sees it. Times are since the worker's start.
struct Standing {
    in_flight: Cell<u64>,
    health: Cell<Health>,
    /// [`Member::session_id`], once asked for.
    session_id: OnceCell<u64>,
    /// [`Standings::trouble`].
    trouble: Rc<Cell<Duration>>,
}

/// How all endpoints do that this worker sends to, or sent to as long as that matters.
#[derive(Default)]
pub(crate) struct Standings {
    known: RefCell<FastMap<Who, Rc<Standing>>>,
    /// When the last of them is passed over no more.
    trouble: Rc<Cell<Duration>>,
}

/// What makes an endpoint the same, whatever else changes of it.
#[derive(PartialEq, Eq, Hash)]
struct Who {
    /// Two nodes may use the same loopback address, and another link is another way.
    node: Option<PeerNode>,
    workload: Option<WorkloadName>,
    address: IpAddr,
    /// Of what is no workload: there may be several at an address.
    ports: Vec<PortMapping>,
}

/// What an undeclared port was heard to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Learnt {
    /// A client has spoken HTTP.
    Http,
    /// The server sends SETTINGS before its client says anything.
    Http2Server,
}

impl Standings {
    fn of(&self, endpoint: &Endpoint) -> Rc<Standing> {
        let workload = endpoint.workload.clone();
        let who = Who {
            node: endpoint.node.clone(),
            ports: if workload.is_none() { endpoint.ports.clone() } else { Vec::new() },
            workload,
            address: endpoint.address,
        };
        let new = || {
            let (in_flight, health, session_id) = (Cell::default(), Cell::default(), OnceCell::new());
            Rc::new(Standing { in_flight, health, session_id, trouble: self.trouble.clone() })
        };
        self.known.borrow_mut().entry(who).or_insert_with(new).clone()
    }

    /// Whether any endpoint may be one to pass over.
    pub fn has_troubled(&self) -> bool {
        self.trouble.get() != Duration::ZERO
    }

    /// Forgets trouble that is over by then.
    pub fn look_after(&self, now: Duration) {
        if self.trouble.get() <= now {
            self.trouble.set(Duration::ZERO);
        }
    }

    /// Forgets endpoints that no service has, nothing is in flight to, and that are well. To be asked from time to time.
    pub fn forget(&self, now: Duration) {
        self.known
            .borrow_mut()
            .retain(|_, standing| Rc::strong_count(standing) > 1 || standing.health.get().until() > now);
    }
}

impl Destination {
    pub fn new(set: Arc<EndpointSet>, standings: &Standings) -> Self {
        Self::build(set, Rc::default(), standings)
    }

    /// The same service with other endpoints.
    pub fn renewed(&self, set: Arc<EndpointSet>, standings: &Standings) -> Self {
        Self::build(set, self.budget.clone(), standings)
    }

    fn build(set: Arc<EndpointSet>, budget: Rc<RefCell<RetryBudget>>, standings: &Standings) -> Self {
        let member = |endpoint: &Arc<Endpoint>| {
            let (endpoint, standing) = (endpoint.clone(), standings.of(endpoint));
            Rc::new(Member { endpoint, link_headers: LinkHeaders::default(), standing })
        };
        let members = set.endpoints.iter().map(member).collect();
        Self { set, members, budget, learned: RefCell::default() }
    }

    /// Counts a request that began `now`.
    pub fn record_request(&self, now: Duration) {
        self.budget.borrow_mut().record_request(now);
    }

    /// Whether one more retry may be made; if so, it is counted.
    pub fn try_retry(&self, now: Duration) -> bool {
        self.budget.borrow_mut().try_retry(now)
    }

    /// What a port has spoken.
    pub fn learned(&self, port: u16) -> Option<Learnt> {
        self.learned.borrow().iter().find(|(of, _)| *of == port).map(|(_, learnt)| *learnt)
    }

    /// Keeps the more that is known of a port.
    pub fn learn(&self, port: u16, learnt: Learnt) {
        let mut learned = self.learned.borrow_mut();
        match learned.iter_mut().find(|(of, _)| *of == port) {
            Some((_, known)) => *known = learnt.max(*known),
            None => learned.push((port, learnt)),
        }
    }
}

impl Member {
    /// Requests and connections in flight to it.
    pub fn in_flight(&self) -> u64 {
        self.standing.in_flight.get()
    }

    /// What it is called in the tokens of sessions.
    pub fn session_id(&self) -> u64 {
        *self.standing.session_id.get_or_init(|| endpoint_id(&self.endpoint))
    }

    /// Whether to pass it over.
    pub fn avoided(&self, now: Duration) -> bool {
        self.standing.health.get().avoids(now)
    }

    /// Whether the two are the same endpoint, perhaps before and after a change.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.standing, &other.standing)
    }

    /// Learns what became of an attempt.
    pub fn note(&self, outcome: AttemptOutcome, now: impl FnOnce() -> Duration) {
        let Standing { health: kept, trouble, .. } = &*self.standing;
        let mut health = kept.get();
        let is_good = matches!(outcome, AttemptOutcome::Answered { .. } | AttemptOutcome::Connected { .. });
        // Nearly always; then the clock is not asked.
        if is_good && health.is_well() {
            return;
        }
        health.note(outcome, now());
        kept.set(health);
        trouble.set(trouble.get().max(health.until()));
    }
}

/// An endpoint with one request or connection more in flight, until it is dropped.
pub(crate) struct Load(Rc<Member>);

impl Load {
    pub fn begin(member: &Rc<Member>) -> Self {
        let in_flight = &member.standing.in_flight;
        in_flight.set(in_flight.get() + 1);
        Self(member.clone())
    }

    pub fn member(&self) -> &Rc<Member> {
        &self.0
    }
}

impl Deref for Load {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let in_flight = &self.0.standing.in_flight;
        in_flight.set(in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::name::ServiceName;

    use super::*;

    const NOW: Duration = Duration::from_secs(5);

    fn endpoint(last: u8, target_port: u16) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            workload: Some(WorkloadName::new("default", format!("w-{last}"))),
            node: None,
            address: [10, 0, 0, last].into(),
            ports: vec![PortMapping { service_port: 80, target_port }],
            identity: None,
        })
    }

    fn set(of: &[Arc<Endpoint>]) -> Arc<EndpointSet> {
        let endpoints = of.iter().map(|endpoint| (endpoint.clone(), 0)).collect();
        Arc::new(EndpointSet::new(ServiceName::new("default", "s"), endpoints))
    }

    #[test]
    fn an_endpoint_stands_alike_whatever_becomes_of_its_services() {
        let standings = Standings::default();
        let [one, two, three] = [1, 2, 3].map(|last| endpoint(last, 8080));
        let first = Destination::new(set(&[one.clone(), two]), &standings);
        let load = Load::begin(&first.members[1]);
        first.members[1].note(AttemptOutcome::Unreachable, || NOW);
        // It has another port, and is of two services.
        let again = endpoint(2, 9090);
        let second = first.renewed(set(&[again.clone(), three]), &standings);
        let other = Destination::new(set(std::slice::from_ref(&again)), &standings);
        for member in [&second.members[0], &other.members[0]] {
            assert_eq!((member.in_flight(), member.avoided(NOW)), (1, true));
            assert!(member.is(&first.members[1]) && !member.is(&first.members[0]));
        }
        let new = &second.members[1];
        assert_eq!((new.in_flight(), new.avoided(NOW)), (0, false));
        // It was away, and what is in flight to it was not.
        drop((first, second, other));
        standings.forget(NOW + Duration::from_secs(1));
        let back = Destination::new(set(std::slice::from_ref(&again)), &standings);
        assert_eq!(back.members[0].in_flight(), 1);
        drop((load, back));
        assert_eq!(standings.known.borrow().len(), 1);
        standings.forget(NOW);
        assert_eq!(standings.known.borrow().len(), 1, "it is still passed over");
        standings.forget(NOW + Duration::from_secs(1));
        assert!(standings.known.borrow().is_empty());
    }

    #[test]
    fn what_is_no_workload_is_told_apart_by_its_ports() {
        let standings = Standings::default();
        let plain = |port| Arc::new(Endpoint { workload: None, ..Endpoint::clone(&endpoint(1, port)) });
        let both = Destination::new(set(&[plain(8080), plain(8081)]), &standings);
        assert!(!both.members[0].is(&both.members[1]));
    }

    #[test]
    fn a_budget_goes_on_and_what_was_learned_does_not() {
        let standings = Standings::default();
        let one = endpoint(1, 8080);
        let first = Destination::new(set(std::slice::from_ref(&one)), &standings);
        let spent = (0..10_000).take_while(|_| first.try_retry(NOW)).count();
        // Ten a second over ten seconds, and none of them for requests.
        assert_eq!(spent, 100);
        first.learn(80, Learnt::Http);
        let second = first.renewed(set(&[one, endpoint(2, 8080)]), &standings);
        assert!(!second.try_retry(NOW));
        for _ in 0..500 {
            second.record_request(NOW);
        }
        let more = (0..10_000).take_while(|_| second.try_retry(NOW)).count();
        assert_eq!(more, 100, "a fifth of the requests");
        assert_eq!(second.learned(80), None);
    }

    #[test]
    fn trouble_is_looked_for_until_it_is_over() {
        let standings = Standings::default();
        let destination = Destination::new(set(&[endpoint(1, 80), endpoint(2, 80)]), &standings);
        assert!(!standings.has_troubled());
        destination.members[0].note(AttemptOutcome::Unreachable, || NOW);
        standings.look_after(NOW + Duration::from_millis(999));
        assert!(standings.has_troubled() && destination.members[0].avoided(NOW));
        standings.look_after(NOW + Duration::from_secs(1));
        assert!(!standings.has_troubled());
        // It remembers that it failed: the next pause is longer.
        let later = NOW + Duration::from_secs(2);
        destination.members[0].note(AttemptOutcome::Unreachable, || later);
        assert!(destination.members[0].avoided(later + Duration::from_millis(1999)));
        destination.members[0].note(AttemptOutcome::Connected { latency: NOW }, || later);
        assert!(!destination.members[0].avoided(later));
    }

    #[test]
    fn the_more_that_is_known_of_a_port_is_kept() {
        let destination = Destination::new(set(&[endpoint(1, 80)]), &Standings::default());
        destination.learn(80, Learnt::Http2Server);
        destination.learn(80, Learnt::Http);
        destination.learn(81, Learnt::Http);
        assert_eq!(destination.learned(80), Some(Learnt::Http2Server));
        assert_eq!(destination.learned(81), Some(Learnt::Http));
    }
}
