//! The way of a request from its destination to an answer: route, backend, endpoint, attempt, and on to
//! the next endpoint where that is safe.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Response, Version};
use tokio::time::Instant;
use tulle_model::name::ServiceName;
use tulle_model::path::{has_dot_segments, normal_form};
use tulle_model::routing::{self, RequestParts};
use tulle_model::snapshot::{
    AppProtocol, BackendTarget, Endpoint, HttpRouteTable, HttpRule, Known, PortConfig, ServiceConfig,
    Snapshot,
};

use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::headers::{self, AppVersion};
use crate::http::http1::give_headers;
use crate::http::record::{Outcome, Record};
use crate::http::replay::Replay;
use crate::http::reply;
use crate::http::retry::Attempts;
use crate::http::server::{Connection, unless_cut};
use crate::http::spelling::{Spelling, Written};
use crate::http2::RequestHead;
use crate::inbound;
use crate::local::Lookup;
use crate::metrics::Destination;
use crate::reach::{Hop, Reach};
use crate::reason::Reason;
use crate::security::Security;
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// Where a request is to go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Service {
        service: ServiceName,
        port: u16,
    },
    /// No part of the mesh: one of these addresses, tried in their order.
    Outside {
        addresses: Vec<SocketAddr>,
    },
}

/// A request of the inner form (see [`headers::normalize_request`]) on its way.
pub(crate) struct Call<'h> {
    pub head: &'h mut Parts,
    pub body: Body,
    pub target: Target,
    pub caller: &'h Caller,
    /// The head as it came, in HTTP/1.
    pub written: Option<Written>,
}

impl Target {
    /// What it is counted as.
    pub fn destination(&self) -> Destination {
        match self {
            Self::Service { service, .. } => Destination::Service(service.clone()),
            Self::Outside { .. } => Destination::External,
        }
    }
}

/// An answer of the mesh's own, and what it is about.
pub(crate) struct Refusal {
    pub reason: Reason,
    pub message: String,
    pub destination: Destination,
}

impl Refusal {
    pub fn new(reason: Reason, message: String, destination: impl Into<Destination>) -> Self {
        Self { reason, message, destination: destination.into() }
    }

    pub fn into_answer(self) -> (Outcome, Response<Body>) {
        (Outcome::unsent(self.destination, self.reason), reply::reply(self.reason, &self.message))
    }
}

/// A request whose route is known.
pub(crate) struct Routed {
    /// The service whose endpoints take it.
    pub backend: ServiceName,
    pub port: u16,
    /// What to speak to the application.
    pub version: AppVersion,
    /// The port wants heads as they are written.
    pub preserve_case: bool,
}

/// Answers a call.
pub(crate) async fn forward(
    client: &Connection,
    record: &Record,
    call: Call<'_>,
) -> (Outcome, Response<Body>) {
    let Call { head, body, target, caller, written } = call;
    let mut route = match Route::find(&client.worker, record, head, target).await {
        Ok(route) => route,
        Err(refusal) => return refusal.into_answer(),
    };
    route.spell(head, written, &caller.asker);
    let replay = Replay::new(body, &caller.account);
    loop {
        let hop = match route.next(&client.worker) {
            Ok(hop) => hop,
            Err(refusal) => return route.refused(refusal),
        };
        record.is_sent(hop.security());
        let sent = {
            let sent = pin!(send(
                &client.worker,
                &client.source,
                caller,
                &hop,
                route.version(),
                head,
                replay.body()
            ));
            unless_cut(&client.cut, sent).await
        };
        let Some(sent) = sent else {
            // What it was sent to may have begun to work on it.
            let answer = reply::reply(Reason::HalfClosed, &client.why_cut());
            let mut outcome = route.outcome(hop);
            outcome.reason = Some(Reason::HalfClosed);
            return (outcome, answer);
        };
        let failure = match sent {
            Ok(response) => {
                replay.commit();
                give_headers(std::mem::take(&mut head.headers));
                return (route.succeeded(&client.worker, hop), response);
            }
            Err(failure) => failure,
        };
        tracing::debug!(
            source = %client.source.name,
            endpoint = %hop.address,
            reason = failure.kind.reason(),
            "attempt failed: {failure}"
        );
        route.note(&hop, &failure);
        if let Some((reason, message)) = replay.fault() {
            return (route.given_up(hop, reason), reply::reply(reason, message));
        }
        let repeatable = replay.possible();
        let repeat =
            route.failed(&client.worker, &client.source, record, &hop, &head.method, &failure, repeatable);
        if !repeat {
            return route.lost(hop, &failure, head.version);
        }
        if failure.is_nobodys() {
            Box::pin(route.pause()).await;
        }
    }
}

