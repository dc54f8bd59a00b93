//! Passes bytes between a tunnel and a socket with as few copies and system calls as there can be: what is
//! read from the socket is read into the connection's own buffer, and what has come for it leaves in one
//! vectored write.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::tunnel::{Tunnel, io_error};
use crate::reset::{Direction, DirectionState, Reset};

/// Passes bytes both ways until both are closed, each way closed by itself, and tells `passed` of each
/// piece: `up` is into the tunnel. `first` goes to `io` before anything that comes from the tunnel. When one
/// side fails, the other is reset; both are when `io` is to end.
pub async fn splice<IO>(
    tunnel: &mut Tunnel,
    io: &mut IO,
    first: Vec<u8>,
    mut passed: impl FnMut(Direction, u64),
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let mut up = DirectionState::Open;
    let mut down = Down { state: DirectionState::Open, first, unflushed: false };
    let result = poll_fn(|cx| {
        if let Poll::Ready(withdrawn) = io.poll_withdrawn(cx) {
            return Poll::Ready(Err(withdrawn));
        }
        let sent = poll_up(&mut up, cx, tunnel, io, |n| passed(Direction::Up, n))?;
        let received = down.poll(cx, tunnel, io, |n| passed(Direction::Down, n))?;
        if sent.is_ready() && received.is_ready() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    })
    .await;
    if result.is_err() {
        io.reset();
        tunnel.reset();
    }
    result
}

fn poll_up<IO: AsyncRead + Unpin>(
    state: &mut DirectionState,
    cx: &mut Context<'_>,
    tunnel: &mut Tunnel,
    io: &mut IO,
    mut passed: impl FnMut(u64),
) -> Poll<io::Result<()>> {
    while *state == DirectionState::Open {
        match ready!(tunnel.sender.poll_send_from(cx, io))? {
            0 => {
                tunnel.shut();
                *state = DirectionState::Shut;
            }
            count => passed(count as u64),
        }
    }
    Poll::Ready(Ok(()))
}

struct Down {
    state: DirectionState,
    first: Vec<u8>,
    unflushed: bool,
}

impl Down {
    fn poll<IO: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        tunnel: &mut Tunnel,
        io: &mut IO,
        mut passed: impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        while !self.first.is_empty() {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, &self.first))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.first.drain(..count);
            self.unflushed = true;
            passed(count as u64);
        }
        while self.state == DirectionState::Open {
            match tunnel.receiver.poll_deliver(cx, io)? {
                Poll::Ready(0) => self.state = DirectionState::Ended,
                Poll::Ready(count) => {
                    self.unflushed = true;
                    passed(count as u64);
                }
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *io).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        if self.state == DirectionState::Ended {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            self.state = DirectionState::Shut;
        }
        Poll::Ready(Ok(()))
    }
}

impl super::Sender {
    /// Reads once from `reader` and sends that; how much it was, 0 at the end of it. Fails as soon as the
    /// stream is reset.
    fn poll_send_from<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx)).map_err(io_error)?;
        self.with_core(|core, id| core.read_data(id, room, cx, reader))
    }
}

impl super::Receiver {
    /// Writes once what has come to `writer`; how much that was, 0 at the end of it.
    fn poll_deliver<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<usize>> {
        if let Some(result) = ready!(self.poll_here(cx)) {
            result.map_err(io_error)?;
        } else {
            return Poll::Ready(Ok(0));
        }
        self.with_core(|core, id| core.write_received(id, cx, writer))
    }
}
