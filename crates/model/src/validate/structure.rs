//! What a kind's schema says by itself: which fields there are, their types, limits and defaults.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::field::{Code, Errors, Field, FieldError, FieldPath, shown};
use super::suggest::{closest, did_you_mean};
use crate::port_settings::DURATION;

/// Checks types, required fields, limits, enumerations, and lists whose items must differ.
pub(super) fn check(schema: &Value, field: &Field<'_>, errors: &mut Errors) {
    if let Some(expected) = wrong_type(schema, field.value) {
        errors.push(field, Code::TypeInvalid, expected);
        return;
    }
    match field.value {
        Value::String(text) => check_text(schema, field, text, errors),
        Value::Number(number) => check_number(schema, field, number.as_i64(), errors),
        Value::Array(items) => check_list(schema, field, items, errors),
        Value::Object(fields) => check_object(schema, field, fields, errors),
        Value::Null | Value::Bool(_) => {}
    }
}

/// What a value should be, where it is something else.
fn wrong_type(schema: &Value, value: &Value) -> Option<String> {
    if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_string() || value.is_i64();
        return (!fits).then(|| format!("expected a whole number or a text, found {}", described(value)));
    }
    let (fits, expected) = match schema["type"].as_str()? {
        "string" => (value.is_string(), "a text"),
        "integer" => (value.is_i64(), "a whole number"),
        "boolean" => (value.is_boolean(), "true or false"),
        "array" => (value.is_array(), "a list"),
        "object" => (value.is_object(), "an object"),
        _ => return None,
    };
    (!fits).then(|| match value {
        Value::Number(number) if schema["pattern"] == DURATION => format!(
            "expected {expected}, found {}; a duration has a unit: of seconds, write `{number}s`",
            described(value)
        ),
        _ => mismatch(expected, value),
    })
}

/// What to say where something else than `expected` was found: "a text", "a whole number", "true or false", "a list", "an object".
pub(crate) fn mismatch(expected: &str, value: &Value) -> String {
    let advice = match (expected, value) {
        ("a text", Value::Bool(_) | Value::Number(_)) => format!("; write it in quotes: \"{value}\""),
        ("a whole number", Value::String(text)) if text.parse::<i64>().is_ok() => {
            format!("; write it without quotes: {text}")
        }
        ("true or false", Value::String(text)) if ["true", "false"].contains(&text.as_str()) => {
            format!("; write it without quotes: {text}")
        }
        ("a list", Value::Object(_)) => "; start each item with `- `".to_owned(),
        _ => String::new(),
    };
    format!("expected {expected}, found {}{advice}", described(value))
}

/// A value with its type, for messages.
fn described(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Null => shown(value),
        Value::Number(number) if number.is_i64() || number.is_u64() => format!("the number {}", shown(value)),
        Value::Number(_) => format!("the number {}, which is not a whole one in range", shown(value)),
        Value::String(_) => format!("the text {}", shown(value)),
        Value::Array(_) | Value::Object(_) => shown(value),
    }
}

fn check_text(schema: &Value, field: &Field<'_>, text: &str, errors: &mut Errors) {
    if let Some(allowed) = schema["enum"].as_array() {
        let mut allowed = allowed.iter().filter_map(Value::as_str);
        if !allowed.clone().any(|value| value == text) {
            let hint = did_you_mean(text, allowed.clone());
            let first = allowed.next().map(|v| format!("`{v}`")).unwrap_or_default();
            let list = allowed.fold(first, |list, value| format!("{list}, `{value}`"));
            let message =
                format!("{} is none of the values that are possible: {list}{hint}", shown(field.value));
            errors.push(field, Code::NotSupported, message);
            return;
        }
    }
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        errors.push(field, Code::TooLong, format!("has {length} characters; at most {max} are allowed"));
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        let message = match (length, min) {
            (0, 1) => "must not be empty".to_owned(),
            _ => format!("has {length} characters; at least {min} are needed"),
        };
        errors.invalid(field, message);
    }
    if schema["format"] == "date-time" && !text.is_empty() && text.parse::<jiff::Timestamp>().is_err() {
        let message =
            format!("{} is no time: expected RFC 3339, e.g. 2026-01-31T12:00:00Z", shown(field.value));
        errors.invalid(field, message);
    }
}

fn check_number(schema: &Value, field: &Field<'_>, number: Option<i64>, errors: &mut Errors) {
    let Some(number) = number else { return };
    let bound = |key: &str| schema[key].as_i64().or_else(|| schema[key].as_f64().map(|b| b as i64));
    let (min, max) = (bound("minimum"), bound("maximum"));
    if min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max) {
        let expected = match (min, max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (_, max) => format!("at most {}", max.unwrap_or(i64::MAX)),
        };
        errors.invalid(field, format!("{number} is out of range: expected {expected}"));
    }
}

