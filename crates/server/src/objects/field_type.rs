//! The types of those fields that the server itself reads of what callers send.
//!
//! A value of another type is an error, as in Kubernetes: read as absent, a precondition or a dry run would be dropped,
//! and the write be done for real. `null` is absent; fields that a table does not name are not looked at.

use serde_json::{Map, Value};
use tulle_model::legible::legible_start;

/// Fields and what each may hold.
pub(crate) type Fields = &'static [(&'static str, FieldType)];

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FieldType {
    String,
    /// Whole, of 64 bits.
    Integer,
    Boolean,
    Strings,
    StringMap,
    Object(Fields),
    Objects(Fields),
}

/// Checks the types of fields; the error names the first that is wrong, below `path`, and what it must be.
pub(crate) fn check(object: &Map<String, Value>, path: &str, fields: Fields) -> Result<(), String> {
    for (name, type_) in fields {
        if let Some(value) = object.get(*name).filter(|value| !value.is_null()) {
            let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
            check_value(value, &path, *type_)?;
        }
    }
    Ok(())
}

fn check_value(value: &Value, path: &str, type_: FieldType) -> Result<(), String> {
    let wrong = |expected| Err(format!("{path}: must be {expected}, not {}", described(value)));
    match (type_, value) {
        (FieldType::String, Value::String(_)) | (FieldType::Boolean, Value::Bool(_)) => Ok(()),
        (FieldType::Integer, Value::Number(number)) if number.is_i64() => Ok(()),
        (FieldType::Strings, Value::Array(items)) => check_items(items, path, FieldType::String),
        (FieldType::Objects(fields), Value::Array(items)) => {
            check_items(items, path, FieldType::Object(fields))
        }
        (FieldType::StringMap, Value::Object(entries)) => {
            entries.iter().filter(|(_, value)| !value.is_null()).try_for_each(|(key, value)| {
                check_value(value, &format!("{path}[{}]", legible_start(key, 100)), FieldType::String)
            })
        }
        (FieldType::Object(fields), Value::Object(object)) => check(object, path, fields),
        (FieldType::String, _) => wrong("a string"),
        (FieldType::Integer, _) => wrong("a whole number of 64 bits"),
        (FieldType::Boolean, _) => wrong("true or false"),
        (FieldType::Strings, _) => wrong("a list of strings"),
        (FieldType::StringMap, _) => wrong("a map of strings"),
        (FieldType::Object(_), _) => wrong("an object"),
        (FieldType::Objects(_), _) => wrong("a list of objects"),
    }
}

fn check_items(items: &[Value], path: &str, type_: FieldType) -> Result<(), String> {
    let mut items = items.iter().enumerate();
    items.try_for_each(|(index, item)| check_value(item, &format!("{path}[{index}]"), type_))
}

/// What a value is, for messages.
pub(crate) fn described(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_of_another_type_is_named_and_null_is_absent() {
        const FIELDS: Fields = &[
            ("string", FieldType::String),
            ("integer", FieldType::Integer),
            ("boolean", FieldType::Boolean),
            ("strings", FieldType::Strings),
            ("map", FieldType::StringMap),
            ("object", FieldType::Object(&[("string", FieldType::String)])),
            ("objects", FieldType::Objects(&[("string", FieldType::String)])),
        ];
        for (object, problem) in [
            (json!({}), None),
            (
                json!({
                    "string": "", "integer": -1, "boolean": false, "strings": ["a"], "map": { "a": "b" },
                    "object": { "string": "a", "other": 1 }, "objects": [{ "string": "a" }, {}], "other": [1],
                }),
                None,
            ),
            (
                json!({
                    "string": null, "integer": null, "boolean": null, "strings": null, "map": { "a": null },
                    "object": { "string": null }, "objects": [],
                }),
                None,
            ),
            (json!({ "string": 1 }), Some("string: must be a string, not a number")),
            (json!({ "string": ["a"] }), Some("string: must be a string, not a list")),
            (json!({ "integer": "1" }), Some("integer: must be a whole number of 64 bits, not a string")),
            (
                json!({ "integer": 1.5 }),
                Some("integer: must be a whole number of 64 bits, not a number with"),
            ),
            (
                json!({ "integer": u64::MAX }),
                Some("integer: must be a whole number of 64 bits, not a number"),
            ),
            (json!({ "boolean": "true" }), Some("boolean: must be true or false, not a string")),
            (json!({ "boolean": 1 }), Some("boolean: must be true or false, not a number")),
            (json!({ "strings": "a" }), Some("strings: must be a list of strings, not a string")),
            (json!({ "strings": ["a", true] }), Some("strings[1]: must be a string, not a boolean")),
            (json!({ "strings": [null] }), Some("strings[0]: must be a string, not null")),
            (json!({ "strings": [["a"]] }), Some("strings[0]: must be a string, not a list")),
            (json!({ "map": [] }), Some("map: must be a map of strings, not a list")),
            (json!({ "map": { "a": 1 } }), Some("map[a]: must be a string, not a number")),
            (json!({ "object": "a" }), Some("object: must be an object, not a string")),
            (json!({ "object": ["a"] }), Some("object: must be an object, not a list")),
            (json!({ "object": { "string": {} } }), Some("object.string: must be a string, not an object")),
            (json!({ "objects": {} }), Some("objects: must be a list of objects, not an object")),
            (json!({ "objects": [{}, "a"] }), Some("objects[1]: must be an object, not a string")),
            (json!({ "objects": [{ "string": 1 }] }), Some("objects[0].string: must be a string")),
        ] {
            let checked = check(object.as_object().unwrap(), "", FIELDS);
            match problem {
                None => assert_eq!(checked, Ok(()), "{object}"),
                Some(problem) => {
                    assert!(
                        checked.as_ref().is_err_and(|why| why.starts_with(problem)),
                        "{object}: {checked:?}"
                    )
                }
            }
        }
        let below = check(json!({ "string": 1 }).as_object().unwrap(), "metadata", FIELDS);
        assert_eq!(below, Err("metadata.string: must be a string, not a number".to_owned()));
    }
}
