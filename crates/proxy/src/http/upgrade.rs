//! Connections that leave HTTP: upgrades such as WebSocket, and the tunnels of an explicit proxy.
//!
//! An upgrade is a request like others until the application accepts it, so it is routed like them. It
//! goes to the endpoint in HTTP/1.1 over a connection of its own: a TCP connection on this node, a
//! CONNECT stream of a link to another. After the application's `101` bytes pass both ways, each way
//! closed by itself. A WebSocket of an HTTP/2 client (RFC 8441) goes to an application of HTTP/2 that takes
//! them as it is ([`websocket`]), and becomes one of HTTP/1.1 (RFC 6455) otherwise. What is no tunnel is no
//! success for that client, which would take it for one.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tulle_model::name::ServiceName;
use tulle_model::snapshot::{Carried, PortConfig};

use crate::attempts::Again;
use crate::budget::Account;
use crate::connect::Counted;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::exchange::{Exchange, Refused};
use crate::http::asker::Caller;
use crate::http::body::Body;
use crate::http::forward::{Message, Route, Target, config_of, port_of};
use crate::http::headers::{self, AppVersion};
use crate::http::http1::client::{Answer, Connection, Failed, Outgoing, Stream, exchange};
use crate::http::reply;
use crate::http::server::{self, Enter, unless_cut};
use crate::http::websocket::{self, Answered};
use crate::http2::{Protocol, Tunnel};
use crate::metrics::EdgeMetrics;
use crate::opaque::{self, Opened};
use crate::reach::Hop;
use crate::reason::Reason;
use crate::reset::{Reset, Way};
use crate::state::LocalWorkload;
use crate::tcp::{self, Downstream, Duplex, Replayed, Upstream};
use crate::worker::Worker;

/// How long the client's side may take to be handed over once its answer was given.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(30);

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// How a client's connection or stream is had once its answer was given.
pub(super) enum Leaving {
    /// The connection, and what was read of it after the request.
    Http1(oneshot::Receiver<(Downstream, BytesMut)>),
    Http2(oneshot::Receiver<Tunnel>),
}

/// A client's wish to leave HTTP.
pub(super) struct Wish {
    client: Leaving,
    form: Form,
}

enum Form {
    /// `Upgrade` of HTTP/1.1, with what the client named.
    Upgrade(HeaderValue),
    Connect,
    /// Extended CONNECT of HTTP/2, with its `:protocol`.
    Extended(String),
}

/// What the client wishes, if it does. To be asked before hop-by-hop headers are removed.
pub(super) fn wanted(head: &Parts, client: Leaving) -> Option<Wish> {
    let form = if head.method == Method::CONNECT {
        match head.extensions.get::<Protocol>() {
            Some(Protocol(name)) => Form::Extended(String::from_utf8_lossy(name.as_bytes()).into_owned()),
            None => Form::Connect,
        }
    } else if head.version == Version::HTTP_11 {
        Form::Upgrade(headers::wanted_upgrade(&head.headers)?)
    } else {
        return None;
    };
    Some(Wish { client, form })
}

