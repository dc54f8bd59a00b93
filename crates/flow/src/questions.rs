//! Answers what a run asks (`tulle_model::flow::run`).

use std::sync::Arc;

use serde_json::Value;
use tulle_model::flow::fault::Fault;
use tulle_model::flow::run::{EvaluationKind, ToEvaluate};
use tulle_model::flow::scope::Scope;
use tulle_model::flow::workflow::{SchemaSource, Transformation};

use crate::evaluator::Evaluator;
use crate::schema::Schemas;
use crate::scoped::{Scoped, Unanswered};

/// The answer to a question of a run, whose workflow has these schemas. `secrets` as in [`Scoped::new`].
///
/// # Errors
/// Why there is none.
pub async fn answer(
    question: &ToEvaluate<'_>,
    evaluator: &Evaluator,
    schemas: &Schemas,
    secrets: &Arc<Value>,
) -> Result<Value, Unanswered> {
    let scoped = Scoped::new(evaluator, &question.scope, secrets);
    match question.asked {
        EvaluationKind::Expression(expression) => scoped.expression(expression).await,
        EvaluationKind::Template(template) => scoped.template(template).await,
        EvaluationKind::Schema(source) => {
            let SchemaSource::Inline(document) = source else { return Err(Unanswered::Elsewhere) };
            let checked = schemas.of(document).and_then(|schema| schema.check(&question.scope.on));
            checked.map_err(|fault| about(fault, source, &question.scope))?;
            Ok(Value::Null)
        }
    }
}

/// With what of the task is held against the schema.
pub fn about(fault: Fault, source: &SchemaSource, scope: &Scope) -> Fault {
    let is = |of: &Transformation| of.schema.as_ref().is_some_and(|schema| std::ptr::eq(schema, source));
    let task = scope.task.as_ref().map(|task| scope.workflow.task(task.id));
    let (input, output) = match task {
        Some(task) => (&task.input, &task.output),
        None => (&scope.workflow.input, &scope.workflow.output),
    };
    let what = match () {
        () if is(input) => "input",
        () if is(output) => "output",
        () => "export",
    };
    let detail = fault.detail.as_deref().unwrap_or_default();
    Fault { detail: Some(format!("{what}: {detail}").into()), ..fault }
}
