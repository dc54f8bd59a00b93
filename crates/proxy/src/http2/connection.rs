//! A connection's own task: bytes from the socket to the core, and from the core to the socket.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::Limits;
use super::core::Core;
use super::error::{Ended, ErrorCode, Violation};
use super::handle::{Handle, Incoming, Receiver, Sender};
use super::stream::Stream;
use crate::budget::{Account, Charge};

/// The buffer that the connections of one thread read into.
const READ: usize = 64 << 10;
/// Reads before others get their turn.
const READS: usize = 8;
/// And requests, counted with their fields. A byte can stand for a field, so reads begin small, and grow
/// as long as something else fills them.
const REQUESTS: u64 = 128;
const FIRST_READ: usize = 4 << 10;
/// How often those look who wait for time to pass.
const TICK: Duration = Duration::from_millis(5);
/// A peer that does not take its answers is not read any further when so much of them waits.
pub(super) const UNTAKEN: usize = 4 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// One HTTP/2 connection, to be polled until it ends.
pub struct Connection<IO> {
    io: IO,
    handle: Handle,
    begun: Instant,
    received: Rc<Cell<u64>>,
    peer_closed: bool,
    /// How much is read at a time.
    most: usize,
    /// How long the peer may take to end its side after ours has ended: closing a socket that has something
    /// unread, as a window update, makes the kernel forget what it had still to send.
    linger: Duration,
    /// Runs from the connection's end on.
    closing: Option<Pin<Box<Sleep>>>,
    /// Our side is ended.
    shut: bool,
    /// The peer is not read until it has taken something.
    paused: bool,
    /// Runs while new streams wait for time to pass.
    tick: Option<Pin<Box<Sleep>>>,
}

/// Whether too much waits to be taken by a client to read more requests from it. Servers are always read:
/// otherwise two peers could wait for each other.
pub(super) fn is_untaken(core: &Core) -> bool {
    core.server && core.out.len() > UNTAKEN
}

/// What moves a connection's bytes.
pub trait Transport {
    /// Reads once, about `most` bytes at most, and gives what came to `take`; how many bytes came, 0 at the end.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>>;

