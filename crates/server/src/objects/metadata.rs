//! The metadata that the server sets, and what callers may not change (ObjectMeta of the Kubernetes API).

use serde_json::{Map, Value, json};
use tulle_model::document::DEEPEST;
use tulle_model::json_bounds::is_deeper;
use tulle_model::registry::{self, Kind, KindId};

use super::ObjectError;
use super::field_type::{self, FieldType, Fields};

/// What is said of every object: its kind and its metadata.
const FIELDS: Fields = &[
    ("apiVersion", FieldType::String),
    ("kind", FieldType::String),
    ("metadata", FieldType::Object(METADATA)),
];

const METADATA: Fields = &[
    ("name", FieldType::String),
    ("generateName", FieldType::String),
    ("namespace", FieldType::String),
    ("selfLink", FieldType::String),
    ("uid", FieldType::String),
    ("resourceVersion", FieldType::String),
    ("generation", FieldType::Integer),
    ("creationTimestamp", FieldType::String),
    ("deletionTimestamp", FieldType::String),
    ("deletionGracePeriodSeconds", FieldType::Integer),
    ("labels", FieldType::StringMap),
    ("annotations", FieldType::StringMap),
    ("finalizers", FieldType::Strings),
    ("ownerReferences", FieldType::Objects(OWNER_REFERENCE)),
    ("managedFields", FieldType::Objects(&[])),
];

const OWNER_REFERENCE: Fields = &[
    ("apiVersion", FieldType::String),
    ("kind", FieldType::String),
    ("name", FieldType::String),
    ("uid", FieldType::String),
    ("controller", FieldType::Boolean),
    ("blockOwnerDeletion", FieldType::Boolean),
];

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

/// A string of the metadata, of an object of which [`check_type`] holds: what is no string is none here.
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

/// The resourceVersion that a caller expects, if any, in an object of which [`check_type`] holds.
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
    object.as_object().into_iter().flatten().any(|(name, value)| match value {
        Value::Object(metadata) if name == "metadata" => {
            metadata.iter().any(|(name, value)| name != "managedFields" && is_deeper(value, DEEPEST - 2))
        }
        value => is_deeper(value, DEEPEST - 1),
    })
}

/// Sets `apiVersion` and `kind` where they are absent; elsewhere they must be the kind's. Refuses what is
/// no object, or has metadata of wrong types, or is nested too deeply to be kept.
pub(super) fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ObjectError> {
    let Some(fields) = object.as_object() else {
        return Err(ObjectError::BadRequest(format!("the body must be an object of kind {}", kind.kind)));
    };
    field_type::check(fields, "", FIELDS).map_err(ObjectError::BadRequest)?;
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
    let (low, mid): (u32, u16) = rand::random();
    let (high, clock) = (rand::random_range(0..0x1000), rand::random_range(0x8000..0xc000));
    let node = rand::random_range(0..0x1_0000_0000_0000_u64);
    format!("{low:08x}-{mid:04x}-4{high:03x}-{clock:04x}-{node:012x}")
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

/// The finalizers of `object` that `current` has not.
pub(super) fn new_finalizers<'a>(current: &Value, object: &'a Value) -> Vec<&'a str> {
    let (held, wanted) = (finalizers(current), finalizers(object));
    wanted.filter_map(Value::as_str).filter(|wanted| held.clone().all(|held| held != wanted)).collect()
}

fn finalizers(object: &Value) -> impl Iterator<Item = &Value> + Clone {
    let finalizers = object.get("metadata").and_then(|metadata| metadata.get("finalizers"));
    finalizers.and_then(Value::as_array).into_iter().flatten()
}

