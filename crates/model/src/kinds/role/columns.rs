//! The table of Roles and ClusterRoles, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{NAME, Table, name, string, text};

pub(super) const TABLE: Table = Table { columns: &[NAME, text("Created At", "When it was created.")], row };

/// The object need not be valid.
fn row(object: &Value, _: Timestamp) -> Vec<String> {
    vec![name(object), string(object, "/metadata/creationTimestamp").unwrap_or_default().to_owned()]
}
