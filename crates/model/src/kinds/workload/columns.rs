//! The table of Workloads, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, duration, items, joined, name, or_none, string, text, wide};

use super::stale_since;

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Service-Account", "The service account of its identity."),
        text("Address", "The address at which it is reached."),
        text("Node", "The node that runs it."),
        text("Ready", "Whether it may take traffic, and for how long nothing was heard of its node."),
        AGE,
        wide("Ports", "The ports that it listens at."),
        wide("Reason", "Why it is ready or not."),
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let ready = items(object, "/status/conditions").find(|c| string(c, "/type") == Some("Ready"));
    // A workload that somebody wrote by hand has nobody who would report its state.
    let unreported = if object.pointer("/spec/node").is_some() { "Unknown" } else { "True" };
    vec![
        name(object),
        string(object, "/spec/serviceAccount").unwrap_or("default").to_owned(),
        or_none(string(object, "/spec/address").unwrap_or_default().to_owned()),
        or_none(string(object, "/spec/node/name").unwrap_or_default().to_owned()),
        format!(
            "{}{}",
            ready.and_then(|c| string(c, "/status")).unwrap_or(unreported),
            stale_since(object)
                .map(|since| format!(" (stale {})", duration(now.as_second() - since)))
                .unwrap_or_default()
        ),
        age(object, now),
        or_none(joined(items(object, "/spec/ports").filter_map(workload_port))),
        ready.and_then(|c| string(c, "/reason")).unwrap_or_default().to_owned(),
    ]
}

fn workload_port(port: &Value) -> Option<String> {
    let number = port.get("port")?.as_i64()?;
    Some(match port.get("targetPort").and_then(Value::as_i64) {
        Some(target) if target != number => format!("{target}→{number}"),
        _ => number.to_string(),
    })
}
