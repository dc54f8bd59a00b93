//! Schemas in processes of their own.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tulle_flow::evaluator::Evaluator;
use tulle_flow::schema::check;
use tulle_flow::scoped::Unanswered;

use crate::evaluators;

/// Type and words of the error; empty where there is none.
async fn said(evaluator: &Evaluator, schema: &Value, value: &Value) -> String {
    let checked = check(evaluator, schema, value);
    match tokio::time::timeout(Duration::from_secs(60), checked).await.expect("it hangs") {
        Ok(()) => String::new(),
        Err(Unanswered::Fault(fault)) => {
            let kind = fault.kind.rsplit('/').next().unwrap_or_default();
            format!("{kind}: {}", fault.detail.as_deref().unwrap_or_default())
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Schemas in which each refers to the next as often as that, and the last is this.
fn chain(length: usize, times: usize, last: Value) -> Value {
    let mut definitions = Map::new();
    for at in 0..length {
        let next = json!({ "$ref": format!("#/$defs/d{}", at + 1) });
        let next = if times == 1 { next } else { json!({ "allOf": vec![next; times] }) };
        definitions.insert(format!("d{at}"), next);
    }
    definitions.insert(format!("d{length}"), last);
    json!({ "$defs": definitions, "$ref": "#/$defs/d0" })
}

#[tokio::test]
async fn values_are_held_against_schemas() {
    let evaluator = Evaluator::new(evaluators());
    let schema = json!({ "properties": { "id": { "type": "string" } } });
    assert_eq!(said(&evaluator, &schema, &json!({ "id": "a" })).await, "");
    for _ in 0..2 {
        let said = said(&evaluator, &schema, &json!({ "id": 1 })).await;
        assert_eq!(said, "validation: /id is not of type \"string\"");
    }
    let elsewhere = json!({ "$ref": "https://example.com/schema.json" });
    let said = said(&evaluator, &elsewhere, &Value::Null).await;
    assert!(said.starts_with("configuration: the schema cannot be used: "), "{said}");
}

#[tokio::test]
async fn a_schema_that_would_harm_a_process_is_an_error_and_nobody_else_notices() {
    let evaluator = Evaluator::new(evaluators());
    let twice = json!({ "anyOf": [{ "$ref": "#/$defs/t" }, { "$ref": "#/$defs/t" }] });
    let twice = json!({ "type": "object", "properties": { "a": twice } });
    let deep = (0..60).fold(json!(1), |inner, _| json!({ "a": inner }));
    let forty = |last| chain(40, 2, last);
    for (schema, value, expected) in [
        (forty(json!({ "type": "integer" })), json!(1), "was stopped after 200 ms"),
        (forty(json!({ "type": "string" })), json!(1), "was stopped after 200 ms"),
        (json!({ "$defs": { "t": twice }, "$ref": "#/$defs/t" }), deep, "was stopped"),
        (chain(10_000, 1, json!({})), json!(1), "was stopped"),
    ] {
        let said = said(&evaluator, &schema, &value).await;
        assert!(said.starts_with("configuration: the schema ") && said.contains(expected), "{said}");
    }
    // What a backtracking engine would never be done with.
    let pattern = json!({ "pattern": "^(a+)+$" });
    let text = json!("a".repeat(10_000) + "b");
    assert!(said(&evaluator, &pattern, &text).await.contains("does not match"));
    // One that refers to itself says no more than it says once.
    assert_eq!(said(&evaluator, &json!({ "allOf": [{ "$ref": "#" }] }), &json!(1)).await, "");
    assert_eq!(said(&evaluator, &json!({ "type": "integer" }), &json!(1)).await, "");
}
