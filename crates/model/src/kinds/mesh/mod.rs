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
    // Without a field that it means to have, it may hold off fewer.
    prunes_unknown: false,
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
    /// Whether workloads take what comes in plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MeshMtls>,
    /// What becomes of callers of whom no AuthorizationPolicy says anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<MeshAuthorization>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshMtls {
    /// `Permissive` (default): who is not in the mesh may enter in plain. `Strict`: nothing enters but by the mesh. It is enforced on
    /// nodes with host or namespace capture.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Permissive", "Strict"], "x-default" = "Permissive"))]
    pub mode: Option<String>,
    /// Ports at which workloads listen, with modes of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"])
    )]
    pub ports: Vec<MeshMtlsPort>,
    /// Namespaces with modes of their own. Where one has a mode, it decides before the ports of the whole mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub namespaces: Vec<MeshMtlsNamespace>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshMtlsPort {
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// `Permissive` or `Strict`.
    #[schemars(extend("enum" = ["Permissive", "Strict"]))]
    pub mode: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshMtlsNamespace {
    /// The namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// `Permissive` or `Strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Permissive", "Strict"]))]
    pub mode: Option<String>,
    /// Ports at which its workloads listen, with modes of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"])
    )]
    pub ports: Vec<MeshMtlsPort>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshAuthorization {
    /// `Allow` (default): who is not denied may enter, unless a policy allows others there. `Deny`: nobody may whom no policy allows.
    #[serde(rename = "default", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Allow", "Deny"], "x-default" = "Allow"))]
    pub default_action: Option<String>,
    /// Namespaces with defaults of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub namespaces: Vec<MeshAuthorizationNamespace>,
    /// What paths may have that servers read differently, where policies go by paths: such requests get 400 otherwise. Rules compare
    /// them as they came, so that the application may read a path that no rule was asked about. An encoded NUL never passes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 12),
        extend("x-kubernetes-list-type" = "set", "items" = {
            "type": "string",
            "enum": [
                "Backslash", "Parameters", "InvalidEscape", "EmptySegment", "EncodedSlash", "EncodedBackslash",
                "EncodedDot", "EncodedDelimiter", "EncodedControl", "EncodedTwice", "DotSegment", "InvalidUtf8"
            ]
        })
    )]
    pub allow_ambiguous_paths: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshAuthorizationNamespace {
    /// The namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// `Allow` or `Deny`.
    #[serde(rename = "default")]
    #[schemars(extend("enum" = ["Allow", "Deny"]))]
    pub default_action: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshEgress {
    /// `Allow` (default): they are let through, and counted. `Deny`: they are refused, whatever is listed. `Listed`: they are let through
    /// where an ExternalService of the workload's namespace, or of `tulle-system`, lists them, and names that none lists do not resolve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Allow", "Deny", "Listed"], "x-default" = "Allow"))]
    pub policy: Option<String>,
    /// Namespaces whose workloads have a policy of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub namespaces: Vec<MeshEgressNamespace>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshEgressNamespace {
    /// The namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// `Allow`, `Deny` or `Listed`.
    #[schemars(extend("enum" = ["Allow", "Deny", "Listed"]))]
    pub policy: String,
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
    /// capture. Where nothing is said, those do for which `mtls` is strict, `authorization` denies, or an AuthorizationPolicy is: those of others
    /// then cost nothing, and nothing is known of them. With `false` none do.
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
