//! The way of a request from its destination to an answer: its route, and the attempts at it: pick an endpoint, reach
//! it, hear its answer, and on to the next where that is safe.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Response, Version};
use tokio::time::Instant;
use tulle_model::decision::Decision;
use tulle_model::egress::originated::Onward;
use tulle_model::name::ServiceName;
use tulle_model::routing::decide::{self, Routing, Unrouted};
use tulle_model::routing::{self, RequestParts};
use tulle_model::snapshot::{HttpRule, Known, PortConfig, ServiceConfig, Spoken};

use crate::app_pool::{AppPool, is_idempotent};
use crate::attempts::{Again, Attempts};
use crate::error::UpstreamError;
use crate::exchange::{Exchange, Refused};
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::filters::{self, Filters};
use crate::http::grpc::Messages;
use crate::http::headers::{self, AppVersion};
use crate::http::http1::give_headers;
use crate::http::limits::{RequestEnd, TimeLimits, within_limits};
use crate::http::mirror::mirror;
use crate::http::replay::Replay;
use crate::http::reply;
use crate::http::server::{ConnectionContext, unless_cut};
use crate::http::session::RequestSession;
use crate::http::spelling::{Spelling, Written};
use crate::http2::RequestFields;
use crate::inbound::{self, Entrance};
use crate::inquiry::{ByExternal, IsInquiry};
use crate::local::{Local, Lookup};
use crate::mesh_headers::QUESTION;
use crate::metrics::DestinationName;
use crate::outside::OutsidePlace;
use crate::reach::{Hop, Reach};
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::view::View;
use crate::worker::Worker;

/// Where a request is to go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Service {
        service: ServiceName,
        port: u16,
    },
    /// No part of the mesh: one of its addresses, tried in their order.
    Outside {
        place: Rc<OutsidePlace>,
        /// Whether what a tunnel carries there is to be looked at.
        carries: bool,
        onward: Onward,
    },
}

impl Target {
    /// What it is counted as.
    pub fn destination(&self) -> DestinationName {
        match self {
            Self::Service { service, .. } => DestinationName::Service(service.clone()),
            Self::Outside { .. } => DestinationName::External,
        }
    }
}

/// A request of the inner form (see [`headers::normalize_request`]) on its way.
pub(crate) struct Message<'h> {
    pub head: &'h mut Parts,
    pub body: Body,
    /// The head as it came, in HTTP/1.
    pub written: Option<Written>,
}

/// What a rule, and its backend, make of a request and its answer.
pub(crate) struct Terms {
    filters: Option<Filters>,
    /// How long it may take; `None`: as long as it likes.
    limits: Option<TimeLimits>,
    session: Option<Box<RequestSession>>,
    backend: usize,
    /// How the applications of the port are spoken to that was asked.
    asked: Spoken,
}

impl Terms {
    /// `None`: the rule makes nothing of it. `fields`: the request's, which began then.
    #[cold]
    fn of(
        rule: &Arc<HttpRule>,
        (backend, asked): (usize, Spoken),
        fields: &HeaderMap,
        began: Instant,
        session: Option<Box<RequestSession>>,
    ) -> Option<Box<Self>> {
        let (filters, limits) = (Filters::of(rule, backend, fields), TimeLimits::of(rule, began));
        let any = filters.is_some() || limits.is_some() || session.is_some();
        any.then(|| Box::new(Self { filters, limits, session, backend, asked }))
    }

    /// Sends copies of the request to whom its rule mirrors it to.
    #[cold]
    fn mirror(
        &self,
        client: &ConnectionContext,
        exchange: &mut Exchange,
        head: &Parts,
        written: Option<&Written>,
        body: &mut Body,
    ) {
        if let Some(filters) = &self.filters {
            mirror(client, exchange, filters, head, written, body, self.asked);
        }
    }

    /// Says in a request's head when an attempt has to be over that begins now.
    #[cold]
    fn tell_end(&self, head: &mut Parts) {
        if let Some(end) = self.limits.as_ref().and_then(TimeLimits::attempt_end) {
            head.extensions.insert(end);
        }
    }

    pub fn limits(&mut self) -> Option<&mut TimeLimits> {
        self.limits.as_mut()
    }

    /// Notes what decided over an attempt that failed, if that did.
    #[cold]
    pub fn note(&self, exchange: &mut Exchange) {
        if let Some(decision) = self.limits.as_ref().and_then(TimeLimits::decision) {
            exchange.decided(|| decision);
        }
    }

    /// Changes the head of the application's answer, which came by that way.
    pub fn filter(&self, local: &Local, headers: &mut HeaderMap, hop: &Hop) {
        if let Some(filters) = &self.filters {
            filters.response(headers);
        }
        if let Some(session) = &self.session {
            session.mark(local, headers, self.backend, hop);
        }
    }

