//! HTTP/1.1 (RFC 9112), as far as the two ends of a measurement need it: where a head ends, how long
//! the body is, whether the connection stays.

use std::io::BufRead;

/// The longest head that is read.
pub const HEAD_LIMIT: usize = 16 << 10;

/// What a peer wrote that is not HTTP/1.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// The first line
    #[error("the first line is not HTTP/1")]
    FirstLine,
    /// The head
    #[error("the head is longer than 16 KiB")]
    HeadTooLong,
    /// The length
    #[error("the body's length is not a number")]
    Length,
    /// The chunks
    #[error("a chunk does not start with its size")]
    Chunk,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
    /// Until the connection ends.
    UntilClose,
}

/// Where in a chunked body the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// In the line with a chunk's size; so much of it was read.
    Size(u64),
    /// Behind the size, before the line's end.
    Extension(u64),
    /// So many bytes of the chunk are to come.
    Data(u64),
    /// In the line's end behind a chunk.
    DataEnd,
    /// In the trailers; whether the line has anything in it.
    Trailer(bool),
}

/// What a piece of a body was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes that belong to the body, its framing included.
    pub used: usize,
    /// Bytes of content.
    pub content: u64,
    /// Whether the body ends here.
    pub done: bool,
}

/// What a head says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head.
    pub length: usize,
    /// How the body ends.
    pub body: Framing,
    /// Whether the connection ends after this message.
    pub close: bool,
    /// Whether the client waits for `100 Continue`.
    pub expects: bool,
}

/// The first line and the fields of a head; `None` when its end has not come yet. `unframed` is the body
/// of a message that does not say how long it is.
pub fn head(bytes: &[u8], unframed: Framing) -> Result<Option<(&[u8], Head)>, MalformedMessage> {
    let mut rest = bytes;
    let Some(first) = line(&mut rest) else { return incomplete(bytes) };
    let mut head = Head { length: 0, body: unframed, close: false, expects: false };
    loop {
        let Some(field) = line(&mut rest) else { return incomplete(bytes) };
        // No other field that matters starts with another letter.
        match field.first().map_or(0, |letter| letter | 0x20) {
            0 => break,
            b'c' => {
                if let Some(value) = value_of(field, b"content-length") {
                    let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    if !matches!(head.body, Framing::Chunked(_)) {
                        head.body = Framing::Length(length.ok_or(MalformedMessage::Length)?);
                    }
                } else if let Some(value) = value_of(field, b"connection") {
                    head.close |= value.eq_ignore_ascii_case(b"close");
                }
            }
            b't' => {
                if let Some(value) = value_of(field, b"transfer-encoding")
                    && value.eq_ignore_ascii_case(b"chunked")
                {
                    head.body = Framing::Chunked(Chunks::Size(0));
                }
            }
            b'e' => head.expects |= value_of(field, b"expect").is_some(),
            _ => {}
        }
    }
    head.length = bytes.len() - rest.len();
    head.close |= head.body == Framing::UntilClose;
    Ok(Some((first, head)))
}

fn incomplete<T>(bytes: &[u8]) -> Result<Option<T>, MalformedMessage> {
    if bytes.len() > HEAD_LIMIT { Err(MalformedMessage::HeadTooLong) } else { Ok(None) }
}

/// The next line without its end. The standard library searches it with the platform's fastest search.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = *rest;
    let count = rest.skip_until(b'\n').ok()?;
    let line = bytes[..count].strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn value_of<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = field.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":")?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// The status in an answer's first line.
