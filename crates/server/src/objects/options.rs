//! How an object is written: by whom, which part of it, and how strictly.

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

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The field manager, as `metadata.managedFields` names it.
    pub manager: String,
    pub part: Part,
    pub unknown_fields: UnknownFields,
    /// Do everything but store it.
    pub dry_run: bool,
}

impl WriteOptions {
    /// For the server's own writes.
    pub fn controller() -> Self {
        Self {
            manager: "tulle".to_owned(),
            part: Part::Object,
            unknown_fields: UnknownFields::Ignore,
            dry_run: false,
        }
    }

    pub fn with_part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }
}