    /// The same of its answer, whose body breaks off where it takes too long. `version`: its client's.
    #[cold]
    pub fn conclude(self, local: &Local, response: &mut Response<Body>, version: Version, hop: &Hop) {
        self.filter(local, response.headers_mut(), hop);
        let Some(limits) = self.limits else { return };
        let is_grpc = version == Version::HTTP_2 && headers::is_grpc(response.headers());
        let messages = is_grpc.then(|| Messages::of(response.headers_mut()));
        limits.bound(response.body_mut(), messages);
    }
}

/// Where a request goes, and how it is spoken there.
pub(crate) struct Route {
    pub attempts: Attempts,
    /// What its rule makes of it, if anything. Boxed: few requests have any, and all have room for it.
    pub terms: Option<Box<Terms>>,
    /// What to speak to the application.
    pub version: AppVersion,
    /// The port wants heads as they are written.
    preserve_case: bool,
}

/// Whether somebody denies it who was asked; then the exchange says so.
fn is_denied(exchange: &mut Exchange, response: &mut Response<Body>) -> bool {
    let by_external = response.extensions_mut().remove::<ByExternal>();
    by_external.map(|ByExternal(message)| exchange.refuse(Reason::Denied, &*message)).is_some()
}

/// Answers a request whose route is known, and stays with the caller, as it is large.
pub(crate) async fn forward(
    client: &ConnectionContext,
    exchange: &mut Exchange,
    message: Message<'_>,
    route: &mut Route,
    caller: &Caller,
) -> Result<Response<Body>, Refused> {
    let Message { head, mut body, written } = message;
    if let Some(terms) = &route.terms {
        terms.mirror(client, exchange, head, written.as_ref(), &mut body);
    }
    route.spell(head, written, &caller.asker);
    let version = route.version;
    let replay = Replay::new(body, &caller.account);
    loop {
        let hop = route.attempts.next(&client.worker, exchange)?;
        exchange.sends();
        if let Some(terms) = &route.terms {
            terms.tell_end(head);
        }
        let sent = {
            let sent =
                pin!(send(&client.worker, &client.workload, caller, &hop, version, head, replay.body()));
            let sent = pin!(within_limits(route.terms.as_deref_mut().and_then(Terms::limits), sent));
            unless_cut(&client.ending.cut, sent).await
        };
        let Some(sent) = sent else {
            // What it was sent to may have begun to work on it.
            exchange.answered(hop.into_load(), Instant::now());
            return Err(exchange.refuse(Reason::HalfClosed, client.why_cut()));
        };
        let failure = match sent {
            Ok(mut response) => {
                let status = response.status();
                if !status.is_success()
                    && !is_denied(exchange, &mut response)
                    && let Again::After(pause) =
                        route.attempts.unwanted(&client.worker, exchange, &hop, status, replay.possible())
                {
                    // Else more of it passes meanwhile, and is not at hand any more.
                    replay.take_back();
                    drop((hop, response));
                    Box::pin(wait(client, exchange, pause)).await?;
                    continue;
                }
                replay.commit();
                give_headers(std::mem::take(&mut head.headers));
                if let Some(terms) = route.terms.take() {
                    terms.conclude(&client.worker.local, &mut response, head.version, &hop);
                }
                route.attempts.succeeded(&client.worker, exchange, hop, status);
                return Ok(response);
            }
            Err(failure) => failure,
        };
        if let Some(terms) = &route.terms {
            terms.note(exchange);
        }
        if let Some((reason, message)) = replay.fault() {
            exchange.attempt_failed(&failure, None);
            return Err(exchange.refuse(reason, message));
        }
        let (idempotent, at_hand) = (is_idempotent(&head.method), replay.possible());
        match route.attempts.failed(&client.worker, exchange, &hop, &failure, idempotent, at_hand) {
            Again::No => return Ok(reply::failed_for(&failure, head.version)),
            Again::Now => {}
            Again::After(pause) => {
                replay.take_back();
                Box::pin(wait(client, exchange, pause)).await?;
            }
        }
    }
}

/// Waits before the next attempt, as long as the client does.
async fn wait(client: &ConnectionContext, exchange: &mut Exchange, pause: Duration) -> Result<(), Refused> {
    let pause = Box::pin(tokio::time::sleep(pause));
    let waited = unless_cut(&client.ending.cut, pin!(pause)).await;
    waited.ok_or_else(|| exchange.refuse(Reason::HalfClosed, client.why_cut()))
}

