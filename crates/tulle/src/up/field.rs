//! Reads the fields of `tulle.yaml`, and collects all that is wrong with them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tulle_model::document::{self, Document};
use tulle_model::validate::FieldPath;
use tulle_model::validate::suggest::did_you_mean;

use super::protocol;
use crate::diagnostic::{Diagnostic, Diagnostics, Source};
use crate::units::parse_duration;

/// A document that is read, and what was found wrong with it so far.
pub struct Reader<'a> {
    pub source: &'a Arc<Source>,
    pub document: &'a Document,
    pub diagnostics: &'a RefCell<Diagnostics>,
}

/// A value in the document, and where.
#[derive(Clone)]
pub struct Field<'a> {
    pub reader: &'a Reader<'a>,
    pub path: FieldPath,
    pub value: &'a Value,
}

impl<'a> Field<'a> {
    pub fn root(reader: &'a Reader<'a>) -> Self {
        Self { reader, path: FieldPath::root(), value: &reader.document.value }
    }

    fn report(&self, message: &str, label: &str, at_name: bool) {
        // What lacks the value of a variable is wrong for that alone, and it was said.
        let lacks = self.put_in().is_some_and(|text| text.contains("${"));
        if lacks && !at_name && !self.reader.diagnostics.borrow().is_empty() {
            return;
        }
        let location = self.reader.document.nearest(&self.path);
        let span = location.key.filter(|_| at_name).unwrap_or(location.head);
        let title = match self.path.segments() {
            [] => message.to_owned(),
            _ => format!("{}: {message}", self.path),
        };
        let diagnostic = Diagnostic::new(title).at(self.reader.source, span.range(), label);
        self.reader.diagnostics.borrow_mut().push(diagnostic);
    }

    /// The value is wrong.
    pub fn wrong(&self, message: &str, expected: &str) {
        self.report(message, expected, false);
    }

    /// There is something wrong with the field as such.
    pub fn wrong_field(&self, message: &str, expected: &str) {
        self.report(message, expected, true);
    }

    /// There is one of that name, in this file or in another one.
    pub fn given_twice(&self, first: &Field<'_>) {
        let line = first.reader.document.nearest(&first.path).key.map_or(1, |key| key.line);
        let message =
            format!("it is described twice; the first one is at {}:{line}", first.reader.source.name);
        self.wrong_field(&message, "another name is expected");
    }

    fn wrong_type(&self, expected: &str) {
        self.wrong_type_such_as(expected, &format!("{expected} is expected"));
    }

    fn wrong_type_such_as(&self, expected: &str, label: &str) {
        let found = match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.wrong(&format!("it is {found}, {expected} is expected"), label);
    }

