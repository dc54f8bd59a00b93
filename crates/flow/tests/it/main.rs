//! Expressions in processes of their own.

mod costs;
mod harm;
mod kit;
mod memory;
mod runner;
mod schemas;
mod values;

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_model::flow::expression::{EvaluationReason, Expression, Given, LARGEST, Variables};

const NAMES: &[&str] = &["context", "input", "item"];

/// With the processes of `TULLE_BIN`, where that is set, and of a small program otherwise.
fn evaluators() -> Evaluators {
    if let Some(tulle) = std::env::var_os("TULLE_BIN") {
        return Evaluators { program: tulle.into(), ..Evaluators::default() };
    }
    Evaluators {
        program: env!("CARGO_BIN_EXE_flow-evaluator").into(),
        arguments: Vec::new(),
        ..Evaluators::default()
    }
}

fn expression(text: &str) -> Expression {
    Expression::parse(text, NAMES).unwrap_or_else(|problem| panic!("{text:.80}: {problem}"))
}

static NONE: LazyLock<Variables<'static>> = LazyLock::new(Variables::new);

fn given(input: &Value) -> Given<'_> {
    Given { input, variables: &NONE, now: 1_700_000_000.5, largest: LARGEST }
}

async fn evaluate(evaluator: &Evaluator, text: &str, input: &Value) -> Result<Value, EvaluationReason> {
    let expression = expression(text);
    let evaluation = evaluator.evaluate(&expression, given(input));
    let limit = Duration::from_secs(60);
    let outcome =
        tokio::time::timeout(limit, evaluation).await.unwrap_or_else(|_| panic!("{text:.80} hangs"));
    outcome.map_err(|error| error.reason)
}
