//! Documents as people write them: YAML 1.2 (and so JSON too), with the place of every field.
//!
//! Scalars are read by YAML's core schema: `no` and `on` are texts, `0o17` is 15. Keys are texts,
//! and no key may be there twice. Merge keys (`<<`) are known. What documents can ask for is
//! bounded: size, depth, and how much aliases may blow them up.

mod build;
mod scalar;

use std::collections::HashMap;

use serde_json::Value;

use crate::validate::{Code, FieldError, FieldPath};

/// How many bytes the text may have.
pub const LARGEST_TEXT: usize = 16 << 20;
/// How deep lists and objects may be nested.
pub const DEEPEST: usize = 64;
/// How many values all documents of a text may have together, aliases replaced by what they stand for.
pub const MOST_VALUES: usize = 1_000_000;
/// How many values, and bytes of text, aliases may add.
pub const MOST_ALIASED: usize = 100_000;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The bytes from `start` up to `end`.
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The bytes, to index a text with.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }
}

/// Where a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Where its name is; `None` for items of lists and whole documents.
    pub key: Option<Span>,
    /// Where its value is, from its first to its last character.
    pub value: Span,
    /// The start of the value, to point at: of an object its first key, of a list its first item
    /// (the bracket, where there is one), otherwise the value.
    pub head: Span,
}

/// One document of a text. Empty ones are left out.
#[derive(Debug, Clone)]
pub struct Document {
    pub value: Value,
    root: YamlNode,
}

/// The places of a value and of what is in it.
#[derive(Debug, Clone)]
struct YamlNode {
    location: Location,
    children: Children,
}

#[derive(Debug, Clone)]
enum Children {
    None,
    List(Vec<YamlNode>),
    Object(HashMap<String, YamlNode>),
}

impl YamlNode {
    fn child(&self, token: &str) -> Option<&YamlNode> {
        match &self.children {
            Children::None => None,
            Children::List(items) => items.get(token.parse::<usize>().ok()?),
            Children::Object(fields) => fields.get(token),
        }
    }
}

impl Document {
    /// Where the document is.
    pub fn span(&self) -> Span {
        self.root.location.value
    }

    /// Where the field is that a JSON pointer (RFC 6901) leads to; the empty pointer leads to the
    /// whole document. `None` where there is no such field.
    pub fn location(&self, pointer: &str) -> Option<Location> {
        if pointer.is_empty() {
            return Some(self.root.location);
        }
        let mut node = &self.root;
        for token in pointer.strip_prefix('/')?.split('/') {
            node = node.child(&token.replace("~1", "/").replace("~0", "~"))?;
        }
        Some(node.location)
    }

    /// Where the name of a field is.
    pub fn key_span(&self, pointer: &str) -> Option<Span> {
        self.location(pointer)?.key
    }

    /// Where the value of a field is.
    pub fn value_span(&self, pointer: &str) -> Option<Span> {
        Some(self.location(pointer)?.value)
    }

    /// Where to point for an error: at the value that is wrong, at the name of a field that should
    /// not be there, and for a field that is missing at what lacks it.
    pub fn span_of(&self, error: &FieldError) -> Span {
        if let Some(location) = self.location(&error.path.pointer()) {
            let by_name = matches!(error.code, Code::Unknown) || location.head != location.value;
            return location.key.filter(|_| by_name).unwrap_or(location.head);
        }
        let location = self.nearest(&error.path);
        location.key.unwrap_or(location.head)
    }

    /// Where the deepest part of a path is that exists.
    pub fn nearest(&self, path: &FieldPath) -> Location {
        let mut path = Some(path.clone());
        while let Some(here) = path {
            if let Some(location) = self.location(&here.pointer()) {
                return location;
            }
            path = here.parent();
        }
        self.root.location
    }
}

/// Why a text is no YAML, or one that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", span.line, span.column)]
pub struct ParseError {
    /// What is wrong, without the place.
    pub message: String,
    pub span: Span,
}

/// Reads all documents of a text.
///
/// # Errors
///
/// The first thing that is wrong: syntax, a key given twice, a value that JSON cannot express, a
/// limit of this module exceeded.
pub fn parse(text: &str) -> Result<Vec<Document>, ParseError> {
    build::documents(text)
}

#[cfg(test)]
mod tests;
