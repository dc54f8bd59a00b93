use std::time::Duration;

use serde_json::json;
use tulle_model::flow::fault::FaultKind;
use tulle_model::flow::history::{HistoryEntry, Outcome, Then};
use tulle_model::flow::run::RunEvent;

use futures_util::FutureExt;
use tulle_flow::runner::RunCommand;

use super::{Around, call, seconds};
use crate::memory::Crash;

#[tokio::test]
async fn who_has_lost_a_run_does_nothing_more_for_it() {
    let around = Around::new();
    let run = around.begin("r1", json!([call("a", "/"), call("b", "/")]));
    let (first, second) = (around.runner(), around.runner());
    around.give(&first, &run, vec![]);
    around.wait().await;
    // The first does not know of it: what it would add is refused.
    around.give(&second, &run, vec![]);
    around.pass(seconds(1)).await;
    assert!(first.held().is_empty() && second.held().is_empty());
    assert_eq!(around.history(&run).join(" "), "taken over answered answered");
    assert_eq!(around.keys(), ["r1/do/0/a", "r1/do/0/a", "r1/do/1/b"]);
}

#[tokio::test]
async fn a_run_is_dropped_when_it_is_said_to_be_lost() {
    let around = Around::new();
    let run = around.begin("r1", json!([call("a", "/")]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.give(&runner, &run, vec![]);
    around.wait().await;
    assert_eq!(runner.held(), [(run.clone(), 2)]);
    let ended = runner.ended(&run);
    // That was an earlier one.
    runner.lost(&run, 1);
    assert_eq!(runner.held().len(), 1);
    runner.lost(&run, 2);
    assert!(runner.held().is_empty());
    around.pass(seconds(1)).await;
    assert_eq!((around.history(&run), around.then(&run)), (vec!["taken over".to_owned()], Then::GoesOn));
    assert_eq!(ended.await, None);
}

#[tokio::test]
async fn a_run_stands_still_while_the_book_cannot_be_reached() {
    let around = Around::new();
    let run = around.begin("r1", json!([call("a", "/"), call("b", "/")]));
    let runner = around.runner();
    around.book.away(3);
    around.give(&runner, &run, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!((around.keys().len(), around.history(&run).len()), (1, 0));
    while around.keys().len() < 2 {
        tokio::task::yield_now().await;
    }
    around.pass(seconds(1)).await;
    assert_eq!(around.history(&run).join(" "), "answered answered");
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
}

/// It ends with what the book has, and calls nothing more.
#[tokio::test]
async fn a_run_ends_where_its_history_has_no_more_room() {
    let around = Around::new();
    around.book.takes(2);
    let run = around.begin("r1", json!([call("a", "/"), call("b", "/"), call("c", "/"), call("d", "/")]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    let ended = runner.ended(&run);
    around.pass(seconds(1)).await;
    let Outcome::Faulted(fault) = around.outcome(&run) else { panic!("{:?}", around.outcome(&run)) };
    assert_eq!((fault.detail.as_deref(), &*fault.instance), (Some("it is full"), "/"));
    assert_eq!(ended.await, Some(Outcome::Faulted(fault)));
    assert_eq!(around.history(&run).join(" "), "answered answered given up");
    assert_eq!((around.keys().len(), runner.held()), (3, vec![]));
    // There is room again, and it goes on from a task by new calls.
    around.book.takes(None);
    around.give(&runner, &run, vec![RunCommand::Retry { task: "/do/2/c".into() }]);
    around.pass(seconds(1)).await;
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)));
    assert_eq!(around.history(&run).join(" "), "answered answered given up retried 2 answered answered");
    assert_eq!(around.keys()[3..], ["r1~1/do/2/c", "r1~1/do/3/d"]);
}

/// What calls is about to go, and what is called as well: nothing more is begun, and what was begun is written down.
#[tokio::test]
async fn a_runner_that_rests_leaves_its_runs_where_they_are() {
    let around = Around::new();
    let calling = around.begin("r1", json!([call("a", "/"), call("b", "/")]));
    let waiting = around.begin("r2", json!([{ "w": { "wait": "PT2S" } }, call("a", "/")]));
    let runner = around.runner();
    around.give(&runner, &calling, vec![]);
    around.give(&runner, &waiting, vec![]);
    around.wait().await;
    let mut rests = std::pin::pin!(runner.rest());
    assert!((&mut rests).now_or_never().is_none());
    around.wait().await;
    assert_eq!(runner.held().len(), 1, "the one that calls");
    assert!((&mut rests).now_or_never().is_none());
    around.pass(seconds(5)).await;
    rests.await;
    // Others are given to it in vain.
    let third = around.begin("r3", json!([call("a", "/")]));
    around.give(&runner, &third, vec![]);
    around.pass(seconds(1)).await;
    assert_eq!(
        (around.history(&calling), around.then(&calling)),
        (vec!["answered".to_owned(), "rested".to_owned()], Then::GoesOn)
    );
    assert_eq!((around.history(&waiting).len(), around.keys().len(), runner.held().len()), (0, 1, 0));
    let other = around.runner();
    for run in [&calling, &waiting, &third] {
        around.give(&other, run, vec![]);
    }
    around.pass(seconds(1)).await;
    assert!(
        [&calling, &waiting, &third].iter().all(|run| matches!(around.outcome(run), Outcome::Completed(_)))
    );
    assert_eq!(around.keys().len(), 4, "none twice");
}

/// Branches, loops, waits and errors, with a runner that dies again and again.
#[tokio::test]
async fn however_often_runners_die_a_run_ends_as_it_would_have() {
    let branch =
        |name: &str| json!({ name: { "do": [call("x", "/"), { "w": { "wait": "PT3S" } }, call("y", "/")] } });
    let turns = json!({ "loop": { "for": { "in": "[1, 2, 3]" }, "do": [call("turn", "/")] } });
    let attempts = json!({ "attempt": {
        "try": [call("fails", "/broken")],
        "catch": { "retry": { "delay": "PT9S", "limit": { "attempt": { "count": 2 } } }, "do": [{ "s": { "set": { "x": "${ 1 + 1 }" } } }] },
    } });
    let tasks = json!([
        call("first", "/"),
        { "both": { "fork": { "branches": [branch("left"), branch("right"), turns] } } },
        attempts,
        call("last", "/"),
    ]);
    for seed in 0..40_usize {
        let around = Around::new();
        let run = around.begin("r1", tasks.clone());
        let mut runner = around.runner();
        let (mut random, mut deaths) = (seed, 0);
        let mut next_crash = |appends: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Crash { at: appends + (random >> 33) % 4, is_written: (random >> 40) % 2 == 0 }
        };
        around.book.crash(next_crash(0));
        around.give(&runner, &run, vec![]);
        while !matches!(around.then(&run), Then::Ends(..)) {
            around.wait().await;
            if around.book.has_crashed() {
                deaths += 1;
                runner.drop_all();
                runner = around.runner();
                around.book.crash(next_crash(around.book.appends()));
            } else if let Some(next) = around.clock.next() {
                around.clock.set(next);
                continue;
            }
            match around.then(&run) {
                Then::Waits(until) => around.clock.set(until),
                Then::Ends(..) => break,
                _ => {}
            }
            around.give(&runner, &run, vec![]);
        }
        let Outcome::Completed(_) = around.outcome(&run) else {
            panic!("{seed}: {:?}", around.outcome(&run))
        };
        let entries = around.book.entered(&run).entries;
        let answered = entries.iter().filter(|entry| matches!(entry.event, RunEvent::Answered { .. }));
        // Two branches of two calls, three turns, three attempts, the first and the last.
        assert_eq!(answered.count(), 12, "{seed}");
        let made = around.services.made.lock();
        assert!(deaths > 0 && made.len() <= 12 + 3 * deaths, "{seed}: {} of {deaths}", made.len());
        assert!(made.iter().all(|made| made.key == format!("r1{}", made.path)), "{seed}");
        for name in ["first", "last"] {
            let calls = made.iter().filter(|made| made.path.ends_with(name)).count();
            assert!((1..=1 + deaths).contains(&calls), "{seed}");
        }
    }
}

#[tokio::test]
async fn what_had_no_answer_has_none_in_a_replay() {
    let around = Around::new();
    let run = around.begin("r1", json!([{ "s": { "set": { "x": "${ .n + {} }" } } }]));
    let runner = around.runner();
    around.give(&runner, &run, vec![]);
    around.wait().await;
    assert_eq!(around.history(&run), ["failed 0"]);
    assert!(matches!(around.outcome(&run), Outcome::Faulted(_)));
    // One that would be answered now.
    let given = around.begin("r2", json!([{ "s": { "set": { "x": "${ .n }" } } }, call("a", "/")]));
    let fault = FaultKind::Expression.fault("it took too long");
    let event = RunEvent::Failed { question: 0, fault: fault.clone() };
    let mut lease = around.book.lease(&given, vec![]);
    lease.entries.push(HistoryEntry::new(1, event));
    runner.carry_on(lease).unwrap();
    let ended = runner.ended(&given).await;
    // Nothing is written of what was not there before.
    assert_eq!((ended, around.keys().len()), (None, 0));
}

/// Nobody was there who could have had an answer in time: a timeout begins again where it was.
#[tokio::test]
async fn time_in_which_nobody_has_a_run_is_nobodys_timeout() {
    let around = Around::new();
    let late = json!({ "late": {
        "do": [call("a", "/"), call("b", "/")],
        "timeout": { "after": { "milliseconds": 250 } },
    } });
    let run = around.begin("r1", json!([late]));
    let first = around.runner();
    around.give(&first, &run, vec![]);
    // The first call is over, and the second half done.
    around.pass(Duration::from_millis(150)).await;
    first.drop_all();
    around.pass(seconds(60)).await;
    let second = around.runner();
    around.give(&second, &run, vec![]);
    // The call is made anew, and has all the time that was left after the first.
    around.pass(Duration::from_millis(120)).await;
    assert!(matches!(around.outcome(&run), Outcome::Completed(_)), "{:?}", around.history(&run));
    assert_eq!(around.history(&run), ["answered", "taken over", "answered"]);
    assert_eq!(around.keys().len(), 3);
    // It still ends.
    let run = around.begin(
        "r2",
        json!([{ "late": { "do": [call("a", "/")], "timeout": { "after": { "milliseconds": 50 } } } }]),
    );
    around.give(&first, &run, vec![]);
    around.wait().await;
    first.drop_all();
    around.pass(seconds(60)).await;
    around.give(&second, &run, vec![]);
    around.pass(Duration::from_millis(60)).await;
    assert!(
        matches!(around.outcome(&run), Outcome::Faulted(fault) if fault.status == 408),
        "{:?}",
        around.history(&run)
    );
}
