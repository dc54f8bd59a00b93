//! Where a body ends (RFC 9112, sections 6 and 7.1), in both directions.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::budget::cost;
use crate::http::spelling::Spelling;
use crate::http::trailers::may_trail;
use crate::http::{FIELD_LIMIT, HEADER_LIMIT};
use crate::http2::hpack::ENTRY_OVERHEAD;
use crate::progress::Stall;

/// A chunk's size with its extensions.
const CHUNK_LINE: usize = 4 << 10;
/// Extensions of all chunks of a body. Nobody uses them, and each costs whoever skips them.
const EXTENSIONS: u32 = 16 << 10;
/// A trailer section is more than [`HEADER_LIMIT`], or has more fields than [`FIELD_LIMIT`].
pub(crate) const TRAILERS_TOO_LARGE: Malformed = Malformed("the trailer section of a body is too large");

/// What a peer did wrong. The text is for whoever looks for the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// How a received body is delimited (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Takes a body out of the bytes of a connection.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// Trailers are to say how they are written.
    spelled: bool,
}

#[derive(Debug)]
enum State {
    /// So much is to come.
    Length(u64),
    UntilClose,
    /// The next line says how large the next chunk is. `extensions`: bytes of those before.
    Size {
        extensions: u32,
    },
    Chunk {
        left: u64,
        extensions: u32,
    },
    /// The line break after a chunk.
    ChunkEnd {
        extensions: u32,
    },
    Trailers(Box<Trailers>),
    Over,
}

#[derive(Debug, Default)]
struct Trailers {
    fields: HeaderMap,
    /// The names of those, as they are written, where that is wanted.
    names: Vec<Bytes>,
    /// What came, with what is not passed on, as a head's fields are counted.
    bytes: usize,
    count: usize,
}

/// What a decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is over.
    End,
    /// Nothing yet: more must be read.
    More,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { extensions: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, spelled: false }
    }

    /// Trailers say how they are written from now on, in a field of the mesh's own.
    pub fn keep_letters(&mut self) {
        self.spelled = true;
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// How much is left, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Over => Some(0),
            _ => None,
        }
    }

    /// What its sender has begun and is to go on with, with a mark of how far it is; `buffer` is what came and
    /// was not taken. `None`: the body may rest where it is.
    pub fn begun(&self, buffer: &[u8]) -> Option<(Stall, u64)> {
        match self.state {
            State::Length(left) | State::Chunk { left, .. } => Some((Stall::Body, left)),
            // Half a line. Some send the end of a chunk with the beginning of the next.
            State::Size { .. } | State::ChunkEnd { .. } if !buffer.is_empty() => {
                Some((Stall::Body, u64::MAX))
            }
            State::Trailers(_) => Some((Stall::Head, u64::MAX - 1)),
            State::Size { .. } | State::ChunkEnd { .. } | State::UntilClose | State::Over => None,
        }
    }

    /// How much memory the trailers take that have come so far, while they do.
    pub fn trailers_held(&self) -> Option<usize> {
        match &self.state {
            State::Trailers(trailers) => Some(trailers.bytes + trailers.fields.len() * cost::FIELD),
            _ => None,
        }
    }

    /// The connection has ended. `false`: the body has not.
    pub fn finish(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Over;
        }
        self.is_over()
    }

    /// Takes the next part of the body off `buffer`.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match &mut self.state {
                State::Over => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::More),
                State::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::Over;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Size { extensions } => {
                    let Some(length) = line(buffer, CHUNK_LINE)? else { return Ok(Decoded::More) };
                    let (size, extended) = chunk_size(&buffer[..length])?;
                    let extensions = *extensions + extended;
                    if extensions > EXTENSIONS {
                        return Err(Malformed("a chunked body has too many chunk extensions"));
                    }
                    buffer.advance(length + 2);
                    self.state = match size {
                        0 => State::Trailers(Box::default()),
                        left => State::Chunk { left, extensions },
                    };
                }
                State::Chunk { left, extensions } => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::ChunkEnd { extensions: *extensions };
                        // The last chunk comes with its end as a rule, and whoever knows that can pass
                        // both on together.
                        if buffer.starts_with(b"\r\n0\r\n\r\n") {
                            buffer.advance(7);
                            self.state = State::Over;
                        }
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd { extensions } => {
                    if buffer.len() < 2 && buffer[0] == b'\r' {
                        return Ok(Decoded::More);
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(Malformed("a chunk is longer than its size says"));
                    }
                    buffer.advance(2);
                    self.state = State::Size { extensions: *extensions };
                }
                State::Trailers(trailers) => {
                    let found = line(buffer, HEADER_LIMIT).map_err(|bad| match buffer.len() {
                        0..=HEADER_LIMIT => bad,
                        _ => TRAILERS_TOO_LARGE,
                    });
                    let Some(length) = found? else { return Ok(Decoded::More) };
                    if length == 0 {
                        buffer.advance(2);
                        let mut fields = std::mem::take(&mut trailers.fields);
                        let names = trailers.names.iter().map(|name| &**name);
                        if !trailers.names.is_empty()
                            && let Some(spelling) = Spelling::of(names, b"")
                        {
                            fields.extend([spelling.field()]);
                        }
                        self.state = State::Over;
                        return Ok(if fields.is_empty() { Decoded::End } else { Decoded::Trailers(fields) });
                    }
                    let (name, value) = field(&buffer[..length])?;
                    trailers.bytes += name.as_str().len() + value.len() + ENTRY_OVERHEAD;
                    trailers.count += 1;
                    if trailers.bytes > HEADER_LIMIT || trailers.count > FIELD_LIMIT {
                        return Err(TRAILERS_TOO_LARGE);
                    }
                    if may_trail(&name) {
                        if self.spelled {
                            let name = &buffer[..name.as_str().len()];
                            trailers.names.push(Bytes::copy_from_slice(name));
                        }
                        trailers.fields.append(name, value);
                    }
                    buffer.advance(length + 2);
                }
            }
        }
    }
}

