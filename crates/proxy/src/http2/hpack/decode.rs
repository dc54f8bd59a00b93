//! Blocks to fields (RFC 7541, 3 and 6).

use bytes::Bytes;
use http::header::COOKIE;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::dynamic_table::{DynamicTable, Entry};
use super::integer::Reader;
use super::{CompressionError, DEFAULT_TABLE_SIZE, DecodeError, ENTRY_OVERHEAD, Field, MalformedField};
use super::{huffman, interned, static_table};
use crate::uri::{self, Path};

/// What a peer's blocks refer to, and what decodes them.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// What a size update may set.
    limit: usize,
    /// What was Huffman-coded, as it is decoded: reused, so that only what becomes a field is copied.
    text: Vec<u8>,
    /// Names that come often, besides those that are common everywhere.
    names: &'static [HeaderName],
}

/// How much a list of fields may be. The crumbs of a cookie (RFC 9113, 8.2.3) count as the one field that
/// they are joined to.
#[derive(Debug, Clone, Copy)]
pub struct ListLimit {
    /// Each field's name, value and 32 bytes (RFC 9113, 6.5.2).
    pub bytes: usize,
    /// Fields that are no pseudo-headers.
    pub fields: usize,
}

/// How much of the buffer for Huffman-coded strings stays from one block to the next.
const KEPT_TEXT: usize = 1 << 10;

impl Decoder {
    /// `table_size`: the SETTINGS_HEADER_TABLE_SIZE that we announce, the default or more.
    pub fn new(table_size: usize) -> Self {
        Self { table: DynamicTable::new(DEFAULT_TABLE_SIZE), limit: table_size, text: Vec::new(), names: &[] }
    }

    /// With names that come often, besides those that are common everywhere.
    pub fn knowing(self, names: &'static [HeaderName]) -> Self {
        Self { names, ..self }
    }

    /// Decodes one complete block and calls `take` for each field, in order.
    ///
    /// What exceeds the limit, and what follows a malformed field or an error of `take`, is decoded but not
    /// handed over.
    pub fn decode(
        &mut self,
        block: &[u8],
        limit: ListLimit,
        mut take: impl FnMut(Field) -> Result<(), MalformedField>,
    ) -> Result<(), DecodeError> {
        let mut reader = Reader::new(block);
        self.size_updates(&mut reader)?;
        let mut list = List { room: limit.bytes, fields: limit.fields, cookie: false, verdict: Ok(()) };
        while let Some(first) = reader.peek() {
            if first & 0x80 != 0 {
                // An indexed field (RFC 7541, 6.1). Nothing that holds one is passed on the way to
                // `take`: moving it costs more than finding it.
                match self.indexed(&mut reader)? {
                    (size, Ok(field)) => {
                        if list.admits(size, field) {
                            list.verdict = take(field.clone()).map_err(DecodeError::from);
                        }
                    }
                    (size, Err(malformed)) => list.refuse(size, malformed),
                }
            } else if first & 0x40 != 0 {
                let mut entry = self.literal(&mut reader, 6)?;
                if let Ok(Field::Header(_, value)) = &mut entry.field {
                    interned::intern(value);
                }
                match &entry.field {
                    Ok(field) => {
                        if list.admits(entry.size, field) {
                            list.verdict = take(field.clone()).map_err(DecodeError::from);
                        }
                    }
                    Err((malformed, _)) => list.refuse(entry.size, *malformed),
                }
                self.table.insert(entry);
            } else if first & 0x20 != 0 {
                return Err(CompressionError::MisplacedSizeUpdate.into());
            } else {
                let Entry { size, field } = self.literal(&mut reader, 4)?;
                match field {
                    Ok(mut field) => {
                        if list.admits(size, &field) {
                            if first & 0x10 != 0
                                && let Field::Header(_, value) = &mut field
                            {
                                value.set_sensitive(true);
                            }
                            list.verdict = take(field).map_err(DecodeError::from);
                        }
                    }
                    Err((malformed, _)) => list.refuse(size, malformed),
                }
            }
        }
        if self.text.capacity() > KEPT_TEXT {
            self.text = Vec::new();
        }
        list.verdict
    }

