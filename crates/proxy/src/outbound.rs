//! A connection that a workload of this node makes, from top to bottom:
//! whose it is → where it goes → what it speaks → served as HTTP, or passed on as bytes.
//!
//! Nobody waits for detection: while the client's first bytes are awaited, the upstream is being
//! connected to as for an opaque connection, and whoever speaks first decides. Client bytes that are
//! HTTP: the upstream connection is dropped, and requests are routed one by one. Anything else: the
//! upstream is already there. Ports that have spoken HTTP before are not connected to in advance,
//! unless the client keeps silent ([`HTTP_SILENCE`]); one that then speaks otherwise is forgotten.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tulle_model::detect::{self, Detected};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{AppProtocol, EgressPolicy, PortConfig, ServiceConfig};

use crate::Capture;
use crate::error::UpstreamErrorKind;
use crate::http;
use crate::metrics::Rejection;
use crate::opaque::{self, Failed, Opened};
use crate::state::LocalWorkload;
use crate::tcp::{Downstream, Replayed, Reset};
use crate::worker::{Lookup, Worker};

/// How long a client of a port that spoke HTTP before may keep silent until the upstream is connected to.
const HTTP_SILENCE: Duration = Duration::from_millis(20);
/// How long a client may leave a word unfinished that could become HTTP.
const UNFINISHED: Duration = Duration::from_millis(500);
/// How long a client that speaks first is awaited when the upstream cannot be connected to.
const UNREACHABLE: Duration = Duration::from_secs(1);
/// Destinations outside of the mesh may be far away.
const EGRESS_CONNECT: Duration = Duration::from_secs(10);
/// Ports whose protocol a worker remembers.
const MAX_LEARNED: usize = 16 * 1024;

/// Where the requests of an HTTP connection go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpDestination {
    /// The connection was made to that port of that service, whatever the requests' authority says.
    Service { service: ServiceName, port: u16 },
    /// The client takes us for an HTTP proxy: each request says where it goes.
    Proxy,
}

/// Where a connection goes.
enum Destination {
    Service {
        service: ServiceName,
        port: u16,
    },
    Proxy,
    /// No part of the mesh.
    Address(SocketAddr),
}

/// Serves one accepted connection.
pub(crate) async fn serve(worker: Rc<Worker>, source: WorkloadName, capture: Capture, tcp: TcpStream) {
    let Some(source) = worker.workload(&source) else {
        return reject(&worker, tcp, Rejection::NoWorkload, "its workload is no longer on this node");
    };
    match destination(&worker, &capture, &tcp) {
        Ok(Destination::Proxy) => {
            http::server::serve(worker, source, tcp.into(), Vec::new(), HttpDestination::Proxy).await;
        }
        Ok(Destination::Service { service, port }) => serve_service(worker, source, tcp, service, port).await,
        Ok(Destination::Address(address)) => {
            Box::pin(serve_outside(worker, source, tcp, vec![address])).await;
        }
        Err((why, text)) => reject(&worker, tcp, why, text),
    }
}

fn destination(
    worker: &Worker,
    capture: &Capture,
    tcp: &TcpStream,
) -> Result<Destination, (Rejection, &'static str)> {
    // What is not redirected can be used by every process of this host, and speaks as the workload.
    if !matches!(capture, Capture::Redirected) && !tulle_sys::is_of_same_user(tcp).unwrap_or(false) {
        let text = "it was made by another user's process, or nobody holds its other end any more";
        return Err((Rejection::ForeignUser, text));
    }
    match capture {
        Capture::HttpProxy => Ok(Destination::Proxy),
        Capture::Service { service, port } => {
            Ok(Destination::Service { service: service.clone(), port: *port })
        }
        Capture::Redirected => {
            let original = tulle_sys::original_destination(tcp)
                .map_err(|_| (Rejection::Loop, "it was made to the proxy itself, not redirected to it"))?;
            if worker.is_own_listener(original) {
                return Err((Rejection::Loop, "it was made to the proxy itself"));
            }
            let ip = original.ip().to_canonical();
            if let Some(service) = worker.state.load().virtual_addresses.get(&ip) {
                return Ok(Destination::Service { service: service.clone(), port: original.port() });
            }
            if is_virtual(ip) {
                let text = "its destination is a virtual address that belongs to no service";
                return Err((Rejection::UnknownDestination, text));
            }
            Ok(Destination::Address(SocketAddr::new(ip, original.port())))
        }
    }
}

/// 127.64.0.0/10: what the node's DNS gives to services.
fn is_virtual(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if u32::from(ip) >> 22 == u32::from(Ipv4Addr::new(127, 64, 0, 0)) >> 22)
}

