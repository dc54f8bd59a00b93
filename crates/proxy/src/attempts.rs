//! The attempts at one request or connection: which endpoint is next, what is learned from a failure, and whether
//! another attempt follows. Requests, connections of bytes and upgrades share it, and the budget of retries with it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep};
use tulle_model::decision::{Decision, Effect};
use tulle_model::egress::originated::Onward;
use tulle_model::health::AttemptOutcome;
use tulle_model::name::ServiceName;
use tulle_model::retry::{Failure, Tries};
use tulle_model::snapshot::{HttpRule, OriginatedTls, Retry};

use crate::budget::{Account, Seat};
use crate::connect::EGRESS_CONNECT;
use crate::destination::{Destination, Member};
use crate::endpoints::{Picked, was_tried};
use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::exchange::{Exchange, Refused};
use crate::local::Local;
use crate::metrics::DestinationName;
use crate::outside::OutsidePlace;
use crate::reach::Hop;
use crate::reason::Reason;
use crate::repeatable::failure_of;
use crate::state::LocalWorkload;
use crate::tcp::Upstream;
use crate::view::View;
use crate::worker::Worker;

/// How long it may take in all to open a connection to an endpoint of a service.
const DEADLINE: Duration = Duration::from_secs(5);
/// Endpoints that the log names as passed over.
const NAMED: usize = 4;

/// What was attempted, and where else it can go.
pub(crate) struct Attempts {
    to: To,
    tries: Tries,
    /// When the one under way began.
    began: Instant,
    /// Endpoints that failed it.
    tried: Vec<Rc<Member>>,
    /// The endpoint of its session: the first to be tried.
    kept: Option<Rc<Member>>,
    /// The last failure would be no other on the same endpoint.
    futile: bool,
    /// When no other attempt begins any more.
    end: Option<Instant>,
    /// The rule, where it says how often it is tried again.
    rule: Option<Arc<HttpRule>>,
}

enum To {
    Service {
        backend: ServiceName,
        port: u16,
    },
    /// Boxed: every request has room for what is rare.
    Outside(Box<Outward>),
}

/// Addresses outside of the mesh, and the TLS in which it goes there.
struct Outward {
    addresses: std::vec::IntoIter<SocketAddr>,
    tls: Option<Arc<OriginatedTls>>,
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
    pub fn at(local: &Local, view: &View, exchange: &mut Exchange, backend: ServiceName, port: u16) -> Self {
        if let Some(destination) = view.destination(&backend) {
            destination.record_request(local.since_start(exchange.started()));
        }
        exchange.goes_to(backend.clone());
        Self::new(exchange, To::Service { backend, port })
    }

    /// As that rule says of retries, if it does.
    pub fn by(&mut self, rule: &Arc<HttpRule>) {
        if rule.retry.is_some() {
            self.rule = Some(rule.clone());
        }
    }

    /// At that endpoint first.
    pub fn stay_with(&mut self, member: Rc<Member>) {
        self.kept = Some(member);
    }

    fn retry(&self) -> Option<&Retry> {
        self.rule.as_ref()?.retry.as_deref()
    }

    /// At the addresses of a place outside of the mesh, in their order; at no listener of this proxy's.
    pub fn outside(worker: &Worker, exchange: &mut Exchange, place: &OutsidePlace, onward: Onward) -> Self {
        exchange.goes_to(DestinationName::External);
        let mut addresses = place.addresses.clone();
        if let Some(port) = onward.port {
            addresses.iter_mut().for_each(|address| address.set_port(port));
            addresses.retain(|address| !worker.is_own_listener(*address));
        }
        let outward = Outward { addresses: addresses.into_iter(), tls: onward.tls };
        Self::new(exchange, To::Outside(Box::new(outward)))
    }

    fn new(exchange: &Exchange, to: To) -> Self {
        let (tries, tried) = (Tries::default(), Vec::new());
        let began = exchange.ready();
        Self { to, tries, began, tried, kept: None, futile: false, end: None, rule: None }
    }

