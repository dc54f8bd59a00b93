//! Connections that leave HTTP: upgrades such as WebSocket, and the tunnels of an explicit proxy.
//!
//! An upgrade is a request like others until the application accepts it, so it is routed like them. It
//! goes to the endpoint in HTTP/1.1 over a connection of its own: a TCP connection on this node, a
//! CONNECT stream of a link to another. After the application's `101` bytes pass both ways, each way
//! closed by itself. A WebSocket of an HTTP/2 client (RFC 8441) becomes one of HTTP/1.1 (RFC 6455).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::app_pool;
use crate::error::UpstreamError;
use crate::http::body::Body;
use crate::http::forward::{Call, Hop, Refusal, Route, Target};
use crate::http::headers::{self, AppVersion};
use crate::http::record::{Outcome, Record};
use crate::http::reply::{self, Reason, reply};
use crate::metrics::{EdgeMetrics, InFlight};
use crate::state::LocalWorkload;
use crate::tcp::{self, Replayed, Reset, Upstream, Way};
use crate::worker::{Worker, connect};

/// How long the client's side may take to be handed over once its answer was given.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(30);

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// A client's wish to leave HTTP.
pub(super) struct Wish {
    client: OnUpgrade,
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
pub(super) fn wanted(request: &mut Request<Incoming>) -> Option<Wish> {
    let form = if request.method() == Method::CONNECT {
        match request.extensions().get::<hyper::ext::Protocol>() {
            Some(protocol) => Form::Extended(protocol.as_str().to_owned()),
            None => Form::Connect,
        }
    } else if request.version() == Version::HTTP_11 {
        Form::Upgrade(headers::wanted_upgrade(request.headers())?)
    } else {
        return None;
    };
    Some(Wish { client: hyper::upgrade::on(request), form })
}

/// Answers a request that wishes to leave HTTP.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    source: &Arc<LocalWorkload>,
    record: &Record,
    call: Call,
    wish: Wish,
) -> (Outcome, Response<Body>) {
    let Call { mut head, body, target } = call;
    if let Err(problem) = rewrite(&mut head, &wish.form) {
        return Refusal::new(Reason::Unsupported, problem, None).into_answer();
    }
    let mut route = match Route::find(worker, &head, target).await {
        Ok(route) => route,
        Err(refusal) => return refusal.into_answer(),
    };
    if route.version() == AppVersion::Http2 && !matches!(wish.form, Form::Extended(_)) {
        let message = "the application speaks HTTP/2, which has no such upgrade".to_owned();
        return Refusal::new(Reason::Unsupported, message, None).into_answer();
    }
    // Nothing has been sent until a connection is there, so every failure before that is safe to repeat.
    let (hop, opened) = loop {
        let hop = match route.next(worker) {
            Ok(hop) => hop,
            Err(refusal) => return refusal.into_answer(),
        };
        match open(worker, source, &hop).await {
            Ok(opened) => break (hop, opened),
            Err(error) => {
                if !route.failed(worker, source, record, &hop, &head.method, &error, true) {
                    return (route.outcome(worker, hop), reply::failed(&error));
                }
            }
        }
    };
    let outcome = route.succeeded(worker, hop);
    if let Form::Upgrade(protocol) = &wish.form {
        head.headers.insert(UPGRADE, protocol.clone());
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let edge = record.edge(worker, source, &outcome);
    let response = match speak(worker, opened, Request::from_parts(head, body), wish, edge).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = reply::failed(&error);
            response.headers_mut().remove(crate::link::RETRY);
            response
        }
    };
    (outcome, response)
}

