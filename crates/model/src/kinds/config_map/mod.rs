//! ConfigMap (core/v1): values that all may read who see what runs. A BackendTLSPolicy has its certificates of authorities from one.

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
    short_names: &["cm"],
    check: check::check,
    check_update: check::check_update,
    ..Kind::new(
        KindId::ConfigMap,
        CORE,
        ("ConfigMap", "ConfigMapList"),
        ("configmaps", "configmap"),
        "Values that are no secret: here, the certificates of authorities that a BackendTLSPolicy names.",
        derived::<ConfigMap>,
        columns::TABLE,
    )
};

/// Values by their names, which are no secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// The group and version of the kind.
    pub api_version: String,
    /// The kind of the object.
    pub kind: String,
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// The values, as they are. `ca.crt` is where a BackendTLSPolicy finds certificates of authorities, in PEM.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Values that are no text, in base64. None of their names is in `data`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, String>,
    /// Whether its values are never to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}
