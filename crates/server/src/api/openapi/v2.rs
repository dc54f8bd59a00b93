//! The OpenAPI v2 document (`/openapi/v2`), for clients that check objects by it: kubectl does so for lists
//! of several kinds. It is made from those of version 3, and says the same.

use std::sync::LazyLock;

use prost::Message as _;
use serde_json::{Map, Value, json};

use super::super::accept::OpenApiV2;
use super::{discovery, gnostic};

static JSON: LazyLock<String> = LazyLock::new(|| document().to_string());
static PROTOBUF: LazyLock<Vec<u8>> = LazyLock::new(|| gnostic::Document::from(&document()).encode_to_vec());

/// The document in the form that the client wants.
pub(crate) fn get(form: OpenApiV2) -> &'static [u8] {
    match form {
        OpenApiV2::Json => JSON.as_bytes(),
        OpenApiV2::Protobuf => &PROTOBUF,
    }
}

fn document() -> Value {
    let (mut definitions, mut paths) = (Map::new(), Map::new());
    for (group, version) in discovery::group_versions() {
        let document = super::document(group, version);
        let schemas = document["components"]["schemas"].as_object().into_iter().flatten();
        definitions.extend(schemas.map(|(name, schema)| (name.clone(), definition(name, schema))));
        let of_group = document["paths"].as_object().into_iter().flatten();
        paths.extend(of_group.map(|(path, item)| (path.clone(), path_item(item))));
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Tulle", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "definitions": definitions,
    })
}

fn definition(name: &str, schema: &Value) -> Value {
    if name == super::INT_OR_STRING {
        // Version 2 knows no alternatives; clients know this format.
        return json!({
            "description": schema["description"], "type": "string", "format": "int-or-string",
        });
    }
    let mut schema = schema.clone();
    refer_to_definitions(&mut schema);
    schema
}

/// Has references lead to where version 2 keeps schemas.
fn refer_to_definitions(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else { return };
    // One reference alone is in a list in version 3, so that it may have a description beside it.
    if let Some(Value::Array(all)) = node.remove("allOf")
        && let Some(Value::Object(reference)) = all.into_iter().next()
    {
        node.extend(reference);
    }
    if let Some(Value::String(reference)) = node.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(key) {
            refer_to_definitions(child);
        }
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(refer_to_definitions);
    }
}

fn path_item(item: &Value) -> Value {
    let fields = item.as_object().into_iter().flatten();
    let fields = fields.map(|(name, value)| {
        let value = match name.as_str() {
            "parameters" => parameters(value),
            _ => operation(value),
        };
        (name.clone(), value)
    });
    Value::Object(fields.collect())
}

/// Parameters have their type among their own fields.
fn parameters(parameters: &Value) -> Value {
    let list = parameters.as_array().into_iter().flatten();
    let flat = list.map(|parameter| {
        let mut flat = parameter.clone();
        if let Some(fields) = flat.as_object_mut()
            && let Some(Value::Object(schema)) = fields.remove("schema")
        {
            fields.extend(schema);
        }
        flat
    });
    Value::Array(flat.collect())
}

fn operation(operation: &Value) -> Value {
    let mut made = operation.clone();
    let Some(fields) = made.as_object_mut() else { return made };
    let mut all = parameters(&operation["parameters"]);
    if let (Some(body), Some(all)) = (fields.remove("requestBody"), all.as_array_mut()) {
        let content = body["content"].as_object();
        let types: Vec<&String> = content.into_iter().flatten().map(|(media, _)| media).collect();
        fields.insert("consumes".to_owned(), json!(types));
        let mut schema =
            content.and_then(|c| c.values().next()).map_or_else(|| json!({}), |c| c["schema"].clone());
        refer_to_definitions(&mut schema);
        all.push(json!({ "name": "body", "in": "body", "required": true, "schema": schema }));
    }
    fields.insert("parameters".to_owned(), all);
    fields.insert("produces".to_owned(), json!(["application/json"]));
    for response in fields.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten() {
        let mut schema = response.1["content"]["application/json"]["schema"].clone();
        refer_to_definitions(&mut schema);
        *response.1 = json!({ "description": response.1["description"], "schema": schema });
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All references of a document.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_path_has_its_parameters() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            assert!(item.get("requestBody").is_none() && item["parameters"].is_array(), "{path}");
        }
        for left in ["oneOf", "components/schemas", "allOf", "requestBody"] {
            assert!(!JSON.contains(left), "{left}");
        }
    }

    #[test]
    fn the_binary_form_says_the_same() {
        let document = document();
        let decoded = gnostic::Document::decode(PROTOBUF.as_slice()).unwrap();
        assert_eq!(decoded.swagger, "2.0");
        let definitions = decoded.definitions.unwrap().named;
        assert_eq!(definitions.len(), document["definitions"].as_object().unwrap().len());
        let service = definitions.iter().find(|d| d.name == "io.k8s.api.core.v1.Service").unwrap();
        let properties = service.value.as_ref().unwrap().properties.as_ref().unwrap();
        let spec = properties.named.iter().find(|p| p.name == "spec").unwrap().value.as_ref().unwrap();
        assert_eq!(spec.type_.as_ref().unwrap().value, ["object"]);
        let ports = spec.properties.as_ref().unwrap().named.iter().find(|p| p.name == "ports").unwrap();
        let key = &ports.value.as_ref().unwrap().vendor_extension;
        let key = key.iter().find(|e| e.name == "x-kubernetes-patch-merge-key").unwrap();
        assert_eq!(key.value.as_ref().unwrap().yaml, "\"port\"");
        let paths = decoded.paths.unwrap().path;
        assert_eq!(paths.len(), document["paths"].as_object().unwrap().len());
    }
}
