//! HTTPRoute (Gateway API v1.6).

pub(crate) mod check;
mod check_cors;
pub(in crate::kinds) mod check_filters;
mod columns;
pub mod filters;

pub(crate) use self::check::HOSTNAMES_IGNORED;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::filters::{HTTPRouteFilter, HTTPRouteRetry, HTTPRouteTimeouts};
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
        check::warn(route, warnings);
        super::route::fails::warn(KindId::HttpRoute, route, warnings);
    },
    ..Kind::new(
        KindId::HttpRoute,
        GATEWAY,
        ("HTTPRoute", "HTTPRouteList"),
        ("httproutes", "httproute"),
        "How HTTP requests to a service are routed.",
        derived::<HTTPRoute>,
        columns::TABLE,
    )
};

/// How HTTP requests to a service (or through a gateway) are routed.
pub type HTTPRoute = Object<HTTPRouteSpec, RouteStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HTTPRouteSpec {
    /// What the route is attached to; a Service for traffic inside the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentReference>,
    /// Host names that the route is for, at a Gateway; not used where the parent is a Service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub hostnames: Vec<String>,
    /// The rules. Of all matches that fit a request the most specific decides: exact path, longest
    /// prefix, method, most headers, most query parameters, oldest route, first rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        extend(
            "x-kubernetes-list-type" = "atomic",
            "x-default" = [{ "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }] }]
        )
    )]
    pub rules: Vec<HTTPRouteRule>,
    /// Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HTTPRouteRule {
    /// Names the rule; unique in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The rule is for requests that fit one of these; for all where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend(
            "x-kubernetes-list-type" = "atomic",
            "x-default" = [{ "path": { "type": "PathPrefix", "value": "/" } }]
        )
    )]
    pub matches: Vec<HTTPRouteMatch>,
    /// Where requests go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub backend_refs: Vec<HTTPBackendRef>,
    /// What requests of the rule and their answers pass, besides the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<HTTPRouteFilter>,
    /// How long requests of the rule may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HTTPRouteTimeouts>,
    /// How often, and after what, requests of the rule are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<HTTPRouteRetry>,
    /// Has requests of the rule stay with one endpoint each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Where requests go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HTTPBackendRef {
    #[serde(flatten)]
    pub backend: BackendRef,
    /// What its requests and their answers pass, besides the rule's filters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<HTTPRouteFilter>,
}

/// Conditions on a request; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HTTPRouteMatch {
    /// The path; every path where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = { "type": "PathPrefix", "value": "/" }))]
    pub path: Option<HTTPPathMatch>,
    /// Headers and their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HTTPValueMatch>,
    /// Query parameters and their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub query_params: Vec<HTTPValueMatch>,
    /// `GET`, `HEAD`, `POST`, `PUT`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE` or `PATCH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "enum" = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
    ))]
    pub method: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HTTPPathMatch {
    /// `Exact`, `PathPrefix` (default) or `RegularExpression`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exact", "PathPrefix", "RegularExpression"], "x-default" = "PathPrefix"))]
    pub type_: Option<String>,
    /// `/` where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-default" = "/"))]
    pub value: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HTTPValueMatch {
    /// `Exact` (default) or `RegularExpression`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exact", "RegularExpression"], "x-default" = "Exact"))]
    pub type_: Option<String>,
    /// The name of the header or query parameter; each at most once in a list.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What the value must be.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}
