//! The state of one connection, and what is sent on it. It knows no socket and no clock: bytes come in by
//! [`Core::receive`](super::receive), and what is to go out stands in [`Core::out`].

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tulle_model::snapshot::FastMap;

use super::budget::Budget;
use super::error::{Ended, Error, Reason, Violation};
use super::frame::{self, flag, kind, setting};
use super::hpack::{Decoder, Encoder};
use super::receive::Input;
use super::stream::{Finish, Reset, Stream, Way, register};
use super::{Incoming, Limits};

/// Streams wait for their turn when that much is to be written already.
const OUT_LIMIT: usize = 128 << 10;
/// What one stream, and all streams of a connection, may have waiting for its turn.
const UNSENT_LIMIT: usize = 128 << 10;
const ALL_UNSENT_LIMIT: usize = 8 << 20;
/// A peer that takes nothing and makes us answer is sent away when the answers are as many bytes.
const CONTROL_LIMIT: usize = 1 << 20;
/// Buffers that grew beyond that are given back when they are empty.
const OUT_KEPT: usize = 32 << 10;
/// The most that is written in one DATA frame, whatever the peer takes.
const MAX_FRAME: usize = 64 << 10;
const TABLE_SIZE: usize = 4096;
/// The PING that is sent with the first GOAWAY of a graceful end.
pub(super) const FAREWELL: [u8; 8] = *b"farewell";

/// How far a connection is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    No,
    /// The peer was told to open nothing new, and may not have heard it yet.
    Announced,
    /// It was told which streams are the last.
    Final,
}

/// What the peer allows.
pub(super) struct PeerSettings {
    pub initial_window: i64,
    pub max_frame: usize,
    pub max_streams: usize,
    pub extended_connect: bool,
}

pub(super) struct Core {
    pub server: bool,
    pub limits: Limits,
    pub out: Out,
    pub input: Input,
    pub encoder: Encoder,
    pub decoder: Decoder,
    pub streams: FastMap<u32, Stream>,
    /// The highest stream that the peer opened (servers).
    pub last_opened: u32,
    /// The next stream that we open (clients).
    next_stream: u32,
    pub send_window: i64,
    pub receive_window: i64,
    unannounced: u32,
    pub peer: PeerSettings,
    pub settings_seen: bool,
    /// Streams that wait for the connection, its window or the buffer to be written, in the order of their
    /// turns.
    waiting: VecDeque<u32>,
    /// What waits on all streams.
    pub unsent: usize,
    /// Requests that nobody has taken yet (servers).
    pub accepted: VecDeque<Incoming>,
    driver: Option<Waker>,
    pings_sent: u64,
    pings_answered: u64,
    pinger: Option<Waker>,
    /// Who waits to open a stream.
    openers: Vec<Waker>,
    pub going: Going,
    /// The peer goes away.
    pub peer_going: bool,
    pub ended: Option<Ended>,
    pub resets: Budget,
    pub mistakes: Budget,
    pub now: Duration,
}

