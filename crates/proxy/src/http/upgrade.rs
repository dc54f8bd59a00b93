//! Connections that leave HTTP: upgrades such as WebSocket, and the tunnels of an explicit proxy.
//!
//! An upgrade is a request like others until the application accepts it, so it is routed like them. The node of the
//! application speaks it ([`switch`](super::switch)): this one, or the one at the other end of a link, which it reaches as
//! an extended CONNECT ([`link_upgrade`](super::link_upgrade)). Then bytes pass both ways, each way closed by itself.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tulle_model::snapshot::Carried;

use crate::attempts::Again;
use crate::budget::{Account, Seat};
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::exchange::{Exchange, Refused};
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::forward::{Message, Route, Target, Terms, config_of, port_of};
use crate::http::headers::{self, AppVersion};
use crate::http::limits::within_limits;
use crate::http::link_upgrade::{self, Question};
use crate::http::reply;
use crate::http::server::{self, Enter, TunnelEnd, unless_cut};
use crate::http::switch::{self, Form, Switched, Switching};
use crate::http2::{ConnectProtocol, Tunnel};
use crate::opaque::{self, Opened};
use crate::outside::{WasShown, Withdrawable, Withdrawal};
use crate::reach::{Hop, Reach};
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::tcp::{self, Downstream, Duplex, Replayed};
use crate::worker::Worker;

/// How long the client's side may take to be handed over once its answer was given.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(30);

/// How a client's connection or stream is had once its answer was given.
pub(super) enum Leaving {
    /// The connection, and what was read of it after the request.
    Http1(oneshot::Receiver<(Downstream, BytesMut)>),
    Http2(oneshot::Receiver<Tunnel>),
}

/// A client's wish to leave HTTP.
pub(super) struct Wish {
    pub client: Leaving,
    pub form: Form,
}

/// What the client wishes, if it does. To be asked before hop-by-hop headers are removed.
pub(super) fn wanted(head: &Parts, client: Leaving) -> Option<Wish> {
    let form = if head.method == Method::CONNECT {
        match head.extensions.get::<ConnectProtocol>() {
            Some(ConnectProtocol(name)) => {
                Form::Extended(String::from_utf8_lossy(name.as_bytes()).into_owned())
            }
            None => Form::Connect,
        }
    } else if head.version == Version::HTTP_11 {
        Form::Upgrade(headers::wanted_upgrade(&head.headers)?)
    } else {
        return None;
    };
    Some(Wish { client, form })
}

