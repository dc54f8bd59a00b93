//! Links that other nodes open to this one: TLS, HTTP/2, and a task for each stream.
//!
//! What is bounded: handshakes at a time (all, and of one address), the time a handshake takes, streams
//! and bytes of a link, resets (CVE-2023-44487; counted by h2, which ends the connection with
//! ENHANCE_YOUR_CALM), header lists and CONTINUATION frames.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::FastMap;

use super::alive::{Received, Watched, until_dead};
use super::body::{self, LinkBody};
use super::client::{UploadGuard, unix_time};
use super::tunnel::Tunnel;
use super::{
    CONNECTION_WINDOW, FRAME_SIZE, HANDSHAKE_DEADLINE, HEADER_LIST, MAX_STREAMS, PORT, REASON, RETRY,
    SEND_BUFFER, STREAM_WINDOW, WORKLOAD, is_distrusted,
};
use crate::error::UpstreamErrorKind;
use crate::http::body::{Body, Gate};
use crate::http::headers;
use crate::inbound::{self, Peer};
use crate::metrics::Handshake;
use crate::state::{LocalWorkload, WorkloadCertificate};
use crate::tcp;
use crate::tls::{self, TlsFailure};
use crate::worker::Worker;

/// Handshakes that a worker does at a time, and how many of them from one address.
const HANDSHAKES: usize = 1024;
const HANDSHAKES_OF_ONE_ADDRESS: usize = 128;
/// Resets before the peer is sent away: streams that we reset and still remember, that the peer reset
/// before we looked at them, and that we reset because of the peer's errors.
const REMEMBERED_RESETS: usize = 100;
const PENDING_RESETS: usize = 50;
const ERROR_RESETS: usize = 1000;

/// Counts the handshakes under way.
#[derive(Default)]
pub(crate) struct HandshakeLimits(RefCell<(usize, FastMap<IpAddr, usize>)>);

struct HandshakePlace<'w>(&'w HandshakeLimits, IpAddr);

impl HandshakeLimits {
    fn enter(&self, address: IpAddr) -> Option<HandshakePlace<'_>> {
        let mut limits = self.0.borrow_mut();
        let (all, by_address) = &mut *limits;
        let of_this = by_address.get(&address).copied().unwrap_or_default();
        if *all >= HANDSHAKES || of_this >= HANDSHAKES_OF_ONE_ADDRESS {
            return None;
        }
        *all += 1;
        by_address.insert(address, of_this + 1);
        Some(HandshakePlace(self, address))
    }
}

impl Drop for HandshakePlace<'_> {
    fn drop(&mut self) {
        let mut limits = self.0.0.borrow_mut();
        let (all, by_address) = &mut *limits;
        *all -= 1;
        if let Some(of_this) = by_address.get_mut(&self.1) {
            *of_this -= 1;
            if *of_this == 0 {
                by_address.remove(&self.1);
            }
        }
    }
}

/// What is known of the other end of a link.
struct Link {
    peer: Peer,
    /// As whom this node answered: the only identity whose workloads are served here.
    identity: SpiffeId,
    certificate: Arc<WorkloadCertificate>,
    /// Seconds since the epoch: when the first of the two certificates ends.
    expires: i64,
    received: Received,
}

/// Serves one connection to the link port.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream, address: SocketAddr) {
    let counts = worker.metrics.counts();
    let opened = match worker.handshakes.enter(address.ip()) {
        Some(_place) => match timeout(HANDSHAKE_DEADLINE, greet(&worker, tcp)).await {
            Ok(opened) => opened,
            Err(_) => Err(TlsFailure {
                kind: Handshake::Timeout,
                message: format!("the peer did not finish the handshake in {HANDSHAKE_DEADLINE:?}"),
            }),
        },
        None => Err(TlsFailure {
            kind: Handshake::Overload,
            message: "too many handshakes are under way".to_owned(),
        }),
    };
    let (link, connection) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            counts.server_handshakes[failure.kind as usize].add(1);
            if worker.may_warn() {
                tracing::warn!(peer = %address, reason = failure.kind.as_str(), "link refused: {failure}");
            }
            return;
        }
    };
    counts.server_handshakes[Handshake::Ok as usize].add(1);
    counts.server_links.add(1);
    let ended = run(&worker, Rc::new(link), connection).await;
    counts.server_links.subtract(1);
    match ended {
        Ok(()) => {}
        Err(Ended::Abused(error)) => {
            counts.abused_links.add(1);
            if worker.may_warn() {
                tracing::warn!(peer = %address, "link closed: the peer broke HTTP/2's rules: {error}");
            }
        }
        Err(Ended::Lost(why)) => tracing::debug!(peer = %address, "link ended: {why}"),
    }
}

