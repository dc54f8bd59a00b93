//! What the tasks of a thread hold of a connection and its streams.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request, response};

use super::core::Core;
use super::error::{Ended, Error, ErrorCode};
use super::fields::RequestFields;
use super::given_up;
use super::line::Line;
use super::stream::{Way, register};
use crate::budget::{Account, Charge};

/// A connection. Cheap to clone; the connection goes on without it.
#[derive(Clone)]
pub struct Handle(pub(super) Rc<RefCell<Core>>, pub(super) Option<Rc<Account>>);

/// A request that came in.
pub struct Incoming {
    pub(super) id: u32,
    pub head: request::Parts,
    /// It is to be answered, and nothing else.
    pub unfit: Option<Unfit>,
}

/// What is wrong with a request that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Its head is larger than is taken, and not whole.
    Oversized,
    /// Its authority is none. Of its head there is what came before that.
    Misdirected,
    /// Its head is malformed otherwise: its stream was reset, and there is nothing of it.
    Malformed,
    /// There is no memory for it. Of its head there is what a record needs.
    Unaffordable,
}

impl Handle {
    /// Whether a stream can be opened now.
    pub fn has_room(&self) -> bool {
        self.0.borrow().has_room()
    }

    /// How many streams can be opened now.
    pub fn room(&self) -> usize {
        self.0.borrow().room()
    }

    /// Has those in `line` called when a stream can be opened, or none any more.
    pub fn serve(&self, line: &Rc<Line>) {
        self.0.borrow_mut().line = Some(line.clone());
    }

    /// Whether the peer has said what it allows.
    pub fn is_settled(&self) -> bool {
        self.0.borrow().settings_seen
    }

    /// Whether streams can be opened, now or later.
    pub fn is_open(&self) -> bool {
        self.0.borrow().takes_streams()
    }

    /// Whether the peer has said that it takes extended CONNECT (RFC 8441, section 3).
    pub fn takes_extended_connect(&self) -> bool {
        self.0.borrow().peer.extended_connect
    }

    /// Streams that are open, or over and held by somebody.
    pub fn streams(&self) -> usize {
        self.0.borrow().streams.len()
    }

    /// Streams that we have opened and that are not over.
    pub fn open_streams(&self) -> usize {
        self.0.borrow().open
    }

    /// Sends a request's head. `end`: it has no body. What is passed on is within our own limits, so a peer
    /// that takes as much is not asked.
    pub fn request(&self, head: &RequestFields<'_>, end: bool) -> Result<(Sender, Receiver), Error> {
        let mut core = self.0.borrow_mut();
        let limit = core.peer.header_list;
        if limit < core.limits.header_list as usize && head.size() > limit {
            return Err(Error::TooLargeForPeer(limit));
        }
        let id = core.open()?;
        if let Some(stream) = core.streams.get_mut(&id) {
            stream.is_head = *head.method == Method::HEAD;
            stream.is_connect = *head.method == Method::CONNECT;
            if let Some(account) = &self.1 {
                stream.charge = Charge::on(account.clone());
            }
        }
        core.send_block(id, end, |encoder, out| head.encode(encoder, out));
        drop(core);
        Ok((Sender { handle: self.clone(), id }, Receiver { handle: self.clone(), id }))
    }

    /// What the streams take that are opened with it is charged to `account`, not to the connection's.
    pub fn paid_by(self, account: &Rc<Account>) -> Self {
        Self(self.0, Some(account.clone()))
    }

    /// How many faults of the peer's were put up with: messages that are malformed or too large, frames that mean
    /// nothing.
    pub fn faults(&self) -> u64 {
        self.0.borrow().faults
    }

    /// Gives back what memory a busy time took.
    pub fn shrink(&self) {
        let mut core = self.0.borrow_mut();
        core.out.shrink();
        if core.streams.is_empty() {
            core.streams.shrink_to(16);
        }
    }

    /// Asks the peer whether it is there, and waits for its answer.
    pub async fn ping(&self) -> Result<(), Ended> {
        let number = self.0.borrow_mut().ping();
        poll_fn(|cx| self.0.borrow_mut().poll_pong(number, cx)).await
    }

    /// Opens and takes nothing new; the connection ends when its last stream is done.
    pub fn go_away(&self) {
        self.0.borrow_mut().go();
    }

    /// The two ends of a request that came in.
    pub(super) fn incoming(&self, incoming: &Incoming) -> (Sender, Receiver) {
        let id = incoming.id;
        (Sender { handle: self.clone(), id }, Receiver { handle: self.clone(), id })
    }
}

