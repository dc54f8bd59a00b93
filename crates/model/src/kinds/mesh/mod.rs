//! Mesh (tulle.dev/v1alpha1).

pub(crate) mod check;
mod columns;
pub(crate) mod form;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{Kind, TULLE};
use super::meta::{Condition, Object};
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    namespaced: false,
    categories: &["tulle"],
    name_problem: check::name_problem,
    check: |object, errors| drop(check::check(object, errors)),
    check_update: check::check_update,
    ..Kind::new(
        KindId::Mesh,
        TULLE,
        ("Mesh", "MeshList"),
        ("meshes", "mesh"),
        "The settings of the whole mesh: one object, named `default`.",
        derived::<Mesh>,
        columns::TABLE,
    )
};

pub use crate::name::MESH;

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
    /// Connections to workloads from outside of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_capture: Option<MeshInboundCapture>,
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
#[serde(rename_all = "camelCase", default)]
pub struct MeshInboundCapture {
    /// Whether connections that come to workloads past the mesh enter through the proxy of their node, where it has host
    /// capture. Off by default: they then cost nothing, and nothing is known of them.
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
