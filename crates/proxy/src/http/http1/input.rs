//! What was read of a connection and not used yet. While nothing is left over, and while more is awaited, it holds
//! no memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tulle_model::detect;

use super::buffers::{self, with_scratch};
use super::framing::{BodyDecoder, Decoded, Malformed};
use super::head::{Bad, empty_lines};
use crate::budget::{Charge, Shed};
use crate::http::HEADER_LIMIT;

/// What a body is read with at first, and when it fills that.
const FIRST_READ: usize = 16 << 10;
const READ: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Input {
    pub buffer: BytesMut,
    /// What was taken off the front of it, and is there as long as the rest.
    taken: usize,
    /// So much of the buffer is known to be no whole head.
    searched: usize,
    /// That has its first line to the end.
    lined: bool,
    /// The last read of a body was a large one.
    busy: bool,
    /// Something was read since a body's reader was last told to wait.
    read: bool,
    /// A body's reader waits for more of it.
    pub awaited: bool,
}

/// Why there is no head.
#[derive(Debug)]
pub(in crate::http) enum NoHead {
    /// The connection has ended, between messages.
    Ended,
    /// It has ended within a head.
    Cut,
    Broken(io::Error),
    Bad(Bad),
}

/// A body whose connection was closed before its end.
#[derive(Debug)]
pub(crate) struct Cut;

impl Cut {
    pub const MESSAGE: &str = "the connection was closed before the body's end";
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::MESSAGE)
    }
}

impl std::error::Error for Cut {}

/// What a body's reading came to.
#[derive(Debug)]
pub(super) enum Lost {
    Ended,
    Broken(io::Error),
    Malformed(Malformed),
    /// The peer does not go on with it.
    Stalled,
    /// There is no memory for the rest of its trailers.
    Shed(Shed),
}

impl Input {
    pub fn new(first: Vec<u8>) -> Self {
        Self { buffer: first.as_slice().into(), ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How much memory it takes.
    pub fn held(&self) -> usize {
        if self.buffer.is_empty() { 0 } else { self.buffer.capacity() + self.taken }
    }

    /// Whether it takes any, though it may be empty.
    pub fn takes_memory(&self) -> bool {
        self.buffer.capacity() + self.taken > 0
    }

    /// Takes no more memory than what is left needs, where that is the smaller part of it.
    pub fn shrink(&mut self) {
        if self.buffer.capacity() + self.taken > 2 * self.buffer.len() {
            self.move_rest();
        }
    }

    fn move_rest(&mut self) {
        (self.buffer, self.taken) = (self.buffer[..].into(), 0);
    }

    fn keep(&mut self, read: &[u8]) {
        match self.buffer.is_empty() {
            true => (self.buffer, self.taken) = (read.into(), 0),
            false => self.buffer.extend_from_slice(read),
        }
    }

    /// Forgets empty lines before a request, which some clients send after a body (RFC 9112, section 2.2).
    pub fn skip_empty_lines(&mut self) {
        if empty_lines(&self.buffer) == self.buffer.len() {
            self.buffer.clear();
            (self.searched, self.lined) = (0, false);
        }
    }

    /// Gives back what only a busy connection needs.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            *self = Self::default();
        }
    }

