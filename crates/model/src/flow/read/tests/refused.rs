//! What is refused, where, and with what words.

use serde_json::json;

use super::*;
use crate::flow::unsupported::Unsupported;

#[test]
fn headings() {
    let heading = |field: &str, wrong: Value| {
        let mut document = document("do: []");
        document["document"][field] = wrong;
        document
    };
    let long = "a".repeat(64);
    for (field, wrong, message) in [
        ("dsl", json!(null), "is missing, and is required: the version of the DSL"),
        ("dsl", json!(1.0), "expected a text, found the number `1.0`"),
        ("dsl", json!("1.0.4"), "`1.0.4` is another version: expected `1.0.0` to `1.0.3`"),
        ("dsl", json!("0.9.0"), "is another version"),
        ("dsl", json!("1.0.0-alpha5"), "is another version"),
        ("dsl", json!("1.0"), "is no version"),
        ("namespace", json!(null), "is missing"),
        ("namespace", json!(""), "is no name"),
        ("namespace", json!("-a"), "is no name"),
        ("name", json!(null), "is missing, and is required: what the workflow is called"),
        ("name", json!("a b"), "`a b` is no name: expected 1 to 63 letters"),
        ("name", json!("a.b"), "is no name"),
        ("name", json!(long), "is no name"),
        ("version", json!(null), "is missing"),
        ("version", json!("1.0"), "`1.0` is no version (semver.org), e.g. `0.1.0`"),
        ("version", json!("01.0.0"), "is no version"),
        ("version", json!("1.0.0-"), "is no version"),
        ("version", json!("1.0.0\n"), "is no version"),
        ("version", json!(1), "write it in quotes: \"1\""),
        ("title", json!(1), "expected a text"),
        ("summary", json!([]), "expected a text"),
        ("tags", json!("a"), "expected an object"),
        ("metadata", json!([]), "expected an object"),
        ("titel", json!("a"), "there is no field `titel` here; did you mean `title`?"),
        ("colour", json!("a"), "there is no field `colour` here; expected one of `dsl`"),
    ] {
        let found = problems(&heading(field, wrong.clone()));
        let pointer = format!("/document/{field}");
        let expected = matches!(&found[..], [(at, said)] if *at == pointer && said.contains(message));
        assert!(expected, "{field}: {wrong}: {found:#?}");
    }
    for good in ["1.0.0-rc.1+build.5", "0.0.1", "10.20.30"] {
        assert_eq!(problems(&heading("version", good.into())), [], "{good}");
    }
    for good in ["1.0.0", "1.0.1", "1.0.2", "1.0.3"] {
        assert_eq!(problems(&heading("dsl", good.into())), [], "{good}");
    }
    for good in ["Order", "a", "0-a"] {
        assert_eq!(problems(&heading("name", good.into())), [], "{good}");
    }
}

#[test]
fn tops() {
    for (document, pointer, message) in [
        (json!(null), "", "expected an object, found null"),
        (json!([]), "", "expected an object, found a list"),
        (json!({ "do": [] }), "/document", "is missing, and is required"),
        (json!({ "document": 1, "do": [] }), "/document", "expected an object"),
    ] {
        let found = problems(&document);
        assert!(
            found.iter().any(|(at, said)| at == pointer && said.contains(message)),
            "{document}: {found:#?}"
        );
    }
    check(&[
        ("use: {}", "/do", "is missing, and is required: the tasks"),
        ("do: {a: {set: {x: 1}}}", "/do", "expected a list, found an object; start each item with `- `"),
        ("do: []\nuses: {}", "/uses", "did you mean `use`?"),
        ("do: []\nschedule: {cron: '0 0 * * *'}", "/schedule", "schedules come later"),
        ("do: []\nevaluate: {mode: loose}", "/evaluate/mode", "write `${ }` around those that are"),
        ("do: []\nevaluate: {mode: lose}", "/evaluate/mode", "did you mean `loose`?"),
        ("do: []\nevaluate: {language: js}", "/evaluate/language", "expressions are jq"),
        ("do: []\nevaluate: {langauge: jq}", "/evaluate/langauge", "did you mean `language`?"),
        ("do: []\ntimeout: {after: {}}", "/timeout/after", "says nothing"),
        ("do: []\ntimeout: {}", "/timeout/after", "is missing, and is required: how long"),
        ("do: []\ntimeout: 5", "/timeout", "expected an object"),
        ("do: []\ntimeout: long", "/timeout", "there is no `long` in `use.timeouts`"),
        ("do: []\ninput: {form: .a}", "/input/form", "did you mean `from`?"),
        ("do: []\ninput: {from: 1}", "/input/from", "expected an object, found the number `1`"),
        (
            "do: []\noutput: {from: .a}",
            "/output/from",
            "there is no field `from` here; expected one of `schema`, `as`",
        ),
        ("do: []\ninput: {schema: {}}", "/input/schema/document", "is missing"),
        (
            "do: []\ninput: {schema: {format: xml, document: {}}}",
            "/input/schema/format",
            "a JSON Schema says",
        ),
        ("do: []\ninput: {schema: {document: 3}}", "/input/schema/document", "is no JSON Schema"),
        (
            "do: []\ninput: {schema: {document: {}, resource: {endpoint: 'http://s/'}}}",
            "/input/schema/resource",
            "cannot be beside `document`",
        ),
        ("do: []\ninput: {schema: {resource: {}}}", "/input/schema/resource/endpoint", "is missing"),
        (
            "do: []\ninput: {schema: {resource: {endpoint: 'file:///etc/passwd'}}}",
            "/input/schema/resource/endpoint",
            "a URI of `file:`",
        ),
    ]);
}

