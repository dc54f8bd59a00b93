//! Expressions that would harm a process: each gives an error, and nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_model::flow::expression::EvaluationReason;
use tulle_model::name::NamespacedName;

use crate::{evaluate, evaluators, expression, given};

/// Each with what may become of it: the beginnings of names of reasons.
const HARMFUL: &[(&str, &[&str])] = &[
    ("def f: 1+f; f", &["Recursion", "Memory", "Time"]),
    ("reduce range(3000000) as $i (0; [.])", &["Depth", "Recursion", "Time", "Memory"]),
    ("reduce range(5000) as $i (0; [.])", &["Depth"]),
    ("reduce range(100000) as $i (0; [.]) | length", &["Recursion", "Time", "Value"]),
    ("reduce range(10000) as $i (0; [.]) | tojson", &["Recursion", "Time", "Value"]),
    ("def f: f; f", &["Time"]),
    ("[range(1e12)]", &["Memory", "Time"]),
    ("range(1e12)", &["Size", "Time"]),
    ("[limit(1e9; repeat(1))] | length", &["Memory", "Time"]),
    ("\"x\" * 1000000000 | length", &["Memory"]),
    ("\"xx\" * 9223372036854775807", &["Memory"]),
    ("\"x\" * 300000 | .", &["Size"]),
    ("last(repeat(1))", &["Time"]),
    ("[recurse(1)] | length", &["Recursion", "Memory", "Time"]),
    ("[.. = 1] | until(false; .)", &["Time"]),
    ("def f($n): f($n + 1); f(0)", &["Time", "Memory"]),
    ("def f: [f]; f", &["Recursion", "Memory"]),
    ("def f: {a: f}; f", &["Recursion", "Memory"]),
    ("try (def f: 1+f; f) catch 1", &["Recursion", "Memory"]),
    ("label $out | repeat(1) | select(false) | break $out", &["Time"]),
    ("[range(10000)] | combinations(3) | select(false)", &["Time", "Memory"]),
    ("\"a\" * 30 | test(\"(a*)*(a*)*(a*)*(a*)*b\")", &["Time", "Value"]),
    ("\"a\" * 100000 | [splits(\"(a|aa)+$\")] | length", &["Time", "Value", "Memory"]),
    ("\"a\" | test(\"a{1000}{1000}{1000}\")", &["Memory", "Time", "Failed", "Value"]),
    ("9999999999999999999999999999 | reduce range(25) as $i (.; . * .) | 1", &["Time", "Memory", "Value"]),
    ("[1] | .[1e18] = 1", &["Failed"]),
    ("[1] | .[1000000000000] = 1", &["Failed", "Memory"]),
    ("null | setpath([range(100000) | \"a\"]; 1)", &["Failed", "Depth", "Recursion"]),
    ("[range(100000)] | sort_by(.) | group_by(. % 10) | length | error", &["Failed", "Time"]),
    ("\"[\" * 50000 | fromjson", &["Recursion", "Failed"]),
    ("\"\\(\"\\(\"\\(def f: \"\\(f)\"; f)\")\")\"", &["Recursion", "Memory"]),
    ("reduce range(1000000000) as $i (null; .)", &["Time"]),
    ("[foreach range(1000000000) as $i (0; . + $i)] | length", &["Time", "Memory"]),
    (
        "[., .] | [recurse(if length < 100 then [., .] else empty end)] | length",
        &["Recursion", "Memory", "Time"],
    ),
    ("\"a\" | [match(\"\"; \"g\")] | until(length > 1e9; . + .)", &["Memory", "Time"]),
    ("1 as $x | 2 as $y | [$x, $y, (def f: $x + f; f)]", &["Recursion", "Memory"]),
    ("@json \"\\([range(10000000)])\" | length", &["Memory", "Time"]),
    ("[getpath([range(1000) | 0])] | length | error", &["Failed"]),
    ("infinite | [range(.)] | length", &["Memory", "Time"]),
    ("1e308 * 10 | tostring | error", &["Failed"]),
    ("[splits(\"a\"; \"q\")]", &["Failed"]),
    ("-5 as $n | [limit($n; repeat(1))] | error", &["Failed"]),
];

