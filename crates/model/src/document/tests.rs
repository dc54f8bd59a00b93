use proptest::prelude::*;
use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    parse(text).unwrap().into_iter().map(|d| d.value).collect()
}

fn one(text: &str) -> Document {
    let mut documents = parse(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn several_documents_are_read_and_empty_ones_left_out() {
    assert_eq!(values(""), Vec::<Value>::new());
    assert_eq!(
        values("# nothing\n---\n---\na: 1\n---\n# no\n---\nb: [2, no]\n...\n"),
        [json!({ "a": 1 }), json!({ "b": [2, "no"] })]
    );
    assert_eq!(
        values("\u{feff}a: \"1\"\nb: |\n  x\n  y\n80: true"),
        [json!({ "a": "1", "b": "x\ny\n", "80": true })]
    );
}

#[test]
fn json_is_yaml() {
    let text =
        "{\n\t\"a\": [1, 2.5, -3e2, null, true],\n\t\"b\\u00e9\": {\"c\": \"\\ud83d\\ude00 \\/ x\"}\n}\n";
    assert_eq!(values(text), [serde_json::from_str::<Value>(text).unwrap()]);
}

#[test]
fn places_are_exact() {
    let text = "kind: Service\nspec:\n  ports:\n  - port: 70000\n    name: 'ä'\n  - { port: 80 }\n  x/y: |\n    text\n";
    let document = one(text);
    let at = |pointer: &str| document.location(pointer).unwrap();
    let slice = |span: Span| &text[span.range()];
    assert_eq!(slice(at("/kind").key.unwrap()), "kind");
    assert_eq!(slice(at("/kind").value), "Service");
    let port = at("/spec/ports/0/port");
    assert_eq!((slice(port.key.unwrap()), slice(port.value)), ("port", "70000"));
    assert_eq!((port.value.line, port.value.column), (4, 11));
    assert_eq!(slice(at("/spec/ports/0/name").value), "'ä'");
    assert_eq!(slice(at("/spec/ports/0").value), "port: 70000\n    name: 'ä'");
    assert_eq!(slice(at("/spec/ports/0").head), "port");
    assert_eq!(slice(at("/spec/ports/1").value), "{ port: 80 }");
    assert_eq!(at("/spec/ports/1/port").value.line, 6);
    assert_eq!(slice(at("/spec/x~1y").key.unwrap()), "x/y");
    assert_eq!(document.location("/spec/nothing"), None);
    assert_eq!(document.location("spec"), None);
    assert_eq!(document.span().line, 1);
}

#[test]
fn errors_point_at_what_one_would_change() {
    let text = "spec:\n  rules:\n  - backendRefs:\n    - name: d\n      weihgt: 1\n";
    let document = one(text);
    let path = FieldPath::root().field("spec").field("rules").index(0).field("backendRefs").index(0);
    let shown = |code: Code, path: FieldPath| {
        let error = FieldError { path, code, message: String::new(), value: None };
        &text[document.span_of(&error).range()]
    };
    assert_eq!(shown(Code::Unknown, path.field("weihgt")), "weihgt");
    assert_eq!(shown(Code::Invalid, path.field("weihgt")), "1");
    assert_eq!(shown(Code::Required, path.field("port")), "name");
    assert_eq!(shown(Code::Invalid, FieldPath::root().field("spec").field("rules")), "rules");
    assert_eq!(shown(Code::Required, FieldPath::root().field("metadata").field("name")), "spec");
}

#[test]
fn a_key_may_be_there_once() {
    assert_eq!(
        message("a: 1\nb: 2\na: 3\n"),
        "line 3, column 1: `a` is given twice here; the first time in line 1"
    );
    assert!(parse("{\"a\": 1, \"a\": 1}").is_err());
    assert!(parse("- a: 1\n- a: 1\n").is_ok());
}

#[test]
fn aliases_and_merges_are_resolved() {
    assert_eq!(values("a: &x [1, 2]\nb: *x\n"), [json!({ "a": [1, 2], "b": [1, 2] })]);
    assert_eq!(
        values("a: &x { p: 1, q: 2 }\nb:\n  <<: *x\n  q: 3\n"),
        [json!({ "a": { "p": 1, "q": 2 }, "b": { "p": 1, "q": 3 } })]
    );
    assert_eq!(
        values("- &x { p: 1 }\n- &y { p: 2, q: 3 }\n- <<: [*x, *y]\n")[0][2],
        json!({ "p": 1, "q": 3 })
    );
    assert_eq!(values("\"<<\": 1\n"), [json!({ "<<": 1 })]);
    assert_eq!(values("&k a: *k\n"), [json!({ "a": "a" })]);
    assert!(message("<<: 1\n").contains("merges objects"));
    assert!(message("a: &x [*x]\n").contains("refers to the value that it is in"));
    assert!(parse("a: *missing\n").is_err());
    // Anchors are a document's own.
    assert!(parse("a: &x 1\n---\nb: *x\n").is_err());
}

#[test]
fn bombs_do_not_go_off() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..20 {
        let before = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    assert!(message(&laughs).contains("aliases make the document grow"));

    let mut tower = "a0: &a0 [x]\n".to_owned();
    for level in 1..1000 {
        tower.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(message(&tower).contains("nested deeper"));

    let copies = format!("a: &a {}\nb: [{}]\n", "x".repeat(50_000), ["*a"; 1000].join(", "));
    assert!(message(&copies).contains("aliases make the document grow"));

    let nested: String = (0..60).map(|level| format!("&a{level} [")).collect();
    let copied = format!("{nested}&x {}{}", "x".repeat(1 << 20), "]".repeat(60));
    assert!(message(&copied).contains("values with anchors"));

    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("{}x{}", "[".repeat(65), "]".repeat(65))).is_err());
    assert!(parse(&format!("{}x{}", "[".repeat(64), "]".repeat(64))).is_ok());
    assert!(parse(&"- ".repeat(10_000)).is_err());
    assert!(parse(&" ".repeat(LARGEST_TEXT + 1)).is_err());
}

#[test]
fn syntax_errors_say_where() {
    assert!(message("a: [1, 2\nb: 3\n").starts_with("line 2"), "{}", message("a: [1, 2\nb: 3\n"));
    assert!(message("a:\n\tb: 1\n").contains("not with tabs"), "{}", message("a:\n\tb: 1\n"));
    assert!(message("a:\n  b: 1\n c: 2\n").contains("indented like its neighbours"));
    assert!(message("a: b: c\n").contains("needs quotes"));
    assert!(message("a: !thing 1\n").contains("`!thing`"));
    assert!(message("? [a]\n: 1\n").contains("a key must be a text"));
    assert!(message("a: .inf\n").starts_with("line 1, column 4"));
}

/// Values as people write them, with keys and texts that are hard on a reader.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[a-z:#' \"\\-~0-9]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z/~. ]{1,6}", inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Every scalar of a document, with its pointer.
fn scalars(value: &Value, pointer: &str, visit: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                scalars(item, &format!("{pointer}/{index}"), visit);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                scalars(value, &format!("{pointer}/{name}"), visit);
            }
        }
        other => visit(pointer, other),
    }
}

