//! The table of ConfigMaps, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, name, text};

pub(super) const TABLE: Table = Table { columns: &[NAME, text("Data", "How many values it has."), AGE], row };

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let values = |field| object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    vec![name(object), (values("data") + values("binaryData")).to_string(), age(object, now)]
}
