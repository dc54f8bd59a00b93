//! The other side of a connection: what it says, what it hears, and what it may rely on.

use std::collections::{BTreeMap, VecDeque};

use arbitrary::{Result, Unstructured};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::byte;
use crate::http2::Limits;
use crate::http2::core::Core;
use crate::http2::error::{Ended, ErrorCode};
use crate::http2::frame::{
    self, DEFAULT_FRAME, DEFAULT_WINDOW, HEADER, Head, MAX_WINDOW, PREFACE, flag, kind, setting,
};
use crate::http2::hpack::{Decoder, Encoder, Field, ListLimit};

/// Windows stay so far below what they may be that a larger initial window does no harm.
const MOST_WINDOW: i64 = MAX_WINDOW - (1 << 20);
/// Interim answers to one request.
const INTERIM: usize = 3;

/// What both sides know of a stream.
#[derive(Default)]
pub(super) struct StreamModel {
    /// How much may be sent to the peer, and by it.
    pub window: i64,
    pub room: i64,
    /// How much data the peer has sent, and whether it said that it was the last.
    pub sent: usize,
    pub sent_end: bool,
    /// It sent trailers.
    pub trailers: bool,
    pub peer_reset: bool,
    pub core_reset: bool,
    /// A head was sent by the peer, and came to it.
    head_sent: bool,
    head_got: bool,
    interim: usize,
    /// The answer has no body.
    is_head: bool,
    got: usize,
    got_end: bool,
}

impl StreamModel {
    fn is_over(&self) -> bool {
        self.peer_reset || self.core_reset || (self.sent_end && self.got_end)
    }
}

/// What the peer did wrong, and what has to follow.
enum Overshot {
    Connection,
    Stream(u32),
}

/// What settings take of the windows of streams below `since`, for what the peer sends.
#[derive(Clone, Copy, Default)]
struct Smaller {
    by: i64,
    since: u32,
}

pub(super) struct PeerModel {
    /// The core is a server, and the peer a client.
    server: bool,
    limits: Limits,
    /// How much may be sent to the peer on the connection, and by it.
    pub window: i64,
    pub room: i64,
    pub streams: BTreeMap<u32, StreamModel>,
    /// It said something that it must not, or that is not followed here.
    pub breaks_rules: bool,
    overshot: Option<Overshot>,
    /// What it allows.
    initial: i64,
    max_frame: usize,
    max_streams: usize,
    next: u32,
    encoder: Encoder,
    decoder: Decoder,
    /// How much of what was said to it has been heard.
    heard: u64,
    /// The window that a stream begins with, for what it sends.
    granted: i64,
    /// Settings and PINGs that it has not confirmed.
    settings: VecDeque<Smaller>,
    pings: Vec<[u8; 8]>,
    /// It is told to open nothing new.
    told_to_go: bool,
    /// A header block that goes on.
    block: Option<(Head, Vec<u8>)>,
}

impl PeerModel {
    pub(super) fn new(server: bool, limits: Limits) -> Self {
        Self {
            server,
            limits,
            window: DEFAULT_WINDOW.into(),
            room: DEFAULT_WINDOW.into(),
            streams: BTreeMap::new(),
            breaks_rules: false,
            overshot: None,
            initial: DEFAULT_WINDOW.into(),
            max_frame: DEFAULT_FRAME,
            max_streams: usize::MAX,
            next: 1,
            encoder: Encoder::new(),
            decoder: Decoder::new(4096),
            heard: 0,
            granted: limits.stream_window.into(),
            settings: VecDeque::new(),
            pings: Vec::new(),
            told_to_go: false,
            block: None,
        }
    }

    /// What it says first.
    pub(super) fn greeting(&mut self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let mut out = if self.server { PREFACE.to_vec() } else { Vec::new() };
        self.say_settings(input, &mut out)?;
        Ok(out)
    }

    /// What makes all that waits go on.
    pub(super) fn opens_windows(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut open = |id: u32, window: &mut i64| {
            let by = MOST_WINDOW - *window;
            if by > 0 {
                frame::number(&mut out, kind::WINDOW_UPDATE, id, by.min(MAX_WINDOW) as u32);
                *window += by.min(MAX_WINDOW);
            }
        };
        open(0, &mut self.window);
        self.streams.iter_mut().for_each(|(id, known)| open(*id, &mut known.window));
        out
    }

