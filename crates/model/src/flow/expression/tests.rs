//! What is read as an expression, what is refused, and what simple ones give. That they give what jaq gives is held against jaq in `tulle-flow`.

use std::thread;

use serde_json::{Value, json};

use super::*;

const NAMES: &[&str] = &["context", "input", "item"];

fn parse(text: &str) -> Result<Expression, ExpressionProblem> {
    Expression::parse(text, NAMES)
}

fn refused(text: &str) -> String {
    let problem = parse(text).unwrap_err();
    format!("{}: {}", problem.at, problem.message)
}

fn simple(text: &str, input: &Value) -> Option<Result<Value, String>> {
    let context = json!({"user": {"id": 7}});
    let variables = Variables::new().with("context", &context);
    let given = Given { input, variables: &variables, now: 1.5, largest: LARGEST };
    let outcome = parse(text).unwrap().evaluate_simple(given)?;
    Some(outcome.map_err(|error| error.reason.to_string()))
}

#[test]
fn what_stands_in_braces_as_a_whole_is_an_expression() {
    for text in ["${ .a }", "${.a}", "  ${ .a } ", "${ {a: 1}.a }"] {
        assert!(matches!(Expression::parse_strict(text, &[]), Some(Ok(_))), "{text}");
    }
    for text in ["Hello ${ .a }", "${ .a }!", "$ { .a }", ".a", "", "https://x/{id}", "$", "${", "{}"] {
        assert!(Expression::parse_strict(text, &[]).is_none(), "{text}");
    }
    // Begins and ends as one, and is none.
    let problem = Expression::parse_strict("${ .a } and ${ .b }", &[]).unwrap().unwrap_err();
    assert_eq!((problem.at, &*problem.message), (6, "`}` closes nothing"));
    assert_eq!(parse("${ .a }").unwrap().text(), ".a");
    assert_eq!(parse(".a").unwrap(), parse(" ${ .a } ").unwrap());
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, said) in [
        ("", "0: an expression is empty; `.` is what it is given"),
        ("${ }", "2: an expression is empty; `.` is what it is given"),
        (".a |", "4: jq expects a value here"),
        ("${ .a + }", "8: jq expects a value here"),
        (".a)", "2: `)` closes nothing"),
        ("[.a)", "3: `[` is closed by `)` and not by `]`"),
        ("[.a", "0: `[` is closed by no `]`"),
        (".a + \"b", "5: the string that begins here has no end"),
        ("if . then 1", "11: jq expects `elif`, `else` or `end` here, where it ends"),
        (".a & .b", "3: jq expects an operator, or the end here, where there is `& .b`"),
        ("{a: 1; b: 2}", "5: jq expects a comma or `}` here"),
        ("reduce .", "8: jq expects `as` here"),
        ("\"\\x\"", "2: jq expects an escape that JSON has here"),
        ("foo(1)", "0: there is no function `foo`"),
        (".a | lenght", "5: there is no function `lenght`; did you mean `length`?"),
        (".a | length(1; 2)", "5: `length` takes 0 arguments, and not 2"),
        ("range", "0: `range` takes 1 or 2 or 3 arguments, and not 0"),
        ("$contxt.a", "0: there is no variable `$contxt`; did you mean `$context`?"),
        ("$secrets.a.b", "0: there is no variable `$secrets`: here are $context, $input, $item"),
        (". as $x | $y", "10: there is no variable `$y`: here are"),
        ("(. as $x | $x) | $x", "17: there is no variable `$x`"),
        ("def f(g): g; g", "13: there is no function `g`"),
        ("(def f: 1; f) | f", "16: there is no function `f`"),
        ("break $out", "6: there is no `label $out` around this"),
        ("reduce .[] as $x (0)", "0: `reduce` takes two: (START; UPDATE)"),
        ("foreach .[] as $x (0; 1; 2; 3)", "0: `foreach` takes two or three"),
        ("env.PATH", "0: there is no function `env`: a flow sees no environment"),
        ("$ENV.PATH", "0: there is no variable `$ENV`: a flow sees no environment"),
        ("input", "0: there is no function `input`: an expression has one input, which is `.`"),
        ("[inputs]", "1: there is no function `inputs`: an expression has one input, which is `.`"),
        ("debug", "0: there is no function `debug`: an expression writes nothing"),
        (". | debug(\"x\")", "4: there is no function `debug`: an expression writes nothing"),
        ("stderr", "0: there is no function `stderr`: an expression writes nothing"),
        ("halt", "0: there is no function `halt`: an expression ends nothing"),
        ("halt_error(1)", "0: there is no function `halt_error`: an expression ends nothing"),
        ("localtime", "0: there is no function `localtime`: flows know no local time"),
        ("strflocaltime(\"%Y\")", "0: there is no function `strflocaltime`: flows know no local time"),
        ("import \"a\" as a; .", "0: there is no `import`: an expression reads no files"),
        ("include \"a\"; .", "0: there is no `include`: an expression reads no files"),
        ("a::b", "0: there is no `a::b`: an expression has no modules"),
        ("input_filename", "0: there is no function `input_filename`"),
        ("input_line_number", "0: there is no function `input_line_number`"),
        ("$__loc__", "0: there is no variable `$__loc__`: an expression is in no file"),
        ("$__prog_args", "0: there is no variable `$__prog_args`"),
        ("$__now__", "0: there is no variable `$__now__`"),
        ("@csv", "0: there is no function `@csv`"),
        ("@foo \"x\"", "0: there is no function `@foo`"),
        ("escape_sh", "0: there is no function `escape_sh`"),
        ("{a: env}", "4: there is no function `env`"),
        ("\"\\(env)\"", "3: there is no function `env`"),
        (".[env]", "2: there is no function `env`"),
        (". as {(env): $x} | 1", "7: there is no function `env`"),
        ("path(env)", "5: there is no function `env`"),
    ] {
        let message = refused(text);
        assert!(message.starts_with(said), "{text}\n  {message}\n  {said}");
    }
    // What is defined in the expression may have any name.
    parse("def env: 1; def f($input; g): $input + g; env, f(1; 2)").unwrap();
    parse("label $out | 1, break $out").unwrap();
}

