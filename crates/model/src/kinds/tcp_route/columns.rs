//! The table of TCPRoutes, as `kubectl get` shows it.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, NAME, Table, age, name};
use crate::kinds::route::columns::{ACCEPTED, PARENTS, PROGRAMMED, RESOLVED, conditions, parents};

pub(super) const TABLE: Table = Table { columns: &[NAME, PARENTS, AGE, ACCEPTED, RESOLVED, PROGRAMMED], row };

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let mut cells = vec![name(object), parents(object), age(object, now)];
    cells.extend(conditions(object));
    cells
}
