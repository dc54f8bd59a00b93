//! Serves the HTTP connections of this node's workloads.
//!
//! A connection lives as long as its client likes, idle or not. It is closed when the client is slow to
//! finish the head of a request that it began, when it has closed its side and does not take the answer,
//! or when the worker drains, after what is in flight.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Method, Response, StatusCode, Version, request};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::Known;

use crate::access_log::{Asked, Outline};
use crate::budget::Account;
use crate::exchange::{ConnectionEnd, Exchange, Refused};
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::deliver::deliver;
use crate::http::forward::{self, Message, Route, Target};
use crate::http::headers::AppVersion;
use crate::http::headers::MalformedHead;
use crate::http::http1::server::Owner;
use crate::http::record::{protocol_of, record, watch};
use crate::http::reply::{self, reply};
use crate::http::serve_http1::{self, Http1End};
use crate::http::spelling::Written;
use crate::http::upgrade::{self, Leaving, Passing, Wish};
use crate::http::{egress, headers, max_forwards, serve_http2};
use crate::inbound::Arrival;
use crate::mesh_headers::REASON;
use crate::metrics::{DestinationName, Protocol};
use crate::outside::{OutsidePlace, WasShown, Withdrawal};
use crate::reason::{Reason, Verdict};
use crate::state::LocalWorkload;
use crate::tcp::Downstream;
use crate::uri::LastAuthority;
use crate::worker::Worker;

/// Takes what comes out of a client's tunnel as a connection of its own to where that leads.
pub type Enter = fn(Rc<Worker>, Arc<LocalWorkload>, Downstream, TunnelEnd) -> LocalBoxFuture<'static, ()>;

/// Where a client's tunnel leads.
pub enum TunnelEnd {
    Service {
        service: ServiceName,
        port: u16,
    },
    /// Out of the mesh, where what is inside decides whether it may.
    Outside(Rc<OutsidePlace>),
}

/// Where the requests of an HTTP connection go.
#[derive(Clone)]
pub enum HttpDestination {
    /// The connection was made to that port of that service, whatever the requests' authority says.
    Service { service: ServiceName, port: u16 },
    /// The connection leaves the mesh, as far as each request may.
    Outside(Rc<OutsidePlace>),
    /// The client takes us for an HTTP proxy: each request says where it goes, and what it tunnels enters anew.
    Proxy(Enter),
    /// The requests are those of an application within this process: each says where it goes.
    Own {
        /// In TLS outside of the mesh (`https`).
        secure: bool,
    },
    /// The connection came for a workload of this node.
    Workload(Box<Arrival>),
}

/// What the requests of one connection share.
pub(super) struct ConnectionContext {
    pub worker: Rc<Worker>,
    /// The workload of this node whose connection it is, or that it came for.
    pub workload: Arc<LocalWorkload>,
    destination: HttpDestination,
    /// What this worker has taken for who pays.
    pub account: Rc<Account>,
    /// Where the last request of an explicit proxy's client went.
    asked: RefCell<Option<(ServiceName, u16)>>,
    /// What the last request named as its host.
    named: LastAuthority,
    /// What is known of its end.
    pub ending: Rc<ConnectionEnd>,
}

impl ConnectionContext {
    pub(super) fn new(
        worker: Rc<Worker>,
        workload: Arc<LocalWorkload>,
        destination: HttpDestination,
    ) -> Self {
        let account = match &destination {
            HttpDestination::Workload(arrival) => arrival.account.clone(),
            HttpDestination::Service { .. }
            | HttpDestination::Outside(_)
            | HttpDestination::Proxy(_)
            | HttpDestination::Own { .. } => worker.local.account(&workload),
        };
        Self {
            worker,
            workload,
            destination,
            account,
            asked: RefCell::default(),
            named: LastAuthority::default(),
            ending: Rc::default(),
        }
    }

    /// Where its requests go, as far as the connection tells.
    pub(super) fn destination(&self) -> DestinationName {
        match &self.destination {
            HttpDestination::Service { service, .. } => DestinationName::Service(service.clone()),
            HttpDestination::Outside(_) => DestinationName::External,
            HttpDestination::Proxy(_) | HttpDestination::Own { .. } => DestinationName::Unknown,
            HttpDestination::Workload(_) => self.workload.service_name().into(),
        }
    }

    /// One of its requests begins.
    fn begin(
        &self,
        protocol: Protocol,
        destination: DestinationName,
        asked: impl FnOnce() -> Asked,
    ) -> Exchange {
        let local = &self.worker.local;
        let HttpDestination::Workload(arrival) = &self.destination else {
            return Exchange::begin(local, &self.workload, protocol, destination, asked);
        };
        let mut exchange = *Exchange::arrive(local, &arrival.peer, protocol, asked);
        exchange.is_for(&self.workload, arrival.port);
        exchange
    }

