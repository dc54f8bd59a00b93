//! What expressions give.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::{Value, json};
use tulle_flow::evaluator::{Evaluator, Evaluators};
use tulle_model::flow::expression::{EvaluationReason, Given, LARGEST, Template, Variables};

use crate::{NAMES, evaluate, evaluators, expression, given};

#[tokio::test]
async fn expressions_give_what_jq_gives() {
    let evaluator = Evaluator::new(evaluators());
    let order = json!({"lines": [{"sku": "a", "n": 2, "each": 1.5}, {"sku": "b", "n": 1, "each": 4}], "note": "Gr\u{fc}\u{df}e"});
    for (text, value) in [
        ("[.lines[] | .n * .each] | add", json!(7)),
        (".lines | map(select(.n > 1)) | length", json!(1)),
        (".lines | map({(.sku): .n}) | add", json!({"a": 2, "b": 1})),
        ("reduce .lines[] as $line (0; . + $line.n)", json!(3)),
        (".lines[].sku", json!(["a", "b"])),
        ("empty", json!(null)),
        ("[]|.[]", json!(null)),
        (".lines[0] | keys", json!(["each", "n", "sku"])),
        ("def double: . * 2; .lines[0].n | double", json!(4)),
        (".note | test(\"^Gr\")", json!(true)),
        (".note | gsub(\"[^a-z]\"; \"\")", json!("re")),
        ("now", json!(1_700_000_000.5)),
        ("now | todate", json!("2023-11-14T22:13:20.5Z")),
        ("now | floor | strftime(\"%Y-%m-%d\")", json!("2023-11-14")),
        ("6 / 2 | . , 1.0", json!([3, 1.0])),
        ("[.lines[].each] | @json", json!("[1.5,4]")),
        ("\"\\(.lines[0])\"", json!("{\"each\":1.5,\"n\":2,\"sku\":\"a\"}")),
        ("@uri \"q=\\(.note)\"", json!("q=Gr%C3%BC%C3%9Fe")),
        ("9007199254740993", json!(9_007_199_254_740_993_i64)),
        ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ("nan", json!(null)),
        ("infinite", json!(f64::MAX)),
        ("1e1000, -1e1000", json!([f64::MAX, f64::MIN])),
        ("try error(\"x\") catch .", json!("x")),
        (".a.b.c?", json!(null)),
        ("\"gGE=\" | @base64d", json!("\u{fffd}a")),
        ("\"!!\" | try @base64d catch \"none\"", json!("none")),
        ("{a: 1} | .b = 2 | del(.a)", json!({"b": 2})),
        ("[limit(3; repeat(1))]", json!([1, 1, 1])),
        ("[.[] | numbers]", json!([])),
        ("\"a,b\" | split(\",\")", json!(["a", "b"])),
        ("[paths] | length", json!(10)),
        ("\"abc\" | ltrimstr(\"a\")", json!("bc")),
    ] {
        assert_eq!(evaluate(&evaluator, text, &order).await, Ok(value), "{text}");
    }
}

#[tokio::test]
async fn variables_are_given_by_name() {
    let evaluator = Evaluator::new(evaluators());
    let (context, item) = (json!({"a": [1, 2]}), json!("x"));
    let variables = Variables::new().with("item", &item).with("context", &context);
    let given = Given { variables: &variables, ..given(&Value::Null) };
    for (text, value) in [
        ("[$context.a[] | . + 1, $item]", json!([2, "x", 3, "x"])),
        ("[$input, $item] | map(.)", json!([null, "x"])),
        ("now as $now | $item as $x | [$x, $context.a | length] | map(.)", json!([1, 2])),
    ] {
        assert_eq!(evaluator.evaluate(&expression(text), given).await, Ok(value), "{text}");
    }
    let template =
        json!({"to": "${ $item }", "all": ["${ [$context.a[] | . * 2] }", "Hello ${ .x }"], "n": 1});
    let template = Template::parse(&template, NAMES).unwrap();
    let made = evaluator.evaluate_template(&template, given).await;
    assert_eq!(made, Ok(json!({"to": "x", "all": [[2, 4], "Hello ${ .x }"], "n": 1})));
    assert_eq!(evaluator.idle().len(), 1, "one process has done it all");
}

#[tokio::test]
async fn an_expression_that_fails_says_why_in_few_words() {
    let evaluator = Evaluator::new(evaluators());
    for (text, words) in [
        ("[.[] | .a.b]", "cannot index"),
        ("error(\"x\" * 5000)", "xxxx"),
        ("{(1 | tostring | tonumber): 2}", "a key that is no text"),
        ("\"a\" | test(\"(\")", "invalid regex"),
        ("\"abc\" | strptime(\"%Y\")", ""),
        ("[1, 2] | implode | tojson | fromjson | .a", ""),
    ] {
        let reason = evaluate(&evaluator, text, &json!([{"a": 1}])).await.unwrap_err();
        let EvaluationReason::Failed(said) = &reason else { panic!("{text}: {reason}") };
        assert!(said.contains(words) && said.len() < 600, "{text}: {said}");
    }
    assert_eq!(evaluator.idle().len(), 1, "one process has done it all");
}

#[tokio::test]
async fn more_than_can_wait_is_refused() {
    let settings = Evaluators { processes: 1, waiting: 1, ..evaluators() };
    let evaluator = Evaluator::new(settings);
    let slow = "def f: f; f";
    let quick = "[1] | map(.)";
    // In this order.
    let (first, second, third) = tokio::join!(
        biased;
        evaluate(&evaluator, slow, &Value::Null),
        evaluate(&evaluator, quick, &Value::Null),
        evaluate(&evaluator, quick, &Value::Null),
    );
    assert_eq!(first, Err(EvaluationReason::Time(Duration::from_millis(200))));
    assert_eq!(second, Ok(json!([1])));
    assert_eq!(third, Err(EvaluationReason::Busy(1)));
}

