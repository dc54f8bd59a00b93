//! The table of Nodes, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, duration, items, joined, name, or_none, string, text, wide};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Status", "Whether it is connected to the server, and whether it was drained."),
        text("Last-Seen", "How long ago it was heard; `now` while it is connected."),
        text("Addresses", "Where it takes links from other nodes."),
        text("Version", "The version of Tulle that it runs."),
        AGE,
        wide("Capture", "How its workloads' connections get into the mesh."),
        wide("Reason", "Why it is in that state."),
    ],
    row,
};

/// The object need not be valid.
fn row(node: &Value, now: Timestamp) -> Vec<String> {
    let ready = items(node, "/status/conditions").find(|c| string(c, "/type") == Some("Ready"));
    let status = match ready.and_then(|c| string(c, "/status")) {
        Some("True") => "Ready",
        Some("False") => "Left",
        _ => "Unknown",
    };
    let drained = node.pointer("/spec/drained") == Some(&Value::Bool(true));
    let last_seen = string(node, "/status/lastSeen").and_then(|time| time.parse::<Timestamp>().ok());
    let last_seen = match (status, last_seen) {
        ("Ready", _) => "now".to_owned(),
        (_, Some(seen)) => format!("{} ago", duration(now.as_second() - seen.as_second())),
        _ => "<unknown>".to_owned(),
    };
    let text = |pointer: &str| or_none(string(node, pointer).unwrap_or_default().to_owned());
    vec![
        name(node),
        format!("{status}{}", if drained { ",Drained" } else { "" }),
        last_seen,
        or_none(joined(items(node, "/status/addresses").filter_map(|a| string(a, "/address")))),
        text("/status/version"),
        age(node, now),
        text("/status/captureMode"),
        ready.and_then(|c| string(c, "/message")).unwrap_or_default().to_owned(),
    ]
}
