//! The attempts at one request or connection: which endpoint is next, what is learned from a failure, and whether
//! another attempt follows. Requests, connections of bytes and upgrades share it, and the budget of retries with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::decision::Decision;
use tulle_model::name::ServiceName;
use tulle_model::retry::Tries;
use tulle_model::snapshot::Endpoint;

use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::exchange::{Exchange, Refused};
use crate::metrics::Destination;
use crate::reach::Hop;
use crate::reason::Reason;
use crate::repeatable::failure_of;
use crate::worker::Worker;

/// What was attempted, and where else it can go.
pub(crate) struct Attempts {
    to: To,
    tries: Tries,
    /// Endpoints that failed it.
    tried: Vec<Arc<Endpoint>>,
    /// The last failure would be no other on the same endpoint.
    futile: bool,
}

enum To {
    Service { backend: ServiceName, port: u16 },
    Outside { addresses: std::vec::IntoIter<SocketAddr> },
}

/// What follows a failed attempt.
pub(crate) enum Again {
    /// No other.
    No,
    Now,
    After(Duration),
}

impl Attempts {
    /// At the endpoints of a service that answer for its port `port`.
    pub fn at(worker: &Worker, exchange: &mut Exchange, backend: ServiceName, port: u16) -> Self {
        worker.budgets.record_request(&backend, exchange.started());
        exchange.goes_to(backend.clone());
        Self::new(To::Service { backend, port })
    }

    /// At addresses outside of the mesh, in their order.
    pub fn outside(exchange: &mut Exchange, addresses: Vec<SocketAddr>) -> Self {
        exchange.goes_to(Destination::External);
        Self::new(To::Outside { addresses: addresses.into_iter() })
    }

    fn new(to: To) -> Self {
        Self { to, tries: Tries::default(), tried: Vec::new(), futile: false }
    }

    /// The service whose endpoints take it, and its port.
    pub fn backend(&self) -> Option<(&ServiceName, u16)> {
        match &self.to {
            To::Service { backend, port } => Some((backend, *port)),
            To::Outside { .. } => None,
        }
    }

    /// Picks where the next attempt goes, which begins with that.
    pub fn next(&mut self, worker: &Worker, exchange: &mut Exchange) -> Result<Hop, Refused> {
        let picked = match &mut self.to {
            To::Outside { addresses } => addresses.next().map(Hop::outside),
            // What was tried once more, where nothing else is left.
            To::Service { backend, port } => worker
                .local
                .pick(backend, *port, &self.tried)
                .or_else(|| worker.local.pick(backend, *port, &[]))
                .map(|picked| Hop::to(&worker.local, picked)),
        };
        if let Some(hop) = picked {
            if exchange.is_logged() && worker.local.health.has_troubled() {
                self.name_passed_over(worker, exchange, &hop);
            }
            exchange.attempt(hop.address, hop.security());
            return Ok(hop);
        }
        Err(match &self.to {
            To::Outside { .. } => {
                exchange.refuse(Reason::ConnectFailed, "no address of the destination is left to try")
            }
            To::Service { backend, port } => {
                exchange.decided(|| Decision::no_endpoints(backend.clone()));
                let message = format!("service {backend} has no endpoint for port {port}");
                exchange.refuse(Reason::NoEndpoints, message)
            }
        })
    }

    /// Names the endpoints that are passed over for that one, as they did not take connections lately.
    #[cold]
    fn name_passed_over(&self, worker: &Worker, exchange: &mut Exchange, picked: &Hop) {
        let Some((backend, _)) = self.backend() else { return };
        let (state, now) = (worker.local.state.load(), Instant::now());
        let Some(set) = state.snapshot.endpoints.get(backend) else { return };
        for endpoint in &set.endpoints {
            let other = picked.endpoint() != Some(endpoint) && !self.tried.contains(endpoint);
            if other && worker.local.health.avoids(endpoint, now) {
                exchange.decided(|| Decision::passed_over(endpoint));
            }
        }
    }

    /// Learns from an attempt that was answered, or opened its connection.
    pub fn succeeded(&self, worker: &Worker, exchange: &mut Exchange, hop: Hop) {
        if let Some(endpoint) = hop.endpoint() {
            worker.local.health.worked(endpoint);
        }
        exchange.answered(hop.load);
    }

    /// Learns from a failed attempt. `idempotent`: it does no harm when it is done twice; `at_hand`: all of it can be
    /// sent again.
    pub fn failed(
        &mut self,
        worker: &Worker,
        exchange: &mut Exchange,
        hop: &Hop,
        error: &UpstreamError,
        idempotent: bool,
        at_hand: bool,
    ) -> Again {
        tracing::debug!(
            source = %exchange.source().name,
            endpoint = %hop.address,
            reason = error.kind.reason(),
            "attempt failed: {error}"
        );
        exchange.attempt_failed(error, hop.endpoint().map(|endpoint| &**endpoint));
        let again = self.again(worker, exchange, hop, error, idempotent, at_hand);
        if let Again::No = again {
            exchange.lost(error);
        }
        again
    }

    fn again(
        &mut self,
        worker: &Worker,
        exchange: &mut Exchange,
        hop: &Hop,
        error: &UpstreamError,
        idempotent: bool,
        at_hand: bool,
    ) -> Again {
        if error.is_nobodys() {
            if !error.safe_to_retry || !at_hand {
                return Again::No;
            }
            exchange.take_back();
            return self.tries.sent_back().map_or(Again::No, Again::After);
        }
        if let Some(endpoint) = hop.endpoint() {
            if is_about_the_endpoint(error.kind) {
                worker.local.health.failed(endpoint, Instant::now());
                self.futile = true;
            } else {
                // It has no more room a moment later.
                self.futile = matches!(error.kind, Kind::Shed(_) | Kind::ShedThere(_));
            }
            if !self.tried.contains(endpoint) {
                self.tried.push(endpoint.clone());
            }
        }
        let failure = failure_of(error, idempotent);
        if !self.tries.may_repeat(exchange.attempts(), failure) || !at_hand || !self.has_more(worker) {
            return Again::No;
        }
        if let To::Service { backend, .. } = &self.to {
            // Where nothing was sent yet, nothing is added to the load of anybody.
            if error.kind != Kind::LinkPending && !worker.budgets.try_retry(backend) {
                tracing::debug!(service = %backend, "no retry: the budget is used up");
                exchange.decided(|| Decision::out_of_budget(backend.clone()));
                return Again::No;
            }
            exchange.decided(|| Decision::retried(backend.clone()));
        }
        exchange.retry();
        Again::Now
    }

    fn has_more(&self, worker: &Worker) -> bool {
        match &self.to {
            To::Outside { addresses } => addresses.len() > 0,
            To::Service { backend, port } => {
                let state = worker.local.state.load();
                let Some(set) = state.snapshot.endpoints.get(backend) else { return false };
                let left = |e: &Arc<Endpoint>| e.target_port(*port).is_some() && !self.tried.contains(e);
                !self.futile || set.endpoints.iter().any(left)
            }
        }
    }
}

/// Whether an endpoint does not take requests or connections.
fn is_about_the_endpoint(kind: Kind) -> bool {
    matches!(kind, Kind::Connect | Kind::Tls | Kind::WrongIdentity | Kind::Refused | Kind::Draining)
}