fn check_list(schema: &Value, field: &Field<'_>, items: &[Value], errors: &mut Errors) {
    let count = items.len() as u64;
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| count > *max) {
        errors.push(field, Code::TooMany, format!("has {count} items; at most {max} are allowed"));
    }
    if let Some(min) = schema["minItems"].as_u64().filter(|min| count < *min) {
        errors.invalid(field, format!("has {count} items; at least {min} must be given"));
    }
    let mut keys: HashMap<String, usize> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let item = Field { path: field.path.index(index), value: item };
        check(&schema["items"], &item, errors);
        let Some(key) = list_key(schema, item.value) else { continue };
        if let Some(first) = keys.get(&key) {
            let message = format!("{key} is already in {}", field.path.index(*first));
            errors.push(&item, Code::Duplicate, message);
        } else {
            keys.insert(key, index);
        }
    }
}

/// What may occur only once in a list, as text; `None` where nothing can be said.
fn list_key(schema: &Value, item: &Value) -> Option<String> {
    match schema["x-kubernetes-list-type"].as_str()? {
        "set" => item.is_string().then(|| shown_whole(item)),
        "map" => {
            let mut parts = Vec::new();
            for key in schema["x-kubernetes-list-map-keys"].as_array()?.iter().filter_map(Value::as_str) {
                let given = item.get(key).filter(|v| !v.is_null());
                let value = given.or_else(|| schema["items"]["properties"][key].get("default"))?;
                parts.push(format!("{key} {}", shown_whole(value)));
            }
            Some(parts.join(", "))
        }
        _ => None,
    }
}

fn shown_whole(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", text.escape_debug()),
        other => format!("`{other}`"),
    }
}

fn check_object(schema: &Value, field: &Field<'_>, fields: &Map<String, Value>, errors: &mut Errors) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            let about = schema["properties"][name]["description"].as_str().unwrap_or_default();
            let message = format!("is missing, and is required: {}", first_sentence(about));
            errors.required(field.path.field(name.to_owned()), message);
        }
    }
    each_child(schema, fields, &field.path, &mut |schema, path, value| {
        check(schema, &Field { path, value }, errors);
    });
}

pub(super) fn first_sentence(description: &str) -> String {
    let sentence = description.split_once(". ").map_or(description, |(first, _)| first);
    let sentence = sentence.trim_end_matches('.');
    let mut chars = sentence.chars();
    // Not where the first word is a name of its own, like DNS or `TCP`.
    match (chars.next(), sentence.chars().nth(1)) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => sentence.to_owned(),
    }
}

/// The fields that are there, are not null and are in the schema, with the schema of each.
fn each_child<'a>(
    schema: &'a Value,
    fields: &'a Map<String, Value>,
    path: &FieldPath,
    visit: &mut dyn FnMut(&'a Value, FieldPath, &'a Value),
) {
    for (name, value) in fields {
        if value.is_null() {
            continue;
        }
        if let Some(child) = schema["properties"].get(name) {
            visit(child, path.field(name.clone()), value);
        } else if let Some(child) = schema.get("additionalProperties") {
            visit(child, path.key(name.clone()), value);
        }
    }
}

fn is_open(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true || schema.get("additionalProperties").is_some()
}

/// The fields that the schema doesn't know.
pub(super) fn unknown(schema: &Value, path: &FieldPath, value: &Value, found: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                unknown(&schema["items"], &path.index(index), item, found);
            }
        }
        Value::Object(fields) => {
            if let (Some(properties), false) = (schema["properties"].as_object(), is_open(schema)) {
                for (name, value) in fields.iter().filter(|(name, _)| !properties.contains_key(*name)) {
                    found.push(FieldError {
                        path: path.field(name.clone()),
                        code: Code::Unknown,
                        message: unknown_field(name, properties.keys().map(String::as_str), fields),
                        value: Some(value.clone()),
                    });
                }
            }
            each_child(schema, fields, path, &mut |schema, path, value| unknown(schema, &path, value, found));
        }
        _ => {}
    }
}

/// What to say of a field of another name than those that are `known`.
pub(crate) fn unknown_field<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    present: &Map<String, Value>,
) -> String {
    // What is there already is not what was meant.
    if let Some(meant) = closest(name, known.clone().filter(|key| !present.contains_key(*key))) {
        return format!("there is no field `{name}` here; did you mean `{meant}`?");
    }
    let names: Vec<Cow<'_, str>> = known.map(|key| format!("`{key}`").into()).collect();
    format!("there is no field `{name}` here; expected one of {}", names.join(", "))
}

/// Drops the fields that the schema doesn't know, and nulls.
pub(super) fn prune(schema: &Value, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| prune(&schema["items"], item)),
        Value::Object(fields) => {
            let properties = schema["properties"].as_object();
            let open = is_open(schema);
            if schema["x-kubernetes-preserve-unknown-fields"] == true {
                return;
            }
            fields.retain(|name, value| {
                !value.is_null() && (open || properties.is_none_or(|p| p.contains_key(name)))
            });
            for (name, value) in fields {
                let child = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                if let Some(child) = child {
                    prune(child, value);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the defaults of the schema, below what is there.
pub(super) fn fill_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| fill_defaults(&schema["items"], item)),
        Value::Object(fields) => {
            for (name, child) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = child.get("default")
                    && fields.get(name).is_none_or(Value::is_null)
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    fill_defaults(child, value);
                }
            }
        }
        _ => {}
    }
}
