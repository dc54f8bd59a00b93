//! GRPCRoute (Gateway API v1.6).

pub(crate) mod check;
mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http_route::HTTPValueMatch;
use super::http_route::filters::{HTTPHeaderFilter, HTTPRequestMirrorFilter};
use super::id::KindId;
use super::kind::{GATEWAY, Kind};
use super::meta::Object;
use super::route::session::SessionPersistence;
use super::route::{BackendRef, ParentReference, RouteStatus};
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    categories: &["gateway-api"],
    check: |object, errors| drop(check::check(object, errors)),
    warn: |route, warnings| {
        super::http_route::check::warn(route, warnings);
        super::route::fails::warn(KindId::GrpcRoute, route, warnings);
    },
    ..Kind::new(
        KindId::GrpcRoute,
        GATEWAY,
        ("GRPCRoute", "GRPCRouteList"),
        ("grpcroutes", "grpcroute"),
        "How calls of gRPC to a service are routed.",
        derived::<GRPCRoute>,
        columns::TABLE,
    )
};

/// How calls of gRPC to a service (or through a gateway) are routed.
pub type GRPCRoute = Object<GRPCRouteSpec, RouteStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GRPCRouteSpec {
    /// What the route is attached to; a Service for traffic inside the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentReference>,
    /// Host names that the route is for, at a Gateway; not used where the parent is a Service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub hostnames: Vec<String>,
    /// The rules. Of all matches that fit a call the most specific decides: service and method, service, method, most
    /// headers, oldest route, first rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<GRPCRouteRule>,
    /// Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GRPCRouteRule {
    /// Names the rule; unique in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The rule is for calls that fit one of these; for all where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<GRPCRouteMatch>,
    /// What calls of the rule and their answers pass, besides the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<GRPCRouteFilter>,
    /// Where calls go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub backend_refs: Vec<GRPCBackendRef>,
    /// Has calls of the rule stay with one endpoint each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions on a call; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GRPCRouteMatch {
    /// What is called; everything where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GRPCMethodMatch>,
    /// Headers (metadata) and their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HTTPValueMatch>,
}

/// A service, a method, or both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GRPCMethodMatch {
    /// `Exact` (default) or `RegularExpression`, of both.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exact", "RegularExpression"], "x-default" = "Exact"))]
    pub type_: Option<String>,
    /// The service with its package, as in `shop.v1.Cart`; any where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service: Option<String>,
    /// The method; any where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub method: Option<String>,
}

/// Changes a call or its answer. What the filter does is in the field that goes with its type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GRPCRouteFilter {
    /// `RequestHeaderModifier`, `ResponseHeaderModifier` or `RequestMirror`; not supported yet: `ExtensionRef`.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = [
        "ResponseHeaderModifier", "RequestHeaderModifier", "RequestMirror", "ExtensionRef"
    ]))]
    pub type_: String,
    /// Changes the headers (metadata) of calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HTTPHeaderFilter>,
    /// Changes the headers of answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HTTPHeaderFilter>,
    /// Sends copies of calls elsewhere as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<HTTPRequestMirrorFilter>,
    /// Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<Value>,
}

/// Where calls go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GRPCBackendRef {
    #[serde(flatten)]
    pub backend: BackendRef,
    /// What its calls and their answers pass, besides the rule's filters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<GRPCRouteFilter>,
}
