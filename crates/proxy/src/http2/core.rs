//! The state of one connection, and what is sent on it. It knows no socket and no clock: bytes come in by
//! [`Core::receive`](super::receive), and what is to go out stands in [`Core::out`].

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tulle_model::snapshot::FastMap;

use super::budget::TokenBucket;
use super::error::{Ended, Error, ErrorCode, Violation};
use super::frame::{self, kind, setting};
use super::hpack::{Decoder, Encoder};
use super::input::FrameInput;
use super::interim::Interims;
use super::line::Line;
use super::memory::Windows;
use super::out::Out;
use super::skipped::Skipped;
use super::stalled::ConnectionStalls;
use super::stream::{ResetCause, Stream, Way, register};
use super::{Incoming, Limits, WhenReset};
use crate::budget::Charge;

/// Streams wait for their turn when that much is to be written already.
pub(super) const OUT_LIMIT: usize = 128 << 10;
/// A peer that takes nothing and makes us answer is sent away when the answers are as many bytes; and it is
/// sent no new requests while as much waits.
pub(super) const CONTROL_LIMIT: usize = 1 << 20;
/// So many windows of the connection may be buffered for readers.
const BUFFERED_WINDOWS: usize = 4;
const TABLE_SIZE: usize = 4096;
/// So many streams may be held at least, twice what the peer allows otherwise: those that are over, and whose
/// answers are still to be read, among them (clients).
const MIN_HELD: usize = 200;
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
    /// The largest header list that it takes.
    pub header_list: usize,
    /// It takes extended CONNECT (RFC 8441, section 3; servers).
    pub extended_connect: bool,
}

