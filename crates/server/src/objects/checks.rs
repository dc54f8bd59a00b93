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
    let unknown_fields = if kind.prunes_unknown { unknown_fields } else { UnknownFields::Strict };
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tulle_model::registry::KindId;

    use super::super::tests::{objects, options, service};
    use super::*;

    #[test]
    fn fields_that_a_kind_has_not_are_dropped_told_of_or_refused() {
        let kind = KindId::Service.kind();
        let known = json!({ "metadata": { "name": "c" }, "spec": { "ports": [] } });
        let mut more = known.clone();
        more["spec"]["colour"] = json!("red");
        let warning = vec!["unknown field \"spec.colour\"".to_owned()];
        for (unknown_fields, of_known, of_more) in [
            (UnknownFields::Ignore, Some(vec![]), Some(vec![])),
            (UnknownFields::Warn, Some(vec![]), Some(warning)),
            (UnknownFields::Strict, Some(vec![]), None),
        ] {
            for (object, expected) in [(&known, of_known), (&more, of_more)] {
                let mut object = object.clone();
                let pruned = prune(kind, &mut object, unknown_fields);
                match &pruned {
                    Ok(_) => assert_eq!(object, known),
                    Err(error) => assert!(error.to_string().contains("spec.colour"), "{error}"),
                }
                assert_eq!(pruned.ok(), expected, "{unknown_fields:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_status_is_checked_when_it_is_written_and_the_rest_when_that_is() {
        let objects = objects().await;
        let kind = KindId::Service.kind();
        let mut odd = service("c", 80);
        odd["spec"]["externalName"] = json!("example.com");
        let written = objects.create(kind, "default", odd, &options()).await.unwrap();
        assert_eq!(written.warnings.len(), 1, "{:?}", written.warnings);
        let set = async |status: Value| {
            let options = options();
            let change = |kept: &mut Value| *kept = status.clone();
            let written = objects.update_status(kind, "default", "c", &options, change).await;
            written.map(|written| written.warnings)
        };
        assert_eq!(set(json!({ "loadBalancer": {} })).await.unwrap(), Vec::<String>::new());
        let error = set(json!({ "conditions": "x" })).await.unwrap_err();
        assert!(
            matches!(&error, ObjectError::Invalid { problems, .. } if problems[0].field == "status.conditions"),
            "{error}"
        );
    }

    #[test]
    fn each_part_answers_for_itself() {
        let kind = KindId::Service.kind();
        let good = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "c", "namespace": "default" },
            "spec": { "ports": [{ "port": 80 }] },
        });
        let (mut bad_spec, mut bad_status) = (good.clone(), good.clone());
        bad_spec["spec"]["ports"][0]["port"] = json!(0);
        bad_status["status"] = json!({ "conditions": "x" });
        for (part, of_spec, of_status) in
            [(Part::Object, false, true), (Part::Status, true, false), (Part::Whole, false, false)]
        {
            for (object, expected) in [(&good, true), (&bad_spec, of_spec), (&bad_status, of_status)] {
                let admitted = admit(kind, None, &mut object.clone(), part, UnknownFields::Ignore);
                assert_eq!(admitted.is_ok(), expected, "{part:?}: {object}");
            }
        }
    }
}
