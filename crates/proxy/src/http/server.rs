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
use http::{Method, Response, StatusCode, Version, request};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::Known;

use crate::access_log::Outline;
use crate::budget::Account;
use crate::http::asker::{Asker, Caller};
use crate::http::body::Body;
use crate::http::forward::{self, Call, Refusal, Target};
use crate::http::headers::Malformed;
use crate::http::http1::server::Owner;
use crate::http::record::{self, Awaited, Outcome, Record};
use crate::http::reply::{self, reply};
use crate::http::serve_http1::{self, Ended};
use crate::http::spelling::Written;
use crate::http::upgrade::{self, Leaving};
use crate::http::{egress, headers, max_forwards, serve_http2};
use crate::metrics::{Destination, Protocol};
use crate::reason::{Reason, Verdict};
use crate::state::LocalWorkload;
use crate::tcp::Downstream;
use crate::uri::LastAuthority;
use crate::worker::Worker;

/// Takes what comes out of a client's tunnel as a connection of its own to that port of that service.
pub type Enter =
    fn(Rc<Worker>, Arc<LocalWorkload>, Downstream, ServiceName, u16) -> LocalBoxFuture<'static, ()>;

/// Where the requests of an HTTP connection go.
#[derive(Clone)]
pub enum HttpDestination {
    /// The connection was made to that port of that service, whatever the requests' authority says.
    Service { service: ServiceName, port: u16 },
    /// The client takes us for an HTTP proxy: each request says where it goes, and what it tunnels enters anew.
    Proxy(Enter),
}

/// What the requests of one connection share.
pub(super) struct Connection {
    pub worker: Rc<Worker>,
    pub source: Arc<LocalWorkload>,
    destination: HttpDestination,
    /// What this worker has taken for the source.
    pub account: Rc<Account>,
    /// Where the last request of an explicit proxy's client went.
    asked: RefCell<Option<(ServiceName, u16)>>,
    /// What the last request named as its host.
    named: LastAuthority,
    /// Its client, of HTTP/1, has closed its side and was let go.
    pub cut: Cell<bool>,
    /// What is dropped now is counted already, or for nothing that its client did.
    pub counted: Cell<bool>,
}

impl Connection {
    /// Where its requests go, as far as the connection tells.
    pub(super) fn destination(&self) -> Destination {
        match &self.destination {
            HttpDestination::Service { service, .. } => Destination::Service(service.clone()),
            HttpDestination::Proxy(_) => Destination::Unknown,
        }
    }

    /// Counts and logs a request that was refused before it was read whole.
    pub fn unread(&self, reason: Reason, outline: Outline) {
        record::unread(&self.worker, &self.source, &self.destination(), reason, outline);
    }

    /// Counts a connection that was refused as it does not speak HTTP.
    pub fn not_http(&self) {
        let destination = self.destination();
        record::count_unsent(&self.worker, &self.source, &destination, Protocol::Tcp, None, Verdict::Refused);
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
        let destination = self.port().map_or(Destination::External, |(service, _)| service.into());
        record::unread(&self.worker, &self.source, &destination, Reason::HalfClosed, outline);
        reply(Reason::HalfClosed, &self.why_cut())
    }

    /// The port that its last request was for; `None` where that was outside of the mesh.
    fn port(&self) -> Option<(ServiceName, u16)> {
        match &self.destination {
            HttpDestination::Service { service, port } => Some((service.clone(), *port)),
            HttpDestination::Proxy(_) => self.asked.borrow().clone(),
        }
    }
}

impl Owner for Connection {
    fn half_close(&self) -> Duration {
        let state = self.worker.local.state.load();
        let settings = self.port().and_then(|(service, port)| match state.snapshot.services.get(&service) {
            Some(Known::Present(config)) => config.port(port).map(|port| port.http1),
            _ => None,
        });
        settings.unwrap_or_default().half_close
    }

    fn cut(&self) {
        self.cut.set(true);
    }
}

/// Serves one connection (HTTP/1 or HTTP/2 by its preface), of which `first` was read already, until it
/// ends. Stops gracefully when `worker.local.drain` starts.
pub async fn serve(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    io: Downstream,
    first: Vec<u8>,
    destination: HttpDestination,
) {
    let account = worker.local.account(&source.name);
    let cx = Rc::new(Connection {
        worker,
        source,
        destination,
        account,
        asked: RefCell::default(),
        named: LastAuthority::default(),
        cut: Cell::new(false),
        counted: Cell::new(false),
    });
    match serve_http1::serve(&cx, io, first).await {
        Ended::Closed => {}
        Ended::Http2(io, first) => Box::pin(serve_http2::serve(cx, io, first.into())).await,
    }
}

