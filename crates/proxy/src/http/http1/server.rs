//! A client's HTTP/1 connection.
//!
//! While an answer is awaited, the socket is watched: what the client sends ahead is kept for later, a reset
//! drops the request, and a client that has closed its side is served to the end, as long as it takes
//! something.

pub(in crate::http) mod answer;
pub(in crate::http) mod body;
mod half_closed;
pub(in crate::http) mod idle;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;
use tokio::time::timeout;

use self::half_closed::HalfClosed;
use self::idle::IdleTimeout;
use super::framing::{BodyDecoder, Decoded, Framing};
use super::head::{self, RequestHead};
use super::input::{AHEAD, Input, NoHead};
use super::output::Output;
use crate::budget::{Charge, Shed};
use crate::drain::Drain;
use crate::http::spelling::Spelling;
use crate::progress::{Side, Stall};
use crate::reset::Reset;
use crate::sweep::{Patience, Sweep, SweepWaker};
use crate::tcp::Downstream;

/// How long, and with how much, a client may go on sending what nobody wants after its last answer. Closed
/// at once, its kernel would throw the answer away (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;
/// What is left of a request's body that nobody read is skipped, up to that, so that another request may follow.
const SKIPPED: usize = 256 << 10;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection, as its task and the body of the request under way share it.
pub(crate) struct Client {
    io: Downstream,
    input: Input,
    output: Output,
    /// For what waits in the two.
    charge: Charge,
    receiving: Receiving,
    expectation: Option<Box<Expectation>>,
    /// The connection's task, where it waits for what the body's reader does.
    task: Option<Waker>,
    sweep: Rc<Sweep>,
    reading: Patience,
    writing: Patience,
    sweep_waker: SweepWaker,
    /// Since when the client's side is closed.
    half_closed: Option<Box<HalfClosed>>,
    owner: Rc<dyn Owner>,
}

/// Who serves the connection.
pub(crate) trait Owner {
    /// How long a client that has closed its side may take nothing of its answer.
    fn half_close(&self) -> Duration;

    /// Such a client is let go now.
    fn cut(&self);
}

/// The client may be waiting for `100 Continue` before it sends the body of the request under way.
#[derive(Default)]
struct Expectation {
    /// It has an answer instead, and need not send it any more (RFC 9110, section 10.1.1).
    answered: bool,
    /// Who reads that body, meanwhile.
    reader: Option<Waker>,
}

/// How far the body of the request under way is read.
enum Receiving {
    Over,
    /// Its reader has it, and the reading side of the connection with it.
    Reader(BodyDecoder),
    /// Its reader went away before its end.
    Left(BodyDecoder),
    Malformed,
    /// The connection broke.
    Broken,
}

/// The client is gone, or has to go.
pub(in crate::http) struct Gone;

/// What a client has begun.
pub(in crate::http) enum Begun<R> {
    /// A request, as it is served.
    Request(R),
    Http2,
    /// It does not go on with what it began.
    Slow,
    /// There is no memory for the rest of its head.
    Shed(Shed),
}

/// Waits for the next request, of which `serve` makes what serves it. An idle connection ends with the worker, or after a long time; one whose
/// head has begun has to go on with it.
pub(in crate::http) async fn next_request<R>(
    client: &RefCell<Client>,
    drain: &Drain,
    idle: &mut Option<IdleTimeout>,
    served: u64,
    serve: impl Fn(RequestHead) -> R,
) -> Result<Begun<R>, NoHead> {
    let parse = |bytes: &[u8]| match head::request(bytes) {
        Ok(found) => Ok(found.map(|(request, used)| (Begun::Request(serve(request)), used))),
        Err(_) if served == 0 && bytes.starts_with(PREFACE) => Ok(Some((Begun::Http2, 0))),
        Err(_) if served == 0 && PREFACE.starts_with(bytes) => Ok(None),
        Err(bad) => Err(bad),
    };
    poll_fn(|cx| {
        let client = &mut *client.borrow_mut();
        if client.has_ended() && client.input.is_empty() {
            return Poll::Ready(Err(NoHead::Ended));
        }
        if let Poll::Ready(begun) = client.input.poll_head(cx, &mut client.io, &client.charge, parse) {
            client.reading.rest();
            if client.input.takes_memory() || client.charge.bytes() > 0 {
                // What came with it may have to wait for long.
                client.input.shrink();
                client.hold();
            }
            return Poll::Ready(begun);
        }
        client.input.skip_empty_lines();
        if client.input.is_empty() {
            client.input.rest();
            let idle = idle.get_or_insert_with(|| IdleTimeout::new(drain, served));
            if drain.started() || idle.poll(cx, served).is_ready() {
                return Poll::Ready(Err(NoHead::Ended));
            }
        } else {
            if let Err(shed) = client.charge.try_hold(client.input.held()) {
                return Poll::Ready(Ok(Begun::Shed(shed)));
            }
            ready!(client.reading.poll(cx, &client.sweep, Side::Client, Stall::Head, served));
            return Poll::Ready(Ok(Begun::Slow));
        }
        Poll::Pending
    })
    .await
}

