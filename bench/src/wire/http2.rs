//! HTTP/2 (RFC 9113), one side of a connection without its socket.
//!
//! Frames go in, and what concerns streams comes out; settings, pings, continuations and the
//! connection's own windows are dealt with here. Both ends use what real ones do (a table for fields,
//! large windows), so that proxies meet what they meet elsewhere.

use super::hpack::{Decoder, Encoder, MalformedBlock, Phrase};
use super::http1;

/// What a client says first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a stream's receiver grants at first.
const STREAM_WINDOW: u32 = 1 << 20;

/// What a connection's receiver grants.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What is granted before anything was said (section 6.9.2).
const FIRST_WINDOW: i64 = 65_535;

/// The longest payload that we take, which is what peers assume (section 4.2).
const MAX_PAYLOAD: usize = 16 << 10;

/// The longest block of fields, over all its frames.
const MAX_BLOCK: usize = 64 << 10;

/// `REFUSED_STREAM`: the request was not looked at.
pub const REFUSED: u32 = 7;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// What a peer wrote that is not HTTP/2.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedFrame {
    /// A frame is too long.
    #[error("a frame is longer than was agreed")]
    FrameTooLong,
    /// A frame is shorter than what it has to say.
    #[error("a frame is too short")]
    FrameTooShort,
    /// A frame where it must not be.
    #[error("a frame where it must not be")]
    Unexpected,
    /// A header block.
    #[error(transparent)]
    Block(#[from] MalformedBlock),
}

/// What a block of fields says that matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSection {
    /// `:status`, 0 without one.
    pub status: u16,
    /// `grpc-status`
    pub grpc_status: Option<u32>,
    /// Whether the content is gRPC.
    pub grpc: bool,
    /// Whether the method is one that sends a body.
    pub sends: bool,
    /// Whether the method is `HEAD`.
    pub bare: bool,
    /// The size that the path asks for.
    pub size: u64,
}

/// What concerns streams.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A block of fields.
    Fields {
        /// Of this stream
        stream: u32,
        /// What it says
        fields: FieldSection,
        /// Whether the stream's side ends
        end: bool,
    },
    /// A piece of a body.
    Data {
        /// Of this stream
        stream: u32,
        /// The piece
        bytes: &'a [u8],
        /// What it counts in windows
        flow: u32,
        /// Whether the stream's side ends
        end: bool,
    },
    /// More may be sent: on this stream, or for 0 on the connection.
    Window {
        /// The stream
        stream: u32,
        /// So much more
        more: i64,
    },
    /// A stream is over.
    Reset {
        /// Which
        stream: u32,
        /// Why
        code: u32,
    },
    /// The peer takes no more streams.
    Away {
        /// The last that it took
        last: u32,
    },
    /// The peer said how it wants to be spoken to; the windows of all streams change by this.
    Settings {
        /// Less than 0 where the peer grants less
        more: i64,
    },
}

/// One side of a connection.
pub struct Link {
    decoder: Decoder,
    encoder: Encoder,
    /// Blocks as they came last and what they said, while the table stays.
    known: [(Vec<u8>, u64, FieldSection); 2],
    next_known: usize,
    /// A block whose frames have not all come: its stream, whether the stream ends, and what came.
    block: Option<(u32, bool, Vec<u8>)>,
    /// What the peer still lets us send on the connection.
    pub window: i64,
    /// What it lets us send on a new stream.
    pub stream_window: i64,
    /// How many streams it lets us open.
    pub max_streams: u32,
    max_payload: usize,
    /// What came since we granted more.
    ungranted: u32,
    /// Whether the first settings came.
    pub is_open: bool,
}

impl Link {
    /// A new connection; what has to be said first is put into `out`.
    pub fn new(client: bool, out: &mut Vec<u8>) -> Self {
        let mut settings = Vec::new();
        let mut set = |name: u16, value: u32| {
            settings.extend_from_slice(&name.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        };
        if client {
            out.extend_from_slice(PREFACE);
            set(2, 0);
        } else {
            set(3, 1024);
        }
        set(4, STREAM_WINDOW);
        frame(SETTINGS, 0, 0, &settings, out);
        let more = CONNECTION_WINDOW - FIRST_WINDOW as u32;
        frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes(), out);
        Self {
            decoder: Decoder::default(),
            // The peer's table is not known before its settings.
            encoder: Encoder::default(),
            known: Default::default(),
            next_known: 0,
            block: None,
            window: FIRST_WINDOW,
            stream_window: FIRST_WINDOW,
            max_streams: u32::MAX,
            max_payload: MAX_PAYLOAD,
            ungranted: 0,
            is_open: false,
        }
    }

