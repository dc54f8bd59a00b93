//! How to delete: the `DeleteOptions` of a request's body, and the parameters of its query that say the same.
//!
//! What cannot be understood is an error: a deletion is not taken back.

use serde_json::{Map, Value};

use super::path::Query;
use super::status::Failure;
use crate::objects::DeleteOptions;
use crate::objects::field_type::{self, FieldType, Fields};

const FIELDS: Fields = &[
    ("apiVersion", FieldType::String),
    ("kind", FieldType::String),
    ("gracePeriodSeconds", FieldType::Integer),
    (
        "preconditions",
        FieldType::Object(&[("uid", FieldType::String), ("resourceVersion", FieldType::String)]),
    ),
    ("orphanDependents", FieldType::Boolean),
    ("propagationPolicy", FieldType::String),
    ("dryRun", FieldType::Strings),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", FieldType::Boolean),
];

/// Reads the body (null where there is none) and the query: what either says counts.
pub(super) fn read(body: &Value, query: &Query) -> Result<DeleteOptions, Failure> {
    let none = Map::new();
    let given = match body {
        Value::Null => &none,
        Value::Object(given) => given,
        other => {
            return Err(Failure::bad_request(format!(
                "the body must be an object of kind DeleteOptions, not {}",
                field_type::described(other)
            )));
        }
    };
    field_type::check(given, "", FIELDS)
        .map_err(|problem| Failure::bad_request(format!("DeleteOptions: {problem}")))?;
    let text = |field: &str| given.get(field).and_then(Value::as_str);
    if let Some(kind) = text("kind").filter(|kind| !["", "DeleteOptions"].contains(kind)) {
        return Err(Failure::bad_request(format!("the body is a {kind:?}, and DeleteOptions are expected")));
    }
    let mut policies = text("propagationPolicy").into_iter().chain(query.all("propagationPolicy"));
    if let Some(policy) = policies.find(|policy| !["Orphan", "Background", "Foreground"].contains(policy)) {
        return Err(Failure::bad_request(format!(
            "propagationPolicy must be Orphan, Background or Foreground, not \"{policy}\""
        )));
    }
    if let Some(period) = query.all("gracePeriodSeconds").find(|period| period.parse::<i64>().is_err()) {
        return Err(Failure::bad_request(format!(
            "the parameter gracePeriodSeconds must be a whole number, not \"{period}\""
        )));
    }
    let preconditions = given.get("preconditions").and_then(Value::as_object).unwrap_or(&none);
    let precondition = |field: &str| preconditions.get(field).and_then(Value::as_str);
    let resource_version = precondition("resourceVersion")
        .map(str::parse)
        .transpose()
        .map_err(|_| Failure::bad_request("preconditions.resourceVersion is not a version of this server"))?;
    let listed = given.get("dryRun").and_then(Value::as_array).into_iter().flatten();
    let dry_run = dry_run(listed.filter_map(Value::as_str).chain(query.all("dryRun")))?;
    Ok(DeleteOptions { uid: precondition("uid").map(str::to_owned), resource_version, dry_run })
}