#[test]
fn reusable_parts() {
    check(&[
        ("do: []\nuse: {extensions: []}", "/use/extensions", "`use.extensions`"),
        ("do: []\nuse: {catalogs: {}}", "/use/catalogs", "may change while runs go on"),
        ("do: []\nuse: {secret: []}", "/use/secret", "did you mean `secrets`?"),
        ("do: []\nuse: []", "/use", "expected an object"),
        ("do: []\nuse: {secrets: {a: b}}", "/use/secrets", "expected a list"),
        ("do: []\nuse: {secrets: [a, 1]}", "/use/secrets/1", "expected a text"),
        ("do: []\nuse: {secrets: [A_B]}", "/use/secrets/0", "is no name of a Secret"),
        ("do: []\nuse: {errors: {e: {status: 400}}}", "/use/errors/e/type", "is missing"),
        ("do: []\nuse: {errors: []}", "/use/errors", "expected an object"),
        ("do: []\nuse: {timeouts: {t: {after: soon}}}", "/use/timeouts/t/after", "no duration of ISO 8601"),
        ("do: []\nuse: {retries: {r: {dealy: PT1S}}}", "/use/retries/r/dealy", "did you mean `delay`?"),
        ("do: []\nuse: {functions: {f: {cal: http}}}", "/use/functions/f/cal", "did you mean `call`?"),
        (
            "do: []\nuse: {functions: {f: {set: {a: 1}, then: f}}}",
            "/use/functions/f/then",
            "which is in no list",
        ),
        ("do: []\nuse: {functions: {f: {call: f}}}", "/use/functions/f/call", "never ends: `f` calls itself"),
        (
            "do: [{a: {call: f}}]\nuse: {functions: {f: {call: g}, g: {do: [{x: {call: h}}]}, h: {call: f}}}",
            "/use/functions/h/call",
            "never ends: `f` calls `g` calls `h`",
        ),
        (
            "do: []\nuse: {authentications: {a: {use: b}}}",
            "/use/authentications/a/use",
            "there is no field `use` here",
        ),
    ]);
}