/// Makes the request what the application is to get, except for the headers of the connection.
fn rewrite(head: &mut Parts, form: &Form) -> Result<(), String> {
    head.extensions.remove::<hyper::ext::Protocol>();
    match form {
        Form::Upgrade(_) | Form::Connect => {}
        Form::Extended(protocol) if protocol.eq_ignore_ascii_case("websocket") => {
            head.method = Method::GET;
            let key: [u8; 16] = rand::random();
            let key = HeaderValue::from_str(&base64(&key)).map_err(|error| error.to_string())?;
            head.headers.insert(SEC_WEBSOCKET_KEY, key);
            head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
            head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Form::Extended(protocol) => {
            return Err(format!("extended CONNECT is understood for websocket, not for {protocol}"));
        }
    }
    Ok(())
}

/// A connection to an application.
struct Opened {
    upstream: Upstream,
    in_flight: Option<InFlight>,
}

async fn open(worker: &Rc<Worker>, source: &Arc<LocalWorkload>, hop: &Hop) -> Result<Opened, UpstreamError> {
    let plain = |stream| Opened { upstream: Upstream::Tcp(stream), in_flight: None };
    let picked = match hop {
        Hop::Endpoint(picked) => picked,
        Hop::Outside(address) => return connect(*address).await.map(plain),
    };
    let endpoint = &*picked.endpoint;
    if endpoint.node.is_none() {
        return connect(hop.address()).await.map(plain);
    }
    if worker.is_local(endpoint) {
        let workload = worker.hand_over(endpoint)?;
        let (stream, in_flight) = worker.connect_app(&workload, picked.target_port).await?;
        return Ok(Opened { upstream: Upstream::Tcp(stream), in_flight: Some(in_flight) });
    }
    let stream = worker.links.stream(worker, source, endpoint).await?;
    let tunnel = stream.tunnel(worker, endpoint.workload.as_ref(), hop.address()).await?;
    Ok(Opened { upstream: Upstream::Tunnel(Box::new(tunnel)), in_flight: None })
}

/// Sends the request on the connection; if it is accepted, lets the bytes pass.
async fn speak(
    worker: &Rc<Worker>,
    opened: Opened,
    request: Request<Body>,
    wish: Wish,
    edge: Arc<EdgeMetrics>,
) -> Result<Response<Body>, UpstreamError> {
    let Opened { upstream, in_flight } = opened;
    let address = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let lost = |error: &hyper::Error| UpstreamError {
        message: format!("the connection broke before the upgrade was answered: {}", app_pool::chain(error)),
        ..app_pool::lost(address, error, false)
    };
    let (mut sender, connection) =
        http1::Builder::new().handshake(TokioIo::new(upstream)).await.map_err(|error| lost(&error))?;
    let (released, release) = oneshot::channel();
    tokio::task::spawn_local(async move {
        // After a 101 the connection ends by giving back what it was made of.
        if let Ok(parts) = connection.without_shutdown().await {
            let _ = released.send(parts);
        }
    });
    let (mut head, body) = request.into_parts();
    let (upgrade, connect) = (head.headers.remove(UPGRADE), head.headers.remove(CONNECTION));
    let length = http_body::Body::size_hint(&body).exact();
    headers::for_http1(&mut head, length);
    for (name, value) in [(UPGRADE, upgrade), (CONNECTION, connect)] {
        if let Some(value) = value {
            head.headers.insert(name, value);
        }
    }
    if let Some(gate) = head.extensions.remove::<crate::http::body::Gate>() {
        gate.open();
    }
    let response =
        sender.send_request(Request::from_parts(head, body)).await.map_err(|error| lost(&error))?;
    let accepted = match wish.form {
        Form::Upgrade(_) | Form::Extended(_) => response.status() == StatusCode::SWITCHING_PROTOCOLS,
        Form::Connect => response.status().is_success(),
    };
    if !accepted {
        return refused(response, sender, in_flight);
    }
    let protocol = response.headers().get(UPGRADE).cloned();
    let (mut answer, _) = response.into_parts();
    let _ = headers::normalize_response(&mut answer.headers);
    match &wish.form {
        Form::Upgrade(wanted) => {
            answer.headers.insert(UPGRADE, protocol.unwrap_or_else(|| wanted.clone()));
            answer.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Form::Connect => {}
        Form::Extended(_) => {
            answer.status = StatusCode::OK;
            answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
            answer.headers.remove(CONTENT_LENGTH);
        }
    }
    worker.connections.spawn_local(async move {
        let hand_over = async { tokio::join!(release, wish.client) };
        let (Ok(parts), Ok(client)) = (match timeout(HAND_OVER_DEADLINE, hand_over).await {
            Ok(both) => both,
            Err(_) => return,
        }) else {
            return;
        };
        let upstream = Replayed::new(parts.read_buf.into(), parts.io.into_inner());
        pass(Client(TokioIo::new(client)), upstream, &edge).await;
        drop((sender, in_flight));
    });
    Ok(Response::from_parts(answer, Body::empty()))
}

/// The application goes on in HTTP: its answer is passed on, and the connection not used again.
fn refused(
    mut response: Response<Incoming>,
    sender: http1::SendRequest<Body>,
    in_flight: Option<InFlight>,
) -> Result<Response<Body>, UpstreamError> {
    if let Err(problem) = headers::normalize_response(response.headers_mut()) {
        return Ok(reply(Reason::ConnectionLost, problem.0));
    }
    let mut held = Some((sender, in_flight));
    Ok(response.map(|body| {
        Body::from(body).observed(move |event| {
            if !matches!(event, crate::http::body::Event::Data(_)) {
                held.take();
            }
        })
    }))
}

async fn pass<U>(mut client: Client, mut upstream: U, edge: &EdgeMetrics)
where
    U: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let ended = tcp::copy(&mut client, &mut upstream, |way, bytes| match way {
        Way::Up => edge.sent(bytes),
        Way::Down => edge.received(bytes),
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!("upgraded connection ended: {error}");
    }
}

/// Opens the tunnel that the client of an explicit proxy asked for. What it speaks inside is found out
/// as on a connection of its own.
pub(super) fn tunnel(
    worker: &Rc<Worker>,
    source: &Arc<LocalWorkload>,
    target: Target,
    wish: Wish,
) -> Response<Body> {
    let (tracked, worker, source) = (worker.clone(), worker.clone(), source.clone());
    tracked.connections.spawn_local(async move {
        let Ok(Ok(client)) = timeout(HAND_OVER_DEADLINE, wish.client).await else { return };
        let client = Client(TokioIo::new(client));
        match target {
            Target::Service { service, port } => {
                crate::outbound::serve_service(worker, source, client, service, port).await;
            }
            Target::Outside { addresses } => {
                crate::outbound::serve_outside(worker, source, client, addresses).await;
            }
        }
    });
    Response::new(Body::empty())
}

/// A client that has left HTTP.
struct Client(TokioIo<Upgraded>);

impl Reset for Client {
    fn reset(&mut self) {
        // Dropping it without a shutdown is all that can be done through hyper.
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

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