/// A route, and the attempts made on it.
pub(crate) struct Route {
    kind: Kind,
    attempts: Attempts,
    tried: Vec<Arc<Endpoint>>,
    version: AppVersion,
    preserve_case: bool,
    /// The last failure would be no other on the same endpoint.
    futile: bool,
    /// How the last attempt was protected of which something may have reached an endpoint.
    sent: Security,
}

enum Kind {
    Service { backend: ServiceName, port: u16 },
    Outside { addresses: std::vec::IntoIter<SocketAddr> },
}

impl Route {
    /// Looks up where the request goes. Waits only for a service that was never used before.
    pub async fn find(
        worker: &Rc<Worker>,
        record: &Record,
        head: &Parts,
        target: Target,
    ) -> Result<Self, Refusal> {
        let (kind, version, preserve_case) = match target {
            Target::Outside { addresses } => {
                record.goes_to(Destination::External);
                let version = AppVersion::of(head.version);
                (Kind::Outside { addresses: addresses.into_iter() }, version, false)
            }
            Target::Service { service, port } => {
                let routed = route(worker, record, head, service, port).await?;
                worker.budgets.record_request(&routed.backend, record.started());
                record.goes_to(Destination::Service(routed.backend.clone()));
                let kind = Kind::Service { backend: routed.backend, port: routed.port };
                (kind, routed.version, routed.preserve_case)
            }
        };
        let (attempts, tried, sent) = (Attempts::default(), Vec::new(), Security::Unsent);
        Ok(Self { kind, attempts, tried, version, preserve_case, futile: false, sent })
    }

    /// Has a head that came in HTTP/1 go on as it is `written`, where its port asks for that.
    pub fn spell(&self, head: &mut Parts, written: Option<Written>, asker: &Asker) {
        if self.preserve_case
            && self.version == AppVersion::Http1
            && let Kind::Service { backend, port } = &self.kind
            && let Some(spelling) = written.and_then(|Written(bytes)| Spelling::of_request(&bytes))
        {
            head.extensions.insert(spelling.asked_by(&backend.name, *port));
            asker.keep_letters();
        }
    }

    pub fn version(&self) -> AppVersion {
        self.version
    }

    /// Chooses where the next attempt goes.
    pub fn next(&mut self, worker: &Worker) -> Result<Hop, Refusal> {
        self.attempts.begin();
        let picked = match &mut self.kind {
            Kind::Outside { addresses } => addresses.next().map(Hop::outside),
            // What was tried once more, where nothing else is left.
            Kind::Service { backend, port } => worker
                .local
                .pick(backend, *port, &self.tried)
                .or_else(|| worker.local.pick(backend, *port, &[]))
                .map(|picked| Hop::to(&worker.local, picked)),
        };
        picked.ok_or_else(|| match &self.kind {
            Kind::Outside { .. } => {
                let message = "no address of the destination is left to try".to_owned();
                Refusal::new(Reason::ConnectFailed, message, Destination::External)
            }
            Kind::Service { backend, port } => {
                let message = format!("service {backend} has no endpoint for port {port}");
                Refusal::new(Reason::NoEndpoints, message, backend.clone())
            }
        })
    }

    /// Learns from a failed attempt; whether to make another.
    #[allow(clippy::too_many_arguments)]
    pub fn failed(
        &mut self,
        worker: &Worker,
        source: &LocalWorkload,
        record: &Record,
        hop: &Hop,
        method: &http::Method,
        error: &UpstreamError,
        body_at_hand: bool,
    ) -> bool {
        use UpstreamErrorKind as Failure;
        if error.is_nobodys() {
            return error.safe_to_retry && body_at_hand && self.attempts.take_back();
        }
        if let Some(endpoint) = hop.endpoint() {
            if matches!(error.kind, Failure::Connect | Failure::Tls | Failure::Refused | Failure::Draining) {
                worker.local.health.failed(endpoint, Instant::now());
                self.futile = true;
            } else {
                // It has no more room a moment later.
                self.futile = matches!(error.kind, Failure::Shed(_) | Failure::ShedThere(_));
            }
            self.tried.push(endpoint.clone());
        }
        if !self.attempts.may_repeat(method, error) || !body_at_hand || !self.has_more(worker) {
            return false;
        }
        // Where nothing was sent yet, nothing is added to the load of anybody.
        if error.kind != Failure::LinkPending
            && let Kind::Service { backend, .. } = &self.kind
            && !worker.budgets.try_retry(backend)
        {
            tracing::debug!(service = %backend, "no retry: the budget is used up");
            return false;
        }
        let mut failed = self.outcome_of(hop);
        if error.safe_to_retry {
            failed.security = Security::Unsent;
        }
        record.edge(worker, source, &failed).retry();
        true
    }

