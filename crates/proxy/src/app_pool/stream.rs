//! The connection under HTTP/1.1 to an application.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Place;
use crate::budget::{Account, Seat};
use crate::http::http1::client::Http1Transport;
use crate::originate::AppSocket;

/// Acknowledges at once what comes in pieces. Many servers write the head of a response and its body
/// one after the other, and their kernel holds the second piece back until the first is acknowledged
/// (RFC 896), which ours would do 40 ms later (RFC 1122, section 4.2.3.2).
pub struct AppStream {
    socket: AppSocket,
    seat: Seat,
    /// What it costs whoever uses it.
    cost: usize,
    place: Option<Place>,
    busy: bool,
}

impl AppStream {
    pub fn new(socket: AppSocket, (seat, cost): (Seat, usize), place: Place) -> Self {
        Self { socket, seat, cost, place: Some(place), busy: false }
    }

    pub fn place(&mut self) -> &mut Option<Place> {
        &mut self.place
    }

    /// Has the connection counted for whoever uses it now, unless that has no share left.
    pub fn pay(&mut self, account: &Rc<Account>) {
        if !self.seat.is_of(account)
            && let Ok(seat) = account.seat(self.cost)
        {
            self.seat = seat;
        }
    }

    /// See [`AppSocket::is_quiet`].
    pub fn is_quiet(&mut self) -> bool {
        self.socket.is_quiet()
    }
}

impl Http1Transport for AppStream {
    fn hurry(&self) {
        self.socket.acknowledge();
    }

    fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }
}

/// A request that is given up ends with a reset. After an orderly end from our side the kernel would keep the
/// port that we have connected from for a minute (TIME-WAIT, RFC 9293, section 3.6.1), and a client that gives
/// up one request after the other would use up all ports towards an application, which others need, too.
impl Drop for AppStream {
    fn drop(&mut self) {
        if self.busy {
            let _ = self.socket.tcp().set_zero_linger();
        }
    }
}

impl AsyncRead for AppStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
