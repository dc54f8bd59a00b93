//! The fuzz targets of the documents that people write, and of the expressions in them: docs/fuzzing.md.

use std::sync::Arc;

use serde_json::Value;

use crate::compile::{Change, Compiler};
use crate::document::{self, Document, Span};
use crate::flow;
use crate::flow::expression::{Expression, Given, LARGEST, Template, Variables, fits};
use crate::flow::workflow::{Directive, TaskKind, TaskList, Workflow};
use crate::identity::TrustDomain;
use crate::name::NamespacedName;
use crate::registry;
use crate::validate::{self, FieldPath};

/// A text with documents of any kind: whatever is in them can be pointed at, and is judged and compiled.
///
/// # Panics
/// Where a place is none, where defaults change what is right, where what is valid does not compile.
pub fn documents(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let documents = match document::parse(text) {
        Ok(documents) => documents,
        Err(error) => return within(text, error.span),
    };
    let mut compiler = Compiler::new(TrustDomain::new("mesh.test").expect("it is a name"));
    let mut deletions = Vec::new();
    for document in &documents {
        places(text, document, &document.value, &FieldPath::root());
        // JSON is YAML, and means the same there.
        let json = document.value.to_string();
        match document::parse(&json) {
            Ok(again) => assert!(matches!(&again[..], [one] if one.value == document.value), "{json}"),
            Err(_) if has_long_key(&document.value) => {}
            Err(error) => panic!("{error}: {json}"),
        }
        if let Some(deletion) = object(text, document, &mut compiler) {
            deletions.push(deletion);
        }
    }
    compiler.apply_all(deletions);
    assert_eq!(compiler.services().count(), 0, "what is deleted is gone");
}

/// Whether a field's name, as JSON writes it, is longer than YAML takes without a `?` (YAML 1.2.2, section 7.4.2).
fn has_long_key(value: &Value) -> bool {
    const LONGEST: usize = 1024;
    match value {
        Value::Array(items) => items.iter().any(has_long_key),
        Value::Object(fields) => fields.iter().any(|(name, field)| {
            Value::from(name.as_str()).to_string().len() > LONGEST || has_long_key(field)
        }),
        _ => false,
    }
}

/// Everything that is in a document has a place in the text.
fn places(text: &str, document: &Document, value: &Value, path: &FieldPath) {
    let pointer = path.pointer();
    let location =
        document.location(&pointer).unwrap_or_else(|| panic!("`{pointer}` is nowhere in {text:?}"));
    for span in [location.value, location.head].into_iter().chain(location.key) {
        within(text, span);
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(text, document, item, &path.index(index));
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                places(text, document, field, &path.field(name.clone()));
            }
        }
        _ => {}
    }
}

/// It can be cut out and shown.
fn within(text: &str, span: Span) {
    assert!(text.get(span.range()).is_some(), "{span:?} is not within {text:?}");
    assert!(span.line > 0 && span.column > 0, "{span:?}");
}

/// Judges an object; and compiles it, if it is one. Gives what takes it away again.
fn object(text: &str, document: &Document, compiler: &mut Compiler) -> Option<Change> {
    let kind = registry::of_object(&document.value)?;
    let errors = validate::validate(kind, &document.value);
    for error in errors.iter().chain(&validate::unknown_fields(kind, &document.value)) {
        within(text, document.span_of(error));
    }
    let mut object = document.value.clone();
    validate::prune(kind, &mut object);
    let mut defaulted = object.clone();
    validate::default_object(kind, &mut defaulted);
    let mut again = defaulted.clone();
    validate::default_object(kind, &mut again);
    assert_eq!(again, defaulted, "defaults are filled in once");
    let still = validate::validate(kind, &defaulted);
    assert_eq!(errors.is_empty(), still.is_empty(), "{errors:?} {still:?} {defaulted}");
    if !errors.is_empty() {
        return None;
    }
    // As the server does it.
    if kind.namespaced && defaulted["metadata"]["namespace"].as_str().unwrap_or_default().is_empty() {
        defaulted["metadata"]["namespace"] = "default".into();
    }
    let text = |field: &str| defaulted["metadata"][field].as_str().unwrap_or_default().to_owned();
    let namespace = if kind.namespaced { text("namespace") } else { String::new() };
    let name = NamespacedName::new(namespace, text("name"));
    compiler.apply(Change::Put(kind, Arc::new(defaulted)));
    // The trust domain is another thing than what an object may say by itself.
    let problem = compiler.problem(kind, &name).filter(|problem| problem.field != "spec.trustDomain");
    assert!(problem.is_none(), "{problem:?}");
    Some(Change::Delete(kind, name))
}

