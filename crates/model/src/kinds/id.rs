//! Which kinds there are.

/// One of the kinds; index into [`crate::registry::KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KindId {
    Namespace,
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    Mesh,
    Workload,
    AuthorizationPolicy,
    ReferenceGrant,
    Node,
    Event,
    /// The same objects, under the names of events.k8s.io/v1. To be read only.
    EventV1,
    Secret,
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl KindId {
    /// Whether it says who may do what with the API.
    pub fn is_of_roles(self) -> bool {
        matches!(self, Self::Role | Self::ClusterRole | Self::RoleBinding | Self::ClusterRoleBinding)
    }

    pub(crate) fn is_route(self) -> bool {
        self.routes_requests() || matches!(self, Self::TlsRoute | Self::TcpRoute)
    }

    /// Whether it is a kind of route for requests, and not for connections.
    pub(crate) fn routes_requests(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute)
    }
}