    /// Waits, after an attempt that failed for nobody's fault.
    pub async fn pause(&self) {
        tokio::time::sleep(self.attempts.pause()).await;
    }

    /// Notes whether something of a failed attempt may have reached its endpoint.
    pub fn note(&mut self, hop: &Hop, error: &UpstreamError) {
        if !error.safe_to_retry {
            self.sent = hop.security();
        }
    }

    /// Nothing is left to try.
    pub fn refused(&self, refusal: Refusal) -> (Outcome, Response<Body>) {
        let (mut outcome, answer) = refusal.into_answer();
        outcome.security = self.sent;
        (outcome, answer)
    }

    /// No attempt got an answer, the last one for `reason`.
    pub fn given_up(&self, hop: Hop, reason: Reason) -> Outcome {
        let mut outcome = self.outcome(hop);
        (outcome.security, outcome.reason) = (self.sent, Some(reason));
        outcome
    }

    /// The same, with the answer that says so to a client of that version.
    pub fn lost(&self, hop: Hop, error: &UpstreamError, version: Version) -> (Outcome, Response<Body>) {
        (self.given_up(hop, error.kind.into()), reply::failed_for(error, version))
    }

    pub fn destination(&self) -> Destination {
        match &self.kind {
            Kind::Service { backend, .. } => Destination::Service(backend.clone()),
            Kind::Outside { .. } => Destination::External,
        }
    }

    fn has_more(&self, worker: &Worker) -> bool {
        match &self.kind {
            Kind::Outside { addresses } => addresses.len() > 0,
            Kind::Service { backend, port } => {
                let state = worker.local.state.load();
                let Some(set) = state.snapshot.endpoints.get(backend) else { return false };
                let left = |e: &&Arc<Endpoint>| e.target_port(*port).is_some() && !self.tried.contains(e);
                !self.futile || set.endpoints.iter().any(|e| left(&e))
            }
        }
    }

    pub fn succeeded(&self, worker: &Worker, hop: Hop) -> Outcome {
        if let Some(endpoint) = hop.endpoint() {
            worker.local.health.worked(endpoint);
        }
        self.outcome(hop)
    }

    pub fn outcome(&self, hop: Hop) -> Outcome {
        let mut outcome = self.outcome_of(&hop);
        outcome.load = hop.load;
        outcome
    }

    fn outcome_of(&self, hop: &Hop) -> Outcome {
        Outcome {
            destination: self.destination(),
            security: hop.security(),
            reason: None,
            endpoint: Some(hop.address),
            attempts: self.attempts.made(),
            load: None,
        }
    }
}

/// Finds the rule that decides over the request, and the backend that gets it.
async fn route(
    worker: &Rc<Worker>,
    record: &Record,
    head: &Parts,
    service: ServiceName,
    port: u16,
) -> Result<Routed, Refusal> {
    {
        let state = worker.local.state.load();
        if let Some(Known::Present(config)) = state.snapshot.services.get(&service) {
            return route_in(worker, record, &state.snapshot, config, head, service, port);
        }
    }
    // Boxed, as all that is rare: every connection has room for what is not.
    let config = Box::pin(config_of(worker, &service)).await?;
    route_in(worker, record, &worker.local.state.load().snapshot, &config, head, service, port)
}

/// What is known of a service.
pub(crate) async fn config_of(worker: &Worker, service: &ServiceName) -> Result<Arc<ServiceConfig>, Refusal> {
    let message = match worker.local.service(service).await {
        Lookup::Present(config) => return Ok(config),
        Lookup::Absent => format!("there is no service {service}"),
        Lookup::Unknown => {
            format!("nothing is known of service {service} yet, and the server did not answer")
        }
    };
    Err(Refusal::new(Reason::UnknownService, message, service.clone()))
}

/// A port of a service.
pub(crate) fn port_of(config: &ServiceConfig, port: u16) -> Result<&PortConfig, Refusal> {
    config.port(port).ok_or_else(|| {
        let service = &config.name;
        let ports: Vec<String> = config.ports.iter().map(|p| p.number.to_string()).collect();
        let has = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        let message = format!("service {service} has no port {port} (it has {has})");
        Refusal::new(Reason::UnknownService, message, service.clone())
    })
}

