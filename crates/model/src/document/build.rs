//! From the events of the parser to documents. No recursion: the input decides how deep it goes.

use std::collections::HashMap;
use std::fmt::Write as _;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StructureStyle, Tag};
use serde_json::{Map, Value};

use super::{
    Children, DEEPEST, Document, LARGEST_TEXT, Location, MOST_ALIASED, MOST_VALUES, ParseError, Span,
    YamlNode, scalar,
};

/// A finished value, with what it would cost to have it once more.
#[derive(Clone)]
struct Built {
    value: Value,
    node: YamlNode,
    /// How many values it consists of, and how many bytes of text.
    values: usize,
    bytes: usize,
    /// How many levels of lists and objects.
    height: usize,
}

/// A list or an object that is not finished.
struct Open {
    anchor: usize,
    span: Span,
    block: bool,
    values: usize,
    bytes: usize,
    height: usize,
    head: Option<Span>,
    contents: Contents,
}

enum Contents {
    List {
        values: Vec<Value>,
        nodes: Vec<YamlNode>,
    },
    Object {
        values: Map<String, Value>,
        nodes: HashMap<String, YamlNode>,
        key: Option<(String, Span)>,
        merges: Vec<Built>,
    },
}

/// How many bytes of text all values with anchors may have.
const MOST_ANCHORED: usize = 4 << 20;

struct Builder<'t> {
    text: &'t str,
    open: Vec<Open>,
    /// Copies of what aliases may refer to.
    anchors: HashMap<usize, Built>,
    /// How many bytes of text were copied for `anchors`.
    anchored: usize,
    documents: Vec<Document>,
    values: usize,
    aliased: usize,
}

pub(super) fn documents(text: &str) -> Result<Vec<Document>, ParseError> {
    if text.len() > LARGEST_TEXT {
        let span = Span { line: 1, column: 1, start: 0, end: 0 };
        let message = format!("the text has {} bytes; at most {LARGEST_TEXT} are allowed", text.len());
        return Err(ParseError { message, span });
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
    };
    let mut builder = Builder {
        text,
        open: Vec::new(),
        anchors: HashMap::new(),
        anchored: 0,
        documents: Vec::new(),
        values: 0,
        aliased: 0,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| syntax_error(text, &e))?;
        builder.event(event, place(text, &span.start, &span.end))?;
    }
    Ok(builder.documents)
}

fn place(text: &str, start: &Marker, end: &Marker) -> Span {
    let offset = |marker: &Marker| {
        let bytes = marker.byte_offset().unwrap_or_default().min(text.len());
        // A place is only ever shown, never worth a panic.
        (0..=bytes).rev().find(|b| text.is_char_boundary(*b)).unwrap_or_default()
    };
    let start_byte = offset(start);
    Span {
        line: start.line().max(1),
        column: start.col() + 1,
        start: start_byte,
        end: offset(end).max(start_byte),
    }
}

/// What to do about errors that the parser words for those who know YAML's grammar.
const ADVICE: &[(&str, &str)] = &[
    ("block mapping, did not find expected key", "is the line indented like its neighbours?"),
    ("block collection, did not find expected '-'", "is the line indented like its neighbours?"),
    ("mapping values are not allowed", "a text with `: ` in it needs quotes"),
    ("unexpected character", "a text that starts with it needs quotes"),
];

fn syntax_error(text: &str, error: &ScanError) -> ParseError {
    let span = place(text, error.marker(), error.marker());
    let info = error.info();
    let mut message = info.lines().next().unwrap_or("no valid YAML").to_owned();
    let line = text[..span.start].rsplit('\n').next().unwrap_or_default();
    let advice = if line.trim_start_matches(' ').starts_with('\t') || text[span.start..].starts_with('\t') {
        "YAML is indented with spaces, not with tabs"
    } else {
        ADVICE.iter().find(|(part, _)| message.contains(part)).map_or("", |(_, advice)| advice)
    };
    if !advice.is_empty() {
        let _ = write!(message, " ({advice})");
    }
    ParseError { message, span }
}