    /// Counts and logs a request that was refused before it was read whole.
    pub fn unread(&self, reason: Reason, outline: Outline) {
        self.turn_away(self.destination(), reason, outline);
    }

    fn turn_away(&self, destination: DestinationName, reason: Reason, outline: Outline) {
        let asked = || Asked::Part(outline);
        let mut exchange = self.begin(Protocol::Http, destination, asked);
        exchange.refuse(reason, "");
        exchange.turned_away(reason.verdict(), Some(reason.status().as_u16()));
    }

    /// Counts a connection that was refused as it does not speak HTTP.
    pub fn not_http(&self) {
        let asked = || Asked::Part(Outline::default());
        self.begin(Protocol::Tcp, self.destination(), asked).turned_away(Verdict::Refused, None);
    }

    /// Why a client was let go, for people.
    #[cold]
    pub fn why_cut(&self) -> String {
        format!(
            "the client closed its side, and there was no answer within {:?} (tulle.dev/half-close-timeout)",
            self.half_close()
        )
    }

    /// Counts and logs a request whose client was let go before any of it was sent anywhere, and answers it.
    #[cold]
    pub fn let_go(&self, outline: Outline) -> Response<Body> {
        let destination = self.port().map_or(DestinationName::External, |(service, _)| service.into());
        self.turn_away(destination, Reason::HalfClosed, outline);
        reply(Reason::HalfClosed, &self.why_cut())
    }

    /// How what its clients tunnel enters anew, where it is an explicit proxy's.
    fn enter(&self) -> Option<Enter> {
        match self.destination {
            HttpDestination::Proxy(enter) => Some(enter),
            HttpDestination::Service { .. }
            | HttpDestination::Outside(_)
            | HttpDestination::Own { .. }
            | HttpDestination::Workload(_) => None,
        }
    }

    /// Keeps where a request of an explicit proxy's client goes.
    fn remember(&self, target: &Target) {
        if self.enter().is_some() {
            *self.asked.borrow_mut() = match target {
                Target::Service { service, port } => Some((service.clone(), *port)),
                Target::Outside { .. } => None,
            };
        }
    }

    /// The port that its last request was for; `None` where that was outside of the mesh.
    fn port(&self) -> Option<(ServiceName, u16)> {
        match &self.destination {
            HttpDestination::Service { service, port } => Some((service.clone(), *port)),
            HttpDestination::Proxy(_) => self.asked.borrow().clone(),
            HttpDestination::Outside(_) | HttpDestination::Own { .. } | HttpDestination::Workload(_) => None,
        }
    }
}

impl Owner for ConnectionContext {
    fn half_close(&self) -> Duration {
        let view = self.worker.local.view();
        let settings = self.port().and_then(|(service, port)| match view.snapshot.services.get(&service) {
            Some(Known::Present(config)) => config.port(port).map(|port| port.http1),
            _ => None,
        });
        settings.unwrap_or_default().half_close
    }

    fn cut(&self) {
        self.ending.cut.set(true);
    }
}

/// Serves one connection (HTTP/1 or HTTP/2 by its preface), of which `first` was read already, until it
/// ends. Stops gracefully when `worker.local.drain` starts.
pub async fn serve(
    worker: Rc<Worker>,
    workload: Arc<LocalWorkload>,
    io: Downstream,
    first: Vec<u8>,
    destination: HttpDestination,
) {
    let cx = Rc::new(ConnectionContext::new(worker, workload, destination));
    match serve_http1::serve(&cx, io, first).await {
        Http1End::Closed => {}
        Http1End::Http2(io, first) => Box::pin(serve_http2::serve(cx, io, first.into())).await,
    }
}

/// What comes of it, unless the client is let go before ([`ConnectionEnd::cut`]).
pub(super) fn unless_cut<T>(
    cut: &Cell<bool>,
    mut awaited: Pin<&mut impl Future<Output = T>>,
) -> impl Future<Output = Option<T>> {
    poll_fn(move |task| match awaited.as_mut().poll(task) {
        Poll::Pending if cut.get() => Poll::Ready(None),
        polled => polled.map(Some),
    })
}

