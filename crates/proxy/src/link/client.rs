//! The links that this worker has opened, one or more for each pair of workload identities and node.
//!
//! A link is dialed once however many wait for it. It serves new streams until it is full, until the
//! peer says that it goes away, or until the certificate that it was opened with ends or one of the roots
//! of then is not trusted any more; then it is retired: it is no longer handed out, and closes when its last stream is done.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, Reason};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;
use tulle_model::identity::SpiffeId;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{Endpoint, FastMap};

use super::alive::{Received, Watched, until_dead};
use super::body::LinkBody;
use super::tunnel::Tunnel;
use super::{
    CONNECTION_WINDOW, FRAME_SIZE, HANDSHAKE_DEADLINE, HEADER_LIST, MAX_STREAMS, REASON, SEND_BUFFER,
    STREAM_WINDOW, WORKLOAD, is_distrusted,
};
use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::http::body::Gate;
use crate::metrics::Handshake;
use crate::state::{LocalWorkload, WorkloadCertificate};
use crate::tls::{self, TlsCache, TlsFailure};
use crate::worker::Worker;

/// How long the peer's answer to a CONNECT may take.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(5);
/// A link without a stream is closed after that.
const IDLE: Duration = Duration::from_secs(90);
/// Links to one peer for one identity; when all are full, streams wait for room on them.
const MAX_LINKS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LinkKey {
    source: SpiffeId,
    destination: SpiffeId,
    address: SocketAddr,
}

type Dial = Shared<LocalBoxFuture<'static, Result<(), UpstreamError>>>;

#[derive(Default)]
struct Entry {
    open: Vec<Rc<Link>>,
    dial: Option<Dial>,
}

/// The links of one worker.
#[derive(Default)]
pub struct LinkPool {
    entries: RefCell<FastMap<LinkKey, Entry>>,
    tls: TlsCache,
    /// What runs the open links.
    running: TaskTracker,
}

struct Link {
    send: SendRequest<Bytes>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    retired: Cell<bool>,
}

impl Link {
    fn has_room(&self) -> bool {
        self.streams.get() < self.send.current_max_send_streams().min(MAX_STREAMS as usize)
    }
}

/// A stream's place on a link.
struct Slot(Rc<Link>);

