//! A connection's own task: bytes from the socket to the core, and from the core to the socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::Limits;
use super::core::Core;
use super::error::Ended;
use super::handle::{Handle, Incoming, Receiver, Sender};

/// The buffer that the connections of one thread read into.
const READ: usize = 64 << 10;
/// Reads before others get their turn.
const READS: usize = 8;

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
    /// How long the peer may take to end its side after ours has ended: closing a socket that has something
    /// unread, as a window update, makes the kernel forget what it had still to send.
    linger: Duration,
    closing: Closing,
}

enum Closing {
    No,
    Shutdown,
    Lingering(Pin<Box<Sleep>>),
}

/// What moves a connection's bytes.
pub trait Transport {
    /// Reads once, and gives what came to `take`; how many bytes came, 0 at the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<io::Result<usize>>;

    /// Takes some of `data`.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Bytes as they are.
pub struct Plain<IO>(pub IO);

impl<IO: AsyncRead + AsyncWrite + Unpin> Transport for Plain<IO> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
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
            handle: Handle(Rc::new(RefCell::new(Core::new(server, limits)))),
            begun: Instant::now(),
            received: Rc::default(),
            peer_closed: false,
            linger,
            closing: Closing::No,
        }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Counts the bytes that came from the peer.
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
        if matches!(self.closing, Closing::No) {
            self.read(cx, &mut take);
            if let Err(error) = self.write(cx) {
                self.handle.0.borrow_mut().end(error.into());
            }
            let mut core = self.handle.0.borrow_mut();
            if core.is_spent() {
                core.end(Ended::Closed);
            }
            match &core.ended {
                None => return Poll::Pending,
                Some(Ended::Io(..)) => return Poll::Ready(self.ended(core)),
                Some(_) if core.out.len() > 0 && !self.peer_closed => return Poll::Pending,
                Some(_) => {}
            }
            drop(core);
            self.closing = Closing::Shutdown;
        }
        self.poll_close(cx)
    }

    fn ended(&self, core: std::cell::RefMut<'_, Core>) -> Ended {
        core.ended.clone().unwrap_or(Ended::Closed)
    }

    fn read(&mut self, cx: &mut Context<'_>, take: &mut impl FnMut(Incoming, Sender, Receiver)) {
        for turn in 0.. {
            if self.peer_closed || self.handle.0.borrow().ended.is_some() {
                return;
            }
            if turn == READS {
                cx.waker().wake_by_ref();
                return;
            }
            let now = self.begun.elapsed();
            let polled = self.io.poll_receive(cx, &mut |bytes| {
                self.handle.0.borrow_mut().receive(bytes, now);
            });
            if let Poll::Ready(Ok(count)) = polled {
                self.received.set(self.received.get() + count as u64);
            }
            match polled {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => {
                    self.peer_closed = true;
                    let mut core = self.handle.0.borrow_mut();
                    let ended = if core.streams.values().all(super::stream::Stream::is_closed) {
                        Ended::Closed
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

    /// Ends our side, and waits for a while for the peer to end its own.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Closing::Shutdown = self.closing {
            let shut = ready!(self.io.poll_shutdown(cx));
            if shut.is_err() || self.peer_closed {
                return Poll::Ready(self.ended(self.handle.0.borrow_mut()));
            }
            self.closing = Closing::Lingering(Box::pin(sleep(self.linger)));
        }
        if let Closing::Lingering(timer) = &mut self.closing {
            loop {
                if timer.as_mut().poll(cx).is_ready() {
                    break;
                }
                match ready!(self.io.poll_receive(cx, &mut |_| {})) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
        }
        Poll::Ready(self.ended(self.handle.0.borrow_mut()))
    }
}

impl<IO> Drop for Connection<IO> {
    fn drop(&mut self) {
        self.handle.0.borrow_mut().end(Ended::Closed);
    }
}
