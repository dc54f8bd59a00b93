//! The table of events, in either version, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{Column, NAME, Table, duration, name, string, text, wide};

use super::last_time;

pub(super) const TABLE: Table = Table {
    columns: &[
        text("Last Seen", "How long ago it happened last."),
        text("Type", "Normal or Warning."),
        text("Reason", "Why, in one word."),
        text("Object", "What it happened to."),
        text("Message", "What happened."),
        wide("First Seen", "How long ago it happened first."),
        wide("Count", "How often it happened."),
        Column { priority: 1, ..NAME },
    ],
    row,
};

/// The object need not be valid.
fn row(event: &Value, now: Timestamp) -> Vec<String> {
    let either = |old: &str, new: &str| string(event, old).or_else(|| string(event, new)).unwrap_or_default();
    let ago = |time: Option<&str>| match time.and_then(|time| time.parse::<Timestamp>().ok()) {
        Some(time) => duration(now.as_second() - time.as_second()),
        None => "<unknown>".to_owned(),
    };
    let first = either("/firstTimestamp", "/deprecatedFirstTimestamp");
    let count = event.get("count").or_else(|| event.get("deprecatedCount"));
    let kind = either("/involvedObject/kind", "/regarding/kind").to_ascii_lowercase();
    vec![
        ago(last_time(event)),
        string(event, "/type").unwrap_or_default().to_owned(),
        string(event, "/reason").unwrap_or_default().to_owned(),
        format!("{kind}/{}", either("/involvedObject/name", "/regarding/name")),
        either("/message", "/note").trim().to_owned(),
        ago(Some(first).filter(|first| !first.is_empty())),
        count.and_then(Value::as_i64).unwrap_or(1).to_string(),
        name(event),
    ]
}
