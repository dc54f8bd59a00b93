//! The table of FlowRuns, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, duration, name, or_none, string, text, wide};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Flow", "The Flow."),
        text("State", "Where it has come to."),
        AGE,
        text("Duration", "From its start to its end, or to now."),
        wide("Caller", "Who has started it."),
        wide("Runner", "Who carries it out, or did last."),
        wide("Entries", "How many entries its history has."),
    ],
    row,
};

/// The object need not be valid.
fn row(run: &Value, now: Timestamp) -> Vec<String> {
    let text = |pointer: &str| or_none(string(run, pointer).unwrap_or_default().to_owned());
    vec![
        name(run),
        text("/spec/flow"),
        text("/status/state"),
        age(run, now),
        or_none(lasted(run, now).unwrap_or_default()),
        text("/spec/caller"),
        text("/status/runner"),
        run.pointer("/status/entries").and_then(Value::as_u64).unwrap_or_default().to_string(),
    ]
}

/// Most runs are over within a second.
fn lasted(run: &Value, now: Timestamp) -> Option<String> {
    let time = |pointer: &str| string(run, pointer)?.parse::<Timestamp>().ok();
    let until = time("/status/endedAt").unwrap_or(now);
    let millis = until.as_millisecond().saturating_sub(time("/status/startedAt")?.as_millisecond()).max(0);
    Some(if millis < 1_000 { format!("{millis}ms") } else { duration(millis / 1_000) })
}