    /// Takes some of `data`.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Bytes as they are.
pub struct Plain<IO>(pub IO);

impl<IO: AsyncRead + AsyncWrite + Unpin> Transport for Plain<IO> {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let most = most.min(scratch.len());
            let mut buffer = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
            take(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<IO: Transport> Connection<IO> {
    /// The side that opened the connection and sends requests.
    pub fn client(io: IO, limits: Limits, linger: Duration) -> Self {
        Self::new(io, false, limits, linger)
    }

    /// The side that answers.
    pub fn server(io: IO, limits: Limits, linger: Duration) -> Self {
        Self::new(io, true, limits, linger)
    }

    fn new(io: IO, server: bool, limits: Limits, linger: Duration) -> Self {
        Self {
            io,
            handle: Handle(Rc::new(RefCell::new(Core::new(server, limits))), None),
            begun: Instant::now(),
            received: Rc::default(),
            peer_closed: false,
            most: FIRST_READ,
            linger,
            closing: None,
            shut: false,
            paused: false,
            tick: None,
        }
    }

    /// What the connection takes is charged to `account` from now on. Requests for which that has no share are
    /// [`Unaffordable`](super::Unfit::Unaffordable).
    pub fn charged(self, account: Rc<Account>) -> Self {
        self.handle.0.borrow_mut().payer = Charge::on(account);
        self
    }

    /// Ends a connection that is not served: the peer is told why, and that none of its requests was looked at.
    pub async fn refuse(mut self, why: &'static str) {
        let violation = Violation::new(ErrorCode::ENHANCE_YOUR_CALM, why);
        self.handle.0.borrow_mut().end(Ended::Violation(violation));
        poll_fn(|cx| self.poll(cx, |_, _, _| {})).await;
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Counts the signs of the peer's life: bytes that came from it, and those that it took while it was not
    /// read.
    pub fn received(&self) -> Rc<Cell<u64>> {
        self.received.clone()
    }

    /// Moves what there is to move, and gives requests to `take`. Ready when the connection is over and
    /// what was to be sent is sent.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Incoming, Sender, Receiver),
    ) -> Poll<Ended> {
        self.handle.0.borrow_mut().register_driver(cx);
        if self.closing.is_none() {
            self.read(cx, &mut take);
        }
        self.pass_time(cx);
        let written = self.write(cx);
        let mut core = self.handle.0.borrow_mut();
        core.charge_buffers();
        if std::mem::take(&mut self.paused) && !is_untaken(&core) {
            cx.waker().wake_by_ref();
        }
        if let Err(error) = written {
            core.end(error.into());
        }
        if core.is_spent() {
            core.end_in_order();
        }
        match &core.ended {
            None => return Poll::Pending,
            Some(Ended::Io(..)) => return Poll::Ready(self.ended(core)),
            Some(_) => {}
        }
        let sent = core.out.len() == 0;
        drop(core);
        self.poll_close(cx, sent)
    }

    /// Lets the core know what time it is, as long as that makes a difference.
    fn pass_time(&mut self, cx: &mut Context<'_>) {
        let mut core = self.handle.0.borrow_mut();
        if !core.counts_resets() {
            return;
        }
        core.pass_time(self.begun.elapsed());
        while core.waits_for_time() {
            let tick = self.tick.get_or_insert_with(|| Box::pin(sleep(TICK)));
            if tick.as_mut().poll(cx).is_pending() {
                return;
            }
            tick.as_mut().reset(Instant::now() + TICK);
            core.pass_time(self.begun.elapsed());
        }
        self.tick = None;
    }

    fn ended(&self, core: std::cell::RefMut<'_, Core>) -> Ended {
        core.ended.clone().unwrap_or(Ended::Closed)
    }

    fn read(&mut self, cx: &mut Context<'_>, take: &mut impl FnMut(Incoming, Sender, Receiver)) {
        let begun = self.handle.0.borrow().fields;
        for turn in 0.. {
            let fields = {
                let core = self.handle.0.borrow();
                let fields = core.fields - begun;
                if fields > REQUESTS {
                    self.most = FIRST_READ;
                }
                if self.peer_closed || core.ended.is_some() {
                    return;
                }
                if is_untaken(&core) {
                    self.paused = true;
                    return;
                }
                // Streams that were reset are put away by those who hold them.
                let crowded = turn > 0 && core.server && core.streams.len() >= core.limits.streams as usize;
                if crowded { u64::MAX } else { fields }
            };
            if turn == READS || fields > REQUESTS {
                cx.waker().wake_by_ref();
                return;
            }
            let now = self.begun.elapsed();
            let polled = self.io.poll_receive(cx, self.most, &mut |bytes| {
                self.handle.0.borrow_mut().receive(bytes, now);
            });
            if let Poll::Ready(Ok(count)) = polled {
                self.received.set(self.received.get() + count as u64);
                if count == self.most {
                    self.most = (2 * count).min(READ);
                }
            }
            match polled {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => {
                    self.peer_closed = true;
                    let mut core = self.handle.0.borrow_mut();
                    let ended = if core.peer_code.is_some() || core.streams.values().all(Stream::is_closed) {
                        core.end_in_order();
                        return;
                    } else {
                        io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection").into()
                    };
                    core.end(ended);
                }
                Poll::Ready(Ok(_)) => loop {
                    let Some(incoming) = self.handle.0.borrow_mut().accepted.pop_front() else { break };
                    let (sender, receiver) = self.handle.incoming(&incoming);
                    take(incoming, sender, receiver);
                },
                Poll::Ready(Err(error)) => {
                    self.handle.0.borrow_mut().end(error.into());
                }
            }
        }
    }

    /// Writes what there is to write, as far as the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut core = self.handle.0.borrow_mut();
        while core.out.len() > 0 {
            match self.io.poll_send(cx, core.out.pending())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    if self.paused {
                        self.received.set(self.received.get() + count as u64);
                    }
                    core.out.wrote(count);
                    core.socket_full = false;
                    core.give_turns();
                }
                Poll::Pending => {
                    core.socket_is_full();
                    break;
                }
            }
        }
        drop(core);
        match self.io.poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Sends what is left, ends our side, and waits for the peer to end its own; all of that for a while.
    fn poll_close(&mut self, cx: &mut Context<'_>, sent: bool) -> Poll<Ended> {
        let linger = self.linger;
        let closing = self.closing.get_or_insert_with(|| Box::pin(sleep(linger)));
        let over = closing.as_mut().poll(cx).is_ready();
        if !over && sent && !self.shut {
            self.shut = match self.io.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(self.ended(self.handle.0.borrow_mut())),
                Poll::Pending => false,
            };
        }
        while !over && !self.peer_closed {
            match ready!(self.io.poll_receive(cx, READ, &mut |_| {})) {
                Ok(1..) => {}
                Ok(0) | Err(_) => self.peer_closed = true,
            }
        }
        if over || self.shut { Poll::Ready(self.ended(self.handle.0.borrow_mut())) } else { Poll::Pending }
    }
}

impl<IO> Drop for Connection<IO> {
    fn drop(&mut self) {
        self.handle.0.borrow_mut().end(Ended::Closed);
    }
}
