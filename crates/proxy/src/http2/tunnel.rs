//! An opaque connection on a CONNECT stream (RFC 9113, section 8.5): bytes both ways, each way closed by
//! itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Ended, Error, Reason, Receiver, Sender};
use crate::tcp::Reset;

/// The two ways of a tunnel. Dropping it before both ways are closed resets the stream.
pub struct Tunnel {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// Came in, and was larger than the reader's buffer.
    rest: Bytes,
    shut: bool,
    ended: bool,
    /// What is said where the other side broke.
    broken: Reason,
}

/// The most that one write hands over.
const WRITE: usize = 64 << 10;

impl Tunnel {
    /// Of a CONNECT (RFC 9113, section 8.5).
    pub(crate) fn new(sender: Sender, receiver: Receiver) -> Self {
        Self::breaking(sender, receiver, Reason::CONNECT_ERROR)
    }

    /// Of an extended CONNECT, where CANCEL stands for a reset of the connection (RFC 8441, section 5).
    pub(crate) fn extended(sender: Sender, receiver: Receiver) -> Self {
        Self::breaking(sender, receiver, Reason::CANCEL)
    }

    fn breaking(mut sender: Sender, receiver: Receiver, broken: Reason) -> Self {
        sender.is_tunnel();
        Self { sender, receiver, rest: Bytes::new(), shut: false, ended: false, broken }
    }
}

impl Tunnel {
    /// Ends our way of it.
    pub(super) fn shut(&mut self) {
        if !self.shut {
            self.shut = true;
            self.sender.send(&mut Bytes::new(), true);
        }
    }
}

impl Reset for Tunnel {
    fn reset(&mut self) {
        self.sender.reset(self.broken);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.receiver.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => self.ended = true,
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        let data = self.rest.split_to(count);
        buffer.put_slice(&data);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.sender.poll_room(cx)).map_err(io_error)?;
        let count = room.min(data.len()).min(WRITE);
        let mut piece = Bytes::copy_from_slice(&data[..count]);
        self.sender.send(&mut piece, false);
        Poll::Ready(Ok(count - piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes what was handed over.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut();
        Poll::Ready(Ok(()))
    }
}

pub(super) fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::Reset(_) | Error::ResetHere(_) | Error::Malformed(_) => io::ErrorKind::ConnectionReset,
        Error::Connection(Ended::Io(io)) => io.kind(),
        _ => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, format!("the stream ended: {error}"))
}
