//! The metadata that the server sets, and what callers may not change (ObjectMeta of the Kubernetes API).

use serde_json::{Map, Value, json};
use tulle_model::document::DEEPEST;
use tulle_model::registry::{self, Kind, KindId};

use super::ObjectError;

/// Metadata that stays as it was when the object was created or is the server's own.
const KEPT: [&str; 8] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// A string of the metadata.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get("metadata")?.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// The metadata, created if it is not there.
pub(super) fn of(object: &mut Value) -> &mut Map<String, Value> {
    map_at(map(object).entry("metadata").or_insert_with(|| json!({})))
}

fn map(value: &mut Value) -> &mut Map<String, Value> {
    map_at(value)
}

/// The value as a map; anything else is replaced by an empty one.
fn map_at(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

pub(super) fn set_resource_version(object: &mut Value, revision: u64) {
    of(object).insert("resourceVersion".to_owned(), revision.to_string().into());
}

/// The resourceVersion that a caller expects, if any.
pub(super) fn resource_version(object: &Value) -> Result<Option<u64>, ObjectError> {
    text(object, "resourceVersion")
        .map(|text| {
            text.parse().map_err(|_| {
                ObjectError::BadRequest(format!(
                    "metadata.resourceVersion: \"{text}\" is not a version that this server gave out"
                ))
            })
        })
        .transpose()
}

/// Whether lists and objects are nested in more than [`DEEPEST`] levels. What is stored must be read
/// back, and JSON is read to a limited depth only. Managed fields are the server's own: they are as
/// deep as the object, and some levels more.
fn is_too_deep(object: &Value) -> bool {
    fn is_deeper(value: &Value, levels: usize) -> bool {
        let inside = |value: &Value| is_deeper(value, levels.saturating_sub(1));
        match value {
            Value::Array(items) => levels == 0 || items.iter().any(inside),
            Value::Object(fields) => levels == 0 || fields.values().any(inside),
            _ => false,
        }
    }
    object.as_object().into_iter().flatten().any(|(name, value)| match value {
        Value::Object(metadata) if name == "metadata" => {
            metadata.iter().any(|(name, value)| name != "managedFields" && is_deeper(value, DEEPEST - 2))
        }
        value => is_deeper(value, DEEPEST - 1),
    })
}

/// Sets `apiVersion` and `kind` where they are absent; elsewhere they must be the kind's. Refuses what is
/// no object, or one that is nested too deeply to be kept.
pub(super) fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ObjectError> {
    if !object.is_object() {
        return Err(ObjectError::BadRequest(format!("the body must be an object of kind {}", kind.kind)));
    }
    let given = |field: &str| object.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let (Some(version), Some(name)) = (given("apiVersion"), given("kind"))
        && registry::by_api_version(version, name).is_none()
    {
        return Err(ObjectError::BadRequest(format!(
            "no matches for kind \"{name}\" in version \"{version}\": an object of kind \"{}\" in version \"{}\" is \
             expected here",
            kind.kind,
            kind.api_version()
        )));
    }
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match object.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()) {
            None => {
                map(object).insert(field.to_owned(), expected.into());
            }
            Some(found) if found == expected => {}
            Some(found) => {
                return Err(ObjectError::BadRequest(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({expected})"
                )));
            }
        }
    }
    if is_too_deep(object) {
        return Err(ObjectError::BadRequest(format!(
            "the object is nested too deeply: at most {DEEPEST} levels are allowed"
        )));
    }
    if object.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
        return Err(ObjectError::BadRequest("metadata: must be an object".to_owned()));
    }
    Ok(())
}

/// The namespace of the object: the request's, and the object's if it says one must be the same.
pub(super) fn check_namespace(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), ObjectError> {
    if !kind.namespaced {
        of(object).remove("namespace");
        return Ok(());
    }
    if let Some(given) = text(object, "namespace")
        && given != namespace
    {
        return Err(ObjectError::BadRequest(format!(
            "the namespace of the provided object does not match the namespace sent on the request: \"{given}\" is not \"{namespace}\""
        )));
    }
    of(object).insert("namespace".to_owned(), namespace.into());
    Ok(())
}

/// The name of the object must be that of the request.
pub(super) fn check_name(name: &str, object: &mut Value) -> Result<(), ObjectError> {
    if let Some(given) = text(object, "name")
        && given != name
    {
        return Err(ObjectError::BadRequest(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    of(object).insert("name".to_owned(), name.into());
    Ok(())
}

/// Gives a new object what the server sets.
pub(super) fn initialize(kind: &Kind, object: &mut Value) {
    let metadata = of(object);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), new_uid().into());
    metadata.insert("creationTimestamp".to_owned(), crate::timestamp::now().into());
    if kind.has_status && kind.id != KindId::Namespace {
        metadata.insert("generation".to_owned(), 1.into());
    } else {
        metadata.remove("generation");
    }
    if kind.id == KindId::Namespace {
        map(object).insert("status".to_owned(), json!({ "phase": "Active" }));
    }
}

/// Takes over from `current` what an update cannot change.
pub(super) fn keep(current: &Value, object: &mut Value) {
    let metadata = of(object);
    metadata.remove("resourceVersion");
    metadata.remove("selfLink");
    for field in KEPT {
        match current.get("metadata").and_then(|metadata| metadata.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// A random UUID (RFC 9562, version 4).
fn new_uid() -> String {
    let bits: u128 = rand::random();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// `prefix` and five random characters: those that Kubernetes uses, which spell no words.
pub(super) fn generate_name(prefix: &str) -> String {
    const CHARACTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    // A name is at most 63 characters.
    let mut name: String = prefix.chars().take(58).collect();
    for _ in 0..5 {
        name.push(CHARACTERS[rand::random_range(0..CHARACTERS.len())] as char);
    }
    name
}

/// Whether the object waits for its finalizers.
pub(super) fn is_terminating(object: &Value) -> bool {
    text(object, "deletionTimestamp").is_some()
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    let finalizers = object.get("metadata").and_then(|metadata| metadata.get("finalizers"));
    finalizers.and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_random_uuids() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
        assert_ne!(uid, new_uid());
    }

    #[test]
    fn generated_names_fit() {
        assert!(generate_name("cart-").starts_with("cart-"));
        assert_eq!(generate_name(&"a".repeat(100)).len(), 63);
    }
}
