//! Opaque connections: bytes both ways, each way closed by itself, a reset passed on as a reset.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::budget::{Account, Charge};
use crate::http2::{Tunnel, splice};
use crate::inbound::process::Process;
use crate::inbound::visits::Entered;
use crate::originate::TlsSocket;
use crate::pair::PairEnd;
use crate::reset::{Direction, DirectionState, Reset};

/// How much is read at a time.
const READ: usize = 64 << 10;

thread_local! {
    /// What the connections of a thread read into. Only what cannot be passed on at once is kept by one.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What a peer has closed of a connection, as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It sends no more.
    Sending,
    /// It takes nothing any more either: it has reset the connection.
    Both,
}

/// The upstream side of an opaque connection.
pub enum Upstream {
    /// To a destination that is no part of the mesh.
    Tcp(TcpStream),
    /// The same in TLS.
    Tls(TlsSocket),
    /// To a process of this node.
    Process(Process),
    /// To a workload of another node.
    Tunnel(Box<Tunnel>),
    /// To a process of this node, through who reads what passes.
    Inside(PairEnd),
}

impl Upstream {
    /// What has entered a workload of this node by it.
    pub(crate) fn entered(&self) -> Option<Rc<Entered>> {
        match self {
            Self::Process(process) => Some(process.entered().clone()),
            Self::Tcp(_) | Self::Tls(_) | Self::Tunnel(_) | Self::Inside(_) => None,
        }
    }
}

impl Reset for Upstream {
    fn reset(&mut self) {
        match self {
            Self::Tcp(tcp) => tcp.reset(),
            Self::Tls(tls) => tls.reset(),
            Self::Process(process) => process.reset(),
            Self::Tunnel(tunnel) => tunnel.reset(),
            Self::Inside(pair) => pair.reset(),
        }
    }

    fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Process(process) => process.poll_withdrawn(cx),
            Self::Tcp(_) | Self::Tls(_) | Self::Tunnel(_) | Self::Inside(_) => Poll::Pending,
        }
    }
}

/// The client's side of a connection that is served.
pub enum Downstream {
    Tcp(TcpStream),
    /// Inside of a connection that a client of the explicit proxy has opened.
    Tunnel(Box<dyn Duplex>),
}

/// What bytes pass through both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Reset + Unpin {}

impl<IO: AsyncRead + AsyncWrite + Reset + Unpin> Duplex for IO {}

impl Reset for Box<dyn Duplex> {
    fn reset(&mut self) {
        (**self).reset();
    }

    fn reset_for(&mut self, other: &io::Error) {
        (**self).reset_for(other);
    }

    fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_withdrawn(cx)
    }
}

/// How often the host of a client that has closed its side is asked whether it lives, and how often in vain.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const ALIVE_QUESTIONS: u32 = 3;

impl Downstream {
    /// Has the kernel notice when the client's host answers no more.
    pub fn keep_alive(&self) {
        if let Self::Tcp(tcp) = self {
            let ask = TcpKeepalive::new().with_time(ALIVE_INTERVAL).with_interval(ALIVE_INTERVAL);
            let _ = SockRef::from(tcp).set_tcp_keepalive(&ask.with_retries(ALIVE_QUESTIONS));
        }
    }

    /// What the client has closed, also behind what it sent and nobody has read. `None` as well where that
    /// cannot be told.
    pub fn closed(&self) -> Option<Closed> {
        let Self::Tcp(tcp) = self else { return None };
        // `PRIORITY` stands for the end of what the peer sends, without what is there to be read.
        let ready = tcp.ready(Interest::PRIORITY | Interest::WRITABLE).now_or_never()?.ok()?;
        match (ready.is_write_closed(), ready.is_read_closed()) {
            (true, _) => Some(Closed::Both),
            (false, true) => Some(Closed::Sending),
            (false, false) => None,
        }
    }
}

impl From<TcpStream> for Downstream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl Reset for Downstream {
    fn reset(&mut self) {
        match self {
            Self::Tcp(tcp) => tcp.reset(),
            Self::Tunnel(tunnel) => tunnel.reset(),
        }
    }

    fn reset_for(&mut self, other: &io::Error) {
        match self {
            Self::Tcp(tcp) => tcp.reset(),
            Self::Tunnel(tunnel) => tunnel.reset_for(other),
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Tunnel(tunnel) => tunnel.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
            Self::Process(process) => Pin::new(process).poll_read(cx, buffer),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_read(cx, buffer),
            Self::Inside(pair) => Pin::new(pair).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
            Self::Process(process) => Pin::new(process).poll_write(cx, data),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_write(cx, data),
            Self::Inside(pair) => Pin::new(pair).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Process(process) => Pin::new(process).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_flush(cx),
            Self::Inside(pair) => Pin::new(pair).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Process(process) => Pin::new(process).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_shutdown(cx),
            Self::Inside(pair) => Pin::new(pair).poll_shutdown(cx),
        }
    }
}