    /// They stand at the start of a block only (RFC 7541, 4.2).
    fn size_updates(&mut self, reader: &mut Reader) -> Result<(), CompressionError> {
        while let Some(0x20..0x40) = reader.peek() {
            let size = reader.integer(5)?;
            if size > self.limit {
                return Err(CompressionError::TableTooLarge);
            }
            self.table.set_max(size);
        }
        Ok(())
    }

    /// The size and the field of an index.
    #[inline]
    fn indexed(
        &self,
        reader: &mut Reader,
    ) -> Result<(usize, Result<&Field, MalformedField>), CompressionError> {
        let index = reader.integer(7)?;
        if let Some((field, size)) = static_table::get(index) {
            return Ok((size, Ok(field)));
        }
        if index == AUTHORITY {
            return Ok((":authority".len() + ENTRY_OVERHEAD, Err(MalformedField::Authority)));
        }
        let entry = self.entry(index)?;
        Ok((entry.size, entry.field.as_ref().map_err(|(malformed, _)| *malformed)))
    }

    /// A literal field, the index of whose name has that many bits (RFC 7541, 6.2).
    fn literal(&mut self, reader: &mut Reader, prefix: u32) -> Result<Entry, CompressionError> {
        let index = reader.integer(prefix)?;
        let name = self.name(index, reader)?;
        let value = string(reader, &mut self.text)?;
        Ok(Entry { size: name.length() + value.len() + ENTRY_OVERHEAD, field: build(name, value) })
    }

    /// The name of a literal: by index, or spelled out where that is zero.
    fn name(&mut self, index: usize, reader: &mut Reader) -> Result<Name, CompressionError> {
        if index == 0 {
            let more = self.names;
            return string(reader, &mut self.text).map(|name| Name::parse(name, more));
        }
        if let Some((field, _)) = static_table::get(index) {
            return Ok(Name::of(field));
        }
        if index == AUTHORITY {
            return Ok(Name::Authority);
        }
        Ok(match &self.entry(index)?.field {
            Ok(field) => Name::of(field),
            Err((_, name)) => name.clone(),
        })
    }

    /// An entry of the dynamic table, whose indices follow those of the static one.
    #[inline]
    fn entry(&self, index: usize) -> Result<&Entry, CompressionError> {
        let index = index.checked_sub(static_table::LENGTH + 1).ok_or(CompressionError::InvalidIndex)?;
        self.table.get(index).ok_or(CompressionError::InvalidIndex)
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &DynamicTable {
        &self.table
    }
}

/// The static table's first entry, whose value is empty and so no authority.
const AUTHORITY: usize = 1;

/// What a block has come to so far.
struct List {
    /// What is left of the limit.
    room: usize,
    fields: usize,
    /// A cookie is among them.
    cookie: bool,
    verdict: Result<(), DecodeError>,
}

/// What a crumb of a cookie adds to those before it, less than what a field of its own would: "; " in place of
/// a name and the overhead.
const CRUMB: usize = "cookie".len() + ENTRY_OVERHEAD - "; ".len();

impl List {
    /// Whether a field of that size is to be handed over.
    #[inline]
    fn admits(&mut self, mut size: usize, field: &Field) -> bool {
        if self.verdict.is_err() {
            return false;
        }
        if let Field::Header(name, _) = field {
            if *name == COOKIE && std::mem::replace(&mut self.cookie, true) {
                size -= CRUMB;
            } else {
                return self.takes(size, 1);
            }
        }
        self.takes(size, 0)
    }

    #[inline]
    fn takes(&mut self, size: usize, fields: usize) -> bool {
        match (self.room.checked_sub(size), self.fields.checked_sub(fields)) {
            (Some(room), Some(fields)) => (self.room, self.fields) = (room, fields),
            _ => self.verdict = Err(DecodeError::Oversized),
        }
        self.verdict.is_ok()
    }

