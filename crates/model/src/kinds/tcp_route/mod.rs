//! TCPRoute (Gateway API v1.6).

pub(crate) mod check;
mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{GATEWAY, Kind};
use super::meta::Object;
use super::route::{BackendRef, ParentReference, RouteStatus};
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    categories: &["gateway-api"],
    check: |object, errors| drop(check::check(object, errors)),
    warn: |route, warnings| super::route::fails::warn(KindId::TcpRoute, route, warnings),
    ..Kind::new(
        KindId::TcpRoute,
        GATEWAY,
        ("TCPRoute", "TCPRouteList"),
        ("tcproutes", "tcproute"),
        "How TCP connections to a service are routed.",
        derived::<TCPRoute>,
        columns::TABLE,
    )
};

/// How TCP connections to a service (or through a gateway) are routed.
pub type TCPRoute = Object<TCPRouteSpec, RouteStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TCPRouteSpec {
    /// What the route is attached to; a Service for traffic inside the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentReference>,
    /// Exactly one rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<TCPRouteRule>,
    /// Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TCPRouteRule {
    /// Names the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Where connections go, by weight; at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub backend_refs: Vec<BackendRef>,
}
