//! Fields of objects: where they are, what they hold, what is wrong with them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use serde_json::Value;

use crate::json_pointer::push_token;

/// One step from an object into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A field of an object.
    Field(Cow<'static, str>),
    /// A key of a map, e.g. of labels.
    Key(String),
    /// An item of a list.
    Index(usize),
}

/// The path of a field from the top of its object.
///
/// Prints as Kubernetes writes it: `spec.rules[0].backendRefs[1].port`, `metadata.labels[app]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of a field of what is here.
    #[must_use]
    pub fn field(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.with(Segment::Field(name.into()))
    }

    /// The path of the value of a key of the map here.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// The path of an item of the list here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = Vec::with_capacity(self.0.len() + 1);
        segments.extend_from_slice(&self.0);
        segments.push(segment);
        Self(segments)
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The path of what holds this; `None` for the object itself.
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// As a JSON pointer (RFC 6901): `/spec/rules/0/backendRefs/1/port`.
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Field(name) => push_token(&mut pointer, name),
                Segment::Key(key) => push_token(&mut pointer, key),
                Segment::Index(index) => {
                    let _ = write!(pointer, "/{index}");
                }
            }
        }
        pointer
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if position == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What sort of error a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// It is not there and has to be.
    Required,
    /// It is of the right type, and not a value that it can have.
    Invalid,
    /// It is none of the values that are known, or asks for what is not there yet.
    NotSupported,
    /// There is no such field.
    Unknown,
    /// Something else in the list is the same.
    Duplicate,
    /// It is of the wrong type.
    TypeInvalid,
    /// Its text is too long.
    TooLong,
    /// It has too many items.
    TooMany,
    /// It may not be given here, or may not be changed.
    Forbidden,
    /// It refers to what is not there.
    NotFound,
}

impl Code {
    /// The `reason` of a cause in the details of a `Status` (meta/v1, CauseType).
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Unknown => "FieldValueUnknown",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// What is wrong with a field. Prints as `<path>: <message>`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Where. Of a missing field, where it should be.
    pub path: FieldPath,
    pub code: Code,
    /// A sentence for people: what was found, what is expected.
    pub message: String,
    /// What was found.
    pub value: Option<Value>,
}

/// The errors of an object, in the order in which they were found.
#[derive(Default)]
pub(crate) struct Errors(pub(crate) Vec<FieldError>);

impl Errors {
    /// An error of a field that is there.
    pub(crate) fn push(&mut self, field: &Field<'_>, code: Code, message: impl Into<String>) {
        self.0.push(FieldError {
            path: field.path.clone(),
            code,
            message: message.into(),
            value: Some(field.value.clone()),
        });
    }

    pub(crate) fn invalid(&mut self, field: &Field<'_>, message: impl Into<String>) {
        self.push(field, Code::Invalid, message);
    }

    /// A field that is missing.
    pub(crate) fn required(&mut self, path: FieldPath, message: impl Into<String>) {
        self.0.push(FieldError { path, code: Code::Required, message: message.into(), value: None });
    }
}

/// What an object says cannot be used. Why, is among the errors: those of the check, or those of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// What was read of an object.
pub(crate) type Read<T> = Result<T, Unreadable>;

/// A value in an object, and where. What is null counts as absent, as in Kubernetes.
///
/// The checks of a kind walk objects with it. Where a type is not what it should be, they see
/// nothing: the structural check has said so.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) path: FieldPath,
    pub(crate) value: &'a Value,
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { path: FieldPath::root(), value }
    }

    pub(crate) fn get(&self, name: &'static str) -> Option<Field<'a>> {
        let value = self.value.get(name).filter(|v| !v.is_null())?;
        Some(Field { path: self.path.field(name), value })
    }

    pub(crate) fn str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    pub(crate) fn get_str(&self, name: &str) -> Option<&'a str> {
        self.value.get(name)?.as_str()
    }

    pub(crate) fn get_int(&self, name: &str) -> Option<i64> {
        self.value.get(name)?.as_i64()
    }

    /// The items of the list of that name; none where there is no such list.
    pub(crate) fn items(&self, name: &'static str) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let path = self.path.field(name);
        let items = self.value.get(name).and_then(Value::as_array).into_iter().flatten();
        items.enumerate().map(move |(index, value)| Field { path: path.index(index), value })
    }

    /// The text of that name, where there is one.
    pub(crate) fn read_str(&self, name: &str) -> Read<Option<&'a str>> {
        self.read(name, Value::as_str)
    }

    /// The number of a port, where there is one.
    pub(crate) fn read_port(&self, name: &str) -> Read<Option<u16>> {
        self.read(name, |value| u16::try_from(value.as_i64()?).ok().filter(|port| *port > 0))
    }

    /// What `as_wanted` makes of the value of that name, where there is one.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        as_wanted: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Read<Option<T>> {
        match self.value.as_object().ok_or(Unreadable)?.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => as_wanted(value).map(Some).ok_or(Unreadable),
        }
    }

    /// The items of the list of that name: none where there is none.
    pub(crate) fn read_items(&self, name: &'static str) -> Read<impl Iterator<Item = Field<'a>> + use<'a>> {
        self.read(name, Value::as_array)?;
        Ok(self.items(name))
    }

    /// The texts of the map of that name: none where there is none.
    pub(crate) fn read_texts(&self, name: &'static str) -> Read<BTreeMap<String, String>> {
        self.read(name, Value::as_object)?;
        let text = |(key, field): (&str, Field<'_>)| Some((key.to_owned(), field.str()?.to_owned()));
        self.entries(name).map(|entry| text(entry).ok_or(Unreadable)).collect()
    }

    /// The keys and values of the map of that name.
    pub(crate) fn entries(&self, name: &'static str) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.field(name);
        let entries = self.value.get(name).and_then(Value::as_object).into_iter().flatten();
        entries
            .filter(|(_, value)| !value.is_null())
            .map(move |(key, value)| (key.as_str(), Field { path: path.key(key.clone()), value }))
    }
}

/// A value as a message shows it: short.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) if text.chars().count() <= LONGEST => format!("`{}`", text.escape_debug()),
        Value::String(text) => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("`{}…`", start.escape_debug())
        }
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
