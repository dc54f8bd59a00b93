//! What an object must be before it is stored: known fields only, defaulted, valid.

use serde_json::Value;
use tulle_model::registry::Kind;
use tulle_model::validate::{self, FieldError, Segment};

use super::{FieldProblem, ObjectError, Part, UnknownFields, metadata};

/// Prunes, defaults and validates an object that is about to be stored in the place of `current`.
/// Returns warnings about what was dropped, and what nothing comes of.
pub(super) fn admit(
    kind: &'static Kind,
    current: Option<&Value>,
    object: &mut Value,
    part: Part,
    unknown_fields: UnknownFields,
) -> Result<Vec<String>, ObjectError> {
    let mut warnings = prune(kind, object, unknown_fields)?;
    validate::default_object(kind, object);
    let mut errors = validate::validate(kind, object);
    if let Some(current) = current {
        if !errors.is_empty() {
            // Stored when less was refused: it may be labelled, and mended one by one.
            validate::excuse_old(validate::validate(kind, current), &mut errors);
        }
        errors.extend(validate::validate_update(kind, current, object));
    }
    // What is not written now was checked when it was; it may have been valid only then.
    errors.retain(|error| match part {
        Part::Object => !(kind.has_status && is_status(error)),
        Part::Status => is_status(error),
        Part::Whole => true,
    });
    if errors.is_empty() {
        if part != Part::Status {
            let ignored = validate::warnings(kind, object);
            warnings.extend(ignored.iter().map(|field| format!("{} {}", field.path, field.message)));
        }
        return Ok(warnings);
    }
    Err(ObjectError::Invalid {
        kind,
        name: metadata::text(object, "name").unwrap_or_default().to_owned(),
        problems: errors.iter().map(problem).collect(),
    })
}

/// Drops fields that the kind does not have, or refuses the object because of them.
pub(super) fn prune(
    kind: &'static Kind,
    object: &mut Value,
    unknown_fields: UnknownFields,
) -> Result<Vec<String>, ObjectError> {
    let mut warnings = Vec::new();
    if unknown_fields != UnknownFields::Ignore {
        let unknown = validate::unknown_fields(kind, object);
        warnings.extend(unknown.iter().map(|error| format!("unknown field \"{}\"", error.path)));
        if unknown_fields == UnknownFields::Strict && !unknown.is_empty() {
            let details: Vec<String> = unknown
                .iter()
                .map(|error| format!("unknown field \"{}\" ({})", error.path, error.message))
                .collect();
            return Err(ObjectError::BadRequest(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                kind.kind,
                kind.version,
                kind.kind,
                details.join(", ")
            )));
        }
    }
    validate::prune(kind, object);
    Ok(warnings)
}

fn is_status(error: &FieldError) -> bool {
    matches!(error.path.segments().first(), Some(Segment::Field(field)) if field == "status")
}

fn problem(error: &FieldError) -> FieldProblem {
    FieldProblem {
        field: error.path.to_string(),
        reason: error.code.reason(),
        message: error.message.clone(),
    }
}