/// An expression, and in the line after it what it is given (JSON): it is read or refused at a place in it, is the same when its text is read
/// again, and what it gives at once is within its bounds, and the same each time.
///
/// # Panics
/// Where one of these is not so.
pub fn expressions(input: &[u8]) {
    const NAMES: &[&str] = &["context", "input", "item"];
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (text, input) = text.split_once('\n').unwrap_or((text, "null"));
    let input = serde_json::from_str(input).unwrap_or_default();
    let expression = match Expression::parse(text, NAMES) {
        Ok(expression) => expression,
        Err(problem) => {
            return assert!(text.get(problem.at..).is_some(), "{problem:?} is not within {text:?}");
        }
    };
    assert_eq!(Expression::parse(expression.text(), NAMES).as_ref(), Ok(&expression));
    assert!(expression.variables_used().all(|name| NAMES.contains(&name)));
    let variables = Variables::new().with("context", &input);
    let given = Given { input: &input, variables: &variables, now: 1.5, largest: LARGEST };
    let value = expression.evaluate_simple(given);
    assert_eq!(value, expression.evaluate_simple(given));
    if let Some(Ok(value)) = &value {
        assert_eq!(fits(value, LARGEST), Ok(()));
    }
    let template = Value::from(format!("${{{}\n}}", expression.text()));
    let template = Template::parse(&template, NAMES).expect("it is an expression");
    assert!(template.evaluate_simple(given).is_some() == value.is_some());
}

/// A workflow: it is read, or refused at places that can be pointed at.
///
/// # Panics
/// Where a place is none, where what is read has a task that is not there, or leads to one.
pub fn flows(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(documents) = document::parse(text) else { return };
    for document in &documents {
        match flow::parse(&document.value) {
            Ok(workflow) => {
                assert!(workflow.tasks.len() <= flow::MOST_TASKS);
                for task in &workflow.tasks {
                    assert!(
                        document.value.pointer(&task.reference).is_some(),
                        "{} is nowhere",
                        task.reference
                    );
                    tasks_of(&task.kind).into_iter().for_each(|list| leads_on(&workflow, list));
                }
                leads_on(&workflow, &workflow.steps);
            }
            Err(problems) => {
                assert!(!problems.is_empty());
                for problem in &problems {
                    within(text, document.span_of(problem));
                }
            }
        }
    }
}

/// The lists of tasks of a task.
fn tasks_of(kind: &TaskKind) -> Vec<&TaskList> {
    match kind {
        TaskKind::Do(list) => vec![list],
        TaskKind::For(each) => vec![&each.body],
        TaskKind::Fork(fork) => vec![&fork.branches],
        TaskKind::Try(attempt) => std::iter::once(&attempt.body).chain(&attempt.catch.handler).collect(),
        _ => Vec::new(),
    }
}

/// All tasks of a list are there, and lead to places in it.
fn leads_on(workflow: &Workflow, list: &TaskList) {
    let is_place = |directive: &Directive| !matches!(directive, Directive::To(place) if *place >= list.len());
    for id in list.iter() {
        let task = workflow.task(*id);
        assert!(is_place(&task.then), "{}", task.reference);
        match &task.kind {
            TaskKind::Switch(cases) => {
                assert!(cases.iter().all(|case| is_place(&case.then)), "{}", task.reference)
            }
            TaskKind::Function { task, .. } => assert!(workflow.tasks.len() > task.0 as usize),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn expressions_are_bounded_and_give_one_value() {
        tulle_fuzz::check("expressions", super::expressions);
    }

    #[test]
    fn workflows_are_read_or_refused_at_a_place() {
        tulle_fuzz::check("flows", super::flows);
    }

    #[test]
    fn what_is_in_documents_has_a_place_and_is_judged() {
        tulle_fuzz::check("documents", super::documents);
    }
}
