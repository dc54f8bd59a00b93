//! A connection that a workload of this node makes, from top to bottom:
//! whose it is → where it goes → what it speaks → served as HTTP, or passed on as bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_model::decision::Decision;
use tulle_model::detect::{self, Detected};
use tulle_model::egress::originated::Onward;
use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::routing::decide::{self, Unrouted};
use tulle_model::snapshot::{Carried, Known, OutsideProtocol, ServiceConfig};

use crate::access_log::Asked;
use crate::client_hello::{self, ClientHello};
use crate::config::Capture;
use crate::connect::prepare;
use crate::detection::{Detection, OpenedUpstream, UNREACHABLE, find_out};
use crate::exchange::Exchange;
use crate::http;
use crate::http::server::{HttpDestination, TunnelEnd};
use crate::local::Lookup;
use crate::metrics::{DestinationName, EXTERNAL, Protocol, Rejection};
use crate::opaque;
use crate::outside::{OutsidePlace, Shown, WasShown, Withdrawable, Withdrawal, admit, looked_at, told};
use crate::reason::Reason;
use crate::reset::Reset;
use crate::state::LocalWorkload;
use crate::tcp::{Downstream, Replayed};
use crate::worker::Worker;

/// Where a connection goes.
enum Original {
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
    let Some(source) = worker.local.workload(&source) else {
        return reject(&worker, tcp, Rejection::NoWorkload, "its workload is no longer on this node");
    };
    match destination(&worker, &capture, &tcp) {
        Ok(Original::Proxy) => {
            http::server::serve(worker, source, tcp.into(), Vec::new(), HttpDestination::Proxy(enter)).await;
        }
        Ok(Original::Service { service, port }) => serve_service(worker, source, tcp, service, port).await,
        Ok(Original::Address(address)) => {
            let place = Rc::new(OutsidePlace::at(&worker.local, &source, address));
            Box::pin(serve_outside(worker, source, tcp, place)).await;
        }
        Err((why, text)) => reject(&worker, tcp, why, text),
    }
}

/// Serves a connection from outside of the mesh to a published port of a service. It is routed and balanced as one of a workload
/// is, but whoever it reaches sees somebody outside, and it leaves this node by no link.
pub(crate) async fn serve_published(
    worker: Rc<Worker>,
    service: ServiceName,
    port: u16,
    tcp: TcpStream,
    client: SocketAddr,
) {
    // One whose host is gone without a word would stay for ever.
    prepare(&tcp, client.ip().to_canonical().is_loopback());
    let source = Arc::new(from_outside(&service.namespace, client));
    serve_service(worker, source, tcp, service, port).await;
}

/// Stands for an identity where there is none: of no mesh, as its trust domain is one of RFC 2606.
static NOBODY: LazyLock<SpiffeId> = LazyLock::new(|| {
    let nobody = || SpiffeId::workload(&TrustDomain::new("outside.invalid").ok()?, "none", "none").ok();
    nobody().expect("all of it is a constant that is valid")
});

/// Somebody outside of the mesh, who asks for a service of that namespace from `address`.
fn from_outside(namespace: &str, address: SocketAddr) -> LocalWorkload {
    LocalWorkload {
        // No workload can have that name.
        name: WorkloadName::new(namespace, "(outside)"),
        service: EXTERNAL.into(),
        identity: NOBODY.clone(),
        app_address: address.ip(),
        ports: Vec::new(),
        certificate: None,
        draining: false,
        in_process: None,
        outside: Some(address),
    }
}

fn destination(
    worker: &Worker,
    capture: &Capture,
    tcp: &TcpStream,
) -> Result<Original, (Rejection, &'static str)> {
    // What is not redirected can be used by every process of this host, and speaks as the workload.
    if !matches!(capture, Capture::Redirected) && !tulle_sys::is_of_same_user(tcp).unwrap_or(false) {
        let text = "it was made by another user's process, or nobody holds its other end any more";
        return Err((Rejection::ForeignUser, text));
    }
    match capture {
        Capture::HttpProxy => Ok(Original::Proxy),
        Capture::Service { service, port } => Ok(Original::Service { service: service.clone(), port: *port }),
        Capture::Redirected => {
            let original = tulle_sys::original_destination(tcp)
                .map_err(|_| (Rejection::Loop, "it was made to the proxy itself, not redirected to it"))?;
            if worker.is_own_listener(original) {
                return Err((Rejection::Loop, "it was made to the proxy itself"));
            }
            let ip = original.ip().to_canonical();
            if let Some(service) = worker.local.view().virtual_addresses.get(&ip) {
                return Ok(Original::Service { service: service.clone(), port: original.port() });
            }
            if is_virtual(ip) {
                let text = "its destination is a virtual address that belongs to no service";
                return Err((Rejection::UnknownDestination, text));
            }
            Ok(Original::Address(SocketAddr::new(ip, original.port())))
        }
    }
}