/// What comes of it, unless the client is let go before ([`Connection::cut`]).
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
pub(super) async fn answer(
    cx: &Rc<Connection>,
    head: &mut request::Parts,
    mut body: Body,
    written: Option<Written>,
    leaving: Option<Leaving>,
    asker: Asker,
) -> Response<Body> {
    let version = head.version;
    let mut on_upgrade = leaving.and_then(|leaving| upgrade::wanted(head, leaving));
    let tunnels = match cx.destination {
        HttpDestination::Proxy(enter) => Some(enter),
        HttpDestination::Service { .. } => None,
    };
    let explicit = tunnels.is_some();
    // Before the head is brought into the inner form, in which one cannot tell any longer.
    let names_destination = head.uri.authority().is_some();
    let fallback = || match &cx.destination {
        HttpDestination::Service { service, port } => {
            format!("{}.{}:{port}", service.name, service.namespace)
        }
        HttpDestination::Proxy(_) => String::new(),
    };
    let secure = explicit && head.uri.scheme() == Some(&http::uri::Scheme::HTTPS);
    let checked = match headers::normalize_request(head, &cx.named, fallback) {
        Ok(()) if secure => Err(Malformed("for https the proxy is to be asked for a tunnel (CONNECT)")),
        checked => checked.and_then(|()| max_forwards::count(head)),
    };
    let record = Record::begin(cx, head);
    let awaited = Awaited::begin(cx, &record);
    let outcome = match checked {
        Err(problem) => {
            let message = problem.0.to_owned();
            Err(Refusal::new(Reason::BadRequest, message, cx.destination()).into_answer())
        }
        Ok(true) => Err((Outcome::unsent(cx.destination(), Reason::MaxForwards), max_forwards::answer(head))),
        Ok(false) => {
            if explicit {
                headers::strip_proxy_only(&mut head.headers);
            }
            target(cx, head, names_destination).await.map_err(Refusal::into_answer)
        }
    };
    let (mut outcome, mut response) = match outcome {
        Err(answer) => answer,
        Ok(target)
            if head.method == Method::CONNECT
                && let (Some(enter), Some(wish)) = (tunnels, on_upgrade.take_if(|_| explicit)) =>
        {
            let opened = Box::pin(upgrade::tunnel(&cx.worker, &cx.source, target, wish, enter)).await;
            match opened {
                Ok(answer) => {
                    awaited.answered();
                    return answer;
                }
                Err(refusal) => refusal.into_answer(),
            }
        }
        Ok(target) => {
            if explicit {
                *cx.asked.borrow_mut() = match &target {
                    Target::Service { service, port } => Some((service.clone(), *port)),
                    Target::Outside { .. } => None,
                };
            }
            if version == Version::HTTP_10 {
                // It cannot be waiting for an interim answer (RFC 9110, section 10.1.1).
                head.headers.remove(http::header::EXPECT);
            }
            let caller = Caller { account: cx.account.clone(), asker };
            record.watch(&mut body);
            let call = Call { head, body, target, caller: &caller, written };
            match on_upgrade {
                // Boxed, as all that is rare: every connection has room for what is not.
                Some(wish) => Box::pin(upgrade::forward(cx, &record, call, wish)).await,
                None => forward::forward(cx, &record, call).await,
            }
        }
    };
    awaited.answered();
    if outcome.reason.is_some() {
        if let Some((reason, message)) = record.fault() {
            // It failed for what the client sent, whatever it looked like further up.
            (outcome.reason, response) = (Some(reason), reply(reason, message));
        }
        if record.is_grpc() {
            response = reply::for_grpc(response);
        }
    }
    *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        headers::offer_upgrade(version, response.headers_mut());
    }
    record.finish(&cx.worker, &cx.source, outcome, &mut response);
    response
}

/// Answers a request that nothing is done for, and records it as others.
pub(super) fn decline(
    cx: &Rc<Connection>,
    head: request::Parts,
    reason: Reason,
    message: &str,
) -> Response<Body> {
    let record = Record::begin(cx, &head);
    let (outcome, response) = Refusal::new(reason, message.to_owned(), cx.destination()).into_answer();
    let mut response = if record.is_grpc() { reply::for_grpc(response) } else { response };
    record.finish(&cx.worker, &cx.source, outcome, &mut response);
    response
}

async fn target(cx: &Connection, head: &request::Parts, names_destination: bool) -> Result<Target, Refusal> {
    let refuse = |reason, message: &str| Err(Refusal::new(reason, message.to_owned(), Destination::Unknown));
    match &cx.destination {
        HttpDestination::Service { service, port } => {
            Ok(Target::Service { service: service.clone(), port: *port })
        }
        HttpDestination::Proxy(_) if !names_destination => {
            refuse(Reason::BadRequest, "this is an HTTP proxy: the request target must be an absolute URI")
        }
        HttpDestination::Proxy(_) => {
            let Some(authority) = head.uri.authority() else {
                return refuse(Reason::BadRequest, "the request does not say what host it is for");
            };
            Box::pin(egress::destination(&cx.worker, &cx.source, authority)).await
        }
    }
}
