//! What a Namespace is given.

use serde_json::{Value, json};

/// By a label of its own, selectors of namespaces can name one.
pub(super) fn fill_defaults(namespace: &mut Value) {
    let Some(name) = namespace.pointer("/metadata/name").cloned() else { return };
    let Some(metadata) = namespace["metadata"].as_object_mut() else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}
