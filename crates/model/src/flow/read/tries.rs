//! `try` and `catch`.

use std::sync::Arc;

use super::Reader;
use super::reusable::ERROR;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::workflow::{Catch, ErrorFilter, TaskKind, Try};
use crate::validate::field::{Field, Read};

/// Under how many names of the error a policy of `use.retries` may be used.
const MOST_NAMES: usize = 16;

impl Reader<'_> {
    pub(super) fn try_catch(
        &mut self,
        task: &Field<'_>,
        field: &Field<'_>,
        around: &Surroundings,
    ) -> Read<TaskKind> {
        let body = self.task_list(field, around);
        let about = "which errors are caught, and what comes of it; `{}` catches all";
        let catch = self.required(task, ("catch", about), |reader, field| reader.catch(field, around));
        Ok(TaskKind::Try(Try { body: body?, catch: catch? }))
    }

    fn catch(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<Catch> {
        let known = self.fields(field, &["errors", "as", "when", "exceptWhen", "retry", "do"])?;
        let errors = self.optional(field, "errors", |reader, field| {
            let known = reader.fields(field, &["with"])?;
            let filter = reader.optional(field, "with", Self::error_filter);
            known.and(filter)
        });
        let variable = self.optional(field, "as", Self::variable)?.unwrap_or_else(|| ERROR.into());
        let inner = around.with([&variable]);
        let mut condition = |name| {
            self.optional(field, name, |reader, field| {
                reader.expression(field, ExpressionPlace::Definition, &inner)
            })
        };
        let (when, except_when) = (condition("when"), condition("exceptWhen"));
        let retry = self.optional(field, "retry", |reader, field| {
            if !field.value.is_string() {
                return reader.retry_policy(field, &inner).map(Arc::new);
            }
            reader.referred(field, "retries", |reusable| &reusable.retries)?;
            let name = reader.text(field)?.into();
            if reader.errors_of_retry(&name, &variable) >= MOST_NAMES {
                let message = format!(
                    "is used under more than {MOST_NAMES} names of the error: call it the same in each `as`"
                );
                return reader.invalid(field, message);
            }
            reader.retry_by_name(&name, &variable)
        });
        let handler = self.optional(field, "do", |reader, field| reader.task_list(field, &inner));
        known?;
        Ok(Catch {
            errors: errors?.flatten().unwrap_or_default(),
            variable,
            when: when?,
            except_when: except_when?,
            retry: retry?,
            handler: handler?,
        })
    }

    /// Texts of it are what they are, never expressions. The schema says `details` where the reference says `detail`.
    fn error_filter(&mut self, field: &Field<'_>) -> Read<ErrorFilter> {
        let known = self.fields(field, &["type", "status", "instance", "title", "detail", "details"])?;
        if self.object(field)?.is_empty() {
            return self.invalid(field, "says nothing: leave out `errors` to catch all");
        }
        let mut text =
            |name| self.optional(field, name, |reader, field| reader.text(field).map(Arc::<str>::from));
        let (kind, instance, title) = (text("type"), text("instance"), text("title"));
        let (detail, details) = (text("detail"), text("details"));
        let status =
            self.optional(field, "status", |reader, field| reader.integer(field, u32::from(u16::MAX)));
        known?;
        let (detail, details) = (detail?, details?);
        if let (Some(_), Some(_), Some(second)) = (&detail, &details, field.get("details")) {
            return self.invalid(&second, "is the same as `detail`: expected one of them");
        }
        Ok(ErrorFilter {
            kind: kind?,
            status: status?.and_then(|status| u16::try_from(status).ok()),
            instance: instance?,
            title: title?,
            detail: detail.or(details),
        })
    }
}
