//! An opaque connection on a CONNECT stream (RFC 9113, section 8.5): bytes both ways, each way closed by
//! itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Ended, Error, ErrorCode, Receiver, Sender};
use crate::reset::Reset;

/// The two ways of a tunnel. Dropping it before both ways are closed resets the stream.
pub struct Tunnel {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// Came in, and was larger than the reader's buffer.
    rest: Bytes,
    shut: bool,
    ended: bool,
    /// It is one of an extended CONNECT.
    extended: bool,
    /// The peer reads requests of HTTP from it, and answers some of them itself.
    pub peer_reads_http: bool,
}

/// The most that one write hands over.
const WRITE: usize = 64 << 10;

impl Tunnel {
    /// Of a CONNECT (RFC 9113, section 8.5).
    pub(crate) fn new(sender: Sender, receiver: Receiver) -> Self {
        Self::of(sender, receiver, false)
    }

    /// Of an extended CONNECT (RFC 8441).
    pub(crate) fn extended(sender: Sender, receiver: Receiver) -> Self {
        Self::of(sender, receiver, true)
    }

    fn of(mut sender: Sender, receiver: Receiver, extended: bool) -> Self {
        sender.is_tunnel();
        Self {
            sender,
            receiver,
            rest: Bytes::new(),
            shut: false,
            ended: false,
            extended,
            peer_reads_http: false,
        }
    }
}

impl Tunnel {
    /// What a WebSocket's peer said is of use to who speaks it at the other side; the code of a CONNECT is not, which
    /// tells how the connection behind it ended.
    fn failed(&self, error: Error) -> io::Error {
        if self.extended { io::Error::new(kind_of(&error), error) } else { io_error(error) }
    }

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
        // RFC 9113, section 8.5; RFC 8441, section 5.
        self.sender.reset(if self.extended { ErrorCode::CANCEL } else { ErrorCode::CONNECT_ERROR });
    }

    fn reset_for(&mut self, other: &io::Error) {
        let said = other.get_ref().and_then(|error| error.downcast_ref()).and_then(Error::code);
        match said.filter(|_| self.extended) {
            Some(code) => self.sender.reset(code),
            None => self.reset(),
        }
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
                Some(Err(error)) => return Poll::Ready(Err(self.failed(error))),
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
        let room = ready!(self.sender.poll_room(cx)).map_err(|error| self.failed(error))?;
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
    io::Error::new(kind_of(&error), format!("the stream ended: {error}"))
}

fn kind_of(error: &Error) -> io::ErrorKind {
    match error {
        Error::Reset(_) | Error::ResetHere(_) | Error::Malformed(_) => io::ErrorKind::ConnectionReset,
        Error::Connection(Ended::Io(io)) => io.kind(),
        _ => io::ErrorKind::BrokenPipe,
    }
}
