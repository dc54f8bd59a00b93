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
    ExternalService,
    ConfigMap,
    BackendTlsPolicy,
    Flow,
    /// What the server shows of the runs of Flows. To be read only.
    FlowRun,
}

/// A kind of which something is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CompiledKind {
    Service,
    EndpointSlice,
    Workload,
    Node,
    Mesh,
    AuthorizationPolicy,
    ExternalService,
    ConfigMap,
    /// Of the certificates that it has, and of nothing else.
    Secret,
    BackendTlsPolicy,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    Flow,
}

impl KindId {
    /// What the compiler makes of its objects; `None`: nothing.
    pub(crate) fn compiled(self) -> Option<CompiledKind> {
        Some(match self {
            Self::Service => CompiledKind::Service,
            Self::EndpointSlice => CompiledKind::EndpointSlice,
            Self::Workload => CompiledKind::Workload,
            Self::Node => CompiledKind::Node,
            Self::Mesh => CompiledKind::Mesh,
            Self::AuthorizationPolicy => CompiledKind::AuthorizationPolicy,
            Self::ExternalService => CompiledKind::ExternalService,
            Self::ConfigMap => CompiledKind::ConfigMap,
            Self::Secret => CompiledKind::Secret,
            Self::BackendTlsPolicy => CompiledKind::BackendTlsPolicy,
            Self::HttpRoute => CompiledKind::HttpRoute,
            Self::GrpcRoute => CompiledKind::GrpcRoute,
            Self::TlsRoute => CompiledKind::TlsRoute,
            Self::TcpRoute => CompiledKind::TcpRoute,
            Self::Flow => CompiledKind::Flow,
            Self::Namespace
            | Self::ReferenceGrant
            | Self::Event
            | Self::EventV1
            | Self::FlowRun
            | Self::Role
            | Self::ClusterRole
            | Self::RoleBinding
            | Self::ClusterRoleBinding => return None,
        })
    }

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
