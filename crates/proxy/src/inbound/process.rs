//! A connection to a workload's process, for what has entered the workload: it ends as soon as that may not stay.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::summaries::Unsaid;
use super::visits::Entered;
use crate::reset::Reset;

/// See the module. What has entered is there for as long as this is.
pub(crate) struct Process {
    tcp: TcpStream,
    entered: Rc<Entered>,
    /// Whoever has it asks by itself whether it is to end, each time before it reads: it passes bytes.
    is_asked: bool,
    /// A connection of bytes that has none yet.
    unsaid: Option<Box<Unsaid>>,
}

impl Process {
    pub(super) fn new(tcp: TcpStream, entered: Rc<Entered>) -> Self {
        Self { tcp, entered, is_asked: false, unsaid: None }
    }

    /// For bytes.
    pub(super) fn of_bytes(tcp: TcpStream, entered: Rc<Entered>, unsaid: Unsaid) -> Self {
        Self { unsaid: Some(Box::new(unsaid)), ..Self::new(tcp, entered) }
    }

    /// What has entered by it.
    pub(crate) fn entered(&self) -> &Rc<Entered> {
        &self.entered
    }

    fn says(&mut self) {
        if let Some(unsaid) = self.unsaid.take() {
            unsaid.say();
        }
    }
}

impl Reset for Process {
    fn reset(&mut self) {
        self.tcp.reset();
    }

    fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.is_asked = true;
        self.entered.poll_withdrawn(cx).map(io::Error::other)
    }
}

impl AsyncRead for Process {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Engines of HTTP do not ask, and read whatever else they wait for.
        if !self.is_asked
            && let Poll::Ready(withdrawn) = self.entered.poll_withdrawn(cx)
        {
            return Poll::Ready(Err(io::Error::other(withdrawn)));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Process {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.says();
        Pin::new(&mut self.tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.says();
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

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::fixture::{leave, visit};
    use super::super::presence::Withdrawn;
    use super::super::visits::Visits;
    use super::*;

    async fn open() -> (Process, TcpStream, Rc<Visits>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let (visits, entered) = visit();
        (Process::new(tcp, Rc::new(entered)), peer, visits)
    }

    #[tokio::test(flavor = "local")]
    async fn it_passes_bytes_both_ways_and_their_end() {
        let (mut process, mut peer, _visits) = open().await;
        assert!(process.is_write_vectored());
        process.write_all(b"a").await.unwrap();
        assert_eq!(process.write_vectored(&[IoSlice::new(b"b"), IoSlice::new(b"c")]).await.unwrap(), 2);
        process.shutdown().await.unwrap();
        let mut got = String::new();
        peer.read_to_string(&mut got).await.unwrap();
        peer.write_all(b"dd").await.unwrap();
        assert_eq!((got.as_str(), process.read_u8().await.unwrap()), ("abc", b'd'));
    }

    #[tokio::test(flavor = "local")]
    async fn it_fails_when_it_may_not_stay() {
        let (mut process, mut peer, visits) = open().await;
        peer.write_all(b"dd").await.unwrap();
        assert_eq!(process.read_u8().await.unwrap(), b'd');
        leave(&visits);
        // Though there is more to be read.
        let error = process.read_u8().await.unwrap_err();
        assert_eq!(Withdrawn::of(&error), Some(Withdrawn::Gone));
        let error = std::future::poll_fn(|cx| process.poll_withdrawn(cx)).await;
        assert_eq!(Withdrawn::of(&error), Some(Withdrawn::Gone));
        assert_eq!(Withdrawn::of(&io::ErrorKind::BrokenPipe.into()), None);
        process.reset();
        drop(process);
        assert_eq!(peer.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
