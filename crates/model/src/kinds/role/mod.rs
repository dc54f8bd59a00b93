//! Role and ClusterRole (rbac.authorization.k8s.io/v1): what may be done with the API, in one namespace or anywhere.

mod check;
mod columns;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::KindId;
use super::kind::{Kind, RBAC};
use super::meta::ObjectMeta;
use crate::schema::structural::derived;
use crate::validate::syntax::path_segment_problem;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    name_problem: path_segment_problem,
    check: check::check_role,
    ..Kind::new(
        KindId::Role,
        RBAC,
        ("Role", "RoleList"),
        ("roles", "role"),
        "What may be done with the objects of its namespace. A RoleBinding says by whom.",
        derived::<Role>,
        columns::TABLE,
    )
};

/// What the registry lists of ClusterRole.
pub(crate) const CLUSTER_KIND: Kind = Kind {
    namespaced: false,
    has_status: false,
    name_problem: path_segment_problem,
    check: check::check_cluster_role,
    ..Kind::new(
        KindId::ClusterRole,
        RBAC,
        ("ClusterRole", "ClusterRoleList"),
        ("clusterroles", "clusterrole"),
        "What may be done with the API: everywhere by a ClusterRoleBinding, in one namespace by a RoleBinding there.",
        derived::<ClusterRole>,
        columns::TABLE,
    )
};

/// What may be done in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Role {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What may be done: all that one of the rules allows.
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<PolicyRule>,
}

/// What may be done, in all namespaces or in those where it is bound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRole {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What may be done: all that one of the rules allows.
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<PolicyRule>,
    /// Not supported: write the rules themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation_rule: Option<Value>,
}

/// Things that may be done: each of the verbs with each of the resources, or with each of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["verbs"]))]
pub struct PolicyRule {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `escalate`, `bind`, `impersonate`; of
    /// paths `get`, `post`, `delete`; `*` for all.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub verbs: Vec<String>,
    /// The groups of the resources; `""` for the core group, `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub api_groups: Vec<String>,
    /// The resources by their plural names; `httproutes/status` for their status, `*/status` for that of all, `*` for everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub resources: Vec<String>,
    /// The only objects that it is about; all where none is named. What is done with many objects at once, or with one that
    /// has no name yet, no name allows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub resource_names: Vec<String>,
    /// Paths that are no resources, in ClusterRoles that a ClusterRoleBinding binds: `/metrics`, `/tulle/v1alpha1/edges`; a `*` at
    /// the end is for all that begin so.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub non_resource_urls: Vec<String>,
}

/// As Kubernetes writes one in its messages.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ];
        f.write_str("{")?;
        for (index, (name, values)) in fields.iter().filter(|(_, values)| !values.is_empty()).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}:{values:?}")?;
        }
        f.write_str("}")
    }
}