#[test]
fn tasks() {
    check(&[
        ("do: [1]", "/do/0", "expected an object"),
        ("do: [{}]", "/do/0", "has no task: expected its name"),
        (
            "do: [{a: {set: {x: 1}}, b: {set: {x: 1}}}]",
            "/do/0/b",
            "is the second task of one item, after `a`",
        ),
        ("do: [{a: }]", "/do/0/a", "expected an object, found null"),
        ("do: [{a: {}}]", "/do/0/a", "says nothing to do: expected one of `call`, `emit`"),
        ("do: [{a: {if: .b}}]", "/do/0/a", "says nothing to do"),
        ("do: [{a: {sett: {x: 1}}}]", "/do/0/a/sett", "did you mean `set`?"),
        (
            "do: [{a: {print: hello}}]",
            "/do/0/a/print",
            "there is no field `print` here; expected one of `call`",
        ),
        (
            "do: [{a: {set: {x: 1}, wait: PT1S}}]",
            "/do/0/a/wait",
            "cannot be beside `set`: a task does one thing",
        ),
        ("do: [{a: {set: {x: 1}, thenn: end}}]", "/do/0/a/thenn", "did you mean `then`?"),
        ("do: [{a: {set: {x: 1}, with: {}}}]", "/do/0/a/with", "there is no field `with` here"),
        (
            "do: [{a: {set: {x: 1}}}, {b: {set: {x: 1}}}, {a: {set: {x: 1}}}]",
            "/do/2/a",
            "`a` is the name of another task of this list already: do[0].a",
        ),
        (
            "do: [{a: {set: {x: 1}, then: c}}, {b: {set: {x: 1}}}]",
            "/do/0/a/then",
            "there is no task `c` in the same list",
        ),
        ("do: [{a: {set: {x: 1}, then: exitt}}]", "/do/0/a/then", "did you mean `exit`?"),
        ("do: [{a: {set: {x: 1}, then: 1}}]", "/do/0/a/then", "expected a text"),
        (
            "do: [{a: {do: [{b: {set: {x: 1}, then: c}}]}}, {c: {set: {x: 1}}}]",
            "/do/0/a/do/0/b/then",
            "there is no task `c` in the same list",
        ),
        ("do: [{a: {set: {x: 1}, if: true}}]", "/do/0/a/if", "expected a text, found `true`"),
        ("do: [{a: {set: {x: 1}, metadata: 1}}]", "/do/0/a/metadata", "expected an object"),
        (
            "do: [{a: {set: {x: 1}, timeout: t}}]\nuse: {timeouts: {tt: {after: PT1S}}}",
            "/do/0/a/timeout",
            "did you mean `tt`?",
        ),
        ("do: [{a: {set: {x: 1}, output: .x}}]", "/do/0/a/output", "expected an object, found the text `.x`"),
        ("do: [{a: {set: {x: 1}, export: {to: .x}}}]", "/do/0/a/export/to", "there is no field `to` here"),
        ("do: [{'a/b~c': {set: {}}}]", "/do/0/a~1b~0c/set", "sets nothing"),
        ("do: [{a: {set: 1}}]", "/do/0/a/set", "expected an object"),
        ("do: [{a: {emit: {event: {with: {}}}}}]", "/do/0/a/emit", "events come later"),
        ("do: [{a: {listen: {to: {any: []}}}}]", "/do/0/a/listen", "events come later"),
        (
            "do: [{a: {run: {container: {image: x}}}}]",
            "/do/0/a/run/container",
            "a runner starts no containers",
        ),
        ("do: [{a: {run: {script: {}}, then: end}}]", "/do/0/a/run/script", "a runner starts no processes"),
        ("do: [{a: {run: {shell: {command: ls}}}}]", "/do/0/a/run/shell", "a runner starts no processes"),
        ("do: [{a: {run: {workflow: {}}}}]", "/do/0/a/run/workflow", "give the other one a `trigger.http`"),
        ("do: [{a: {run: {await: true}}}]", "/do/0/a/run", "says nothing to run"),
    ]);
}

