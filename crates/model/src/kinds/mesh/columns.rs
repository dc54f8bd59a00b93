//! The table of the Mesh, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, name, string, text};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Trust-Domain", "The trust domain of the mesh's identities."),
        text("Egress", "What happens to connections to destinations outside of the mesh."),
        AGE,
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    vec![
        name(object),
        string(object, "/spec/trustDomain").unwrap_or_default().to_owned(),
        string(object, "/spec/egress/policy").unwrap_or("Allow").to_owned(),
        age(object, now),
    ]
}
