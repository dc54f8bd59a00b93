//! OpenAPI v3 documents, one a group and version: what `kubectl explain` and clients that check
//! objects before they send them read. [`v2`] has all in one document of the version before.

mod gnostic;
pub(super) mod v2;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use tulle_model::registry::Kind;
use tulle_model::schema;

use super::discovery;
use super::write::PATCHES;

/// A document, and the hash in its address, by which clients may keep it.
struct HashedDocument {
    content: String,
    hash: String,
}

static DOCUMENTS: LazyLock<BTreeMap<(&str, &str), HashedDocument>> = LazyLock::new(|| {
    discovery::group_versions()
        .into_iter()
        .map(|(group, version)| {
            let content = document(group, version).to_string();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes());
            let hash = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
            ((group, version), HashedDocument { content, hash })
        })
        .collect()
});

/// `/openapi/v3`: where the documents are.
pub(super) fn index() -> Value {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|((group, version), document)| {
            let path = path(group, version);
            let address = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path, json!({ "serverRelativeURL": address }))
        })
        .collect();
    json!({ "paths": paths })
}

/// The document of a group and version, with its hash.
pub(super) fn get(group: &str, version: &str) -> Option<(&'static str, &'static str)> {
    let (_, document) = DOCUMENTS.iter().find(|(key, _)| **key == (group, version))?;
    Some((&document.content, &document.hash))
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(group: &str, version: &str) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in discovery::kinds(group, version) {
        add_schemas(kind, &mut schemas);
        add_paths(kind, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Tulle", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// `dev.tulle.v1alpha1.Workload`: the group backwards, the version, the kind.
fn schema_name(kind: &Kind, name: &str) -> String {
    let group: Vec<&str> = match kind.group {
        "" => vec!["core", "api", "k8s", "io"],
        group => group.split('.').collect(),
    };
    let backwards: Vec<&str> = group.into_iter().rev().collect();
    format!("{}.{}.{name}", backwards.join("."), kind.version)
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn group_version_kind(kind: &Kind, name: &str) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": name })
}

fn add_schemas(kind: &Kind, schemas: &mut Map<String, Value>) {
    let mut object = schema::schema(kind).clone();
    if name_int_or_string(&mut object) {
        schemas.insert(
            INT_OR_STRING.to_owned(),
            json!({
                "description": "A number or a name.",
                "format": "int-or-string",
                "oneOf": [{ "type": "integer" }, { "type": "string" }],
            }),
        );
    }
    object["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind, kind.kind)]);
    let list = json!({
        "description": format!("A list of objects of kind {}.", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": "The group and version of the kind." },
            "kind": { "type": "string", "description": "The kind of the list." },
            "metadata": {
                "type": "object",
                "description": "Standard list metadata.",
                "properties": {
                    "resourceVersion": { "type": "string" },
                    "continue": { "type": "string" },
                    "remainingItemCount": { "type": "integer", "format": "int64" },
                },
            },
            "items": { "type": "array", "items": reference(&schema_name(kind, kind.kind)) },
        },
        "x-kubernetes-group-version-kind": [group_version_kind(kind, kind.list_kind)],
    });
    schemas.insert(schema_name(kind, kind.kind), object);
    schemas.insert(schema_name(kind, kind.list_kind), list);
}

/// The schema that Kubernetes has for numbers or names, by which `kubectl explain` knows it.
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// Refers to that schema where a field is a number or a name; whether there is one.
fn name_int_or_string(schema: &mut Value) -> bool {
    let Some(node) = schema.as_object_mut() else { return false };
    if node.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        node.remove("x-kubernetes-int-or-string");
        node.insert("allOf".to_owned(), json!([reference(INT_OR_STRING)]));
        return true;
    }
    let mut found = false;
    for key in ["items", "additionalProperties"] {
        found |= node.get_mut(key).is_some_and(name_int_or_string);
    }
    let properties = node.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten().fold(found, |found, (_, child)| name_int_or_string(child) | found)
}

fn add_paths(kind: &Kind, paths: &mut Map<String, Value>) {
    let root = format!("/{}", path(kind.group, kind.version));
    let namespace = parameter("namespace", "path", "string", "The namespace of the object.");
    let name = parameter("name", "path", "string", "The name of the object.");
    let (base, mut parameters) = if kind.namespaced {
        paths.insert(
            format!("{root}/{}", kind.plural),
            json!({ "get": list_operation(kind), "parameters": [] }),
        );
        (format!("{root}/namespaces/{{namespace}}/{}", kind.plural), vec![namespace])
    } else {
        (format!("{root}/{}", kind.plural), Vec::new())
    };
    paths.insert(
        base.clone(),
        json!({
            "parameters": parameters,
            "get": list_operation(kind),
            "post": write_operation(kind, "post", "Create"),
            "delete": operation(kind, "deletecollection", "Delete all", &selection()),
        }),
    );
    parameters.push(name);
    if kind.is_view() {
        // Nobody writes them.
        let one = json!({ "parameters": parameters, "get": operation(kind, "get", "Read", &[]) });
        paths.insert(format!("{base}/{{name}}"), one);
        for method in ["post", "delete"] {
            if let Some(operations) = paths.get_mut(&base).and_then(Value::as_object_mut) {
                operations.remove(method);
            }
        }
        return;
    }
    paths.insert(
        format!("{base}/{{name}}"),
        json!({
            "parameters": parameters,
            "get": operation(kind, "get", "Read", &[]),
            "put": write_operation(kind, "put", "Replace"),
            "patch": write_operation(kind, "patch", "Patch"),
            "delete": operation(kind, "delete", "Delete", &[dry_run()]),
        }),
    );
    if kind.has_status {
        paths.insert(
            format!("{base}/{{name}}/status"),
            json!({
                "parameters": parameters,
                "get": operation(kind, "get", "Read the status of", &[]),
                "put": write_operation(kind, "put", "Replace the status of"),
                "patch": write_operation(kind, "patch", "Patch the status of"),
            }),
        );
    }
}

fn parameter(name: &str, place: &str, type_: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": { "type": type_, "uniqueItems": true },
    })
}

fn dry_run() -> Value {
    parameter("dryRun", "query", "string", "All: do everything but store the result.")
}

fn selection() -> Vec<Value> {
    vec![
        parameter("labelSelector", "query", "string", "Only objects with these labels."),
        parameter("fieldSelector", "query", "string", "Only objects with these fields."),
    ]
}

fn list_operation(kind: &Kind) -> Value {
    let mut parameters = selection();
    parameters.extend([
        parameter("limit", "query", "integer", "At most so many objects."),
        parameter("continue", "query", "string", "Go on with an earlier list."),
        parameter("resourceVersion", "query", "string", "The version to show, or to start from."),
        parameter("resourceVersionMatch", "query", "string", "Exact or NotOlderThan."),
        parameter("watch", "query", "boolean", "Changes instead of a list."),
        parameter(
            "allowWatchBookmarks",
            "query",
            "boolean",
            "Say from time to time how far a watch has come.",
        ),
        parameter("sendInitialEvents", "query", "boolean", "Start a watch with the objects that are there."),
        parameter("timeoutSeconds", "query", "integer", "How long a watch lasts."),
    ]);
    let mut operation = operation(kind, "list", "List", &parameters);
    let list = reference(&schema_name(kind, kind.list_kind));
    operation["responses"]["200"]["content"]["application/json"]["schema"] = list;
    operation
}

fn write_operation(kind: &Kind, action: &str, verb: &str) -> Value {
    let mut parameters = vec![
        dry_run(),
        parameter("fieldManager", "query", "string", "Who writes, for metadata.managedFields."),
        parameter(
            "fieldValidation",
            "query",
            "string",
            "Strict, Warn or Ignore: what to do about unknown fields.",
        ),
    ];
    if action == "patch" {
        parameters.push(parameter(
            "force",
            "query",
            "boolean",
            "Take fields over from others (server-side apply).",
        ));
    }
    let mut operation = operation(kind, action, verb, &parameters);
    let schema = reference(&schema_name(kind, kind.kind));
    let content: Map<String, Value> = if action == "patch" {
        // Clients take strategic merge only for what is Kubernetes' own.
        let strategic = kind.group.is_empty() || kind.group == "discovery.k8s.io";
        let offered = PATCHES.iter().filter(|media| strategic || !media.contains("strategic"));
        offered.map(|media| ((*media).to_owned(), json!({ "schema": { "type": "object" } }))).collect()
    } else {
        ["application/json", "application/yaml"]
            .map(|media| (media.to_owned(), json!({ "schema": schema })))
            .into_iter()
            .collect()
    };
    operation["requestBody"] = json!({ "required": true, "content": content });
    operation
}

fn operation(kind: &Kind, action: &str, verb: &str, parameters: &[Value]) -> Value {
    json!({
        "description": format!("{verb} {}", if action.ends_with("list") || action.ends_with("collection") { kind.plural } else { kind.kind }),
        "operationId": format!("{action}{}{}{}{}", kind.group.replace('.', ""), kind.version, kind.kind, verb.replace(' ', "")),
        "tags": [discovery::api_version(kind.group, kind.version)],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "OK",
                "content": { "application/json": { "schema": reference(&schema_name(kind, kind.kind)) } },
            },
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": group_version_kind(kind, kind.kind),
    })
}
