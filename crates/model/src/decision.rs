//! What decided over a request or connection: an object, a field of it, and what came of that. Whoever decides
//! (routing, egress, retries) names it, so that logs and explanations say the same.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::name::{MESH, NamespacedName, ServiceName, WorkloadName};
use crate::snapshot::{Endpoint, HttpRouteKind, HttpRule, MeshSettings, Mirror, WorkloadConfig};

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub by: Decider,
    /// The path of the field in the object, as `kubectl explain` writes it, with indexes.
    pub field: Cow<'static, str>,
    pub effect: Effect,
}

/// The object that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decider {
    /// The one Mesh object.
    Mesh,
    Service(ServiceName),
    HttpRoute(NamespacedName),
    GrpcRoute(NamespacedName),
    TlsRoute(NamespacedName),
    TcpRoute(NamespacedName),
    AuthorizationPolicy(NamespacedName),
    ExternalService(NamespacedName),
    BackendTlsPolicy(NamespacedName),
    Flow(NamespacedName),
    Workload(WorkloadName),
    /// An address of an EndpointSlice that is no workload of the mesh.
    Endpoint(IpAddr),
}

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It goes there.
    Routed,
    /// Its client is sent elsewhere.
    Redirected,
    /// It is answered, and goes nowhere.
    Answered,
    /// It goes nowhere.
    Refused,
    /// An attempt at it failed for that.
    Failed,
    /// A copy of it goes there as well.
    Mirrored,
    /// It is tried once more.
    Retried,
    /// It is not.
    NotRetried,
    /// The endpoint was not among those to choose from.
    PassedOver,
    /// It enters through the proxy.
    Captured,
    /// It is reported, and nothing else.
    Audited,
    /// Somebody else is asked about it.
    Asked,
    /// It goes in TLS that its client does not speak.
    Originated,
}

impl Effect {
    /// Its word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Redirected => "redirected",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Mirrored => "mirrored",
            Self::Retried => "retried",
            Self::NotRetried => "not-retried",
            Self::PassedOver => "passed-over",
            Self::Captured => "captured",
            Self::Audited => "audited",
            Self::Asked => "asked",
            Self::Originated => "originated",
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => write!(f, "Mesh/{MESH}"),
            Self::Service(name) => write!(f, "Service/{name}"),
            Self::HttpRoute(name) => write!(f, "HTTPRoute/{name}"),
            Self::GrpcRoute(name) => write!(f, "GRPCRoute/{name}"),
            Self::TlsRoute(name) => write!(f, "TLSRoute/{name}"),
            Self::TcpRoute(name) => write!(f, "TCPRoute/{name}"),
            Self::AuthorizationPolicy(name) => write!(f, "AuthorizationPolicy/{name}"),
            Self::ExternalService(name) => write!(f, "ExternalService/{name}"),
            Self::BackendTlsPolicy(name) => write!(f, "BackendTLSPolicy/{name}"),
            Self::Flow(name) => write!(f, "Flow/{name}"),
            Self::Workload(name) => write!(f, "Workload/{name}"),
            Self::Endpoint(address) => write!(f, "Endpoint/{address}"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.by, self.field, self.effect.as_str())
    }
}

impl Decision {
    pub fn new(by: Decider, field: impl Into<Cow<'static, str>>, effect: Effect) -> Self {
        Self { by, field: field.into(), effect }
    }

    /// A service that is not there.
    pub fn unknown_service(service: ServiceName) -> Self {
        Self::new(Decider::Service(service), "metadata.name", Effect::Refused)
    }

    /// A service that nobody answers for.
    pub fn no_endpoints(service: ServiceName) -> Self {
        Self::new(Decider::Service(service), "spec.selector", Effect::Refused)
    }

    /// Another attempt at a service. No field of it says how many there are: those are the defaults.
    pub fn retried(service: ServiceName) -> Self {
        Self::new(Decider::Service(service), "retry.attempts (default)", Effect::Retried)
    }

    /// No other attempt at a service, as too many are made already ([`crate::retry_budget`]).
    pub fn out_of_budget(service: ServiceName) -> Self {
        Self::new(Decider::Service(service), "retryConstraint.budget (default)", Effect::NotRetried)
    }

    /// Another attempt, or none, as a rule says of retries. `field`: which of them.
    pub fn retry_of(rule: &HttpRule, field: &str, effect: Effect) -> Self {
        let field = format!("spec.rules[{}].retry{field}", rule.index);
        Self::new(Decider::rule(rule), field, effect)
    }

    /// A copy, for a mirror of a rule, or of its backend of that index.
    pub fn mirror_of(rule: &HttpRule, backend: Option<usize>, mirror: &Mirror) -> Self {
        let backend = backend.map(|index| format!(".backendRefs[{index}]")).unwrap_or_default();
        let field = format!("spec.rules[{}]{backend}.filters[{}].requestMirror", rule.index, mirror.index);
        Self::new(Decider::rule(rule), field, Effect::Mirrored)
    }

    /// An endpoint that did not take connections lately.
    pub fn passed_over(endpoint: &Endpoint) -> Self {
        Self::new(Decider::of(endpoint), "health", Effect::PassedOver)
    }

    /// An attempt at a workload that is stopping.
    pub fn draining(endpoint: &Endpoint) -> Self {
        Self::new(Decider::of(endpoint), "status.conditions[Ready]", Effect::Failed)
    }

    /// What comes for a workload that is stopping.
    pub fn stopping(workload: WorkloadName) -> Self {
        Self::new(Decider::Workload(workload), "status.conditions[Ready]", Effect::Refused)
    }

    /// What comes for a port that a workload does not offer.
    pub fn no_such_port(workload: WorkloadName) -> Self {
        Self::new(Decider::Workload(workload), "spec.ports", Effect::Refused)
    }

    /// An attempt at an endpoint that is not who was promised.
    pub fn wrong_identity(endpoint: &Endpoint) -> Self {
        Self::new(Decider::of(endpoint), "spec.serviceAccount", Effect::Failed)
    }
}

impl Decider {
    /// The route that has that rule.
    pub fn rule(rule: &HttpRule) -> Self {
        match rule.kind {
            HttpRouteKind::Http => Self::HttpRoute(rule.route.clone()),
            HttpRouteKind::Grpc => Self::GrpcRoute(rule.route.clone()),
        }
    }

    fn of(endpoint: &Endpoint) -> Self {
        match &endpoint.workload {
            Some(name) => Self::Workload(name.clone()),
            None => Self::Endpoint(endpoint.address),
        }
    }
}

/// Whether what comes to a workload past the mesh has to enter through the proxy; what decided that. As long as the server
/// has said nothing of the workload, what holds for the whole mesh does: one that is new is not open meanwhile.
pub fn inbound_capture(mesh: &MeshSettings, workload: Option<&WorkloadConfig>) -> Option<Decision> {
    let asked = workload.map_or(mesh.inbound_capture, |workload| workload.inbound_capture);
    let holds_off = |workload: &WorkloadConfig| {
        let policy = workload.policies.holding_off()?;
        Some((Decider::AuthorizationPolicy(policy.name.clone()), "spec.targetRefs"))
    };
    let by = || match workload {
        Some(workload) if workload.strict.is_anywhere() => (Decider::Mesh, "spec.mtls"),
        Some(workload) if workload.denies_by_default => (Decider::Mesh, "spec.authorization"),
        _ => workload.and_then(holds_off).unwrap_or((Decider::Mesh, "spec.inboundCapture.enabled")),
    };
    asked.then(|| {
        let (by, field) = by();
        Decision::new(by, field, Effect::Captured)
    })
}
