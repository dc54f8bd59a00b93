//! Where the client of an explicit proxy wants to go: a service of the mesh by any of its names, or a
//! place outside of it, if the mesh's egress policy lets it. Where that is `Listed`, the name that it says is the one that the proxy
//! resolves.
//!
//! A workload that uses the explicit proxy runs on this host unconfined, so it may be taken to loopback
//! addresses that it writes out (`127.0.0.1`, `localhost`): it could go there by itself. A name of the
//! outside that resolves to a loopback address is refused, because nobody who checked that name expects
//! to end up on this host (DNS rebinding). The proxy's own listeners are never a destination.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::request::Parts;
use http::uri::Authority;
use tokio::time::timeout;
use tulle_model::apart;
use tulle_model::decision::Decision;
use tulle_model::egress::originated::Onward;
use tulle_model::host::{MAX_ALIASES, endpoint_host, folded, is_mesh_only, mesh_host};
use tulle_model::name::{NamespacedName, ServiceName};
use tulle_model::snapshot::{OriginatedRoots, OriginatedTls, OutsideProtocol, Shape, TlsAsker};

use crate::exchange::{Exchange, Refused};
use crate::http::forward::Target;
use crate::http::server::ConnectionContext;
use crate::local::Lookup;
use crate::metrics::DestinationName;
use crate::outside::{OutsidePlace, Shown, admit, host_of, looked_at, told};
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::worker::Worker;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Finds the destination that `authority` names in a request of the workload `source`; `secure`: it is to go in TLS, which is originated
/// for it.
pub(crate) async fn destination(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    source: &LocalWorkload,
    head: &Parts,
    (authority, secure): (&Authority, bool),
) -> Result<Target, Refused> {
    let namespace = &*source.name.namespace;
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = host_of(authority);
    let at = async |exchange: &mut Exchange, address: IpAddr| {
        let addresses = vec![SocketAddr::new(address, port)];
        kept_from(exchange, source, host, &addresses)?;
        let place = OutsidePlace { names: Vec::new(), addresses, port };
        told(&worker.local, source).await;
        let permitted = permitted(worker, exchange, source, (head, secure), &place)?;
        outside(worker, exchange, source, place, permitted)
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some(service) = worker.local.view().virtual_addresses.get(&address) {
            return within_mesh(exchange, service.clone(), port, secure);
        }
        return at(exchange, address).await;
    }
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return at(exchange, Ipv4Addr::LOCALHOST.into()).await;
    }
    let mut alias: Arc<str>;
    let mut host = host;
    for _ in 0..MAX_ALIASES {
        match mesh_host(host, namespace) {
            Some(named) => match worker.local.service(&named.service).await {
                Lookup::Present(config) => match &config.shape {
                    Shape::Alias(name) => {
                        alias = name.clone();
                        host = &alias;
                        continue;
                    }
                    _ => return within_mesh(exchange, named.service, port, secure),
                },
                Lookup::Absent if is_mesh_only(host) => return unknown(exchange, named.service),
                // A Flow's is that of a service, unless something lists it: the host's search domains are none of its.
                Lookup::Absent if source.in_process.is_some() && !host.contains('.') => {
                    return unknown(exchange, named.service);
                }
                Lookup::Unknown if is_mesh_only(host) || !host.contains('.') => {
                    let message = format!("nothing is known of service {} yet", named.service);
                    return refuse_unknown(exchange, named.service, message);
                }
                Lookup::Absent | Lookup::Unknown => {}
            },
            None if is_mesh_only(host) => {
                exchange.goes_to(DestinationName::Unknown);
                return Err(exchange.refuse(Reason::UnknownService, format!("there is no service {host}")));
            }
            None => {}
        }
        // Or an endpoint of a headless service, without a suffix.
        if let Some(endpoint) = endpoint_host(host, namespace)
            && let Some(parent) = apart::parent(&endpoint)
            && let Lookup::Present(config) = worker.local.uncertain_service(&parent).await
            && config.shape == Shape::Headless
        {
            return match worker.local.service(&endpoint).await {
                Lookup::Present(_) => within_mesh(exchange, endpoint, port, secure),
                _ => unknown(exchange, endpoint),
            };
        }
        break;
    }
    // Asked before the name is: what may not be reached needs no look-up.
    let names = vec![Arc::from(folded(host))];
    let place = OutsidePlace { names, addresses: Vec::new(), port };
    told(&worker.local, source).await;
    let permitted = permitted(worker, exchange, source, (head, secure), &place)?;
    match timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> =
                found.filter(|address| !is_this_host(address.ip())).take(MAX_ADDRESSES).collect();
            kept_from(exchange, source, host, &addresses)?;
            if addresses.is_empty() {
                let message = format!("{host} has no address but this host's own loopback");
                exchange.goes_to(DestinationName::External);
                return Err(exchange.refuse(Reason::EgressDenied, message));
            }
            outside(worker, exchange, source, OutsidePlace { addresses, ..place }, permitted)
        }
        Ok(Err(error)) => {
            let message = format!("{host} is no service of the mesh, and does not resolve: {error}");
            exchange.goes_to(DestinationName::Unknown);
            Err(exchange.refuse(Reason::UnknownService, message))
        }
        Err(_) => {
            exchange.goes_to(DestinationName::External);
            Err(exchange.refuse(Reason::Timeout, format!("{host} did not resolve within 5 s")))
        }
    }
}

