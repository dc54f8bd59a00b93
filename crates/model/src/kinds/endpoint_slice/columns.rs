//! The table of EndpointSlices, as `kubectl get` shows it.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, string, text};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("AddressType", "IPv4 or IPv6."),
        text("Ports", "The ports that each of the endpoints offers."),
        text("Endpoints", "The addresses."),
        AGE,
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let addresses =
        items(object, "/endpoints").flat_map(|e| items(e, "/addresses")).filter_map(Value::as_str);
    let ports = items(object, "/ports").map(|p| match p.get("port").and_then(Value::as_i64) {
        Some(port) => port.to_string(),
        None => "*".to_owned(),
    });
    vec![
        name(object),
        string(object, "/addressType").unwrap_or_default().to_owned(),
        shortened(ports),
        shortened(addresses.map(str::to_owned)),
        age(object, now),
    ]
}

/// At most three, and how many more there are.
fn shortened(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    let mut text = joined(all.iter().take(3));
    if all.len() > 3 {
        let _ = write!(text, " + {} more...", all.len() - 3);
    }
    if text.is_empty() { "<unset>".to_owned() } else { text }
}
