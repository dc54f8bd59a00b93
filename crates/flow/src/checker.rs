//! Holds values against JSON Schemas, in the process that evaluates expressions: references within a schema can multiply what is to be
//! looked at, or lead deeper than a stack is.

use std::fmt::Write as _;
use std::rc::Rc;

use jsonschema::{PatternOptions, Validator};
use serde_json::{Value, json};

use crate::answer::{Answer, Ending};
use crate::recent::Recent;
use crate::request::Check;

/// The longest answer, in bytes of JSON.
pub(crate) const LONGEST_VERDICT: usize = 32 << 10;
/// How many of the places an answer names at which a value is not as it should be.
const MOST_NAMED: usize = 5;
/// How much it says of each, in characters.
const MOST_SAID: usize = 200;
/// How large a pattern may become, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
/// How many schemas are kept compiled, and how many bytes their texts may have together.
const KEPT: usize = 100;
const MOST_KEPT: usize = 512 << 10;

/// A schema, or what is wrong with it.
type CompiledSchema = Result<Rc<Validator>, Rc<str>>;

/// Checks, and keeps what it has compiled.
pub(crate) struct Checker {
    compiled: Recent<CompiledSchema>,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self { compiled: Recent::new(KEPT, MOST_KEPT) }
    }

    /// The answer is null where the value is as it should be; else what is wrong, as `value` or, of the schema itself, `schema`.
    pub(crate) fn check(&self, check: &Check<'_>) -> Answer {
        let value = match serde_json::from_slice(check.value) {
            Ok(value) => value,
            Err(error) => return Answer::failed(error),
        };
        let verdict = match self.schema(check.schema) {
            Err(why) => json!({ "schema": &*why }),
            Ok(schema) if schema.is_valid(&value) => Value::Null,
            Ok(schema) => json!({ "value": differences(&schema, &value) }),
        };
        Answer { ending: Ending::Value, words: verdict.to_string().into_bytes() }
    }

    fn schema(&self, text: &str) -> CompiledSchema {
        // What is wrong with one is kept, too.
        let compiled = self.compiled.get(text, || Ok(compile(text).map(Rc::new).map_err(Rc::from)));
        compiled.unwrap_or_else(|never: std::convert::Infallible| match never {})
    }
}

/// Nothing is fetched for it: what it refers to has to be within it. Patterns are matched in linear time.
fn compile(text: &str) -> Result<Validator, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let patterns = PatternOptions::regex().size_limit(LARGEST_PATTERN).dfa_size_limit(LARGEST_PATTERN);
    let options = jsonschema::options().offline().with_pattern_options(patterns);
    options.build(&document).map_err(|error| {
        let mut why = start_of(&error.to_string());
        let place = error.instance_path().as_str();
        if !place.is_empty() {
            let _ = write!(why, " (at {} of it)", start_of(place));
        }
        why
    })
}

/// Places in the value, and what was expected there. Nothing of the value itself is shown.
fn differences(schema: &Validator, value: &Value) -> String {
    let mut errors = schema.iter_errors(value);
    let difference = |error: jsonschema::ValidationError<'_>| {
        let path = error.instance_path().as_str();
        let place = if path.is_empty() { "the value".to_owned() } else { start_of(path) };
        start_of(&error.masked_with(place).to_string())
    };
    let named: Vec<_> = errors.by_ref().take(MOST_NAMED).map(difference).collect();
    let more = if errors.next().is_some() { "; and more" } else { "" };
    format!("{}{more}", named.join("; "))
}

fn start_of(text: &str) -> String {
    match text.char_indices().nth(MOST_SAID) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(checker: &Checker, schema: &Value, value: &Value) -> Value {
        let (schema, value) = (schema.to_string(), value.to_string());
        let answer = checker.check(&Check { schema: &schema, value: value.as_bytes() });
        assert_eq!(answer.ending, Ending::Value);
        serde_json::from_slice(&answer.words).unwrap()
    }

    #[test]
    fn what_is_not_as_it_should_be_is_named_and_not_shown() {
        let schema = json!({
            "type": "object",
            "required": ["id"],
            "properties": { "id": { "type": "string", "pattern": "^[a-z]+$" }, "n": { "minimum": 3 } },
        });
        let checker = Checker::new();
        assert_eq!(verdict(&checker, &schema, &json!({ "id": "abc", "n": 3 })), Value::Null);
        for (value, expected) in [
            (json!({}), "\"id\" is a required property"),
            (json!({ "id": 7 }), "/id is not of type \"string\""),
            (json!({ "id": "hush-hush" }), "/id does not match \"^[a-z]+$\""),
            (json!([]), "the value is not of type \"object\""),
            (json!({ "id": "a", "n": 1 }), "/n is less than the minimum of 3"),
        ] {
            assert_eq!(verdict(&checker, &schema, &value), json!({ "value": expected }), "{value}");
        }
        let many = json!({ "type": "array", "items": { "type": "string" } });
        let said = verdict(&checker, &many, &json!([1, 2, 3, 4, 5, 6]))["value"].to_string();
        assert!(said.ends_with("/4 is not of type \\\"string\\\"; and more\""), "{said}");
        let long = json!({ "properties": { "a".repeat(9_000): { "const": "x".repeat(90_000) } } });
        let said = verdict(&checker, &long, &json!({ "a".repeat(9_000): 1 })).to_string();
        assert!((200..LONGEST_VERDICT).contains(&said.len()), "{said}");
    }

    #[test]
    fn nothing_is_fetched_for_a_schema() {
        let checker = Checker::new();
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
            let verdict = verdict(&checker, &schema, &json!("a"));
            assert!(verdict["schema"].is_string(), "{schema}: {verdict}");
        }
        // Within it, references are fine; recursive ones go as deep as the value.
        let tree = json!({ "additionalProperties": { "$ref": "#/$defs/t" } });
        let tree = json!({ "$defs": { "t": { "type": "object", "allOf": [tree] } }, "$ref": "#/$defs/t" });
        let said = verdict(&checker, &tree, &json!({ "a": { "b": 1 } }));
        assert_eq!(said, json!({ "value": "/a/b is not of type \"object\"" }));
    }

    #[test]
    fn the_schemas_that_were_used_last_are_kept() {
        let checker = Checker::new();
        let schema = |n: usize, length: usize| json!({ "minimum": n, "description": "x".repeat(length) });
        let kept = |checker: &Checker| checker.compiled.texts().len();
        for n in 0..=KEPT {
            verdict(&checker, &schema(n, 0), &json!(1));
            verdict(&checker, &schema(0, 0), &json!(1));
        }
        assert_eq!(kept(&checker), KEPT);
        assert!(checker.compiled.texts().contains(&schema(0, 0).to_string()));
        for n in 0..4 {
            verdict(&checker, &schema(n, 200 << 10), &json!(1));
            assert!(kept(&checker) > 0);
        }
        assert_eq!(kept(&checker), 2);
        verdict(&checker, &schema(0, 900 << 10), &json!(1));
        assert_eq!(kept(&checker), 1);
    }
}
