//! What is known of one stream.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, response};

use super::error::ErrorCode;
use super::stalled::Still;
use crate::budget::{Charge, cost};
use crate::pieces;
use crate::progress::Interim;

/// How one way of a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// END_STREAM has passed, or waits to be sent.
    Ended,
}

/// Who reset a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetCause {
    ByPeer(ErrorCode),
    Here(ErrorCode),
    /// The same, for what the peer answered (clients).
    Malformed(ErrorCode),
    /// The peer goes away without having looked at it.
    NotProcessed,
    /// The peer refused it: as many are open as it takes at a time.
    Full,
    /// The peer did not go on with what it sent, or does not take what is sent.
    Stalled,
}

/// What a stream holds of data beyond that is charged, in such steps.
const UNCHARGED: usize = 2 << 10;
const STEP: usize = 16 << 10;

/// How a stream ends once everything before is sent.
pub(super) enum Finish {
    End,
    Trailers(Box<HeaderMap>),
    /// What was to be sent broke after that.
    Reset(ErrorCode),
}

pub(super) struct Stream {
    /// What the peer sends us.
    pub receiving: Way,
    /// What we send.
    pub sending: Way,
    pub reset: Option<ResetCause>,
    /// How many were open when we had opened it; 0 when it is not among them (any more).
    pub opened_as: usize,
    /// Interim answers that came and were not taken (clients).
    pub interim_heads: VecDeque<response::Parts>,
    /// The head of the response, until it is taken (clients).
    pub head: Option<Box<response::Parts>>,
    /// A head has come: the next one are trailers.
    pub head_seen: bool,
    /// A head or trailers came that are larger than is taken.
    pub oversized: bool,
    /// Empty frames that came.
    pub empty_frames: u8,
    /// A request's head was answered (servers).
    pub answered: bool,
    /// It was opened here and is neither answered nor reset: it could be reset (clients).
    pub unanswered: bool,
    /// The answer has no body whatever its length says: it is one to HEAD.
    pub is_head: bool,
    /// The request was CONNECT: there are no lengths (RFC 9110, section 9.3.6).
    pub is_connect: bool,
    pub data: VecDeque<Bytes>,
    /// How much that is.
    pub held: usize,
    /// The memory that the stream takes: its head, as it came, and data both ways.
    pub charge: Charge,
    /// So much of that is for the head.
    pub head_cost: usize,
    pub trailers: Option<Box<HeaderMap>>,
    /// What is to be sent and had no room yet, and how the stream ends after it.
    pub unsent: VecDeque<Bytes>,
    pub unsent_length: usize,
    pub finish: Option<Finish>,
    /// What of the promised length has not come yet.
    pub length_left: Option<u64>,
    /// How much we may send.
    pub send_window: i64,
    /// How much the peer may send, and how much more it could be told that it may.
    pub receive_window: i64,
    pub unannounced: u32,
    /// Frames of data that were sent.
    pub sent: u64,
    /// So much data is at hand, with whoever sends, for which there is no room.
    pub at_hand: usize,
    /// What passes are the bytes of a connection, which may rest.
    pub is_tunnel: bool,
    /// What the peer began to send does not go on (servers).
    pub stalled: bool,
    pub receive_still: Still,
    pub send_still: Still,
    /// Interim answers that came (clients).
    pub interim: Interim,
    /// Whoever waits for something to come, and for room to send or a reset.
    pub receiver: Option<Waker>,
    pub sender: Option<Waker>,
    /// It is among those that are woken when the connection has room.
    pub waits_for_connection: bool,
    /// The receiving and the sending end are held by somebody.
    pub receiver_held: bool,
    pub sender_held: bool,
}

impl Stream {
    pub(super) fn new(send_window: i64, receive_window: u32) -> Self {
        Self {
            receiving: Way::Open,
            sending: Way::Open,
            reset: None,
            opened_as: 0,
            interim_heads: VecDeque::new(),
            head: None,
            head_seen: false,
            oversized: false,
            empty_frames: 0,
            answered: false,
            unanswered: false,
            is_head: false,
            is_connect: false,
            data: VecDeque::new(),
            held: 0,
            charge: Charge::default(),
            head_cost: 0,
            trailers: None,
            unsent: VecDeque::new(),
            unsent_length: 0,
            finish: None,
            length_left: None,
            send_window,
            receive_window: i64::from(receive_window),
            unannounced: 0,
            sent: 0,
            at_hand: 0,
            is_tunnel: false,
            stalled: false,
            receive_still: Still::default(),
            send_still: Still::default(),
            interim: Interim::default(),
            receiver: None,
            sender: None,
            waits_for_connection: false,
            receiver_held: true,
            sender_held: true,
        }
    }

    /// Neither side has anything more to say on it (RFC 9113, section 5.1).
    pub(super) fn is_closed(&self) -> bool {
        let sent = self.sending == Way::Ended && self.finish.is_none();
        self.reset.is_some() || (self.receiving == Way::Ended && sent)
    }

    /// Nothing of what waits will be sent; how much it was.
    pub(super) fn discard_unsent(&mut self) -> usize {
        self.unsent.clear();
        self.finish = None;
        std::mem::take(&mut self.unsent_length)
    }

    /// Whether that much more, which has come, may be buffered for this stream.
    pub(super) fn admits(&mut self, more: usize) -> bool {
        self.covers(more) || self.charge.resize(self.cost(more)).is_ok()
    }

    /// Whether that much more may be buffered of what can wait with whoever sends it.
    pub(super) fn admits_spare(&mut self, more: usize) -> bool {
        self.covers(more) || self.charge.try_resize(self.cost(more))
    }

    /// Whether trailers of that cost may be held.
    pub(super) fn admits_head(&mut self, cost: usize) -> bool {
        let admitted = self.charge.resize(self.charge.bytes() + cost).is_ok();
        self.head_cost += if admitted { cost } else { 0 };
        admitted
    }

    /// Whether what is held is charged, but for the little that need not be.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_paid(&self) -> bool {
        self.covers(0)
    }

    fn covers(&self, more: usize) -> bool {
        self.data() + more <= self.charge.bytes() - self.head_cost + UNCHARGED
    }

    #[cold]
    fn cost(&self, more: usize) -> usize {
        self.head_cost + (self.data() + more).next_multiple_of(STEP)
    }

    /// What is held of data both ways, beyond what may wait anyway where it comes from.
    fn data(&self) -> usize {
        self.held + self.unsent_length + self.at_hand.saturating_sub(cost::WAITING)
    }

    /// Whoever sends has that much at hand, and there is no room for it.
    pub(super) fn hold(&mut self, at_hand: usize) {
        self.at_hand = at_hand;
        let needed = self.head_cost + self.data();
        if needed > self.charge.bytes() + UNCHARGED {
            // It is there. Less is read from now on where it comes from.
            self.charge.set(needed);
        }
    }

    /// A reader has taken data.
    pub(super) fn took(&mut self, count: usize) {
        self.held -= count;
        if self.charge.bytes() > self.head_cost && self.data() == 0 {
            // Less is never refused.
            let _ = self.charge.resize(self.head_cost);
        }
    }

    /// Keeps what has come.
    pub(super) fn keep(&mut self, piece: &[u8]) {
        self.held += piece.len();
        if !pieces::join(&mut self.data, piece) {
            self.data.push_back(Bytes::copy_from_slice(piece));
        }
    }

    pub(super) fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_sender(&mut self) {
        if let Some(waker) = self.sender.take() {
            waker.wake();
        }
    }
}

/// Remembers whom to wake, at the cost of a comparison where that is who it was before.
pub(super) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
