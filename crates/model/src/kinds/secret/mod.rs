//! Secret (core/v1): values that few may read.

mod check;
mod columns;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::KindId;
use super::kind::{CORE, Kind};
use super::meta::ObjectMeta;
use crate::schema::structural::derived;

/// What the registry lists.
pub(crate) const KIND: Kind = Kind {
    has_status: false,
    check: check::check,
    check_update: check::check_update,
    fill_defaults: check::fill_defaults,
    ..Kind::new(
        KindId::Secret,
        CORE,
        ("Secret", "SecretList"),
        ("secrets", "secret"),
        "Values that only those may read who may get or list Secrets: the roles view and edit may not.",
        derived::<Secret>,
        columns::TABLE,
    )
};

/// Values by their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What it is for: `Opaque` (default), `kubernetes.io/tls`, …
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "Opaque"))]
    pub type_: Option<String>,
    /// The values, in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Values as they are: they become a part of `data`, and are never shown so.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub string_data: BTreeMap<String, String>,
    /// Whether its values are never to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}
