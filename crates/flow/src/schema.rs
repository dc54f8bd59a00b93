//! JSON Schemas that a workflow has values held against (dsl-reference.md, "Schema").

use serde_json::Value;
use tulle_model::flow::fault::FaultKind;

use crate::evaluator::Evaluator;
use crate::scoped::Unanswered;

/// Whether a value is as a schema says. Both go to a process that can be killed, where the schema is kept compiled.
///
/// # Errors
/// A validation error that names places in the value, and what was expected there; a configuration error where the schema cannot be
/// used, or takes too long.
pub async fn check(evaluator: &Evaluator, schema: &Value, value: &Value) -> Result<(), Unanswered> {
    let verdict = match evaluator.check(schema, value).await {
        Ok(verdict) => verdict,
        Err(reason) if reason.is_transient() => return Err(Unanswered::Later(reason)),
        Err(reason) => return Err(FaultKind::Configuration.fault(format!("the schema {reason}")).into()),
    };
    if let Some(why) = verdict["schema"].as_str() {
        return Err(FaultKind::Configuration.fault(format!("the schema cannot be used: {why}")).into());
    }
    match verdict["value"].as_str() {
        Some(why) => Err(FaultKind::Validation.fault(why).into()),
        None => Ok(()),
    }
}