/// Answers a request that wishes to leave HTTP. With the answer that grants it comes what passes then.
pub(super) async fn forward(
    client: &server::ConnectionContext,
    exchange: &mut Exchange,
    message: Message<'_>,
    target: Target,
    caller: &Caller,
    wish: Wish,
) -> Result<(Response<Body>, Option<Box<Passing>>), Refused> {
    let (worker, source) = (&client.worker, &client.workload);
    let Message { head, mut body, written } = message;
    let version = head.version;
    if let Err(problem) = wish.form.rewrite(head) {
        exchange.goes_to(target.destination());
        return Err(exchange.refuse(Reason::Unsupported, problem));
    }
    let mut route = Route::find(worker, source, exchange, head, target).await?;
    route.spell(head, written, &caller.asker);
    if route.version == AppVersion::Http2 && !matches!(wish.form, Form::Extended(_)) {
        let message = "the application speaks HTTP/2, which has no such upgrade";
        return Err(exchange.refuse(Reason::Unsupported, message));
    }
    let end = route.attempts.bound();
    let (hop, asked) = loop {
        let hop = route.attempts.next(worker, exchange)?;
        let asked = {
            let attempt = Attempt { worker, source, hop: &hop, exchange, caller, end };
            let asked = pin!(ask(&attempt, route.version, (head, &mut body), &wish.form));
            let asked = pin!(within_limits(route.terms.as_deref_mut().and_then(Terms::limits), asked));
            unless_cut(&client.ending.cut, asked).await
        };
        match asked {
            // Only where nothing has been sent yet.
            Some(Err(error)) if error.safe_to_retry => {
                if let Some(terms) = &route.terms {
                    terms.note(exchange);
                }
                match route.attempts.failed(worker, exchange, &hop, &error, false, true) {
                    Again::No => return Ok((reply::failed_for(&error, version), None)),
                    Again::Now => {}
                    Again::After(pause) => sleep(pause).await,
                }
            }
            asked => break (hop, asked),
        }
    };
    let Some(asked) = asked else {
        exchange.answered(hop.into_load(), Instant::now());
        return Err(exchange.refuse(Reason::HalfClosed, client.why_cut()));
    };
    match asked {
        Ok(Switching::Answered(mut response)) => {
            if let Some(terms) = route.terms {
                terms.conclude(&worker.local, &mut response, version, &hop);
            }
            route.attempts.succeeded(worker, exchange, hop, response.status());
            Ok((response, None))
        }
        Ok(Switching::Switched(Switched { mut head, io, held })) => {
            if let Some(terms) = route.terms {
                terms.filter(&worker.local, &mut head.headers, &hop);
            }
            route.attempts.succeeded(worker, exchange, hop, head.status);
            let passing = Passing { client: wish.client, io, held, account: caller.account.clone() };
            Ok((Response::from_parts(head, Body::empty()), Some(Box::new(passing))))
        }
        Err(error) => {
            if let Some(terms) = &route.terms {
                terms.note(exchange);
            }
            // What was sent is not at hand any more.
            route.attempts.failed(worker, exchange, &hop, &error, false, false);
            exchange.answered(hop.into_load(), Instant::now());
            if error.kind == UpstreamErrorKind::Unsupported {
                return Err(exchange.refuse(Reason::Unsupported, error.message));
            }
            Ok((reply::failed_for(&error, version), None))
        }
    }
}

/// What an attempt is made with.
struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    source: &'a LocalWorkload,
    hop: &'a Hop,
    exchange: &'a Exchange,
    caller: &'a Caller,
    /// When the connection has to be there.
    end: Instant,
}

/// Asks the application of one endpoint, or has its node ask it.
async fn ask(
    attempt: &Attempt<'_>,
    version: AppVersion,
    (head, body): (&mut Parts, &mut Body),
    form: &Form,
) -> Result<Switching, UpstreamError> {
    let &Attempt { worker, source, hop, exchange, caller, end } = attempt;
    if let Reach::Link(load) = &hop.reach
        && let Some(question) = Question::of(form, head, body)
    {
        let member = load.member();
        let stream = worker.links.stream(source, member).await?;
        if stream.takes_upgrades() {
            let headers = member.link_headers.of(&member.endpoint, hop.address.port(), version);
            let question = question.with(&headers, &head.extensions);
            exchange.sends();
            let (head, sender, receiver) =
                stream.upgrade(&worker.local, &question.head(head), caller).await?;
            return link_upgrade::answered(head, sender, receiver, form);
        }
    }
    let open = async |head: &mut Parts| {
        let opened = hop.connect(worker, source, &caller.account, Some(head), end).await?;
        exchange.sends();
        Ok(opened)
    };
    switch::ask(worker, open, version, head, body, form, caller).await
}

/// An application that has left HTTP, and the client that will have when it has the answer.
pub(super) struct Passing {
    pub client: Leaving,
    pub io: Box<dyn Duplex>,
    pub held: Option<Seat>,
    pub account: Rc<Account>,
}

impl Passing {
    /// Has it end when it may not be outside of the mesh any longer.
    pub fn until(self, withdrawal: Withdrawal) -> Self {
        Self { io: Box::new(Withdrawable::new(withdrawal, self.io)), ..self }
    }