impl Core {
    pub(super) fn new(server: bool, limits: Limits) -> Self {
        let mut out = Out::default();
        if !server {
            out.bytes.extend_from_slice(frame::PREFACE);
        }
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
            (setting::MAX_FRAME_SIZE, limits.frame),
            (setting::MAX_HEADER_LIST_SIZE, limits.header_list),
        ];
        if server {
            settings.push((setting::MAX_CONCURRENT_STREAMS, limits.streams));
            if limits.extended_connect {
                settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
            }
        } else {
            settings.push((setting::ENABLE_PUSH, 0));
        }
        frame::settings(&mut out.bytes, &settings);
        let grown = limits.connection_window.saturating_sub(frame::DEFAULT_WINDOW);
        if grown > 0 {
            frame::number(&mut out.bytes, kind::WINDOW_UPDATE, 0, grown);
        }
        Self {
            server,
            limits,
            out,
            input: Input::new(server),
            encoder: Encoder::new(),
            decoder: Decoder::new(TABLE_SIZE),
            streams: FastMap::default(),
            last_opened: 0,
            next_stream: 1,
            send_window: i64::from(frame::DEFAULT_WINDOW),
            receive_window: i64::from(limits.connection_window.max(frame::DEFAULT_WINDOW)),
            unannounced: 0,
            peer: PeerSettings {
                initial_window: i64::from(frame::DEFAULT_WINDOW),
                max_frame: frame::DEFAULT_FRAME,
                // RFC 9113, section 6.5.2: no limit until the peer says so; nobody means that.
                max_streams: 100,
                extended_connect: false,
            },
            settings_seen: false,
            waiting: VecDeque::new(),
            unsent: 0,
            accepted: VecDeque::new(),
            driver: None,
            pings_sent: 0,
            pings_answered: 0,
            pinger: None,
            openers: Vec::new(),
            going: Going::No,
            peer_going: false,
            ended: None,
            resets: Budget::new(200, 100),
            mistakes: Budget::new(1000, 200),
            now: Duration::ZERO,
        }
    }

    pub(super) fn register_driver(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
    }

    /// Has what stands in `out` written.
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Whether new streams may be opened by us, now or when others end.
    pub(super) fn takes_streams(&self) -> bool {
        self.ended.is_none() && !self.peer_going && self.going == Going::No && self.next_stream < 1 << 30
    }

    /// Waits until a stream can be opened.
    pub(super) fn poll_open(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(Error::Connection(ended.clone())));
        }
        if !self.takes_streams() {
            return Poll::Ready(Err(Error::Unavailable));
        }
        if self.streams.len() < self.peer.max_streams {
            return Poll::Ready(Ok(()));
        }
        if !self.openers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.openers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn wake_openers(&mut self) {
        for waker in self.openers.drain(..) {
            waker.wake();
        }
    }

    /// The number of a stream that we open. Its head is written by the caller.
    pub(super) fn open(&mut self) -> Result<u32, Error> {
        if let Some(ended) = &self.ended {
            return Err(Error::Connection(ended.clone()));
        }
        if !self.takes_streams() || self.streams.len() >= self.peer.max_streams {
            return Err(Error::Unavailable);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.streams.insert(id, Stream::new(self.peer.initial_window, self.limits.stream_window));
        Ok(id)
    }

    /// Whether a stream is one that we have opened.
    pub(super) fn has_opened(&self, id: u32) -> bool {
        !id.is_multiple_of(2) && id < self.next_stream
    }

    /// Why nothing more can be sent on or come from a stream.
    pub(super) fn failure(&self, id: u32) -> Option<Error> {
        match self.streams.get(&id).map(|stream| stream.reset) {
            Some(None) => self.ended.clone().map(Error::Connection),
            Some(Some(Reset::ByPeer(reason))) => Some(Error::Reset(reason)),
            Some(Some(Reset::Here(reason))) => Some(Error::ResetHere(reason)),
            Some(Some(Reset::NotProcessed)) => Some(Error::NotProcessed),
            None => Some(Error::ResetHere(Reason::STREAM_CLOSED)),
        }
    }

    /// Writes a header block, in as many frames as it needs. `encode` writes the fields.
    pub(super) fn send_block(&mut self, id: u32, end: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let out = &mut self.out.bytes;
        let start = out.len();
        frame::head(out, 0, kind::HEADERS, if end { flag::END_STREAM } else { 0 }, id);
        self.encoder.begin(out);
        encode(&mut self.encoder, out);
        let length = out.len() - start - frame::HEADER;
        if length <= self.peer.max_frame {
            let [_, a, b, c] = (length as u32).to_be_bytes();
            out[start..start + 3].copy_from_slice(&[a, b, c]);
            out[start + 4] |= flag::END_HEADERS;
        } else {
            let block = out.split_off(start + frame::HEADER);
            out.truncate(start);
            let last = block.len().div_ceil(self.peer.max_frame) - 1;
            for (number, part) in block.chunks(self.peer.max_frame).enumerate() {
                let mut flags = if number == last { flag::END_HEADERS } else { 0 };
                if number == 0 && end {
                    flags |= flag::END_STREAM;
                }
                let kind = if number == 0 { kind::HEADERS } else { kind::CONTINUATION };
                frame::head(out, part.len(), kind, flags, id);
                out.extend_from_slice(part);
            }
        }
        if end {
            self.sent_end(id);
        }
        self.wake_driver();
    }

    pub(super) fn send_trailers(&mut self, id: u32, trailers: &HeaderMap) -> Result<(), Error> {
        if let Some(failure) = self.failure(id) {
            return Err(failure);
        }
        match self.streams.get_mut(&id) {
            Some(stream) if stream.unsent_length > 0 => {
                stream.finish = Some(Finish::Trailers(Box::new(trailers.clone())));
                stream.sending = Way::Ended;
            }
            _ => self.write_trailers(id, trailers),
        }
        Ok(())
    }

    fn write_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        self.send_block(id, true, |encoder, out| {
            for (name, value) in trailers {
                encoder.header(name, value, out);
            }
        });
    }

    /// Waits until something may be sent on a stream; gives how much.
    pub(super) fn poll_room(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<usize, Error>> {
        if let Some(failure) = self.failure(id) {
            return Poll::Ready(Err(failure));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Pending };
        // Also for resets, which may come at any time.
        register(&mut stream.sender, cx);
        let window = usize::try_from(stream.send_window).unwrap_or(0).saturating_sub(stream.unsent_length);
        if window == 0 {
            return Poll::Pending;
        }
        if stream.unsent_length == 0 && self.send_window > 0 && self.out.len() < OUT_LIMIT {
            return Poll::Ready(Ok(window.min(self.send_window as usize).min(OUT_LIMIT)));
        }
        if stream.unsent_length < UNSENT_LIMIT && self.unsent < ALL_UNSENT_LIMIT {
            return Poll::Ready(Ok(window.min(UNSENT_LIMIT - stream.unsent_length)));
        }
        self.await_turn(id);
        Poll::Pending
    }

    /// Sends what there is room for, and leaves the rest in `data`.
    pub(super) fn send_data(&mut self, id: u32, data: &mut Bytes, end: bool) {
        let waits = self.streams.get(&id).is_none_or(|stream| stream.unsent_length > 0);
        if !waits && self.write_data(id, data, end) {
            self.sent_end(id);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending == Way::Ended {
            return;
        }
        if !data.is_empty() {
            let window = usize::try_from(stream.send_window).unwrap_or(0);
            let room = window.min(UNSENT_LIMIT).saturating_sub(stream.unsent_length);
            let kept = data.split_to(data.len().min(room));
            if !kept.is_empty() {
                stream.unsent_length += kept.len();
                self.unsent += kept.len();
                stream.unsent.push_back(kept);
                self.await_turn(id);
            }
        }
        if end
            && data.is_empty()
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.sending = Way::Ended;
            stream.finish = Some(Finish::End);
            if stream.unsent_length == 0 {
                self.send_unsent(id);
            }
        }
    }

    /// Writes as much as the windows and the buffer take; whether that was the stream's end.
    fn write_data(&mut self, id: u32, data: &mut Bytes, end: bool) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let most = self.peer.max_frame.min(MAX_FRAME);
        let mut ended = false;
        loop {
            let room = stream.send_window.min(self.send_window).max(0) as usize;
            let length = data.len().min(room).min(most);
            let blocked = length == 0 || self.out.len() >= OUT_LIMIT;
            if if data.is_empty() { !end } else { blocked } {
                break;
            }
            ended = end && length == data.len();
            let out = &mut self.out.bytes;
            frame::head(out, length, kind::DATA, if ended { flag::END_STREAM } else { 0 }, id);
            out.extend_from_slice(&data[..length]);
            data.advance(length);
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            if data.is_empty() {
                break;
            }
        }
        self.wake_driver();
        ended
    }

    /// Sends what waits on a stream, as far as it may; then wakes its sender.
    pub(super) fn send_unsent(&mut self, id: u32) {
        loop {
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let Some(mut data) = stream.unsent.pop_front() else { break };
            let before = data.len();
            self.write_data(id, &mut data, false);
            let sent = before - data.len();
            self.unsent -= sent;
            let Some(stream) = self.streams.get_mut(&id) else { return };
            stream.unsent_length -= sent;
            if !data.is_empty() {
                stream.unsent.push_front(data);
                if stream.send_window > 0 {
                    self.await_turn(id);
                }
                break;
            }
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.wake_sender();
        if stream.unsent_length == 0
            && let Some(finish) = stream.finish.take()
        {
            match finish {
                Finish::End => {
                    frame::head(&mut self.out.bytes, 0, kind::DATA, flag::END_STREAM, id);
                    self.sent_end(id);
                }
                Finish::Trailers(trailers) => self.write_trailers(id, &trailers),
            }
            self.wake_driver();
        }
    }

    fn await_turn(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.waits_for_connection
        {
            stream.waits_for_connection = true;
            self.waiting.push_back(id);
        }
    }

    fn sent_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.sending = Way::Ended;
        if self.server && stream.receiving == Way::Open && !stream.receiver_held {
            // Nobody will read the rest of the request, and the peer need not send it.
            return self.reset(id, Reason::NO_ERROR);
        }
        self.forget_if_done(id);
    }

    /// Resets a stream, unless it is over.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_closed() || self.ended.is_some() {
            return self.forget_if_done(id);
        }
        stream.reset = Some(Reset::Here(reason));
        self.unsent -= stream.discard_unsent();
        stream.wake_sender();
        stream.wake_receiver();
        let unread: usize = stream.data.iter().map(Bytes::len).sum();
        stream.data.clear();
        frame::number(&mut self.out.bytes, kind::RST_STREAM, id, reason.0);
        self.consumed(0, unread);
        self.forget_if_done(id);
        self.wake_driver();
    }

    /// Forgets a stream that is over and that nobody holds.
    pub(super) fn forget_if_done(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        if !(stream.is_closed() || self.ended.is_some()) || stream.receiver_held || stream.sender_held {
            return;
        }
        self.streams.remove(&id);
        self.wake_openers();
        if self.going != Going::No || self.peer_going {
            self.wake_driver();
        }
    }

    /// Says that bytes of a stream were taken, so that the peer may send more. Stream 0: of none that
    /// there is any longer.
    pub(super) fn consumed(&mut self, id: u32, count: usize) {
        let count = count as u32;
        self.unannounced += count;
        let mut told = false;
        if self.unannounced >= self.limits.connection_window.max(frame::DEFAULT_WINDOW) / 2 {
            frame::number(&mut self.out.bytes, kind::WINDOW_UPDATE, 0, self.unannounced);
            self.receive_window += i64::from(self.unannounced);
            self.unannounced = 0;
            told = true;
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.receiving == Way::Open
            && stream.reset.is_none()
        {
            stream.unannounced += count;
            if stream.unannounced >= self.limits.stream_window / 2 {
                frame::number(&mut self.out.bytes, kind::WINDOW_UPDATE, id, stream.unannounced);
                stream.receive_window += i64::from(stream.unannounced);
                stream.unannounced = 0;
                told = true;
            }
        }
        if told {
            self.wake_driver();
        }
    }

    /// Gives the streams that wait for the connection their turns, as far as it goes.
    pub(super) fn give_turns(&mut self) {
        for _ in 0..self.waiting.len() {
            if self.send_window <= 0 || self.out.len() >= OUT_LIMIT {
                return;
            }
            let Some(id) = self.waiting.pop_front() else { return };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits_for_connection = false;
                self.send_unsent(id);
            }
        }
    }

    /// An answer to something that the peer sent: it must not be made to buffer them without end.
    pub(super) fn control_room(&self) -> Result<(), Violation> {
        if self.out.len() > CONTROL_LIMIT {
            return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, "it takes no answers to what it asks"));
        }
        Ok(())
    }

    /// Sends a PING; its number.
    pub(super) fn ping(&mut self) -> u64 {
        self.pings_sent += 1;
        frame::ping(&mut self.out.bytes, false, self.pings_sent.to_be_bytes());
        self.wake_driver();
        self.pings_sent
    }

    pub(super) fn pong(&mut self, payload: [u8; 8]) {
        if payload == FAREWELL && self.going == Going::Announced {
            return self.say_last();
        }
        let number = u64::from_be_bytes(payload);
        if number <= self.pings_sent {
            self.pings_answered = self.pings_answered.max(number);
        }
        if let Some(waker) = self.pinger.take() {
            waker.wake();
        }
    }

    pub(super) fn poll_pong(&mut self, number: u64, cx: &Context<'_>) -> Poll<Result<(), Ended>> {
        if self.pings_answered >= number {
            return Poll::Ready(Ok(()));
        }
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(ended.clone()));
        }
        register(&mut self.pinger, cx);
        Poll::Pending
    }

    /// Begins a graceful end: what is under way is finished (RFC 9113, section 6.8). A server first says
    /// that it goes, and names the last stream when the peer is sure to have heard.
    pub(super) fn go(&mut self) {
        if self.going != Going::No || self.ended.is_some() {
            return;
        }
        if self.server {
            self.going = Going::Announced;
            frame::go_away(&mut self.out.bytes, frame::MAX_WINDOW as u32, Reason::NO_ERROR.0, "");
            frame::ping(&mut self.out.bytes, false, FAREWELL);
        } else {
            self.say_last();
        }
        self.wake_driver();
    }

    fn say_last(&mut self) {
        self.going = Going::Final;
        frame::go_away(&mut self.out.bytes, self.last_opened, Reason::NO_ERROR.0, "");
        self.wake_driver();
    }

    /// Everything is done that was to be done before the connection may be closed.
    pub(super) fn is_spent(&self) -> bool {
        (self.going == Going::Final || self.peer_going)
            && self.streams.values().all(Stream::is_closed)
            && self.accepted.is_empty()
    }

    /// The connection is over; everybody who waits on it is told.
    pub(super) fn end(&mut self, ended: Ended) {
        if self.ended.is_some() {
            return;
        }
        if let Ended::Violation(violation) = &ended {
            frame::go_away(&mut self.out.bytes, self.last_opened, violation.reason.0, violation.what);
        }
        self.ended = Some(ended);
        self.accepted.clear();
        for stream in self.streams.values_mut() {
            stream.discard_unsent();
            stream.wake_receiver();
            stream.wake_sender();
        }
        self.streams.retain(|_, stream| stream.receiver_held || stream.sender_held);
        self.waiting.clear();
        self.unsent = 0;
        self.wake_openers();
        if let Some(waker) = self.pinger.take() {
            waker.wake();
        }
        self.wake_driver();
    }
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Out {
    pub bytes: Vec<u8>,
    written: usize,
}

impl Out {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written == self.bytes.len() {
            self.written = 0;
            if self.bytes.capacity() > OUT_KEPT {
                self.bytes = Vec::new();
            }
            self.bytes.clear();
        } else if self.written > OUT_LIMIT {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}