fn route_in(
    worker: &Worker,
    record: &Record,
    snapshot: &Snapshot,
    config: &ServiceConfig,
    head: &Parts,
    service: ServiceName,
    port: u16,
) -> Result<Routed, Refusal> {
    record.decided_on(snapshot.generation);
    let refuse = |reason, message: String| Err(Refusal::new(reason, message, service.clone()));
    let port_config = port_of(config, port)?;
    if port_config.http_routes.is_empty() {
        let version = app_version(head.version, port_config);
        let preserve_case = port_config.http1.preserve_case;
        return Ok(Routed { backend: service, port, version, preserve_case });
    }
    let table = &port_config.http_routes;
    if table.goes_by_path() && has_dot_segments(head.uri.path()) {
        let message = format!(
            "the path has a dot segment (`.` or `..`), and routes of service {service} port {port} go by paths"
        );
        return refuse(Reason::BadRequest, message);
    }
    let Some(rule) = matching(table, head) else {
        let message = format!("no route of service {service} port {port} matches the request");
        return refuse(Reason::NoRoute, message);
    };
    record.ruled_by(rule);
    let (backend, port) =
        match routing::pick_backend(&rule.backends, worker.local.random()).map(|b| &b.target) {
            Some(BackendTarget::Service { name, port }) => (name.clone(), *port),
            Some(BackendTarget::Invalid { reason }) => {
                return refuse(Reason::InvalidBackend, format!("a route of service {service}: {reason}"));
            }
            None => {
                let message = format!("the matching route of service {service} has no backend with a weight");
                return refuse(Reason::InvalidBackend, message);
            }
        };
    let config = match snapshot.services.get(&backend) {
        Some(Known::Present(config)) => config.port(port),
        _ => Some(port_config),
    };
    let version = config.map_or(AppVersion::of(head.version), |config| app_version(head.version, config));
    let preserve_case = config.is_some_and(|config| config.http1.preserve_case);
    Ok(Routed { backend, port, version, preserve_case })
}

fn matching<'t>(table: &'t HttpRouteTable, head: &Parts) -> Option<&'t Arc<HttpRule>> {
    let path = if table.goes_by_path() { normal_form(head.uri.path()) } else { head.uri.path().into() };
    let parts = RequestParts {
        method: head.method.as_str(),
        path: &path,
        query: head.uri.query(),
        header: |name: &str| header(head, name),
    };
    routing::route(table, &parts).map(|entry| &entry.rule)
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<Cow<'a, str>> {
    // The inner form keeps the host in the URI.
    if name == "host" {
        return head.uri.authority().map(|authority| Cow::Borrowed(authority.as_str()));
    }
    routing::join_values(head.headers.get_all(name).iter().map(HeaderValue::as_bytes))
}

fn app_version(client: Version, port: &PortConfig) -> AppVersion {
    match port.protocol {
        AppProtocol::Http1 => AppVersion::Http1,
        AppProtocol::Http2 => AppVersion::Http2,
        AppProtocol::Detect | AppProtocol::Tcp => AppVersion::of(client),
    }
}

/// Makes one attempt. `Ok`: an answer of the application.
async fn send(
    worker: &Rc<Worker>,
    source: &Arc<LocalWorkload>,
    caller: &Caller,
    hop: &Hop,
    version: AppVersion,
    head: &Parts,
    body: Body,
) -> Result<Response<Body>, UpstreamError> {
    let endpoint = match &hop.reach {
        Reach::Plain(_) => return send_plain(worker, caller, hop.address, version, head, body).await,
        Reach::HandedOver(endpoint) => {
            let workload = worker.local.hand_over(endpoint)?;
            let port = hop.address.port();
            return inbound::pass_request(worker, &workload, port, version, head, body, caller).await;
        }
        Reach::Link(endpoint) => endpoint,
    };
    let more = worker.link_headers.of(endpoint, hop.address.port(), version);
    let spelling = head.extensions.get::<Spelling>();
    let with_spelling = spelling.map(|spelling| [&more[..], &[spelling.field()]].concat());
    let request = RequestHead::new(head, with_spelling.as_deref().unwrap_or(&more));
    let mut response = worker.links.request(source, endpoint, &request, body, &caller.asker).await?;
    if let Some(error) = reply::told(&mut response) {
        return Err(error);
    }
    if spelling.is_some() {
        if let Some(spelling) = Spelling::take(response.headers_mut()) {
            response.extensions_mut().insert(spelling);
        }
        response = response.map(Body::as_written);
    }
    let status = response.status();
    headers::normalize_link_response(response.headers_mut(), status);
    Ok(response)
}

async fn send_plain(
    worker: &Rc<Worker>,
    caller: &Caller,
    address: SocketAddr,
    version: AppVersion,
    head: &Parts,
    body: Body,
) -> Result<Response<Body>, UpstreamError> {
    let mut response = worker.apps.request(address, version, head, body, caller).await?;
    let status = response.status();
    headers::normalize_response(status, response.headers_mut())
        .map_err(|problem| UpstreamError::bad_answer(problem.0))?;
    Ok(response)
}
