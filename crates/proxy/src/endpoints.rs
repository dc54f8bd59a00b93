//! Which endpoint takes the next request or connection.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;
use tulle_model::balance;
use tulle_model::snapshot::{Endpoint, EndpointSet};
use tulle_model::staleness::{self, Facts};

use crate::destination::{Destination, Load, Member};
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::local::Local;
use crate::state::LocalWorkload;

/// The endpoint chosen, and its port for the service's.
pub(crate) struct Picked {
    pub target_port: u16,
    /// Keep it for as long as the request or connection lasts.
    pub load: Load,
}

impl Picked {
    /// That one, if it answers for the service's port.
    pub fn at(member: &Rc<Member>, port: u16) -> Option<Self> {
        let target_port = member.endpoint.target_port(port)?;
        Some(Self { target_port, load: Load::begin(member) })
    }
}

impl Local {
    /// Chooses among the endpoints of a service that answer for its port `port`, by power of two choices, one
    /// that was not tried and is open to who asks: of those that are well; or else of those that the server does not
    /// hear of and this node does not reach; or else of those that did not take connections lately. `None`: there is none.
    pub(crate) fn pick(
        &self,
        of: &Destination,
        port: u16,
        tried: &[Rc<Member>],
        from_outside: bool,
    ) -> Option<Picked> {
        let is_ruled_out = |i: usize| {
            let member = &of.members[i];
            was_tried(tried, member) || !self.is_open_to(from_outside, &member.endpoint)
        };
        // Nearly always nothing is in trouble, nor stale; then the clock is not asked.
        if of.set.stale_since.is_empty() && !self.standings.has_troubled() {
            return self.pick_from(of, port, is_ruled_out);
        }
        self.pick_ranked(of, port, is_ruled_out)
    }

    /// Whether nothing speaks against an endpoint of a service: it took connections lately, and is not one of those that are silent.
    pub(crate) fn is_well(&self, of: &Destination, index: usize) -> bool {
        let now = Instant::now();
        let last = if of.set.stale_since.is_empty() { Vec::new() } else { self.last_ranked(&of.set, now) };
        let is_avoided = of.members.get(index).is_none_or(|member| member.avoided(self.since_start(now)));
        !is_avoided && !last.get(index).copied().unwrap_or(false)
    }

    /// As [`Local::pick`], where not all endpoints are as good.
    #[cold]
    fn pick_ranked(
        &self,
        of: &Destination,
        port: u16,
        is_ruled_out: impl Fn(usize) -> bool,
    ) -> Option<Picked> {
        let now = Instant::now();
        let time = self.since_start(now);
        self.standings.look_after(time);
        let last = self.last_ranked(&of.set, now);
        let is_last = |i: usize| last.get(i).copied().unwrap_or(false);
        let avoided = |i: usize| of.members[i].avoided(time);
        // What this node has seen fail counts for more than what the server has not heard.
        self.pick_from(of, port, |i| is_ruled_out(i) || avoided(i) || is_last(i))
            .or_else(|| self.pick_from(of, port, |i| is_ruled_out(i) || avoided(i)))
            .or_else(|| self.pick_from(of, port, |i| is_ruled_out(i) || is_last(i)))
            .or_else(|| self.pick_from(of, port, &is_ruled_out))
    }

    /// Which endpoints rank last, because the server does not hear of their node and neither does this
    /// one; empty where none does.
    fn last_ranked(&self, set: &EndpointSet, now: Instant) -> Vec<bool> {
        if !staleness::ranks(set.stale(), set.endpoints.len()) {
            return Vec::new();
        }
        let facts = set.endpoints.iter().enumerate().map(|(i, endpoint)| Facts {
            stale: set.stale_since(i) != 0,
            reached: self.is_local(endpoint)
                || endpoint.node.as_ref().is_some_and(|node| self.sight.reaches(node.link, now)),
        });
        facts.map(staleness::is_last).collect()
    }

    /// As [`Local::pick`], without those in `exclude`.
    fn pick_from(&self, of: &Destination, port: u16, exclude: impl Fn(usize) -> bool) -> Option<Picked> {
        let members = &of.members;
        let load = |i: usize| members[i].in_flight();
        let unusable = |i: usize| members[i].endpoint.target_port(port).is_none() || exclude(i);
        Picked::at(&members[balance::pick(members.len(), load, self.random(), unusable)?], port)
    }