    /// A field of the object here; null counts as absent.
    pub fn get(&self, name: &'static str) -> Option<Field<'a>> {
        let value = self.value.get(name).filter(|v| !v.is_null())?;
        Some(Field { reader: self.reader, path: self.path.field(name), value })
    }

    /// Whether it is an object; says which of its fields are not among the known ones. `foreign` has
    /// fields of other tools, and what to say to who writes them.
    pub fn is_object_of(&self, known: &[&'static str], foreign: &[(&str, &str)], such_as: &str) -> bool {
        let Some(object) = self.value.as_object() else {
            self.wrong_type_such_as("an object", &format!("such as {such_as}"));
            return false;
        };
        // Those with `x-` are nobody's: they hold what anchors give to others.
        let is_unknown = |name: &&String| !known.contains(&name.as_str()) && !name.starts_with("x-");
        for name in object.keys().filter(is_unknown) {
            let hint = match foreign.iter().find(|(n, _)| n == name) {
                Some((_, hint)) => format!("; {hint}"),
                None => did_you_mean(name, known.iter().copied()),
            };
            let field = Field { path: self.path.field(name.clone()), ..self.clone() };
            let expected = format!("expected one of {}", known.join(", "));
            field.wrong_field(&format!("there is no such field{hint}"), &expected);
        }
        true
    }

    /// The keys and values of an object that is a map.
    pub fn entries(&self, such_as: &str) -> Vec<(&'a str, Field<'a>)> {
        let Some(object) = self.value.as_object() else {
            self.wrong_type_such_as("an object", &format!("such as {such_as}"));
            return Vec::new();
        };
        let entry = |(key, value): (&'a String, &'a Value)| {
            let path = self.path.field(key.clone());
            (key.as_str(), Field { reader: self.reader, path, value })
        };
        let mut entries: Vec<_> = object.iter().map(entry).collect();
        // As the file has them.
        entries.sort_by_key(|(_, field)| self.reader.document.nearest(&field.path).value.start);
        entries
    }

    /// The items of a list.
    pub fn items(&self, such_as: &str) -> Vec<Field<'a>> {
        let Some(items) = self.value.as_array() else {
            self.wrong_type_such_as("a list", &format!("such as {such_as}"));
            return Vec::new();
        };
        let item = |(index, value)| Field { reader: self.reader, path: self.path.index(index), value };
        items.iter().enumerate().map(item).collect()
    }

    pub fn text(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.wrong_type("a text");
                None
            }
        }
    }

    /// A text, or what YAML reads as a number or a truth value and is meant as a text: as it is written, so that
    /// `1.50`, `022` and `0x10` stay what they are.
    pub fn scalar(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => {
                let written = self.written();
                if written.is_none() {
                    let message =
                        "it stands for a number or a truth value, which may be written in several ways";
                    self.wrong(message, "write the text itself here, in quotes");
                }
                written
            }
            _ => {
                self.wrong_type("a text");
                None
            }
        }
    }

    /// The text that YAML reads as the value; `None` where an alias stands for it and its anchor cannot be told.
    fn written(&self) -> Option<String> {
        let text = &self.reader.source.text;
        let place = self.reader.document.location(&self.path.pointer())?.value;
        let node = text.get(place.range())?.trim();
        match node.strip_prefix('*') {
            Some(anchor) => anchored(&text[..place.start], anchor, self.value),
            None => plain(node),
        }
    }

    /// What one of some words stands for.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let found = self.value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let (last, others) = known.split_last()?;
            let expected = format!("{} or {last} is expected", others.join(", "));
            let written = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
            let hint = did_you_mean(&written, words.iter().map(|(word, _)| *word));
            self.wrong(&format!("`{written}` is not known here{hint}"), &expected);
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// The text here, where the value of a variable was put into it: no quotes were written around a number then.
    fn put_in(&self) -> Option<&'a str> {
        let text = self.value.as_str()?;
        let place = self.reader.document.location(&self.path.pointer())?.value;
        let written = self.reader.source.text.get(place.range())?;
        (written.contains("${") || written.starts_with('*')).then_some(text)
    }

    pub fn number(&self, least: u64, most: u64) -> Option<u64> {
        let expected = format!("a whole number from {least} to {most} is expected");
        if let Some(number) = self.put_in().and_then(|text| text.parse::<u64>().ok()) {
            if !(least..=most).contains(&number) {
                self.wrong(&format!("{number} is not allowed, {expected}"), &expected);
                return None;
            }
            return Some(number);
        }
        if !self.value.is_number() {
            let quoted = self.value.as_str().filter(|text| text.parse::<u64>().is_ok());
            let label = quoted.map_or_else(|| expected.clone(), |number| format!("without quotes: {number}"));
            self.wrong_type_such_as(&format!("a whole number from {least} to {most}"), &label);
            return None;
        }
        let number = self.value.as_u64().filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.wrong(&format!("{} is not allowed, {expected}", self.value), &expected);
        }
        number
    }

    pub fn port(&self) -> Option<u16> {
        self.number(1, 65535).and_then(|n| u16::try_from(n).ok())
    }

    /// A port, and what it speaks where that is said: `8080` or `8080/grpc`.
    pub fn port_with_protocol(&self) -> Option<(u16, Option<String>)> {
        let Some((number, protocol)) = self.value.as_str().and_then(|text| text.split_once('/')) else {
            return self.port().map(|port| (port, None));
        };
        let port = number.trim().parse::<u16>().ok().filter(|port| *port > 0);
        if port.is_none() {
            self.wrong(
                &format!("`{number}` is no port"),
                "a number from 1 to 65535 is expected before the /",
            );
        }
        let protocol = protocol.trim();
        if let Some(problem) = protocol::problem(protocol) {
            self.wrong(&problem, protocol::EXPECTED);
            return None;
        }
        Some((port?, Some(protocol.to_owned())))
    }

    /// The name of a protocol.
    pub fn protocol(&self) -> Option<String> {
        let text = self.text()?;
        if let Some(problem) = protocol::problem(&text) {
            self.wrong(&problem, protocol::EXPECTED);
            return None;
        }
        Some(text)
    }

    pub fn duration(&self) -> Option<Duration> {
        let text = self.scalar()?;
        match parse_duration(&text) {
            Ok(duration) if !duration.is_zero() => Some(duration),
            Ok(_) => {
                self.wrong("it must be more than 0", "more than 0");
                None
            }
            Err(message) => {
                self.wrong(&message, "such as 200ms, 5s or 1m");
                None
            }
        }
    }

    /// A name by the rules of DNS labels.
    pub fn label(&self) -> Option<String> {
        let text = self.text()?;
        if let Some(problem) = tulle_model::name::dns_label_problem(&text) {
            self.wrong(&format!("`{text}` is no name: it {problem}"), "a name is expected");
            return None;
        }
        Some(text)
    }
}

