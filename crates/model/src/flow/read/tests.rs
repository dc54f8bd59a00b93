//! Documents, read and refused.

mod accepted;
mod documented;
mod properties;
mod refused;
mod refused_calls;
mod said;

use serde_json::Value;

use super::*;

/// What every document begins with.
const HEADING: &str = "document: {dsl: '1.0.3', namespace: shop, name: order, version: '0.1.0'}\n";

fn value(yaml: &str) -> Value {
    let documents = crate::document::parse(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
    documents.into_iter().next().map(|document| document.value).expect(yaml)
}

/// A document with these fields.
fn document(fields: &str) -> Value {
    value(&format!("{HEADING}{fields}"))
}

fn problems(document: &Value) -> Vec<(String, String)> {
    let problems = parse(document).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.path.pointer(), problem.message)).collect()
}

/// Each has exactly one problem: at that place, and its message says that.
fn check(cases: &[(&str, &str, &str)]) {
    for (fields, pointer, message) in cases {
        let found = problems(&document(fields));
        let expected = matches!(&found[..], [(at, said)] if at == pointer && said.contains(message));
        assert!(expected, "{fields}\nexpected {pointer}: {message}\nfound {found:#?}");
    }
}
