//! TLSRoute (Gateway API v1.6).

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
    warn: |route, warnings| super::route::fails::warn(KindId::TlsRoute, route, warnings),
    ..Kind::new(
        KindId::TlsRoute,
        GATEWAY,
        ("TLSRoute", "TLSRouteList"),
        ("tlsroutes", "tlsroute"),
        "How TLS connections to a service are routed, by the server that their clients name (SNI).",
        derived::<TLSRoute>,
        columns::TABLE,
    )
};

/// How TLS connections to a service (or through a gateway) are routed, by the server that their clients name (SNI). They
/// are passed on as they are.
pub type TLSRoute = Object<TLSRouteSpec, RouteStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TLSRouteSpec {
    /// What the route is attached to; a Service for traffic inside the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentReference>,
    /// The servers that the route is for, as clients name them (SNI): `a.example.com`, or `*.example.com` for all
    /// below it. Of all host names of a port's TLSRoutes that fit, a whole one decides, else the longest; of
    /// the same, the oldest route's. At least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub hostnames: Vec<String>,
    /// Exactly one rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<TLSRouteRule>,
    /// Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TLSRouteRule {
    /// Names the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Where connections go, by weight; at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub backend_refs: Vec<BackendRef>,
}
