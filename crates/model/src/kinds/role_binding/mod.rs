//! RoleBinding and ClusterRoleBinding (rbac.authorization.k8s.io/v1): who has a role, in one namespace or anywhere.

mod check;
mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{Kind, RBAC};
use super::meta::ObjectMeta;
use crate::schema::structural::derived;
use crate::validate::syntax::path_segment_problem;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    name_problem: path_segment_problem,
    check: check::check_role_binding,
    check_update: check::check_update,
    fill_defaults: check::fill_defaults,
    ..Kind::new(
        KindId::RoleBinding,
        RBAC,
        ("RoleBinding", "RoleBindingList"),
        ("rolebindings", "rolebinding"),
        "Gives users and groups a Role of its namespace, or a ClusterRole for its namespace alone.",
        derived::<RoleBinding>,
        columns::TABLE,
    )
};

/// What the registry lists of ClusterRoleBinding.
pub(crate) const CLUSTER_KIND: Kind = Kind {
    namespaced: false,
    has_status: false,
    name_problem: path_segment_problem,
    check: check::check_cluster_role_binding,
    check_update: check::check_update,
    fill_defaults: check::fill_defaults,
    ..Kind::new(
        KindId::ClusterRoleBinding,
        RBAC,
        ("ClusterRoleBinding", "ClusterRoleBindingList"),
        ("clusterrolebindings", "clusterrolebinding"),
        "Gives users and groups a ClusterRole: in all namespaces, and for what is in none.",
        derived::<RoleBinding>,
        columns::TABLE,
    )
};

/// Who has a role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["roleRef"]))]
pub struct RoleBinding {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// Who has the role: each of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub subjects: Vec<RoleSubject>,
    /// The role. It cannot change: delete the binding, and make another.
    pub role_ref: RoleRef,
}

/// Somebody who may have a role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["kind", "name"]))]
pub struct RoleSubject {
    /// `rbac.authorization.k8s.io` for users and groups, empty for service accounts; filled in where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// `User`, `Group` or `ServiceAccount`.
    #[schemars(extend("enum" = ["User", "Group", "ServiceAccount"]))]
    pub kind: String,
    /// The name: a certificate's common name or a token's user; one of its groups; the service account's.
    #[schemars(length(min = 1, max = 1000))]
    pub name: String,
    /// Of a service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A role, by its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["kind", "name"], "x-kubernetes-map-type" = "atomic"))]
pub struct RoleRef {
    /// `rbac.authorization.k8s.io`; filled in where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// `Role` (of the binding's namespace) or `ClusterRole`.
    #[schemars(extend("enum" = ["Role", "ClusterRole"]))]
    pub kind: String,
    /// The name of the role.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
