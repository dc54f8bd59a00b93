//! Retry policies, and durations.

use std::sync::Arc;

use super::Reader;
use super::expressions::is_expression;
use super::surroundings::{ExpressionPlace, Surroundings};
use crate::flow::duration::{self, UNITS};
use crate::flow::workflow::{Backoff, DurationValue, RetryPolicy};
use crate::validate::field::{Field, Read, Unreadable};

impl Reader<'_> {
    /// The policy of `use.retries` with that name, which is there, for a task that calls the error by that name.
    pub(super) fn retry_by_name(&mut self, name: &Arc<str>, error: &Arc<str>) -> Read<Arc<RetryPolicy>> {
        let key = (Arc::clone(name), Arc::clone(error));
        if let Some(known) = self.reusable.retries_read.get(&key) {
            return known.clone();
        }
        let retries = self.document.get("use").and_then(|field| field.get("retries")).ok_or(Unreadable)?;
        let mut entries = self.entries(&retries)?.into_iter();
        let (_, field) = entries.find(|(entry, _)| *entry == &**name).ok_or(Unreadable)?;
        let policy = self.retry_policy(&field, &Surroundings::default().with([error])).map(Arc::new);
        self.reusable.retries_read.insert(key, policy.clone());
        policy
    }

    /// Under how many other names of the error it was read: it is read anew for each.
    pub(super) fn errors_of_retry(&self, name: &Arc<str>, error: &Arc<str>) -> usize {
        let all = self.reusable.retries_read.range((Arc::clone(name), "".into())..);
        let same = all.take_while(|((known, _), _)| known == name);
        same.filter(|((_, known), _)| known != error).count()
    }

    pub(super) fn retry_policy(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<RetryPolicy> {
        let known = self.fields(field, &["when", "exceptWhen", "delay", "backoff", "limit", "jitter"])?;
        let mut condition = |name| {
            self.optional(field, name, |reader, field| {
                reader.expression(field, ExpressionPlace::Definition, around)
            })
        };
        let (when, except_when) = (condition("when"), condition("exceptWhen"));
        let delay = self.optional(field, "delay", |reader, field| {
            reader.duration(field, ExpressionPlace::Definition, around)
        });
        let backoff = self.optional(field, "backoff", Self::backoff);
        let jitter = self.optional(field, "jitter", |reader, field| reader.jitter(field, around));
        let limit = self.optional(field, "limit", |reader, field| reader.limit(field, around));
        known?;
        let limit = limit?.unwrap_or_default();
        Ok(RetryPolicy {
            when: when?,
            except_when: except_when?,
            delay: delay?,
            backoff: backoff?.unwrap_or_default(),
            jitter: jitter?,
            attempts: limit.attempts,
            attempt_duration: limit.attempt_duration,
            duration: limit.duration,
        })
    }

    fn backoff(&mut self, field: &Field<'_>) -> Read<Backoff> {
        const KINDS: [(&str, Backoff); 3] = [
            ("constant", Backoff::Constant),
            ("linear", Backoff::Linear),
            ("exponential", Backoff::Exponential),
        ];
        self.only(field, &KINDS.map(|(name, _)| name))?;
        let mut given = KINDS.into_iter().filter_map(|(name, backoff)| Some((field.get(name)?, backoff)));
        let Some((first, backoff)) = given.next() else {
            return self
                .invalid(field, "says nothing: expected `constant: {}`, `linear: {}` or `exponential: {}`");
        };
        if let Some((second, _)) = given.next() {
            return self.invalid(&second, "is the second: a delay grows in one way");
        }
        if self.object(&first)?.is_empty() {
            return Ok(backoff);
        }
        self.invalid(&first, "has fields: the DSL has none here, expected `{}`")
    }

    /// Least and most.
    fn jitter(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<[DurationValue; 2]> {
        let known = self.fields(field, &["from", "to"])?;
        let mut bound = |name, about| {
            self.required(field, (name, about), |reader, field| {
                reader.duration(field, ExpressionPlace::Definition, around)
            })
        };
        let from = bound("from", "the least that is added to a delay");
        let to = bound("to", "the most that is added to a delay");
        known?;
        match (from?, to?) {
            (DurationValue::Constant(from), DurationValue::Constant(to)) if from > to => {
                self.invalid(field, "ends before it begins: expected `from` to be at most `to`")
            }
            (from, to) => Ok([from, to]),
        }
    }

    fn limit(&mut self, field: &Field<'_>, around: &Surroundings) -> Read<Limit> {
        let known = self.fields(field, &["attempt", "duration"])?;
        let attempt = self.optional(field, "attempt", |reader, field| {
            let known = reader.fields(field, &["count", "duration"])?;
            let count =
                reader.optional(field, "count", |reader, field| reader.integer(field, i32::MAX as u32));
            let duration = reader.optional(field, "duration", |reader, field| {
                reader.duration(field, ExpressionPlace::Definition, around)
            });
            known?;
            Ok((count?, duration?))
        });
        let duration = self.optional(field, "duration", |reader, field| {
            reader.duration(field, ExpressionPlace::Definition, around)
        });
        known?;
        let (attempts, attempt_duration) = attempt?.unwrap_or_default();
        Ok(Limit { attempts, attempt_duration, duration: duration? })
    }

    /// A duration: its fields, a text of ISO 8601, or an expression that gives one of both.
    pub(super) fn duration(
        &mut self,
        field: &Field<'_>,
        place: ExpressionPlace,
        around: &Surroundings,
    ) -> Read<DurationValue> {
        if field.value.as_str().is_some_and(is_expression) {
            return self.expression(field, place, around).map(DurationValue::Expression);
        }
        if field.value.is_object() {
            self.only(field, &UNITS.map(|(name, _)| name))?;
            for (name, _) in UNITS {
                self.optional(field, name, |reader, field| reader.integer(field, u32::MAX))?;
            }
        }
        match duration::read(field.value) {
            Ok(duration) => Ok(DurationValue::Constant(duration)),
            Err(problem) => self.invalid(field, problem),
        }
    }
}

/// When it is no longer tried.
#[derive(Default)]
struct Limit {
    attempts: Option<u32>,
    attempt_duration: Option<DurationValue>,
    duration: Option<DurationValue>,
}
