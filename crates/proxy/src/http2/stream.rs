//! What is known of one stream.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, response};

use super::error::Reason;

/// How one way of a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// END_STREAM has passed, or waits to be sent.
    Ended,
}

/// Who reset a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    ByPeer(Reason),
    Here(Reason),
    /// The peer goes away without having looked at it.
    NotProcessed,
}

/// How a stream ends once everything before is sent.
pub(super) enum Finish {
    End,
    Trailers(Box<HeaderMap>),
}

pub(super) struct Stream {
    /// What the peer sends us.
    pub receiving: Way,
    /// What we send.
    pub sending: Way,
    pub reset: Option<Reset>,
    /// The head of the response, until it is taken (clients).
    pub head: Option<Box<response::Parts>>,
    /// A head has come: the next one are trailers.
    pub head_seen: bool,
    /// `100 Continue` came and was not looked at.
    pub may_continue: bool,
    /// A request's head was answered (servers).
    pub answered: bool,
    /// The answer has no body whatever its length says: it is one to HEAD.
    pub is_head: bool,
    pub data: VecDeque<Bytes>,
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
            head: None,
            head_seen: false,
            may_continue: false,
            answered: false,
            is_head: false,
            data: VecDeque::new(),
            trailers: None,
            unsent: VecDeque::new(),
            unsent_length: 0,
            finish: None,
            length_left: None,
            send_window,
            receive_window: i64::from(receive_window),
            unannounced: 0,
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