impl Slot {
    fn new(link: Rc<Link>) -> Rc<Self> {
        link.streams.set(link.streams.get() + 1);
        Rc::new(Self(link))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

impl LinkPool {
    /// A place for one stream on a link from `source` to the node of `endpoint`, dialed if need be.
    /// Every error is safe to retry.
    pub async fn stream(
        &self,
        worker: &Rc<Worker>,
        source: &LocalWorkload,
        endpoint: &Endpoint,
    ) -> Result<LinkStream, UpstreamError> {
        let (Some(node), Some(identity)) = (&endpoint.node, &endpoint.identity) else {
            let message = format!("the endpoint {} is on no node of the mesh", endpoint.address);
            return Err(UpstreamError::safe(Kind::Connect, message));
        };
        let key =
            LinkKey { source: source.identity.clone(), destination: identity.clone(), address: node.link };
        loop {
            let dial = match self.open_link(&key) {
                Ok(link) => {
                    let mut send = link.send.clone();
                    let slot = Slot::new(link.clone());
                    match poll_fn(|cx| send.poll_ready(cx)).await {
                        Ok(()) => return Ok(LinkStream { send, slot }),
                        Err(_) => self.retire(&key, &link),
                    }
                    continue;
                }
                Err(()) => {
                    // The one of now: `source` is as old as the connection that it came from.
                    let now = worker.workload(&source.name);
                    let certificate = now.as_deref().unwrap_or(source).certificate.as_ref();
                    let certificate = certificate.ok_or_else(|| {
                        let message = format!("{} has no certificate yet", source.name);
                        UpstreamError::safe(Kind::NoCertificate, message)
                    })?;
                    self.dial(worker, &key, certificate)
                }
            };
            dial.await?;
        }
    }

    /// A link with room, or the least busy one where no more may be opened.
    fn open_link(&self, key: &LinkKey) -> Result<Rc<Link>, ()> {
        let entries = self.entries.borrow();
        let open = &entries.get(key).ok_or(())?.open;
        if let Some(link) = open.iter().find(|link| link.has_room()) {
            return Ok(link.clone());
        }
        if open.len() >= MAX_LINKS {
            return open.iter().min_by_key(|link| link.streams.get()).cloned().ok_or(());
        }
        Err(())
    }

    fn retire(&self, key: &LinkKey, link: &Rc<Link>) {
        link.retired.set(true);
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            entry.open.retain(|other| !Rc::ptr_eq(other, link));
            if entry.open.is_empty() && entry.dial.is_none() {
                entries.remove(key);
            }
        }
    }

    /// Retires all links, and returns when what was handed over to them is sent and they are closed.
    pub async fn close(&self) {
        self.entries.borrow_mut().clear();
        self.running.close();
        self.running.wait().await;
    }

    /// Joins the dial under way, or starts one. It goes on even if all who wait for it give up.
    fn dial(&self, worker: &Rc<Worker>, key: &LinkKey, certificate: &Arc<WorkloadCertificate>) -> Dial {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key.clone()).or_default();
        if let Some(dial) = &entry.dial {
            return dial.clone();
        }
        let (done, result) = oneshot::channel();
        let dial = async move {
            result.await.unwrap_or_else(|_| Err(UpstreamError::safe(Kind::Connect, "the proxy is stopping")))
        }
        .boxed_local()
        .shared();
        entry.dial = Some(dial.clone());
        let (worker, key, certificate) = (worker.clone(), key.clone(), certificate.clone());
        tokio::task::spawn_local(async move {
            let result = open(&worker, &key, &certificate).await;
            let mut entries = worker.links.entries.borrow_mut();
            let entry = entries.entry(key.clone()).or_default();
            entry.dial = None;
            let result = match result {
                Ok((link, connection, watch)) => {
                    entry.open.push(link.clone());
                    worker.links.running.spawn_local(drive(
                        worker.clone(),
                        key,
                        Rc::downgrade(&link),
                        connection,
                        watch,
                        certificate,
                    ));
                    Ok(())
                }
                Err(error) => {
                    if entry.open.is_empty() {
                        entries.remove(&key);
                    }
                    Err(error)
                }
            };
            let _ = done.send(result);
        });
        dial
    }
}

type LinkConnection = Connection<Watched<TlsStream<TcpStream>>, Bytes>;

/// How a link is found to be dead.
struct Watch {
    pings: PingPong,
    received: Received,
}

/// TCP, TLS, HTTP/2, and a ping: a server that does not accept our certificate says so only after its
/// side of the handshake, when ours has long been done.
async fn open(
    worker: &Rc<Worker>,
    key: &LinkKey,
    certificate: &Arc<WorkloadCertificate>,
) -> Result<(Rc<Link>, LinkConnection, Watch), UpstreamError> {
    let tcp = crate::worker::connect(key.address).await?;
    let counts = worker.metrics.counts();
    let handshake = timeout(HANDSHAKE_DEADLINE, greet(worker, key, certificate, tcp)).await;
    let failure = match handshake {
        Ok(Ok(opened)) => {
            counts.client_handshakes[Handshake::Ok as usize].add(1);
            return Ok(opened);
        }
        Ok(Err(failure)) => failure,
        Err(_) => TlsFailure {
            kind: Handshake::Timeout,
            message: format!("the peer did not finish the handshake in {HANDSHAKE_DEADLINE:?}"),
        },
    };
    counts.client_handshakes[failure.kind as usize].add(1);
    if worker.may_warn() {
        tracing::warn!(
            peer = %key.address,
            reason = failure.kind.as_str(),
            source = %key.source,
            destination = %key.destination,
            "link refused: {failure}"
        );
    }
    let message = format!("no link from {} to {} at {}: {failure}", key.source, key.destination, key.address);
    Err(UpstreamError::safe(Kind::Tls, message))
}

