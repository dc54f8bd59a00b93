//! The table of AuthorizationPolicies, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, string, text, wide};
use crate::kinds::route::columns::worst;

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Action", "What becomes of whom a rule matches."),
        text("Targets", "What it applies to."),
        text("Accepted", "Whether it reads and finds something to act on, for all of its targets."),
        AGE,
        wide("Programmed", "Whether the nodes concerned run it."),
        wide("Enforced", "Whether somebody holds everybody to it, whichever way he comes."),
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
    let condition = |kind| worst(items(object, "/status/ancestors"), kind);
    vec![
        name(object),
        match object.pointer("/spec/externalAuth") {
            Some(_) => "Ask".to_owned(),
            None => string(object, "/spec/action").unwrap_or_default().to_owned(),
        },
        targets,
        condition("Accepted"),
        age(object, now),
        condition("Programmed"),
        condition("Enforced"),
    ]
}
