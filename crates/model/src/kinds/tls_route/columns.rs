//! The table of TLSRoutes, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, items, joined, name, text};
use crate::kinds::route::columns::{ACCEPTED, PARENTS, PROGRAMMED, RESOLVED, conditions, parents};

pub(super) const TABLE: Table = Table {
    columns: &[
        NAME,
        text("Hostnames", "Servers that the route is for, as clients name them (SNI)."),
        PARENTS,
        AGE,
        ACCEPTED,
        RESOLVED,
        PROGRAMMED,
    ],
    row,
};

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let hostnames = items(object, "/spec/hostnames").filter_map(Value::as_str);
    let mut cells = vec![name(object), joined(hostnames), parents(object), age(object, now)];
    cells.extend(conditions(object));
    cells
}
