//! The table of RoleBindings and ClusterRoleBindings, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, string, text, wide};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Role", "The role that it gives."),
        AGE,
        wide("Users", "Users who have it."),
        wide("Groups", "Groups that have it."),
        wide("ServiceAccounts", "Service accounts that have it."),
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let of_role = |field| string(object, field).unwrap_or_default();
    let named = |kind: &'static str| {
        let subjects = items(object, "/subjects").filter(move |subject| subject["kind"] == kind);
        joined(subjects.map(|subject| match string(subject, "/namespace") {
            Some(namespace) => format!("{namespace}/{}", string(subject, "/name").unwrap_or_default()),
            None => string(subject, "/name").unwrap_or_default().to_owned(),
        }))
    };
    vec![
        name(object),
        format!("{}/{}", of_role("/roleRef/kind"), of_role("/roleRef/name")),
        age(object, now),
        named("User"),
        named("Group"),
        named("ServiceAccount"),
    ]
}
