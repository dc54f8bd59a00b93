//! Clients that have closed their side.
//!
//! Such a one may listen or be gone: the kernel does not tell one from the other, unless its host answers no more, or with
//! a reset. So it gets its answer for as long as it takes some of it within a bound.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::{Client, Gone};
use crate::progress::{Side, Stall};
use crate::tcp::Closed;

pub(super) struct HalfClosed {
    bound: Duration,
    /// Not all is read that it sent before.
    unread: bool,
    /// When the client last took something, and how much there was in all.
    took: Instant,
    total: u64,
    deadline: Pin<Box<Sleep>>,
}

impl Client {
    /// Watches for what becomes of a client from which nothing is read: it has closed its side, or what it sent has no
    /// room for now. The kernel does not tell of itself, so it is asked from time to time.
    #[cold]
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        match self.io.closed() {
            Some(Closed::Both) => {
                tracing::debug!("a client went away from what it asked for");
                return Poll::Ready(Gone);
            }
            Some(Closed::Sending) if !self.has_ended() => self.half_close(true),
            Some(Closed::Sending) | None => {}
        }
        self.sweep_waker.poll(cx, &self.sweep);
        self.poll_bound(cx)
    }

    /// The same for a client whose body is read by somebody who may be held up: a reset is found behind it.
    pub(super) fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        if !self.input.awaited && matches!(self.io.closed(), Some(Closed::Both)) {
            tracing::debug!("a client went away from what it was sending");
            return Poll::Ready(Gone);
        }
        self.sweep_waker.poll(cx, &self.sweep);
        Poll::Pending
    }

    fn poll_bound(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        let Some(half_closed) = &mut self.half_closed else { return Poll::Pending };
        let gone = ready!(half_closed.poll(cx, self.output.total));
        self.sweep.count(Side::Client, Stall::HalfClosed);
        self.owner.cut();
        Poll::Ready(gone)
    }

    /// The client has closed its side. `unread`: not all is read that it sent before.
    pub(super) fn half_close(&mut self, unread: bool) {
        let (io, owner, total) = (&self.io, &self.owner, self.output.total);
        let half_closed = self.half_closed.get_or_insert_with(|| {
            io.keep_alive();
            let bound = owner.half_close();
            let deadline = Box::pin(sleep(bound));
            Box::new(HalfClosed { bound, unread, took: Instant::now(), total, deadline })
        });
        half_closed.unread = unread;
    }

    /// Whether all was read that the client sends.
    pub(super) fn has_ended(&self) -> bool {
        self.half_closed.as_ref().is_some_and(|half_closed| !half_closed.unread)
    }
}

impl HalfClosed {
    fn poll(&mut self, cx: &mut Context<'_>, total: u64) -> Poll<Gone> {
        if self.total != total {
            (self.took, self.total) = (Instant::now(), total);
        }
        loop {
            ready!(self.deadline.as_mut().poll(cx));
            let until = self.took + self.bound;
            if until <= Instant::now() {
                tracing::debug!("the client of a half-closed connection takes nothing any more");
                return Poll::Ready(Gone);
            }
            self.deadline.as_mut().reset(until);
        }
    }
}