#[test]
fn branching() {
    check(&[
        ("do: [{a: {switch: []}}]", "/do/0/a/switch", "has no case"),
        ("do: [{a: {switch: {x: {then: end}}}}]", "/do/0/a/switch", "expected a list"),
        ("do: [{a: {switch: [{x: {when: .y}}]}}]", "/do/0/a/switch/0/x/then", "is missing"),
        (
            "do: [{a: {switch: [{x: {then: end}, y: {then: end}}]}}]",
            "/do/0/a/switch/0/y",
            "is the second case of one item",
        ),
        ("do: [{a: {switch: [{x: {then: b}}]}}]", "/do/0/a/switch/0/x/then", "there is no task `b`"),
        (
            "do: [{a: {switch: [{x: {then: end}}, {y: {then: exit}}]}}]",
            "/do/0/a/switch/1/y/when",
            "`x` is what is chosen if no other case is",
        ),
        (
            "do: [{a: {switch: [{x: {wen: .y, then: end}}]}}]",
            "/do/0/a/switch/0/x/wen",
            "did you mean `when`?",
        ),
        ("do: [{a: {for: {}, do: []}}]", "/do/0/a/for/in", "is missing"),
        (
            "do: [{a: {for: {in: .x}}}]",
            "/do/0/a/do",
            "is missing, and is required: the tasks that run for each item",
        ),
        ("do: [{a: {for: {in: [1], each: x}, do: []}}]", "/do/0/a/for/in", "expected a text, found a list"),
        ("do: [{a: {for: {in: .x, each: $y}, do: []}}]", "/do/0/a/for/each", "without `$`"),
        ("do: [{a: {for: {in: .x, each: 1a}, do: []}}]", "/do/0/a/for/each", "no digit first"),
        (
            "do: [{a: {for: {in: .x, at: input}, do: []}}]",
            "/do/0/a/for/at",
            "is a variable of its own already",
        ),
        (
            "do: [{a: {for: {in: .x, each: i, at: i}, do: []}}]",
            "/do/0/a/for",
            "`i` is what the item and its index are called",
        ),
        ("do: [{a: {for: {in: .x, eech: i}, do: []}}]", "/do/0/a/for/eech", "did you mean `each`?"),
        ("do: [{a: {fork: {}}}]", "/do/0/a/fork/branches", "is missing"),
        ("do: [{a: {fork: {branches: [], compete: true}}}]", "/do/0/a/fork", "none can be done first"),
        (
            "do: [{a: {fork: {branches: [{b: {set: {x: 1}}}], compete: 'true'}}}]",
            "/do/0/a/fork/compete",
            "write it without quotes: true",
        ),
        (
            "do: [{a: {fork: {branches: [{b: {set: {x: 1}, then: c}}, {c: {set: {x: 1}}}]}}}]",
            "/do/0/a/fork/branches/0/b/then",
            "as branches run at once",
        ),
        (
            "do: [{a: {fork: {branches: [{b: {switch: [{x: {then: c}}]}}, {c: {set: {x: 1}}}]}}}]",
            "/do/0/a/fork/branches/0/b/switch/0/x/then",
            "as branches run at once",
        ),
        (
            "do: [{a: {fork: {branches: [{b: {set: {x: 1}}}, {b: {set: {x: 1}}}]}}}]",
            "/do/0/a/fork/branches/1/b",
            "is the name of another task",
        ),
        ("do: [{a: {raise: {}}}]", "/do/0/a/raise/error", "is missing"),
        ("do: [{a: {raise: {error: gone}}}]", "/do/0/a/raise/error", "there is no `gone` in `use.errors`"),
        ("do: [{a: {raise: {error: {type: 'http://e/'}}}}]", "/do/0/a/raise/error/status", "is missing"),
        (
            "do: [{a: {raise: {error: {type: gone, status: 410}}}}]",
            "/do/0/a/raise/error/type",
            "`gone` is no URI",
        ),
        (
            "do: [{a: {raise: {error: {type: 'http://e/', status: '410'}}}}]",
            "/do/0/a/raise/error/status",
            "write it without quotes: 410",
        ),
        (
            "do: [{a: {raise: {error: {type: 'http://e/', status: 70000}}}}]",
            "/do/0/a/raise/error/status",
            "out of range",
        ),
        (
            "do: [{a: {raise: {error: {type: 'http://e/', status: 410, instance: do/0}}}}]",
            "/do/0/a/raise/error/instance",
            "is no JSON pointer",
        ),
        (
            "do: [{a: {raise: {error: {type: 'http://e/', status: 410, instance: /a~2}}}}]",
            "/do/0/a/raise/error/instance",
            "is no JSON pointer",
        ),
        (
            "do: [{a: {raise: {error: {type: 'http://e/', status: 410, details: x}}}}]",
            "/do/0/a/raise/error/details",
            "did you mean `detail`?",
        ),
        ("do: [{a: {wait: 5}}]", "/do/0/a/wait", "expected a duration, found the number `5`"),
        ("do: [{a: {wait: {second: 5}}}]", "/do/0/a/wait/second", "did you mean `seconds`?"),
        ("do: [{a: {wait: {seconds: -5}}}]", "/do/0/a/wait/seconds", "-5 is out of range"),
        ("do: [{a: {wait: {seconds: 1.5}}}]", "/do/0/a/wait/seconds", "not a whole one"),
        ("do: [{a: {wait: {days: 40000}}}]", "/do/0/a/wait", "is longer than 36525 days"),
        ("do: [{a: {wait: P1Y}}]", "/do/0/a/wait", "years and months in a duration"),
        ("do: [{a: {wait: 5s}}]", "/do/0/a/wait", "`5s` is no duration of ISO 8601"),
    ]);
}

