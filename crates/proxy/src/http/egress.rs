//! Where the client of an explicit proxy wants to go: a service of the mesh by any of its names, or a
//! place outside of it, if the mesh's egress policy lets it.
//!
//! A workload that uses the explicit proxy runs on this host unconfined, so it may be taken to loopback
//! addresses that it writes out (`127.0.0.1`, `localhost`): it could go there by itself. A name of the
//! outside that resolves to a loopback address is refused, because nobody who checked that name expects
//! to end up on this host (DNS rebinding). The proxy's own listeners are never a destination.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tokio::time::timeout;
use tulle_model::apart;
use tulle_model::decision::{self, Decision};
use tulle_model::host::{MAX_ALIASES, endpoint_host, is_mesh_only, mesh_host};
use tulle_model::name::ServiceName;
use tulle_model::snapshot::Shape;

use crate::exchange::{Exchange, Refused};
use crate::http::forward::Target;
use crate::local::Lookup;
use crate::metrics::DestinationName;
use crate::reason::Reason;
use crate::worker::Worker;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Finds the destination that `authority` names for a workload of `namespace`.
pub(crate) async fn destination(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    namespace: &str,
    authority: &Authority,
) -> Result<Target, Refused> {
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some(service) = worker.local.view().virtual_addresses.get(&address) {
            return Ok(Target::Service { service: service.clone(), port });
        }
        return outside(worker, exchange, vec![SocketAddr::new(address, port)]);
    }
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return outside(worker, exchange, vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)]);
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
                    _ => return Ok(Target::Service { service: named.service, port }),
                },
                Lookup::Absent if is_mesh_only(host) => return unknown(exchange, named.service),
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
                Lookup::Present(_) => Ok(Target::Service { service: endpoint, port }),
                _ => unknown(exchange, endpoint),
            };
        }
        break;
    }
    // Asked before the name is: what may not be reached needs no look-up.
    permitted(worker, exchange, host)?;
    match timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> =
                found.filter(|address| !is_this_host(address.ip())).take(MAX_ADDRESSES).collect();
            if addresses.is_empty() {
                let message = format!("{host} has no address but this host's own loopback");
                exchange.goes_to(DestinationName::External);
                return Err(exchange.refuse(Reason::EgressDenied, message));
            }
            outside(worker, exchange, addresses)
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

fn unknown(exchange: &mut Exchange, service: ServiceName) -> Result<Target, Refused> {
    let message = format!("there is no service {service}");
    refuse_unknown(exchange, service, message)
}

fn refuse_unknown(exchange: &mut Exchange, service: ServiceName, message: String) -> Result<Target, Refused> {
    exchange.goes_to(DestinationName::Unknown);
    exchange.decided(|| Decision::unknown_service(service));
    Err(exchange.refuse(Reason::UnknownService, message))
}

fn permitted(worker: &Worker, exchange: &mut Exchange, host: &str) -> Result<(), Refused> {
    let view = worker.local.view();
    exchange.decided_on(view.snapshot.generation);
    decision::egress(&view.snapshot.mesh).map_err(|denied| {
        let message = format!("{host} is no service of the mesh, whose egress policy is Deny");
        exchange.goes_to(DestinationName::External);
        exchange.decided(|| denied);
        exchange.refuse(Reason::EgressDenied, message)
    })
}

fn outside(worker: &Worker, exchange: &mut Exchange, addresses: Vec<SocketAddr>) -> Result<Target, Refused> {
    if let Some(address) = addresses.first() {
        permitted(worker, exchange, &address.to_string())?;
    }
    let reaches_us = |address: &SocketAddr| worker.is_own_listener(*address);
    if addresses.iter().any(reaches_us) {
        exchange.goes_to(DestinationName::External);
        return Err(exchange.refuse(Reason::BadRequest, "the destination is the proxy itself"));
    }
    Ok(Target::Outside { addresses })
}

fn is_this_host(address: IpAddr) -> bool {
    address.to_canonical().is_loopback() || address.is_unspecified()
}
