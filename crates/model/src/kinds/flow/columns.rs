//! The table of Flows, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, name, or_none, string, text, wide};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Version", "That of the workflow."),
        text("Trigger", "What starts it."),
        text("Service-Account", "As whom it calls."),
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
        age(object, now),
        format!("{}/{}", told("namespace"), told("name")),
    ]
}