/// Whatever it is, it is read, or refused, and dropped with a small stack and soon.
#[test]
fn no_text_uses_up_the_stack_or_takes_long() {
    let nested = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let mut texts = Vec::new();
    for times in [50, 99, 100, 101, 120, 240, 249, 250, 251, 500, 1000, 20_000] {
        texts.extend([
            nested("(", "1", ")", times),
            nested("[", "1", "]", times),
            nested("{a:", "1", "}", times),
            nested("\"\\(", "1", ")\"", times),
            nested("-", "1", "", times),
            nested("try ", "1", "", times),
            nested("try ", "1", " catch 1", times),
            nested("reduce ", ".", " as $x (0; 1)", times),
            nested("reduce . as $x (0; ", "1", ")", times),
            nested("if 1 then ", "1", " end", times),
            nested("if ", "1", " then 1 end", times),
            nested("if 1 then 1 else ", "1", " end", times),
            nested("if 1 then 1 ", "", "elif 1 then 1 ", times) + "end",
            nested("def f: ", "1", "; f", times),
            nested("def f: 1; ", "f", "", times),
            nested("try def f: 1; ", "f", "", times),
            nested("label $a | ", "1", "", times),
            nested("1 | ", "1", "", times),
            nested("1 + ", "1", "", times),
            nested("1 and ", "1", "", times),
            nested("1 // ", "1", "", times),
            nested(".a = ", "1", "", times),
            nested("1, ", "1", "", times),
            nested("1 as $x | ", "1", "", times),
            nested(". as [", "$x", "]", times) + " | 1",
            nested(". as {a:", "$x", "}", times) + " | 1",
            nested(".", "", "[0]", times),
            nested(".", "", ".a", times),
            nested(".a", "?", "?", times),
            nested("map(", "1", ")", times),
            nested("{a: if 1, if 1, ", "1", " then 1 end then 1 end}", times),
            nested("{a: try 1, b: ", "1", "}", times),
            nested("[1, ", "1", "]", times),
            nested("- try ", "1", "", times),
            nested("#\\\n(", "1", ")", times),
            nested("\"", "", "\\\"(", times),
            nested("#(\n", "1", "", times),
            nested("(#)\n", "1", ")", times),
            format!("[{}1]", "1,".repeat(times)),
            format!("{{{}a: 1}}", "a: 1 + 1 - 1, ".repeat(times)),
            format!("\"{}\"", "\\(1)".repeat(times)),
            "1e1".repeat(times),
        ]);
    }
    let (mut taken, mut refused) = (0, 0);
    for text in texts {
        let small = thread::Builder::new().stack_size(2 << 20);
        let began = std::time::Instant::now();
        let outcome = small.spawn(move || {
            let parsed = parse(&text);
            if let Ok(expression) = &parsed {
                let variables = Variables::new();
                let given = Given { input: &Value::Null, variables: &variables, now: 0.0, largest: LARGEST };
                drop(expression.evaluate_simple(given));
            }
            parsed.is_ok()
        });
        match outcome.unwrap().join().unwrap() {
            true => taken += 1,
            false => refused += 1,
        }
        assert!(began.elapsed().as_secs() < 5);
    }
    assert!(taken > 100 && refused > 100, "{taken} {refused}");
}

