//! What the kinds of routes share (Gateway API v1.6): parents, backends, the status.

pub(super) mod check;
pub(super) mod columns;
pub(in crate::kinds) mod fails;
pub(crate) mod form;
pub mod session;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::Condition;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// `""` for a Service; `gateway.networking.k8s.io` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-default" = "gateway.networking.k8s.io"))]
    pub group: Option<String>,
    /// `Service`; `Gateway` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), extend("x-default" = "Gateway"))]
    pub kind: Option<String>,
    /// The route's own namespace where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The name of the parent.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The name of a section of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// One port of the parent; all of them where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    #[serde(flatten)]
    pub to: BackendObjectReference,
    /// Its share of the traffic, over the sum of the rule's weights: 0 to 1,000,000, 1 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = 1))]
    pub weight: Option<i64>,
}

impl BackendObjectReference {
    /// What is said of one that refers to nothing that can be a backend.
    pub(crate) fn unsupported(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("Service");
        let group = self.group.as_deref().unwrap_or_default();
        format!(
            "a backend of group `{group}`, kind `{kind}` is not supported, only a Service is, or a Flow of group `tulle.dev` in the backendRefs of an HTTPRoute"
        )
    }
}

/// A Service and its port, or a Flow with a trigger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendObjectReference {
    /// `""` (default), for a Service; `tulle.dev` for a Flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-default" = ""))]
    pub group: Option<String>,
    /// `Service` (default), or `Flow`: each request starts a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), extend("x-default" = "Service"))]
    pub kind: Option<String>,
    /// The route's own namespace where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The name of the service.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The port of the service; required. Of a Flow, that of its trigger where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
}

/// What became of a route, for each of its parents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteStatus {
    /// One entry a parent.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parents: Vec<RouteParentStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, as in the spec.
    pub parent_ref: ParentReference,
    /// Who wrote this: `tulle.dev/mesh`.
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`, `Programmed`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