type LinkConnection = h2::server::Connection<Watched<tokio_rustls::server::TlsStream<TcpStream>>, Bytes>;

/// TLS and HTTP/2's preface.
async fn greet(worker: &Rc<Worker>, tcp: TcpStream) -> Result<(Link, LinkConnection), TlsFailure> {
    let accepted = tls::accept(&worker.server_tls, || worker.now(), tcp).await?;
    let (stream, received) = Watched::new(accepted.stream);
    let connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(MAX_STREAMS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .handshake(stream)
        .await
        .map_err(|error| TlsFailure {
            kind: Handshake::Broken,
            message: format!("the peer does not speak HTTP/2: {error}"),
        })?;
    let link = Link {
        peer: Peer { identity: accepted.peer },
        identity: accepted.certificate.identity.clone(),
        certificate: accepted.certificate,
        expires: accepted.expires,
        received,
    };
    Ok((link, connection))
}

/// Why a link ended before its time.
enum Ended {
    /// It is gone.
    Lost(String),
    /// We closed it: a flood, or frames that may not be.
    Abused(h2::Error),
}

/// Takes streams until the link ends. A drain, the end of a certificate, or that of a root's trust sends
/// GOAWAY: what is under way is finished.
async fn run(worker: &Rc<Worker>, link: Rc<Link>, mut connection: LinkConnection) -> Result<(), Ended> {
    let Some(pings) = connection.ping_pong() else {
        return Err(Ended::Lost("it cannot be pinged".to_owned()));
    };
    let distrusted = Notify::new();
    let mut dead = std::pin::pin!(until_dead(pings, link.received.clone(), || {
        if is_distrusted(worker, &link.certificate) {
            distrusted.notify_one();
        }
    }));
    let mut going = std::pin::pin!(async {
        let left = Duration::from_secs(link.expires.saturating_sub(unix_time()).max(0) as u64);
        // A timer does not reach further than some years.
        let end = Instant::now() + left.min(Duration::from_secs(365 * 24 * 3600));
        tokio::select! {
            () = worker.drain.wait() => {}
            () = tokio::time::sleep_until(end) => {}
            () = distrusted.notified() => {}
        }
    });
    let mut gone = false;
    loop {
        tokio::select! {
            biased;
            stream = connection.accept() => match stream {
                Some(Ok((request, respond))) => {
                    worker.metrics.counts().server_streams.add(1);
                    let (worker, link) = (worker.clone(), link.clone());
                    tokio::task::spawn_local(answer(worker, link, request, respond));
                }
                Some(Err(error)) if error.is_io() || error.is_remote() => {
                    return Err(Ended::Lost(error.to_string()));
                }
                Some(Err(error)) => return Err(Ended::Abused(error)),
                None => return Ok(()),
            },
            () = &mut dead => return Err(Ended::Lost("the peer does not answer pings".to_owned())),
            () = &mut going, if !gone => {
                gone = true;
                connection.graceful_shutdown();
            }
        }
    }
}

async fn answer(
    worker: Rc<Worker>,
    link: Rc<Link>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if request.method() == Method::CONNECT {
        return tunnel(worker, link, request, respond).await;
    }
    let found = find(&worker, &link, request.headers(), None);
    let (mut head, stream) = request.into_parts();
    head.headers.remove(WORKLOAD);
    head.headers.remove(PORT);
    let response = match found {
        Ok((workload, port)) => {
            let mut body = Body::new(LinkBody::new(stream, &head.headers, UploadGuard::none()));
            let mut gate = None;
            if headers::expects_continue(&head.headers) {
                let (shut, gated) = Gate::before(body);
                head.extensions.insert(shut.clone());
                (gate, body) = (Some(shut), gated);
            }
            let request = Request::from_parts(head, body);
            let mut served = pin!(inbound::serve_request(&worker, &link.peer, &workload, port, request));
            loop {
                tokio::select! {
                    biased;
                    response = served.as_mut() => break response,
                    _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
                    () = opened(&gate), if gate.is_some() => {
                        gate = None;
                        let mut interim = Response::new(());
                        *interim.status_mut() = StatusCode::CONTINUE;
                        // Fails only when the stream is over, which the others tell.
                        let _ = respond.send_informational(interim);
                    }
                }
            }
        }
        Err(refusal) => refusal.response().map(|()| Body::empty()),
    };
    let (mut head, body) = response.into_parts();
    head.version = http::Version::HTTP_2;
    let empty = http_body::Body::is_end_stream(&body);
    if let Ok(mut send) = respond.send_response(Response::from_parts(head, ()), empty)
        && !empty
    {
        let _ = body::send(&mut send, body).await;
    }
}

/// Waits until the application wants a request's body (`100 Continue`).
async fn opened(gate: &Option<Gate>) {
    match gate {
        Some(gate) => gate.opened().await,
        None => std::future::pending().await,
    }
}

/// An opaque connection (HBONE): bytes between the stream and the workload's process.
async fn tunnel(
    worker: Rc<Worker>,
    link: Rc<Link>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let authority = request.uri().authority().and_then(|a| SocketAddr::from_str(a.as_str()).ok());
    let (workload, port) = match find(&worker, &link, request.headers(), authority) {
        Ok(found) => found,
        Err(refusal) => {
            let _ = respond.send_response(refusal.response(), true);
            return;
        }
    };
    let connect = worker.connect_app(&workload, port);
    let reset = poll_fn(|cx| respond.poll_reset(cx));
    let connected = tokio::select! {
        connected = connect => connected,
        _ = reset => return,
    };
    let (mut app, _in_flight) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(workload = %workload.name, port, "tunnel refused: {error}");
            let refusal = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: error.kind.reason() };
            let _ = respond.send_response(refusal.response(), true);
            return;
        }
    };
    let Ok(send) = respond.send_response(Response::new(()), false) else { return };
    let mut tunnel = Tunnel::new(send, request.into_body());
    // The process is the upstream of what arrives here.
    let _ = tcp::copy(&mut tunnel, &mut app, |_, _| {}).await;
}

