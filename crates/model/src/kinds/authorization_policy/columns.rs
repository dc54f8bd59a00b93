//! The table of AuthorizationPolicies, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, string, text};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Action", "What becomes of whom a rule matches."),
        text("Targets", "What it applies to."),
        text("Rules", "How many rules it has."),
        AGE,
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let targets = joined(items(object, "/spec/targetRefs").map(|target| {
        let kind = string(target, "/kind").unwrap_or_default();
        match string(target, "/name") {
            Some(name) => format!("{kind}/{name}"),
            None => kind.to_owned(),
        }
    }));
    vec![
        name(object),
        string(object, "/spec/action").unwrap_or_default().to_owned(),
        targets,
        items(object, "/spec/rules").count().to_string(),
        age(object, now),
    ]
}
