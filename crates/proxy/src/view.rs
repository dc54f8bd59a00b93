//! The configuration as one worker sees it at a moment, and what hangs off it. A decision is made on one view; nothing
//! that lasts keeps one.

use std::cell::{OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::FastMap;

use crate::destination::{Destination, Standings};
use crate::state::{NodeState, StateCell};
use crate::token_seal::TokenSeal;

/// How long the endpoints of a service that is known no more are for requests that were to go there already. After that they
/// may be somebody else's.
const DEPARTED: Duration = Duration::from_secs(5);

/// The state of a moment.
pub(crate) struct View {
    state: Arc<NodeState>,
    /// [`StateCell::version`] at that moment.
    version: u64,
    /// Services that this worker sends to. Each has endpoints in `state`, so there are no more of them.
    destinations: RefCell<FastMap<ServiceName, Rc<Destination>>>,
    /// Those whose services the node knows no more, and since when.
    departed: FastMap<ServiceName, (Rc<Destination>, Instant)>,
    standings: Rc<Standings>,
    /// [`View::token_seal`], once asked for.
    token_seal: OnceCell<Option<Rc<TokenSeal>>>,
}

impl Deref for View {
    type Target = NodeState;

    fn deref(&self) -> &NodeState {
        &self.state
    }
}

impl View {
    pub fn of(cell: &StateCell, standings: Rc<Standings>) -> Self {
        // In this order: what is published in between is looked at once more.
        let version = cell.version();
        let (state, destinations) = (Arc::clone(&cell.load()), RefCell::default());
        let (departed, token_seal) = (FastMap::default(), OnceCell::new());
        Self { state, version, destinations, departed, standings, token_seal }
    }

    /// The view of now, which may be this one.
    pub fn renewed(self: &Rc<Self>, cell: &StateCell) -> Option<Self> {
        if self.version == cell.version() {
            return None;
        }
        let mut view = Self::of(cell, self.standings.clone());
        let now = Instant::now();
        let lately = self.departed.iter().filter(|(_, (_, since))| now.duration_since(*since) < DEPARTED);
        let mut departed: FastMap<_, _> = lately.map(|(name, of)| (name.clone(), of.clone())).collect();
        let endpoints = &view.state.snapshot.endpoints;
        let renew = |(name, old): (ServiceName, Rc<Destination>)| {
            let Some(set) = endpoints.get(&name) else {
                departed.insert(name, (old, now));
                return None;
            };
            let same = Arc::ptr_eq(set, &old.set);
            Some((name, if same { old } else { Rc::new(old.renewed(set.clone(), &self.standings)) }))
        };
        let destinations = self.destinations.take().into_iter().filter_map(renew).collect();
        (view.destinations, view.departed) = (RefCell::new(destinations), departed);
        Some(view)
    }

    /// What the tokens of sessions are sealed with; `None` where the server does not say.
    pub fn token_seal(&self) -> Option<Rc<TokenSeal>> {
        let make = || self.snapshot.mesh.session_key.as_ref().and_then(TokenSeal::new).map(Rc::new);
        self.token_seal.get_or_init(make).clone()
    }

    /// The whole state.
    pub fn state(&self) -> &Arc<NodeState> {
        &self.state
    }

    /// What this worker keeps of a service; `None` where nothing is known of its endpoints.
    pub fn destination(&self, service: &ServiceName) -> Option<Rc<Destination>> {
        let mut destinations = self.destinations.borrow_mut();
        if let Some(known) = destinations.get(service) {
            return Some(known.clone());
        }
        let set = self.snapshot.endpoints.get(service)?.clone();
        let new = Rc::new(Destination::new(set, &self.standings));
        destinations.insert(service.clone(), new.clone());
        Some(new)
    }

    /// The same for a request that was to go there already. The node forgets the endpoints of a service once no route leads
    /// there, and a change of routes fails nothing that was on its way: for a while they stay known to it.
    pub fn recent_destination(&self, service: &ServiceName) -> Option<Rc<Destination>> {
        self.destination(service).or_else(|| self.departed_destination(service))
    }

    #[cold]
    fn departed_destination(&self, service: &ServiceName) -> Option<Rc<Destination>> {
        let (departed, since) = self.departed.get(service)?;
        (since.elapsed() < DEPARTED).then(|| departed.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tulle_model::snapshot::{Endpoint, EndpointSet, Snapshot};

    use super::*;

    fn state(sets: &[&Arc<EndpointSet>]) -> NodeState {
        let endpoints = sets.iter().map(|set| (set.service.clone(), Arc::clone(set))).collect();
        let snapshot = Snapshot { endpoints, ..Snapshot::default() };
        NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() }
    }

    fn set(name: &str, count: u16) -> Arc<EndpointSet> {
        let endpoint = |_| {
            let (workload, node, identity) = (None, None, None);
            let address = Ipv4Addr::LOCALHOST.into();
            (Arc::new(Endpoint { workload, node, address, ports: Vec::new(), identity }), 0)
        };
        let endpoints = (0..count).map(endpoint).collect();
        Arc::new(EndpointSet::new(ServiceName::new("default", name), endpoints))
    }

    #[tokio::test(start_paused = true)]
    async fn destinations_stay_change_and_go_with_their_services() {
        let [a, b, c] = ["a", "b", "c"].map(|name| ServiceName::new("default", name));
        let (same, gone) = (set("a", 1), set("b", 1));
        let cell = StateCell::new(state(&[&same, &gone, &set("c", 1)]));
        let mut view = Rc::new(View::of(&cell, Rc::default()));
        assert!(view.renewed(&cell).is_none());
        let before = [&a, &b, &c].map(|name| view.destination(name).unwrap());
        assert!(Rc::ptr_eq(&before[0], &view.destination(&a).unwrap()));
        assert!(view.destination(&ServiceName::new("default", "d")).is_none());

        cell.publish(state(&[&same, &set("c", 2)]));
        view = Rc::new(view.renewed(&cell).unwrap());
        assert!(view.renewed(&cell).is_none());
        assert!(Rc::ptr_eq(&before[0], &view.destination(&a).unwrap()));
        assert!(view.destination(&b).is_none());
        assert_eq!(view.destination(&c).unwrap().members.len(), 2);

        // Until those that were to go there are there.
        assert!(Rc::ptr_eq(&before[1], &view.recent_destination(&b).unwrap()));
        tokio::time::advance(DEPARTED / 2).await;
        cell.publish(state(&[&same]));
        view = Rc::new(view.renewed(&cell).unwrap());
        assert!(Rc::ptr_eq(&before[1], &view.recent_destination(&b).unwrap()));
        tokio::time::advance(DEPARTED / 2).await;
        assert!(view.recent_destination(&b).is_none() && view.recent_destination(&c).is_some());
        // One that is there and empty is as it is.
        cell.publish(state(&[&same, &set("c", 0)]));
        view = Rc::new(view.renewed(&cell).unwrap());
        assert!(view.recent_destination(&c).unwrap().members.is_empty());
        assert_eq!(Rc::strong_count(&before[1]), 1, "nobody else has it");
    }
}