impl Route {
    /// Looks up where the request goes. Waits only for a service that was never used before.
    pub async fn find(
        worker: &Rc<Worker>,
        source: &LocalWorkload,
        exchange: &mut Exchange,
        head: &mut Parts,
        target: Target,
    ) -> Result<Self, Refused> {
        let (service, port) = match target {
            Target::Outside { place, onward, .. } => {
                let version = AppVersion::of(head.version);
                if onward.tls.is_some() {
                    in_https(head);
                }
                let attempts = Attempts::outside(worker, exchange, &place, onward);
                return Ok(Self { attempts, terms: None, version, preserve_case: false });
            }
            Target::Service { service, port } => (service, port),
        };
        let view = worker.local.view();
        if let Some(Known::Present(config)) = view.snapshot.services.get(&service) {
            return Self::within(worker, source, exchange, &view, config, head, port);
        }
        drop(view);
        // Boxed, as all that is rare: every connection has room for what is not.
        let config = Box::pin(config_of(worker, exchange, &service)).await?;
        Self::within(worker, source, exchange, &worker.local.view(), &config, head, port)
    }

    fn within(
        worker: &Worker,
        source: &LocalWorkload,
        exchange: &mut Exchange,
        view: &View,
        config: &ServiceConfig,
        head: &mut Parts,
        port: u16,
    ) -> Result<Self, Refused> {
        let snapshot = &view.snapshot;
        exchange.decided_on(snapshot.generation);
        let parts = RequestParts {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query(),
            header: |name: &str| header(head, name),
        };
        let namespace = &source.name.namespace;
        let mut session = None;
        let in_session = |entry| {
            session = RequestSession::of(&worker.local, view, entry, head);
            session.as_ref()?.backend()
        };
        let random = || worker.local.random();
        let routed = match decide::request(config, port, namespace, parts, random, in_session) {
            Ok(Routing::To(routed)) => routed,
            Ok(Routing::Redirect(rule, redirect)) => {
                exchange.goes_to(config.name.clone());
                exchange.ruled_by(rule, || Some(decide::redirected(rule, redirect)));
                return Err(exchange.answers(filters::redirect(rule, redirect, head, port)));
            }
            Ok(Routing::Preflight(preflight)) => {
                let (answer, decision) = filters::preflight(&preflight, &head.headers);
                exchange.goes_to(config.name.clone());
                exchange.ruled_by(preflight.rule, || Some(decision));
                return Err(exchange.answers(answer));
            }
            Err(unrouted) => return Err(refuse(exchange, &config.name, *unrouted)),
        };
        let mut terms = None;
        if let Some((rule, backend)) = routed.rule {
            exchange.ruled_by(rule, || routed.decision());
            terms = Terms::of(rule, (backend, routed.asked), &head.headers, exchange.started(), session);
        }
        let version = app_version(head, exchange, routed.spoken);
        let mut attempts = Attempts::at(&worker.local, view, exchange, routed.backend.clone(), routed.port);
        if let Some((rule, _)) = routed.rule {
            attempts.by(rule);
        }
        if let Some(Terms { filters, limits, session, .. }) = terms.as_deref() {
            if let Some(member) = session.as_ref().and_then(|session| session.member()) {
                attempts.stay_with(member.clone());
            }
            if let Some(end) = limits.as_ref().and_then(TimeLimits::end) {
                attempts.ends_at(end);
            }
            if let Some(filters) = filters
                && let Err(problem) = filters.request(head)
            {
                return Err(exchange.refuse(Reason::HeadersTooLarge, problem));
            }
        }
        Ok(Self { attempts, terms, version, preserve_case: routed.spoken.preserve_case })
    }

    /// To a port of a service, whatever its rules say.
    pub fn straight(
        worker: &Worker,
        exchange: &mut Exchange,
        (service, port): (ServiceName, u16),
        head: &Parts,
        spoken: Spoken,
    ) -> Self {
        let attempts = Attempts::at(&worker.local, &worker.local.view(), exchange, service, port);
        let version = app_version(head, exchange, spoken);
        Self { attempts, terms: None, version, preserve_case: spoken.preserve_case }
    }

    /// Has a head that came in HTTP/1 go on as it is `written`, where its port asks for that.
    pub fn spell(&self, head: &mut Parts, written: Option<Written>, asker: &Asker) {
        if self.preserve_case
            && self.version == AppVersion::Http1
            && let Some((backend, port)) = self.attempts.backend()
            && let Some(spelling) = written.and_then(|Written(bytes)| Spelling::of_request(&bytes))
        {
            head.extensions.insert(spelling.asked_by(&backend.name, port));
            asker.keep_letters();
        }
    }
}

/// What is known of a service.
pub(crate) async fn config_of(
    worker: &Worker,
    exchange: &mut Exchange,
    service: &ServiceName,
) -> Result<Arc<ServiceConfig>, Refused> {
    let message = match worker.local.service(service).await {
        Lookup::Present(config) => {
            exchange.waited();
            return Ok(config);
        }
        Lookup::Absent => format!("there is no service {service}"),
        Lookup::Unknown => {
            format!("nothing is known of service {service} yet, and the server did not answer")
        }
    };
    exchange.goes_to(service.clone());
    exchange.decided(|| Decision::unknown_service(service.clone()));
    Err(exchange.refuse(Reason::UnknownService, message))
}