/// An answer that says that nothing reached the application.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
}

impl Refusal {
    fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        response.headers_mut().insert(REASON, HeaderValue::from_static(self.reason));
        response.headers_mut().insert(RETRY, HeaderValue::from_static("safe"));
        response
    }
}

/// Which workload a stream is for. It must have the identity that this link was answered with: a peer
/// that checked one identity must not reach another.
fn find(
    worker: &Worker,
    link: &Link,
    headers: &HeaderMap,
    authority: Option<SocketAddr>,
) -> Result<(Arc<LocalWorkload>, u16), Refusal> {
    let bad = Refusal { status: StatusCode::BAD_REQUEST, reason: "bad-request" };
    let missing = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: "no-such-workload" };
    let port = match authority {
        Some(authority) => authority.port(),
        None => parsed::<u16>(headers, &PORT).ok_or(bad)?,
    };
    let state = worker.state.load();
    let workload = match parsed::<WorkloadName>(headers, &WORKLOAD) {
        Some(name) => state.workloads.get(&name),
        // Other meshes' HBONE names only an address, which may be one that several workloads share.
        None => state.workloads.values().find(|w| w.identity == link.identity && w.ports.contains(&port)),
    };
    let workload = workload.ok_or(missing)?;
    if workload.identity != link.identity {
        worker.metrics.counts().server_handshakes[Handshake::WrongIdentity as usize].add(1);
        if worker.may_warn() {
            tracing::warn!(
                peer = %link.peer.identity,
                workload = %workload.name,
                "stream refused: wrong identity: the workload is {}, this link was answered as {}",
                workload.identity,
                link.identity
            );
        }
        return Err(Refusal { status: StatusCode::MISDIRECTED_REQUEST, reason: "wrong-identity" });
    }
    if workload.draining {
        let reason = UpstreamErrorKind::Draining.reason();
        return Err(Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason });
    }
    Ok((workload.clone(), port))
}

fn parsed<T: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
