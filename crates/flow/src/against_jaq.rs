//! Simple expressions give what jaq gives: random ones, on random values, both ways.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tulle_model::flow::expression::{EvaluationReason, Expression, FUNCTIONS, Given, LARGEST, Variables};

use crate::answer::Ending;
use crate::jaq::Jaq;
use crate::request::{self, Asked, Request};

const NAMES: &[&str] = &["x", "y"];

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-3_i64..6).prop_map(Value::from),
        1 => select(vec![i64::MAX, i64::MIN, i64::MAX - 1, 1 << 53, (1 << 53) + 1]).prop_map(Value::from),
        1 => select(vec![u64::MAX, 1 << 63]).prop_map(Value::from),
        2 => select(vec![0.0, -0.0, 1.0, 2.0, 0.5, -1.5, 3.25, 1e15, 1e16, 1e300, 5e-324]).prop_map(Value::from),
        1 => any::<f64>().prop_filter_map("JSON has no other", |float| float.is_finite().then(|| Value::from(float))),
    ]
}

fn text() -> impl Strategy<Value = String> {
    select(vec!["", "a", "b", "ab", "\u{e4}", "\u{1F600}", "\"\\", "\n\u{7f}", "1", "a/b"])
        .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        3 => number(),
        2 => text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(select(vec!["a", "b", "c"]).prop_map(str::to_owned), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The text of an expression, most often a simple one.
fn expression() -> impl Strategy<Value = String> {
    let fixed = vec![
        ".",
        ".a",
        ".b",
        ".a.b",
        ".c[0]",
        ".[0]",
        ".[-1]",
        ".[\"a\"]",
        "$x",
        "$y",
        "$x.a",
        "$y[1]",
        "0",
        "1",
        "2",
        "3",
        "1.5",
        "2.0",
        "1e2",
        "9223372036854775807",
        "-1",
        "-0.0",
        "null",
        "true",
        "false",
        "not",
        "now",
        "length",
        "tostring",
        "[]",
        "{}",
        "{a}",
        "{a, b: 1}",
        "{$x}",
        "\"\"",
        "\"a\"",
        "\"\\u00e4b\"",
        "\"x\\(.a)y\"",
        "\"\\(.)\"",
    ];
    let leaf = select(fixed).prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = || (inner.clone(), inner.clone());
        let operators = vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or", "//", "|"];
        let operators_bare = operators.clone();
        prop_oneof![
            4 => (two(), select(operators)).prop_map(|((left, right), operator)| format!("({left}) {operator} ({right})")),
            // As it binds by itself.
            2 => (two(), select(operators_bare)).prop_map(|((left, right), operator)| format!("{left} {operator} {right}")),
            1 => inner.clone().prop_map(|inner| format!("-({inner})")),
            1 => two().prop_map(|(root, key)| format!("({root})[{key}]")),
            1 => two().prop_map(|(root, key)| format!("({root}).b[{key}].a")),
            1 => (two(), inner.clone()).prop_map(|((condition, then), otherwise)| {
                format!("if {condition} then {then} else {otherwise} end")
            }),
            1 => prop::collection::vec(inner.clone(), 1..4).prop_map(|items| format!("[{}]", items.join(", "))),
            1 => two().prop_map(|(first, second)| format!("{{a: ({first}), \"b\": ({second})}}")),
            1 => two().prop_map(|(key, value)| format!("{{({key}): ({value}), c: 1}}")),
            1 => two().prop_map(|(first, second)| format!("\"<\\({first})-\\({second})>\"")),
        ]
    })
}