async fn greet(
    worker: &Rc<Worker>,
    key: &LinkKey,
    certificate: &Arc<WorkloadCertificate>,
    tcp: TcpStream,
) -> Result<(Rc<Link>, LinkConnection, Watch), TlsFailure> {
    let state = worker.now();
    let stream = tls::connect(&worker.links.tls, &state, certificate, &key.destination, tcp).await?;
    let (stream, received) = Watched::new(stream);
    let broken = |error: h2::Error| match error.into_io() {
        Some(io) => TlsFailure::from(io),
        None => {
            TlsFailure { kind: Handshake::Broken, message: "the peer closed the link at once".to_owned() }
        }
    };
    let (send, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(broken)?;
    let mut pings = connection.ping_pong().ok_or_else(|| TlsFailure {
        kind: Handshake::Broken,
        message: "the link cannot be asked whether it lives".to_owned(),
    })?;
    tokio::select! {
        biased;
        ended = &mut connection => {
            return Err(broken(ended.err().unwrap_or_else(|| Reason::CONNECT_ERROR.into())));
        }
        pong = pings.ping(Ping::opaque()) => { pong.map_err(broken)?; }
    }
    let link = Link {
        send,
        streams: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        retired: Cell::new(false),
    };
    Ok((Rc::new(link), connection, Watch { pings, received }))
}

/// Runs a link until it ends, and takes it out of the pool when it is no longer fit for new streams.
async fn drive(
    worker: Rc<Worker>,
    key: LinkKey,
    link: Weak<Link>,
    connection: LinkConnection,
    watch: Watch,
    certificate: Arc<WorkloadCertificate>,
) {
    let counts = worker.metrics.counts();
    counts.client_links.add(1);
    let retire_if_spent = || {
        if let Some(link) = link.upgrade()
            && !link.retired.get()
            && (is_spent(&link, certificate.not_after) || is_distrusted(&worker, &certificate))
        {
            worker.links.retire(&key, &link);
        }
    };
    let ended = tokio::select! {
        ended = connection => ended.err().map(|error| error.to_string()),
        () = until_dead(watch.pings, watch.received, retire_if_spent) => {
            Some("the peer does not answer pings".to_owned())
        }
    };
    if let Some(link) = link.upgrade() {
        worker.links.retire(&key, &link);
    }
    counts.client_links.subtract(1);
    match ended {
        Some(why) => {
            tracing::debug!(peer = %key.address, destination = %key.destination, "link ended: {why}")
        }
        None => tracing::trace!(peer = %key.address, destination = %key.destination, "link closed"),
    }
}

/// Whether a link must not be handed out any longer: its certificate has ended, or nobody uses it.
fn is_spent(link: &Link, expires: i64) -> bool {
    unix_time() >= expires || (link.streams.get() == 0 && link.idle_since.get().elapsed() > IDLE)
}

pub(crate) fn unix_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// A place for one request or tunnel on an open link.
pub struct LinkStream {
    send: SendRequest<Bytes>,
    slot: Rc<Slot>,
}

impl LinkStream {
    /// Sends a request, whose URI must have scheme and authority, and returns when the head of the
    /// answer is there. Dropping the future, or the answer's body before its end, resets the stream.
    pub async fn send<B>(
        mut self,
        worker: &Worker,
        request: Request<B>,
    ) -> Result<Response<LinkBody>, UpstreamError>
    where
        B: Body<Data = Bytes> + 'static,
    {
        let (mut head, body) = request.into_parts();
        head.version = http::Version::HTTP_2;
        let gate = head.extensions.remove::<Gate>();
        let empty = body.is_end_stream();
        let (mut response, mut upload) =
            self.send.send_request(Request::from_parts(head, ()), empty).map_err(not_sent)?;
        worker.metrics.counts().client_streams.add(1);
        let mut guard = UploadGuard(None);
        if !empty {
            let (cancel, cancelled) = oneshot::channel::<()>();
            guard.0 = Some(cancel);
            let slot = self.slot.clone();
            tokio::task::spawn_local(async move {
                let abandoned = async {
                    if cancelled.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                let ended = tokio::select! {
                    biased;
                    ended = super::body::send(&mut upload, body) => ended.is_ok(),
                    () = abandoned => false,
                };
                if !ended {
                    upload.send_reset(Reason::CANCEL);
                }
                drop(slot);
            });
        }
        // The application wants the body that is held back.
        if let Some(gate) = gate
            && let Some(Ok(interim)) = poll_fn(|cx| response.poll_informational(cx)).await
            && interim.status() == StatusCode::CONTINUE
        {
            gate.open();
        }
        let (head, stream) = response.await.map_err(failed)?.into_parts();
        let body = LinkBody::new(stream, &head.headers, guard).holding(self.slot);
        Ok(Response::from_parts(head, body))
    }

    /// Opens a tunnel to a port of a workload (HBONE): CONNECT to `authority`, the workload's address
    /// and port.
    pub async fn tunnel(
        mut self,
        worker: &Worker,
        workload: Option<&WorkloadName>,
        authority: SocketAddr,
    ) -> Result<Tunnel, UpstreamError> {
        let internal = |e: http::Error| UpstreamError::safe(Kind::Connect, e.to_string());
        let mut request = Request::builder().method(Method::CONNECT).uri(authority.to_string());
        if let Some(workload) = workload {
            request = request.header(WORKLOAD, workload.to_string());
        }
        let request = request.body(()).map_err(internal)?;
        let (response, send) = self.send.send_request(request, false).map_err(not_sent)?;
        worker.metrics.counts().client_streams.add(1);
        let response = match timeout(TUNNEL_DEADLINE, response).await {
            // Nothing was sent through it yet, so another endpoint may be tried whatever happened.
            Ok(answer) => answer.map_err(not_sent)?,
            Err(_) => {
                let message = format!("{authority} did not answer a CONNECT in {TUNNEL_DEADLINE:?}");
                return Err(UpstreamError::safe(Kind::Timeout, message));
            }
        };
        if response.status() != StatusCode::OK {
            return Err(refused(&response, authority));
        }
        Ok(Tunnel::new(send, response.into_body()).holding(self.slot))
    }
}

fn refused(response: &Response<h2::RecvStream>, authority: SocketAddr) -> UpstreamError {
    let text = |name| response.headers().get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    let reason = text(REASON).unwrap_or("no reason given");
    let kind = if reason == "draining" { Kind::Draining } else { Kind::Refused };
    let message = format!("the node refused the connection to {authority}: {reason} ({})", response.status());
    UpstreamError::safe(kind, message)
}

/// What a failed stream means: only a refused stream, or one that a peer that goes away has not looked
/// at, is certain not to have reached the application (RFC 9113 sections 6.8 and 8.7).
fn failed(error: h2::Error) -> UpstreamError {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    let gone = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    UpstreamError {
        kind: Kind::ConnectionLost,
        safe_to_retry: refused || gone,
        message: format!("the link ended: {error}"),
    }
}

/// A stream that failed before anything for the application was handed over.
fn not_sent(error: h2::Error) -> UpstreamError {
    UpstreamError { safe_to_retry: true, ..failed(error) }
}

/// Stops sending a request's body when nobody waits for the answer any longer.
pub(super) struct UploadGuard(Option<oneshot::Sender<()>>);

impl UploadGuard {
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The answer is complete: what is left of the request may still go.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            let _ = cancel.send(());
        }
    }
}