    #[cold]
    fn refuse(&mut self, size: usize, malformed: MalformedField) {
        if self.verdict.is_ok() && self.takes(size, 1) {
            self.verdict = Err(malformed.into());
        }
    }
}

/// A string (RFC 7541, 5.2): a piece of the block, or of `text` if it was Huffman-coded.
fn string<'t, 'b: 't>(reader: &mut Reader<'b>, text: &'t mut Vec<u8>) -> Result<&'t [u8], CompressionError> {
    let coded = reader.peek().is_some_and(|first| first & 0x80 != 0);
    let length = reader.integer(7)?;
    let bytes = reader.bytes(length)?;
    if !coded {
        return Ok(bytes);
    }
    text.clear();
    huffman::decode(bytes, text)?;
    Ok(text)
}

/// A field's name, as far as its value's type depends on it.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Header(HeaderName),
    /// With its length: it counts in the table as any other.
    Malformed(MalformedField, usize),
}

impl Name {
    fn parse(name: &[u8], more: &'static [HeaderName]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            [b':', ..] => Self::Malformed(MalformedField::UnknownPseudo, name.len()),
            _ => match interned::name(name, more).or_else(|| token(name)) {
                Some(name) => Self::Header(name),
                None => Self::Malformed(MalformedField::Name, name.len()),
            },
        }
    }

    fn of(field: &Field) -> Self {
        match field {
            Field::Method(_) => Self::Method,
            Field::Scheme(_) => Self::Scheme,
            Field::Authority(_) => Self::Authority,
            Field::Path(_) => Self::Path,
            Field::Protocol(_) => Self::Protocol,
            Field::Status(_) => Self::Status,
            Field::Header(name, _) => Self::Header(name.clone()),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Method => ":method".len(),
            Self::Scheme => ":scheme".len(),
            Self::Authority => ":authority".len(),
            Self::Path => ":path".len(),
            Self::Protocol => ":protocol".len(),
            Self::Status => ":status".len(),
            Self::Header(name) => name.as_str().len(),
            Self::Malformed(_, length) => *length,
        }
    }
}

/// The field of a name and a value. The name comes back if there is none, for the table to keep.
fn build(name: Name, value: &[u8]) -> Result<Field, (MalformedField, Name)> {
    let field = match name {
        Name::Method => Method::from_bytes(value).ok().map(Field::Method),
        Name::Scheme => scheme(value).map(Field::Scheme),
        Name::Authority => {
            return match uri::authority(value) {
                Some(authority) => Ok(Field::Authority(authority)),
                None => Err((MalformedField::Authority, name)),
            };
        }
        Name::Path => Path::parse(value).map(Field::Path),
        Name::Protocol => protocol(value).map(Field::Protocol),
        Name::Status => status(value).map(Field::Status),
        Name::Header(name) => {
            return match header_value(value) {
                Some(value) => Ok(Field::Header(name, value)),
                None => Err((MalformedField::Value, Name::Header(name))),
            };
        }
        Name::Malformed(malformed, _) => return Err((malformed, name)),
    };
    field.ok_or((MalformedField::PseudoValue, name))
}

/// Without white space around it (RFC 9113, 8.2.1).
fn header_value(value: &[u8]) -> Option<HeaderValue> {
    if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
        return None;
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value)).ok()
}

/// A name that is not common. `http` takes quotes in it, which no token has (RFC 9110, section 5.6.2).
fn token(name: &[u8]) -> Option<HeaderName> {
    HeaderName::from_lowercase(name).ok().filter(|_| !name.contains(&b'"'))
}

fn scheme(value: &[u8]) -> Option<Scheme> {
    match value {
        b"http" => Some(Scheme::HTTP),
        b"https" => Some(Scheme::HTTPS),
        b"" => None,
        // RFC 3986, section 3.1.
        _ => Scheme::try_from(value).ok().filter(|_| value.first().is_some_and(u8::is_ascii_alphabetic)),
    }
}

fn protocol(value: &[u8]) -> Option<HeaderValue> {
    let protocol = header_value(value)?;
    (!protocol.is_empty() && protocol.to_str().is_ok()).then_some(protocol)
}

fn status(value: &[u8]) -> Option<StatusCode> {
    // Longer values are refused here: `from_bytes` takes three digits only.
    StatusCode::from_bytes(value).ok()
}
