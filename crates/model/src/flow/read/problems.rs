//! What is wrong with values by themselves: types, fields that are missing, or that nobody knows.

use serde_json::Value;

use super::Reader;
use crate::flow::unsupported::Unsupported;
use crate::validate::field::{Code, Field, FieldError, FieldPath, Read, Unreadable, shown};
use crate::validate::structure::{mismatch, unknown_field};
use crate::validate::suggest::did_you_mean;

/// Nobody reads more.
const MOST_PROBLEMS: usize = 100;

impl Reader<'_> {
    /// Says what is wrong with a field that is there; once, however often it is looked at.
    pub(super) fn problem(&mut self, field: &Field<'_>, code: Code, message: impl Into<String>) {
        let message = message.into();
        let is_known = |known: &FieldError| known.path == field.path && known.message == message;
        if self.problems.0.len() < MOST_PROBLEMS && !self.problems.0.iter().any(is_known) {
            self.problems.push(field, code, message);
        }
    }

    pub(super) fn invalid<T>(&mut self, field: &Field<'_>, message: impl Into<String>) -> Read<T> {
        self.problem(field, Code::Invalid, message);
        Err(Unreadable)
    }

    pub(super) fn unsupported<T>(&mut self, field: &Field<'_>, what: Unsupported) -> Read<T> {
        self.problem(field, Code::NotSupported, what.message());
        Err(Unreadable)
    }

    /// Says that a field is missing, and what it is for.
    pub(super) fn missing<T>(&mut self, path: FieldPath, about: &str) -> Read<T> {
        let message = format!("is missing, and is required: {about}");
        let is_known = |known: &FieldError| known.path == path && known.message == message;
        if self.problems.0.len() < MOST_PROBLEMS && !self.problems.0.iter().any(is_known) {
            self.problems.required(path, message);
        }
        Err(Unreadable)
    }

    fn of_type<T>(&mut self, field: &Field<'_>, expected: &str, value: Option<T>) -> Read<T> {
        value.ok_or_else(|| {
            self.problem(field, Code::TypeInvalid, mismatch(expected, field.value));
            Unreadable
        })
    }

    pub(super) fn text<'f>(&mut self, field: &Field<'f>) -> Read<&'f str> {
        self.of_type(field, "a text", field.value.as_str())
    }

    pub(super) fn boolean(&mut self, field: &Field<'_>) -> Read<bool> {
        self.of_type(field, "true or false", field.value.as_bool())
    }

    /// A whole number of that range.
    pub(super) fn integer(&mut self, field: &Field<'_>, largest: u32) -> Read<u32> {
        let number = self.of_type(field, "a whole number", as_integer(field.value))?;
        match u32::try_from(number).ok().filter(|number| *number <= largest) {
            Some(number) => Ok(number),
            None => self.invalid(field, format!("{number} is out of range: expected 0 to {largest}")),
        }
    }

    pub(super) fn items<'f>(&mut self, field: &Field<'f>) -> Read<Vec<Field<'f>>> {
        let items = self.of_type(field, "a list", field.value.as_array())?;
        let item = |(index, value)| Field { path: field.path.index(index), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// An object, with any fields.
    pub(super) fn object<'f>(&mut self, field: &Field<'f>) -> Read<&'f serde_json::Map<String, Value>> {
        self.of_type(field, "an object", field.value.as_object())
    }

    /// The names and values of a map.
    pub(super) fn entries<'f>(&mut self, field: &Field<'f>) -> Read<Vec<(&'f str, Field<'f>)>> {
        let object = self.object(field)?;
        let entry = |(name, value): (&'f String, _)| {
            (name.as_str(), Field { path: field.path.key(name.clone()), value })
        };
        Ok(object.iter().map(entry).collect())
    }

    /// Says of an object which of its fields are not `known`. Within the result, whether there were any.
    pub(super) fn fields(&mut self, field: &Field<'_>, known: &[&str]) -> Read<Read<()>> {
        let object = self.object(field)?;
        let mut fine = Ok(());
        for (name, value) in object.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let message = unknown_field(name, known.iter().copied(), object);
            let field = Field { path: field.path.field(name.clone()), value };
            self.problem(&field, Code::Unknown, message);
            fine = Err(Unreadable);
        }
        Ok(fine)
    }

    /// The same, where nothing else of the object is looked at if there were any.
    pub(super) fn only(&mut self, field: &Field<'_>, known: &[&str]) -> Read<()> {
        self.fields(field, known)?
    }

    /// What `read` makes of the field of that name, where there is one.
    pub(super) fn optional<T>(
        &mut self,
        parent: &Field<'_>,
        name: &'static str,
        read: impl FnOnce(&mut Self, &Field<'_>) -> Read<T>,
    ) -> Read<Option<T>> {
        parent.get(name).map(|field| read(self, &field)).transpose()
    }

    /// What `read` makes of the field of that name, which has to be there; `about` says what it is.
    pub(super) fn required<T>(
        &mut self,
        parent: &Field<'_>,
        (name, about): (&'static str, &str),
        read: impl FnOnce(&mut Self, &Field<'_>) -> Read<T>,
    ) -> Read<T> {
        match parent.get(name) {
            Some(field) => read(self, &field),
            None => self.missing(parent.path.field(name), about),
        }
    }

    /// The value that a word stands for.
    pub(super) fn word<T: Copy>(&mut self, field: &Field<'_>, words: &[(&str, T)]) -> Read<T> {
        let text = self.text(field)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let hint = did_you_mean(text, words.iter().map(|(word, _)| *word));
        let list: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let message = format!(
            "{} is none of the values that are possible: {}{hint}",
            shown(field.value),
            list.join(", ")
        );
        self.problem(field, Code::NotSupported, message);
        Err(Unreadable)
    }
}

/// JSON does not tell 400 from 400.0.
fn as_integer(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64);
    value.as_i64().or_else(|| whole(value.as_f64()?))
}
