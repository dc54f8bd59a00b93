use http::StatusCode;
use serde_json::json;
use tulle_flow::evaluator::Evaluators;
use tulle_model::flow::history::Outcome;

use super::{Around, call, seconds};
use crate::memory::Crash;

#[tokio::test]
async fn a_long_history_has_checkpoints() {
    let around = Around::new();
    let run =
        around.begin("r1", json!([{ "each": { "for": { "in": "[range(250)]" }, "do": [call("a", "/")] } }]));
    let runner = around.runner();
    around.book.crash(Crash { at: 230, is_written: true });
    around.give(&runner, &run, vec![]);
    around.pass(seconds(100)).await;
    runner.drop_all();
    let entered = around.book.entered(&run);
    let (checkpoint, _) = entered.checkpoint.unwrap();
    assert_eq!((entered.entries.len(), checkpoint), (231, 200));
    around.book.crash(Crash { at: usize::MAX, is_written: true });
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(100)).await;
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
    // The one that was to be made when the first runner died had not been made.
    let keys = around.keys();
    assert_eq!((keys.len(), &*keys[231]), (250, "r1/do/0/each/do/0/a[231]"));
}

#[tokio::test]
async fn that_a_schema_from_elsewhere_held_is_written_down() {
    let around = Around::new();
    let mut checked = call("a", "/");
    checked["a"]["input"] = json!({ "schema": { "resource": { "endpoint": "http://a/schema" } } });
    *around.services.broken.lock() = StatusCode::OK;
    let run = around.begin("r1", json!([checked, call("b", "/")]));
    around.book.crash(Crash { at: 0, is_written: true });
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&run), ["checked 0"]);
    // It is not asked for again, whatever is there now.
    runner.drop_all();
    *around.services.broken.lock() = StatusCode::NOT_FOUND;
    around.book.crash(Crash { at: usize::MAX, is_written: true });
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&run).join(" "), "checked 0 taken over answered answered");
    // And what does not hold is written down as well.
    let mut checked = call("a", "/");
    checked["a"]["input"] = json!({ "schema": { "resource": { "endpoint": "http://a/schema" } } });
    let other = around.begin("r2", json!([checked]));
    around.give(&runner, &other, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&other), ["failed 0"]);
    let Outcome::Faulted(fault) = around.outcome(&other) else { panic!("{:?}", around.outcome(&other)) };
    assert_eq!(fault.detail.as_deref(), Some("input: the schema at http://a/schema was answered with 404"));
}

#[tokio::test]
async fn a_run_stands_still_while_nothing_can_be_evaluated() {
    let folder = std::env::temp_dir().join(format!("tulle-runner-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("evaluator");
    let evaluators = Evaluators { program: program.clone(), ..crate::evaluators() };
    let there = crate::evaluators().program;
    let around = Around::with(evaluators);
    let run = around.begin("r1", json!([{ "s": { "set": { "x": "${ [.n, 2] | add }" } } }, call("a", "/")]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!((around.history(&run).len(), runner.held().len()), (0, 1));
    std::os::unix::fs::symlink(there, &program).unwrap();
    while around.keys().is_empty() {
        tokio::task::yield_now().await;
    }
    around.pass(seconds(1)).await;
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(around.history(&run), ["answered"]);
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
}

/// What was sent may have been carried out: who looks for it finds where.
#[tokio::test]
async fn a_call_that_was_cut_off_is_in_the_history() {
    let around = Around::new();
    let late = json!({ "late": {
        "try": [call("a", "/slow")],
        "catch": { "errors": { "with": { "status": 408 } } },
        "timeout": { "after": { "milliseconds": 50 } },
    } });
    let race = json!({ "race": { "fork": { "compete": true, "branches": [
        { "nap": { "wait": { "milliseconds": 20 } } },
        { "calls": { "do": [call("b", "/b")] } },
    ] } } });
    let run = around.begin("r1", json!([race, { "safe": { "try": [late], "catch": {} } }]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)), "{:?}", around.outcome(&run));
    let entries = around.book.entered(&run).entries;
    let cut_off: Vec<_> = entries
        .iter()
        .flat_map(|entry| {
            entry.cut_off.iter().map(|cut| (entry.at - cut.made.began, &*cut.path, &*cut.made.endpoint))
        })
        .collect();
    assert_eq!(
        cut_off,
        [
            (20, "/do/0/race/fork/branches/1/calls/do/0/b", "http://a/b"),
            (50, "/do/1/safe/try/0/late/try/0/a", "http://a/slow"),
        ]
    );
    assert!(entries.iter().all(|entry| entry.call.is_none()), "{entries:?}");
    let stored = serde_json::to_value(&entries[0]).unwrap();
    assert_eq!(stored["cutOff"][0]["method"], "POST", "{stored}");
}
