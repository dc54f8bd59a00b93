//! EndpointSlice (discovery.k8s.io/v1).

pub(crate) mod check;
mod columns;
pub(crate) mod form;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::KindId;
use super::kind::{DISCOVERY, Kind};
use super::meta::ObjectMeta;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    check: |object, errors| drop(check::check(object, errors)),
    ..Kind::new(
        KindId::EndpointSlice,
        DISCOVERY,
        ("EndpointSlice", "EndpointSliceList"),
        ("endpointslices", "endpointslice"),
        "Some of the addresses of a service that selects no workloads; the label kubernetes.io/service-name says of which service.",
        derived::<EndpointSlice>,
        columns::TABLE,
    )
};

/// Some of the addresses of a service that selects no workloads; the label
/// `kubernetes.io/service-name` says of which.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// The group and version of the kind.
    #[serde(default)]
    pub api_version: String,
    /// The kind of the object.
    #[serde(default)]
    pub kind: String,
    /// Standard object metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `IPv4` or `IPv6`.
    #[schemars(extend("enum" = ["IPv4", "IPv6", "FQDN"]))]
    pub address_type: String,
    /// The endpoints: at most 1000.
    #[serde(default)]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports that each of the endpoints offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<SlicePort>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["addresses"]))]
pub struct SliceEndpoint {
    /// Addresses of one endpoint; the first is used.
    #[schemars(length(min = 1, max = 100), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<String>,
    /// The state of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<SliceEndpointConditions>,
    /// What the endpoint of a headless service is called: `NAME.SERVICE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The node of the cluster that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The zone that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The object that the endpoint stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Value>,
    /// Which clients should prefer it; kept, not used by the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Value>,
    /// Labels of former versions of the kind; not used.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub deprecated_topology: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpointConditions {
    /// Ready to take traffic; ready where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it answers, be it terminating or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Whether it is about to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SlicePort {
    /// The name of the service's port that it answers for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = ""))]
    pub name: Option<String>,
    /// The port of the endpoints, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// `TCP` (default); the others are not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"], "x-default" = "TCP"))]
    pub protocol: Option<String>,
    /// What the port speaks; as in a Service's ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}