    /// Something that it says.
    pub(super) fn says(&mut self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match input.int_in_range(0..=19)? {
            0..=3 if self.server => self.opens(input, &mut out)?,
            0..=3 => self.answers(input, &mut out)?,
            4..=8 => self.sends_data(input, &mut out)?,
            9 => self.ends(input, &mut out)?,
            10 => {
                if let Some(id) = self.any(input, |known| !known.is_over())? {
                    frame::number(&mut out, kind::RST_STREAM, id, input.int_in_range(0..=14)?);
                    self.known(id).peer_reset = true;
                }
            }
            11 | 12 => self.opens_window(input, &mut out)?,
            13 => self.say_settings(input, &mut out)?,
            14 | 15 => {
                if self.settings.pop_front().is_some() {
                    frame::head(&mut out, 0, kind::SETTINGS, flag::ACK, 0);
                }
                for payload in self.pings.drain(..) {
                    frame::ping(&mut out, true, payload);
                }
            }
            16 => match input.int_in_range(0..=3)? {
                0 => frame::ping(&mut out, false, input.arbitrary()?),
                1 => {
                    frame::head(&mut out, 5, kind::PRIORITY, 0, 1);
                    out.extend([0; 5]);
                }
                2 => {
                    frame::head(
                        &mut out,
                        3,
                        input.int_in_range(10..=255)?,
                        input.arbitrary()?,
                        input.int_in_range(0..=9)?,
                    );
                    out.extend([0; 3]);
                }
                _ => {
                    let last = input.int_in_range(0..=20)?;
                    frame::go_away(&mut out, last, input.int_in_range(0..=2)?, "");
                    if !self.server {
                        self.streams.iter_mut().for_each(|(id, known)| known.peer_reset |= *id > last);
                    }
                }
            },
            17 => self.races(input, &mut out)?,
            18 => self.sends_too_much(input, &mut out)?,
            _ => {
                self.breaks_rules = true;
                if input.arbitrary()? {
                    let length = input.int_in_range(0..=60)?.min(input.len());
                    let (kind, flags) = (input.int_in_range(0..=11)?, input.arbitrary()?);
                    let claimed = if input.ratio(1, 8)? { input.arbitrary::<u16>()?.into() } else { length };
                    frame::head(&mut out, claimed, kind, flags, input.int_in_range(0..=12)?);
                    out.extend_from_slice(input.bytes(length.min(input.len()))?);
                } else {
                    let length = input.int_in_range(0..=60)?.min(input.len());
                    out.extend_from_slice(input.bytes(length)?);
                }
            }
        }
        Ok(out)
    }

    /// One of the streams, if there is one like that.
    fn any(&self, input: &mut Unstructured<'_>, like: impl Fn(&StreamModel) -> bool) -> Result<Option<u32>> {
        let all: Vec<u32> = self.streams.iter().filter(|(_, known)| like(known)).map(|(id, _)| *id).collect();
        if all.is_empty() { Ok(None) } else { input.choose(&all).copied().map(Some) }
    }

    fn known(&mut self, id: u32) -> &mut StreamModel {
        self.streams.entry(id).or_default()
    }

    fn opens(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let open = self.streams.values().filter(|known| !known.is_over()).count();
        if self.told_to_go || open >= self.limits.streams as usize {
            return Ok(());
        }
        let id = self.next;
        self.next += 2;
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        match input.int_in_range(0..=3)? {
            0 => {
                self.encoder.method(&Method::CONNECT, &mut block);
                self.encoder.authority("a:1", &mut block);
            }
            method => {
                let method = [Method::GET, Method::POST, Method::HEAD][method - 1].clone();
                self.encoder.method(&method, &mut block);
                self.encoder.scheme("http", &mut block);
                self.encoder.authority("a", &mut block);
                self.encoder.path(b"/", &mut block);
            }
        }
        self.fields(input, &mut block)?;
        let end = input.arbitrary()?;
        write_block(input, out, id, end, &block)?;
        let (window, room) = (self.initial, self.granted);
        let known = StreamModel { window, room, head_sent: true, sent_end: end, ..StreamModel::default() };
        self.streams.insert(id, known);
        Ok(())
    }

    fn answers(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let Some(id) = self.any(input, |known| !known.is_over() && !known.head_sent)? else { return Ok(()) };
        let interim = self.streams[&id].interim < INTERIM && input.ratio(1, 5)?;
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        let status = if interim { StatusCode::from_u16(103).unwrap_or_default() } else { StatusCode::OK };
        self.encoder.status(status, &mut block);
        self.fields(input, &mut block)?;
        let known = self.known(id);
        let end = !interim && (known.is_head || input.ratio(1, 4)?);
        if interim {
            known.interim += 1;
        } else {
            (known.head_sent, known.sent_end) = (true, end);
        }
        write_block(input, out, id, end, &block)
    }