fn error<T>(span: Span, message: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError { message: message.into(), span })
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ParseError> {
        match event {
            Event::DocumentEnd => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar_value(&text, style, tag.as_deref(), span)?;
                let key = self.expects_key().then(|| text.into_owned());
                self.leaf(value, key, style == ScalarStyle::Plain, anchor, span)?;
            }
            Event::Alias(id) => self.alias(id, span)?,
            Event::SequenceStart(style, anchor, tag) => {
                check_tag(tag.as_deref(), "seq", span)?;
                let contents = Contents::List { values: Vec::new(), nodes: Vec::new() };
                self.start(style, anchor, span, contents)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                check_tag(tag.as_deref(), "map", span)?;
                let contents = Contents::Object {
                    values: Map::new(),
                    nodes: HashMap::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.start(style, anchor, span, contents)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::UnresolvedAlias(name) => {
                return error(span, format!("there is no anchor `&{name}` before this"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the next value is the key of an object.
    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { contents: Contents::Object { key: None, .. }, .. }))
    }

    fn leaf(
        &mut self,
        value: Value,
        key: Option<String>,
        plain: bool,
        anchor: usize,
        span: Span,
    ) -> Result<(), ParseError> {
        let bytes = value.as_str().map_or(0, str::len);
        let location = Location { key: None, value: span, head: span };
        let built = Built {
            value,
            node: YamlNode { location, children: Children::None },
            values: 1,
            bytes,
            height: 0,
        };
        if anchor != 0 {
            // A key that is referred to is the text that it was written as.
            let mut anchored = built.clone();
            if let Some(key) = &key {
                anchored.value = Value::String(key.clone());
                anchored.bytes = key.len();
            }
            self.anchor(anchor, anchored, span)?;
        }
        self.count(1, span)?;
        match key {
            Some(key) => self.key(key, plain, span),
            None => self.add(built),
        }
    }

    /// Keeps a copy for aliases; values in values with anchors are copied again and again.
    fn anchor(&mut self, anchor: usize, built: Built, span: Span) -> Result<(), ParseError> {
        self.count(built.values, span)?;
        self.anchored = self.anchored.saturating_add(built.bytes);
        if self.anchored > MOST_ANCHORED {
            return error(span, format!("values with anchors have more than {MOST_ANCHORED} bytes of text"));
        }
        self.anchors.insert(anchor, built);
        Ok(())
    }

    /// The key of the next field.
    fn key(&mut self, name: String, plain: bool, span: Span) -> Result<(), ParseError> {
        let Some(Open { contents: Contents::Object { values, nodes, key, .. }, head, block, .. }) =
            self.open.last_mut()
        else {
            return Ok(());
        };
        if *block && head.is_none() {
            *head = Some(span);
        }
        // (A merge key may be there several times.)
        if values.contains_key(&name) && !(plain && name == MERGE) {
            let first = nodes.get(&name).and_then(|n| n.location.key).map_or(0, |k| k.line);
            return error(span, format!("`{name}` is given twice here; the first time in line {first}"));
        }
        *key = Some((name, span));
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), ParseError> {
        let Some(built) = self.anchors.get(&id) else {
            return error(span, "the alias refers to the value that it is in");
        };
        if self.expects_key() {
            let Value::String(name) = &built.value else {
                return error(span, "a key must be a text");
            };
            let name = name.clone();
            self.aliased = self.aliased.saturating_add(name.len());
            return self.key(name, false, span);
        }
        // Before anything is copied.
        self.aliased = self.aliased.saturating_add(built.values).saturating_add(built.bytes);
        if self.aliased > MOST_ALIASED {
            let message = format!(
                "aliases make the document grow by more than {MOST_ALIASED} values and bytes: write it out"
            );
            return error(span, message);
        }
        if self.open.len() + built.height > DEEPEST {
            return error(span, format!("nested deeper than {DEEPEST} levels"));
        }
        let values = built.values;
        let mut built = built.clone();
        built.node.location = Location { key: None, value: span, head: span };
        self.count(values, span)?;
        self.add(built)
    }

    fn start(
        &mut self,
        style: StructureStyle,
        anchor: usize,
        span: Span,
        contents: Contents,
    ) -> Result<(), ParseError> {
        if self.expects_key() {
            return error(span, "a key must be a text, not a list or an object");
        }
        if self.open.len() >= DEEPEST {
            return error(span, format!("nested deeper than {DEEPEST} levels"));
        }
        self.count(1, span)?;
        let block = style == StructureStyle::Block;
        self.open.push(Open {
            anchor,
            span,
            block,
            values: 1,
            bytes: 0,
            height: 0,
            head: (!block).then_some(span),
            contents,
        });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), ParseError> {
        let Some(mut open) = self.open.pop() else { return Ok(()) };
        if !open.block {
            // The bracket that closes it; a block ends with the last value in it.
            open.span.end = end.end.max(open.span.end);
        }
        let (value, children) = match open.contents {
            Contents::List { values, nodes } => (Value::Array(values), Children::List(nodes)),
            Contents::Object { mut values, mut nodes, merges, .. } => {
                for merged in merges {
                    merge(merged, &mut values, &mut nodes);
                }
                (Value::Object(values), Children::Object(nodes))
            }
        };
        let location = Location { key: None, value: open.span, head: open.head.unwrap_or(open.span) };
        let built = Built {
            value,
            node: YamlNode { location, children },
            values: open.values,
            bytes: open.bytes,
            height: open.height + 1,
        };
        if open.anchor != 0 {
            self.anchor(open.anchor, built.clone(), end)?;
        }
        self.add(built)
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, mut built: Built) -> Result<(), ParseError> {
        let Some(open) = self.open.last_mut() else {
            if !built.value.is_null() {
                self.documents.push(Document { value: built.value, root: built.node });
            }
            return Ok(());
        };
        let span = built.node.location.value;
        open.values = open.values.saturating_add(built.values);
        open.bytes = open.bytes.saturating_add(built.bytes);
        open.height = open.height.max(built.height);
        if open.block {
            open.span.end = open.span.end.max(span.end);
        }
        match &mut open.contents {
            Contents::List { values, nodes } => {
                if open.block && open.head.is_none() {
                    open.head = Some(built.node.location.head);
                }
                values.push(built.value);
                nodes.push(built.node);
            }
            Contents::Object { values, nodes, key, merges } => {
                let Some((name, key_span)) = key.take() else { return Ok(()) };
                open.bytes = open.bytes.saturating_add(name.len());
                if name == MERGE && self.text[key_span.range()].trim() == MERGE {
                    return merge_source(built, merges, key_span);
                }
                built.node.location.key = Some(key_span);
                values.insert(name.clone(), built.value);
                nodes.insert(name, built.node);
            }
        }
        Ok(())
    }

    fn count(&mut self, values: usize, span: Span) -> Result<(), ParseError> {
        self.values = self.values.saturating_add(values);
        if self.values > MOST_VALUES {
            return error(span, format!("the text has more than {MOST_VALUES} values"));
        }
        Ok(())
    }
}

/// The key by which an object takes over the fields of others.
const MERGE: &str = "<<";

/// Remembers what to merge: an object, or a list of objects, where the first wins.
fn merge_source(built: Built, merges: &mut Vec<Built>, key: Span) -> Result<(), ParseError> {
    let refused = || error(key, "`<<` merges objects: expected an alias of an object, or a list of them");
    match (built.value, built.node.children) {
        (value @ Value::Object(_), children) => {
            let node = YamlNode { location: built.node.location, children };
            merges.push(Built { value, node, values: 0, bytes: 0, height: 0 });
        }
        (Value::Array(values), Children::List(nodes)) if values.iter().all(Value::is_object) => {
            let built = values.into_iter().zip(nodes);
            merges.extend(built.map(|(value, node)| Built { value, node, values: 0, bytes: 0, height: 0 }));
        }
        _ => return refused(),
    }
    Ok(())
}

fn merge(merged: Built, values: &mut Map<String, Value>, nodes: &mut HashMap<String, YamlNode>) {
    let (Value::Object(more), Children::Object(mut places)) = (merged.value, merged.node.children) else {
        return;
    };
    for (name, value) in more {
        if !values.contains_key(&name) {
            if let Some(node) = places.remove(&name) {
                nodes.insert(name.clone(), node);
            }
            values.insert(name, value);
        }
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, ParseError> {
    let result = match tag {
        None if style == ScalarStyle::Plain => scalar::plain(text),
        None => Ok(Value::String(text.to_owned())),
        // `!` alone says: not by its form.
        Some(tag) if tag.parts() == ("", "!") || tag.parts() == ("!", "") => {
            Ok(Value::String(text.to_owned()))
        }
        Some(tag) => match tag.core_suffix() {
            Some(suffix) => scalar::tagged(text, suffix),
            None => Err(unknown_tag(tag)),
        },
    };
    result.or_else(|message| error(span, message))
}

fn check_tag(tag: Option<&Tag>, expected: &str, span: Span) -> Result<(), ParseError> {
    match tag {
        Some(tag)
            if tag.core_suffix() != Some(expected)
                && tag.parts() != ("", "!")
                && tag.parts() != ("!", "") =>
        {
            error(span, unknown_tag(tag))
        }
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag) -> String {
    format!("the tag `{}` is not supported here; remove it", tag.original())
}