/// The end of a stream that sends. Dropping it before the end resets the stream.
pub struct Sender {
    handle: Handle,
    id: u32,
}

impl Sender {
    /// Sends a response's head. `end`: it has no body.
    pub fn respond(&mut self, status: StatusCode, headers: &HeaderMap, end: bool) -> Result<(), Error> {
        let mut core = self.handle.0.borrow_mut();
        if let Some(failure) = core.failure(self.id) {
            return Err(failure);
        }
        if let Some(stream) = core.streams.get_mut(&self.id) {
            stream.answered = true;
        }
        if !core.interims.is_empty() {
            core.finish_interims(self.id);
        }
        core.send_head(self.id, status, headers, end);
        Ok(())
    }

    /// What interim answers are sent with, by whoever has them.
    pub fn interim(&self) -> InterimSender {
        InterimSender { handle: self.handle.clone(), id: self.id }
    }

    /// Waits until something may be sent; gives how much. Fails as soon as the stream is reset.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<usize, Error>> {
        self.handle.0.borrow_mut().poll_room(self.id, cx)
    }

    /// Whether an answer with that status has no body, whatever its head says of one (servers).
    pub fn has_no_body(&self, status: StatusCode) -> bool {
        matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || self.handle.0.borrow().streams.get(&self.id).is_some_and(|stream| stream.is_head)
    }

    /// Waits until the stream is reset or the connection ends.
    pub fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Error> {
        let mut core = self.handle.0.borrow_mut();
        if let Some(failure) = core.failure(self.id) {
            return Poll::Ready(failure);
        }
        if let Some(stream) = core.streams.get_mut(&self.id) {
            register(&mut stream.sender, cx);
        }
        Poll::Pending
    }

    /// Sends as much of `data` as there is room for, and leaves the rest. `end`: it is the last.
    pub fn send(&mut self, data: &mut Bytes, end: bool) {
        self.handle.0.borrow_mut().send_data(self.id, data, end);
    }

    pub(super) fn with_core<T>(&mut self, act: impl FnOnce(&mut Core, u32) -> T) -> T {
        act(&mut self.handle.0.borrow_mut(), self.id)
    }

    /// Resets the stream because what was to be sent on it broke so.
    pub(super) fn break_off(&mut self, error: &(dyn std::error::Error + 'static)) -> Error {
        let mut core = self.handle.0.borrow_mut();
        let code = given_up::code_for(error, core.server);
        core.break_off(self.id, code);
        Error::ResetHere(code)
    }

    pub fn send_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Error> {
        self.handle.0.borrow_mut().send_trailers(self.id, trailers)
    }

    pub fn reset(&mut self, code: ErrorCode) {
        self.handle.0.borrow_mut().reset(self.id, code);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut core = self.handle.0.borrow_mut();
        let Some(stream) = core.streams.get_mut(&self.id) else { return };
        stream.sender_held = false;
        stream.sender = None;
        if stream.sending == Way::Open {
            let code = given_up::code(core.server);
            core.reset(self.id, code);
        }
        core.forget_if_done(self.id);
    }
}

/// Sends interim answers on a stream that others hold.
pub struct InterimSender {
    handle: Handle,
    id: u32,
}

impl InterimSender {
    /// Sends one, unless the stream is over.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        self.handle.0.borrow_mut().send_interim(self.id, status, headers);
    }
}

/// The end of a stream that receives. Dropping it before the peer's end resets the stream; on a server,
/// only once the answer is complete, as the peer then need not send the rest (RFC 9113, section 8.1).
pub struct Receiver {
    handle: Handle,
    id: u32,
}

impl Receiver {
    /// Waits for a response's head: those of interim answers come before.
    pub fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<response::Parts, Error>> {
        let mut core = self.handle.0.borrow_mut();
        if let Some(stream) = core.streams.get_mut(&self.id) {
            if let Some(head) = stream.interim_heads.pop_front() {
                return Poll::Ready(Ok(head));
            }
            if let Some(head) = stream.head.take() {
                return Poll::Ready(Ok(*head));
            }
        }
        if let Some(failure) = core.failure(self.id) {
            let oversized = core.streams.get(&self.id).is_some_and(|stream| stream.oversized);
            return Poll::Ready(Err(if oversized { Error::Oversized } else { failure }));
        }
        if let Some(stream) = core.streams.get_mut(&self.id) {
            register(&mut stream.receiver, cx);
        }
        Poll::Pending
    }