fn name(outcome: &Result<Value, EvaluationReason>) -> String {
    match outcome {
        Ok(_) => "Value".to_owned(),
        Err(reason) => format!("{reason:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_an_expression_that_does_harm() {
    let evaluator = Arc::new(Evaluator::new(Evaluators { processes: 4, ..evaluators() }));
    let mut good = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for number in 0..50 {
        let (evaluator, stopped) = (evaluator.clone(), stopped.clone());
        good.spawn(async move {
            let input = json!([number, number + 1]);
            let mut done = 0;
            while !*stopped.borrow() {
                let value = evaluate(&evaluator, "map(. * 2) | add", &input).await;
                assert_eq!(value, Ok(json!(number * 4 + 2)));
                done += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done
        });
    }
    let mut harmful = JoinSet::new();
    for (text, expected) in HARMFUL {
        let evaluator = evaluator.clone();
        harmful.spawn(async move {
            let outcome = evaluate(&evaluator, text, &json!({"a": 1})).await;
            let name = name(&outcome);
            let fits = expected.iter().any(|expected| name.starts_with(expected));
            (!fits).then(|| format!("{text}: {name:.200}, and not one of {expected:?}"))
        });
    }
    let wrong: Vec<_> = harmful.join_all().await.into_iter().flatten().collect();
    stop.send(true).unwrap();
    let done = good.join_all().await;
    assert!(done.iter().all(|done| *done > 0), "{done:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// All together these take six seconds of two processes.
#[tokio::test]
async fn one_flow_does_not_wait_for_all_that_runs_away_of_another() {
    const RUNAWAYS: usize = 60;
    let evaluator = Evaluator::new(evaluators());
    let [a, b] = ["a", "b"].map(|flow| evaluator.of(NamespacedName::new("shop", flow)));
    let mut harmful = JoinSet::new();
    for _ in 0..RUNAWAYS {
        let a = a.clone();
        harmful.spawn(async move { evaluate(&a, "def f: f; f", &Value::Null).await });
    }
    while evaluator.busy() < RUNAWAYS {
        tokio::task::yield_now().await;
    }
    assert_eq!(evaluate(&b, "[1,2] | map(. * 2)", &Value::Null).await, Ok(json!([2, 4])));
    // However slow the machine is.
    let done = RUNAWAYS - evaluator.busy();
    assert!(done <= 10, "{done} were first");
    harmful.shutdown().await;
    assert_eq!(evaluator.busy(), 0, "nobody keeps a turn");
}

#[tokio::test]
async fn the_error_says_which_expression_and_which_limit() {
    let evaluator = Evaluator::new(evaluators());
    for (text, said) in [
        (
            "def f: f; f",
            "the expression `def f: f; f` was stopped after 200 ms of computing; it may not need more than that",
        ),
        (
            "\"x\" * 1000000000 | length",
            "the expression `\"x\" * 1000000000 | length` was stopped: it may not use more than 128 MiB of memory",
        ),
        (
            "def f: 1+f; f",
            "the expression `def f: 1+f; f` was stopped: it calls itself too often before it is done",
        ),
        ("[range(200000)]", "the expression `[range(200000)]` gives a value of more than 262144 bytes"),
    ] {
        let error = evaluator.evaluate(&expression(text), given(&Value::Null)).await.unwrap_err();
        assert_eq!(error.to_string(), said);
        assert!(!error.is_transient());
    }
}

/// In a process of its own: what a process had before it became an evaluator counts for it, and that is this one's.
#[test]
fn memory_is_bounded() {
    let test = std::env::current_exe().unwrap();
    let alone = ["--exact", "harm::memory_is_bounded_alone", "--ignored", "--nocapture"];
    let outcome = std::process::Command::new(test).args(alone).output().unwrap();
    let said = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success() && said.contains("1 passed"), "{outcome:?}");
}

/// However it is taken: little by little, too, by an allocator that sets much aside.
#[tokio::test]
#[ignore = "memory_is_bounded runs it"]
async fn memory_is_bounded_alone() {
    let evaluator = Evaluator::new(Evaluators { time: Duration::from_secs(60), ..evaluators() });
    for text in [
        "[range(1e12)] | length",
        "reduce range(1e12) as $i ({}; .[$i | tostring] = [$i])",
        "\"x\" | until(false; . + .)",
    ] {
        let outcome = evaluate(&evaluator, text, &Value::Null).await;
        let bounded = matches!(outcome, Err(EvaluationReason::Memory(_) | EvaluationReason::Recursion));
        assert!(bounded, "{text}: {outcome:?}");
    }
    let children = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    let most = children.max_rss() << 10;
    // The text of a program that is shared with others comes to it.
    assert!((32 << 20..192 << 20).contains(&most), "{most}");
}

/// A machine that has much else to do is no fault of an expression.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_an_expression_computes_itself_is_counted() {
    let evaluator = Evaluator::new(evaluators());
    let text = "reduce range(20000) as $i (0; . + $i)";
    let value = evaluate(&evaluator, text, &Value::Null).await;
    assert_eq!(value, Ok(json!(199_990_000)));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let stopped = Arc::new(std::sync::Mutex::new(stopped));
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            std::thread::spawn(move || {
                let mut turns = 0_u64;
                while stopped
                    .try_lock()
                    .is_ok_and(|s| s.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty))
                    || turns == 0
                {
                    for turn in 0..1_000_000_u64 {
                        turns = std::hint::black_box(turns.wrapping_add(turn | 1));
                    }
                }
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(evaluate(&evaluator, text, &Value::Null).await);
    }
    drop(stop);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(json!(199_990_000))), "{outcomes:?}");
}