#[test]
fn catching() {
    check(&[
        ("do: [{a: {try: []}}]", "/do/0/a/catch", "is missing, and is required: which errors are caught"),
        ("do: [{a: {try: {}, catch: {}}}]", "/do/0/a/try", "expected a list"),
        ("do: [{a: {catch: {}, set: {x: 1}}}]", "/do/0/a/catch", "there is no field `catch` here"),
        ("do: [{a: {try: [], catch: {error: {}}}}]", "/do/0/a/catch/error", "did you mean `errors`?"),
        (
            "do: [{a: {try: [], catch: {errors: {status: 404}}}}]",
            "/do/0/a/catch/errors/status",
            "expected one of `with`",
        ),
        (
            "do: [{a: {try: [], catch: {errors: {with: {}}}}}]",
            "/do/0/a/catch/errors/with",
            "leave out `errors` to catch all",
        ),
        (
            "do: [{a: {try: [], catch: {errors: {with: {status: '404'}}}}}]",
            "/do/0/a/catch/errors/with/status",
            "whole number",
        ),
        (
            "do: [{a: {try: [], catch: {errors: {with: {kind: x}}}}}]",
            "/do/0/a/catch/errors/with/kind",
            "there is no field `kind`",
        ),
        (
            "do: [{a: {try: [], catch: {errors: {with: {detail: x, details: y}}}}}]",
            "/do/0/a/catch/errors/with/details",
            "is the same as `detail`",
        ),
        ("do: [{a: {try: [], catch: {as: $e}}}]", "/do/0/a/catch/as", "is no name of a variable"),
        (
            "do: [{a: {try: [], catch: {retry: r}}}]",
            "/do/0/a/catch/retry",
            "there is no `r` in `use.retries`",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {delay: 5}}}}]",
            "/do/0/a/catch/retry/delay",
            "expected a duration",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {backoff: {}}}}}]",
            "/do/0/a/catch/retry/backoff",
            "says nothing",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {backoff: {cubic: {}}}}}}]",
            "/do/0/a/catch/retry/backoff/cubic",
            "expected one of `constant`",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {backoff: {linear: {}, constant: {}}}}}}]",
            "/do/0/a/catch/retry/backoff/linear",
            "is the second",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {backoff: {exponential: {factor: 3}}}}}}]",
            "/do/0/a/catch/retry/backoff/exponential",
            "the DSL has none here",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {jitter: {from: PT1S}}}}}]",
            "/do/0/a/catch/retry/jitter/to",
            "is missing",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {jitter: {from: PT2S, to: PT1S}}}}}]",
            "/do/0/a/catch/retry/jitter",
            "ends before it begins",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {limit: {attempt: {count: -1}}}}}}]",
            "/do/0/a/catch/retry/limit/attempt/count",
            "-1 is out of range",
        ),
        (
            "do: [{a: {try: [], catch: {retry: {limit: {attempts: {}}}}}}]",
            "/do/0/a/catch/retry/limit/attempts",
            "did you mean `attempt`?",
        ),
        ("do: [{a: {try: [], catch: {do: [{b: {set: {}}}]}}}]", "/do/0/a/catch/do/0/b/set", "sets nothing"),
        (
            "do: [{a: {try: [{b: {set: {x: 1}}}], catch: {do: [{c: {set: {x: 1}, then: b}}]}}}]",
            "/do/0/a/catch/do/0/c/then",
            "there is no task `b` in the same list",
        ),
    ]);
}