#[test]
fn a_text_and_what_nests_in_it_are_bounded() {
    assert!(refused(&" ".repeat(LONGEST + 1)).ends_with("an expression has at most 65536 bytes"));
    assert!(refused(&"(".repeat(20_000)).ends_with("more than 100 brackets stand within one another"));
    assert!(
        refused(&"-".repeat(20_000))
            .ends_with("more than 250 operators, signs and words stand within one another")
    );
    parse(&format!("{}1{}", "(".repeat(100), ")".repeat(100))).unwrap();
    let fields: Vec<_> = (0..1000).map(|n| format!("f{n}: (.a + {n})")).collect();
    parse(&format!("{{{}}}", fields.join(", "))).unwrap();
}

#[test]
fn simple_expressions_are_evaluated_at_once() {
    let input = json!({"a": {"b": [1, 2.5, "x"]}, "n": 3, "s": "ab", "t": true, "f": 2.0});
    for (text, value) in [
        (".", input.clone()),
        (".a.b[0]", json!(1)),
        (".a[\"b\"][-1]", json!("x")),
        (".a.b[7]", json!(null)),
        (".missing.further[0]", json!(null)),
        ("$context.user.id", json!(7)),
        ("$item", json!(null)),
        ("now", json!(1.5)),
        (
            "{n, x: .a.b[1], \"y z\": $context.user.id, (.s): [1, .n]}",
            json!({"n": 3, "x": 2.5, "y z": 7, "ab": [1, 3]}),
        ),
        ("{$context}", json!({"context": {"user": {"id": 7}}})),
        ("\"id-\\(.n)-\\(.s)-\\(.t)-\\(null)\"", json!("id-3-ab-true-null")),
        (".n > 2 and .s == \"ab\"", json!(true)),
        (".n < 2 or (.t | not)", json!(false)),
        (".missing // \"default\"", json!("default")),
        (".n * 2 + 1 - 10 % 4", json!(5)),
        ("6 / 2", json!(3)),
        ("1 / 4", json!(0.25)),
        (".f", json!(2.0)),
        ("-.f", json!(-2.0)),
        (".f * 2", json!(4)),
        (".s + \"c\" + null", json!("abc")),
        ("[1] + [2, 3]", json!([1, 2, 3])),
        ("{a: 1, b: 1} + {b: 2}", json!({"a": 1, "b": 2})),
        ("if .n == 3 then \"three\" elif .n == 4 then \"four\" else \"many\" end", json!("three")),
        ("if .missing then 1 end | .n", json!(3)),
        (".a.b | length", json!(3)),
        (".a | .b | .[1]", json!(2.5)),
        ("-(.n)", json!(-3)),
        ("1 == 1.0", json!(true)),
        ("[1, {a: 2}] == [1, {a: 2}]", json!(true)),
        ("[] < {}", json!(true)),
        (".n | tostring", json!("3")),
    ] {
        assert_eq!(simple(text, &input), Some(Ok(value)), "{text}");
    }
    for (text, said) in [
        (".n.x", "failed: cannot index 3 with \"x\""),
        (".a.b.x", "failed: cannot index an array with \"x\""),
        (".a + 1", "failed: cannot calculate an object + 1"),
        (".n % 0", "failed: cannot divide by zero"),
        ("-.s", "failed: cannot use \"ab\" as a number"),
        (".t | length", "failed: true has no length"),
    ] {
        assert_eq!(simple(text, &input), Some(Err(said.to_owned())), "{text}");
    }
    // An evaluator knows.
    for text in [
        ".[]",
        "map(.)",
        ".a?",
        "..",
        "def f: 1; f",
        "reduce .[] as $x (0; 1)",
        "@uri \"x\"",
        ".s | test(\"a\")",
        "1, 2",
        ".a = 1",
        "9223372036854775807 + 1",
        "1.5 | tostring",
        ".a | tostring",
        "1 / 0",
        ".s * 3",
        "[1, 2] - [1]",
        "[6 / 2]",
        ".s[0:1]",
        ". as $x | $x",
    ] {
        assert_eq!(simple(text, &input), None, "{text}");
    }
}

