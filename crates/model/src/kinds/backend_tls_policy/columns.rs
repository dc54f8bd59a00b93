//! The table of BackendTLSPolicies, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, string, text, wide};
use crate::kinds::route::columns::worst;

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Targets", "What it is about."),
        text("Hostname", "The server that is asked for."),
        text("Accepted", "Whether it counts, at all of its targets."),
        AGE,
        wide("Resolved", "Whether all of its references have certificates."),
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let targets = joined(items(object, "/spec/targetRefs").map(|target| {
        let of = |field| string(target, field).unwrap_or_default();
        match string(target, "/sectionName") {
            Some(section) => format!("{}/{}:{section}", of("/kind"), of("/name")),
            None => format!("{}/{}", of("/kind"), of("/name")),
        }
    }));
    let condition = |kind| worst(items(object, "/status/ancestors"), kind);
    vec![
        name(object),
        targets,
        string(object, "/spec/validation/hostname").unwrap_or_default().to_owned(),
        condition("Accepted"),
        age(object, now),
        condition("ResolvedRefs"),
    ]
}
