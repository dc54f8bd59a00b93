//! What of a message was not written yet: small parts in one buffer, and a large one as it came.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::{buffers, encode};
use crate::budget::Charge;

/// A part of that size or less is copied to what is written with it.
const COPIED: usize = 8 << 10;
/// So much of small parts is gathered before it is written.
const GATHERED: usize = 32 << 10;

/// How a body that is sent is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// There is none.
    Nothing,
    /// So much is to come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

#[derive(Debug, Default)]
pub(super) struct Output {
    /// Written first, from `written` on.
    small: Vec<u8>,
    written: usize,
    large: Bytes,
    /// What comes after it.
    end: &'static [u8],
    /// How much has gone out in all.
    pub total: u64,
}

/// The sender gave another number of bytes than the head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongLength;

impl Output {
    /// Where heads are written to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.small.capacity() == 0 {
            self.small = buffers::take();
        }
        &mut self.small
    }

    pub fn is_empty(&self) -> bool {
        self.written == self.small.len() && self.large.is_empty() && self.end.is_empty()
    }

    /// How much memory waits to be written.
    pub fn held(&self) -> usize {
        if self.is_empty() { 0 } else { self.small.capacity() + self.large.len() }
    }

    /// Whether more can be put. One thing at a time where `charge` gets no more memory.
    pub fn has_room(&self, charge: &Charge) -> bool {
        self.large.is_empty()
            && self.end.is_empty()
            && self.small.len() - self.written < GATHERED
            && (self.is_empty() || !charge.is_over())
    }

    /// Puts a body's part, and its end if that is known to come with it.
    pub fn put(&mut self, data: Bytes, sending: &mut Sending, last: bool) -> Result<(), WrongLength> {
        if data.is_empty() {
            return if last { self.finish(sending) } else { Ok(()) };
        }
        let end: &'static [u8] = match sending {
            Sending::Nothing => return Err(WrongLength),
            Sending::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                if last && *left > 0 {
                    return Err(WrongLength);
                }
                b""
            }
            Sending::Chunked => {
                encode::chunk_size(self.buffer(), data.len());
                if last { b"\r\n0\r\n\r\n" } else { b"\r\n" }
            }
            Sending::UntilClose => b"",
        };
        if data.len() <= COPIED {
            let buffer = self.buffer();
            buffer.extend_from_slice(&data);
            buffer.extend_from_slice(end);
        } else {
            (self.large, self.end) = (data, end);
        }
        Ok(())
    }

    /// Puts the end of a body.
    pub fn finish(&mut self, sending: &mut Sending) -> Result<(), WrongLength> {
        match sending {
            Sending::Length(1..) => return Err(WrongLength),
            Sending::Chunked => self.buffer().extend_from_slice(b"0\r\n\r\n"),
            _ => {}
        }
        *sending = Sending::Nothing;
        Ok(())
    }

    /// Puts the end of a body that has trailers, if they can be sent.
    pub fn finish_with(
        &mut self,
        sending: &mut Sending,
        trailers: Option<&http::HeaderMap>,
    ) -> Result<(), WrongLength> {
        match trailers {
            Some(trailers) if *sending == Sending::Chunked => {
                encode::trailers(self.buffer(), trailers);
                *sending = Sending::Nothing;
                Ok(())
            }
            _ => self.finish(sending),
        }
    }

    /// Writes all there is.
    pub fn poll_flush<IO: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
    ) -> Poll<io::Result<()>> {
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.is_empty() {
            let small = &self.small[self.written..];
            let count = if self.large.is_empty() && self.end.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, small))?
            } else {
                let slices = [IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.end)];
                let from = usize::from(small.is_empty());
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[from..]))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        self.small.clear();
        self.written = 0;
        // Waits for nothing where the kernel has what was written.
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, mut count: usize) {
        self.total += count as u64;
        let small = count.min(self.small.len() - self.written);
        self.written += small;
        count -= small;
        let large = count.min(self.large.len());
        self.large.advance(large);
        count -= large;
        self.end = &self.end[count..];
        if self.large.is_empty() {
            self.large = Bytes::new();
        }
    }

    /// Takes no more memory than what waits needs.
    pub fn shrink(&mut self) {
        self.small.shrink_to_fit();
    }

    /// Gives back what only a busy connection needs. What was not written is lost.
    pub fn rest(&mut self) {
        buffers::give(std::mem::take(&mut self.small));
        *self = Self { total: self.total, ..Self::default() };
    }
}