/// Answers one request. Its head stays with the caller, as it is large and would be copied from hand to hand; it is
/// brought into the inner form, and of no use afterwards. `written`: it as it came, in HTTP/1. `leaving`: how to leave
/// HTTP, where the request can ask for that.
///
/// Each phase of a request is a function, in this order; ARCHITECTURE.md has the picture.
pub(super) async fn answer(
    cx: &Rc<ConnectionContext>,
    head: &mut request::Parts,
    mut body: Body,
    written: Option<Written>,
    leaving: Option<Leaving>,
    asker: Asker,
) -> Response<Body> {
    let version = head.version;
    let normal = normalize(cx, head, leaving);
    let mut exchange = begin(cx, head);
    let mut passing = None;
    let answered = match normal {
        Err(problem) => Err(exchange.refuse(Reason::BadRequest, problem.0)),
        Ok(Normal { last_hop: true, .. }) => {
            exchange.refuse(Reason::MaxForwards, "");
            Ok(max_forwards::answer(head))
        }
        Ok(normal) if let HttpDestination::Workload(arrival) = &cx.destination => {
            filter_request(cx, head, version);
            if exchange.is_read() {
                watch(&mut exchange, &mut body);
            }
            let caller = Caller { account: cx.account.clone(), asker };
            let message = Message { head, body, written };
            let delivered =
                deliver(cx, arrival, &mut exchange, message, &caller, normal.wish, AppVersion::of(version));
            let (response, switched) = Box::pin(delivered).await;
            passing = switched;
            Ok(response)
        }
        Ok(normal) => match target(cx, &mut exchange, head, &normal).await {
            Err(refused) => Err(refused),
            Ok(target) => match normal.wish {
                Some(wish)
                    if head.method == Method::CONNECT
                        && let Some(enter) = cx.enter() =>
                {
                    let tunnel =
                        upgrade::tunnel(&cx.worker, &cx.workload, Box::new(exchange), target, wish, enter);
                    match Box::pin(tunnel).await {
                        Ok(answer) => return answer,
                        Err(refused) => {
                            exchange = *refused;
                            exchange.counts_as(Protocol::Http);
                            Err(Refused)
                        }
                    }
                }
                wish => {
                    cx.remember(&target);
                    filter_request(cx, head, version);
                    watch(&mut exchange, &mut body);
                    let caller = Caller { account: cx.account.clone(), asker };
                    let message = Message { head, body, written };
                    match wish {
                        None if !matches!(target, Target::Outside { .. }) => {
                            match Route::find(&cx.worker, &cx.workload, &mut exchange, message.head, target)
                                .await
                            {
                                Ok(mut route) => {
                                    forward::forward(cx, &mut exchange, message, &mut route, &caller).await
                                }
                                Err(refused) => Err(refused),
                            }
                        }
                        // Boxed, as all that is rare: every connection has room for what is not.
                        wish => {
                            let rare = rare(cx, &mut exchange, message, target, &caller, wish);
                            Box::pin(rare).await.map(|(response, switched)| {
                                passing = switched;
                                response
                            })
                        }
                    }
                }
            },
        },
    };
    let mut response = filter_response(&mut exchange, answered, version);
    match passing {
        Some(passing) => passing.begin(&cx.worker, exchange, response.status()),
        None => record(exchange, &mut response),
    }
    response
}

/// Answers a request that leaves HTTP, or the mesh.
async fn rare(
    cx: &Rc<ConnectionContext>,
    exchange: &mut Exchange,
    message: Message<'_>,
    target: Target,
    caller: &Caller,
    wish: Option<Wish>,
) -> Result<(Response<Body>, Option<Box<Passing>>), Refused> {
    let Target::Outside { place, onward, .. } = &target else {
        return pass_on(cx, exchange, message, target, caller, wish).await;
    };
    // It is out there for as long as it may.
    let (worker, source) = (&cx.worker, &cx.workload);
    let shown = WasShown::request(&worker.local.view().snapshot, source, place, message.head);
    let mut withdrawal = Withdrawal::of(&worker.local, source, place.clone(), shown, onward.as_listed());
    let answered = pass_on(cx, exchange, message, target, caller, wish);
    match withdrawal.unless_withdrawn(answered).await {
        Ok(Ok((response, Some(passing)))) => Ok((response, Some(Box::new(passing.until(withdrawal))))),
        Ok(Ok((mut response, None))) => {
            response.body_mut().watch_as(None, withdrawal);
            Ok((response, None))
        }
        Ok(Err(refused)) => Err(refused),
        Err(withdrawn) => Err(exchange.refuse(Reason::Withdrawn, withdrawn.to_string())),
    }
}

async fn pass_on(
    cx: &Rc<ConnectionContext>,
    exchange: &mut Exchange,
    message: Message<'_>,
    target: Target,
    caller: &Caller,
    wish: Option<Wish>,
) -> Result<(Response<Body>, Option<Box<Passing>>), Refused> {
    let Some(wish) = wish else {
        let mut route = Route::find(&cx.worker, &cx.workload, exchange, message.head, target).await?;
        return Ok((forward::forward(cx, exchange, message, &mut route, caller).await?, None));
    };
    upgrade::forward(cx, exchange, message, target, caller, wish).await
}

