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
/// Extensions of all chunks of a body, with the space before them. Nobody uses them, and each costs whoever skips
/// them.
const EXTENSIONS: u32 = 16 << 10;
const LINE_TOO_LONG: Malformed = Malformed("a line of a chunked body is too long");
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
pub(super) struct BodyDecoder {
    state: BodyState,
    /// Trailers are to say how they are written.
    spelled: bool,
}

#[derive(Debug)]
enum BodyState {
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

impl BodyDecoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => BodyState::Over,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Size { extensions: 0 },
            Framing::UntilClose => BodyState::UntilClose,
        };
        Self { state, spelled: false }
    }

    /// Trailers say how they are written from now on, in a field of the mesh's own.
    pub fn keep_letters(&mut self) {
        self.spelled = true;
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, BodyState::Over)
    }

    /// How much is left, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            BodyState::Length(left) => Some(left),
            BodyState::Over => Some(0),
            _ => None,
        }
    }

    /// What its sender has begun and is to go on with, with a mark of how far it is; `buffer` is what came and
    /// was not taken. `None`: the body may rest where it is.
    pub fn begun(&self, buffer: &[u8]) -> Option<(Stall, u64)> {
        match self.state {
            BodyState::Length(left) | BodyState::Chunk { left, .. } => Some((Stall::Body, left)),
            // Half a line. Some send the end of a chunk with the beginning of the next.
            BodyState::Size { .. } | BodyState::ChunkEnd { .. } if !buffer.is_empty() => {
                Some((Stall::Body, u64::MAX))
            }
            BodyState::Trailers(_) => Some((Stall::Head, u64::MAX - 1)),
            BodyState::Size { .. } | BodyState::ChunkEnd { .. } | BodyState::UntilClose | BodyState::Over => {
                None
            }
        }
    }

    /// How much memory the trailers take that have come so far, while they do.
    pub fn trailers_held(&self) -> Option<usize> {
        match &self.state {
            BodyState::Trailers(trailers) => Some(trailers.bytes + trailers.fields.len() * cost::FIELD),
            _ => None,
        }
    }

    /// The connection has ended. `false`: the body has not.
    pub fn finish(&mut self) -> bool {
        if matches!(self.state, BodyState::UntilClose) {
            self.state = BodyState::Over;
        }
        self.is_over()
    }

    /// Takes the next part of the body off `buffer`.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match &mut self.state {
                BodyState::Over => return Ok(Decoded::End),
                _ if buffer.is_empty() => return Ok(Decoded::More),
                BodyState::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                BodyState::Length(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = BodyState::Over;
                    }
                    return Ok(Decoded::Data(data));
                }
                BodyState::Size { extensions } => {
                    let Some(length) = line(buffer, CHUNK_LINE)? else { return Ok(Decoded::More) };
                    let (size, extended) = chunk_size(&buffer[..length])?;
                    let extensions = *extensions + extended;
                    if extensions > EXTENSIONS {
                        return Err(Malformed("a chunked body has too many chunk extensions"));
                    }
                    buffer.advance(length + 2);
                    self.state = match size {
                        0 => BodyState::Trailers(Box::default()),
                        left => BodyState::Chunk { left, extensions },
                    };
                }
                BodyState::Chunk { left, extensions } => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = BodyState::ChunkEnd { extensions: *extensions };
                        // The last chunk comes with its end as a rule, and whoever knows that can pass
                        // both on together.
                        if buffer.starts_with(b"\r\n0\r\n\r\n") {
                            buffer.advance(7);
                            self.state = BodyState::Over;
                        }
                    }
                    return Ok(Decoded::Data(data));
                }
                BodyState::ChunkEnd { extensions } => {
                    if buffer.len() < 2 && buffer[0] == b'\r' {
                        return Ok(Decoded::More);
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(Malformed("a chunk is longer than its size says"));
                    }
                    buffer.advance(2);
                    self.state = BodyState::Size { extensions: *extensions };
                }
                BodyState::Trailers(trailers) => {
                    let found = line(buffer, HEADER_LIMIT)
                        .map_err(|bad| if bad == LINE_TOO_LONG { TRAILERS_TOO_LARGE } else { bad });
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
                        self.state = BodyState::Over;
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

/// The length of the line that `buffer` begins with, without its end, which is `limit` at most. `None`: it has not
/// come whole.
fn line(buffer: &[u8], limit: usize) -> Result<Option<usize>, Malformed> {
    let within = &buffer[..buffer.len().min(limit + 2)];
    match within.iter().position(|&byte| byte == b'\n') {
        Some(end) if end > 0 && within[end - 1] == b'\r' && !within[..end - 1].contains(&b'\r') => {
            Ok(Some(end - 1))
        }
        Some(_) => Err(Malformed("a line of a chunked body does not end with CR and LF")),
        None if within.len() == limit + 2 => Err(LINE_TOO_LONG),
        None => Ok(None),
    }
}

/// The size that a chunk's first line says, and how many bytes of extensions follow it, with space around them.
fn chunk_size(line: &[u8]) -> Result<(u64, u32), Malformed> {
    const BAD: Malformed = Malformed("a chunk has no valid size");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Sixteen digits fit.
    if digits == 0 || digits > 16 {
        return Err(BAD);
    }
    let size = line[..digits].iter().fold(0, |size, &digit| size * 16 + u64::from(hex(digit)));
    let rest = &line[digits..];
    let space = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let controls = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    match rest.get(space) {
        None => Ok((size, rest.len() as u32)),
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
    let value = HeaderValue::from_bytes(trimmed(&line[colon + 1..])).map_err(|_| BAD)?;
    Ok((name, value))
}

/// Without the space around it (RFC 9110, section 5.6.3).
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh_headers::SPELLING;

    const ALL: [Framing; 3] = [Framing::Length(7), Framing::Chunked, Framing::UntilClose];

    /// What comes of a body that comes in `pieces`: its data, its trailers, and what is left of the bytes; `None`:
    /// more is awaited.
    type Read = Result<(Vec<u8>, HeaderMap, Option<usize>), Malformed>;

    fn read<'b>(mut decoder: BodyDecoder, pieces: impl IntoIterator<Item = &'b [u8]>) -> Read {
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer)? {
                    Decoded::Data(part) => data.extend_from_slice(&part),
                    Decoded::Trailers(fields) => trailers = fields,
                    Decoded::End => break,
                    Decoded::More => break,
                }
            }
        }
        let left = decoder.is_over().then_some(buffer.len());
        Ok((data, trailers, left))
    }

    fn chunked(text: &str) -> Read {
        read(BodyDecoder::new(Framing::Chunked), [text.as_bytes()])
    }

    /// The same, however `text` is cut in two among its last bytes and its first ones.
    fn chunked_cut(text: &str) -> Read {
        let whole = chunked(text);
        let length = text.len();
        for cut in (0..length.min(8)).chain(length.saturating_sub(8)..length) {
            let (one, two) = text.as_bytes().split_at(cut);
            assert_eq!(
                read(BodyDecoder::new(Framing::Chunked), [one, two]),
                whole,
                "{length} bytes cut at {cut}"
            );
        }
        whole
    }

    /// A decoder of which nothing more is to be had of `text`, and what it has left of it.
    fn after(framing: Framing, text: &str) -> (BodyDecoder, BytesMut) {
        let (mut decoder, mut buffer) = (BodyDecoder::new(framing), BytesMut::from(text));
        while let Ok(Decoded::Data(_) | Decoded::Trailers(_)) = decoder.decode(&mut buffer) {}
        (decoder, buffer)
    }

    #[test]
    fn where_nothing_came_more_is_awaited() {
        for framing in ALL {
            assert_eq!(
                BodyDecoder::new(framing).decode(&mut BytesMut::new()),
                Ok(Decoded::More),
                "{framing:?}"
            );
        }
        assert_eq!(BodyDecoder::new(Framing::Length(0)).decode(&mut BytesMut::from("x")), Ok(Decoded::End));
        for text in [
            "5",
            "5\r",
            "5\r\n",
            "5\r\nhe",
            "5\r\nhello",
            "5\r\nhello\r",
            "5\r\nhello\r\n",
            "0\r\n",
            "0\r\n\r",
        ] {
            let (mut decoder, mut buffer) = after(Framing::Chunked, text);
            assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::More), "{text:?}");
            assert!(!decoder.is_over() && !decoder.finish(), "{text:?}");
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        for (framing, text, data, left) in [
            (Framing::Length(5), "hello", "hello", Some(0)),
            (Framing::Length(5), "helloGET", "hello", Some(3)),
            (Framing::Length(5), "hell", "hell", None),
            (Framing::Length(u64::MAX), "hello", "hello", None),
            (Framing::UntilClose, "hello", "hello", None),
            (Framing::Chunked, "5\r\nhello\r\n0\r\n\r\nGET", "hello", Some(3)),
            (Framing::Chunked, "0\r\n\r\n0\r\n\r\n", "", Some(5)),
        ] {
            let read = read(BodyDecoder::new(framing), [text.as_bytes()]);
            assert_eq!(read, Ok((data.into(), HeaderMap::new(), left)), "{framing:?} {text:?}");
        }
        // What comes with the last chunk is passed on with it.
        let (mut decoder, mut buffer) =
            (BodyDecoder::new(Framing::Chunked), BytesMut::from("5\r\nhello\r\n0\r\n\r\n"));
        assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::Data("hello".into())));
        assert!(decoder.is_over() && buffer.is_empty());
        for framing in ALL {
            let (mut decoder, _) = after(framing, "");
            assert_eq!(decoder.finish(), framing == Framing::UntilClose, "{framing:?}");
            assert_eq!(decoder.is_over(), framing == Framing::UntilClose, "{framing:?}");
        }
        assert!(after(Framing::Length(5), "hello").0.finish());
    }

    #[test]
    fn what_is_left_is_known_where_a_length_was_said() {
        for (framing, text, left) in [
            (Framing::Length(5), "", Some(5)),
            (Framing::Length(5), "he", Some(3)),
            (Framing::Length(5), "hello", Some(0)),
            (Framing::Length(0), "", Some(0)),
            (Framing::UntilClose, "he", None),
            (Framing::Chunked, "5\r\nhe", None),
            (Framing::Chunked, "0\r\n\r\n", Some(0)),
        ] {
            assert_eq!(after(framing, text).0.left(), left, "{framing:?} {text:?}");
        }
    }

    /// A trailer section has the deadline of a head, which begins anew with it: its mark is no other's.
    #[test]
    fn what_was_begun_is_to_go_on() {
        for (framing, text, begun) in [
            (Framing::Length(5), "", Some((Stall::Body, 5))),
            (Framing::Length(5), "he", Some((Stall::Body, 3))),
            (Framing::Length(5), "hello", None),
            (Framing::UntilClose, "he", None),
            (Framing::Chunked, "", None),
            (Framing::Chunked, "5", Some((Stall::Body, u64::MAX))),
            (Framing::Chunked, "5\r\n", Some((Stall::Body, 5))),
            (Framing::Chunked, "5\r\nhe", Some((Stall::Body, 3))),
            (Framing::Chunked, "5\r\nhello", None),
            (Framing::Chunked, "5\r\nhello\r", Some((Stall::Body, u64::MAX))),
            (Framing::Chunked, "5\r\nhello\r\n", None),
            (Framing::Chunked, "0\r\n", Some((Stall::Head, u64::MAX - 1))),
            (Framing::Chunked, "0\r\nx: y\r\nx", Some((Stall::Head, u64::MAX - 1))),
            (Framing::Chunked, "0\r\n\r\n", None),
        ] {
            let (decoder, buffer) = after(framing, text);
            assert_eq!(decoder.begun(&buffer), begun, "{framing:?} {text:?}");
        }
    }

    #[test]
    fn trailers_are_charged_as_they_come() {
        for (text, held) in [
            ("5\r\nhe", None),
            ("0\r\n", Some(0)),
            ("0\r\nx-a: 12\r\n", Some(3 + 2 + ENTRY_OVERHEAD + cost::FIELD)),
            ("0\r\nx-a: 12\r\nX-A:\r\n", Some(3 + 2 + 3 + 2 * (ENTRY_OVERHEAD + cost::FIELD))),
            // It is dropped: it takes nothing, and counts all the same.
            ("0\r\nhost: d\r\n", Some(4 + 1 + ENTRY_OVERHEAD)),
            ("0\r\nx: 1\r\n\r\n", None),
        ] {
            assert_eq!(after(Framing::Chunked, text).0.trailers_held(), held, "{text:?}");
        }
    }

    #[test]
    fn a_size_is_hexadecimal_digits() {
        for (line, size, extensions) in [
            ("0", 0, 0),
            ("9", 9, 0),
            ("a", 10, 0),
            ("f", 15, 0),
            ("A", 10, 0),
            ("F", 15, 0),
            ("10", 16, 0),
            ("1a2B", 0x1a2b, 0),
            ("0123456789abcdef", 0x0123_4567_89ab_cdef, 0),
            ("ffffffffffffffff", u64::MAX, 0),
            ("0000000000000005", 5, 0),
            ("5;", 5, 1),
            ("5;a=\"b\"\t;\u{e4}", 5, 10),
            ("5 \t;a", 5, 4),
            ("5 ", 5, 1),
        ] {
            assert_eq!(chunk_size(line.as_bytes()), Ok((size, extensions)), "{line:?}");
        }
        for bad in [
            "",
            ";a",
            " 5",
            "g",
            "5g",
            "5 5",
            "5 a;b",
            "00000000000000005",
            "0x5",
            "-5",
            "+5",
            "5,",
            "5\x0c",
            "5\x0c;a",
            "5;\0",
            "5;a\x0b",
            "5;a\x7f",
            "5\x0b",
        ] {
            assert!(chunk_size(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_line_ends_with_cr_and_lf() {
        for (text, length) in [
            ("\r\n", Some(0)),
            ("ab\r\ncd\r\n", Some(2)),
            ("", None),
            ("ab", None),
            ("ab\r", None),
            ("a\rb", None),
        ] {
            assert_eq!(line(text.as_bytes(), 9), Ok(length), "{text:?}");
        }
        for bad in ["\n", "ab\n", "a\rb\n", "\r\r\n", "a\rb\r\n", "ab\r\r\n"] {
            assert!(line(bad.as_bytes(), 9).is_err(), "{bad:?}");
        }
    }

    /// Whatever is there of them, and of what follows.
    #[test]
    fn lines_have_a_limit() {
        let chunk = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length - 2));
        assert_eq!(chunked_cut(&chunk(CHUNK_LINE)), Ok((b"a".to_vec(), HeaderMap::new(), Some(0))));
        assert_eq!(chunked_cut(&chunk(CHUNK_LINE + 1)), Err(LINE_TOO_LONG));
        for (length, fits) in [(CHUNK_LINE, true), (CHUNK_LINE + 1, false)] {
            let text = chunk(length);
            for end in [length, length + 1, length + 2] {
                let found = line(&text.as_bytes()[..end], CHUNK_LINE);
                let expected = if end == length + 2 { Ok(Some(length)) } else { Ok(None) };
                match fits {
                    true => assert_eq!(found, expected, "{end}"),
                    // The one byte more might have been the line's end.
                    false => assert_eq!(found.is_err(), end > length, "{end}"),
                }
            }
        }
        let trailer = |length: usize| format!("0\r\nx:{}y\r\n\r\nGET", " ".repeat(length - 3));
        let (_, trailers, left) = chunked_cut(&trailer(HEADER_LIMIT)).unwrap();
        assert_eq!((&trailers["x"], left), (&HeaderValue::from_static("y"), Some(3)));
        assert_eq!(chunked_cut(&trailer(HEADER_LIMIT + 1)), Err(TRAILERS_TOO_LARGE));
        // What is wrong is said of it, however much follows.
        let bad = format!("0\r\nx: y\n\r\n{}", "z".repeat(2 * HEADER_LIMIT));
        assert!(chunked(&bad).is_err_and(|bad| bad != TRAILERS_TOO_LARGE));
    }

    #[test]
    fn extensions_have_a_limit_and_so_has_space() {
        let most = EXTENSIONS as usize;
        for pad in [";", " ", "\t", " ;", "; "] {
            let chunks = |last: usize| {
                let padded = |length: usize| format!("1{}\r\na\r\n", pad.repeat(length)[..length].to_owned());
                let [four, last] = [padded(4000), padded(last)];
                four.repeat(4) + &last + "0\r\n\r\n"
            };
            assert_eq!(chunked(&chunks(most - 16_000)).map(|read| read.0), Ok(b"aaaaa".to_vec()), "{pad:?}");
            assert!(chunked(&chunks(most - 16_000 + 1)).is_err(), "{pad:?}");
        }
    }

    /// Also those that are not passed on.
    #[test]
    fn trailers_have_limits() {
        let fields = |name: &str, lengths: &[usize]| {
            let fields: String =
                lengths.iter().map(|length| format!("{name}: {}\r\n", "v".repeat(*length))).collect();
            chunked(&format!("0\r\n{fields}\r\n")).map(|(_, trailers, _)| trailers.len())
        };
        for (name, kept) in [("x", 1), ("te", 0)] {
            let one = HEADER_LIMIT - name.len() - ENTRY_OVERHEAD;
            let two = [100, one - 100 - name.len() - ENTRY_OVERHEAD];
            for (lengths, more) in [(vec![one], vec![one + 1]), (two.to_vec(), vec![two[0] + 1, two[1]])] {
                assert_eq!(fields(name, &lengths), Ok(kept * lengths.len()), "{name}");
                assert_eq!(fields(name, &more), Err(TRAILERS_TOO_LARGE), "{name}");
            }
            assert_eq!(fields(name, &[0; FIELD_LIMIT]), Ok(kept * FIELD_LIMIT), "{name}");
            assert_eq!(fields(name, &[0; FIELD_LIMIT + 1]), Err(TRAILERS_TOO_LARGE), "{name}");
        }
    }

    #[test]
    fn a_trailer_field_is_a_token_and_a_value() {
        for (text, value) in [
            ("x:", ""),
            ("x: ", ""),
            ("x:y", "y"),
            ("x: \t y z \t", "y z"),
            ("x: y: z", "y: z"),
            ("!#$%&'*+-.^_`|~0aZ: y", "y"),
        ] {
            let (name, found) = field(text.as_bytes()).unwrap();
            assert!(text[..name.as_str().len()].eq_ignore_ascii_case(name.as_str()), "{text:?}");
            assert_eq!(found, value, "{text:?}");
        }
        for bad in [
            "",
            "x",
            ":",
            ": y",
            "x : y",
            " x: y",
            "\tx: y",
            "x y: z",
            "\"x\": y",
            "x\"",
            "x(: y",
            "x@: y",
            "x: \0",
            "x: \x7f",
            "x:\x0cy",
            "x: y\x0c",
            "\u{e4}: y",
        ] {
            assert!(field(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn trailers_say_how_they_are_written_where_that_is_wanted() {
        for (text, spelled) in [
            ("0\r\nX-Sum: 1\r\nHost: d\r\nx-B:\r\n\r\n", Some(":X-Sum,x-B:")),
            ("0\r\nHost: d\r\n\r\n", None),
            ("0\r\n\r\n", None),
        ] {
            let mut decoder = BodyDecoder::new(Framing::Chunked);
            decoder.keep_letters();
            let (_, trailers, _) = read(decoder, [text.as_bytes()]).unwrap();
            assert_eq!(trailers.get(SPELLING).map(|value| value.to_str().unwrap()), spelled, "{text:?}");
            assert!(!chunked(text).unwrap().1.contains_key(SPELLING), "nobody asked for it");
        }
        // What somebody else says of it is nothing to us.
        let told = "0\r\nx: y\r\ntulle-spelling: :x:\r\n\r\n";
        assert_eq!(chunked(told).unwrap().1.keys().collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn a_body_of_one_chunk_is_found_where_all_of_it_is_there() {
        for (text, expected) in [
            ("5\r\nhello\r\n0\r\n\r\n", Some((3..8, 15))),
            ("05\r\nhello\r\n0\r\n\r\nGET", Some((4..9, 16))),
            ("0\r\n\r\n", Some((3..3, 5))),
            ("000\r\n\r\nGET", Some((5..5, 7))),
            ("5\r\nhello\r\n0\r\n\r", None),
            ("5\r\nhello\r\n1\r\na\r\n0\r\n\r\n", None),
            ("5\r\nhello\r\n0\r\nx: y\r\n\r\n", None),
            ("4\r\nhello\r\n0\r\n\r\n", None),
            ("6\r\nhello\r\n0\r\n\r\n", None),
            ("0\r\nx: y\r\n\r\n", None),
            ("0\r\n\r", None),
            ("5;a\r\nhello\r\n0\r\n\r\n", None),
            ("5 \r\nhello\r\n0\r\n\r\n", None),
            ("ffffffffffffffff\r\nhello\r\n0\r\n\r\n", None),
            ("x\r\n\r\n0\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(single_chunk(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_a_peer_did_wrong_is_said() {
        assert_eq!(TRAILERS_TOO_LARGE.to_string(), "the trailer section of a body is too large");
    }
}