/// Whether the object waits for its finalizers.
pub(super) fn is_terminating(object: &Value) -> bool {
    text(object, "deletionTimestamp").is_some()
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    finalizers(object).next().is_some()
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
        for _ in 0..64 {
            let uid = new_uid();
            let lengths: Vec<_> = uid.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{uid}");
            assert!(uid.as_bytes()[14] == b'4' && b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
        }
    }

    #[test]
    fn objects_have_as_many_levels_as_can_be_read_back_beside_the_servers_own_fields() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |value, _| json!({ "a": value }));
        let listed = |levels: usize| (0..levels).fold(json!(1), |value, _| json!([value]));
        // The object itself is the first of 64.
        for (object, too_deep) in [
            (json!({ "spec": nested(63) }), false),
            (json!({ "spec": nested(64) }), true),
            (json!({ "spec": listed(63) }), false),
            (json!({ "spec": listed(64) }), true),
            (json!({ "metadata": { "labels": nested(62) } }), false),
            (json!({ "metadata": { "labels": nested(63) } }), true),
            (json!({ "metadata": { "managedFields": nested(100) } }), false),
            (json!({ "spec": { "managedFields": nested(100) } }), true),
            (json!({ "managedFields": nested(100) }), true),
            (json!({ "metadata": listed(64) }), true),
        ] {
            assert_eq!(is_too_deep(&object), too_deep, "{object}");
        }
    }

    #[test]
    fn an_object_is_of_the_kind_that_its_path_says() {
        let kind = KindId::Service.kind();
        let whole = json!({ "apiVersion": "v1", "kind": "Service", "metadata": {} });
        let mesh = json!({ "apiVersion": "tulle.dev/v1alpha1", "kind": "Mesh" });
        for (object, problem) in [
            (whole.clone(), None),
            (json!({}), None),
            (json!({ "apiVersion": "", "kind": "" }), None),
            (json!({ "metadata": null }), None),
            (json!({ "kind": "Service" }), None),
            (json!([]), Some("must be an object of kind Service")),
            (json!({ "apiVersion": "v1", "kind": "Pod" }), Some("no matches for kind \"Pod\"")),
            (mesh, Some("the apiVersion in the data (tulle.dev/v1alpha1) does not match")),
            (json!({ "kind": "Mesh" }), Some("the kind in the data (Mesh) does not match")),
            (json!({ "apiVersion": "v2" }), Some("the apiVersion in the data (v2) does not match")),
            (json!({ "metadata": [] }), Some("metadata: must be an object")),
            (json!({ "metadata": "c" }), Some("metadata: must be an object")),
            (json!({ "apiVersion": null, "kind": null }), None),
            (json!({ "metadata": { "name": null, "labels": null, "finalizers": null, "uid": null } }), None),
            (json!({ "metadata": { "creationTimestamp": null, "labels": { "a": null } } }), None),
            (
                json!({ "metadata": {
                    "name": "c", "generateName": "", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                    "generation": 1, "creationTimestamp": "t", "labels": { "a": "b" }, "annotations": {},
                    "finalizers": ["a/b"], "ownerReferences": [{ "uid": "u", "controller": true }],
                    "managedFields": [{}],
                } }),
                None,
            ),
            (json!({ "apiVersion": 5, "kind": ["x"] }), Some("apiVersion: must be a string, not a number")),
            (json!({ "kind": ["x"] }), Some("kind: must be a string, not a list")),
            (json!({ "metadata": { "name": 7 } }), Some("metadata.name: must be a string")),
            (json!({ "metadata": { "generateName": {} } }), Some("metadata.generateName: must be a string")),
            (json!({ "metadata": { "namespace": 7 } }), Some("metadata.namespace: must be a string")),
            (json!({ "metadata": { "uid": 5 } }), Some("metadata.uid: must be a string")),
            (
                json!({ "metadata": { "resourceVersion": 1 } }),
                Some("metadata.resourceVersion: must be a string"),
            ),
            (
                json!({ "metadata": { "generation": "1" } }),
                Some("metadata.generation: must be a whole number"),
            ),
            (json!({ "metadata": { "deletionTimestamp": 1 } }), Some("metadata.deletionTimestamp: must be")),
            (json!({ "metadata": { "labels": { "a": 1 } } }), Some("metadata.labels[a]: must be a string")),
            (json!({ "metadata": { "annotations": "x" } }), Some("metadata.annotations: must be a map")),
            (json!({ "metadata": { "finalizers": "x" } }), Some("metadata.finalizers: must be a list")),
            (json!({ "metadata": { "finalizers": [1] } }), Some("metadata.finalizers[0]: must be a string")),
            (
                json!({ "metadata": { "ownerReferences": {} } }),
                Some("metadata.ownerReferences: must be a list"),
            ),
            (
                json!({ "metadata": { "ownerReferences": [{ "uid": 1 }] } }),
                Some("metadata.ownerReferences[0].uid: must be a string"),
            ),
            (json!({ "metadata": { "managedFields": 1 } }), Some("metadata.managedFields: must be a list")),
        ] {
            let mut checked = object.clone();
            let result = check_type(kind, &mut checked).map_err(|error| error.to_string());
            match problem {
                None => assert_eq!(
                    (result, &checked["apiVersion"], &checked["kind"]),
                    (Ok(()), &whole["apiVersion"], &whole["kind"])
                ),
                Some(problem) => {
                    assert!(result.as_ref().is_err_and(|why| why.contains(problem)), "{object}: {result:?}")
                }
            }
        }
    }

    #[test]
    fn name_and_namespace_are_the_requests() {
        let named =
            |name: &str, namespace: &str| json!({ "metadata": { "name": name, "namespace": namespace } });
        for (object, good) in [
            (named("c", "shop"), true),
            (named("", ""), true),
            (json!({}), true),
            (named("d", "bank"), false),
        ] {
            let (mut of_name, mut of_namespace) = (object.clone(), object.clone());
            assert_eq!(check_name("c", &mut of_name).is_ok(), good, "{object}");
            let checked = check_namespace(KindId::Service.kind(), "shop", &mut of_namespace);
            assert_eq!(checked.is_ok(), good, "{object}");
            if good {
                assert_eq!(text(&of_name, "name"), Some("c"));
                assert_eq!(text(&of_namespace, "namespace"), Some("shop"));
            }
            // What is of the whole mesh has none.
            let mut cluster_wide = object;
            check_namespace(KindId::Mesh.kind(), "shop", &mut cluster_wide).unwrap();
            assert_eq!(cluster_wide["metadata"].get("namespace"), None);
        }
    }

    #[test]
    fn a_new_object_has_nothing_of_the_servers_but_what_the_server_gives_it() {
        for (kind, generation, status) in [
            (KindId::Service, Some(1), Value::Null),
            (KindId::Namespace, None, json!({ "phase": "Active" })),
            (KindId::EndpointSlice, None, Value::Null),
        ] {
            let theirs = json!({
                "name": "c", "uid": "mine", "generation": 7, "resourceVersion": "7", "selfLink": "/c",
                "creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": 7,
            });
            let mut object = json!({ "metadata": theirs });
            initialize(kind.kind(), &mut object);
            assert_eq!(object["metadata"].get("generation").and_then(Value::as_i64), generation, "{kind:?}");
            assert_eq!(object["status"], status, "{kind:?}");
            for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                assert_eq!(object["metadata"].get(field), None, "{field}");
            }
            assert!(text(&object, "uid") != Some("mine") && text(&object, "uid").is_some());
            assert_ne!(text(&object, "creationTimestamp"), Some("2001-01-01T00:00:00Z"));
        }
    }

    #[test]
    fn generated_names_fit() {
        assert!(generate_name("cart-").starts_with("cart-"));
        assert_eq!(generate_name(&"a".repeat(100)).len(), 63);
    }
}