    /// Bounds in time how long it may take, from now on and over all attempts, to open a connection; until when.
    pub fn bound(&mut self) -> Instant {
        let deadline = if self.backend().is_some() { DEADLINE } else { EGRESS_CONNECT };
        self.ends_at(Instant::now() + deadline)
    }

    /// None begins after `end`, or what was said before; when that is.
    pub fn ends_at(&mut self, end: Instant) -> Instant {
        *self.end.insert(self.end.map_or(end, |before| before.min(end)))
    }

    /// The service whose endpoints take it, and its port.
    pub fn backend(&self) -> Option<(&ServiceName, u16)> {
        match &self.to {
            To::Service { backend, port } => Some((backend, *port)),
            To::Outside(_) => None,
        }
    }

    /// Picks where the next attempt goes, which begins with that.
    pub fn next(&mut self, worker: &Worker, exchange: &mut Exchange) -> Result<Hop, Refused> {
        let picked = match &mut self.to {
            To::Outside(outward) => {
                let Outward { addresses, tls } = &mut **outward;
                addresses.next().map(|address| Hop::outside(address, tls.clone()))
            }
            To::Service { backend, port } => {
                worker.local.view().recent_destination(backend).and_then(|destination| {
                    let from_outside = exchange.is_from_outside();
                    let pick = |tried: &[_]| worker.local.pick(&destination, *port, tried, from_outside);
                    let may_stay = |kept: &&Rc<Member>| {
                        !was_tried(&self.tried, kept) && worker.local.is_open_to(from_outside, &kept.endpoint)
                    };
                    let kept = self.kept.as_ref().filter(may_stay);
                    let kept = kept.and_then(|kept| Picked::at(kept, *port));
                    // What was tried once more, where nothing else is left.
                    let picked = kept.or_else(|| pick(&self.tried)).or_else(|| pick(&[]));
                    let hop = Hop::to(&worker.local, picked?);
                    let first = exchange.attempts() == 0;
                    if first && exchange.is_logged() && worker.local.standings.has_troubled() {
                        name_passed_over(&destination, *port, &worker.local, exchange, &hop);
                    }
                    Some(hop)
                })
            }
        };
        if let Some(hop) = picked {
            exchange.attempt(hop.address, hop.security());
            return Ok(hop);
        }
        Err(match &self.to {
            To::Outside(_) => {
                exchange.refuse(Reason::ConnectFailed, "no address of the destination is left to try")
            }
            To::Service { backend, port } => {
                exchange.decided(|| Decision::no_endpoints(backend.clone()));
                let message = match exchange.is_from_outside() {
                    true => format!("no process of {backend} on this host takes traffic at port {port} now"),
                    false => format!("service {backend} has no endpoint for port {port}"),
                };
                exchange.refuse(Reason::NoEndpoints, message)
            }
        })
    }

    /// Learns from an attempt that was answered with that status.
    pub fn succeeded(&self, worker: &Worker, exchange: &mut Exchange, hop: Hop, status: StatusCode) {
        let now = Instant::now();
        if let Some(member) = hop.member() {
            let latency = now.saturating_duration_since(self.began);
            let outcome = AttemptOutcome::Answered { status: status.as_u16(), latency };
            member.note(outcome, || worker.local.since_start(now));
        }
        exchange.answered(hop.into_load(), now);
    }

    /// Opens a connection of bytes, for `account`, at one endpoint or another: a failed connect is tried again elsewhere,
    /// as nothing was sent. Bounded in time over all attempts.
    pub async fn connect(
        &mut self,
        worker: &Rc<Worker>,
        exchange: &mut Exchange,
        source: &LocalWorkload,
        account: &Rc<Account>,
    ) -> Result<(Hop, Upstream, Option<Seat>), Refused> {
        let end = self.bound();
        loop {
            let hop = self.next(worker, exchange)?;
            let error = match hop.connect(worker, source, account, None, end).await {
                Ok((upstream, seat)) => {
                    let now = Instant::now();
                    if let Some(member) = hop.member() {
                        let latency = now.saturating_duration_since(self.began);
                        member.note(AttemptOutcome::Connected { latency }, || worker.local.since_start(now));
                    }
                    return Ok((hop, upstream, seat));
                }
                Err(error) => error,
            };
            if error.kind == Kind::ConnectionLost
                && let Some(member) = hop.member()
            {
                // Here it is one that does not take connections.
                member.note(AttemptOutcome::Unreachable, || worker.local.since_start(Instant::now()));
            }
            match self.failed(worker, exchange, &hop, &error, false, true) {
                Again::No => return Err(Refused),
                Again::Now => {}
                Again::After(pause) => sleep(pause).await,
            }
        }
    }

