//! What a peer began on a connection and does not go on with; see [`crate::progress`].
//!
//! The sweep looks from time to time, and sees by marks whether there was progress since: what changes a mark is
//! counted anyway, so that messages pay nothing for it.

use std::time::Duration;

use super::connection::is_untaken;
use super::core::Core;
use super::error::{Reason, Violation};
use super::stream::{Reset, Stream, Way};
use super::{Ended, Handle, Sender};
use crate::progress::{Deadlines, Stall};

/// How many of each were cut, by [`Stall`].
pub(super) type Cut = [u32; 4];

/// Since when something is as it was.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Still {
    mark: u64,
    /// In milliseconds of the sweep's clock, and one more; 0: there is nothing to wait for.
    since: u64,
}

impl Still {
    /// How long it has been so. `mark`: `None` when there is nothing to wait for.
    fn lasts(&mut self, mark: Option<u64>, now: Duration) -> Duration {
        let Some(mark) = mark else {
            self.since = 0;
            return Duration::ZERO;
        };
        let now = now.as_millis() as u64 + 1;
        if self.since == 0 || self.mark != mark {
            *self = Self { mark, since: now };
        }
        Duration::from_millis(now - self.since)
    }
}

/// What is watched of the connection itself.
#[derive(Debug, Default)]
pub(super) struct Watched {
    block: Still,
    data: Still,
    socket: Still,
    pub cut: Cut,
}

impl Core {
    /// Ends what has made no progress for too long.
    pub(super) fn look(&mut self, now: Duration, deadlines: &Deadlines) {
        if self.ended.is_some() {
            return;
        }
        // While it takes nothing it is not read either: what it began may be there.
        let read = !is_untaken(self);
        if self.watched.block.lasts(self.input.begun().filter(|_| read), now) >= deadlines.head {
            self.watched.cut[Stall::Head as usize] += 1;
            let what = "it does not finish what it began to say";
            return self.end(Ended::Violation(Violation::new(Reason::ENHANCE_YOUR_CALM, what)));
        }
        // Nothing else can come before its end.
        let data = self
            .input
            .data_left()
            .filter(|_| read)
            .map(|left| left as u64 ^ (self.receive_window as u64) << 32);
        if self.watched.data.lasts(data, now) >= deadlines.body {
            self.watched.cut[Stall::Body as usize] += 1;
            let what = "it does not go on with a frame";
            return self.end(Ended::Violation(Violation::new(Reason::ENHANCE_YOUR_CALM, what)));
        }
        let unwritten = (self.socket_full && self.out.len() > 0).then_some(self.out.total);
        if self.watched.socket.lasts(unwritten, now) >= deadlines.write {
            self.watched.cut[Stall::Write as usize] += 1;
            return self.end(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        let mut silent = Vec::new();
        let mut full = Vec::new();
        for (id, stream) in &mut self.streams {
            if stream.receive_still.lasts(stream.awaits(), now) >= deadlines.body {
                silent.push(*id);
            } else if stream.send_still.lasts(stream.offers(), now) >= deadlines.write {
                full.push(*id);
            }
        }
        self.watched.cut[Stall::Body as usize] += silent.len() as u32;
        self.watched.cut[Stall::Write as usize] += full.len() as u32;
        for id in silent {
            match self.streams.get_mut(&id) {
                // An answer may still be possible.
                Some(stream) if self.server => {
                    stream.stalled = true;
                    stream.wake_receiver();
                }
                _ => self.reset_as(id, Reset::Stalled, Reason::CANCEL),
            }
        }
        let code = if self.server { Reason::INTERNAL_ERROR } else { Reason::CANCEL };
        for id in full {
            self.reset_as(id, Reset::Stalled, code);
        }
    }
}

impl Stream {
    /// A mark of the body that is awaited: one whose length was said.
    fn awaits(&self) -> Option<u64> {
        let left = self.length_left.filter(|left| *left > 0)?;
        let awaited = self.receiver.is_some()
            && self.head_seen
            && self.data.is_empty()
            && self.receiving == Way::Open
            && self.reset.is_none()
            && !self.stalled;
        awaited.then_some(left)
    }

    /// A mark of what waits to be sent.
    fn offers(&self) -> Option<u64> {
        let waits = (self.unsent_length > 0 || self.at_hand > 0) && self.reset.is_none() && !self.is_tunnel;
        waits.then_some(self.sent)
    }
}

impl Handle {
    /// Ends what has made no progress for too long; `now` is of the sweep's clock.
    pub(crate) fn look(&self, now: Duration, deadlines: &Deadlines) {
        self.0.borrow_mut().look(now, deadlines);
    }

    /// How many were cut since the last call, by [`Stall`].
    pub(crate) fn take_cut(&self) -> [u32; 4] {
        std::mem::take(&mut self.0.borrow_mut().watched.cut)
    }
}

impl Sender {
    /// So much data is at hand, and there is no room for it.
    pub(super) fn wants_room(&mut self, at_hand: usize) {
        self.with_core(|core, id| {
            if let Some(stream) = core.streams.get_mut(&id) {
                stream.hold(at_hand);
            }
        });
    }

    /// What passes has no end that anybody knows of: it may rest as long as it likes.
    pub(super) fn is_tunnel(&mut self) {
        self.with_core(|core, id| {
            if let Some(stream) = core.streams.get_mut(&id) {
                stream.is_tunnel = true;
            }
        });
    }
}