    fn fields(&mut self, input: &mut Unstructured<'_>, block: &mut Vec<u8>) -> Result<()> {
        for _ in 0..input.int_in_range(0..=3)? {
            let name = HeaderName::from_static(input.choose(&["x-a", "cookie", "accept", "user-agent"])?);
            let value = HeaderValue::from_static(input.choose(&["", "a", "the same again and again"])?);
            self.encoder.header(&name, &value, block);
        }
        Ok(())
    }

    fn sends_data(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let sends = |known: &StreamModel| known.head_sent && !known.sent_end && !known.is_over();
        let Some(id) = self.any(input, sends)? else { return Ok(()) };
        let padding = if input.ratio(1, 5)? { Some(input.arbitrary::<u8>()?) } else { None };
        let overhead = padding.map_or(0, |padding| usize::from(padding) + 1);
        let known = &self.streams[&id];
        let room = self.room.min(known.room).min(self.limits.frame.into()).max(0) as usize;
        let Some(room) = room.checked_sub(overhead) else { return Ok(()) };
        let most = *input.choose(&[0, 10, 1000, 16 << 10])?;
        let length = input.int_in_range(0..=most)?.min(room);
        let end = input.ratio(1, 6)?;
        let flags = if end { flag::END_STREAM } else { 0 };
        self.write_data(out, id, length, flags, padding);
        self.known(id).sent_end = end;
        Ok(())
    }

    fn write_data(&mut self, out: &mut Vec<u8>, id: u32, length: usize, flags: u8, padding: Option<u8>) {
        let whole = length + padding.map_or(0, |padding| usize::from(padding) + 1);
        frame::head(out, whole, kind::DATA, flags | if padding.is_some() { flag::PADDED } else { 0 }, id);
        out.extend(padding);
        let sent = self.known(id).sent;
        out.extend((sent..sent + length).map(|place| byte(id, place)));
        out.resize(out.len() + usize::from(padding.unwrap_or(0)), 0);
        self.room -= whole as i64;
        let known = self.known(id);
        known.room -= whole as i64;
        known.sent += length;
    }

    /// Trailers.
    fn ends(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let sends = |known: &StreamModel| known.head_sent && !known.sent_end && !known.is_over();
        let Some(id) = self.any(input, sends)? else { return Ok(()) };
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        self.fields(input, &mut block)?;
        let known = self.known(id);
        (known.sent_end, known.trailers) = (true, true);
        write_block(input, out, id, true, &block)
    }

    fn opens_window(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let most: i64 = *input.choose(&[1, 100, 70_000, 1 << 20])?;
        let by = input.int_in_range(1..=most)?;
        let stream = if input.arbitrary()? { self.any(input, |_| true)? } else { None };
        let window = match stream {
            Some(id) => &mut self.known(id).window,
            None => &mut self.window,
        };
        if *window + by <= MOST_WINDOW {
            *window += by;
            frame::number(out, kind::WINDOW_UPDATE, stream.unwrap_or(0), by as u32);
        }
        Ok(())
    }

    fn say_settings(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let mut settings = Vec::new();
        for _ in 0..input.int_in_range(0..=3)? {
            settings.push(match input.int_in_range(0..=5)? {
                0 => (setting::HEADER_TABLE_SIZE, *input.choose(&[0, 100, 4096, 10_000])?),
                1 => {
                    let most = *input.choose(&[0, 1, 10, 100])?;
                    self.max_streams = most as usize;
                    (setting::MAX_CONCURRENT_STREAMS, most)
                }
                2 => {
                    let window = *input.choose(&[0, 1, 1000, 65_535, 200_000])?;
                    let change = i64::from(window) - self.initial;
                    self.initial = window.into();
                    self.streams.values_mut().for_each(|known| known.window += change);
                    (setting::INITIAL_WINDOW_SIZE, window)
                }
                3 => {
                    let most = *input.choose(&[16 << 10, 20_000, 1 << 20])?;
                    self.max_frame = most as usize;
                    (setting::MAX_FRAME_SIZE, most)
                }
                4 => (setting::MAX_HEADER_LIST_SIZE, *input.choose(&[100, 8 << 10, 1 << 20])?),
                _ => (input.int_in_range(9..=1000)?, input.arbitrary()?),
            });
        }
        frame::settings(out, &settings);
        Ok(())
    }

