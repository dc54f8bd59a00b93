//! An EndpointSlice as it is compiled.

use std::net::IpAddr;
use std::sync::Arc;

use crate::name::ServiceName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceForm {
    pub service: Option<ServiceName>,
    /// Of the endpoints that are ready, with the name that each has in its service, or an empty one.
    pub addresses: Vec<(IpAddr, Arc<str>)>,
    /// Of the endpoints that are not.
    pub not_ready: Vec<IpAddr>,
    /// The name of a service's port, and the number at the addresses.
    pub ports: Vec<(String, u16)>,
}