/// Waits until the body of the request that was answered is read. `false`: it never will be. `kept`: the client was
/// told that another request may follow, so that what is left of this one is skipped.
pub(in crate::http) async fn body_over(client: &RefCell<Client>, kept: bool) -> bool {
    let mut skipped = 0;
    poll_fn(|cx| {
        let client = &mut *client.borrow_mut();
        loop {
            let decoder = match &mut client.receiving {
                Receiving::Over => return Poll::Ready(true),
                Receiving::Broken | Receiving::Malformed => return Poll::Ready(false),
                Receiving::Reader(_) => {
                    client.park(cx);
                    return Poll::Pending;
                }
                Receiving::Left(decoder) if kept => decoder,
                Receiving::Left(_) => return Poll::Ready(false),
            };
            match client.input.poll_body(cx, &mut client.io, decoder, &client.charge, |_| {}) {
                Poll::Ready(Ok(Decoded::Data(data))) if skipped < SKIPPED => skipped += data.len(),
                Poll::Ready(Ok(Decoded::End | Decoded::Trailers(_))) => {
                    client.reading.rest();
                    client.receiving = Receiving::Over;
                }
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => {
                    ready!(client.reading.poll(cx, &client.sweep, Side::Client, Stall::Body, skipped as u64));
                    return Poll::Ready(false);
                }
            }
        }
    })
    .await
}

/// Closes a connection so that the client gets all of its last answer.
pub(in crate::http) async fn farewell(client: &RefCell<Client>) {
    let clean = {
        let client = client.borrow();
        // What is no socket does not end by itself.
        matches!(client.io, Downstream::Tcp(_))
            && matches!(client.receiving, Receiving::Over)
            && client.input.is_empty()
    };
    if !clean {
        linger(client).await;
    }
}