fn compare(cases: u32) {
    let jaq = Jaq::new();
    let (simple, here) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let strategy = (expression(), value(), value(), value());
    let outcome = runner.run(&strategy, |(text, input, x, y)| {
        let expression =
            Expression::parse(&text, NAMES).map_err(|problem| TestCaseError::fail(problem.to_string()))?;
        let variables = Variables::new().with("x", &x).with("y", &y);
        let given = Given { input: &input, variables: &variables, now: 1_700_000_000.25, largest: LARGEST };
        simple.set(simple.get() + usize::from(expression.is_simple()));
        let Some(own) = expression.evaluate_simple(given) else { return Ok(()) };
        here.set(here.get() + 1);
        // jaq goes on where one side of an operator has failed: to a text times a large number, which is the end of this process, or
        // to the length of the lowest integer, which panics.
        if own.is_err() && (text.contains('*') || text.contains("length")) {
            return Ok(());
        }
        let frame = request::encode(&expression, given).expect("it is small");
        let Some(Asked::Value(request)) = request::decode(&frame[4..]) else { panic!("it was made so") };
        let answer = jaq.evaluate(&request);
        let words = String::from_utf8_lossy(&answer.words);
        match own {
            Ok(value) => {
                prop_assert_eq!(answer.ending, Ending::Value, "{} and not {}", words, value);
                let jaqs: Value = serde_json::from_slice(&answer.words).expect("it is JSON");
                // As texts, too: negative zero is another one.
                prop_assert_eq!((&value, value.to_string()), (&jaqs, jaqs.to_string()));
            }
            Err(error) => {
                prop_assert!(matches!(error.reason, EvaluationReason::Failed(_)), "{}", error);
                prop_assert_eq!(answer.ending, Ending::Failed, "{} and not {}", words, error);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let (simple, here) = (simple.get(), here.get());
    assert!(simple * 10 > cases as usize * 8, "{simple} are simple");
    assert!(here * 10 > simple * 5, "{here} of {simple} were evaluated here");
}

#[test]
fn simple_expressions_give_what_jaq_gives() {
    compare(2000);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_simple_expressions_give_what_jaq_gives() {
    compare(100_000);
}

/// What may be called exists, and what exists and may not be called is known.
#[test]
fn the_functions_are_those_that_jaq_has() {
    let jaq = Jaq::new();
    let evaluate = |text: &str| {
        let variables = Variables::new();
        let given = Given { input: &Value::Null, variables: &variables, now: 0.0, largest: LARGEST };
        let expression = Expression::parse(text, &[]).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let frame = request::encode(&expression, given).unwrap();
        let Some(Asked::Value(request)) = request::decode(&frame[4..]) else { panic!("it was made so") };
        let answer = jaq.evaluate(&request);
        String::from_utf8(answer.words).unwrap()
    };
    for (name, arities) in FUNCTIONS {
        for arity in *arities {
            let arguments = vec!["."; *arity].join("; ");
            let call = if *arity == 0 { (*name).to_owned() } else { format!("{name}({arguments})") };
            // It is compiled, and not run.
            let words = evaluate(&format!("if . then {call} else 1 end"));
            assert_eq!(words, "1", "{call}");
        }
    }
    let exists = |name: &str| FUNCTIONS.binary_search_by_key(&name, |(name, _)| name).is_ok();
    let mut others: Vec<_> = jaq.names().filter(|name| !exists(name)).collect();
    others.sort_unstable();
    others.dedup();
    // Parts of others, and what jq has not.
    let known = [
        "@htmld",
        "capture_of_match",
        "decode_base64",
        "decode_uri",
        "encode_base64",
        "encode_uri",
        "erf",
        "erfc",
        "error_empty",
        "escape_html",
        "escape_sh",
        "ilogb",
        "isarray",
        "isboolean",
        "isnumber",
        "isobject",
        "isstring",
        "j0",
        "j1",
        "jn",
        "key_values",
        "matches",
        "max_by_or_empty",
        "min_by_or_empty",
        "path_value",
        "remainder",
        "scan_",
        "split_",
        "split_matches",
        "tobytes",
        "totype",
        "unescape_html",
        "y0",
        "y1",
        "yn",
    ];
    assert_eq!(others, known);
}

/// What is bound where: both take the same, and refuse the same.
#[test]
fn names_are_those_that_jaq_sees() {
    let jaq = Jaq::new();
    let (mut taken, mut refused) = (0, 0);
    for text in [
        "def f: def g: 1; g; f",
        "def f: def g: 1; g; g",
        "def f(g): g(1); f(.)",
        "def f(g): def g: 2; g; f(1)",
        "def f: g; def g: 1; f",
        "def f: f; f",
        "def f: f(1); f",
        "def f(g): f(g); f(1)",
        "def f(f): f; f(1)",
        "def f($f): $f; f(1)",
        "def f($a): $a; f(1) | $a",
        "def f($a): a; f(1)",
        "def f(a): $a; f(1)",
        "def f(a; $b): a + $b; f(1; 2)",
        "def f(a; $b): a + $b; f(1)",
        "def map: 1; map, map(.)",
        "def map(f): 1; map",
        "def @f: 1; @f, @f \"\\(1)\"",
        "(def f: 1; f), f",
        "[def f: 1; f][0] + (def f: 2; f)",
        "def f: $x; 1 as $x | f",
        "1 as $x | def f: $x; f",
        "1 as $x | 2 as $x | $x",
        "(1 as $x | 2) as $y | $y, $x",
        "(1 as $x | 2) as $y | $y",
        ". as [$a, {b: $c}] | $a, $c",
        ". as {$a} | $a",
        ". as {$a, \"b\": [$b]} | $a + $b",
        ". as {(\"a\"): $x} | $x",
        ". as {a: $x, ($x): $y} | $y",
        ". as {\"\\($x)\": $x} | $x",
        "1 as $x | . as {($x): $y} | $y",
        "reduce . as $x (0; $x) | $x",
        "reduce . as $x (0; $x)",
        "reduce $x as $x (0; 1)",
        "reduce . as $x ($x; 1)",
        "foreach . as [$x] (0; $x; $x)",
        "foreach . as [$x] (0; $x)",
        "foreach . as $x (0)",
        "reduce . as $x (0; 1; 2)",
        "label $a | label $b | break $a",
        "(label $a | 1) | break $a",
        "label $a | def f: break $a; f",
        "def f: break $a; label $a | f",
        "label $a | $a",
        "1 as $a | break $a",
        "{$x}",
        "\"\\($x)\"",
        "try $x catch 1",
        "try 1 catch $x",
        ".[$x]",
        ".[$x:]",
        ".[:$x]",
        "limit(1; $x)",
        "if . as $x | $x then $x else 1 end",
        "if (. as $x | $x) then 1 else $x end",
        "-$x",
        "[$x]",
        "{(\"a\"): $x}",
        "{a: $x}",
        "lenght",
        "length(1)",
        "nothing::there",
    ] {
        let request = Request { largest: 100, now: 0.0, text, input: b"null", variables: Vec::new() };
        let jaqs = jaq.compile(&request);
        let own = Expression::parse(text, &[]);
        assert_eq!(own.is_ok(), jaqs.is_ok(), "{text}: {:?}, jaq: {:?}", own, jaqs.err());
        match own {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 20 && refused > 20, "{taken} {refused}");
}

#[test]
fn what_is_left_out_cannot_be_reached_by_what_is_there() {
    let jaq = Jaq::new();
    for name in
        ["env", "halt", "halt_error", "debug", "stderr", "localtime", "strflocaltime", "input", "inputs"]
    {
        assert!(!jaq.names().any(|known| known == name), "{name}");
    }
    assert!(jaq.names().any(|name| name == "now"));
}
