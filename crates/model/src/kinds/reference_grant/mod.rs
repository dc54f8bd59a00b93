//! ReferenceGrant (Gateway API v1.6). It is kept and shown; nothing asks for one: routes of the mesh may refer to other
//! namespaces without (GEP-1324).

mod check;
mod columns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{GATEWAY, Kind};
use super::meta::Stateless;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    short_names: &["refgrant"],
    categories: &["gateway-api"],
    check: check::check,
    ..Kind::new(
        KindId::ReferenceGrant,
        GATEWAY,
        ("ReferenceGrant", "ReferenceGrantList"),
        ("referencegrants", "referencegrant"),
        "Which objects of other namespaces may refer to which of its own. Nothing asks for it yet: routes to Services need none.",
        derived::<ReferenceGrant>,
        columns::TABLE,
    )
};

/// Which objects of other namespaces may refer to which of its own namespace.
pub type ReferenceGrant = Stateless<ReferenceGrantSpec>;

/// Who may refer to what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Whose references are allowed: those of each of these.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub from: Vec<ReferenceGrantFrom>,
    /// What they may refer to: each of these, in the grant's own namespace.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub to: Vec<ReferenceGrantTo>,
}

/// Objects that may refer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantFrom {
    /// The group of their kind; `""` for the core group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Their kind, e.g. `HTTPRoute`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Their namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantTo {
    /// The group of their kind; `""` for the core group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Their kind, e.g. `Service`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name of one; all objects of the kind where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
}