    /// Data on a stream that has been reset: it may have been on its way.
    fn races(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        let raced =
            |known: &StreamModel| known.core_reset && known.head_sent && !known.sent_end && !known.peer_reset;
        let Some(id) = self.any(input, raced)? else { return Ok(()) };
        let most = self.room.min(2000) as usize;
        if most > 0 {
            let length = input.int_in_range(1..=most)?;
            let end = input.ratio(1, 4)?;
            self.write_data(out, id, length, if end { flag::END_STREAM } else { 0 }, None);
            self.known(id).sent_end = end;
        }
        Ok(())
    }

    /// More data than there is room for.
    fn sends_too_much(&mut self, input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
        // Resets are not followed once a rule is broken: the stream may be gone.
        if self.breaks_rules {
            return Ok(());
        }
        let sends = |known: &StreamModel| known.head_sent && !known.sent_end && !known.is_over();
        let Some(id) = self.any(input, sends)? else { return Ok(()) };
        let room = self.streams[&id].room;
        let most = i64::from(self.limits.frame);
        if self.room < most {
            self.overshot = Some(Overshot::Connection);
        } else if room < most && room >= 0 && self.unconfirmed(id) == 0 {
            self.overshot = Some(Overshot::Stream(id));
        } else {
            return Ok(());
        }
        let length = if self.room < most { self.room } else { room };
        self.write_data(out, id, length as usize + 1, 0, None);
        self.breaks_rules = true;
        Ok(())
    }

    /// Hears what was said to it since it last did.
    pub(super) fn hear(&mut self, core: &Core) {
        let mut bytes = &core.out.pending()[(self.heard - core.out.total) as usize..];
        self.heard += bytes.len() as u64;
        if !self.server && self.heard == bytes.len() as u64 {
            bytes = bytes.strip_prefix(PREFACE).expect("a client begins with the preface");
        }
        let mut reset = None;
        while let Some(header) = bytes.first_chunk::<HEADER>() {
            let head = Head::parse(header);
            let (payload, rest) = bytes[HEADER..].split_at(head.length);
            bytes = rest;
            if head.kind == kind::RST_STREAM {
                reset = Some((head.stream, number(payload)));
            }
            self.frame(&head, payload);
        }
        assert!(bytes.is_empty(), "half a frame is written");
        match self.overshot.take() {
            None => {}
            Some(Overshot::Connection) => {
                let ended = core.ended.as_ref();
                let offence = |ended: &Ended| matches!(ended, Ended::Violation(v) if v.code == ErrorCode::FLOW_CONTROL_ERROR);
                assert!(ended.is_some_and(offence), "{ended:?}");
            }
            Some(Overshot::Stream(id)) => {
                assert!(
                    core.ended.is_some() || reset == Some((id, ErrorCode::FLOW_CONTROL_ERROR.0)),
                    "{reset:?}"
                );
            }
        }
    }

    fn frame(&mut self, head: &Head, payload: &[u8]) {
        assert!(self.block.is_none() || head.kind == kind::CONTINUATION, "a header block is cut");
        // What it says is not understood any more once it has broken a rule: its settings neither.
        assert!(self.breaks_rules || head.length <= self.max_frame.max(DEFAULT_FRAME), "{head:?}");
        match head.kind {
            kind::DATA => self.data(head, payload),
            kind::HEADERS => {
                self.block = Some((*head, payload.to_vec()));
                self.end_block(head);
            }
            kind::CONTINUATION => {
                let (begun, block) = self.block.as_mut().expect("it goes on with something");
                assert_eq!(begun.stream, head.stream);
                block.extend_from_slice(payload);
                self.end_block(head);
            }
            kind::RST_STREAM => {
                if self.breaks_rules {
                    return;
                }
                let code = ErrorCode(number(payload));
                let known = self.streams.get_mut(&head.stream).expect("it was opened");
                assert!(!known.core_reset && !known.peer_reset, "{} is reset again", head.stream);
                known.core_reset = true;
                // Tasks give up; there may be too much of something. But nothing is wrong with it.
                let mut fair =
                    vec![ErrorCode::NO_ERROR, ErrorCode::REFUSED_STREAM, ErrorCode::ENHANCE_YOUR_CALM];
                fair.push(if self.server { ErrorCode::INTERNAL_ERROR } else { ErrorCode::CANCEL });
                assert!(fair.contains(&code), "stream {} was in order: {code}", head.stream);
            }
            kind::SETTINGS if head.has(flag::ACK) => assert!(payload.is_empty()),
            kind::SETTINGS => self.hear_settings(payload),
            kind::PING => {
                let payload = payload.try_into().expect("it has eight bytes");
                if !head.has(flag::ACK) {
                    self.pings.push(payload);
                }
            }
            kind::GOAWAY => self.told_to_go |= number(payload) < MAX_WINDOW as u32,
            kind::WINDOW_UPDATE => {
                let by = i64::from(number(payload));
                assert!(by > 0);
                if head.stream == 0 {
                    self.room += by;
                    assert!(self.room <= MAX_WINDOW);
                } else if !self.breaks_rules {
                    let known = self.streams.get_mut(&head.stream).expect("it was opened");
                    known.room += by;
                    assert!(known.room <= MAX_WINDOW && !known.peer_reset && !known.core_reset);
                }
            }
            other => panic!("frames of kind {other} are not sent"),
        }
    }

