//! Workload (tulle.dev/v1alpha1).

pub(crate) mod check;
mod columns;
pub(crate) mod form;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::{Condition, Object};
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    short_names: &["wl"],
    categories: &["all", "tulle"],
    check: |object, errors| drop(check::check(object, errors)),
    ..Kind::new(
        KindId::Workload,
        TULLE,
        ("Workload", "WorkloadList"),
        ("workloads", "workload"),
        "One running instance of a service, outside of Kubernetes.",
        derived::<Workload>,
        columns::TABLE,
    )
};

/// One running instance of a service, outside of Kubernetes. Nodes write those of their own
/// processes; what runs elsewhere can be written by hand.
pub type Workload = Object<WorkloadSpec, WorkloadStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSpec {
    /// The IP address at which it is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The ports that it listens at. Where none are given, one that a node runs has none, and any other takes whatever
    /// numbers Services ask for.
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

/// Since when nothing is heard of the node of a workload, in seconds since the epoch.
pub fn stale_since(workload: &Value) -> Option<i64> {
    let conditions = workload.pointer("/status/conditions")?.as_array()?;
    let stale = conditions.iter().find(|c| c["type"] == STALE && c["status"] == "True")?;
    Some(stale["lastTransitionTime"].as_str()?.parse::<Timestamp>().map_or(1, |at| at.as_second()))
}
