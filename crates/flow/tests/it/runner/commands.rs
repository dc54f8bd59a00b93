use serde_json::json;
use tulle_flow::runner::{RunCommand, RunnerLimits};
use tulle_model::flow::history::{Outcome, Then};

use super::{Around, STARTED, call, seconds, workflow};

#[tokio::test]
async fn a_run_that_is_suspended_is_forgotten_once_its_calls_are_answered() {
    let around = Around::new();
    let run = around.begin("r1", json!([call("a", "/"), call("b", "/")]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.wait().await;
    assert!(runner.command(&run, RunCommand::Suspend));
    // It is so already.
    assert!(runner.command(&run, RunCommand::Suspend));
    around.wait().await;
    assert_eq!((around.history(&run), around.then(&run)), (vec!["suspended".to_owned()], Then::GoesOn));
    around.pass(seconds(1)).await;
    assert_eq!(
        (around.history(&run).join(" "), around.then(&run)),
        ("suspended answered".into(), Then::Suspended)
    );
    assert!(runner.held().is_empty() && around.book.entered(&run).checkpoint.is_some());
    assert!(!runner.command(&run, RunCommand::Resume));
    around.give(&runner, &run, vec![RunCommand::Resume]);
    around.pass(seconds(1)).await;
    assert_eq!(around.keys(), ["r1/do/0/a", "r1/do/1/b"]);
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
}

#[tokio::test]
async fn a_run_is_cancelled_wherever_it_is() {
    let around = Around::new();
    let runner = around.runner();
    let calls = around.begin("r1", json!([call("a", "/")]));
    let waits = around.begin("r2", json!([{ "a": { "wait": "P10D" } }]));
    around.give(&runner, &calls, vec![]);
    around.give(&runner, &waits, vec![]);
    let ended = [runner.ended(&calls), runner.ended(&waits)];
    around.wait().await;
    let due = STARTED + 10 * 24 * 3_600_000;
    assert_eq!((around.then(&waits), runner.held().len()), (Then::Waits(due), 1));
    for run in [&calls, &waits] {
        around.book.cancel(run, STARTED + 1);
        runner.lost(run, around.book.entered(run).lease);
    }
    around.wait().await;
    for run in [&calls, &waits] {
        assert_eq!(
            (around.outcome(run), around.history(run).join(" ")),
            (Outcome::Cancelled, "cancelled".into())
        );
    }
    // The book knows.
    for ended in ended {
        assert_eq!(ended.await, None);
    }
    assert!(runner.held().is_empty());
    // The call was given up.
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&calls).len(), 1);
}

#[tokio::test]
async fn thousands_that_wait_are_not_kept() {
    let around = Around::new();
    let runner = around.runner();
    let workflow = workflow(json!([call("a", "/"), { "w": { "wait": "PT1H" } }, call("b", "/")]));
    let runs: Vec<_> = (0..10_000).map(|run| around.begin_of(&format!("r{run}"), &workflow)).collect();
    runs.iter().for_each(|run| around.give(&runner, run, vec![]));
    around.pass(seconds(1)).await;
    let due = STARTED + 100 + 3_600_000;
    assert!(runs.iter().all(|run| around.then(run) == Then::Waits(due)));
    assert_eq!((runner.held().len(), around.clock.next()), (0, None));
    around.clock.set(due);
    for run in &runs[..100] {
        around.give(&runner, run, vec![]);
    }
    around.pass(seconds(1)).await;
    assert!(runs[..100].iter().all(|run| matches!(around.outcome(run), Outcome::Completed(_))));
    assert_eq!(around.keys().len(), 10_100);
}

#[tokio::test]
async fn a_short_wait_is_slept_through() {
    let around = Around::new();
    let runner = around.runner();
    let run = around.begin("r1", json!([{ "w": { "wait": "PT4S" } }]));
    around.give(&runner, &run, vec![]);
    around.pass(seconds(2)).await;
    assert_eq!((around.book.appends(), runner.held().len()), (0, 1));
    around.pass(seconds(2)).await;
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
    assert_eq!((around.book.appends(), around.history(&run).join(" ")), (1, "fired".into()));
}

#[tokio::test]
async fn a_runner_takes_so_many() {
    let around = Around::new();
    let runner = around.runner_within(RunnerLimits { most_runs: 2, ..RunnerLimits::default() });
    let runs = ["r1", "r2", "r3"].map(|run| around.begin(run, json!([call("a", "/")])));
    for run in &runs[..2] {
        around.give(&runner, run, vec![]);
    }
    let refused = runner.carry_on(around.book.lease(&runs[2], vec![])).unwrap_err();
    assert_eq!(refused.to_string(), "the runner has 2 runs, which is the most that it takes");
    // One that it has is none more.
    around.give(&runner, &runs[0], vec![]);
    around.pass(seconds(1)).await;
    around.give(&runner, &runs[2], vec![]);
    around.pass(seconds(1)).await;
    assert!(runs.iter().all(|run| matches!(around.outcome(run), Outcome::Completed(_))));
}
