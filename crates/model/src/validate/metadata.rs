//! What all objects share: their type, name, namespace, labels and annotations.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::field::{Code, Errors, Field, FieldPath, Read, Unreadable, shown};
use super::syntax::{label_value_problem, qualified_name_problem};
use crate::name::dns_label_problem;
use crate::registry::Kind;

/// How many bytes all the annotations of an object may have.
const ANNOTATION_BYTES: usize = 256 * 1024;

pub(super) fn check(kind: &Kind, object: &Field<'_>, errors: &mut Errors) {
    for (name, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        if let Some(field) = object.get(name)
            && field.str().is_some_and(|found| !found.is_empty() && found != expected)
        {
            errors.invalid(&field, format!("{} should be `{expected}`", shown(field.value)));
        }
    }
    let Some(metadata) = object.get("metadata") else {
        errors.required(FieldPath::root().field("metadata").field("name"), MISSING_NAME);
        return;
    };
    check_name(kind, &metadata, errors);
    check_namespace(kind, &metadata, errors);
    check_labels(&metadata, "labels", errors);
    check_annotations(&metadata, errors);
    for finalizer in metadata.items("finalizers") {
        if let Some(problem) = finalizer.str().and_then(qualified_name_problem) {
            errors.invalid(
                &finalizer,
                format!("{} is no name of a finalizer: {problem}", shown(finalizer.value)),
            );
        }
    }
    for owner in metadata.items("ownerReferences") {
        for name in ["apiVersion", "kind", "name", "uid"] {
            if let Some(field) = owner.get(name).filter(|f| f.str() == Some("")) {
                errors.invalid(&field, "must not be empty");
            }
        }
    }
}

const MISSING_NAME: &str = "is missing: every object needs a name (or `generateName`, to be given one)";

fn check_name(kind: &Kind, metadata: &Field<'_>, errors: &mut Errors) {
    let prefix = metadata.get("generateName").filter(|f| f.str() != Some(""));
    match metadata.get("name").filter(|f| f.str() != Some("")) {
        Some(name) => {
            if let Some(problem) = name.str().and_then(kind.name_problem) {
                errors.invalid(
                    &name,
                    format!("{} is no name for {kind} objects: it {problem}", shown(name.value)),
                );
            }
        }
        None if prefix.is_none() => errors.required(metadata.path.field("name"), MISSING_NAME),
        None => {}
    }
    if let Some(prefix) = prefix
        && let Some(text) = prefix.str()
    {
        // The server appends letters and digits: a dash at the end is fine, a dot is not.
        let problem = (kind.name_problem)(&format!("{}0", text.chars().take(57).collect::<String>()));
        if let Some(problem) = problem {
            errors.invalid(
                &prefix,
                format!("{} is no start of a name for {kind} objects: it {problem}", shown(prefix.value)),
            );
        }
    }
}

fn check_namespace(kind: &Kind, metadata: &Field<'_>, errors: &mut Errors) {
    let Some(namespace) = metadata.get("namespace") else { return };
    let Some(text) = namespace.str().filter(|text| !text.is_empty()) else { return };
    if !kind.namespaced {
        let message =
            format!("{} must not be given: {kind} objects are in no namespace", shown(namespace.value));
        errors.push(&namespace, Code::Forbidden, message);
    } else if let Some(problem) = dns_label_problem(text) {
        errors.invalid(
            &namespace,
            format!("{} is no name of a namespace: it {problem}", shown(namespace.value)),
        );
    }
}

/// The namespace of an object, as it is stored.
pub(crate) fn namespace<'a>(object: &Field<'a>) -> Read<&'a str> {
    let Some(metadata) = object.get("metadata") else { return Ok("default") };
    Ok(metadata.read_str("namespace")?.unwrap_or("default"))
}

/// When an object was created; none where it was not written by the server as yet.
pub(crate) fn created(object: &Field<'_>) -> Read<Option<Timestamp>> {
    let Some(metadata) = object.get("metadata") else { return Ok(None) };
    let created = metadata.read_str("creationTimestamp")?.filter(|text| !text.is_empty());
    created.map(str::parse).transpose().map_err(|_| Unreadable)
}

/// The labels of an object.
pub(crate) fn labels(object: &Field<'_>) -> Read<BTreeMap<String, String>> {
    object.get("metadata").map_or_else(|| Ok(BTreeMap::new()), |metadata| metadata.read_texts("labels"))
}

/// Checks the keys and values of a map of labels: of metadata, or a selector.
pub(crate) fn check_labels(parent: &Field<'_>, name: &'static str, errors: &mut Errors) {
    for (key, value) in parent.entries(name) {
        if let Some(problem) = qualified_name_problem(key) {
            errors.invalid(&value, format!("`{}` is no key of a label: {problem}", key.escape_debug()));
        }
        if let Some(problem) = value.str().and_then(label_value_problem) {
            errors.invalid(&value, format!("{} is no value of a label: it {problem}", shown(value.value)));
        }
    }
}

fn check_annotations(metadata: &Field<'_>, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in metadata.entries("annotations") {
        bytes += key.len() + value.str().map_or(0, str::len);
        // Kubernetes reads the keys of annotations without regard to case.
        if let Some(problem) = qualified_name_problem(&key.to_lowercase()) {
            errors.invalid(&value, format!("`{}` is no key of an annotation: {problem}", key.escape_debug()));
        }
    }
    if bytes > ANNOTATION_BYTES
        && let Some(annotations) = metadata.get("annotations")
    {
        let message = format!("have {bytes} bytes; at most {ANNOTATION_BYTES} are allowed");
        errors.push(&annotations, Code::TooLong, message);
    }
}
