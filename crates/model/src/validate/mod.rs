//! Whether an object is what its kind allows, with the path of the field in every error.
//!
//! What holds for each field by itself (types, ranges, enumerations) is in the schema; what needs
//! more than that is in the folder of each kind. All of it works on JSON, so that an object that
//! is wrong in one place is still checked in the others.

pub(crate) mod field;
pub(crate) mod metadata;
mod references;
pub(crate) mod structure;
pub mod suggest;
pub(crate) mod syntax;

use serde_json::Value;

pub use self::field::{Code, FieldError, FieldPath, Segment};
use self::field::{Errors, Field};
pub use self::references::{OfferedPort, check_references, offered_ports, service_ports};
use crate::registry::Kind;
use crate::schema::schema;

/// What is wrong with an object of that kind, apart from unknown fields. It may have been
/// defaulted and pruned or not: the answer is the same.
pub fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Field::root(object);
    structure::check(schema(kind), &root, &mut errors);
    if object.is_object() {
        metadata::check(kind, &root, &mut errors);
        (kind.check)(&root, &mut errors);
    }
    errors.0
}

/// What an object says that nothing comes of, though it is valid: a field and a sentence each.
pub fn warnings(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut warnings = Errors::default();
    let root = Field::root(object);
    (kind.warn)(&root, &mut warnings);
    warnings.0
}

/// Takes those out of the errors of an object that the one in whose place it comes has as well: what was allowed once
/// stays as it is until somebody changes it (Kubernetes calls it ratcheting).
pub fn excuse_old(old: Vec<FieldError>, errors: &mut Vec<FieldError>) {
    // Items of lists may have moved.
    let place = |error: &FieldError| -> Vec<Segment> {
        let segments = error.path.segments().iter();
        segments.filter(|segment| !matches!(segment, Segment::Index(_))).cloned().collect()
    };
    let key = |error: &FieldError| (place(error), error.code, error.value.clone());
    let mut old: Vec<_> = old.iter().map(key).collect();
    errors.retain(|error| {
        let key = key(error);
        let known = old.iter().position(|old| *old == key);
        // Each excuses one: of two where one was, one is new.
        known.map(|index| old.swap_remove(index)).is_none()
    });
}

/// What is wrong with putting `new` in the place of `old`: fields that cannot change.
pub fn validate_update(kind: &Kind, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    (kind.check_update)(&Field::root(old), &Field::root(new), &mut errors);
    errors.0
}

/// The fields of an object that its kind doesn't have.
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut found = Vec::new();
    structure::unknown(schema(kind), &FieldPath::root(), object, &mut found);
    found
}

/// Drops the fields that the kind doesn't have, and those that are null (Kubernetes reads null as
/// absent, and the structs of [`crate::kinds`] cannot read it everywhere).
pub fn prune(kind: &Kind, object: &mut Value) {
    structure::prune(schema(kind), object);
}

/// Fills in the defaults of the API, as Kubernetes and Gateway API have them. Never fails: where
/// something is of the wrong type it is left for [`validate`] to say so.
pub fn default_object(kind: &Kind, object: &mut Value) {
    structure::fill_defaults(schema(kind), object);
    (kind.fill_defaults)(object);
}

#[cfg(test)]
mod tests;
