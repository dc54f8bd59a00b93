//! Patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.

mod json;
mod strategic;

use serde_json::Value;
use tulle_model::registry::Kind;
use tulle_model::schema;

use super::{ObjectError, metadata};

/// What to change.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Like a merge, but lists of objects merge by the keys that the schema names.
    StrategicMerge(Value),
}

impl Patch {
    /// Reads a JSON patch.
    pub fn json(text: &[u8]) -> Result<Self, ObjectError> {
        json::read(text).map(Self::Json).map_err(ObjectError::BadRequest)
    }
}

/// The object that the patch makes of `current`.
///
/// The result names a `resourceVersion` only if the patch does: then the patch is for that version.
pub fn apply(kind: &'static Kind, current: &Value, patch: &Patch) -> Result<Value, ObjectError> {
    let mut object = current.clone();
    match patch {
        Patch::Json(patch) => {
            json::apply(&mut object, patch).map_err(|problem| ObjectError::Invalid {
                kind,
                name: metadata::text(current, "name").unwrap_or_default().to_owned(),
                problems: vec![super::FieldProblem {
                    field: String::new(),
                    reason: "FieldValueInvalid",
                    message: format!(
                        "the server rejected our request due to an error in our request: {problem}"
                    ),
                }],
            })?;
        }
        Patch::Merge(patch) => {
            if !patch.is_object() {
                return Err(ObjectError::BadRequest("the patch must be an object".to_owned()));
            }
            json_patch::merge(&mut object, patch);
        }
        Patch::StrategicMerge(patch) => strategic::merge(&mut object, patch, Some(schema::schema(kind)))?,
    }
    if !object.is_object() {
        return Err(ObjectError::BadRequest("the patch must leave an object".to_owned()));
    }
    // A version that the patch left as it was is no demand of it.
    if metadata::text(&object, "resourceVersion") == metadata::text(current, "resourceVersion") {
        metadata::of(&mut object).remove("resourceVersion");
    }
    Ok(object)
}
