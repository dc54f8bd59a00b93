//! Namespace (core/v1).

mod check;
mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{CORE, Kind};
use super::meta::{Condition, Object};
use crate::name::dns_label_problem;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    short_names: &["ns"],
    namespaced: false,
    name_problem: dns_label_problem,
    fill_defaults: check::fill_defaults,
    ..Kind::new(
        KindId::Namespace,
        CORE,
        ("Namespace", "NamespaceList"),
        ("namespaces", "namespace"),
        "A scope for names: objects of one kind have different names in one namespace.",
        derived::<Namespace>,
        columns::TABLE,
    )
};

/// A scope for names.
pub type Namespace = Object<NamespaceSpec, NamespaceStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NamespaceSpec {
    /// Names of those who must agree before the namespace goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub finalizers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active` or `Terminating`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Active", "Terminating"], "x-default" = "Active"))]
    pub phase: Option<String>,
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