/// A service of the mesh. Whoever speaks TLS to it would not be understood.
fn within_mesh(
    exchange: &mut Exchange,
    service: ServiceName,
    port: u16,
    secure: bool,
) -> Result<Target, Refused> {
    if secure {
        let message =
            format!("{service} is a service of the mesh, which encrypts by itself: call it by http://");
        exchange.goes_to(service);
        return Err(exchange.refuse(Reason::BadRequest, message));
    }
    Ok(Target::Service { service, port })
}

/// Refuses what calls of an application within this process do not reach, wherever else they may go.
fn kept_from(
    exchange: &mut Exchange,
    source: &LocalWorkload,
    host: &str,
    addresses: &[SocketAddr],
) -> Result<(), Refused> {
    let Some(within) = &source.in_process else { return Ok(()) };
    let kept = addresses.iter().find_map(|address| Some((address, within.kept_from(*address)?)));
    let Some((address, why)) = kept else { return Ok(()) };
    let message = match host.parse::<IpAddr>() {
        Ok(_) => format!("a Flow does not reach {address}, which {why}"),
        Err(_) => format!("{host} resolves to {address}, which {why}: a Flow does not reach that"),
    };
    exchange.goes_to(DestinationName::External);
    Err(exchange.refuse(Reason::EgressDenied, message))
}

fn unknown(exchange: &mut Exchange, service: ServiceName) -> Result<Target, Refused> {
    let message = format!("there is no service {service}");
    refuse_unknown(exchange, service, message)
}

fn refuse_unknown(exchange: &mut Exchange, service: ServiceName, message: String) -> Result<Target, Refused> {
    exchange.goes_to(DestinationName::Unknown);
    exchange.decided(|| Decision::unknown_service(service));
    Err(exchange.refuse(Reason::UnknownService, message))
}

/// How a request may leave.
struct Permitted {
    /// Whether it is for a tunnel in which something is to be looked at.
    carries: bool,
    onward: Onward,
}

