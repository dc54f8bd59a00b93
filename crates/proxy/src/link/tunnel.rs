//! An opaque connection on a CONNECT stream of a link: bytes both ways, each way closed by itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The two ways of a tunnel. Dropping it before both ways are closed resets the stream.
pub struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Came in, and was larger than the reader's buffer.
    rest: Bytes,
    shut: bool,
    ended: bool,
    _held: Option<Box<dyn std::any::Any>>,
}

/// The most that one write hands over.
const WRITE: usize = 64 << 10;

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, rest: Bytes::new(), shut: false, ended: false, _held: None }
    }

    pub(crate) fn holding(mut self, held: impl std::any::Any) -> Self {
        self._held = Some(Box::new(held));
        self
    }

    /// Ends both ways at once, as a TCP reset does.
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
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
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => self.ended = true,
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        let data = self.rest.split_to(count);
        buffer.put_slice(&data);
        // Fails only when the stream is over, which the next poll tells.
        let _ = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(data.len().min(WRITE));
        let room = loop {
            let room = self.send.capacity();
            if room > 0 {
                break room;
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let count = room.min(data.len()).min(WRITE);
        self.send.send_data(Bytes::copy_from_slice(&data[..count]), false).map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes what was handed over.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            self.shut = true;
            self.send.send_data(Bytes::new(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(io) = error.get_io()
    {
        return io::Error::new(io.kind(), format!("the link ended: {io}"));
    }
    let kind = if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::BrokenPipe };
    io::Error::new(kind, error)
}
