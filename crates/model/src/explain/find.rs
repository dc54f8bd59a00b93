//! What a host name stands for, to a workload of a namespace.

use std::net::IpAddr;
use std::sync::Arc;

use crate::apart;
use crate::host::{MAX_ALIASES, endpoint_host, is_mesh_only, mesh_host};
use crate::name::ServiceName;
use crate::snapshot::{Known, ServiceConfig, Shape, Snapshot};

pub(super) enum Found<'s> {
    Service(&'s ServiceConfig),
    /// A name that only the mesh could have, and nothing has.
    Unknown(ServiceName),
    /// Another name of one label, which hardly resolves anywhere, and the service that it could be.
    Unresolved(ServiceName),
    /// That name, or address, of the world outside.
    Outside(Arc<str>),
}

/// `stands_for`: is told of each Service on the way that is but another name, and of that.
pub(super) fn find<'s>(
    snapshot: &'s Snapshot,
    host: &str,
    namespace: &str,
    mut stands_for: impl FnMut(&ServiceName, &str),
) -> Found<'s> {
    let service = |name: &ServiceName| match snapshot.services.get(name) {
        Some(Known::Present(config)) => Some(&**config),
        _ => None,
    };
    if host.parse::<IpAddr>().is_ok() {
        return Found::Outside(host.into());
    }
    let mut host: Arc<str> = host.into();
    for _ in 0..MAX_ALIASES {
        if let Some(named) = mesh_host(&host, namespace) {
            match service(&named.service) {
                Some(ServiceConfig { shape: Shape::Alias(other), .. }) => {
                    stands_for(&named.service, other);
                    host = other.clone();
                    continue;
                }
                Some(config) => return Found::Service(config),
                None if is_mesh_only(&host) => return Found::Unknown(named.service),
                None if !host.contains('.') => return Found::Unresolved(named.service),
                None => {}
            }
        } else if is_mesh_only(&host) {
            return Found::Unknown(ServiceName::new(namespace, &*host));
        }
        if let Some(endpoint) = endpoint_host(&host, namespace)
            && let Some(parent) = apart::parent(&endpoint)
            && service(&parent).is_some_and(|parent| parent.shape == Shape::Headless)
        {
            return service(&endpoint).map_or(Found::Unknown(endpoint), Found::Service);
        }
        break;
    }
    Found::Outside(host)
}