/// Whether a request may leave for that place.
fn permitted(
    worker: &Worker,
    exchange: &mut Exchange,
    source: &LocalWorkload,
    (head, secure): (&Parts, bool),
    place: &OutsidePlace,
) -> Result<Permitted, Refused> {
    let view = worker.local.view();
    let snapshot = &view.snapshot;
    exchange.decided_on(snapshot.generation);
    let looked_at = looked_at(snapshot, source, place);
    let is_tunnel = head.method == Method::CONNECT;
    let shown = match looked_at {
        Ok(None) => return Ok(Permitted { carries: false, onward: Onward::default() }),
        Ok(Some(OutsideProtocol::Http)) if is_tunnel => {
            return Ok(Permitted { carries: true, onward: Onward::default() });
        }
        // The name that the tunnel is for is the one that its TLS has to name.
        Ok(Some(OutsideProtocol::Tls)) if is_tunnel => Shown::Server(place.names.first().map(|name| &**name)),
        Ok(Some(OutsideProtocol::Bytes)) if is_tunnel => Shown::Bytes,
        Ok(Some(OutsideProtocol::Http)) => Shown::Request(head),
        Ok(Some(OutsideProtocol::Tls)) if secure => Shown::Server(place.names.first().map(|name| &**name)),
        Ok(Some(OutsideProtocol::Bytes)) if secure => Shown::Bytes,
        Ok(Some(OutsideProtocol::Tls | OutsideProtocol::Bytes)) if source.in_process.is_some() => {
            let message =
                format!("an ExternalService lists {place} for other than HTTP in plain: call it by https://");
            exchange.goes_to(DestinationName::External);
            return Err(exchange.refuse(Reason::BadRequest, message));
        }
        Ok(Some(OutsideProtocol::Tls | OutsideProtocol::Bytes)) => {
            let message = format!(
                "an ExternalService lists {place} for other than HTTP in plain: the proxy is to be asked for a tunnel (CONNECT)"
            );
            exchange.goes_to(DestinationName::External);
            return Err(exchange.refuse(Reason::BadRequest, message));
        }
        Err(unlisted) => {
            exchange.goes_to(DestinationName::External);
            return Err(unlisted.refuse(exchange));
        }
    };
    // What comes out of a tunnel is asked for once more, and counted then; what is refused here, here.
    if is_tunnel && let Ok(admitted) = admit(snapshot, source, place, shown, None) {
        return Ok(Permitted { carries: true, onward: admitted.onward });
    }
    let (mut onward, by) = admitted(worker, exchange, source, place, shown)?;
    if secure
        && onward.tls.is_none()
        && let Some(by) = by
    {
        let hostname = match (place.names.first(), place.addresses.first()) {
            (Some(name), _) => name.clone(),
            (None, address) => address.map(|address| address.ip().to_string()).unwrap_or_default().into(),
        };
        onward.tls = Some(Arc::new(OriginatedTls {
            by: TlsAsker::Url(by),
            hostname,
            names: Vec::new(),
            roots: OriginatedRoots::System,
        }));
    }
    Ok(Permitted { carries: is_tunnel, onward })
}

fn admitted(
    worker: &Worker,
    exchange: &mut Exchange,
    source: &LocalWorkload,
    place: &OutsidePlace,
    shown: Shown<'_>,
) -> Result<(Onward, Option<NamespacedName>), Refused> {
    let view = worker.local.view();
    match admit(&view.snapshot, source, place, shown, Some(worker.local.metrics.registry())) {
        Ok(admitted) => {
            let by = admitted.by.clone();
            Ok((admitted.noted(exchange), by))
        }
        Err(unlisted) => {
            exchange.goes_to(DestinationName::External);
            Err(unlisted.refuse(exchange))
        }
    }
}

fn outside(
    worker: &Worker,
    exchange: &mut Exchange,
    source: &LocalWorkload,
    place: OutsidePlace,
    Permitted { carries, onward }: Permitted,
) -> Result<Target, Refused> {
    let addresses = &place.addresses;
    let reaches_us = |address: &SocketAddr| worker.is_own_listener(*address);
    if addresses.iter().any(reaches_us) {
        exchange.goes_to(DestinationName::External);
        return Err(exchange.refuse(Reason::BadRequest, "the destination is the proxy itself"));
    }
    if let Some(port) = onward.port.filter(|_| source.in_process.is_some()) {
        let behind: Vec<_> = addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
        kept_from(exchange, source, &place.authority(), &behind)?;
    }
    Ok(Target::Outside { place: Rc::new(place), carries, onward })
}

/// Where a request goes that came on a connection to that place.
pub(crate) fn listed(
    cx: &ConnectionContext,
    exchange: &mut Exchange,
    head: &Parts,
    place: &Rc<OutsidePlace>,
) -> Result<Target, Refused> {
    exchange.decided_on(cx.worker.local.view().snapshot.generation);
    let (onward, _) = admitted(&cx.worker, exchange, &cx.workload, place, Shown::Request(head))?;
    Ok(Target::Outside { place: place.clone(), carries: false, onward })
}

fn is_this_host(address: IpAddr) -> bool {
    address.to_canonical().is_loopback() || address.is_unspecified()
}