pub(super) struct Core {
    pub server: bool,
    pub limits: Limits,
    pub out: Out,
    pub input: FrameInput,
    /// Interim answers that wait for room.
    pub interims: Interims,
    pub encoder: Encoder,
    pub decoder: Decoder,
    pub streams: FastMap<u32, Stream>,
    /// The highest stream that the peer opened (servers).
    pub last_opened: u32,
    /// Those below it that the peer did not open (servers).
    pub skipped: Skipped,
    /// The next stream that we open (clients).
    pub next_stream: u32,
    pub send_window: i64,
    pub receive_window: i64,
    unannounced: u32,
    /// What has come and nobody has read, and how much of it the peer was not given room for again.
    buffered: usize,
    uncredited: usize,
    pub peer: PeerSettings,
    pub settings_seen: bool,
    /// Streams that wait for the connection, its window or the buffer to be written, in the order of their
    /// turns.
    pub waiting: VecDeque<u32>,
    /// The socket takes nothing for now: what is to be sent has to wait somewhere.
    pub socket_full: bool,
    /// What waits on all streams.
    pub unsent: usize,
    /// Requests that nobody has taken yet (servers).
    pub accepted: VecDeque<Incoming>,
    driver: Option<Waker>,
    pings_sent: u64,
    pings_answered: u64,
    pinger: Option<Waker>,
    /// Who waits to open a stream, here or on another connection to the same peer (clients).
    pub line: Option<Rc<Line>>,
    /// Streams opened here that are not over (clients).
    pub open: usize,
    /// The peer refused one when so many others were open: it takes no more for now, whatever it said.
    pub refused_beside: Option<usize>,
    pub going: Going,
    /// The peer goes away.
    pub peer_going: bool,
    /// With that error, if it said one.
    pub peer_code: Option<ErrorCode>,
    pub ended: Option<Ended>,
    /// Heads that have come so far, and their fields.
    pub fields: u64,
    /// Who pays for what the connection takes; its own buffers are charged here, streams charge theirs.
    pub payer: Charge,
    pub windows: Windows,
    /// What is watched for progress.
    pub watched: ConnectionStalls,
    pub resets: TokenBucket,
    /// We have reset as many streams as we may (clients that leave then).
    resets_spent: bool,
    /// Streams that could still be reset before they are answered (clients).
    pub unanswered: usize,
    /// The latest requests that we ended before their end, which may be on its way (servers).
    pub cut: BTreeSet<u32>,
    pub mistakes: TokenBucket,
    /// What the peer did wrong that was put up with.
    pub faults: u64,
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
            input: FrameInput::new(server),
            interims: Interims::default(),
            encoder: Encoder::new(),
            decoder: Decoder::new(TABLE_SIZE).knowing(limits.names),
            streams: FastMap::default(),
            last_opened: 0,
            skipped: Skipped::default(),
            next_stream: 1,
            send_window: i64::from(frame::DEFAULT_WINDOW),
            receive_window: i64::from(limits.connection_window.max(frame::DEFAULT_WINDOW)),
            unannounced: 0,
            buffered: 0,
            uncredited: 0,
            peer: PeerSettings {
                initial_window: i64::from(frame::DEFAULT_WINDOW),
                max_frame: frame::DEFAULT_FRAME,
                // RFC 9113, section 6.5.2: no limit until the peer says so. Nobody means that: one stream
                // goes ahead, so that no round trip is lost, and the others wait for what it says.
                max_streams: 1,
                header_list: usize::MAX,
                extended_connect: false,
            },
            settings_seen: false,
            waiting: VecDeque::new(),
            socket_full: false,
            unsent: 0,
            accepted: VecDeque::new(),
            driver: None,
            pings_sent: 0,
            pings_answered: 0,
            pinger: None,
            line: None,
            open: 0,
            refused_beside: None,
            going: Going::No,
            peer_going: false,
            peer_code: None,
            ended: None,
            fields: 0,
            payer: Charge::default(),
            windows: Windows::new(limits.stream_window),
            watched: ConnectionStalls::default(),
            resets: TokenBucket::new(limits.resets, limits.resets_per_second),
            resets_spent: false,
            unanswered: 0,
            cut: BTreeSet::new(),
            mistakes: TokenBucket::new(1000, 200),
            faults: 0,
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
        self.ended.is_none()
            && !self.peer_going
            && self.going == Going::No
            && self.next_stream < 1 << 30
            && !self.resets_spent
    }

    /// Has the first of those look who wait for a stream: things have changed.
    pub(super) fn call_next(&self) {
        if let Some(line) = &self.line {
            line.call();
        }
    }

    /// The same where there is a place now.
    pub(super) fn offer_room(&self) {
        if let Some(line) = &self.line
            && !line.is_empty()
            && self.has_room()
        {
            line.call();
        }
    }

    /// Whether a stream can be opened now: the peer allows it, takes what we send, and can still answer.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many streams can be opened now.
    pub(super) fn room(&self) -> usize {
        let fit = self.takes_streams()
            && self.out.len() < CONTROL_LIMIT
            && (self.windows.unheard || self.uncredited <= self.connection_window() as usize / 2);
        if !fit {
            return 0;
        }
        // What has come and nobody has read yet is not the peer's concern, but ours.
        let held = self.peer.max_streams.saturating_mul(2).max(MIN_HELD).saturating_sub(self.streams.len());
        self.most_streams().saturating_sub(self.open).min(held).min(self.resets_left())
    }

    fn connection_window(&self) -> u32 {
        self.limits.connection_window.max(frame::DEFAULT_WINDOW)
    }

    /// What is buffered; and how much of the connection's window was taken and is to be given back, at once and
    /// when readers have taken something.
    #[cfg(any(test, fuzzing))]
    pub(super) fn receiving_account(&self) -> (usize, u32, usize) {
        (self.buffered, self.unannounced, self.uncredited)
    }

    /// The number of a stream that we open. Its head is written by the caller.
    pub(super) fn open(&mut self) -> Result<u32, Error> {
        if let Some(ended) = &self.ended {
            return Err(Error::Connection(ended.clone()));
        }
        if !self.has_room() {
            return Err(Error::Unavailable);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.open += 1;
        let mut stream = Stream::new(self.peer.initial_window, self.windows.told());
        stream.opened_as = self.open;
        stream.charge = self.payer.nothing();
        stream.unanswered = true;
        self.unanswered += 1;
        self.streams.insert(id, stream);
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
            Some(Some(ResetCause::ByPeer(code))) => Some(Error::Reset(code)),
            Some(Some(ResetCause::Here(code))) => Some(Error::ResetHere(code)),
            Some(Some(ResetCause::Malformed(code))) => Some(Error::Malformed(code)),
            Some(Some(ResetCause::NotProcessed)) => Some(Error::NotProcessed),
            Some(Some(ResetCause::Full)) => Some(Error::Full),
            Some(Some(ResetCause::Stalled)) => Some(Error::Stalled),
            None => Some(Error::ResetHere(ErrorCode::STREAM_CLOSED)),
        }
    }

    /// Resets a stream, unless it is over.
    pub(super) fn reset(&mut self, id: u32, code: ErrorCode) {
        self.reset_as(id, ResetCause::Here(code), code);
    }

    /// The same; `why` is for those who hold the stream.
    pub(super) fn reset_as(&mut self, id: u32, why: ResetCause, code: ErrorCode) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_closed() || self.ended.is_some() {
            return self.forget_if_done(id);
        }
        stream.reset = Some(why);
        self.interims.forget(id);
        let cut = self.server && stream.receiving == Way::Open;
        if !self.server && stream.unanswered && !self.resets.take(self.now) {
            self.resets_spent = self.limits.when_reset == WhenReset::Leave;
        }
        self.unsent -= stream.discard_unsent();
        stream.wake_sender();
        stream.wake_receiver();
        let mut unread: usize = stream.data.iter().map(Bytes::len).sum();
        if unread > 0 {
            // Whoever still reads must not take what came before for all of it.
            stream.receiving = Way::Open;
        }
        if matches!(why, ResetCause::Malformed(_)) && stream.receiver_held {
            // What came before the mistake can still be read.
            unread = 0;
        } else {
            stream.data.clear();
            stream.took(unread);
        }
        frame::number(&mut self.out.bytes, kind::RST_STREAM, id, code.0);
        if cut {
            self.cut(id);
        }
        self.read(0, unread);
        self.forget_if_done(id);
        self.wake_driver();
    }

    /// A stream that we opened is answered or over: nobody can reset it early any more.
    pub(super) fn answered(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && std::mem::take(&mut stream.unanswered)
        {
            self.unanswered -= 1;
        }
    }

    /// How many streams more could be reset, if all that are open are.
    fn resets_left(&self) -> usize {
        match self.limits.when_reset {
            WhenReset::Wait => self.resets.left().saturating_sub(self.unanswered),
            WhenReset::Leave => usize::MAX,
        }
    }

    /// Whether new streams have to wait for [`Core::pass_time`], and nothing else.
    pub(super) fn waits_for_time(&self) -> bool {
        !self.server && self.resets_left() == 0 && self.takes_streams()
    }

    /// Whether streams were reset by us of late, so that time makes a difference.
    pub(super) fn counts_resets(&self) -> bool {
        !self.server && !self.resets.is_full()
    }

    /// Time has passed: more streams may be reset.
    pub(super) fn pass_time(&mut self, now: Duration) {
        if self.counts_resets() {
            let waited = self.waits_for_time();
            self.now = now;
            self.resets.fill(now);
            if waited {
                self.call_next();
            }
        }
    }

    /// Gives the place of a stream that is over to the next, and forgets it when nobody holds it any more.
    pub(super) fn forget_if_done(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| stream.unanswered && stream.is_closed()) {
            self.answered(id);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !(stream.is_closed() || self.ended.is_some()) {
            return;
        }
        let refused = stream.reset == Some(ResetCause::Full);
        let held = stream.receiver_held || stream.sender_held;
        if std::mem::take(&mut stream.opened_as) > 0 {
            self.open -= 1;
            if !refused {
                self.refused_beside = None;
            }
        }
        if !held {
            self.streams.remove(&id);
            if self.going != Going::No || self.peer_going {
                self.wake_driver();
            }
        }
        self.offer_room();
    }

    /// How many streams the peer takes at a time, as far as is known.
    pub(super) fn most_streams(&self) -> usize {
        self.peer.max_streams.min(self.refused_beside.unwrap_or(usize::MAX))
    }

    /// Data has come for a reader. The connection's window is given back at once, so that readers that are
    /// slow stop their own streams and no other; up to a limit, which holds for all that is buffered. Where memory is
    /// short, a peer that has not heard of it gets no more either: what it sends would have no place.
    pub(super) fn arrived(&mut self, count: usize) {
        self.buffered += count;
        if self.buffered <= self.buffer_limit() && !self.windows.unheard {
            self.credit(count as u32);
        } else {
            self.uncredited += count;
        }
    }

    /// Gives back what was kept of the connection's window.
    #[cold]
    pub(super) fn return_window(&mut self) {
        self.windows.unheard = false;
        let owed = self.uncredited.saturating_sub(self.buffered.saturating_sub(self.buffer_limit()));
        self.uncredited -= owed;
        self.credit(owed as u32);
        self.offer_room();
    }

    /// So much may be buffered for readers before the connection's window shrinks.
    fn buffer_limit(&self) -> usize {
        BUFFERED_WINDOWS * self.connection_window() as usize
    }

    /// A reader has taken that much, or nobody will. Stream 0: one that there is no longer.
    pub(super) fn read(&mut self, id: u32, count: usize) {
        self.buffered = self.buffered.saturating_sub(count);
        let owed = count.min(self.uncredited);
        self.credit_stream(id, count as u32);
        if owed > 0 {
            self.uncredited -= owed;
            self.credit(owed as u32);
            self.offer_room();
        }
    }

    /// The peer may send so many bytes more on the connection.
    pub(super) fn credit(&mut self, count: u32) {
        self.unannounced += count;
        if self.unannounced >= self.connection_window() / 2 {
            frame::number(&mut self.out.bytes, kind::WINDOW_UPDATE, 0, self.unannounced);
            self.receive_window += i64::from(self.unannounced);
            self.unannounced = 0;
            self.wake_driver();
        }
    }

    /// The peer may send so many bytes more on a stream, if it still sends there.
    pub(super) fn credit_stream(&mut self, id: u32, count: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.receiving == Way::Open
            && stream.reset.is_none()
        {
            stream.unannounced += count;
            if stream.unannounced >= self.windows.told() / 2 {
                frame::number(&mut self.out.bytes, kind::WINDOW_UPDATE, id, stream.unannounced);
                stream.receive_window += i64::from(stream.unannounced);
                stream.unannounced = 0;
                self.wake_driver();
            }
        }
    }

    /// An answer to something that the peer sent: it must not be made to buffer them without end. Large heads
    /// of messages are none of the peer's doing.
    pub(super) fn control_room(&self) -> Result<(), Violation> {
        if self.out.len().saturating_sub(self.out.heads_length) > CONTROL_LIMIT {
            return Err(Violation::new(ErrorCode::ENHANCE_YOUR_CALM, "it takes no answers to what it asks"));
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
            self.call_next();
            frame::go_away(&mut self.out.bytes, frame::MAX_WINDOW as u32, ErrorCode::NO_ERROR.0, "");
            frame::ping(&mut self.out.bytes, false, FAREWELL);
        } else {
            self.say_last();
        }
        self.wake_driver();
    }

    fn say_last(&mut self) {
        self.going = Going::Final;
        self.call_next();
        frame::go_away(&mut self.out.bytes, self.last_opened, ErrorCode::NO_ERROR.0, "");
        self.wake_driver();
    }

    /// Everything is done that was to be done before the connection may be closed.
    pub(super) fn is_spent(&self) -> bool {
        (self.going == Going::Final || self.peer_going)
            && self.streams.values().all(Stream::is_closed)
            && self.accepted.is_empty()
    }

    /// How the connection ends when there is nothing more to do on it.
    pub(super) fn end_in_order(&mut self) {
        self.end(self.peer_code.map_or(Ended::Closed, Ended::ByPeer));
    }

    /// The connection is over; everybody who waits on it is told.
    pub(super) fn end(&mut self, ended: Ended) {
        if self.ended.is_some() {
            return;
        }
        if let Ended::Violation(violation) = &ended {
            frame::go_away(&mut self.out.bytes, self.last_opened, violation.code.0, violation.what);
        }
        self.ended = Some(ended);
        for incoming in std::mem::take(&mut self.accepted) {
            if let Some(stream) = self.streams.get_mut(&incoming.id) {
                (stream.receiver_held, stream.sender_held) = (false, false);
            }
        }
        for stream in self.streams.values_mut() {
            stream.discard_unsent();
            stream.wake_receiver();
            stream.wake_sender();
        }
        self.streams.retain(|_, stream| stream.receiver_held || stream.sender_held);
        self.interims = Interims::default();
        self.waiting.clear();
        self.unsent = 0;
        self.call_next();
        if let Some(waker) = self.pinger.take() {
            waker.wake();
        }
        self.wake_driver();
    }
}