#[test]
fn simple_expressions_are_bounded() {
    let large = Value::from("x".repeat(LARGEST - 2));
    assert_eq!(simple(".", &large), Some(Ok(large.clone())));
    assert_eq!(simple("[.]", &large), Some(Err(format!("gives a value of more than {LARGEST} bytes"))));
    assert_eq!(simple(&format!("[{}.]", ".,".repeat(100)), &large), None);
    assert_eq!(simple(&format!("{} . == .", ". == . and ".repeat(100)), &large), None);
    let deep = (0..100).fold(Value::Null, |inner, _| json!([inner]));
    assert_eq!(simple(".", &deep), Some(Ok(deep.clone())));
    let said = "gives a value with more than 100 arrays and objects within one another";
    assert_eq!(simple("[.]", &deep), Some(Err(said.to_owned())));
}

#[test]
fn the_variables_used_are_known() {
    let used = |text: &str| parse(text).unwrap().variables_used().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(used("$context.a + $item"), ["context", "item"]);
    assert_eq!(used(". as $context | $context"), [""; 0]);
    assert_eq!(used("{$input}"), ["input"]);
    assert_eq!(used("def f($item): $item; f(1)"), [""; 0]);
    assert_eq!(used("\"\\($item)\" | reduce .[] as $x ($context; . + $x)"), ["context", "item"]);
}

#[test]
fn a_template_has_expressions_anywhere_but_in_names() {
    let template =
        json!({"a": ["${ .x }", 1, {"${ .x }": "text ${ .x }"}], "b/~": "${ $item }", "c": "plain"});
    let parsed = Template::parse(&template, NAMES).unwrap();
    assert!(!parsed.is_constant());
    let texts: Vec<_> = parsed.expressions().iter().map(|expression| expression.text().to_owned()).collect();
    assert_eq!(texts, [".x", "$item"]);
    let input = json!({"x": {"y": 1}});
    let variables = Variables::new();
    let given = Given { input: &input, variables: &variables, now: 0.0, largest: LARGEST };
    let made = json!({"a": [{"y": 1}, 1, {"${ .x }": "text ${ .x }"}], "b/~": null, "c": "plain"});
    assert_eq!(parsed.evaluate_simple(given), Some(Ok(made)));
    assert_eq!(
        parsed.evaluate_simple(Given { largest: 40, ..given }).unwrap().unwrap_err().reason,
        EvaluationReason::Size(40)
    );
    // Not even for a while is there more than that: the third of them is not evaluated.
    let three =
        Template::parse(&json!(["${ .x }", "${ .x }", "${ .nowhere.at.all | error }"]), NAMES).unwrap();
    assert_eq!(
        three.evaluate_simple(Given { largest: 12, ..given }).unwrap().unwrap_err().reason,
        EvaluationReason::Size(12)
    );

    let problem = Template::parse(&json!({"a": 1, "b/~": ["x", "${ .x + }"]}), NAMES).unwrap_err();
    assert_eq!((&*problem.pointer, problem.at), ("/b~1~0/1", 8));
    let constant = Template::parse(&json!({"a": ["x"]}), NAMES).unwrap();
    assert_eq!(constant.constant(), Some(&json!({"a": ["x"]})));
    assert!(constant.is_constant() && constant.expressions().is_empty());
    let deep = |depth| (0..depth).fold(json!("${ . }"), |inner, _| json!([inner]));
    Template::parse(&deep(100), NAMES).unwrap();
    Template::parse(&deep(101), NAMES).unwrap_err();
}

#[test]
fn the_functions_are_sorted() {
    assert!(FUNCTIONS.is_sorted_by(|(left, _), (right, _)| left < right));
}