/// A port of a service.
pub(crate) fn port_of<'s>(
    exchange: &mut Exchange,
    config: &'s ServiceConfig,
    port: u16,
    namespace: &str,
) -> Result<&'s PortConfig, Refused> {
    decide::port_of(config, port, namespace).map_err(|unrouted| refuse(exchange, &config.name, *unrouted))
}

fn refuse(exchange: &mut Exchange, service: &ServiceName, unrouted: Unrouted) -> Refused {
    let Unrouted { why, rule, decision, message } = unrouted;
    exchange.goes_to(service.clone());
    match rule {
        Some(rule) => exchange.ruled_by(&rule, || Some(decision)),
        None => exchange.decided(|| decision),
    }
    exchange.refuse(why.into(), message)
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<Cow<'a, str>> {
    // The inner form keeps the host in the URI.
    if name == "host" {
        return head.uri.authority().map(|authority| Cow::Borrowed(authority.as_str()));
    }
    routing::join_values(name, head.headers.get_all(name).iter().map(HeaderValue::as_bytes))
}

/// What to speak in the place of a client that speaks the version of its head.
fn app_version(head: &Parts, exchange: &Exchange, spoken: Spoken) -> AppVersion {
    match AppVersion::declared(spoken.protocol) {
        // gRPC has no other version: whoever serves it at a port that is said to be of HTTP speaks this one, too.
        Some(AppVersion::Http1) if head.version == Version::HTTP_2 && exchange.is_grpc() => AppVersion::Http2,
        Some(declared) => declared,
        None => AppVersion::of(head.version),
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
    let member = match &hop.reach {
        Reach::Plain(_) => {
            return send_plain(&worker.plain, caller, hop.address, version, head, body).await;
        }
        // Boxed, as it is rare.
        Reach::Tls(tls) => {
            let sent = async {
                let origin = worker.origins.of(tls);
                let pool = origin.pool(&worker.plain);
                send_plain(pool, caller, hop.address, version, head, body).await
            };
            return Box::pin(sent).await;
        }
        Reach::HandedOver(load) => {
            let workload = worker.local.hand_over(&load.endpoint)?;
            let peer = source.peer();
            let entrance = Entrance::to(&peer, &workload, hop.address.port());
            return inbound::pass_request(worker, entrance, version, head, body, caller).await;
        }
        Reach::Link(load) => load.member(),
    };
    let more = member.link_headers.of(&member.endpoint, hop.address.port(), version);
    let spelling = head.extensions.get::<Spelling>();
    let question = head.extensions.get::<IsInquiry>().map(|_| (QUESTION, HeaderValue::from_static("1")));
    let end = head.extensions.get::<RequestEnd>().map(|end| end.field());
    let with_more = (spelling.is_some() || question.is_some() || end.is_some()).then(|| {
        let further = spelling.map(Spelling::field).into_iter().chain(question).chain(end);
        more.iter().cloned().chain(further).collect::<Vec<_>>()
    });
    let request = RequestFields::new(head, with_more.as_deref().unwrap_or(&more));
    let mut response = worker.links.request(source, member, &request, body, &caller.asker).await?;
    if let Some(error) = reply::told(&mut response) {
        return Err(error);
    }
    if spelling.is_some() {
        if let Some(spelling) = Spelling::take(response.headers_mut()) {
            response.extensions_mut().insert(spelling);
        }
        response = response.map(Body::spelled);
    }
    let status = response.status();
    headers::normalize_link_response(response.headers_mut(), status);
    Ok(response)
}

/// What is in TLS has the scheme for that, in HTTP/2 (RFC 9113, section 8.3.1).
#[cold]
fn in_https(head: &mut Parts) {
    let mut parts = head.uri.clone().into_parts();
    // CONNECT has none.
    if parts.scheme.is_some() && parts.authority.is_some() {
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        if let Ok(uri) = parts.try_into() {
            head.uri = uri;
        }
    }
}

/// Makes one attempt on a connection of a pool.
async fn send_plain(
    pool: &AppPool,
    caller: &Caller,
    address: SocketAddr,
    version: AppVersion,
    head: &Parts,
    body: Body,
) -> Result<Response<Body>, UpstreamError> {
    let mut response = pool.request(address, version, head, body, caller).await?;
    let status = response.status();
    headers::normalize_response(status, response.headers_mut())
        .map_err(|problem| UpstreamError::bad_answer(problem.0))?;
    Ok(response)
}
