//! From the schema of a struct to a structural one.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The structural schema of what a struct reads.
pub(crate) fn derived<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    make_structural(&mut schema);
    schema
}

/// Turns a schema of schemars, written for any JSON Schema reader, into a structural one.
fn make_structural(schema: &mut Value) {
    if !schema.is_object() || schema.as_object().is_some_and(says_nothing) {
        let description = schema.get("description").cloned();
        *schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        if let Some(description) = description {
            schema["description"] = description;
        }
        return;
    }
    let Some(node) = schema.as_object_mut() else { return };
    for key in ["title", "default", "$schema", "writeOnly", "readOnly"] {
        node.remove(key);
    }
    // The defaults that schemars finds are those of the structs, not of the API.
    if let Some(default) = node.remove("x-default") {
        node.insert("default".to_owned(), default);
    }
    // What may be absent may be null for schemars. Kubernetes drops nulls before it looks.
    if let Some(Value::Array(branches)) = node.remove("anyOf")
        && let Some(Value::Object(branch)) = branches.into_iter().find(|b| b["type"] != "null")
    {
        for (key, value) in branch {
            node.entry(key).or_insert(value);
        }
    }
    if let Some(Value::Array(types)) = node.get("type")
        && let Some(kind) = types.iter().find(|t| *t != "null").cloned()
    {
        node.insert("type".to_owned(), kind);
    }
    if let Some(Value::Array(allowed)) = node.get_mut("enum") {
        allowed.retain(|v| !v.is_null());
    }
    if let Some(Value::String(description)) = node.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(make_structural);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(key) {
            make_structural(child);
        }
    }
}

/// Whether a schema lets everything through.
fn says_nothing(node: &Map<String, Value>) -> bool {
    node.keys().all(|key| key == "description" || key == "default" || key == "title")
}
