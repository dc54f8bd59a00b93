use std::time::Duration;

use serde_json::json;
use tulle_flow::runner::{Replay, RunCommand};
use tulle_model::flow::history::Outcome;
use tulle_model::flow::run::{Run, RunPhase};

use super::{Around, STARTED, call, seconds};
use crate::memory::Crash;

fn from(task: &str) -> Vec<RunCommand> {
    vec![RunCommand::Retry { task: task.into() }]
}

#[tokio::test]
async fn a_run_goes_on_from_a_task_with_calls_that_are_new() {
    let around = Around::new();
    let timed = json!({ "timed": {
        "timeout": { "after": "PT30S" },
        "do": [call("b", "/broken"), call("c", "/")],
    } });
    let run = around.begin("r1", json!([call("a", "/"), timed]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert!(matches!(around.outcome(&run), Outcome::Faulted(_)));
    // It has never begun that: all stays as it is.
    around.give(&runner, &run, from("/do/1/timed/do/1/c"));
    around.wait().await;
    assert_eq!(around.history(&run).join(" "), "answered answered 503");
    assert!(matches!(around.outcome(&run), Outcome::Faulted(_)));
    // Much later, and it fails again.
    around.pass(seconds(3_600)).await;
    around.give(&runner, &run, from("/do/1/timed/do/0/b"));
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&run).join(" "), "answered answered 503 retried 1 answered 503");
    assert!(matches!(around.outcome(&run), Outcome::Faulted(_)));
    *around.services.broken.lock() = http::StatusCode::OK;
    around.give(&runner, &run, from("/do/1/timed"));
    around.pass(seconds(1)).await;
    assert_eq!(
        around.history(&run).join(" "),
        "answered answered 503 retried 1 answered 503 retried 1 answered answered"
    );
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
    let keys = around.keys();
    assert_eq!(
        keys,
        [
            "r1/do/0/a",
            "r1/do/1/timed/do/0/b",
            "r1~1/do/1/timed/do/0/b",
            "r1~2/do/1/timed/do/0/b",
            "r1~2/do/1/timed/do/1/c"
        ]
    );
    // Each part of the history leads to where the run was then.
    let entered = around.book.entered(&run);
    let phases = ["runs", "runs", "faulted", "runs", "faulted", "runs", "runs", "completed"];
    let new = || Replay::new(entered.facts.workflow.clone(), entered.facts.info.clone());
    // Whether it is read at once or piece by piece.
    let mut growing = new();
    for (entries, expected) in phases.into_iter().enumerate() {
        let mut at_once = new();
        at_once.add(entered.entries[..entries].to_vec(), &around.evaluator).await.unwrap();
        let read = growing.entries().len();
        growing.add(entered.entries[read..entries].to_vec(), &around.evaluator).await.unwrap();
        let (run, steps) = at_once.now(&around.evaluator).await;
        let (grown, grown_steps) = growing.now(&around.evaluator).await;
        let phase = |run: &Run| match run.phase() {
            RunPhase::Running => "runs",
            RunPhase::Faulted(_) => "faulted",
            RunPhase::Completed(_) => "completed",
            other => panic!("{other:?}"),
        };
        assert_eq!((phase(&run), phase(&grown)), (expected, expected), "{entries}");
        assert_eq!(steps, grown_steps, "{entries}");
    }
    // What goes on is not gone back.
    let other = around.begin("r2", json!([call("a", "/")]));
    around.give(&runner, &other, from("/do/0/a"));
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&other), ["answered"]);
}

#[tokio::test]
async fn an_expression_that_failed_is_evaluated_again() {
    let around = Around::new();
    let fails = json!({ "s": { "set": { "x": "${ .n + {} }" } } });
    let run = around.begin("r1", json!([call("a", "/"), fails]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&run).join(" "), "answered failed 0");
    around.give(&runner, &run, from("/do/1/s"));
    around.wait().await;
    assert_eq!(around.history(&run).join(" "), "answered failed 0 retried 1 failed 0");
    around.give(&runner, &run, from("/do/0/a"));
    around.pass(seconds(1)).await;
    assert_eq!(
        around.history(&run).join(" "),
        "answered failed 0 retried 1 failed 0 retried 0 answered failed 0"
    );
    assert_eq!(around.keys(), ["r1/do/0/a", "r1~2/do/0/a"]);
}

#[tokio::test]
async fn a_runner_that_dies_while_it_goes_back_takes_nothing_with_it() {
    for is_written in [false, true] {
        let around = Around::new();
        let run = around.begin("r1", json!([call("a", "/"), call("b", "/"), call("c", "/")]));
        let runner = around.runner();
        around.give(&runner, &run, vec![]);
        around.pass(Duration::from_millis(150)).await;
        around.book.cancel(&run, STARTED + 150);
        runner.lost(&run, around.book.entered(&run).lease);
        around.pass(seconds(1)).await;
        assert_eq!(
            (around.outcome(&run), around.history(&run).join(" ")),
            (Outcome::Cancelled, "answered cancelled".into())
        );
        around.book.crash(Crash { at: around.book.appends(), is_written });
        around.give(&runner, &run, from("/do/1/b"));
        around.pass(seconds(1)).await;
        assert_eq!(around.keys(), ["r1/do/0/a", "r1/do/1/b"]);
        runner.drop_all();
        around.book.crash(Crash { at: usize::MAX, is_written });
        assert_eq!(around.book.entered(&run).checkpoint.is_some(), is_written);
        let runner = around.runner();
        // It is said again, where the book does not have it.
        around.give(&runner, &run, if is_written { vec![] } else { from("/do/1/b") });
        around.pass(seconds(1)).await;
        let taken_over = if is_written { "taken over " } else { "" };
        let expected = format!("answered cancelled retried 1 {taken_over}answered answered");
        assert_eq!(around.history(&run).join(" "), expected);
        assert_eq!(around.keys(), ["r1/do/0/a", "r1/do/1/b", "r1~1/do/1/b", "r1~1/do/2/c"]);
        assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
    }
}
