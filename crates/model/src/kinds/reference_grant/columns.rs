//! The table of ReferenceGrants, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, string, text};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("From", "Whose references are allowed: the namespace and kind."),
        text("To", "What they may refer to: the kind, and the name where one is given."),
        AGE,
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    vec![
        name(object),
        pairs(object, "/spec/from", "/namespace", "/kind"),
        pairs(object, "/spec/to", "/kind", "/name"),
        age(object, now),
    ]
}

/// Two fields of each item: `shop/HTTPRoute`, or the first alone.
fn pairs(object: &Value, list: &str, first: &str, second: &str) -> String {
    joined(items(object, list).map(|item| {
        let first = string(item, first).unwrap_or_default();
        match string(item, second) {
            Some(second) => format!("{first}/{second}"),
            None => first.to_owned(),
        }
    }))
}
