//! JSON Schemas that a workflow has values held against (dsl-reference.md, "Schema").

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use parking_lot::Mutex;
use serde_json::Value;
use tulle_model::flow::fault::{Fault, FaultKind};

/// How many of the places an error names at which a value is not as it should be.
const MOST_NAMED: usize = 5;
/// How much it says of each, in characters.
const MOST_SAID: usize = 200;
/// How large a pattern may become, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// A schema, compiled.
pub struct Schema(Validator);

impl Schema {
    /// Nothing is fetched for it: what it refers to has to be within it.
    ///
    /// # Errors
    /// A configuration error that says what is wrong with it.
    pub fn compile(document: &Value) -> Result<Self, Fault> {
        let patterns = PatternOptions::regex().size_limit(LARGEST_PATTERN).dfa_size_limit(LARGEST_PATTERN);
        let options = jsonschema::options().offline().with_pattern_options(patterns);
        match options.build(document) {
            Ok(validator) => Ok(Self(validator)),
            Err(error) => {
                let mut why = format!("the schema cannot be used: {}", start_of(&error.to_string()));
                if !error.instance_path().as_str().is_empty() {
                    let _ = write!(why, " (at {} of it)", start_of(error.instance_path().as_str()));
                }
                Err(FaultKind::Configuration.fault(why))
            }
        }
    }

    /// Whether a value is as it should be.
    ///
    /// # Errors
    /// A validation error that names places in the value, and says what was expected there. It shows nothing of the value.
    pub fn check(&self, value: &Value) -> Result<(), Fault> {
        let mut errors = self.0.iter_errors(value);
        let said: Vec<_> = errors
            .by_ref()
            .take(MOST_NAMED)
            .map(|error| {
                let path = error.instance_path().as_str();
                let place = if path.is_empty() { "the value".to_owned() } else { start_of(path) };
                start_of(&error.masked_with(place).to_string())
            })
            .collect();
        if said.is_empty() {
            return Ok(());
        }
        let more = if errors.next().is_some() { "; and more" } else { "" };
        Err(FaultKind::Validation.fault(format!("{}{more}", said.join("; "))))
    }
}

fn start_of(text: &str) -> String {
    match text.char_indices().nth(MOST_SAID) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The schemas that stand in one workflow, each compiled when it is first needed.
#[derive(Default)]
pub struct Schemas(Mutex<HashMap<usize, Compiled>>);

struct Compiled {
    schema: Result<Arc<Schema>, Fault>,
    /// Its address is what it is found by.
    _document: Arc<Value>,
}

impl Schemas {
    /// # Errors
    /// As [`Schema::compile`].
    pub fn of(&self, document: &Arc<Value>) -> Result<Arc<Schema>, Fault> {
        let mut known = self.0.lock();
        let compiled = known.entry(Arc::as_ptr(document).addr()).or_insert_with(|| Compiled {
            schema: Schema::compile(document).map(Arc::new),
            _document: document.clone(),
        });
        compiled.schema.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: Value, value: &Value) -> String {
        let outcome = Schema::compile(&schema).and_then(|schema| schema.check(value));
        let fault = outcome.expect_err("something is wrong");
        format!("{} {}", fault.kind.rsplit('/').next().unwrap_or_default(), fault.detail.unwrap_or_default())
    }

    #[test]
    fn what_is_not_as_it_should_be_is_named_and_not_shown() {
        let schema = json!({
            "type": "object",
            "required": ["id"],
            "properties": { "id": { "type": "string", "pattern": "^[a-z]+$" }, "n": { "minimum": 3 } },
        });
        let good = json!({ "id": "abc", "n": 3 });
        assert!(Schema::compile(&schema).unwrap().check(&good).is_ok());
        for (value, expected) in [
            (json!({}), "validation \"id\" is a required property"),
            (json!({ "id": 7 }), "validation /id is not of type \"string\""),
            (json!({ "id": "hush-hush" }), "validation /id does not match \"^[a-z]+$\""),
            (json!([]), "validation the value is not of type \"object\""),
            (json!({ "id": "a", "n": 1 }), "validation /n is less than the minimum of 3"),
        ] {
            assert_eq!(said(schema.clone(), &value), expected, "{value}");
        }
        let many = json!({ "type": "array", "items": { "type": "string" } });
        assert!(said(many, &json!([1, 2, 3, 4, 5, 6])).ends_with("/4 is not of type \"string\"; and more"));
    }

    #[test]
    fn nothing_is_fetched_for_a_schema_and_none_takes_long() {
        for schema in [
            json!({ "$ref": "https://example.com/schema.json" }),
            json!({ "$ref": "file:///etc/hostname" }),
            json!({ "$ref": "other.json#/a" }),
            json!({ "$ref": "#/nowhere" }),
            json!({ "$schema": "https://example.com/meta.json", "type": "object" }),
            json!({ "type": "cat" }),
            json!({ "pattern": "(" }),
            json!({ "pattern": "(?=a)b" }),
            json!({ "pattern": "((a{1000}){1000}){1000}" }),
        ] {
            let said = said(schema.clone(), &json!("a"));
            assert!(said.starts_with("configuration the schema cannot be used: "), "{schema}: {said}");
        }
        // What a backtracking engine would never be done with.
        let schema = json!({ "pattern": "^(a+)+$" });
        assert!(said(schema, &json!("a".repeat(10_000) + "b")).contains("does not match"));
        // Within it, references are fine; recursive ones go as deep as the value.
        let tree = json!({ "$defs": { "t": { "type": "object", "additionalProperties": { "$ref": "#/$defs/t" } } }, "$ref": "#/$defs/t" });
        assert!(said(tree, &json!({ "a": { "b": 1 } })).contains("/a/b"));
    }

    #[test]
    fn schemas_of_a_workflow_are_compiled_once() {
        let schemas = Schemas::default();
        let document = Arc::new(json!({ "type": "object" }));
        let first = schemas.of(&document).unwrap();
        assert!(Arc::ptr_eq(&first, &schemas.of(&document).unwrap()));
        assert!(!Arc::ptr_eq(&first, &schemas.of(&Arc::new((*document).clone())).unwrap()));
    }
}