/// 127.64.0.0/10: what the node's DNS gives to services.
fn is_virtual(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if u32::from(ip) >> 22 == u32::from(Ipv4Addr::new(127, 64, 0, 0)) >> 22)
}

/// What came out of a tunnel, which enters as a connection of its own.
fn enter(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    io: Downstream,
    end: TunnelEnd,
) -> LocalBoxFuture<'static, ()> {
    match end {
        TunnelEnd::Service { service, port } => Box::pin(serve_service(worker, source, io, service, port)),
        TunnelEnd::Outside(place) => Box::pin(serve_outside(worker, source, io, place)),
    }
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
    let config = match worker.local.service(&service).await {
        Lookup::Present(config) => config,
        Lookup::Absent => {
            let decision = Decision::unknown_service(service.clone());
            let text = "there is no such service";
            return Box::pin(turn_away(worker, source, io, service, port, decision, text)).await;
        }
        Lookup::Unknown => {
            let text = "the server did not say what the service is";
            let decision = Decision::unknown_service(service.clone());
            return Box::pin(turn_away(worker, source, io, service, port, decision, text)).await;
        }
    };
    let port_config = match decide::port_of(&config, port, &source.name.namespace) {
        Ok(port_config) => port_config,
        Err(unrouted) => {
            let Unrouted { decision, message, .. } = *unrouted;
            return Box::pin(turn_away(worker, source, io, service, port, decision, &message)).await;
        }
    };
    let spoken = match port_config.declared() {
        Some(Carried::Http) => Detection::Http { first: Vec::new() },
        Some(Carried::Bytes) => Detection::Opaque { first: Vec::new(), upstream: None },
        None => {
            let exchange = || connection(&worker, &source, service.clone().into(), port);
            Box::pin(find_out(&worker, &source, &mut io, &config, port_config, exchange)).await
        }
    };
    match spoken {
        Detection::Http { first } => {
            // Requests look for it anew, and the connection may be idle for long.
            drop(config);
            let destination = HttpDestination::Service { service, port };
            http::server::serve(worker, source, io.into(), first, destination).await;
        }
        Detection::Opaque { first, upstream } => {
            Box::pin(serve_opaque(worker, source, io, first, upstream, config, port)).await;
        }
        Detection::Nothing => {}
    }
}

