//! Flows take turns where expressions are evaluated, wherever these stand.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tulle_flow::runner::{Runner, RunnerLimits};
use tulle_model::flow::history::{Outcome, RunName};

use super::costs::AtOnce;
use super::{Around, workflow};

/// Enough to keep both processes for some seconds.
const RUNAWAYS: usize = 40;

async fn does_not_wait_for_all(tasks: impl Fn(&str) -> Value) {
    let around = Around::new();
    let (evaluator, clock) = (around.evaluator.clone(), around.clock.clone());
    let runner = Runner::new(around.book.clone(), AtOnce, evaluator, clock, RunnerLimits::default());
    let give = |run: &RunName| runner.carry_on(around.book.lease(run, vec![])).expect("it is not full");
    let (endless, good) = (workflow(tasks("${ def f: f; f }")), workflow(tasks("${ [1,2] | map(. * 2) }")));
    for run in 0..RUNAWAYS {
        give(&around.begin_as("endless", &format!("r{run}"), &endless));
    }
    while around.evaluator.busy() < RUNAWAYS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let run = around.begin_as("good", "r", &good);
    give(&run);
    let outcome = timeout(Duration::from_secs(30), runner.ended(&run)).await;
    // However slow the machine is.
    let done = RUNAWAYS - around.evaluator.busy();
    assert!(matches!(outcome, Ok(Some(Outcome::Completed(_)))), "{outcome:?}");
    assert!(done <= 10, "{done} of the other Flow were first");
    runner.drop_all();
    around.wait().await;
    assert_eq!(around.evaluator.busy(), 0);
}

#[tokio::test]
async fn a_question_of_a_run_does_not_wait_for_all_of_another_flow() {
    does_not_wait_for_all(|expression| json!([{ "a": { "set": { "x": expression } } }])).await;
}

#[tokio::test]
async fn a_call_of_a_run_does_not_wait_for_all_of_another_flow() {
    let call = |body: &str| {
        let with = json!({ "method": "post", "endpoint": "http://a/", "body": { "x": body } });
        json!([{ "a": { "call": "http", "with": with } }])
    };
    does_not_wait_for_all(call).await;
}
