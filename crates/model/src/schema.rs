//! The OpenAPI v3 schemas of the kinds, derived from their structs.
//!
//! They are structural in Kubernetes' sense: every node has one type, nothing is referred to, and
//! free-form parts say so (`x-kubernetes-preserve-unknown-fields`). Limits and enumerations that
//! hold for a field by itself are in them, as attributes of the structs in [`crate::kinds`]; the
//! validation reads them from here, so `kubectl explain` shows what is checked.

pub(crate) mod structural;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::registry::{KINDS, Kind};

/// The schema of objects of that kind.
pub fn schema(kind: &Kind) -> &'static Value {
    static SCHEMAS: LazyLock<Vec<Value>> = LazyLock::new(|| KINDS.iter().map(generate).collect());
    &SCHEMAS[kind.id as usize]
}

fn generate(kind: &Kind) -> Value {
    let mut schema = (kind.schema)();
    schema["description"] = kind.description.into();
    schema["x-kubernetes-group-version-kind"] =
        json!([{ "group": kind.group, "version": kind.version, "kind": kind.kind }]);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::KindId;

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
