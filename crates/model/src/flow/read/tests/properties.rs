//! What holds for whatever document.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Any JSON, made of the words of the DSL.
fn any_value() -> impl Strategy<Value = Value> {
    const WORDS: &str = "document dsl namespace name version do use functions errors retries timeouts authentications secrets \
        call http with method endpoint uri headers body query output redirect set switch when then for each in at while fork \
        branches compete try catch errors as exceptWhen retry delay backoff exponential limit attempt count duration jitter from \
        to raise error type status instance title detail wait seconds days if input schema format document resource export \
        timeout after metadata basic bearer oauth2 oidc authority grant client id secret scopes a b";
    const TEXTS: [&str; 16] = [
        "1.0.3",
        "get",
        "http",
        "a",
        "http://a/{b}",
        "${ .a }",
        "${ $secrets.a }",
        "PT1S",
        "end",
        "continue",
        "client_credentials",
        "https://x/",
        "jq",
        "json",
        "${ $error }",
        "/do/0",
    ];
    let word = prop::sample::select(WORDS.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let leaf = prop_oneof![
        prop::sample::select(TEXTS.map(str::to_owned).to_vec()).prop_map(Value::from),
        word.clone().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_i64..600).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A document, with something else in the place of one of its parts.
fn changed() -> impl Strategy<Value = Value> {
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any_value()).prop_map(
        |(which, place, new)| {
            let mut document = document(accepted::DOCUMENTS[which.index(accepted::DOCUMENTS.len())]);
            let mut places = Vec::new();
            collect(&document, String::new(), &mut places);
            if let Some(part) = document.pointer_mut(&places[place.index(places.len())]) {
                *part = new;
            }
            document
        },
    )
}

fn collect(value: &Value, pointer: String, places: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{pointer}/{index}"), places);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                collect(field, format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        _ => {}
    }
    places.push(pointer);
}

/// What is read can be run: all that is referred to is there. What is refused, is so at a place that is in the document.
fn holds(document: &Value) -> Result<(), TestCaseError> {
    match parse(document) {
        Ok(workflow) => {
            prop_assert!(workflow.tasks.len() <= MOST_TASKS);
            for task in &workflow.tasks {
                prop_assert!(document.pointer(&task.reference).is_some(), "{}", task.reference);
            }
            for id in workflow.steps.iter() {
                workflow.task(*id);
            }
        }
        Err(problems) => {
            prop_assert!(!problems.is_empty() && problems.len() <= 100);
            for problem in problems {
                let here = document.pointer(&problem.path.pointer()).is_some();
                let around = problem.path.parent().is_none_or(|p| document.pointer(&p.pointer()).is_some());
                prop_assert!(here || around, "{problem}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_value_is_read_or_refused_at_a_place(value in any_value()) {
        holds(&value)?;
    }

    #[test]
    fn a_document_of_which_a_part_is_changed_too(value in changed()) {
        holds(&value)?;
    }
}