    /// Its windows change at once; the core counts with smaller ones when it knows that they were heard.
    fn hear_settings(&mut self, payload: &[u8]) {
        let before = self.granted;
        for entry in payload.chunks_exact(6) {
            if entry[..2] == setting::INITIAL_WINDOW_SIZE.to_be_bytes() {
                self.granted = number(&entry[2..]).into();
            }
        }
        let change = self.granted - before;
        self.streams.values_mut().for_each(|known| known.room += change);
        let since = if self.server { u32::MAX } else { self.next };
        self.settings.push_back(Smaller { by: (-change).max(0), since });
    }

    /// How much more the core lets it send on a stream than it may, as it has not confirmed that it may not.
    pub(super) fn unconfirmed(&self, id: u32) -> i64 {
        self.settings.iter().filter(|smaller| id < smaller.since).map(|smaller| smaller.by).sum()
    }

    fn data(&mut self, head: &Head, payload: &[u8]) {
        if self.breaks_rules {
            return;
        }
        let id = head.stream;
        let known = self.streams.get_mut(&id).expect("it was opened");
        assert!(
            known.head_got && !known.got_end && !known.core_reset && !known.peer_reset,
            "data on stream {id}"
        );
        let length = payload.len() as i64;
        self.window -= length;
        known.window -= length;
        assert!(
            length == 0 || (self.window >= 0 && known.window >= 0),
            "more than the window on stream {id}"
        );
        for (place, found) in payload.iter().enumerate() {
            assert_eq!(*found, byte(id, known.got + place), "data of stream {id}");
        }
        known.got += payload.len();
        known.got_end = head.has(flag::END_STREAM);
    }

    fn end_block(&mut self, head: &Head) {
        if !head.has(flag::END_HEADERS) {
            return;
        }
        let Some((begun, block)) = self.block.take() else { return };
        let (mut fields, limit) = (Vec::new(), ListLimit { bytes: usize::MAX, fields: usize::MAX });
        let decoded = self.decoder.decode(&block, limit, |field| {
            fields.push(field);
            Ok(())
        });
        assert_eq!(decoded, Ok(()));
        if self.breaks_rules {
            return;
        }
        let id = begun.stream;
        if !self.server && !self.streams.contains_key(&id) {
            assert_eq!(id, self.next);
            self.next += 2;
            let open = self.streams.values().filter(|known| !known.is_over()).count();
            assert!(open < self.max_streams, "{open} streams are open");
            let is_head = fields.contains(&Field::Method(Method::HEAD));
            let (window, room) = (self.initial, self.granted);
            self.streams.insert(id, StreamModel { window, room, is_head, ..StreamModel::default() });
        }
        let known = self.streams.get_mut(&id).expect("it was opened");
        assert!(!known.got_end && !known.core_reset && !known.peer_reset, "a head on stream {id}");
        assert!(!known.head_got || begun.has(flag::END_STREAM), "trailers do not end stream {id}");
        known.head_got = true;
        known.got_end = begun.has(flag::END_STREAM);
    }
}

/// Writes a header block, in one frame or in several.
fn write_block(
    input: &mut Unstructured<'_>,
    out: &mut Vec<u8>,
    id: u32,
    end: bool,
    block: &[u8],
) -> Result<()> {
    let (first, rest) = match input.ratio(1, 5)? {
        true => block.split_at(input.int_in_range(0..=block.len())?),
        false => (block, &[][..]),
    };
    let last = if rest.is_empty() { flag::END_HEADERS } else { 0 };
    frame::head(out, first.len(), kind::HEADERS, last | if end { flag::END_STREAM } else { 0 }, id);
    out.extend_from_slice(first);
    if !rest.is_empty() {
        frame::head(out, rest.len(), kind::CONTINUATION, flag::END_HEADERS, id);
        out.extend_from_slice(rest);
    }
    Ok(())
}

fn number(payload: &[u8]) -> u32 {
    frame::u32_at(payload).expect("it has four bytes")
}
