//! The table of Secrets, as `kubectl get` shows it: no values.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, name, string, text};

pub(super) const TABLE: Table = Table {
    columns: &[NAME, text("Type", "What it is for."), text("Data", "How many values it has."), AGE],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let values = object.get("data").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    let type_ = string(object, "/type").unwrap_or("Opaque").to_owned();
    vec![name(object), type_, values.to_string(), age(object, now)]
}