    /// Learns from an attempt that was answered with a status that its rule wants no client to see, and whether another
    /// follows: if not, that is the answer.
    #[cold]
    pub fn unwanted(
        &mut self,
        worker: &Worker,
        exchange: &mut Exchange,
        hop: &Hop,
        status: StatusCode,
        at_hand: bool,
    ) -> Again {
        let Some(rule) = self.rule.clone().filter(|_| self.retry().is_some_and(|r| r.wants(status.as_u16())))
        else {
            return Again::No;
        };
        if !at_hand {
            if rule.retry.as_ref().is_some_and(|retry| retry.attempts != Some(0)) {
                let why = ".codes (its body is not at hand)";
                exchange.decided(|| Decision::retry_of(&rule, why, Effect::NotRetried));
            }
            return Again::No;
        }
        let now = Instant::now();
        if let Some(member) = hop.member()
            && !was_tried(&self.tried, member)
        {
            self.tried.push(member.clone());
        }
        self.futile = false;
        let again = self.repeat(worker, exchange, Failure::Harmless, false, now);
        if !matches!(again, Again::No) {
            if let Some(member) = hop.member() {
                let latency = now.saturating_duration_since(self.began);
                let outcome = AttemptOutcome::Answered { status: status.as_u16(), latency };
                member.note(outcome, || worker.local.since_start(now));
            }
            exchange.attempt_answered(status);
            self.began = now;
        }
        again
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
            source = exchange.source().map(|source| tracing::field::display(&source.name)),
            endpoint = %hop.address,
            reason = error.kind.reason(),
            "attempt failed: {error}"
        );
        exchange.attempt_failed(error, hop.endpoint());
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
            self.began = Instant::now();
            let pause = self.tries.sent_back().filter(|pause| self.may_begin_at(self.began + *pause));
            return pause.map_or(Again::No, Again::After);
        }
        let now = Instant::now();
        let time = worker.local.since_start(now);
        self.began = now;
        if let Some(member) = hop.member() {
            let outcome = outcome_of(error.kind);
            member.note(outcome, || time);
            // One that has no room has none a moment later.
            self.futile = matches!(outcome, AttemptOutcome::Unreachable | AttemptOutcome::Draining)
                || matches!(error.kind, Kind::Shed(_) | Kind::ShedThere(_));
            // A connection that was open was lost: that of a session is looked for where it is, once.
            let stays = error.kind == Kind::ConnectionLost
                && exchange.attempts() == 1
                && self.kept.as_ref().is_some_and(|kept| kept.is(member));
            if !stays && !was_tried(&self.tried, member) {
                self.tried.push(member.clone());
            }
        }
        let mut failure = failure_of(error, idempotent);
        if let Some(retry) = self.retry()
            && matches!(error.kind, Kind::Timeout | Kind::ConnectionLost | Kind::BadAnswer)
        {
            // Its author has said that what is answered so may be sent twice, and the mesh would answer so. What took too long
            // is another matter than by default: the next attempt has its own time.
            let status = Reason::from(error.kind).status().as_u16();
            if retry.wants(status) || (idempotent && error.kind == Kind::Timeout) {
                failure = Failure::Harmless;
            }
        }
        if !at_hand {
            return Again::No;
        }
        self.repeat(worker, exchange, failure, error.kind == Kind::LinkPending, now)
    }

    /// Whether another attempt follows one that failed so, of a request that is at hand. `is_pending`: it did not begin, as the
    /// link to its node is not open yet.
    fn repeat(
        &mut self,
        worker: &Worker,
        exchange: &mut Exchange,
        failure: Failure,
        is_pending: bool,
        now: Instant,
    ) -> Again {
        let retry = self.retry().filter(|_| failure != Failure::Uncounted);
        let pause = retry.map(|retry| retry.pause(exchange.attempts(), worker.local.random()));
        if !self.may_begin_at(now + pause.unwrap_or_default()) {
            return Again::No;
        }
        let time = worker.local.since_start(now);
        match &self.to {
            // What bounds them is how many addresses there are.
            To::Outside(outward) if failure == Failure::Final || outward.addresses.len() == 0 => {
                return Again::No;
            }
            To::Outside(_) => {}
            To::Service { backend, port } => {
                let Some(destination) = worker.local.view().recent_destination(backend) else {
                    return Again::No;
                };
                let asked = self.rule.as_ref().and_then(|rule| rule.retry.as_deref());
                let may = self.tries.may_repeat(exchange.attempts(), failure, asked);
                if !may || !self.has_more(&worker.local, exchange, &destination, *port) {
                    return Again::No;
                }
                // Where nothing was sent yet, nothing is added to the load of anybody.
                if !is_pending && !destination.try_retry(time) {
                    tracing::debug!(service = %backend, "no retry: the budget is used up");
                    exchange.decided(|| Decision::out_of_budget(backend.clone()));
                    return Again::No;
                }
                exchange.decided(|| match &self.rule {
                    Some(rule) => Decision::retry_of(rule, "", Effect::Retried),
                    None => Decision::retried(backend.clone()),
                });
            }
        }
        exchange.retry();
        pause.map_or(Again::Now, Again::After)
    }

    fn may_begin_at(&self, time: Instant) -> bool {
        self.end.is_none_or(|end| time < end)
    }

    /// Whether another endpoint is left for that port, or the same may fare better.
    fn has_more(&self, local: &Local, exchange: &Exchange, destination: &Destination, port: u16) -> bool {
        let left = |member: &Rc<Member>| {
            member.endpoint.target_port(port).is_some()
                && local.is_open_to(exchange.is_from_outside(), &member.endpoint)
                && !was_tried(&self.tried, member)
        };
        !self.futile || destination.members.iter().any(left)
    }
}