    /// Reads until `parse` finds a head, which says how many bytes it took. No more is read at a time than `charge`
    /// allows.
    pub fn poll_head<T, IO: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        charge: &Charge,
        mut parse: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, Bad>,
    ) -> Poll<Result<T, NoHead>> {
        loop {
            if self.may_hold_head() || self.buffer.len() > HEADER_LIMIT {
                match parse(&self.buffer).map_err(NoHead::Bad)? {
                    Some((head, used)) => {
                        self.buffer.advance(used);
                        self.taken += used;
                        (self.searched, self.lined) = (0, false);
                        return Poll::Ready(Ok(head));
                    }
                    None => {
                        self.searched = self.buffer.len();
                        self.lined = has_line(&self.buffer);
                    }
                }
            }
            if self.buffer.len() > HEADER_LIMIT {
                // It is within the limit without the empty lines before it.
                self.buffer.advance(empty_lines(&self.buffer));
                self.searched = self.buffer.len();
            }
            let first = self.buffer.is_empty();
            // Here, as it is large and would be copied on each step of its way out.
            let mut found = None;
            ready!(with_scratch(|scratch| {
                let mut read = ReadBuf::new(&mut scratch[..charge.readable(AHEAD)]);
                ready!(Pin::new(&mut *io).poll_read(cx, &mut read)).map_err(NoHead::Broken)?;
                let mut bytes = read.filled();
                if bytes.is_empty() {
                    return Poll::Ready(Err(if first { NoHead::Ended } else { NoHead::Cut }));
                }
                if first {
                    // As a rule all of it is there, and nothing else.
                    found = match parse(bytes) {
                        Ok(found) => found,
                        Err(bad) => {
                            // For whoever wants to know what it was instead.
                            self.buffer.extend_from_slice(&bytes[..bytes.len().min(detect::LIMIT)]);
                            return Poll::Ready(Err(NoHead::Bad(bad)));
                        }
                    };
                    match &found {
                        Some((_, used)) => bytes = &bytes[*used..],
                        None => (self.searched, self.lined) = (bytes.len(), has_line(bytes)),
                    }
                }
                if !bytes.is_empty() {
                    self.keep(bytes);
                }
                Poll::Ready(Ok(()))
            }))?;
            if let Some((head, _)) = found {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Whether it is worth to parse (again): a head that trickles in is not parsed at every byte. Once its first
    /// line is there, what is none is refused.
    fn may_hold_head(&self) -> bool {
        let new = &self.buffer[self.searched.saturating_sub(3).min(self.buffer.len())..];
        match self.searched {
            0 => !new.is_empty(),
            _ if !self.lined && new.contains(&b'\n') => true,
            _ => new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n"),
        }
    }

    /// Reads `most` bytes at most, and not more than [`AHEAD`], by way of a buffer that all share: nothing is held
    /// while they are awaited, and what came takes as much as it is. Ready with 0 at the end of the connection.
    pub fn poll_read<IO: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let mut read = ReadBuf::new(&mut scratch[..most.min(AHEAD)]);
            ready!(Pin::new(io).poll_read(cx, &mut read))?;
            self.keep(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// The next part of a body; never [`Decoded::More`]. No more is read at a time than `charge` allows. `waits` is
    /// told once after what was read, when there is no more of it.
    pub fn poll_body<IO: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        decoder: &mut BodyDecoder,
        charge: &Charge,
        mut waits: impl FnMut(&IO),
    ) -> Poll<Result<Decoded, Lost>> {
        loop {
            match decoder.decode(&mut self.buffer).map_err(Lost::Malformed)? {
                Decoded::More => {}
                decoded => {
                    if decoder.is_over() && !self.buffer.is_empty() {
                        // What was sent ahead may wait for long, and is a part of what was read with it.
                        self.move_rest();
                    }
                    return Poll::Ready(Ok(decoded));
                }
            }
            match self.poll_fill(cx, io, charge) {
                Poll::Ready(Ok(0)) if decoder.finish() => return Poll::Ready(Ok(Decoded::End)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Lost::Ended)),
                Poll::Ready(Ok(_)) => self.read = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Lost::Broken(error))),
                Poll::Pending => {
                    if std::mem::take(&mut self.read) {
                        waits(io);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Has what waits here of a body charged, with `more`. Trailers wait until all of them are there, and can be
    /// refused.
    pub fn hold_body(&self, decoder: &BodyDecoder, more: usize, charge: &mut Charge) -> Result<(), Shed> {
        match decoder.trailers_held() {
            None => charge.hold(0, self.held() + more),
            Some(fields) => charge.try_hold(self.held() + fields + more)?,
        }
        Ok(())
    }

    /// Reads what is large into the buffer itself, so that it is copied by the kernel only.
    fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        charge: &Charge,
    ) -> Poll<io::Result<usize>> {
        let filled = if self.busy && !charge.is_over() {
            if self.buffer.capacity() - self.buffer.len() < READ / 2 {
                self.buffer.reserve(READ);
            }
            tokio_util::io::poll_read_buf(Pin::new(io), cx, &mut self.buffer)
        } else {
            self.poll_read(cx, io, charge.readable(FIRST_READ))
        };
        match filled {
            Poll::Ready(filled) => {
                self.busy = matches!(filled, Ok(FIRST_READ..));
                Poll::Ready(filled)
            }
            Poll::Pending => {
                // It may have room for more, or be a part of what was read with it.
                self.move_rest();
                Poll::Pending
            }
        }
    }
}

/// Whether a line ends in the bytes that has something in it.
fn has_line(bytes: &[u8]) -> bool {
    bytes[empty_lines(bytes)..].contains(&b'\n')
}

/// The most that is read ahead for a client that sends its requests without awaiting answers.
pub(super) const AHEAD: usize = buffers::SCRATCH;