/// Serves a connection to a port of a service.
pub async fn serve_service<IO>(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    mut io: IO,
    service: ServiceName,
    port: u16,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin + Into<Downstream>,
{
    let config = match worker.service(&service).await {
        Lookup::Present(config) => config,
        Lookup::Absent => {
            return Box::pin(turn_away(worker, source, io, service, port, "there is no such service")).await;
        }
        Lookup::Unknown => {
            let text = "the server did not say what the service is";
            return Box::pin(turn_away(worker, source, io, service, port, text)).await;
        }
    };
    let Some(port_config) = config.port(port) else {
        return Box::pin(turn_away(worker, source, io, service, port, "the service has no such port")).await;
    };
    let spoken = match declared(port_config) {
        Some(spoken) => spoken,
        None => Box::pin(detect(&worker, &source, &mut io, &config, port)).await,
    };
    match spoken {
        Spoken::Http { first } => {
            let destination = HttpDestination::Service { service, port };
            http::server::serve(worker, source, io.into(), first, destination).await;
        }
        Spoken::Opaque { first, upstream } => {
            Box::pin(serve_opaque(worker, source, io, first, upstream, config, port)).await;
        }
        Spoken::Nothing => {}
    }
}

/// Passes the bytes of a connection on. Boxed by who calls it, so that one that speaks HTTP and is idle
/// does not hold the room for it.
async fn serve_opaque<IO>(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    io: IO,
    first: Vec<u8>,
    upstream: Option<Result<Upstream, Failed>>,
    config: Arc<ServiceConfig>,
    port: u16,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let opened = match upstream {
        Some(opened) => opened,
        None => opaque::open(&worker, &source, &config, port).await.map(Upstream::new),
    };
    match opened {
        Ok(upstream) => upstream.opened.serve(Replayed::new(first, io), upstream.first).await,
        Err(failed) => refuse(&worker, &source, io, failed),
    }
}

/// A service or port that is not there: a client that speaks HTTP is told so in an answer, which
/// finds no route either; any other is reset.
async fn turn_away<IO>(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    mut io: IO,
    service: ServiceName,
    port: u16,
    text: &str,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin + Into<Downstream>,
{
    let mut first = Vec::new();
    let speaks_http = async {
        while io.read_buf(&mut first).await.is_ok_and(|length| length > 0) {
            match detect::detect(&first) {
                Detected::Http1 | Detected::Http2 => return true,
                Detected::Tls | Detected::Other => return false,
                Detected::NeedMore => {}
            }
        }
        false
    };
    if timeout(UNREACHABLE, speaks_http).await.unwrap_or(false) {
        let destination = HttpDestination::Service { service, port };
        return http::server::serve(worker, source, io.into(), first, destination).await;
    }
    reject(&worker, io, Rejection::UnknownDestination, text);
}

/// What a connection turned out to speak, with what was read and opened to find out.
enum Spoken {
    Http {
        first: Vec<u8>,
    },
    Opaque {
        first: Vec<u8>,
        upstream: Option<Result<Upstream, Failed>>,
    },
    /// The client went away, or we do.
    Nothing,
}

/// An upstream connection, and what came from it.
struct Upstream {
    opened: Opened,
    first: Vec<u8>,
}

impl Upstream {
    fn new(opened: Opened) -> Self {
        Self { opened, first: Vec::new() }
    }
}

/// What the configuration says that a port speaks. A TCPRoute says so, too, unless there are HTTPRoutes.
fn declared(port: &PortConfig) -> Option<Spoken> {
    match port.protocol {
        AppProtocol::Http1 | AppProtocol::Http2 => Some(Spoken::Http { first: Vec::new() }),
        AppProtocol::Tcp => Some(Spoken::Opaque { first: Vec::new(), upstream: None }),
        AppProtocol::Detect if port.tcp_route.is_some() && port.http_routes.is_empty() => {
            Some(Spoken::Opaque { first: Vec::new(), upstream: None })
        }
        AppProtocol::Detect => None,
    }
}

/// Finds out what an undeclared port speaks.
async fn detect<IO>(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    io: &mut IO,
    config: &ServiceConfig,
    port: u16,
) -> Spoken
where
    IO: AsyncRead + Unpin,
{
    let spoke_http = worker.learned.borrow().spoke_http(&config.name, port);
    let mut first = Vec::new();
    let mut upstream: Option<Result<Upstream, Failed>> = None;
    let mut opening = std::pin::pin!(opaque::open(worker, source, config, port));
    let begin = Instant::now();
    let mut open_at = if spoke_http { begin + HTTP_SILENCE } else { begin };
    let mut give_up_at = None;
    loop {
        let until = give_up_at.unwrap_or(begin + Duration::from_secs(24 * 3600));
        tokio::select! {
            biased;
            read = io.read_buf(&mut first) => match read {
                // A client of what was opaque so far may have nothing to say and still want to hear.
                Ok(0) if first.is_empty() && spoke_http && upstream.is_none() => return Spoken::Nothing,
                Err(_) => return Spoken::Nothing,
                Ok(0) => break,
                Ok(_) => match detect::detect(&first) {
                    Detected::Http1 | Detected::Http2 => {
                        worker.learned.borrow_mut().learn_http(&config.name, port);
                        return Spoken::Http { first };
                    }
                    Detected::Tls | Detected::Other => break,
                    Detected::NeedMore => give_up_at = Some(Instant::now() + UNFINISHED),
                },
            },
            opened = &mut opening, if upstream.is_none() && Instant::now() >= open_at => {
                if opened.is_err() && give_up_at.is_none() {
                    give_up_at = Some(Instant::now() + UNREACHABLE);
                }
                upstream = Some(opened.map(Upstream::new));
            }
            () = sleep_until(open_at), if upstream.is_none() && Instant::now() < open_at => {
                open_at = Instant::now();
            }
            spoke = speaks(&mut upstream), if first.is_empty() => match spoke {
                // An HTTP server that tires of a connection that was opened in advance.
                Ok(0) if spoke_http => {
                    upstream = None;
                    open_at = begin + Duration::from_secs(24 * 3600);
                }
                _ => break,
            },
            () = sleep_until(until) => break,
            () = worker.drain.wait(), if first.is_empty() => return Spoken::Nothing,
        }
    }
    worker.learned.borrow_mut().forget(&config.name, port);
    if upstream.is_none() {
        upstream = Some(opening.await.map(Upstream::new));
    }
    Spoken::Opaque { first, upstream }
}

/// Waits for the upstream's first bytes.
async fn speaks(upstream: &mut Option<Result<Upstream, Failed>>) -> std::io::Result<usize> {
    match upstream {
        Some(Ok(Upstream { opened, first })) => opened.upstream().read_buf(first).await,
        _ => std::future::pending().await,
    }
}

/// The ports that have spoken HTTP on this worker though nothing declares that they do.
#[derive(Default)]
pub(crate) struct Learned(HashSet<(ServiceName, u16), foldhash::fast::RandomState>);

impl Learned {
    fn spoke_http(&self, service: &ServiceName, port: u16) -> bool {
        self.0.contains(&(service.clone(), port))
    }

    fn learn_http(&mut self, service: &ServiceName, port: u16) {
        if self.0.len() >= MAX_LEARNED {
            self.0.clear();
        }
        self.0.insert((service.clone(), port));
    }

    fn forget(&mut self, service: &ServiceName, port: u16) {
        self.0.remove(&(service.clone(), port));
    }
}

/// Serves a connection to a destination that is no part of the mesh: bytes, if egress is allowed. The
/// first of its addresses that accepts a connection gets it.
pub async fn serve_outside<IO>(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    io: IO,
    addresses: Vec<SocketAddr>,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin,
{
    if worker.state.load().snapshot.mesh.egress == EgressPolicy::Deny {
        let text = "its destination is no part of the mesh, and the mesh's egress policy is Deny";
        return reject(&worker, io, Rejection::EgressDenied, text);
    }
    match opaque::open_outside(&worker, &source, &addresses, EGRESS_CONNECT).await {
        Ok(opened) => opened.serve(io, Vec::new()).await,
        Err(failed) => refuse(&worker, &source, io, failed),
    }
}

/// Resets a connection whose upstream cannot be reached, as the upstream's own kernel would have.
fn refuse<IO: Reset>(worker: &Worker, source: &LocalWorkload, io: IO, failed: Failed) {
    let error = failed.count(worker, source);
    let why = match error.kind {
        UpstreamErrorKind::NoEndpoints => Rejection::NoEndpoints,
        UpstreamErrorKind::Shed(shed) => shed.into(),
        _ => Rejection::ConnectFailed,
    };
    reject(worker, io, why, &error.message);
}

/// Resets a connection that cannot be served.
fn reject<IO: Reset>(worker: &Worker, mut io: IO, why: Rejection, text: &str) {
    worker.metrics.counts().rejected(why);
    tracing::debug!(reason = why.as_str(), "connection refused: {text}");
    io.reset();
}
