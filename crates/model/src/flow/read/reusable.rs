//! `use`: what tasks refer to by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Reader;
use super::surroundings::{ExpressionPlace, Siblings, Surroundings};
use crate::flow::expression::Template;
use crate::flow::unsupported::Unsupported;
use crate::flow::workflow::{Authentication, DurationValue, RetryPolicy, TaskId};
use crate::name::dns_subdomain_problem;
use crate::validate::field::{Code, Field, Read, Unreadable, shown};
use crate::validate::suggest::did_you_mean;

/// By its name; what cannot be read is there too, so that nobody says that it is not.
pub(super) type ByName<T> = BTreeMap<Arc<str>, Read<T>>;

/// That of a policy, and how a task calls the error.
type RetryName = (Arc<str>, Arc<str>);

#[derive(Default)]
pub(super) struct Reusable {
    pub(super) secrets: Vec<Arc<str>>,
    pub(super) authentications: ByName<Arc<Authentication>>,
    pub(super) errors: ByName<Template>,
    pub(super) timeouts: ByName<DurationValue>,
    pub(super) retries: ByName<()>,
    /// As tasks read them that call the error by that name.
    pub(super) retries_read: BTreeMap<RetryName, Read<Arc<RetryPolicy>>>,
    pub(super) functions: ByName<TaskId>,
}

/// What the reference of a retry policy calls the error, where a task does not.
pub(super) const ERROR: &str = "error";

impl Reader<'_> {
    pub(super) fn reusable(&mut self, field: &Field<'_>) -> Read<()> {
        const KNOWN: [&str; 8] = [
            "authentications",
            "errors",
            "extensions",
            "functions",
            "retries",
            "secrets",
            "timeouts",
            "catalogs",
        ];
        let known = self.fields(field, &KNOWN)?;
        for (name, what) in [("extensions", Unsupported::Extensions), ("catalogs", Unsupported::Catalogs)] {
            let _ = self.optional(field, name, |reader, field| reader.unsupported::<()>(field, what));
        }
        let around = Surroundings::default();
        let secrets = self.optional(field, "secrets", Self::secrets);
        // Who needs one of them says so; what is wrong with one, is said here.
        self.reusable.authentications = self
            .named(field, "authentications", |reader, field| reader.authentication_policy(field, &around));
        self.reusable.errors = self.named(field, "errors", |reader, field| reader.error(field, &around));
        self.reusable.timeouts = self.named(field, "timeouts", |reader, field| {
            reader.timeout(field, ExpressionPlace::Definition, &around)
        });
        self.reusable.retries = self.named(field, "retries", |_, _| Ok(()));
        self.reusable.functions = self.named(field, "functions", Self::reserve);
        known?;
        secrets?;
        Ok(())
    }

    /// What is there under their names.
    fn named<T>(
        &mut self,
        parent: &Field<'_>,
        name: &'static str,
        mut read: impl FnMut(&mut Self, &Field<'_>) -> Read<T>,
    ) -> ByName<T> {
        let Some(field) = parent.get(name) else { return ByName::new() };
        let entries = self.entries(&field).unwrap_or_default();
        entries.into_iter().map(|(name, field)| (name.into(), read(self, &field))).collect()
    }

    fn secrets(&mut self, field: &Field<'_>) -> Read<()> {
        let mut fine = Ok(());
        for item in self.items(field)? {
            let Ok(name) = self.text(&item) else {
                fine = Err(Unreadable);
                continue;
            };
            // Also where no Secret can be called so: who refers to it is right.
            self.reusable.secrets.push(name.into());
            if let Some(problem) = dns_subdomain_problem(name) {
                fine = self
                    .invalid(&item, format!("{} is no name of a Secret: it {problem}", shown(item.value)));
            }
        }
        fine
    }

    /// The retry policies that no task has referred to, by whatever name of the error: what is wrong with one, is said all the same.
    pub(super) fn unused_retries(&mut self) {
        let read: BTreeSet<_> = self.reusable.retries_read.keys().map(|(name, _)| name.clone()).collect();
        let unused: Vec<_> =
            self.reusable.retries.keys().filter(|name| !read.contains(*name)).cloned().collect();
        for name in unused {
            // It is among the problems.
            let _ = self.retry_by_name(&name, &ERROR.into());
        }
    }

    /// The bodies of the functions, when it is known which there are.
    pub(super) fn functions(&mut self, document: &Field<'_>) -> Read<()> {
        let functions = document.get("use").and_then(|field| field.get("functions"));
        let entries = functions.map(|field| self.entries(&field)).transpose()?.unwrap_or_default();
        for (name, field) in entries {
            let Some(Ok(id)) = self.reusable.functions.get(name).copied() else { continue };
            let around = Surroundings::of_function(id);
            // What is wrong with it is among the problems.
            let _ = self.task_at(id, (name, &field), &around, Siblings::Function);
        }
        Ok(())
    }

    /// What a text refers to in one of the maps of `use`.
    pub(super) fn referred<T: Clone>(
        &mut self,
        field: &Field<'_>,
        list: &str,
        map: impl Fn(&Reusable) -> &ByName<T>,
    ) -> Read<T> {
        let name = self.text(field)?;
        let map = map(&self.reusable);
        if let Some(found) = map.get(name) {
            return found.clone();
        }
        let hint = did_you_mean(name, map.keys().map(|name| &**name));
        let message = format!("there is no {} in `use.{list}`{hint}", shown(field.value));
        self.problem(field, Code::NotFound, message);
        Err(Unreadable)
    }

    /// A Secret of `use.secrets`.
    pub(super) fn secret(&mut self, field: &Field<'_>) -> Read<Arc<str>> {
        let name = self.text(field)?;
        let secrets = &self.reusable.secrets;
        if let Some(found) = secrets.iter().find(|secret| ***secret == *name) {
            return Ok(Arc::clone(found));
        }
        let hint = did_you_mean(name, secrets.iter().map(|name| &**name));
        let message = format!("there is no {} in `use.secrets`{hint}", shown(field.value));
        self.problem(field, Code::NotFound, message);
        Err(Unreadable)
    }
}
