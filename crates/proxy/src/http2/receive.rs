//! What comes from the peer: bytes to frames, frames to changes of the state.
//!
//! A mistake of the peer's in one message resets its stream; a mistake in the connection's own affairs is
//! a [`Violation`], which closes it (RFC 9113, section 5.4).

use std::time::Duration;

use http::request;

use super::core::{Core, Going};
use super::error::{Ended, ErrorCode, Violation};
use super::fields::{self, Block};
use super::frame::{self, HEADER, Head, PREFACE, flag, kind, u32_at};
use super::hpack::{DecodeError, ListLimit, MalformedField};
use super::input::{BlockBegun, Data, Expect};
use super::stream::{ResetCause, Stream, Way};
use super::{Incoming, Unfit};
use crate::budget::cost;
use crate::progress::Stall;

/// Empty frames of one stream that a client takes: servers that flush what is not there.
const MAX_EMPTY_FRAMES: u8 = 100;
/// A header block may be that many frames.
const MAX_CONTINUATIONS: usize = 64;

const MALFORMED: &str = "its requests are malformed";
/// CVE-2023-44487.
pub(super) const RESETS: Violation =
    Violation::new(ErrorCode::ENHANCE_YOUR_CALM, "it opens streams only to reset them");

impl Core {
    /// Takes bytes that came from the peer. `now` is the time since any fixed moment.
    pub(super) fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.now = now;
        if self.ended.is_none()
            && let Err(violation) = self.take(bytes)
        {
            self.end(Ended::Violation(violation));
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            match self.input.expect {
                Expect::Preface(seen) => {
                    let count = bytes.len().min(PREFACE.len() - seen);
                    if bytes[..count] != PREFACE[seen..seen + count] {
                        return Err(Violation::protocol("it did not begin with HTTP/2's preface"));
                    }
                    bytes = &bytes[count..];
                    let seen = seen + count;
                    self.input.expect =
                        if seen == PREFACE.len() { Expect::Frame } else { Expect::Preface(seen) };
                }
                Expect::Data(data) => bytes = self.take_data(data, bytes),
                Expect::Frame => bytes = self.take_frame(bytes)?,
            }
        }
        Ok(())
    }

    /// Takes a frame, or what there is of one; gives what comes after.
    fn take_frame<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        if self.input.partial.is_empty()
            && let Some(header) = bytes.first_chunk::<HEADER>()
        {
            let head = Head::parse(header);
            self.check_head(&head)?;
            let rest = &bytes[HEADER..];
            if head.kind == kind::DATA && !head.has(flag::PADDED) {
                self.begin_data(&head, head.length, 0)?;
                return Ok(rest);
            }
            if rest.len() >= head.length {
                let (payload, rest) = rest.split_at(head.length);
                self.frame(&head, payload)?;
                return Ok(rest);
            }
        }
        // In pieces: the header first, then as much as it says.
        let mut partial = std::mem::take(&mut self.input.partial);
        if partial.is_empty() && self.input.block.is_none() {
            self.input.in_pieces += 1;
        }
        let mut bytes = bytes;
        let mut fill = |partial: &mut Vec<u8>, to: usize| {
            let count = to.saturating_sub(partial.len()).min(bytes.len());
            partial.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            partial.len() >= to
        };
        if fill(&mut partial, HEADER)
            && let Some(header) = partial.first_chunk::<HEADER>()
        {
            let head = Head::parse(header);
            self.check_head(&head)?;
            if head.kind == kind::DATA && !head.has(flag::PADDED) {
                self.begin_data(&head, head.length, 0)?;
                return Ok(bytes);
            }
            if head.kind == kind::DATA {
                if fill(&mut partial, HEADER + 1) {
                    self.begin_padded(&head, usize::from(partial[HEADER]))?;
                    return Ok(bytes);
                }
            } else if fill(&mut partial, HEADER + head.length) {
                self.frame(&head, &partial[HEADER..])?;
                return Ok(bytes);
            }
        }
        self.input.partial = partial;
        Ok(bytes)
    }

    /// What can be said of a frame before its payload is there.
    fn check_head(&self, head: &Head) -> Result<(), Violation> {
        if head.length > self.limits.frame as usize {
            return Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "it sent a frame larger than allowed"));
        }
        match &self.input.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.stream => {
                Err(Violation::protocol("something came between the parts of a header block"))
            }
            None if head.kind == kind::CONTINUATION => {
                Err(Violation::protocol("CONTINUATION came without a header block"))
            }
            None if !self.settings_seen && (head.kind != kind::SETTINGS || head.has(flag::ACK)) => {
                Err(Violation::protocol("its first frame was not SETTINGS"))
            }
            None if head.kind == kind::DATA && head.has(flag::PADDED) && head.length == 0 => {
                Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "a padded frame without a payload"))
            }
            _ => Ok(()),
        }
    }

    fn begin_padded(&mut self, head: &Head, padding: usize) -> Result<(), Violation> {
        let Some(left) = (head.length - 1).checked_sub(padding) else {
            return Err(Violation::protocol("a frame has more padding than payload"));
        };
        self.begin_data(head, left, padding)
    }

    /// The head of a DATA frame: flow control counts all of it (RFC 9113, section 6.9).
    fn begin_data(&mut self, head: &Head, left: usize, padding: usize) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(Violation::protocol("DATA came on stream 0"));
        }
        self.check_not_idle(head.stream)?;
        self.receive_window -= head.length as i64;
        if self.receive_window < 0 {
            return Err(Violation::new(
                ErrorCode::FLOW_CONTROL_ERROR,
                "it sent more than the connection's window",
            ));
        }
        let mut end = head.has(flag::END_STREAM);
        if left == 0 && !end {
            self.empty_frame(head.stream)?;
        }
        match self.streams.get_mut(&head.stream).filter(|stream| stream.reset.is_none()) {
            Some(stream) if stream.receiving == Way::Ended || !stream.head_seen => {
                self.fail(head.stream, ErrorCode::STREAM_CLOSED)?;
            }
            Some(stream) => {
                stream.receive_window -= head.length as i64;
                let over = stream.receive_window < 0 && head.length > 0;
                // RFC 9113, section 8.1.1: what comes must be as long as was said.
                let wrong = stream.length_left.is_some_and(|length| {
                    let rest = length.checked_sub(left as u64);
                    rest.is_none() || (end && rest != Some(0))
                });
                if over || wrong {
                    let code = if over { ErrorCode::FLOW_CONTROL_ERROR } else { ErrorCode::PROTOCOL_ERROR };
                    self.fail(head.stream, code)?;
                    end = false;
                }
            }
            None => {
                if end {
                    self.cut.remove(&head.stream);
                }
                end = false;
            }
        }
        let overhead = (head.length - left) as u32;
        if overhead > 0 {
            self.credit(overhead);
            self.credit_stream(head.stream, overhead);
        }
        self.input.expect = Expect::Data(Data { stream: head.stream, left, padding, end });
        if left + padding == 0 {
            self.take_data(Data { stream: head.stream, left, padding, end }, &[]);
        }
        Ok(())
    }

    /// A DATA frame without data (CVE-2019-9518). A server that sends many on one stream loses that stream: it
    /// has no more of them than we asked for.
    #[cold]
    fn empty_frame(&mut self, id: u32) -> Result<(), Violation> {
        match self.streams.get_mut(&id) {
            Some(stream) if !self.server && stream.empty_frames < MAX_EMPTY_FRAMES => {
                stream.empty_frames += 1;
                Ok(())
            }
            Some(stream) if !self.server && stream.reset.is_none() => {
                self.fail(id, ErrorCode::ENHANCE_YOUR_CALM)
            }
            _ => self.mistake("it sends empty frames without end"),
        }
    }

    /// Takes data as it comes, and then padding; gives what comes after.
    fn take_data<'b>(&mut self, mut data: Data, bytes: &'b [u8]) -> &'b [u8] {
        let count = data.left.min(bytes.len());
        let (payload, rest) = bytes.split_at(count);
        data.left -= count;
        let skipped = data.padding.min(rest.len());
        data.padding -= skipped;
        let (mut dropped, mut kept, mut refused) = (count, 0, false);
        if let Some(stream) = self.streams.get_mut(&data.stream)
            && stream.reset.is_none()
            && stream.receiving == Way::Open
        {
            if let Some(length) = &mut stream.length_left {
                *length = length.saturating_sub(count as u64);
            }
            if count > 0 && stream.receiver_held {
                let spare = stream.admits_spare(count);
                if !spare {
                    self.windows.run_short();
                }
                if spare || stream.admits(count) {
                    stream.keep(payload);
                    (dropped, kept) = (0, count);
                } else {
                    // Whose it is has its share of memory: the one stream goes that takes more.
                    refused = true;
                }
            }
            // What ends with a refusal must not look whole.
            if data.left == 0 && data.end && !refused {
                stream.receiving = Way::Ended;
            }
            if count > 0 || stream.receiving == Way::Ended {
                stream.wake_receiver();
            }
            if stream.receiving == Way::Ended {
                self.forget_if_done(data.stream);
            }
        }
        self.credit(dropped as u32);
        self.arrived(kept);
        if refused {
            self.reset(data.stream, ErrorCode::ENHANCE_YOUR_CALM);
        }
        self.input.expect = if data.left + data.padding == 0 { Expect::Frame } else { Expect::Data(data) };
        &rest[skipped..]
    }

    /// Takes a whole frame.
    fn frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        match head.kind {
            kind::DATA => {
                // A padded one that came whole.
                self.begin_padded(head, usize::from(payload[0]))?;
                if let Expect::Data(data) = self.input.expect {
                    self.take_data(data, &payload[1..]);
                }
                Ok(())
            }
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::PRIORITY if payload.len() != 5 => self.fail(head.stream, ErrorCode::FRAME_SIZE_ERROR),
            kind::PRIORITY if head.stream == 0 => Err(Violation::protocol("PRIORITY came on stream 0")),
            kind::RST_STREAM => self.rst_stream(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PUSH_PROMISE => Err(Violation::protocol("it pushes, which it was told not to")),
            kind::PING => self.take_ping(head, payload),
            kind::GOAWAY => self.go_away(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            // Unknown ones are to be ignored (RFC 9113, section 4.1).
            _ => self.mistake("it sends frames that mean nothing"),
        }
    }

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(Violation::protocol("HEADERS came on stream 0"));
        }
        let mut block = payload;
        let mut padding = 0;
        let short = Violation::new(ErrorCode::FRAME_SIZE_ERROR, "a header frame is too short");
        if head.has(flag::PADDED) {
            let (&length, rest) = block.split_first().ok_or(short)?;
            (padding, block) = (usize::from(length), rest);
        }
        if head.has(flag::PRIORITY) {
            let depends = u32_at(block).ok_or(short)? & 0x7fff_ffff;
            block = block.get(5..).ok_or(short)?;
            if depends == head.stream {
                self.mistake("a stream depends on itself")?;
            }
        }
        let Some(length) = block.len().checked_sub(padding) else {
            return Err(Violation::protocol("a frame has more padding than payload"));
        };
        let block = &block[..length];
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, end, block);
        }
        self.input.in_pieces += 1;
        self.input.block = Some(BlockBegun { stream: head.stream, end, bytes: block.to_vec(), frames: 1 });
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let Some(mut begun) = self.input.block.take() else { return Ok(()) };
        begun.bytes.extend_from_slice(payload);
        begun.frames += 1;
        // CVE-2024-27316: a header block without end. A server's that is only large costs it the stream, once it is
        // decoded: what others asked goes on.
        let patience = if self.server { 1 } else { 8 };
        let most = 2 * self.limits.header_list as usize;
        if begun.bytes.len() > patience * most || begun.frames > patience * MAX_CONTINUATIONS {
            return Err(Violation::new(
                ErrorCode::ENHANCE_YOUR_CALM,
                "a header block does not end, or is larger than any that is taken",
            ));
        }
        if head.has(flag::END_HEADERS) {
            return self.block(begun.stream, begun.end, &begun.bytes);
        }
        self.input.block = Some(begun);
        Ok(())
    }

    /// Takes a whole header block: a request's or response's head, or trailers.
    fn block(&mut self, id: u32, end: bool, bytes: &[u8]) -> Result<(), Violation> {
        let mut block = Block::default();
        let limit =
            ListLimit { bytes: self.limits.header_list as usize, fields: self.limits.fields as usize };
        let decoded = self.decoder.decode(bytes, limit, |field| block.field(field));
        self.fields += block.weight();
        let problem = match decoded {
            Ok(()) => None,
            Err(DecodeError::Compression(_)) => {
                return Err(Violation::new(ErrorCode::COMPRESSION_ERROR, "a header block cannot be decoded"));
            }
            Err(error) => Some(error),
        };
        if self.streams.contains_key(&id) {
            return match problem {
                Some(DecodeError::Oversized) => self.oversized(id),
                Some(_) => self.fail(id, ErrorCode::PROTOCOL_ERROR),
                None => self.message(id, end, block),
            };
        }
        if !self.server {
            self.check_not_idle(id)?;
            return Ok(());
        }
        if id.is_multiple_of(2) {
            return Err(Violation::protocol("a client opened a stream of an even number"));
        }
        if id <= self.last_opened {
            // Trailers of a request that was cut here.
            if self.cut.remove(&id) {
                return Ok(());
            }
            // Sections 5.1 and 5.1.1.
            return Err(match self.skipped.contains(id) {
                true => Violation::protocol("a client opened a stream below one that it has opened"),
                false => Violation::new(ErrorCode::STREAM_CLOSED, "HEADERS came on a stream that is over"),
            });
        }
        if self.going == Going::Final {
            // It has been told that this stream would not be looked at.
            return Ok(());
        }
        self.skipped.note(std::mem::replace(&mut self.last_opened, id), id);
        self.control_room()?;
        // Those that are over count as long as somebody holds them, but twice as many may be held.
        let held = self.streams.len();
        let most = self.limits.streams as usize;
        if held >= most && self.streams.values().filter(|s| !s.is_closed()).count() >= most {
            self.refuse(id, end, ErrorCode::REFUSED_STREAM);
            return self.mistake("it opens more streams than it may");
        }
        if held >= 2 * most {
            // It may, but those that it reset are not put away yet.
            self.refuse(id, end, ErrorCode::REFUSED_STREAM);
            return if self.resets.take(self.now) { Ok(()) } else { Err(RESETS) };
        }
        let unfit = match problem {
            Some(DecodeError::Oversized) => Some((Unfit::Oversized, "its headers are too large")),
            Some(DecodeError::Malformed(MalformedField::Authority)) => Some((Unfit::Misdirected, MALFORMED)),
            _ => None,
        };
        if let Some((unfit, what)) = unfit {
            self.mistake(what)?;
            let cost = block.cost();
            let head = block.cut_request();
            let Ok(charge) = self.payer.another(cost) else { return self.shed(id, end, head) };
            let mut stream = Stream::new(self.peer.initial_window, self.windows.confirmed());
            (stream.charge, stream.head_cost) = (charge, cost);
            (stream.head_seen, stream.oversized) = (true, unfit == Unfit::Oversized);
            stream.is_head = head.method == http::Method::HEAD;
            stream.receiving = if end { Way::Ended } else { Way::Open };
            self.streams.insert(id, stream);
            self.accepted.push_back(Incoming { id, head, unfit: Some(unfit) });
            return Ok(());
        }
        let cost = block.cost();
        let request = if problem.is_none() { block.request(self.limits.extended_connect) } else { None };
        let Some((head, Ok(length))) = request.map(|head| {
            let length = fields::content_length(&head.headers);
            (head, length)
        }) else {
            return self.malformed(id, end);
        };
        let Ok(charge) = self.payer.another(cost) else { return self.shed(id, end, head) };
        let mut stream = Stream::new(self.peer.initial_window, self.windows.confirmed());
        (stream.charge, stream.head_cost) = (charge, cost);
        (stream.head_seen, stream.is_head) = (true, head.method == http::Method::HEAD);
        // CONNECT has no body (RFC 9110, section 9.3.6).
        stream.length_left = length.filter(|_| head.method != http::Method::CONNECT);
        if end {
            stream.receiving = Way::Ended;
            if length.is_some_and(|length| length > 0) {
                return self.malformed(id, end);
            }
        }
        self.streams.insert(id, stream);
        self.accepted.push_back(Incoming { id, head, unfit: None });
        Ok(())
    }

    /// A request that is none (RFC 9113, section 8.1.1). It is handed over to be counted.
    #[cold]
    fn malformed(&mut self, id: u32, end: bool) -> Result<(), Violation> {
        self.refuse(id, end, ErrorCode::PROTOCOL_ERROR);
        let (head, ()) = http::Request::new(()).into_parts();
        self.accepted.push_back(Incoming { id, head, unfit: Some(Unfit::Malformed) });
        self.mistake(MALFORMED)
    }

    /// A request for which there is no memory: it is handed over to be answered, with little of its head.
    #[cold]
    fn shed(&mut self, id: u32, end: bool, head: request::Parts) -> Result<(), Violation> {
        let mut stream = Stream::new(self.peer.initial_window, self.windows.confirmed());
        (stream.head_seen, stream.is_head) = (true, head.method == http::Method::HEAD);
        // Its body is on its way, and is thrown away.
        stream.receiver_held = false;
        stream.receiving = if end { Way::Ended } else { Way::Open };
        self.streams.insert(id, stream);
        let head = fields::outline(head);
        self.accepted.push_back(Incoming { id, head, unfit: Some(Unfit::Unaffordable) });
        Ok(())
    }

    /// Resets a stream that was not let in. `end`: nothing more comes on it.
    #[cold]
    fn refuse(&mut self, id: u32, end: bool, code: ErrorCode) {
        frame::number(&mut self.out.bytes, kind::RST_STREAM, id, code.0);
        if !end {
            self.cut(id);
        }
    }

    /// Notes that a request was ended before its end: its trailers may still come, once.
    pub(super) fn cut(&mut self, id: u32) {
        self.cut.insert(id);
        // More than that are not on their way, but of a peer that opens streams for nothing else.
        if self.cut.len() > 2 * self.limits.streams as usize {
            self.cut.pop_first();
        }
    }

    /// A response's head, or trailers, that are larger than is taken.
    #[cold]
    fn oversized(&mut self, id: u32) -> Result<(), Violation> {
        let server = self.server;
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.reset.is_some() {
            return Ok(());
        }
        stream.oversized = true;
        if !server {
            return self.fail(id, ErrorCode::CANCEL);
        }
        // The request can still be answered.
        stream.receiving = Way::Ended;
        stream.wake_receiver();
        self.forget_if_done(id);
        self.mistake("its headers are too large")
    }

    /// A header block on a stream that is known: a response's head, or trailers.
    fn message(&mut self, id: u32, end: bool, block: Block) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.reset.is_some() {
            self.cut.remove(&id);
            return Ok(());
        }
        if stream.receiving == Way::Ended {
            return self.fail(id, ErrorCode::STREAM_CLOSED);
        }
        if stream.head_seen {
            let cost = block.fields_cost();
            if cost > cost::WAITING && !stream.admits_head(cost) {
                return self.fail(id, ErrorCode::ENHANCE_YOUR_CALM);
            }
            let Some(trailers) = block.trailers().filter(|_| end) else {
                return self.fail(id, ErrorCode::PROTOCOL_ERROR);
            };
            if stream.length_left.is_some_and(|left| left > 0) {
                return self.fail(id, ErrorCode::PROTOCOL_ERROR);
            }
            stream.trailers = Some(Box::new(trailers));
        } else {
            let Some(head) = block.response() else { return self.fail(id, ErrorCode::PROTOCOL_ERROR) };
            if head.status.is_informational() {
                if end || head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                    return self.fail(id, ErrorCode::PROTOCOL_ERROR);
                }
                if !stream.interim.admits(&head.headers) {
                    self.watched.cut[Stall::Interim as usize] += 1;
                    self.reset_as(id, ResetCause::Stalled, ErrorCode::ENHANCE_YOUR_CALM);
                    return Ok(());
                }
                stream.interim_heads.push_back(head);
                stream.wake_receiver();
                return Ok(());
            }
            let Ok(length) = fields::content_length(&head.headers) else {
                return self.fail(id, ErrorCode::PROTOCOL_ERROR);
            };
            let bodiless = stream.is_head
                || head.status == http::StatusCode::NO_CONTENT
                || head.status == http::StatusCode::NOT_MODIFIED;
            let tunnel = stream.is_connect && head.status.is_success();
            if !bodiless && !tunnel && end && length.is_some_and(|length| length > 0) {
                return self.fail(id, ErrorCode::PROTOCOL_ERROR);
            }
            stream.length_left = match length {
                _ if bodiless => Some(0),
                _ if tunnel => None,
                length => length,
            };
            stream.head_seen = true;
            stream.head = Some(Box::new(head));
            if std::mem::take(&mut stream.unanswered) {
                self.unanswered -= 1;
            }
        }
        if end {
            stream.receiving = Way::Ended;
        }
        stream.wake_receiver();
        self.forget_if_done(id);
        Ok(())
    }

    /// A frame on a stream that nobody has opened is the connection's affair (RFC 9113, section 5.1).
    pub(super) fn check_not_idle(&self, id: u32) -> Result<(), Violation> {
        if self.server && self.going == Going::Final && id > self.last_opened && !id.is_multiple_of(2) {
            // Opened before the peer heard that we go (section 6.8).
            return Ok(());
        }
        let idle =
            if self.server { id.is_multiple_of(2) || id > self.last_opened } else { !self.has_opened(id) };
        if idle { Err(Violation::protocol("a frame came on a stream that is idle")) } else { Ok(()) }
    }

    /// Resets a stream because of what the peer did on it. A server can do no more of that than it was asked:
    /// one stream's fault is not held against the others (CVE-2025-8671 is about clients).
    pub(super) fn fail(&mut self, id: u32, code: ErrorCode) -> Result<(), Violation> {
        let asked = !self.server && self.streams.get(&id).is_some_and(|stream| stream.reset.is_none());
        if asked {
            self.reset_as(id, ResetCause::Malformed(code), code);
            self.faults += 1;
            return Ok(());
        }
        self.reset(id, code);
        self.mistake("it makes us reset stream after stream")
    }

    pub(super) fn mistake(&mut self, what: &'static str) -> Result<(), Violation> {
        self.control_room()?;
        self.faults += 1;
        if self.mistakes.take(self.now) {
            Ok(())
        } else {
            Err(Violation::new(ErrorCode::ENHANCE_YOUR_CALM, what))
        }
    }
}