    /// Waits for data; `None` at the end of it. What was taken gives the peer room for more.
    pub fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        match ready!(self.poll_here(cx)) {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(())) => {
                let mut core = self.handle.0.borrow_mut();
                let data = core.streams.get_mut(&self.id).and_then(|stream| {
                    let data = stream.data.pop_front()?;
                    stream.took(data.len());
                    Some(data)
                });
                let data = data.unwrap_or_default();
                core.read(self.id, data.len());
                Poll::Ready(Some(Ok(data)))
            }
        }
    }

    /// Waits until data is there to be taken; `None` at the end of it.
    pub(super) fn poll_here(&mut self, cx: &Context<'_>) -> Poll<Option<Result<(), Error>>> {
        let mut core = self.handle.0.borrow_mut();
        if let Some(stream) = core.streams.get(&self.id) {
            if !stream.data.is_empty() {
                return Poll::Ready(Some(Ok(())));
            }
            if stream.receiving == Way::Ended {
                return Poll::Ready(stream.oversized.then_some(Err(Error::Oversized)));
            }
            if stream.stalled {
                return Poll::Ready(Some(Err(Error::Stalled)));
            }
        }
        if let Some(failure) = core.failure(self.id) {
            return Poll::Ready(Some(Err(failure)));
        }
        if let Some(stream) = core.streams.get_mut(&self.id) {
            register(&mut stream.receiver, cx);
        }
        Poll::Pending
    }

    pub(super) fn with_core<T>(&mut self, act: impl FnOnce(&mut Core, u32) -> T) -> T {
        act(&mut self.handle.0.borrow_mut(), self.id)
    }

    /// All of the body, if it has come and is one piece. The receiver is of no use any more then.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let mut core = self.handle.0.borrow_mut();
        let stream = core.streams.get_mut(&self.id)?;
        let more = stream.data.len() > 1 || stream.trailers.is_some() || stream.oversized;
        if stream.receiving != Way::Ended || more {
            return None;
        }
        let data = stream.data.pop_front().unwrap_or_default();
        core.read(0, data.len());
        Some(data)
    }

    /// Waits for data, and takes the trailers after it.
    pub fn poll_trailers(&mut self, cx: &Context<'_>) -> Poll<Result<Option<HeaderMap>, Error>> {
        let ended = ready!(self.poll_data(cx));
        debug_assert!(!matches!(ended, Some(Ok(_))), "the data comes first");
        if let Some(Err(error)) = ended {
            return Poll::Ready(Err(error));
        }
        let mut core = self.handle.0.borrow_mut();
        let trailers = core.streams.get_mut(&self.id).and_then(|stream| stream.trailers.take());
        Poll::Ready(Ok(trailers.map(|trailers| *trailers)))
    }

    /// Everything has come and was taken.
    pub fn is_at_end(&self) -> bool {
        let core = self.handle.0.borrow();
        core.streams.get(&self.id).is_some_and(|stream| {
            stream.receiving == Way::Ended
                && stream.data.is_empty()
                && stream.trailers.is_none()
                && !stream.oversized
        })
    }

    /// Bytes that are still to be taken, where the peer said how many there are.
    pub fn length_left(&self) -> Option<u64> {
        let core = self.handle.0.borrow();
        let stream = core.streams.get(&self.id)?;
        let here: usize = stream.data.iter().map(Bytes::len).sum();
        match stream.length_left {
            Some(left) => Some(left + here as u64),
            None if stream.receiving == Way::Ended && stream.trailers.is_none() && !stream.oversized => {
                Some(here as u64)
            }
            None => None,
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut core = self.handle.0.borrow_mut();
        let server = core.server;
        let Some(stream) = core.streams.get_mut(&self.id) else { return };
        stream.receiver_held = false;
        stream.receiver = None;
        let unread: usize = stream.data.drain(..).map(|data| data.len()).sum();
        stream.took(stream.held);
        let open = stream.receiving == Way::Open && stream.reset.is_none();
        // What waits to be sent is sent before.
        let answered = stream.sending == Way::Ended && stream.finish.is_none();
        core.read(0, unread);
        if open && !server {
            core.reset(self.id, given_up::code(server));
        } else if open && answered {
            core.reset(self.id, ErrorCode::NO_ERROR);
        }
        core.forget_if_done(self.id);
    }
}