/// Answers a request that wishes to leave HTTP.
pub(super) async fn forward(
    client: &server::Connection,
    exchange: &mut Exchange,
    message: Message<'_>,
    target: Target,
    caller: &Caller,
    wish: Wish,
) -> Result<Response<Body>, Refused> {
    let (worker, source) = (&client.worker, &client.source);
    let Message { head, body, written } = message;
    let (account, version) = (&caller.account, head.version);
    if let Err(problem) = rewrite(head, &wish.form) {
        exchange.goes_to(target.destination());
        return Err(exchange.refuse(Reason::Unsupported, problem));
    }
    let mut route = Route::find(worker, exchange, head, target).await?;
    route.spell(head, written, &caller.asker);
    if route.version == AppVersion::Http2 && !matches!(wish.form, Form::Extended(_)) {
        let message = "the application speaks HTTP/2, which has no such upgrade";
        return Err(exchange.refuse(Reason::Unsupported, message));
    }
    // Nothing has been sent until a connection is there, so every failure before that is safe to repeat.
    let (hop, opened) = loop {
        let hop = route.attempts.next(worker, exchange)?;
        match hop.connect(worker, source, account).await {
            Ok(opened) => break (hop, opened),
            Err(error) => match route.attempts.failed(worker, exchange, &hop, &error, false, true) {
                Again::No => return Ok(reply::failed_for(&error, version)),
                Again::Now => {}
                Again::After(pause) => tokio::time::sleep(pause).await,
            },
        }
    };
    let lost = |exchange: &mut Exchange, hop: &Hop, error: UpstreamError| {
        exchange.attempt_failed(&error, hop.member().map(|member| &*member.endpoint));
        exchange.lost(&error);
        Ok(reply::failed_for(&error, version))
    };
    let http2 = route.version == AppVersion::Http2;
    let opened = if http2 {
        match websocket::ask(worker, opened, head, caller).await {
            Ok(Some(answered)) => {
                route.attempts.succeeded(worker, exchange, hop, None);
                let answered = answer_http2(worker, answered, wish, account, exchange.edge());
                return Ok(answered.unwrap_or_else(|error| {
                    exchange.lost(&error);
                    reply::failed_for(&error, version)
                }));
            }
            // Perhaps it takes them in HTTP/1.1.
            Ok(None) => match hop.connect(worker, source, account).await {
                Ok(opened) => opened,
                Err(error) => return lost(exchange, &hop, error),
            },
            Err(error) => return lost(exchange, &hop, error),
        }
    } else {
        opened
    };
    if let Form::Extended(_) = wish.form {
        head.headers.insert(SEC_WEBSOCKET_KEY, key());
    }
    route.attempts.succeeded(worker, exchange, hop, None);
    let mut spoken = pin!(speak(worker, opened, head, body, wish, caller, exchange.edge()));
    match unless_cut(&client.ending.cut, spoken.as_mut()).await {
        None => Err(exchange.refuse(Reason::HalfClosed, client.why_cut())),
        Some(Ok(response)) => Ok(response),
        Some(Err(error))
            if http2
                && matches!(error.kind, UpstreamErrorKind::ConnectionLost | UpstreamErrorKind::BadAnswer) =>
        {
            let message = format!(
                "the application speaks HTTP/2, and does not say that it takes WebSockets there \
                 (SETTINGS_ENABLE_CONNECT_PROTOCOL); nor does it in HTTP/1.1: {error}"
            );
            Err(exchange.refuse(Reason::Unsupported, message))
        }
        Some(Err(error)) => {
            exchange.lost(&error);
            Ok(reply::failed_for(&error, version))
        }
    }
}

