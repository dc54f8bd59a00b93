//! Reads a document of the DSL into what the core runs. It goes by the schema of the DSL 1.0.3 (workflow.yaml), and by the reference
//! where that says more.
//!
//! All that is wrong is found in one walk, each with its place. What the schema allows and Tulle does not do is refused here too
//! ([`super::unsupported`]): a document that is read runs.

mod authentication;
mod bounds;
mod branching;
mod call;
mod calls;
mod document;
mod endpoint;
mod expressions;
mod problems;
mod retries;
mod reusable;
mod surroundings;
mod task;
mod task_list;
mod transformation;
mod tries;
mod variables;

use std::sync::Arc;

use serde_json::Value;

use self::calls::Calls;
use self::reusable::Reusable;
pub use self::variables::secret_keys;
use super::workflow::{Task, TaskId, Workflow};
use crate::validate::field::{Code, Errors, Field, FieldError, Read, Unreadable};

/// The tasks of a document.
pub const MOST_TASKS: usize = 1_000;

/// Reads a document: the workflow, or all that is wrong with it.
///
/// # Errors
/// The problems, each with the place in the document (`path.pointer()`, RFC 6901). No more than 100.
pub fn parse(document: &Value) -> Result<Workflow, Vec<FieldError>> {
    let mut errors = Errors::default();
    match parse_at(&Field::root(document), &mut errors) {
        Ok(workflow) if errors.0.is_empty() => Ok(workflow),
        _ => Err(errors.0),
    }
}

/// Reads a document that is part of an object.
pub(crate) fn parse_at(document: &Field<'_>, errors: &mut Errors) -> Read<Workflow> {
    let mut reader = Reader::new(document);
    let read = bounds::check(&mut reader, document).and_then(|()| reader.workflow(document));
    let failed = !reader.problems.0.is_empty();
    errors.0.append(&mut reader.problems.0);
    if failed { Err(Unreadable) } else { read }
}

/// What is known of a document while it is read. What its parts need, are in the files beside this one.
struct Reader<'a> {
    document: Field<'a>,
    problems: Errors,
    /// `None`: not read yet, or cannot be.
    tasks: Vec<Option<Task>>,
    has_too_many_tasks: bool,
    reusable: Reusable,
    calls: Calls,
}

impl<'a> Reader<'a> {
    fn new(document: &Field<'a>) -> Self {
        Self {
            document: document.clone(),
            problems: Errors::default(),
            tasks: Vec::new(),
            has_too_many_tasks: false,
            reusable: Reusable::default(),
            calls: Calls::default(),
        }
    }

    /// A place for a task that stands there.
    fn reserve(&mut self, field: &Field<'_>) -> Read<TaskId> {
        if self.tasks.len() < MOST_TASKS {
            let id = u32::try_from(self.tasks.len()).map_err(|_| Unreadable)?;
            self.tasks.push(None);
            return Ok(TaskId(id));
        }
        if !std::mem::replace(&mut self.has_too_many_tasks, true) {
            let message = format!("is one task too many: a document has at most {MOST_TASKS}");
            self.problem(field, Code::TooMany, message);
        }
        Err(Unreadable)
    }

    fn put(&mut self, id: TaskId, task: Task) {
        if let Some(place) = self.tasks.get_mut(id.0 as usize) {
            *place = Some(task);
        }
    }

    /// Where something stands in the document, as a JSON pointer.
    fn reference(&self, field: &Field<'_>) -> Arc<str> {
        let (base, pointer) = (self.document.path.pointer(), field.path.pointer());
        pointer.strip_prefix(&base).unwrap_or(&pointer).into()
    }
}

#[cfg(test)]
mod tests;
