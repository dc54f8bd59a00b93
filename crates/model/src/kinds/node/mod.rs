//! Node (tulle.dev/v1alpha1).

mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::{Condition, Object};
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    namespaced: false,
    short_names: &["no"],
    categories: &["tulle"],
    ..Kind::new(
        KindId::Node,
        TULLE,
        ("Node", "NodeList"),
        ("nodes", "node"),
        "One host's part of the mesh, once it has joined.",
        derived::<Node>,
        columns::TABLE,
    )
};

/// The capture mode of a node that workloads' connections pass only where they are sent there.
pub const EXPLICIT: &str = "explicit";

/// One host's part of the mesh. The server writes it when the node has joined; people label it, drain it and
/// delete it.
pub type Node = Object<NodeSpec, NodeStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Whether its workloads take no traffic, those that it runs and those that it will run: they are not ready.
    /// What is in flight goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Where it is reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<NodeAddress>,
    /// The version of Tulle that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How its workloads' connections get into the mesh: `host`, `namespace` or `explicit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture_mode: Option<String>,
    /// When it was heard last (RFC 3339); none while it is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// `Ready` says whether it is connected to the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "x-kubernetes-patch-strategy" = "merge",
        "x-kubernetes-patch-merge-key" = "type"
    ))]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// `Links`: where it takes links from other nodes.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Links"]))]
    pub kind: String,
    /// An address and a port.
    pub address: String,
}
