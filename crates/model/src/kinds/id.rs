//! Which kinds there are.

/// One of the kinds; index into [`crate::registry::KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KindId {
    Namespace,
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    Mesh,
    Workload,
    ReferenceGrant,
    Node,
    Event,
    /// The same objects, under the names of events.k8s.io/v1. To be read only.
    EventV1,
}
