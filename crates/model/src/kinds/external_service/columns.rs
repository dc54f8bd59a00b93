//! The table of ExternalServices, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, or_none, string, text};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Hosts", "The names that it lists."),
        text("Addresses", "The addresses that it lists."),
        text("Ports", "At which ports, and what is spoken there."),
        AGE,
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let listed = |pointer| or_none(joined(items(object, pointer).filter_map(Value::as_str)));
    let ports = items(object, "/spec/ports").map(|port| {
        let protocol = string(port, "/appProtocol").unwrap_or_default();
        let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
        match port.get("targetPort").and_then(Value::as_u64) {
            Some(target) => format!("{number}→{target}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    vec![name(object), listed("/spec/hosts"), listed("/spec/addresses"), joined(ports), age(object, now)]
}
