//! The table of Namespaces, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, name, string, text};

pub(super) const TABLE: Table =
    Table { columns: &[NAME, text("Status", "Active or Terminating."), AGE], row };

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    vec![name(object), string(object, "/status/phase").unwrap_or("Active").to_owned(), age(object, now)]
}
