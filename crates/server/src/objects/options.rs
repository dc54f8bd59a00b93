//! How an object is written: by whom, which part of it, and how strictly.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::ObjectError;

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Object,
    /// The status only.
    Status,
    /// Both: for writers inside of the server that know both.
    Whole,
}

/// What to do about fields that the kind does not have (the API's `fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    Ignore,
    /// Drop them and say so.
    Warn,
    /// Refuse the object.
    Strict,
}

/// Asked of each write, right before it: of what is there (none where the object is new), and of what is to be there, valid and
/// whole. It may be asked again when somebody else was faster; what it was asked last is what was written.
#[derive(Clone)]
pub struct WriteCheck(Arc<Admit>);

type Admit = dyn Fn(Option<&Value>, &Value) -> Result<(), ObjectError> + Send + Sync;

impl WriteCheck {
    pub fn new(
        admit: impl Fn(Option<&Value>, &Value) -> Result<(), ObjectError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(admit))
    }
}

impl fmt::Debug for WriteCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteCheck")
    }
}

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The field manager, as `metadata.managedFields` names it.
    pub manager: String,
    pub part: Part,
    pub unknown_fields: UnknownFields,
    /// Do everything but store it.
    pub dry_run: bool,
    pub write_check: Option<WriteCheck>,
}

impl WriteOptions {
    /// For the server's own writes.
    pub fn controller() -> Self {
        Self {
            manager: "tulle".to_owned(),
            part: Part::Object,
            unknown_fields: UnknownFields::Ignore,
            dry_run: false,
            write_check: None,
        }
    }

    /// Whether the write may be done.
    pub(super) fn admit(&self, current: Option<&Value>, object: &Value) -> Result<(), ObjectError> {
        self.write_check.as_ref().map_or(Ok(()), |write_check| (write_check.0)(current, object))
    }

    pub fn with_part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }
}
