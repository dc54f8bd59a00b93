//! Whether the other end of a link is still there.
//!
//! It is pinged every [`PING_INTERVAL`]. It is dead when it does not answer for [`PING_DEADLINE`] and
//! nothing else came from it either: on a saturated link an answer may be late, but window updates and
//! data come all the time.
//!
//! It also has to be there at the end: closing a socket that has something unread, as a window update,
//! makes the kernel forget what it had still to send. So a link's own side is ended first, and it is
//! closed when the peer has ended its side, too, or after [`LINGER`].

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::{PING_DEADLINE, PING_INTERVAL};

/// How long the peer may take to end its side of a link that was ended on ours.
const LINGER: Duration = Duration::from_secs(10);

/// A stream that counts what is read from it, and is not closed under what was written to it.
pub(super) struct Watched<IO> {
    io: IO,
    read: Received,
    /// Runs once our side has ended.
    linger: Option<Pin<Box<Sleep>>>,
}

/// Bytes that came from the peer.
pub(super) type Received = Rc<Cell<u64>>;

impl<IO> Watched<IO> {
    pub(super) fn new(io: IO) -> (Self, Received) {
        let read = Received::default();
        (Self { io, read: read.clone(), linger: None }, read)
    }
}

/// Pings the peer, and calls `each` before each time; returns when the peer is dead.
pub(super) async fn until_dead(mut pings: PingPong, received: Received, mut each: impl FnMut()) {
    loop {
        sleep(PING_INTERVAL).await;
        each();
        let mut pong = std::pin::pin!(pings.ping(Ping::opaque()));
        loop {
            let before = received.get();
            match timeout(PING_DEADLINE, pong.as_mut()).await {
                Ok(Ok(_)) => break,
                // The connection says by itself why it ended.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) if received.get() > before => each(),
                Err(_) => return,
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        self.read.set(self.read.get() + count as u64);
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut unread = [0; 4096];
        loop {
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut unread);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