    /// Lets the bytes pass, once the client has its answer, which has that status.
    pub fn begin(self, worker: &Rc<Worker>, mut exchange: Exchange, status: StatusCode) {
        let Self { client, mut io, held, account } = self;
        exchange.leaves_client();
        exchange.switched(status);
        worker.local.connections.spawn_local(async move {
            let Some(mut client) = client.client().await else { return };
            let passed = |way, bytes| exchange.bytes(way, bytes);
            let ended = tcp::copy(&mut client, &mut io, &account, passed).await;
            exchange.ended_with(&ended);
            if let Err(error) = ended {
                tracing::debug!("upgraded connection ended: {error}");
            }
            drop(held);
        });
    }
}

/// Opens the tunnel that the client of an explicit proxy asked for. A success says that there is a connection (RFC
/// 9110, section 9.3.6), as far as that can be said before anything has come from the client: on a port that carries
/// HTTP, or may do so, what the client speaks inside is looked at first, as on a connection of its own.
///
/// What comes back is the exchange of a tunnel that is not opened, and says why.
pub(super) async fn tunnel(
    worker: &Rc<Worker>,
    source: &Arc<LocalWorkload>,
    mut exchange: Box<Exchange>,
    target: Target,
    wish: Wish,
    enter: Enter,
) -> Result<Response<Body>, Box<Exchange>> {
    let inside = match target {
        Target::Outside { place, carries: true, .. } => {
            // As with a port that may carry HTTP.
            exchange.forget();
            Inside::Any(TunnelEnd::Outside(place))
        }
        Target::Outside { place, carries: false, onward } => {
            let opened = opaque::open_outside(worker, source, exchange, &place, onward.clone()).await?;
            let withdrawal = Withdrawal::of(&worker.local, source, place, WasShown::Bytes, onward);
            Inside::Outside(opened, withdrawal)
        }
        Target::Service { service, port } => {
            let Ok(config) = config_of(worker, &mut exchange, &service).await else { return Err(exchange) };
            let Ok(own) = port_of(&mut exchange, &config, port, &source.name.namespace) else {
                return Err(exchange);
            };
            match own.declared() {
                // On others it is what the client says that decides.
                Some(Carried::Bytes) if own.tls_routes.is_empty() => {
                    Inside::Bytes(opaque::open(worker, source, exchange, &config, port, None).await?)
                }
                _ => {
                    // What comes out of it is counted.
                    exchange.forget();
                    Inside::Any(TunnelEnd::Service { service, port })
                }
            }
        }
    };
    let (tracked, worker, source) = (worker.clone(), worker.clone(), source.clone());
    tracked.local.connections.spawn_local(async move {
        let Some(client) = wish.client.client().await else { return };
        match inside {
            Inside::Bytes(opened) => opened.serve(client, Vec::new()).await,
            Inside::Outside(opened, withdrawal) => {
                opened.serve(Withdrawable::new(withdrawal, client), Vec::new()).await;
            }
            Inside::Any(end) => enter(worker, source, client, end).await,
        }
    });
    Ok(Response::new(Body::empty()))
}

/// What a tunnel is for.
enum Inside {
    /// Bytes, whatever they are.
    Bytes(Opened),
    /// The same out of the mesh, as long as they may.
    Outside(Opened, Withdrawal),
    /// What the client speaks decides.
    Any(TunnelEnd),
}

impl Leaving {
    /// The client, once it has left HTTP.
    async fn client(self) -> Option<Downstream> {
        let client = async {
            let client: Box<dyn Duplex> = match self {
                Self::Http1(taken) => {
                    let (io, read) = taken.await.ok()?;
                    Box::new(Replayed::new(read.into(), io))
                }
                Self::Http2(taken) => Box::new(taken.await.ok()?),
            };
            Some(Downstream::Tunnel(client))
        };
        timeout(HAND_OVER_DEADLINE, client).await.ok()?
    }
}
