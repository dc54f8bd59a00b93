//! The OpenAPI v3 schemas of the kinds, derived from their structs.
//!
//! They are structural in Kubernetes' sense: every node has one type, nothing is referred to, and
//! free-form parts say so (`x-kubernetes-preserve-unknown-fields`). Limits and enumerations that
//! hold for a field by itself are in them, as attributes of the structs in [`crate::kinds`]; the
//! validation reads them from here, so `kubectl explain` shows what is checked.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::kinds::{endpoint_slice, event, http_route, namespace, node, service, tcp_route, tulle, workload};
use crate::registry::{KINDS, Kind, KindId};

/// The schema of objects of that kind.
pub fn schema(kind: &Kind) -> &'static Value {
    static SCHEMAS: LazyLock<Vec<Value>> = LazyLock::new(|| KINDS.iter().map(generate).collect());
    &SCHEMAS[kind.id as usize]
}

fn generate(kind: &Kind) -> Value {
    let mut schema = match kind.id {
        KindId::Namespace => derived::<namespace::Namespace>(),
        KindId::Service => derived::<service::Service>(),
        KindId::EndpointSlice => derived::<endpoint_slice::EndpointSlice>(),
        KindId::HttpRoute => derived::<http_route::HTTPRoute>(),
        KindId::TcpRoute => derived::<tcp_route::TCPRoute>(),
        KindId::Mesh => derived::<tulle::Mesh>(),
        KindId::Workload => derived::<workload::Workload>(),
        KindId::Node => derived::<node::Node>(),
        KindId::Event => derived::<event::Event>(),
        KindId::EventV1 => derived::<event::EventV1>(),
    };
    make_structural(&mut schema);
    schema["description"] = kind.description.into();
    schema["x-kubernetes-group-version-kind"] =
        json!([{ "group": kind.group, "version": kind.version, "kind": kind.kind }]);
    schema
}

fn derived<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn every_node(schema: &Value, path: &str, check: &mut dyn FnMut(&str, &Value)) {
        check(path, schema);
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            every_node(child, &format!("{path}.{name}"), check);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(child) = schema.get(key) {
                every_node(child, &format!("{path}[]"), check);
            }
        }
    }

    #[test]
    fn schemas_are_structural() {
        for kind in KINDS {
            every_node(schema(kind), kind.kind, &mut |path, node| {
                let one_type = node["type"].is_string() || node["x-kubernetes-int-or-string"] == true;
                assert!(one_type, "{path}: {node}");
                for key in ["$ref", "anyOf", "oneOf", "allOf", "title", "$defs", "const"] {
                    assert!(node.get(key).is_none(), "{path} has {key}: {node}");
                }
                if node["type"] == "array" {
                    assert!(node["items"].is_object(), "{path}: {node}");
                }
                if node["type"] == "object" {
                    let closed = node["properties"].is_object() || node["additionalProperties"].is_object();
                    let open = node["x-kubernetes-preserve-unknown-fields"] == true;
                    assert!(closed != open, "{path}: {node}");
                }
                if node["x-kubernetes-list-type"] == "map" {
                    for key in node["x-kubernetes-list-map-keys"].as_array().expect(path) {
                        let key = key.as_str().unwrap();
                        assert!(node["items"]["properties"][key].is_object(), "{path} has no key {key}");
                    }
                }
            });
        }
    }

    #[test]
    fn every_field_is_described() {
        let mut missing = Vec::new();
        for kind in KINDS {
            every_node(schema(kind), kind.kind, &mut |path, node| {
                if !path.ends_with(']') && node["description"].as_str().is_none_or(str::is_empty) {
                    missing.push(path.to_owned());
                }
            });
        }
        assert!(missing.is_empty(), "no description: {missing:#?}");
    }

    #[test]
    fn schemas_say_what_clients_look_for() {
        let service = schema(KindId::Service.kind());
        assert_eq!(
            service["x-kubernetes-group-version-kind"],
            json!([{ "group": "", "version": "v1", "kind": "Service" }])
        );
        let ports = &service["properties"]["spec"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
        assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
        assert_eq!(ports["items"]["properties"]["targetPort"]["x-kubernetes-int-or-string"], true);
        let created = &service["properties"]["metadata"]["properties"]["creationTimestamp"];
        assert_eq!((&created["type"], &created["format"]), (&json!("string"), &json!("date-time")));
        let rules = &schema(KindId::HttpRoute.kind())["properties"]["spec"]["properties"]["rules"];
        assert_eq!(rules["type"], "array");
        assert_eq!(rules["items"]["properties"]["matches"]["maxItems"], 64);
    }
}