/// Closes our side, and reads for a while what the client goes on to send.
pub(in crate::http) async fn linger(client: &RefCell<Client>) {
    client.borrow_mut().forget();
    let (mut shut, mut skipped) = (false, 0);
    let over = poll_fn(|cx| {
        let client = &mut *client.borrow_mut();
        if !shut {
            let _ = ready!(Pin::new(&mut client.io).poll_shutdown(cx));
            shut = true;
        }
        while skipped < LINGER_BYTES && !client.has_ended() {
            match ready!(client.input.poll_read(cx, &mut client.io, AHEAD)) {
                Ok(1..) => skipped += client.input.buffer.split().len(),
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    });
    let _ = timeout(LINGER, over).await;
}

impl Client {
    pub(in crate::http) fn new(
        io: Downstream,
        first: Vec<u8>,
        sweep: Rc<Sweep>,
        charge: Charge,
        owner: Rc<dyn Owner>,
    ) -> Self {
        Self {
            io,
            input: Input::new(first),
            output: Output::default(),
            charge,
            receiving: Receiving::Over,
            expectation: None,
            task: None,
            sweep_waker: SweepWaker::default(),
            half_closed: None,
            owner,
            sweep,
            reading: Patience::default(),
            writing: Patience::default(),
        }
    }

    /// The body of a request is to come.
    pub(in crate::http) fn receive(&mut self, framing: Framing, expects_continue: bool) {
        self.receiving = Receiving::Reader(BodyDecoder::new(framing));
        self.input.awaited = false;
        self.expectation = expects_continue.then(Box::default);
    }

    /// What was read and belongs to no request yet.
    pub(in crate::http) fn unread(&self) -> &[u8] {
        &self.input.buffer
    }

    /// The body of the request under way is malformed.
    pub(in crate::http) fn is_malformed(&self) -> bool {
        matches!(self.receiving, Receiving::Malformed)
    }

    /// The body of the request under way was read to its end, if there was one.
    pub(in crate::http) fn is_read_whole(&self) -> bool {
        matches!(self.receiving, Receiving::Over)
    }

    /// The connection, and what was read of it, to go on in something else. `None`: a body is not read to its end.
    pub(in crate::http) fn leave(self) -> Option<(Downstream, BytesMut)> {
        matches!(self.receiving, Receiving::Over).then_some((self.io, self.input.buffer))
    }

    pub(in crate::http) fn reset(&mut self) {
        self.io.reset();
    }

    /// Has the trailers of the request under way say how they are written.
    pub(in crate::http) fn keep_letters(&mut self) {
        if let Receiving::Reader(decoder) = &mut self.receiving {
            decoder.keep_letters();
        }
    }

    /// Sends an interim answer. What does not leave now goes with the next thing that is written.
    pub(in crate::http) fn send_interim(
        &mut self,
        cx: &mut Context<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        spelling: Option<&Spelling>,
    ) {
        if status == StatusCode::CONTINUE {
            self.expectation = None;
        }
        answer::put_interim(&mut self.output, status, headers, spelling);
        let _ = self.output.poll_flush(cx, &mut self.io);
        if self.output.is_empty() {
            self.output.rest();
        }
        self.hold();
    }

    /// The answer is whole, and the client was never asked for the body that it held back: nobody need wait for it.
    fn end_expectation(&mut self) {
        if let Some(expectation) = self.expectation.take() {
            self.receiving = Receiving::Broken;
            if let Some(reader) = expectation.reader {
                reader.wake();
            }
        }
    }

    fn has_room(&self) -> bool {
        self.output.has_room(&self.charge)
    }

    /// Has what waits in the buffers charged.
    fn hold(&mut self) {
        self.charge.hold(0, self.input.held() + self.output.held());
    }

    /// Gives back what was read and nobody wants: the connection has had its last request.
    pub(in crate::http) fn forget(&mut self) {
        self.input = Input::default();
        self.hold();
    }

    /// Has the connection's task woken by [`Client::wake`].
    fn park(&mut self, cx: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Watches the client while it is answered. Whoever reads the body sees for itself what becomes of the
    /// connection, as long as it comes back for more; of a body that broke there is no reader any more.
    pub(in crate::http) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        loop {
            if self.has_ended() {
                return self.poll_closed(cx);
            }
            if let Receiving::Reader(_) = self.receiving {
                self.park(cx);
                return self.poll_unread(cx);
            }
            let most = self.charge.readable(AHEAD).saturating_sub(self.input.buffer.len());
            if most == 0 {
                return self.poll_closed(cx);
            }
            match ready!(self.input.poll_read(cx, &mut self.io, most)) {
                Ok(0) => self.half_close(false),
                Ok(_) => self.hold(),
                Err(error) => {
                    tracing::debug!(%error, "a client went away from what it asked for");
                    return Poll::Ready(Gone);
                }
            }
        }
    }

    /// Whether another request may follow the one that is being answered, as far as its body is concerned. `final_word`:
    /// who gives the answer seldom reads on.
    fn may_follow(&self, final_word: bool) -> bool {
        // Whether it sends a body that it was not asked for is the client's choice.
        let asked = self.expectation.is_none();
        match &self.receiving {
            Receiving::Over => true,
            Receiving::Reader(_) if !final_word => asked,
            Receiving::Reader(decoder) | Receiving::Left(decoder) => {
                asked && decoder.left().is_some_and(|left| left <= SKIPPED as u64)
            }
            Receiving::Broken | Receiving::Malformed => false,
        }
    }
}