/// Where the data of a chunked body is, if `bytes` begin with all of it in one chunk, as small ones come, and
/// where it ends.
pub(super) fn single_chunk(bytes: &[u8]) -> Option<(Range<usize>, usize)> {
    let length = line(bytes, CHUNK_LINE).ok()??;
    let (size, 0) = chunk_size(&bytes[..length]).ok()? else { return None };
    let start = length + 2;
    let data = start..start.checked_add(usize::try_from(size).ok()?)?;
    let end: &[u8] = if size == 0 { b"\r\n" } else { b"\r\n0\r\n\r\n" };
    bytes.get(data.end..)?.starts_with(end).then_some((data.clone(), data.end + end.len()))
}

/// Takes what is there of `left` bytes.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let count = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= count as u64;
    buffer.split_to(count).freeze()
}

/// The length of the line that `buffer` begins with, without its end. `None`: it has not come whole.
fn line(buffer: &[u8], limit: usize) -> Result<Option<usize>, Malformed> {
    let within = &buffer[..buffer.len().min(limit + 2)];
    match within.iter().position(|&byte| byte == b'\n') {
        Some(end) if end > 0 && within[end - 1] == b'\r' && !within[..end - 1].contains(&b'\r') => {
            Ok(Some(end - 1))
        }
        Some(_) => Err(Malformed("a line of a chunked body does not end with CR and LF")),
        None if buffer.len() > limit => Err(Malformed("a line of a chunked body is too long")),
        None => Ok(None),
    }
}

/// The size that a chunk's first line says, and how many bytes of extensions follow it.
fn chunk_size(line: &[u8]) -> Result<(u64, u32), Malformed> {
    const BAD: Malformed = Malformed("a chunk has no valid size");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Sixteen digits fit.
    if digits == 0 || digits > 16 {
        return Err(BAD);
    }
    let size = line[..digits].iter().fold(0, |size, &digit| size << 4 | u64::from(hex(digit)));
    let rest = line[digits..].trim_ascii_start();
    let controls = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    match rest.first() {
        None => Ok((size, 0)),
        Some(b';') if !rest.iter().any(controls) => Ok((size, rest.len() as u32)),
        Some(_) => Err(BAD),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn field(line: &[u8]) -> Result<(HeaderName, HeaderValue), Malformed> {
    const BAD: Malformed = Malformed("a trailer field is not valid");
    let colon = line.iter().position(|&byte| byte == b':').ok_or(BAD)?;
    // A line that goes on with the one before begins with a space, which is in no name.
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| BAD)?;
    // `http` takes quotes in a name, which no token has (RFC 9110, section 5.6.2).
    if line[..colon].contains(&b'"') {
        return Err(BAD);
    }
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| BAD)?;
    Ok((name, value))
}