    /// Whether an endpoint is one for who asks: a link speaks for a workload of the mesh, so that somebody outside of it
    /// gets no further than this node.
    pub(crate) fn is_open_to(&self, from_outside: bool, endpoint: &Endpoint) -> bool {
        !from_outside || self.is_local(endpoint)
    }

    /// Whether the endpoint is a workload of this node, which is reached inside the process.
    pub fn is_local(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_ref().is_some_and(|node| node.name == self.node)
    }

    /// The workload of this node behind such an endpoint. The hand-over checks what a link's handshake
    /// would have: that it is who was promised.
    pub(crate) fn hand_over(&self, endpoint: &Endpoint) -> Result<Arc<LocalWorkload>, UpstreamError> {
        let Some(workload) = endpoint.workload.as_ref().and_then(|name| self.workload(name)) else {
            let message = match &endpoint.workload {
                Some(name) => format!("{name} is no longer on this node"),
                None => format!("the workload at {} is no longer on this node", endpoint.address),
            };
            return Err(UpstreamError::safe(UpstreamErrorKind::Refused, message));
        };
        if endpoint.identity.as_ref() != Some(&workload.identity) {
            let message = format!("wrong identity: {} is not who was promised", workload.name);
            return Err(UpstreamError::safe(UpstreamErrorKind::WrongIdentity, message));
        }
        Ok(workload)
    }
}

/// Whether it is among those that failed already.
pub(crate) fn was_tried(tried: &[Rc<Member>], member: &Rc<Member>) -> bool {
    tried.iter().any(|one| one.is(member))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::name::{ServiceName, WorkloadName};
    use tulle_model::snapshot::{PeerNode, PortMapping, Snapshot};

    use super::*;
    use crate::state::NodeState;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::workload(&TrustDomain::new("mesh.test").unwrap(), "default", account).unwrap()
    }

    /// Of a workload on that node; it answers for the service's port 80 on 8000 and more.
    fn endpoint(node: &str, workload: &str, number: u16) -> Endpoint {
        Endpoint {
            workload: Some(WorkloadName::new("default", workload)),
            node: Some(PeerNode { name: node.into(), link: (LOOPBACK, 15008).into() }),
            address: LOOPBACK,
            ports: vec![PortMapping { service_port: 80, target_port: 8000 + number }],
            identity: Some(identity("a")),
        }
    }

    fn service() -> ServiceName {
        ServiceName::new("default", "s")
    }

    /// A worker of node `n1`, which runs the workload `a`, and knows these endpoints of a service.
    fn worker(endpoints: Vec<(Arc<Endpoint>, i64)>) -> Rc<Local> {
        let name = WorkloadName::new("default", "a");
        let workload = LocalWorkload {
            name: name.clone(),
            service: "s".into(),
            identity: identity("a"),
            app_address: LOOPBACK,
            ports: vec![8000],
            certificate: None,
            draining: false,
            in_process: None,
            outside: None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.endpoints.insert(service(), Arc::new(EndpointSet::new(service(), endpoints)));
        let mut state = NodeState { snapshot: Arc::new(snapshot), ..NodeState::default() };
        state.workloads.insert(name, Arc::new(workload));
        crate::worker::Worker::idle("n1", state).local.clone()
    }

    #[test]
    fn a_hand_over_leads_to_who_was_promised_and_to_nobody_else() {
        let worker = worker(Vec::new());
        let right = endpoint("n1", "a", 0);
        assert_eq!(worker.hand_over(&right).unwrap().identity, identity("a"));
        let another = Endpoint { identity: Some(identity("b")), ..right.clone() };
        let nobody = Endpoint { identity: None, ..right.clone() };
        let gone = endpoint("n1", "gone", 0);
        let none = Endpoint { workload: None, ..right };
        for (endpoint, kind) in [
            (another, UpstreamErrorKind::WrongIdentity),
            (nobody, UpstreamErrorKind::WrongIdentity),
            (gone, UpstreamErrorKind::Refused),
            (none, UpstreamErrorKind::Refused),
        ] {
            let Err(error) = worker.hand_over(&endpoint) else { panic!("{endpoint:?} was handed over") };
            assert_eq!((error.kind, error.safe_to_retry), (kind, true), "{endpoint:?}");
        }
    }

    #[test]
    fn what_runs_on_this_node_is_local() {
        let worker = worker(Vec::new());
        assert!(worker.is_local(&endpoint("n1", "a", 0)));
        assert!(!worker.is_local(&endpoint("n2", "a", 0)));
        assert!(!worker.is_local(&Endpoint { node: None, ..endpoint("n1", "a", 0) }));
    }
}