#[test]
fn variables_where_they_are_not() {
    check(&[
        ("do: [{a: {set: '${ $nothing }'}}]", "/do/0/a/set", "`$nothing`"),
        ("do: [{a: {set: '${ .x | }'}}]", "/do/0/a/set", ""),
        ("do: [{a: {set: {x: 1}, if: .x |}}]", "/do/0/a/if", ""),
        ("do: [{a: {set: {x: 1}, input: {from: env}}}]", "/do/0/a/input/from", "env"),
        ("do: [{a: {for: {in: $item}, do: []}}]", "/do/0/a/for/in", "`$item`"),
        ("do: [{a: {for: {in: .x}, do: []}}, {b: {set: '${ $item }'}}]", "/do/1/b/set", "`$item`"),
        (
            "do: [{a: {call: f}}]\nuse: {functions: {f: {set: '${ $item }'}}}",
            "/use/functions/f/set",
            "`$item`",
        ),
        ("do: [{a: {try: [{b: {set: '${ $error }'}}], catch: {}}}]", "/do/0/a/try/0/b/set", "`$error`"),
        (
            "do: [{a: {try: [], catch: {as: e, do: [{b: {set: '${ $error }'}}]}}}]",
            "/do/0/a/catch/do/0/b/set",
            "`$error`",
        ),
        (
            "do: [{a: {try: [], catch: {as: e, retry: r}}}]\nuse: {retries: {r: {when: $error.x}}}",
            "/use/retries/r/when",
            "`$error`",
        ),
        (
            "do: []\ninput: {from: $context}",
            "/input/from",
            "`$context` is not there in the workflow's `input`: `$workflow`, `$runtime` are",
        ),
        (
            "do: []\noutput: {as: {x: '${ $input }'}}",
            "/output/as/x",
            "`$input` is not there in the workflow's `output`",
        ),
        (
            "do: []\ntimeout: {after: '${ $task.name }'}",
            "/timeout/after",
            "is not there in the workflow's `timeout`",
        ),
        (
            "do: []\ntimeout: t\nuse: {timeouts: {t: {after: '${ $input.t }'}}}",
            "/use/timeouts/t/after",
            "`$input` is not there in the workflow's `timeout`",
        ),
        ("do: [{a: {set: {x: 1}, if: $input.y}}]", "/do/0/a/if", "`$input` is not there in a task's `if`"),
        (
            "do: [{a: {set: {x: 1}, input: {from: '${ $output }'}}}]",
            "/do/0/a/input/from",
            "`$output` is not there in a task's `input`",
        ),
        (
            "do: [{a: {set: {x: [1, '${ $output }']}}}]",
            "/do/0/a/set/x/1",
            "`$output` is not there in what a task does",
        ),
        (
            "do: [{a: {set: {x: '${ $authorization }'}}}]",
            "/do/0/a/set/x",
            "`$authorization` can be used in `with` of `call: http`",
        ),
        (
            "do: [{a: {call: http, with: {method: get, endpoint: 'http://s/'}, export: {as: $authorization}}}]",
            "/do/0/a/export/as",
            "it would be kept with the run",
        ),
        (
            "do: [{a: {set: {x: 1}, output: {as: $output}}}]",
            "/do/0/a/output/as",
            "`$output` is not there in a task's `output`",
        ),
        (
            "do: [{a: {set: '${ $secrets.s.k }'}}]\nuse: {secrets: [s]}",
            "/do/0/a/set",
            "it would be kept with the run",
        ),
        (
            "do: [{a: {set: {x: '${ \"\\($secrets.s)\" }'}}}]\nuse: {secrets: [s]}",
            "/do/0/a/set/x",
            "it would be kept with the run",
        ),
        (
            "do: [{a: {set: {x: 1}, input: {from: $secrets.s}}}]\nuse: {secrets: [s]}",
            "/do/0/a/input/from",
            "it would be kept with the run",
        ),
        (
            "do: [{a: {set: {x: 1}, if: $secrets.s}}]\nuse: {secrets: [s]}",
            "/do/0/a/if",
            "it would be kept with the run",
        ),
        (
            "do: []\ninput: {from: $secrets.s}\nuse: {secrets: [s]}",
            "/input/from",
            "it would be kept with the run",
        ),
        (
            "do: [{a: {call: f, output: {as: $secrets.s}}}]\nuse: {secrets: [s], functions: {f: {set: {x: 1}}}}",
            "/do/0/a/output/as",
            "it would be kept with the run",
        ),
        (
            "do: [{a: {call: f, with: {x: '${ $secrets.shop }'}}}]\nuse: {secrets: [shop], functions: {f: {set: {x: 1}}}}",
            "/do/0/a/with/x",
            "a function names it in its own call",
        ),
        (
            "do: [{a: {call: f, input: {from: '$secrets[\"shop\"]'}}}]\nuse: {secrets: [shop], functions: {f: {set: {x: 1}}}}",
            "/do/0/a/input/from",
            "a function names it in its own call",
        ),
        (
            "do: [{a: {call: http, input: {from: '$secrets[\"shopp\"]'}, with: {method: get, endpoint: 'http://a/'}}}]\nuse: {secrets: [shop]}",
            "/do/0/a/input/from",
            "did you mean `shop`?",
        ),
        (
            "do: [{a: {call: http, with: {method: get, endpoint: 'http://a/', body: '${ $secrets }'}}}]",
            "/do/0/a/with/body",
            "`use.secrets` lists no Secret",
        ),
    ]);
}