    /// Reads frames up to the next that concerns streams; `None` when no whole frame is left in `bytes`.
    pub fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, MalformedFrame> {
        while let Some((front, rest)) = bytes.split_first_chunk::<9>() {
            let [high, middle, low, kind, flags, stream @ ..] = *front;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > MAX_PAYLOAD {
                return Err(MalformedFrame::FrameTooLong);
            }
            let Some((payload, rest)) = rest.split_at_checked(length) else { break };
            *bytes = rest;
            let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
            if let Some(event) = self.frame(kind, flags, stream, payload, out)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn frame<'a>(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        mut payload: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, MalformedFrame> {
        if self.block.is_some() != (kind == CONTINUATION) {
            return Err(MalformedFrame::Unexpected);
        }
        let flow = payload.len() as u32;
        let end = flags & END_STREAM != 0;
        if flags & PADDED != 0 && matches!(kind, DATA | HEADERS) {
            let (padding, rest) = payload.split_first().ok_or(MalformedFrame::FrameTooShort)?;
            let length =
                rest.len().checked_sub(usize::from(*padding)).ok_or(MalformedFrame::FrameTooShort)?;
            payload = &rest[..length];
        }
        Ok(match kind {
            DATA => {
                self.ungranted += flow;
                if self.ungranted >= CONNECTION_WINDOW / 2 {
                    frame(WINDOW_UPDATE, 0, 0, &self.ungranted.to_be_bytes(), out);
                    self.ungranted = 0;
                }
                Some(Event::Data { stream, bytes: payload, flow, end })
            }
            HEADERS => {
                if flags & PRIORITY != 0 {
                    payload = payload.get(5..).ok_or(MalformedFrame::FrameTooShort)?;
                }
                if flags & END_HEADERS != 0 {
                    return Ok(Some(Event::Fields { stream, fields: self.fields(payload)?, end }));
                }
                self.block = Some((stream, end, payload.to_vec()));
                None
            }
            CONTINUATION => {
                let (of, end, mut block) = self.block.take().ok_or(MalformedFrame::Unexpected)?;
                block.extend_from_slice(payload);
                if of != stream || block.len() > MAX_BLOCK {
                    return Err(MalformedFrame::Unexpected);
                }
                if flags & END_HEADERS != 0 {
                    return Ok(Some(Event::Fields { stream, fields: self.fields(&block)?, end }));
                }
                self.block = Some((of, end, block));
                None
            }
            RST_STREAM => Some(Event::Reset { stream, code: number(payload, 0)? }),
            SETTINGS if flags & ACK == 0 => Some(self.settings(payload, out)?),
            PING if flags & ACK == 0 => {
                frame(PING, ACK, 0, payload, out);
                None
            }
            GOAWAY => Some(Event::Away { last: number(payload, 0)? & (u32::MAX >> 1) }),
            WINDOW_UPDATE => {
                let more = i64::from(number(payload, 0)? & (u32::MAX >> 1));
                self.window += if stream == 0 { more } else { 0 };
                Some(Event::Window { stream, more })
            }
            PUSH_PROMISE => return Err(MalformedFrame::Unexpected),
            _ => None,
        })
    }

    fn settings<'a>(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<Event<'a>, MalformedFrame> {
        let before = self.stream_window;
        let mut table = super::hpack::TABLE_SIZE;
        for setting in payload.chunks_exact(6) {
            let value = number(setting, 2)?;
            match u16::from_be_bytes([setting[0], setting[1]]) {
                1 => table = value as usize,
                3 => self.max_streams = value,
                4 => self.stream_window = i64::from(value),
                5 => self.max_payload = (value as usize).clamp(MAX_PAYLOAD, 256 << 10),
                _ => {}
            }
        }
        if !self.is_open {
            self.encoder = Encoder::new(table);
            self.is_open = true;
        }
        frame(SETTINGS, ACK, 0, &[], out);
        Ok(Event::Settings { more: self.stream_window - before })
    }

    /// What a block says. Nearly all are the same as one before.
    fn fields(&mut self, block: &[u8]) -> Result<FieldSection, MalformedFrame> {
        for (known, changes, fields) in &self.known {
            if *changes == self.decoder.changes && known == block && !block.is_empty() {
                return Ok(*fields);
            }
        }
        let before = self.decoder.changes;
        let mut fields = FieldSection { size: 1024, ..FieldSection::default() };
        self.decoder.decode(block, |name, value| fields.learn(name, value))?;
        if self.decoder.changes == before {
            let known = &mut self.known[self.next_known];
            self.next_known = (self.next_known + 1) % 2;
            known.0.clear();
            known.0.extend_from_slice(block);
            (known.1, known.2) = (before, fields);
        }
        Ok(fields)
    }

    /// Says a phrase on a stream.
    pub fn say(&mut self, stream: u32, phrase: &mut Phrase, end: bool, out: &mut Vec<u8>) {
        let start = out.len();
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        front(0, HEADERS, flags, stream, out);
        self.encoder.say(phrase, out);
        let length = (out.len() - start - 9) as u32;
        out[start..start + 3].copy_from_slice(&length.to_be_bytes()[1..]);
    }

    /// Sends a piece of a body, for which the caller knows that there is room in the stream's window and the
    /// connection's.
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool, out: &mut Vec<u8>) {
        self.window -= bytes.len() as i64;
        let mut rest = bytes;
        loop {
            let (piece, behind) = rest.split_at(rest.len().min(self.max_payload));
            let last = behind.is_empty();
            frame(DATA, if end && last { END_STREAM } else { 0 }, stream, piece, out);
            rest = behind;
            if last {
                return;
            }
        }
    }

