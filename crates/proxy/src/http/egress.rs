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
use tulle_model::host::{endpoint_host, is_mesh_only, mesh_host};
use tulle_model::snapshot::{EgressPolicy, Shape};

use crate::http::forward::{Refusal, Target};
use crate::local::Lookup;
use crate::metrics::Destination;
use crate::reason::Reason;
use crate::state::LocalWorkload;
use crate::worker::Worker;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How many names may stand for another one in a row.
const MAX_ALIASES: usize = 8;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Finds the destination that `authority` names for `source`.
pub(crate) async fn destination(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    authority: &Authority,
) -> Result<Target, Refusal> {
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some(service) = worker.local.state.load().virtual_addresses.get(&address) {
            return Ok(Target::Service { service: service.clone(), port });
        }
        return outside(worker, vec![SocketAddr::new(address, port)]);
    }
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return outside(worker, vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)]);
    }
    let mut alias: Arc<str>;
    let mut host = host;
    for _ in 0..MAX_ALIASES {
        let namespace = &source.name.namespace;
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
                Lookup::Absent if is_mesh_only(host) => return unknown(&named.service),
                Lookup::Unknown if is_mesh_only(host) || !host.contains('.') => {
                    let message = format!("nothing is known of service {} yet", named.service);
                    return Err(Refusal::new(Reason::UnknownService, message, Destination::Unknown));
                }
                Lookup::Absent | Lookup::Unknown => {}
            },
            None if is_mesh_only(host) => return unknown(&host),
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
                _ => unknown(&endpoint),
            };
        }
        break;
    }
    // Asked before the name is: what may not be reached needs no look-up.
    permitted(worker, host)?;
    match timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> =
                found.filter(|address| !is_this_host(address.ip())).take(MAX_ADDRESSES).collect();
            if addresses.is_empty() {
                let message = format!("{host} has no address but this host's own loopback");
                return Err(Refusal::new(Reason::EgressDenied, message, Destination::External));
            }
            outside(worker, addresses)
        }
        Ok(Err(error)) => {
            let message = format!("{host} is no service of the mesh, and does not resolve: {error}");
            Err(Refusal::new(Reason::UnknownService, message, Destination::Unknown))
        }
        Err(_) => {
            let message = format!("{host} did not resolve within 5 s");
            Err(Refusal::new(Reason::Timeout, message, Destination::External))
        }
    }
}

fn unknown(service: &impl std::fmt::Display) -> Result<Target, Refusal> {
    Err(Refusal::new(Reason::UnknownService, format!("there is no service {service}"), Destination::Unknown))
}

fn permitted(worker: &Worker, host: &str) -> Result<(), Refusal> {
    match worker.local.state.load().snapshot.mesh.egress {
        EgressPolicy::Allow => Ok(()),
        EgressPolicy::Deny => {
            let message = format!("{host} is no service of the mesh, whose egress policy is Deny");
            Err(Refusal::new(Reason::EgressDenied, message, Destination::External))
        }
    }
}

fn outside(worker: &Worker, addresses: Vec<SocketAddr>) -> Result<Target, Refusal> {
    if let Some(address) = addresses.first() {
        permitted(worker, &address.to_string())?;
    }
    let reaches_us = |address: &SocketAddr| worker.is_own_listener(*address);
    if addresses.iter().any(reaches_us) {
        let message = "the destination is the proxy itself".to_owned();
        return Err(Refusal::new(Reason::BadRequest, message, Destination::External));
    }
    Ok(Target::Outside { addresses })
}

fn is_this_host(address: IpAddr) -> bool {
    address.to_canonical().is_loopback() || address.is_unspecified()
}