/// The scalar that a node consists of, without its properties, and without the quotes that a tag overrules.
fn plain(node: &str) -> Option<String> {
    let scalar = without_properties(node)?;
    match document::parse(scalar).ok()?.pop()?.value {
        Value::String(text) => Some(text),
        Value::Number(_) | Value::Bool(_) => Some(scalar.to_owned()),
        _ => None,
    }
}

/// Without the tag and the anchor that a node may begin with.
fn without_properties(node: &str) -> Option<&str> {
    let mut rest = node.trim_start();
    while rest.starts_with(['!', '&']) {
        rest = rest.split_once(char::is_whitespace)?.1.trim_start();
    }
    Some(rest)
}

/// The scalar with that anchor in the text before an alias. It may have been given several times, and what looks like
/// it may be a part of something else: all have to say the same.
fn anchored(before: &str, anchor: &str, value: &Value) -> Option<String> {
    let mut found = None;
    for after in before.split('&').skip(1).filter_map(|text| text.strip_prefix(anchor)) {
        if !after.starts_with(char::is_whitespace) {
            continue;
        }
        let node = without_properties(after)?;
        let end =
            node.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}')).unwrap_or(node.len());
        let scalar = &node[..end];
        let same = document::parse(scalar).ok()?.pop().is_some_and(|document| document.value == *value);
        if !same || found.is_some_and(|found| found != scalar) {
            return None;
        }
        found = Some(scalar);
    }
    found.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of each field of a text, or what is wrong with it.
    fn scalars(text: &str) -> Result<Vec<String>, String> {
        let source = Arc::new(Source { name: "tulle.yaml".to_owned(), text: text.to_owned() });
        let document = document::parse(text).unwrap().remove(0);
        let diagnostics = RefCell::default();
        let scalars = {
            let reader = Reader { source: &source, document: &document, diagnostics: &diagnostics };
            let entries = Field::root(&reader).entries("{a: b}");
            entries.iter().filter_map(|(_, field)| field.scalar()).collect()
        };
        diagnostics.into_inner().into_result().map_err(|failure| failure.to_string())?;
        Ok(scalars)
    }

    #[test]
    fn numbers_and_truth_values_are_passed_as_they_are_written() {
        for written in [
            "1.50",
            "3.10",
            "0x10",
            "0x1F",
            "012",
            "022",
            "0123",
            "0o17",
            "1e3",
            "12E4",
            "1.",
            ".5",
            "+5",
            "-0",
            "00",
            "8080",
            "18446744073709551616",
            "0.1000",
            "1e-7",
            "True",
            "FALSE",
            "true",
            "text",
            "1_000",
            "1.2.3",
        ] {
            for text in [
                format!("a: {written}"),
                format!("a: {written}  # as it is\nb: x"),
                format!("{{a: {written}, b: x}}"),
                format!("a: &x {written}"),
                format!("? a\n: {written}\n"),
                format!("a: '{written}'"),
                format!("a: !!str {written}"),
                format!("\u{feff}# \u{e9}\na:\n  {written}"),
                format!("a: &x {written}\nb: *x"),
                format!("a: &x {written}\nb: &y {written}\nc: *x"),
            ] {
                let read = scalars(&text).unwrap();
                assert_eq!(read[0], written, "{text}");
                let last = read.last().unwrap();
                assert!(last == written || last == "x", "{text}: {read:?}");
            }
        }
        for (text, expected) in [
            ("a: !!int 012", "012"),
            ("a: !!int '012'", "012"),
            ("a: !!float 1", "1"),
            ("a: &x !!float 1", "1"),
            ("a: !!bool \"True\"", "True"),
            ("{\"a\": 1.50}", "1.50"),
        ] {
            assert_eq!(scalars(text).as_deref(), Ok(&[expected.to_owned()][..]), "{text}");
        }
    }

    #[test]
    fn what_an_alias_stands_for_is_what_its_anchor_says_or_asked_for() {
        let common = "x: &x {a: 022}\ny: {<<: *x, b: 1.50}";
        let document = document::parse(common).unwrap().remove(0);
        let source = Arc::new(Source { name: "tulle.yaml".to_owned(), text: common.to_owned() });
        let diagnostics = RefCell::default();
        let reader = Reader { source: &source, document: &document, diagnostics: &diagnostics };
        let merged = Field::root(&reader).get("y").unwrap();
        assert_eq!(merged.get("a").unwrap().scalar().unwrap(), "022");
        assert_eq!(merged.get("b").unwrap().scalar().unwrap(), "1.50");
        for ambiguous in [
            "a: &x 022\nb: *x\nc: &x 22\nd: *x",
            "a: &x 22 # not &x 022\nb: *x",
            "a: 'the &x 022'\nc: &x 22\nb: *x",
            "a: &x !!float 1\nb: *x",
        ] {
            let said = scalars(ambiguous).unwrap_err();
            assert!(said.contains("may be written in several ways"), "{ambiguous}: {said}");
        }
    }
}
