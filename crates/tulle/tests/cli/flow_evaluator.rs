//! The command that evaluates expressions of flows, which nobody types.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_model::flow::expression::{EvaluationReason, Expression, Given, LARGEST, Variables};

#[test]
fn the_binary_evaluates_expressions_and_tells_nobody() {
    let tulle = env!("CARGO_BIN_EXE_tulle");
    let help = Command::new(tulle).arg("--help").output().unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains("evaluator"));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let evaluator = Evaluator::new(Evaluators { program: tulle.into(), ..Evaluators::default() });
    let variables = Variables::new();
    let given = Given { input: &json!([1, 2]), variables: &variables, now: 0.0, largest: LARGEST };
    let evaluate = |text: &str| -> Result<Value, EvaluationReason> {
        let expression = Expression::parse(text, &[]).unwrap();
        runtime.block_on(evaluator.evaluate(&expression, given)).map_err(|error| error.reason)
    };
    assert_eq!(evaluate("map(. * 2)"), Ok(json!([2, 4])));
    assert_eq!(evaluate("def f: f; f"), Err(EvaluationReason::Time(Duration::from_millis(200))));
    assert_eq!(evaluate("\"x\" * 1000000000 | length"), Err(EvaluationReason::Memory(128 << 20)));
    assert_eq!(evaluate("def f: 1 + f; f"), Err(EvaluationReason::Recursion));
    assert_eq!(evaluate("map(. * 2)"), Ok(json!([2, 4])));
}
