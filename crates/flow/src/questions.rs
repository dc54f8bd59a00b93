//! Answers what a run asks (`tulle_model::flow::run`).

use std::sync::Arc;

use serde_json::Value;
use tulle_model::flow::fault::Fault;
use tulle_model::flow::run::{EvaluationKind, ToEvaluate};
use tulle_model::flow::scope::Scope;
use tulle_model::flow::workflow::{SchemaSource, Transformation};

use crate::evaluator::Evaluator;
use crate::schema::check;
use crate::scoped::{Scoped, Unanswered};

/// The answer to a question of a run. `secrets` as in [`Scoped::new`].
///
/// # Errors
/// Why there is none.
pub async fn answer(
    question: &ToEvaluate<'_>,
    evaluator: &Evaluator,
    secrets: &Arc<Value>,
) -> Result<Value, Unanswered> {
    let scoped = Scoped::new(evaluator, &question.scope, secrets);
    match question.asked {
        EvaluationKind::Expression(expression) => scoped.expression(expression).await,
        EvaluationKind::Template(template) => scoped.template(template).await,
        EvaluationKind::Schema(source) => {
            let SchemaSource::Inline(document) = source else { return Err(Unanswered::Elsewhere) };
            let checked = check(evaluator, document, &question.scope.on).await;
            checked.map(|()| Value::Null).map_err(|why| about(why, source, &question.scope))
        }
    }
}

/// Why a schema's check went wrong, with what of the task it is about.
pub fn about(why: Unanswered, source: &SchemaSource, scope: &Scope) -> Unanswered {
    let Unanswered::Fault(fault) = why else { return why };
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
    Unanswered::Fault(Fault { detail: Some(format!("{what}: {detail}").into()), ..fault })
}
