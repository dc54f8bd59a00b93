//! A connection that a workload of this node makes.

use tulle_model::name::ServiceName;

/// Where the requests of an HTTP connection go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpDestination {
    /// The connection was made to that port of that service, whatever the requests' authority says.
    Service { service: ServiceName, port: u16 },
    /// The client takes us for an HTTP proxy: each request says where it goes.
    Proxy,
}

#[derive(Default)]
pub(crate) struct Learned;