proptest! {
    #[test]
    fn whatever_the_text_there_is_an_answer(text in "\\PC{0,80}|[-a:\\[\\]{}&*!|>'\"#%@`?,<~ \\t\\n0]{0,60}") {
        match parse(&text) {
            Ok(documents) => {
                for document in documents {
                    prop_assert!(text.get(document.span().range()).is_some());
                }
            }
            Err(error) => prop_assert!(text.get(error.span.range()).is_some()),
        }
    }

    #[test]
    fn what_json_says_is_read_as_json_says_it(value in any_value()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let expected = if value.is_null() { vec![] } else { vec![value] };
        prop_assert_eq!(values(&text), expected);
    }

    #[test]
    fn every_place_is_that_of_its_value(value in any_value()) {
        for text in [serde_json::to_string_pretty(&value).unwrap(), serde_saphyr::to_string(&value).unwrap()] {
            for document in parse(&text).unwrap() {
                let mut places = Vec::new();
                scalars(&document.value, "", &mut |pointer, value| {
                    places.push((document.location(pointer), value.clone()));
                });
                for (location, value) in places {
                    let span = location.unwrap().value;
                    let line = text[..span.start].matches('\n').count() + 1;
                    prop_assert_eq!(span.line, line);
                    // A part of a document is no document where it spans lines (its indentation counts).
                    let part = &text[span.range()];
                    if !part.contains('\n') && !part.is_empty() {
                        let read = parse(part).unwrap().first().map_or(Value::Null, |d| d.value.clone());
                        prop_assert_eq!(read, value);
                    }
                }
            }
        }
    }
}