/// Names endpoints that are passed over for that one, as they did not take connections lately.
#[cold]
fn name_passed_over(
    destination: &Destination,
    port: u16,
    local: &Local,
    exchange: &mut Exchange,
    picked: &Hop,
) {
    let now = local.since_start(Instant::now());
    let avoided = |member: &&Rc<Member>| member.avoided(now) && member.endpoint.target_port(port).is_some();
    // Where all are, none is.
    if picked.member().is_some_and(|picked| avoided(&picked)) {
        return;
    }
    for member in destination.members.iter().filter(avoided).take(NAMED) {
        exchange.decided(|| Decision::passed_over(&member.endpoint));
    }
}

/// What a failure says of the endpoint.
fn outcome_of(kind: Kind) -> AttemptOutcome {
    match kind {
        Kind::Connect | Kind::Tls | Kind::OutsideTls | Kind::WrongIdentity | Kind::Refused => {
            AttemptOutcome::Unreachable
        }
        Kind::Draining => AttemptOutcome::Draining,
        Kind::LinkPending => AttemptOutcome::Pending,
        Kind::ConnectionLost
        | Kind::BadAnswer
        | Kind::Reset(_)
        | Kind::Timeout
        | Kind::AnswerHeadersTooLarge
        | Kind::NotUpgraded => AttemptOutcome::Broken,
        Kind::NoCertificate
        | Kind::StreamsFull
        | Kind::WentAway
        | Kind::HeadersTooLarge
        | Kind::Caller
        | Kind::Denied
        | Kind::Unauthenticated
        | Kind::Unsupported
        | Kind::Shed(_)
        | Kind::ShedThere(_) => AttemptOutcome::Void,
    }
}
