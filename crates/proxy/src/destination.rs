//! What one worker keeps of each service that it sends to: what is in flight to its endpoints and how they do, how much
//! of it may be retries, what its ports have spoken. It is made anew when the endpoints change, from what stays of
//! them, and is gone when the service is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tulle_model::health::{Health, Outcome};
use tulle_model::retry_budget::RetryBudget;
use tulle_model::snapshot::{Endpoint, EndpointSet};

use crate::http::link_headers::LinkHeaders;

/// One service, with the endpoints that it has now.
pub(crate) struct Destination {
    pub set: Arc<EndpointSet>,
    /// In the order of the set.
    pub members: Box<[Rc<Member>]>,
    budget: Rc<RefCell<RetryBudget>>,
    /// When the last endpoint is passed over no more.
    trouble: Rc<Cell<Duration>>,
    /// What ports that nothing is declared of have spoken, with these very endpoints.
    learned: RefCell<Vec<(u16, Learnt)>>,
}

/// An endpoint, as this worker sees it.
pub(crate) struct Member {
    pub endpoint: Arc<Endpoint>,
    /// What requests to it carry on links.
    pub link_headers: LinkHeaders,
    in_flight: Cell<u64>,
    health: Cell<Health>,
    /// [`Destination::trouble`].
    trouble: Rc<Cell<Duration>>,
}

/// What an undeclared port was heard to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Learnt {
    /// A client has spoken HTTP.
    Http,
    /// The server sends SETTINGS before its client says anything.
    Http2Server,
}

impl Destination {
    pub fn new(set: Arc<EndpointSet>) -> Self {
        Self::build(set, Rc::default(), Rc::default(), |_| None)
    }

    /// The same service with other endpoints.
    pub fn renewed(&self, set: Arc<EndpointSet>) -> Self {
        let stay: HashMap<&Endpoint, &Rc<Member>> =
            self.members.iter().map(|member| (&*member.endpoint, member)).collect();
        let known = |endpoint: &Endpoint| stay.get(endpoint).map(|member| Rc::clone(member));
        Self::build(set, self.budget.clone(), self.trouble.clone(), known)
    }

    fn build(
        set: Arc<EndpointSet>,
        budget: Rc<RefCell<RetryBudget>>,
        trouble: Rc<Cell<Duration>>,
        known: impl Fn(&Endpoint) -> Option<Rc<Member>>,
    ) -> Self {
        let member = |endpoint: &Arc<Endpoint>| {
            known(endpoint).unwrap_or_else(|| Rc::new(Member::new(endpoint.clone(), trouble.clone())))
        };
        let members = set.endpoints.iter().map(member).collect();
        Self { set, members, budget, trouble, learned: RefCell::default() }
    }

    /// Whether any endpoint may be one to pass over. Times are since the worker's start.
    pub fn has_troubled(&self) -> bool {
        self.trouble.get() != Duration::ZERO
    }

    /// Forgets trouble that is over.
    pub fn look_after(&self, now: Duration) {
        if self.trouble.get() <= now {
            self.trouble.set(Duration::ZERO);
        }
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
    fn new(endpoint: Arc<Endpoint>, trouble: Rc<Cell<Duration>>) -> Self {
        let (in_flight, health) = (Cell::new(0), Cell::default());
        Self { endpoint, link_headers: LinkHeaders::default(), in_flight, health, trouble }
    }

    /// Requests and connections in flight to it.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// Whether to pass it over.
    pub fn avoided(&self, now: Duration) -> bool {
        self.health.get().avoids(now)
    }

    /// Learns what became of an attempt.
    pub fn note(&self, outcome: Outcome, now: impl FnOnce() -> Duration) {
        let mut health = self.health.get();
        let is_good = matches!(outcome, Outcome::Answered { .. } | Outcome::Connected { .. });
        // Nearly always; then the clock is not asked.
        if is_good && health.is_well() {
            return;
        }
        health.note(outcome, now());
        self.health.set(health);
        self.trouble.set(self.trouble.get().max(health.until()));
    }
}

/// An endpoint with one request or connection more in flight, until it is dropped.
pub(crate) struct Load(Rc<Member>);

impl Load {
    pub fn begin(member: &Rc<Member>) -> Self {
        member.in_flight.set(member.in_flight.get() + 1);
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
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::name::ServiceName;

    use super::*;

    fn endpoint(last: u8) -> Arc<Endpoint> {
        let (workload, node, identity) = (None, None, None);
        Arc::new(Endpoint { workload, node, address: [10, 0, 0, last].into(), ports: Vec::new(), identity })
    }

    fn set(of: &[u8]) -> Arc<EndpointSet> {
        let endpoints = of.iter().map(|last| (endpoint(*last), 0)).collect();
        Arc::new(EndpointSet::new(ServiceName::new("default", "s"), endpoints))
    }

    #[test]
    fn what_stays_keeps_its_state_and_what_is_new_has_none() {
        let now = Duration::from_secs(5);
        let first = Destination::new(set(&[1, 2]));
        let load = Load::begin(&first.members[1]);
        first.members[1].note(Outcome::Unreachable, || now);
        let spent = (0..10_000).take_while(|_| first.try_retry(now)).count();
        // Ten a second over ten seconds, and none of them for requests.
        assert_eq!(spent, 100);
        first.learn(80, Learnt::Http);

        let second = first.renewed(set(&[2, 3]));
        let [stayed, new] = &*second.members else { panic!() };
        assert_eq!((stayed.in_flight(), stayed.avoided(now)), (1, true));
        assert_eq!((new.in_flight(), new.avoided(now)), (0, false));
        assert!(second.has_troubled() && !second.try_retry(now));
        assert_eq!(second.learned(80), None);
        drop(load);
        assert_eq!(stayed.in_flight(), 0);
        // What is under way on the old ones counts for the new.
        stayed.note(Outcome::Connected { latency: now }, || now);
        assert!(!second.members[0].avoided(now));
    }

    #[test]
    fn trouble_is_looked_for_until_it_is_over() {
        let now = Duration::from_secs(5);
        let destination = Destination::new(set(&[1, 2]));
        assert!(!destination.has_troubled());
        destination.members[0].note(Outcome::Unreachable, || now);
        destination.look_after(now + Duration::from_millis(999));
        assert!(destination.has_troubled() && destination.members[0].avoided(now));
        destination.look_after(now + Duration::from_secs(1));
        assert!(!destination.has_troubled());
        // It remembers that it failed: the next pause is longer.
        let later = now + Duration::from_secs(2);
        destination.members[0].note(Outcome::Unreachable, || later);
        assert!(destination.members[0].avoided(later + Duration::from_millis(1999)));
    }

    #[test]
    fn the_more_that_is_known_of_a_port_is_kept() {
        let destination = Destination::new(set(&[1]));
        destination.learn(80, Learnt::Http2Server);
        destination.learn(80, Learnt::Http);
        destination.learn(81, Learnt::Http);
        assert_eq!(destination.learned(80), Some(Learnt::Http2Server));
        assert_eq!(destination.learned(81), Some(Learnt::Http));
    }
}