    /// Counts what came on a stream and grants it again when it is much.
    pub fn grant(stream: u32, ungranted: &mut u32, flow: u32, out: &mut Vec<u8>) {
        *ungranted += flow;
        if *ungranted >= STREAM_WINDOW / 2 {
            frame(WINDOW_UPDATE, 0, stream, &ungranted.to_be_bytes(), out);
            *ungranted = 0;
        }
    }
}

impl FieldSection {
    fn learn(&mut self, name: &[u8], value: &[u8]) {
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match name {
            b":status" => self.status = number().unwrap_or(0) as u16,
            b":method" => {
                self.sends = matches!(value, b"POST" | b"PUT");
                self.bare = value == b"HEAD";
            }
            b":path" => self.size = http1::size_of(value),
            b"content-type" => self.grpc = value.starts_with(b"application/grpc"),
            b"grpc-status" => self.grpc_status = number(),
            _ => {}
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u32, MalformedFrame> {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk()).ok_or(MalformedFrame::FrameTooShort)?;
    Ok(u32::from_be_bytes(*bytes))
}

fn front(length: usize, kind: u8, flags: u8, stream: u32, out: &mut Vec<u8>) {
    let [_, high, middle, low] = (length as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    front(payload.len(), kind, flags, stream, out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events<'a>(link: &mut Link, mut bytes: &'a [u8], out: &mut Vec<u8>) -> Vec<Event<'a>> {
        let mut events = Vec::new();
        while let Some(event) = link.next(&mut bytes, out).unwrap() {
            events.push(event);
        }
        events
    }

    #[test]
    fn two_links_understand_each_other() {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let mut client = Link::new(true, &mut up);
        let mut service = Link::new(false, &mut down);
        let granted = Event::Window { stream: 0, more: 16 * 1024 * 1024 - 65_535 };
        let settings = Event::Settings { more: (1 << 20) - 65_535 };
        assert_eq!(events(&mut client, &down, &mut up), [settings, granted]);
        assert!(client.is_open && client.max_streams == 1024);

        let mut phrase = Phrase::new(&[(b":method", b"POST"), (b":path", b"/bytes/7")]);
        client.say(1, &mut phrase, false, &mut up);
        client.data(1, &[b'x'; 20_000], true, &mut up);
        let mut answers = Vec::new();
        let seen = events(&mut service, &up[PREFACE.len()..], &mut answers);
        let fields = FieldSection { sends: true, size: 7, ..FieldSection::default() };
        assert_eq!(seen[2], Event::Fields { stream: 1, fields, end: false });
        assert!(
            matches!(seen[3], Event::Data { stream: 1, bytes, end: false, .. } if bytes.len() == 16 << 10)
        );
        assert!(matches!(seen[4], Event::Data { stream: 1, flow: 3_616, end: true, .. }));
        assert_eq!(client.window, (16 << 20) - 20_000);
        // The settings were acknowledged, which is nothing to tell.
        assert_eq!(events(&mut client, &answers, &mut up), []);
    }

    #[test]
    fn padding_priority_and_continuations_are_understood() {
        let mut bytes = Vec::new();
        frame(HEADERS, PADDED | PRIORITY | END_STREAM, 3, b"\x02\0\0\0\0\x10\x88..", &mut bytes);
        frame(CONTINUATION, END_HEADERS, 3, b"\x0f\x10\x10application/grpc", &mut bytes);
        let (mut out, mut link) = (Vec::new(), Link::new(true, &mut Vec::new()));
        let fields = FieldSection { status: 200, grpc: true, size: 1024, ..FieldSection::default() };
        assert_eq!(events(&mut link, &bytes, &mut out), [Event::Fields { stream: 3, fields, end: true }]);
    }

    #[test]
    fn a_piece_of_a_frame_is_left_and_a_long_one_refused() {
        let mut bytes = Vec::new();
        frame(PING, 0, 0, &[7; 8], &mut bytes);
        let (mut out, mut link) = (Vec::new(), Link::new(true, &mut Vec::new()));
        let mut rest = &bytes[..16];
        assert_eq!(link.next(&mut rest, &mut out), Ok(None));
        assert_eq!((rest.len(), out.len()), (16, 0));
        assert_eq!(link.next(&mut &bytes[..], &mut out), Ok(None));
        assert_eq!(out[4], ACK);
        assert_eq!(
            link.next(&mut &[0, 64, 1, 0, 0, 0, 0, 0, 1][..], &mut out),
            Err(MalformedFrame::FrameTooLong)
        );
    }
}