#[test]
fn bounds() {
    let tasks = |count: usize| {
        let list: Vec<_> = (0..count).map(|i| json!({ format!("t{i}"): { "set": { "x": 1 } } })).collect();
        let mut document = document("do: []");
        document["do"] = list.into();
        document
    };
    assert_eq!(problems(&tasks(MOST_TASKS)), []);
    let found = problems(&tasks(MOST_TASKS + 2));
    assert!(
        matches!(&found[..], [(at, said)] if at == "/do/1000/t1000" && said.contains("at most 1000")),
        "{found:?}"
    );

    let mut deep = document("do: [{a: {set: {}}}]");
    deep["do"][0]["a"]["set"]["x"] = (0..100).fold(json!(1), |value, _| json!([value]));
    let found = problems(&deep);
    assert!(
        matches!(&found[..], [(at, said)] if at.is_empty() && said.contains("more than 100 deep")),
        "{found:?}"
    );

    let mut large = document("do: [{a: {set: {}}}]");
    large["do"][0]["a"]["set"]["x"] = "x".repeat(256 << 10).into();
    let found = problems(&large);
    assert!(
        matches!(&found[..], [(at, said)] if at.is_empty() && said.contains("at most 256 KiB")),
        "{found:?}"
    );

    // Each calls the next, in three tasks within each other.
    let calling = |functions: usize| {
        let mut document = document("do: [{a: {call: f0}}]");
        for i in 0..functions {
            let calls = json!({ "do": [{ "b": { "do": [{ "c": { "call": format!("f{}", i + 1) } }] } }] });
            document["use"]["functions"][format!("f{i}")] = calls;
        }
        document["use"]["functions"][format!("f{functions}")] = json!({ "set": { "x": 1 } });
        document
    };
    assert_eq!(problems(&calling(32)), []);
    let found = problems(&calling(33));
    assert!(
        matches!(&found[..], [(_, said)] if said.contains("more than 100 tasks within each other")),
        "{found:?}"
    );
}

#[test]
fn all_that_is_wrong_is_found_at_once_and_no_more_than_anybody_reads() {
    let found =
        problems(&document("do: [{a: {set: {}}}, {b: {wait: x, then: c}}, {d: {dos: []}}]\ntimeout: none"));
    let places: Vec<_> = found.iter().map(|(at, _)| at.as_str()).collect();
    assert_eq!(places, ["/timeout", "/do/0/a/set", "/do/1/b/wait", "/do/1/b/then", "/do/2/d/dos"]);

    let found = problems(&document("do: [{a: {set: {}}}, {a: {wait: x}}]"));
    let places: Vec<_> = found.iter().map(|(at, _)| at.as_str()).collect();
    assert_eq!(places, ["/do/1/a", "/do/0/a/set", "/do/1/a/wait"]);

    let mut many = document("do: []");
    many["do"] = (0..500).map(|i| json!({ format!("t{i}"): {} })).collect();
    assert_eq!(problems(&many).len(), 100);
}

#[test]
fn what_is_not_supported_is_what_the_documentation_says() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/flows.md");
    let text = std::fs::read_to_string(file).expect(file);
    for what in Unsupported::ALL {
        let row = format!("| {} | {} |", what.construct(), what.reason());
        assert!(text.contains(&row), "docs/flows.md has no row\n{row}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| :")).count();
    assert!(rows >= Unsupported::ALL.len(), "{rows}");
}

#[test]
fn a_retry_policy_is_used_under_so_many_names_of_the_error() {
    let document = |names: usize| {
        let tasks = (0..names).map(|at| format!("{{t{at}: {{try: [], catch: {{as: e{at}, retry: r}}}}}}"));
        let tasks: Vec<_> = tasks.chain(["{u: {try: [], catch: {as: e0, retry: r}}}".to_owned()]).collect();
        format!("do: [{}]\nuse: {{retries: {{r: {{delay: PT1S}}}}}}", tasks.join(", "))
    };
    let (fine, many) = (document(16), document(17));
    check(&[(&many, "/do/16/t16/catch/retry", "under more than 16 names of the error")]);
    assert!(super::problems(&super::document(&fine)).is_empty());
}