#[tokio::test]
async fn a_process_that_was_killed_is_replaced() {
    let evaluator = Evaluator::new(evaluators());
    assert_eq!(evaluate(&evaluator, "[1] | map(.)", &Value::Null).await, Ok(json!([1])));
    let [process] = evaluator.idle()[..] else { panic!("one") };
    let killed = std::process::Command::new("kill").args(["-9", &process.to_string()]).status().unwrap();
    assert!(killed.success());
    let again = evaluate(&evaluator, "[1] | map(.)", &Value::Null).await;
    // It may be asked before anybody knows.
    let transient = matches!(again, Err(EvaluationReason::Unavailable(_)));
    assert!(again == Ok(json!([1])) || transient, "{again:?}");
    assert_eq!(evaluate(&evaluator, "[1] | map(.)", &Value::Null).await, Ok(json!([1])));
}

#[tokio::test]
async fn an_evaluation_that_nobody_waits_for_any_longer_leaves_nothing() {
    let evaluator = Evaluator::new(evaluators());
    assert_eq!(evaluate(&evaluator, "[1] | map(.)", &Value::Null).await, Ok(json!([1])));
    let [process] = evaluator.idle()[..] else { panic!("one") };
    let forever = expression("def f: f; f");
    let left =
        tokio::time::timeout(Duration::from_millis(20), evaluator.evaluate(&forever, given(&Value::Null)));
    assert!(left.await.is_err());
    assert_eq!(evaluate(&evaluator, "[2] | map(.)", &Value::Null).await, Ok(json!([2])));
    assert_ne!(evaluator.idle(), [process]);
}

#[tokio::test]
async fn a_program_that_is_none_is_named() {
    let settings = Evaluators { program: "/nonexistent/tulle".into(), ..evaluators() };
    let evaluator = Evaluator::new(settings);
    let reason = evaluate(&evaluator, "[1] | map(.)", &Value::Null).await.unwrap_err();
    assert!(
        matches!(&reason, EvaluationReason::Unavailable(what) if what.contains("cannot be started")),
        "{reason}"
    );
}

#[tokio::test]
async fn an_evaluator_sees_no_environment_and_ends_with_its_input() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flow-evaluator"));
    command.stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let evaluator = Evaluator::new(evaluators());
    evaluate(&evaluator, "[1] | map(.)", &Value::Null).await.unwrap();
    let [process] = evaluator.idle()[..] else { panic!("one") };
    // Whoever may not look into it sees nothing; root does.
    if let Ok(environment) = std::fs::read(format!("/proc/{process}/environ")) {
        assert_eq!(environment, b"");
    }
    if let Ok(limits) = std::fs::read_to_string(format!("/proc/{process}/limits")) {
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some("3"), "{line}");
    }
}

/// As when whoever asked was killed, and could say nothing more.
#[test]
fn an_evaluator_that_computes_ends_with_its_input() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flow-evaluator"));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut ready = [0];
    output.read_exact(&mut ready).unwrap();
    let part = |text: &str| [&(text.len() as u32).to_ne_bytes(), text.as_bytes()].concat();
    let given = [1000_u32.to_ne_bytes().to_vec(), 0_f64.to_ne_bytes().to_vec()].concat();
    let frame = [b"v".to_vec(), given, part("def f: f; f"), part("null")].concat();
    input.write_all(&(frame.len() as u32).to_ne_bytes()).unwrap();
    input.write_all(&frame).unwrap();
    // It computes, as it has nothing else to do.
    let computed = || tulle_sys::restrict::computed(child.id()).unwrap();
    let before = computed();
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while computed() < before + Duration::from_millis(20) {
        assert!(std::time::Instant::now() < patience, "it does not compute");
        std::thread::yield_now();
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(output.read(&mut ready).unwrap(), 0, "it has not answered");
}

#[tokio::test]
async fn what_is_given_is_bounded() {
    let evaluator = Evaluator::new(evaluators());
    let large = Value::from("x".repeat(5 << 20));
    assert_eq!(evaluate(&evaluator, "[.] | map(.)", &large).await, Err(EvaluationReason::Input(4 << 20)));
    let deep = |depth| (0..depth).fold(Value::Null, |inner, _| json!([inner]));
    assert_eq!(
        evaluate(&evaluator, "[.[]?] | length", &deep(101)).await,
        Err(EvaluationReason::InputDepth(100))
    );
    assert_eq!(evaluate(&evaluator, "[.[]?] | length", &deep(100)).await, Ok(json!(1)));
    assert_eq!(evaluate(&evaluator, "map(.)", &deep(100)).await, Ok(deep(100)));
    assert_eq!(evaluate(&evaluator, "[.]", &deep(100)).await, Err(EvaluationReason::Depth(100)));
    assert_eq!(evaluate(&evaluator, "., (.[]?)", &deep(100)).await, Err(EvaluationReason::Depth(100)));
    let half = Value::from("x".repeat(LARGEST / 2 - 4));
    assert_eq!(evaluate(&evaluator, "[., .] | map(.) | length", &half).await, Ok(json!(2)));
    let two = evaluate(&evaluator, "[., .] | map(.)", &half).await.unwrap();
    assert!(two.to_string().len() <= LARGEST);
    assert_eq!(evaluate(&evaluator, "[., ., 1] | map(.)", &half).await, Err(EvaluationReason::Size(LARGEST)));
}