/// What is known of a request besides its inner form.
struct Normal {
    /// It wants to leave HTTP.
    wish: Option<Wish>,
    /// It says itself where it goes.
    names_destination: bool,
    /// It wants to go no further.
    last_hop: bool,
}

/// Brings the head into the inner form.
fn normalize(
    cx: &ConnectionContext,
    head: &mut request::Parts,
    leaving: Option<Leaving>,
) -> Result<Normal, MalformedHead> {
    // What can be told before that alone.
    let wish = leaving.and_then(|leaving| upgrade::wanted(head, leaving));
    let names_destination = head.uri.authority().is_some();
    let fallback = || match &cx.destination {
        HttpDestination::Service { service, port } => {
            format!("{}.{}:{port}", service.name, service.namespace)
        }
        HttpDestination::Outside(place) => place.authority(),
        HttpDestination::Proxy(_) | HttpDestination::Own { .. } => String::new(),
        HttpDestination::Workload(arrival) => {
            format!("{}.{}:{}", cx.workload.service, cx.workload.name.namespace, arrival.port)
        }
    };
    let secure = cx.enter().is_some() && head.uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    headers::normalize_request(head, &cx.named, fallback)?;
    if secure {
        return Err(MalformedHead("for https the proxy is to be asked for a tunnel (CONNECT)"));
    }
    Ok(Normal { wish, names_destination, last_hop: max_forwards::count(head)? })
}

fn begin(cx: &Rc<ConnectionContext>, head: &request::Parts) -> Exchange {
    cx.begin(protocol_of(&head.headers), cx.destination(), || Asked::of(head)).of_client(&cx.ending)
}

/// Where the request goes, as far as it says itself, if the mesh lets it.
async fn target(
    cx: &ConnectionContext,
    exchange: &mut Exchange,
    head: &request::Parts,
    normal: &Normal,
) -> Result<Target, Refused> {
    if let HttpDestination::Service { service, port } = &cx.destination {
        return Ok(Target::Service { service: service.clone(), port: *port });
    }
    if let HttpDestination::Outside(place) = &cx.destination {
        return egress::listed(cx, exchange, head, place);
    }
    if !normal.names_destination {
        let message = "this is an HTTP proxy: the request target must be an absolute URI";
        return Err(exchange.refuse(Reason::BadRequest, message));
    }
    let Some(authority) = head.uri.authority() else {
        return Err(exchange.refuse(Reason::BadRequest, "the request does not say what host it is for"));
    };
    let secure = matches!(cx.destination, HttpDestination::Own { secure: true });
    Box::pin(egress::destination(&cx.worker, exchange, &cx.workload, head, (authority, secure))).await
}

/// Takes away what was for this proxy alone.
fn filter_request(cx: &ConnectionContext, head: &mut request::Parts, version: Version) {
    if cx.enter().is_some() {
        headers::strip_proxy_only(&mut head.headers);
    }
    if version == Version::HTTP_10 {
        // It cannot be waiting for an interim answer (RFC 9110, section 10.1.1).
        head.headers.remove(http::header::EXPECT);
    }
}

/// Brings the answer into the form that its client understands.
pub(super) fn filter_response(
    exchange: &mut Exchange,
    answered: Result<Response<Body>, Refused>,
    version: Version,
) -> Response<Body> {
    let mut response = match (answered, exchange.reason()) {
        (Ok(response), _) => response,
        (Err(Refused), reason) => match exchange.take_answer() {
            Some(answer) => answer.map(|()| Body::empty()),
            None => {
                let mut answer = reply(reason.unwrap_or(Reason::BadRequest), exchange.message());
                if let Some(word) = exchange.take_word().and_then(|word| HeaderValue::try_from(&*word).ok()) {
                    answer.headers_mut().insert(REASON, word);
                }
                answer
            }
        },
    };
    if exchange.reason().is_some() {
        if let Some((reason, message)) = exchange.fault() {
            // It failed for what the client sent, whatever it looked like further up.
            exchange.refuse(reason, message);
            response = reply(reason, message);
        }
        if exchange.is_grpc() {
            response = reply::for_grpc(response);
        }
    }
    *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        headers::offer_upgrade(version, response.headers_mut());
    }
    response
}

/// Answers a request that nothing is done for, and records it as others.
pub(super) fn decline(
    cx: &Rc<ConnectionContext>,
    head: &request::Parts,
    reason: Reason,
    message: &str,
) -> Response<Body> {
    let mut exchange = begin(cx, head);
    let refused = exchange.refuse(reason, message);
    let mut response = filter_response(&mut exchange, Err(refused), head.version);
    record(exchange, &mut response);
    response
}
