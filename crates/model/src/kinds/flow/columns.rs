//! The table of Flows, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, name, or_none, string, text, wide};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Version", "That of the workflow."),
        text("Trigger", "What starts it."),
        text("Service-Account", "As whom it calls."),
        text("Ready", "Whether runs of it are started and carried out, and why not."),
        AGE,
        wide("Workflow", "What the document calls itself."),
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let told = |field| string(object, &format!("/spec/workflow/document/{field}")).unwrap_or_default();
    let http = object.pointer("/spec/trigger/http");
    let trigger = http.map(|http| format!("http:{}", http.get("port").and_then(Value::as_u64).unwrap_or(80)));
    vec![
        name(object),
        told("version").to_owned(),
        or_none(trigger.unwrap_or_default()),
        string(object, "/spec/serviceAccount").unwrap_or("default").to_owned(),
        ready(object),
        age(object, now),
        format!("{}/{}", told("namespace"), told("name")),
    ]
}

/// The first of its conditions that does not hold decides.
fn ready(object: &Value) -> String {
    let mut conditions = items(object, "/status/conditions").peekable();
    if conditions.peek().is_none() {
        return "Unknown".to_owned();
    }
    let failing = conditions.find(|condition| string(condition, "/status") != Some("True"));
    failing.map_or_else(
        || "True".to_owned(),
        |condition| format!("False ({})", string(condition, "/reason").unwrap_or_default()),
    )
}
