//! What changed of an object, for people who may not see all of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tulle_model::registry::{Kind, KindId};

/// How many bytes a diff has at most: of a larger one the paths are named.
const LARGEST: usize = 16 << 10;
/// How many paths.
const PATHS: usize = 100;
/// What stands for a value that is not shown.
pub const REDACTED: &str = "(redacted)";
const CHANGED: &str = "(redacted, changed)";
/// What kubectl keeps of the object as it was applied, values of Secrets included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What people make of an object: no status, and of the metadata names, labels and annotations.
pub fn content(object: &Value) -> Value {
    let mut content = object.clone();
    if let Some(fields) = content.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| {
                matches!(name.as_str(), "name" | "namespace" | "labels" | "annotations" | "finalizers")
            });
        }
    }
    content
}

/// An object without the values that are not for everybody.
pub fn redacted(kind: &Kind, mut object: Value) -> Value {
    if kind.id == KindId::Secret {
        hide(&mut object, &Value::Null);
    }
    object
}

/// A Secret without its values for who may not see them, in the form of one: clients decode them.
pub fn masked(mut secret: Value) -> Value {
    hide(&mut secret, &Value::Null);
    for value in
        secret.get_mut("data").and_then(Value::as_object_mut).into_iter().flat_map(|data| data.values_mut())
    {
        *value = STANDARD.encode(REDACTED).into();
    }
    secret
}

/// The JSON patch (RFC 6902) that leads from one to the other, with the status where nothing else changed. Values of Secrets are
/// not in it, only which of them changed.
pub fn between(kind: &Kind, before: Option<&Value>, after: Option<&Value>) -> Value {
    let of = |object: Option<&Value>| object.map_or(json!({}), content);
    let (mut from, mut to) = (of(before), of(after));
    if from == to {
        let status =
            |object: Option<&Value>| json!({ "status": object.and_then(|object| object.get("status")) });
        (from, to) = (status(before), status(after));
    }
    if kind.id == KindId::Secret {
        let was = from.clone();
        hide(&mut from, &Value::Null);
        hide(&mut to, &was);
    }
    let patch = json!(json_patch::diff(&from, &to));
    if patch.to_string().len() <= LARGEST {
        return patch;
    }
    let paths = patch.as_array().into_iter().flatten().take(PATHS);
    paths
        .map(|change| json!({ "op": change["op"], "path": change["path"], "value": "(too large)" }))
        .collect()
}

/// Takes the values out of a Secret, and says which differ from what was before.
fn hide(secret: &mut Value, before: &Value) {
    for field in ["data", "stringData"] {
        for (name, value) in secret.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
            let was = before.get(field).and_then(|data| data.get(name));
            let changed = was.is_some_and(|was| was != value);
            *value = if changed { CHANGED } else { REDACTED }.into();
        }
    }
    if let Some(annotations) = secret.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_has_what_people_changed() {
        let object = |port: u16, status: &str| {
            json!({
                "metadata": { "name": "c", "resourceVersion": port.to_string(), "managedFields": [port] },
                "spec": { "port": port },
                "status": { "phase": status },
            })
        };
        let service = KindId::Service.kind();
        let change = between(service, Some(&object(80, "a")), Some(&object(81, "b")));
        assert_eq!(change, json!([{ "op": "replace", "path": "/spec/port", "value": 81 }]));
        let change = between(service, Some(&object(80, "a")), Some(&object(80, "b")));
        assert_eq!(change, json!([{ "op": "replace", "path": "/status/phase", "value": "b" }]));
        let made = between(service, None, Some(&object(80, "a"))).to_string();
        assert!(made.contains("\"port\":80") && !made.contains("managedFields"), "{made}");
        let long = json!({ "spec": { "a": "x".repeat(LARGEST) } });
        let change = between(service, None, Some(&long));
        assert_eq!(change[0]["path"], "/spec");
        assert!(change.to_string().len() < 200);
    }

    #[test]
    fn values_of_secrets_are_told_by_their_names_alone() {
        let kind = KindId::Secret.kind();
        let secret = |password: &str| {
            json!({
                "metadata": { "name": "s", "annotations": { LAST_APPLIED: format!("{{\"data\":\"{password}\"}}") } },
                "data": { "password": password, "user": "cm9vdA==" },
            })
        };
        let (one, two) = (secret("b25l"), secret("dHdv"));
        for (before, after) in
            [(None, Some(&one)), (Some(&one), Some(&two)), (Some(&two), None), (Some(&one), Some(&one))]
        {
            let change = between(kind, before, after).to_string();
            for value in ["b25l", "dHdv", "cm9vdA"] {
                assert!(!change.contains(value), "{change}");
            }
        }
        let change = between(kind, Some(&one), Some(&two));
        assert_eq!(change, json!([{ "op": "replace", "path": "/data/password", "value": CHANGED }]));
        let shown = redacted(kind, one).to_string();
        assert!(shown.contains("password") && !shown.contains("b25l"), "{shown}");
    }
}