pub fn status(first: &[u8]) -> Result<u16, MalformedMessage> {
    let version = first.starts_with(b"HTTP/1.") && first.get(8) == Some(&b' ');
    let digits = first.get(9..12).filter(|digits| version && digits.iter().all(u8::is_ascii_digit));
    let digits = digits.ok_or(MalformedMessage::FirstLine)?;
    Ok(digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

/// Whether an answer with this status has no body, whatever its fields say.
pub fn bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

/// The size that a path asks for: `/bytes/N`, and 1 KiB for every other path.
pub fn size_of(path: &[u8]) -> u64 {
    let number = path.strip_prefix(b"/bytes/").and_then(|number| std::str::from_utf8(number).ok());
    number.and_then(|number| number.parse().ok()).unwrap_or(1024)
}

impl Framing {
    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        *self == Framing::Length(0)
    }

    /// How much may be thrown away unseen.
    pub fn unseen(&self) -> u64 {
        match *self {
            Framing::Length(left) | Framing::Chunked(Chunks::Data(left)) => left,
            Framing::Chunked(_) | Framing::UntilClose => 0,
        }
    }

    /// Takes the body's part of `bytes`.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, MalformedMessage> {
        match self {
            Framing::Length(left) => {
                let used = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= used as u64;
                Ok(Taken { used, content: used as u64, done: *left == 0 })
            }
            Framing::Chunked(chunks) => chunks.take(bytes),
            Framing::UntilClose => Ok(Taken { used: bytes.len(), content: bytes.len() as u64, done: false }),
        }
    }

    /// Counts what was thrown away unseen, at most [`Self::unseen`]; true when the body ends there.
    pub fn skip(&mut self, count: u64) -> bool {
        match self {
            Framing::Length(left) => {
                *left = left.saturating_sub(count);
                *left == 0
            }
            Framing::Chunked(chunks) => {
                if let Chunks::Data(left) = *chunks {
                    let left = left.saturating_sub(count);
                    *chunks = if left == 0 { Chunks::DataEnd } else { Chunks::Data(left) };
                }
                false
            }
            Framing::UntilClose => false,
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<Taken, MalformedMessage> {
        let mut taken = Taken { used: 0, content: 0, done: false };
        while taken.used < bytes.len() {
            let byte = bytes[taken.used];
            if let Chunks::Data(left) = *self {
                let count = ((bytes.len() - taken.used) as u64).min(left);
                taken.used += count as usize;
                taken.content += count;
                *self = if count == left { Chunks::DataEnd } else { Chunks::Data(left - count) };
                continue;
            }
            taken.used += 1;
            *self = match (*self, byte) {
                (Chunks::Size(0) | Chunks::Extension(0), b'\n') => Chunks::Trailer(false),
                (Chunks::Size(size) | Chunks::Extension(size), b'\n') => Chunks::Data(size),
                (Chunks::Size(size), b'\r' | b';' | b' ') => Chunks::Extension(size),
                (Chunks::Size(size), digit) => {
                    let digit = char::from(digit).to_digit(16).ok_or(MalformedMessage::Chunk)?;
                    let size = size.checked_mul(16).ok_or(MalformedMessage::Chunk)?;
                    Chunks::Size(size + u64::from(digit))
                }
                (Chunks::DataEnd, b'\n') => Chunks::Size(0),
                (Chunks::Trailer(false), b'\n') => {
                    taken.done = true;
                    return Ok(taken);
                }
                (Chunks::Trailer(_), b'\n') => Chunks::Trailer(false),
                (Chunks::Trailer(false), b'\r') => Chunks::Trailer(false),
                (Chunks::Trailer(_), _) => Chunks::Trailer(true),
                (state, _) => state,
            };
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Framing = Framing::Length(0);

    #[test]
    fn a_head_in_pieces_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 12\r\nconnection: Close\r\n\r\nbody";
        for end in 0..text.len() - 4 {
            assert_eq!(head(&text[..end], NONE), Ok(None), "{end}");
        }
        let (first, read) = head(text, NONE).unwrap().unwrap();
        assert_eq!(status(first), Ok(200));
        assert_eq!(read, Head { length: 67, body: Framing::Length(12), close: true, expects: false });
        assert_eq!(&text[read.length..], b"body");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert_eq!(status(b"SSH-2.0-x"), Err(MalformedMessage::FirstLine));
        assert_eq!(head(&[b'x'; HEAD_LIMIT + 1], NONE), Err(MalformedMessage::HeadTooLong));
        assert_eq!(head(b"HTTP/1.1 200\r\ncontent-length: x\r\n\r\n", NONE), Err(MalformedMessage::Length));
    }

    #[test]
    fn chunks_end_where_they_say_however_they_are_cut() {
        let text = b"4\r\nwiki\r\nA;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\nnext";
        for cut in 1..text.len() {
            let (mut body, mut content, mut used) = (Framing::Chunked(Chunks::Size(0)), 0, 0);
            let mut done = false;
            for piece in text.chunks(cut) {
                let taken = body.take(piece).unwrap();
                (content, used, done) = (content + taken.content, used + taken.used, taken.done);
                if done {
                    break;
                }
            }
            assert!(done);
            assert_eq!((content, used), (14, text.len() - 4), "{cut}");
        }
    }

    #[test]
    fn paths_choose_sizes() {
        assert_eq!(size_of(b"/bytes/10485760"), 10_485_760);
        assert_eq!(size_of(b"/"), 1024);
        assert_eq!(size_of(b"/bytes/many"), 1024);
    }
}