/// Passes the bytes of a connection on; where there are TLSRoutes, to where its client wants to go. Boxed by who calls it, so
/// that one that speaks HTTP and is idle does not hold the room for it.
async fn serve_opaque<IO>(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    mut io: IO,
    mut first: Vec<u8>,
    upstream: Option<Result<OpenedUpstream, Box<Exchange>>>,
    mut config: Arc<ServiceConfig>,
    port: u16,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let opened = match upstream {
        Some(opened) => opened,
        None => {
            let service = config.name.clone();
            let exchange = || connection(&worker, &source, service.clone().into(), port);
            let mut server = None;
            if let Ok(own) = decide::port_of(&config, port, &source.name.namespace)
                && !own.tls_routes.is_empty()
            {
                let account = worker.local.account(&source);
                // What other connections have no need of.
                match Box::pin(client_hello::read(&worker, &account, &mut io, &mut first)).await {
                    ClientHello::Whole(named) => {
                        server = named;
                        // The client may have taken its time.
                        if let Some(Known::Present(now)) = worker.local.view().snapshot.services.get(&service)
                        {
                            config = now.clone();
                        }
                    }
                    ClientHello::Gone => return,
                    ClientHello::Refused(reason, message) => {
                        let mut exchange = exchange();
                        if !matches!(reason, Reason::Shed(_)) {
                            exchange.decided(|| decide::hostnames_of(&config, own));
                        }
                        exchange.refuse(reason, message);
                        return refuse(&worker, io, exchange);
                    }
                }
            }
            let opened = opaque::open(&worker, &source, exchange(), &config, port, server.as_deref());
            opened.await.map(OpenedUpstream::new)
        }
    };
    match opened {
        Ok(upstream) => upstream.opened.serve(Replayed::new(first, io), upstream.first).await,
        Err(refused) => refuse(&worker, io, refused),
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
    decision: Decision,
    text: &str,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin + Into<Downstream>,
{
    let mut first = Vec::new();
    let speaks_http = async {
        while io.read_buf(&mut first).await.is_ok_and(|length| length > 0) {
            match detect::detect(&first, false) {
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
    let mut exchange = connection(&worker, &source, service.clone().into(), port);
    exchange.decided(|| decision);
    exchange.refuse(Reason::UnknownService, text);
    refuse(&worker, io, exchange);
}

/// Serves a connection to a destination that is no part of the mesh, if it may leave: bytes, or what an ExternalService says is
/// spoken there. The first of its addresses that accepts a connection gets it.
async fn serve_outside<IO>(
    worker: Rc<Worker>,
    source: Arc<LocalWorkload>,
    mut io: IO,
    place: Rc<OutsidePlace>,
) where
    IO: AsyncRead + AsyncWrite + Reset + Unpin + Into<Downstream>,
{
    let exchange = || connection(&worker, &source, DestinationName::External, place.port);
    told(&worker.local, &source).await;
    let looked_at = looked_at(&worker.local.view().snapshot, &source, &place);
    let is_tls = match looked_at {
        Ok(None) => {
            let onward = Onward::default();
            return match opaque::open_outside(&worker, &source, exchange(), &place, onward.clone()).await {
                Ok(opened) => {
                    let withdrawal = Withdrawal::of(&worker.local, &source, place, WasShown::Bytes, onward);
                    opened.serve(Withdrawable::new(withdrawal, io), Vec::new()).await;
                }
                Err(refused) => refuse(&worker, io, refused),
            };
        }
        Ok(Some(OutsideProtocol::Http)) => {
            let destination = HttpDestination::Outside(place);
            return http::server::serve(worker, source, io.into(), Vec::new(), destination).await;
        }
        Ok(Some(OutsideProtocol::Tls)) => true,
        Ok(Some(OutsideProtocol::Bytes)) => false,
        Err(unlisted) => {
            let mut exchange = exchange();
            unlisted.refuse(&mut exchange);
            return refuse(&worker, io, exchange);
        }
    };
    let mut first = Vec::new();
    let mut named = None;
    if is_tls {
        let account = worker.local.account(&source);
        match Box::pin(client_hello::read(&worker, &account, &mut io, &mut first)).await {
            ClientHello::Whole(server) => named = Some(server),
            ClientHello::Gone => return,
            ClientHello::Refused(reason, message) => {
                let mut exchange = exchange();
                exchange.refuse(reason, message);
                return refuse(&worker, io, exchange);
            }
        }
    }
    let shown = named.as_ref().map_or(Shown::Bytes, |server| Shown::Server(server.as_deref()));
    let mut exchange = exchange();
    let registry = worker.local.metrics.registry();
    // The client may have taken its time.
    let admitted = admit(&worker.local.view().snapshot, &source, &place, shown, Some(registry));
    let onward = match admitted {
        Ok(admitted) => admitted.noted(&mut exchange),
        Err(unlisted) => {
            unlisted.refuse(&mut exchange);
            return refuse(&worker, io, exchange);
        }
    };
    match opaque::open_outside(&worker, &source, exchange, &place, onward.clone()).await {
        Ok(opened) => {
            let shown = named.map_or(WasShown::Bytes, WasShown::Server);
            let withdrawal = Withdrawal::of(&worker.local, &source, place, shown, onward);
            opened.serve(Withdrawable::new(withdrawal, Replayed::new(first, io)), Vec::new()).await;
        }
        Err(refused) => refuse(&worker, io, refused),
    }
}

/// A connection of bytes to that port.
fn connection(
    worker: &Worker,
    source: &Arc<LocalWorkload>,
    destination: DestinationName,
    port: u16,
) -> Box<Exchange> {
    let asked = || Asked::Connection { port };
    Box::new(Exchange::begin(&worker.local, source, Protocol::Tcp, destination, asked))
}

/// Resets a connection that goes nowhere, as the kernel of where it wanted to go would have.
fn refuse<IO: Reset>(worker: &Worker, io: IO, exchange: Box<Exchange>) {
    let reason = exchange.reason().unwrap_or(Reason::ConnectFailed);
    let why = match reason {
        Reason::EgressDenied | Reason::Misdirected => Rejection::EgressDenied,
        Reason::Denied => Rejection::Denied,
        Reason::UnknownService => Rejection::UnknownDestination,
        Reason::NoEndpoints | Reason::InvalidBackend => Rejection::NoEndpoints,
        Reason::NoRoute => Rejection::NoRoute,
        Reason::BadRequest | Reason::RequestTimeout => Rejection::NotTls,
        Reason::Shed(shed) => shed.into(),
        _ => Rejection::ConnectFailed,
    };
    // What its client sees is counted by then.
    let message = exchange.message().to_owned();
    exchange.turned_away(reason.verdict(), None);
    reject(worker, io, why, &message);
}

/// Resets a connection that cannot be served.
fn reject<IO: Reset>(worker: &Worker, mut io: IO, why: Rejection, text: &str) {
    worker.local.metrics.counts().rejected(why);
    tracing::debug!(reason = why.as_str(), "connection refused: {text}");
    io.reset();
}
