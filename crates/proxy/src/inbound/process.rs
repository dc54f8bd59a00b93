//! A connection to a workload's process, for what has entered the workload: it ends as soon as that may not stay.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::visits::Entered;
use crate::reset::Reset;

/// See the module. What has entered is there for as long as this is.
pub(crate) struct Process {
    tcp: TcpStream,
    entered: Rc<Entered>,
}

impl Process {
    pub(super) fn new(tcp: TcpStream, entered: Rc<Entered>) -> Self {
        Self { tcp, entered }
    }
}

impl Reset for Process {
    fn reset(&mut self) {
        self.tcp.reset();
    }

    fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.entered.poll_withdrawn(cx).map(io::Error::other)
    }
}

impl AsyncRead for Process {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Engines of HTTP read whatever else they wait for.
        match self.poll_withdrawn(cx) {
            Poll::Ready(withdrawn) => Poll::Ready(Err(withdrawn)),
            Poll::Pending => Pin::new(&mut self.tcp).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Process {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
