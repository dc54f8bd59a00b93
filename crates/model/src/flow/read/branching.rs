//! Tasks that choose, repeat, split up, fail, or set something.

use std::sync::Arc;

use super::Reader;
use super::surroundings::{ExpressionPlace, Siblings, Surroundings, VARIABLES};
use crate::flow::expression::Template;
use crate::flow::workflow::{Fork, Loop, SwitchCase, TaskKind};
use crate::validate::field::{Code, Field, Read, Unreadable, shown};

impl Reader<'_> {
    pub(super) fn set(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<TaskKind> {
        if !field.value.is_string() && self.object(field)?.is_empty() {
            return self.invalid(field, "sets nothing: expected fields and their values, or an expression");
        }
        Ok(TaskKind::Set(self.template(field, ExpressionPlace::Definition, around)?))
    }

    pub(super) fn switch(
        &mut self,
        field: &Field<'_>,
        around: &Surroundings,
        siblings: Siblings<'_>,
    ) -> Read<TaskKind> {
        let (items, all_named) = self.named_items(field, "case")?;
        if items.is_empty() && all_named.is_ok() {
            return self.invalid(field, "has no case: expected one or more");
        }
        let (mut cases, mut fine, mut default) = (Vec::new(), all_named, None);
        for (name, field) in &items {
            let Ok(known) = self.fields(field, &["when", "then"]) else {
                fine = Err(Unreadable);
                continue;
            };
            let when = self.optional(field, "when", |reader, field| {
                reader.expression(field, ExpressionPlace::Definition, around)
            });
            let about = "the name of a task of the same list, `continue`, `exit` or `end`";
            let then =
                self.required(field, ("then", about), |reader, field| reader.directive(field, siblings));
            if matches!(when, Ok(None)) {
                match default {
                    None => default = Some(name),
                    Some(first) => {
                        let message = format!(
                            "is missing: `{first}` is what is chosen if no other case is; there is one such case"
                        );
                        fine = self.missing_condition(field, message);
                    }
                }
            }
            match (known, when, then) {
                (Ok(()), Ok(when), Ok(then)) => cases.push(SwitchCase { name: (*name).into(), when, then }),
                _ => fine = Err(Unreadable),
            }
        }
        fine.map(|()| TaskKind::Switch(cases))
    }

    fn missing_condition(&mut self, case: &Field<'_>, message: String) -> Read<()> {
        let field = Field { path: case.path.field("when"), value: &serde_json::Value::Null };
        self.problem(&field, Code::Required, message);
        Err(Unreadable)
    }

    pub(super) fn for_each(
        &mut self,
        task: &Field<'_>,
        field: &Field<'_>,
        around: &Surroundings,
    ) -> Read<TaskKind> {
        let known = self.fields(field, &["each", "in", "at"])?;
        let each = self.optional(field, "each", Self::variable);
        let at = self.optional(field, "at", Self::variable);
        let items =
            self.required(field, ("in", "an expression that gives the list to go over"), |reader, field| {
                reader.expression(field, ExpressionPlace::Definition, around)
            });
        let each = each?.unwrap_or_else(|| "item".into());
        let at = at?.unwrap_or_else(|| "index".into());
        if each == at {
            let message = format!("`{each}` is what the item and its index are called, both");
            return self.invalid(field, message);
        }
        let inner = around.with([&each, &at]);
        let condition = self.optional(task, "while", |reader, field| {
            reader.expression(field, ExpressionPlace::Definition, &inner)
        });
        let about = "the tasks that run for each item";
        let body = self.required(task, ("do", about), |reader, field| reader.task_list(field, &inner));
        known?;
        Ok(TaskKind::For(Loop { each, at, items: items?, condition: condition?, body: body? }))
    }

    /// The name of a variable that a document makes, as jq has it.
    pub(super) fn variable(&mut self, field: &Field<'_>) -> Read<Arc<str>> {
        let text = self.text(field)?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let problem = if VARIABLES.contains(&text) || text == "ENV" || text.starts_with("__") {
            format!("{} is a variable of its own already: expected another name", shown(field.value))
        } else if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(good)
        {
            format!(
                "{} is no name of a variable: expected letters, digits and `_`, and no digit first; without `$`",
                shown(field.value)
            )
        } else {
            return Ok(text.into());
        };
        self.invalid(field, problem)
    }

    pub(super) fn fork(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<TaskKind> {
        let known = self.fields(field, &["branches", "compete"])?;
        let compete = self.optional(field, "compete", Self::boolean);
        let about = "the tasks that run at once";
        let branches =
            self.required(field, ("branches", about), |reader, field| reader.branches(field, around));
        known?;
        let (branches, compete) = (branches?, compete?.unwrap_or(false));
        if compete && branches.is_empty() {
            return self.invalid(field, "has no branches: none can be done first");
        }
        Ok(TaskKind::Fork(Fork { branches, compete }))
    }

    pub(super) fn raise(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<TaskKind> {
        let known = self.fields(field, &["error"])?;
        let about = "the error, or the name of one of `use.errors`";
        let error = self.required(field, ("error", about), |reader, field| match field.value.is_string() {
            true => reader.referred(field, "errors", |reusable| &reusable.errors),
            false => reader.error(field, around),
        });
        known?;
        Ok(TaskKind::Raise(error?))
    }

    /// An error that a document defines (RFC 9457).
    pub(super) fn error(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<Template> {
        let known = self.fields(field, &["type", "status", "instance", "title", "detail"])?;
        let kind =
            self.required(field, ("type", "a URI that says what sort of error it is"), |reader, field| {
                reader.uri_or_expression(field)
            });
        let status = self.required(field, ("status", "as in HTTP, e.g. 503"), |reader, field| {
            reader.integer(field, u32::from(u16::MAX))
        });
        let instance = self.optional(field, "instance", |reader, field| {
            let text = reader.text(field)?;
            if super::expressions::is_expression(text) || is_json_pointer(text) {
                return Ok(());
            }
            let message = format!(
                "{} is no JSON pointer (RFC 6901): expected the place of a task, e.g. `/do/0/pay`",
                shown(field.value)
            );
            reader.invalid(field, message)
        });
        let mut texts = Ok(());
        for name in ["title", "detail"] {
            texts =
                texts.and(self.optional(field, name, |reader, field| reader.text(field).map(drop)).map(drop));
        }
        let template = self.template(field, ExpressionPlace::Definition, around);
        known?;
        kind?;
        status?;
        instance?;
        texts?;
        template
    }
}

/// RFC 6901, section 3.
fn is_json_pointer(text: &str) -> bool {
    let mut rest = text.split('~');
    let starts = text.is_empty() || text.starts_with('/');
    rest.next();
    starts && rest.all(|escaped| escaped.starts_with(['0', '1']))
}
