//! Tulle's own kinds (tulle.dev/v1alpha1): Mesh, Workload and Node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::{Condition, Object};

/// The name of the one Mesh object.
pub const MESH: &str = "default";

/// The settings of the whole mesh: one object, named `default`, in no namespace.
pub type Mesh = Object<MeshSpec, MeshStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshSpec {
    /// The trust domain of the mesh's identities. Set when the server first starts; it cannot change later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Connections to destinations outside of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<MeshEgress>,
    /// Whether every request is logged by the node that sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<MeshAccessLog>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshEgress {
    /// `Allow` (default: let through, and count) or `Deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Allow", "Deny"], "x-default" = "Allow"))]
    pub policy: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshAccessLog {
    /// Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MeshStatus {
    /// Aspects of the object's state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "x-kubernetes-patch-strategy" = "merge",
        "x-kubernetes-patch-merge-key" = "type"
    ))]
    pub conditions: Vec<Condition>,
}

/// One running instance of a service, outside of Kubernetes. Nodes write those of their own
/// processes; what runs elsewhere can be written by hand.
pub type Workload = Object<WorkloadSpec, WorkloadStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSpec {
    /// The IP address at which it is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The ports that it listens at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"])
    )]
    pub ports: Vec<WorkloadPort>,
    /// The service account of its identity, `spiffe://<trust domain>/ns/<namespace>/sa/<serviceAccount>`;
    /// `default` where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "default"))]
    pub service_account: Option<String>,
    /// The node that runs it; without one it is no part of the mesh and is reached in plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<WorkloadNode>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// By which a Service's targetPort may refer to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that it listens at, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// The port of a Service that it stands for where several instances share a host, and each
    /// listens at a port of its own; the same as `port` where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadNode {
    /// The name of the node.
    pub name: String,
    /// Where the node takes links, `address:port`.
    pub link_address: String,
}

/// The condition of a workload whose node the server does not hear of.
pub const STALE: &str = "Stale";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkloadStatus {
    /// `Ready` says whether it may take traffic; `Stale` that nothing is heard of its node, and since when.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
        "x-kubernetes-patch-strategy" = "merge",
        "x-kubernetes-patch-merge-key" = "type"
    ))]
    pub conditions: Vec<Condition>,
}

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
    /// How its workloads' connections get into the mesh: `host` or `explicit`.
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