/// Makes the request what the application is to get, except for the headers of the connection.
fn rewrite(head: &mut Parts, form: &Form) -> Result<(), String> {
    match form {
        Form::Upgrade(_) | Form::Connect => {}
        Form::Extended(protocol) if protocol.eq_ignore_ascii_case("websocket") => {
            head.method = Method::GET;
            head.headers.remove(SEC_WEBSOCKET_KEY);
            head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
        Form::Extended(protocol) => {
            return Err(format!("extended CONNECT is understood for websocket, not for {protocol}"));
        }
    }
    Ok(())
}

/// What a client of HTTP/1.1 has to say, and one of HTTP/2 has not (RFC 8441, section 5).
fn key() -> HeaderValue {
    let key: [u8; 16] = rand::random();
    HeaderValue::try_from(base64(&key)).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// Sends the request on the connection; if it is accepted, lets the bytes pass.
async fn speak(
    worker: &Rc<Worker>,
    (upstream, counted): (Upstream, Counted),
    head: &Parts,
    body: Body,
    wish: Wish,
    caller: &Caller,
    edge: Arc<EdgeMetrics>,
) -> Result<Response<Body>, UpstreamError> {
    let websocket = HeaderValue::from_static("websocket");
    let upgrade = match &wish.form {
        Form::Upgrade(protocol) => Some(protocol),
        Form::Extended(_) => Some(&websocket),
        Form::Connect => None,
    };
    let outgoing = Outgoing { head, upgrade, caller };
    let answer = exchange(Connection::new(upstream, worker.local.sweep.clone()), outgoing, body)
        .await
        .map_err(|Failed { why, oversized, shed, answered, .. }| {
            if let Some(shed) = shed {
                return UpstreamError { safe_to_retry: false, ..UpstreamError::shed(shed) };
            }
            let kind = if oversized {
                UpstreamErrorKind::AnswerHeadersTooLarge
            } else if answered {
                UpstreamErrorKind::BadAnswer
            } else {
                UpstreamErrorKind::ConnectionLost
            };
            let message = format!("the connection broke before the upgrade was answered: {why}");
            UpstreamError::after_sending(kind, message)
        })?;
    let status = answer.head.status;
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = answer.head.headers.get(UPGRADE).cloned();
    let accepted = match &wish.form {
        Form::Upgrade(wanted) if switched && !headers::switches_to(&answer.head.headers, wanted) => {
            let named = protocol.unwrap_or_else(|| HeaderValue::from_static(""));
            let message = format!("the application goes on in {named:?}, which nobody asked for (101)");
            return Err(UpstreamError::bad_answer(message));
        }
        Form::Upgrade(_) => switched,
        Form::Extended(_) => {
            let named = protocol.as_ref().map(HeaderValue::as_bytes);
            switched && named.is_some_and(|named| named.eq_ignore_ascii_case(b"websocket"))
        }
        Form::Connect => status.is_success(),
    };
    if !accepted && matches!(wish.form, Form::Extended(_)) && (switched || status.is_success()) {
        let message =
            format!("the application answered a request for a WebSocket with {status}, and opened none");
        return Err(UpstreamError::after_sending(UpstreamErrorKind::NotUpgraded, message));
    }
    if !accepted {
        return refused(answer, counted);
    }
    let (mut answer, upstream, read) = answer.into_upgraded();
    headers::normalize_response(answer.status, &mut answer.headers)
        .map_err(|problem| UpstreamError::bad_answer(problem.0))?;
    match &wish.form {
        Form::Upgrade(wanted) => {
            answer.headers.insert(UPGRADE, protocol.unwrap_or_else(|| wanted.clone()));
            answer.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        // RFC 9110, section 9.3.6.
        Form::Connect => {
            answer.headers.remove(CONTENT_LENGTH);
        }
        Form::Extended(_) => {
            answer.status = StatusCode::OK;
            answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
            answer.headers.remove(CONTENT_LENGTH);
        }
    }
    let account = caller.account.clone();
    worker.local.connections.spawn_local(async move {
        let Some(client) = wish.client.client().await else { return };
        pass(client, Replayed::new(read.into(), upstream), &account, &edge).await;
        drop(counted);
    });
    Ok(Response::from_parts(answer, Body::empty()))
}

/// Passes on what an application of HTTP/2 answers to a WebSocket; if it accepts it, lets the bytes pass.
fn answer_http2(
    worker: &Rc<Worker>,
    answered: Answered,
    wish: Wish,
    account: &Rc<Account>,
    edge: Arc<EdgeMetrics>,
) -> Result<Response<Body>, UpstreamError> {
    let Answered { mut head, mut sender, receiver } = answered;
    headers::normalize_response(head.status, &mut head.headers)
        .map_err(|problem| UpstreamError::bad_answer(problem.0))?;
    if !head.status.is_success() {
        sender.send(&mut Bytes::new(), true);
        return Ok(Response::from_parts(head, Body::from(receiver)));
    }
    let (upstream, account) = (Tunnel::extended(sender, receiver), account.clone());
    worker.local.connections.spawn_local(async move {
        let Some(client) = wish.client.client().await else { return };
        pass(client, upstream, &account, &edge).await;
    });
    head.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(head, Body::empty()))
}

/// The application goes on in HTTP: its answer is passed on, and the connection not used again.
fn refused(answer: Answer<Upstream>, counted: Counted) -> Result<Response<Body>, UpstreamError> {
    let mut response = answer.into_response(drop);
    let status = response.status();
    if let Err(problem) = headers::normalize_response(status, response.headers_mut()) {
        return Err(UpstreamError::bad_answer(problem.0));
    }
    let mut held = Some(counted);
    response.body_mut().observe(move |event| {
        if !matches!(event, crate::http::body::Event::Data(_)) {
            held.take();
        }
    });
    Ok(response)
}

async fn pass<U>(mut client: Downstream, mut upstream: U, account: &Rc<Account>, edge: &EdgeMetrics)
where
    U: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let ended = tcp::copy(&mut client, &mut upstream, account, |way, bytes| match way {
        Way::Up => edge.sent(bytes),
        Way::Down => edge.received(bytes),
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!("upgraded connection ended: {error}");
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
        Target::Outside { addresses } => {
            Inside::Bytes(opaque::open_outside(worker, exchange, addresses).await?)
        }
        Target::Service { service, port } => {
            let Ok(config) = config_of(worker, &mut exchange, &service).await else { return Err(exchange) };
            let Ok(declared) = port_of(&mut exchange, &config, port).map(PortConfig::declared) else {
                return Err(exchange);
            };
            match declared {
                Some(Carried::Bytes) => Inside::Bytes(opaque::open(worker, exchange, &config, port).await?),
                Some(Carried::Http) | None => {
                    // What comes out of it is counted.
                    exchange.forget();
                    Inside::Any { service, port }
                }
            }
        }
    };
    let (tracked, worker, source) = (worker.clone(), worker.clone(), source.clone());
    tracked.local.connections.spawn_local(async move {
        let Some(client) = wish.client.client().await else { return };
        match inside {
            Inside::Bytes(opened) => opened.serve(client, Vec::new()).await,
            Inside::Any { service, port } => {
                enter(worker, source, client, service, port).await;
            }
        }
    });
    Ok(Response::new(Body::empty()))
}

/// What a tunnel is for.
enum Inside {
    /// Bytes, whatever they are.
    Bytes(Opened),
    /// What the client speaks decides.
    Any { service: ServiceName, port: u16 },
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

impl Stream for Upstream {}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = u32::from_be_bytes([
            0,
            chunk[0],
            chunk.get(1).copied().unwrap_or(0),
            chunk.get(2).copied().unwrap_or(0),
        ]);
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_rfc_4648() {
        for (plain, coded) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