/// Whether what is asked for is not to be stored. Every value must be `All`: who writes something else, or nothing,
/// does not want a write that counts.
pub(super) fn dry_run<'a>(mut values: impl Iterator<Item = &'a str>) -> Result<bool, Failure> {
    values.try_fold(false, |_, value| match value {
        "All" => Ok(true),
        other => Err(Failure::bad_request(format!("dryRun must be All, not \"{other}\""))),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let other = json!({ "kind": "Service", "apiVersion": "v1" });
        let whole = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": { "uid": "u", "resourceVersion": "7" }, "propagationPolicy": "Foreground",
            "dryRun": ["All"], "ignoreStoreReadErrorWithClusterBreakingPotential": false, "unknown": 5,
        });
        let nulls = json!({
            "apiVersion": null, "kind": null, "gracePeriodSeconds": null, "preconditions": null,
            "orphanDependents": null, "propagationPolicy": null, "dryRun": null,
        });
        let none = (None, None, false);
        let dry = (None, None, true);
        for (body, query, expected) in [
            (Value::Null, "", Ok(none)),
            (json!({}), "", Ok(none)),
            (nulls, "", Ok(none)),
            (json!({ "preconditions": { "uid": null, "resourceVersion": null } }), "", Ok(none)),
            (json!({ "kind": "", "dryRun": [] }), "", Ok(none)),
            (json!({ "orphanDependents": true, "gracePeriodSeconds": 30 }), "", Ok(none)),
            (whole, "", Ok((Some("u"), Some(7), true))),
            (json!({ "preconditions": { "uid": "" } }), "", Ok((Some(""), None, false))),
            (json!({ "dryRun": ["All", "All"] }), "", Ok(dry)),
            (Value::Null, "dryRun=All", Ok(dry)),
            (json!({ "dryRun": [] }), "dryRun=All&propagationPolicy=Orphan&gracePeriodSeconds=5", Ok(dry)),
            (json!({ "dryRun": "All" }), "", Err("dryRun: must be a list of strings, not a string")),
            (json!({ "dryRun": true }), "", Err("dryRun: must be a list of strings, not a boolean")),
            (json!({ "dryRun": [["All"]] }), "", Err("dryRun[0]: must be a string, not a list")),
            (json!({ "dryRun": [null] }), "", Err("dryRun[0]: must be a string, not null")),
            (json!({ "dryRun": ["all"] }), "", Err("dryRun must be All, not \"all\"")),
            (json!({ "dryRun": ["All", ""] }), "", Err("dryRun must be All, not \"\"")),
            (json!({ "dryRun": [""] }), "dryRun=All", Err("dryRun must be All")),
            (Value::Null, "dryRun=all", Err("dryRun must be All, not \"all\"")),
            (Value::Null, "dryRun=", Err("dryRun must be All, not \"\"")),
            (Value::Null, "dryRun", Err("dryRun must be All, not \"\"")),
            (Value::Null, "dryRun=All&dryRun=false", Err("dryRun must be All, not \"false\"")),
            (json!({ "preconditions": "x" }), "", Err("preconditions: must be an object, not a string")),
            (json!({ "preconditions": ["u"] }), "", Err("preconditions: must be an object, not a list")),
            (json!({ "preconditions": { "uid": 5 } }), "", Err("preconditions.uid: must be a string")),
            (
                json!({ "preconditions": { "resourceVersion": 1 } }),
                "",
                Err("preconditions.resourceVersion: must be a string, not a number"),
            ),
            (json!({ "preconditions": { "resourceVersion": "" } }), "", Err("is not a version")),
            (json!({ "preconditions": { "resourceVersion": "x" } }), "", Err("is not a version")),
            (json!({ "propagationPolicy": 5 }), "", Err("propagationPolicy: must be a string")),
            (json!({ "propagationPolicy": "" }), "", Err("propagationPolicy must be Orphan")),
            (json!({ "propagationPolicy": "Orphan" }), "propagationPolicy=x", Err("not \"x\"")),
            (json!({ "gracePeriodSeconds": "5" }), "", Err("gracePeriodSeconds: must be a whole number")),
            (json!({ "gracePeriodSeconds": 0.5 }), "", Err("gracePeriodSeconds: must be a whole number")),
            (Value::Null, "gracePeriodSeconds=x", Err("gracePeriodSeconds must be a whole number")),
            (json!({ "orphanDependents": "no" }), "", Err("orphanDependents: must be true or false")),
            (
                json!({ "ignoreStoreReadErrorWithClusterBreakingPotential": 1 }),
                "",
                Err("must be true or false"),
            ),
            (json!({ "kind": 5 }), "", Err("kind: must be a string")),
            (json!({ "apiVersion": {} }), "", Err("apiVersion: must be a string")),
            (other, "", Err("the body is a \"Service\"")),
            (json!([]), "", Err("must be an object of kind DeleteOptions, not a list")),
            (json!("x"), "", Err("must be an object of kind DeleteOptions, not a string")),
            (json!(false), "dryRun=All", Err("must be an object of kind DeleteOptions, not a boolean")),
        ] {
            let read = read(&body, &Query::parse(Some(query)));
            match (&read, expected) {
                (Ok(options), Ok(expected)) => {
                    let found = (options.uid.as_deref(), options.resource_version, options.dry_run);
                    assert_eq!(found, expected, "{body} {query}");
                }
                (Err(failure), Err(problem)) => {
                    assert_eq!(failure.code, http::StatusCode::BAD_REQUEST, "{body} {query}");
                    assert!(failure.message.contains(problem), "{body} {query}: {}", failure.message);
                }
                _ => panic!("{body} {query}: {:?}", read.map_err(|failure| failure.message)),
            }
        }
    }
}