/// A stream whose first bytes were read already, and are read once more.
pub struct Replayed<IO> {
    first: Vec<u8>,
    given: usize,
    io: IO,
}

impl<IO> Replayed<IO> {
    pub fn new(first: Vec<u8>, io: IO) -> Self {
        Self { first, given: 0, io }
    }
}

impl<IO: Reset> Reset for Replayed<IO> {
    fn reset(&mut self) {
        self.io.reset();
    }

    fn reset_for(&mut self, other: &io::Error) {
        self.io.reset_for(other);
    }

    fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.io.poll_withdrawn(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Replayed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.first.len() {
            let count = buffer.remaining().min(self.first.len() - self.given);
            buffer.put_slice(&self.first[self.given..self.given + count]);
            self.given += count;
            if self.given == self.first.len() {
                self.first = Vec::new();
                self.given = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Replayed<IO> {
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Passes bytes between a client and an upstream, of which `first` was read already, until both ways are
/// closed; see [`copy`]. What is kept of them is charged to `account`.
pub async fn pass<C>(
    client: &mut C,
    upstream: Upstream,
    first: Vec<u8>,
    account: &Rc<Account>,
    passed: impl FnMut(Direction, u64),
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Reset + Unpin,
{
    match upstream {
        Upstream::Tcp(tcp) => copy(client, &mut Replayed::new(first, tcp), account, passed).await,
        Upstream::Tls(tls) => copy(client, &mut Replayed::new(first, tls), account, passed).await,
        Upstream::Process(process) => copy(client, &mut Replayed::new(first, process), account, passed).await,
        Upstream::Inside(pair) => copy(client, &mut Replayed::new(first, pair), account, passed).await,
        Upstream::Tunnel(mut tunnel) => splice(&mut tunnel, client, first, passed).await,
    }
}

/// Passes bytes both ways until both are closed, and tells `passed` of each piece. When one side
/// fails, the other is reset; both are when one of them is to end.
pub async fn copy<C, U>(
    client: &mut C,
    upstream: &mut U,
    account: &Rc<Account>,
    mut passed: impl FnMut(Direction, u64),
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Reset + Unpin,
    U: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let (mut up, mut down) = (OneWay::new(account), OneWay::new(account));
    let result = poll_fn(|cx| {
        if let Poll::Ready(withdrawn) = upstream.poll_withdrawn(cx) {
            return Poll::Ready(Err(withdrawn));
        }
        if let Poll::Ready(withdrawn) = client.poll_withdrawn(cx) {
            return Poll::Ready(Err(withdrawn));
        }
        let sent = up.poll(cx, client, upstream, |n| passed(Direction::Up, n))?;
        let received = down.poll(cx, upstream, client, |n| passed(Direction::Down, n))?;
        if sent.is_ready() && received.is_ready() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    })
    .await;
    if let Err(error) = &result {
        client.reset_for(error);
        upstream.reset_for(error);
    }
    result
}

/// One way of a connection.
struct OneWay {
    /// What was read and not written yet, from `start` on. There is none while everything is passed on at once.
    kept: Vec<u8>,
    start: usize,
    charge: Charge,
    unflushed: bool,
    state: DirectionState,
}

impl OneWay {
    fn new(account: &Rc<Account>) -> Self {
        let charge = Charge::on(account.clone());
        Self { kept: Vec::new(), start: 0, charge, unflushed: false, state: DirectionState::Open }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut passed: impl FnMut(u64),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.kept.len() {
                let pending = &self.kept[self.start..];
                let count = ready!(Pin::new(&mut *writer).poll_write(cx, pending))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += count;
                self.unflushed = true;
                passed(count as u64);
            }
            if self.start > 0 {
                (self.kept, self.start) = (Vec::new(), 0);
                // Less is never refused.
                let _ = self.charge.resize(0);
            }
            match self.state {
                DirectionState::Shut => return Poll::Ready(Ok(())),
                DirectionState::Ended => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = DirectionState::Shut;
                    return Poll::Ready(Ok(()));
                }
                DirectionState::Open => {}
            }
            match self.pass(cx, reader, writer, &mut passed)? {
                Poll::Ready(()) => {}
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once, and writes what that was as far as it goes. Nothing more is read while something waits, and
    /// only a little at a time while there is no memory for more: then the sender waits.
    fn pass<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        passed: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ].into_boxed_slice());
        let mut read = ReadBuf::new(&mut scratch[..self.charge.readable(READ)]);
        let result = match Pin::new(reader).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => {
                self.state = DirectionState::Ended;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => Poll::Ready(self.write_or_keep(cx, read.filled(), writer, passed)),
            other => other,
        };
        SCRATCH.set(Some(scratch));
        result
    }

    fn write_or_keep<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        mut data: &[u8],
        writer: &mut W,
        passed: &mut impl FnMut(u64),
    ) -> io::Result<()> {
        while !data.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, data)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    data = &data[count..];
                    self.unflushed = true;
                    passed(count as u64);
                }
                Poll::Pending => {
                    self.charge.hold(0, data.len());
                    self.kept = data.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }
}
