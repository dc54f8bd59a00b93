//! The connection under HTTP/1.1 to an application.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Acknowledges at once what comes in pieces. Many servers write the head of a response and its body
/// one after the other, and their kernel holds the second piece back until the first is acknowledged
/// (RFC 896), which ours would do 40 ms later (RFC 1122, section 4.2.3.2).
pub struct AppStream {
    tcp: TcpStream,
    reply: Reply,
}

/// What has come since the last request went out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reply {
    Nothing,
    /// A piece that does not look like the head of a response alone.
    Whole,
    /// A head without its body, and perhaps more.
    Pieces,
}

impl AppStream {
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, reply: Reply::Nothing }
    }
}

/// The end of a head that came without its body; chunked bodies end like this, too.
fn is_bare_head(piece: &[u8]) -> bool {
    piece.ends_with(b"\r\n\r\n") && !piece.ends_with(b"\r\n0\r\n\r\n")
}

impl AsyncRead for AppStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        match polled {
            Poll::Pending if self.reply == Reply::Pieces => {
                // It holds for a moment only, so it is said again after every piece.
                let _ = SockRef::from(&self.tcp).set_tcp_quickack(true);
            }
            Poll::Ready(Ok(())) if self.reply == Reply::Nothing => {
                let bare = is_bare_head(&buffer.filled()[before..]);
                self.reply = if bare { Reply::Pieces } else { Reply::Whole };
            }
            _ => {}
        }
        polled
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.reply = Reply::Nothing;
        Pin::new(&mut self.tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.reply = Reply::Nothing;
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
