//! What a peer began on a connection and does not go on with; see [`crate::progress`].
//!
//! The sweep looks from time to time, and sees by marks whether there was progress since: what changes a mark is
//! counted anyway, so that messages pay nothing for it.

use std::time::Duration;

use super::connection::is_untaken;
use super::core::Core;
use super::error::{ErrorCode, Violation};
use super::stream::{ResetCause, Stream, Way};
use super::{Ended, Handle, Sender};
use crate::progress::{Deadlines, Stall};

/// How many of each were cut, by [`Stall`].
pub(super) type CutCounts = [u32; 4];

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
pub(super) struct ConnectionStalls {
    block: Still,
    data: Still,
    socket: Still,
    pub cut: CutCounts,
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
            return self.end(Ended::Violation(Violation::new(ErrorCode::ENHANCE_YOUR_CALM, what)));
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
            return self.end(Ended::Violation(Violation::new(ErrorCode::ENHANCE_YOUR_CALM, what)));
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
                _ => self.reset_as(id, ResetCause::Stalled, ErrorCode::CANCEL),
            }
        }
        let code = if self.server { ErrorCode::INTERNAL_ERROR } else { ErrorCode::CANCEL };
        for id in full {
            self.reset_as(id, ResetCause::Stalled, code);
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;
    use crate::http2::connection::UNTAKEN;
    use crate::http2::frame::{self, PREFACE, flag, kind};
    use crate::http2::stream::Finish;
    use crate::http2::tests::LIMITS;

    const DEADLINES: Deadlines = Deadlines {
        head: Duration::from_secs(10),
        body: Duration::from_secs(20),
        write: Duration::from_secs(40),
    };
    const ONE: Duration = Duration::from_nanos(1_000_000);

    fn core(server: bool) -> Core {
        let mut core = Core::new(server, LIMITS);
        let mut hello = if server { PREFACE.to_vec() } else { Vec::new() };
        frame::settings(&mut hello, &[]);
        core.receive(&hello, Duration::ZERO);
        core.out.wrote(core.out.len());
        core
    }

    /// A stream that is waited on for the rest of a body of 10 bytes.
    fn awaited() -> Stream {
        let mut stream = Stream::new(100, 100);
        (stream.length_left, stream.head_seen, stream.receiver) =
            (Some(10), true, Some(Waker::noop().clone()));
        stream
    }

    /// A stream of which 10 bytes wait to be sent.
    fn full() -> Stream {
        let mut stream = Stream::new(0, 100);
        stream.unsent_length = 10;
        stream
    }

    fn ended(core: &Core) -> bool {
        matches!(&core.ended, Some(Ended::Violation(violation)) if violation.code == ErrorCode::ENHANCE_YOUR_CALM)
    }

    #[test]
    fn what_changes_its_mark_is_not_still() {
        let mut still = Still::default();
        for (at, mark, lasts) in [
            (0, Some(7), 0),
            (5, Some(7), 5),
            (9, Some(8), 0),
            (12, Some(8), 3),
            (13, Some(7), 0),
            (20, None, 0),
            (30, Some(7), 0),
            (31, Some(7), 1),
        ] {
            let [at, lasts] = [at, lasts].map(Duration::from_millis);
            assert_eq!(still.lasts(mark, at), lasts, "{at:?}");
        }
    }

    #[test]
    fn a_header_block_has_its_time() {
        for (untaken, ends) in [(0, true), (UNTAKEN, true), (UNTAKEN + 1, false)] {
            let mut core = core(true);
            let mut bytes = Vec::new();
            frame::head(&mut bytes, 5, kind::HEADERS, 0, 1);
            core.receive(&[&bytes[..], &[0x83, 0x86, 0x84, 0x01, 1]].concat(), Duration::ZERO);
            core.out.bytes.resize(untaken, 0);
            core.look(Duration::ZERO, &DEADLINES);
            core.look(DEADLINES.head - ONE, &DEADLINES);
            assert!(core.ended.is_none() && core.watched.cut == [0; 4]);
            core.look(DEADLINES.head, &DEADLINES);
            assert_eq!((ended(&core), core.watched.cut), (ends, [u32::from(ends), 0, 0, 0]), "{untaken}");
            // It is over.
            core.look(3 * DEADLINES.head, &DEADLINES);
            assert_eq!(core.watched.cut[0], u32::from(ends), "{untaken}");
        }
    }

    #[test]
    fn a_frame_of_data_goes_on() {
        let frame = |core: &mut Core, length: usize, came: usize| {
            let mut bytes = Vec::new();
            frame::head(&mut bytes, length, kind::DATA, 0, 1);
            bytes.resize(bytes.len() + came, 0);
            core.receive(&bytes, Duration::ZERO);
        };
        let begin = |untaken: usize| {
            let mut core = core(true);
            let mut bytes = Vec::new();
            let block = [0x83, 0x86, 0x84, 0x01, 1, b'c'];
            frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 1);
            bytes.extend(block);
            core.receive(&bytes, Duration::ZERO);
            frame(&mut core, 100, 10);
            core.out.bytes.resize(untaken, 0);
            core.look(Duration::ZERO, &DEADLINES);
            core.look(DEADLINES.body - ONE, &DEADLINES);
            assert_eq!((core.ended.is_some(), core.watched.cut), (false, [0; 4]));
            core
        };
        for (untaken, ends) in [(0, true), (UNTAKEN + 1, false)] {
            let mut core = begin(untaken);
            core.look(DEADLINES.body, &DEADLINES);
            assert_eq!((ended(&core), core.watched.cut), (ends, [0, u32::from(ends), 0, 0]), "{untaken}");
        }
        // More of it, or as much of the next.
        for more in [1, 90] {
            let mut core = begin(0);
            core.receive(&vec![0; more], Duration::ZERO);
            if more == 90 {
                frame(&mut core, 100, 10);
            }
            core.look(DEADLINES.body, &DEADLINES);
            core.look(2 * DEADLINES.body - ONE, &DEADLINES);
            assert!(core.ended.is_none(), "{more}");
            core.look(2 * DEADLINES.body, &DEADLINES);
            assert!(ended(&core), "{more}");
        }
    }

    #[test]
    fn what_is_written_is_taken() {
        for (full, waits, ends) in [(true, 1, true), (true, 0, false), (false, 1, false)] {
            let mut core = core(true);
            core.socket_full = full;
            core.out.bytes.resize(waits, 0);
            core.look(Duration::ZERO, &DEADLINES);
            core.look(DEADLINES.write - ONE, &DEADLINES);
            assert!(core.ended.is_none());
            core.look(DEADLINES.write, &DEADLINES);
            let lost =
                matches!(&core.ended, Some(Ended::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut);
            assert_eq!((lost, core.watched.cut), (ends, [0, 0, u32::from(ends), 0]), "{full} {waits}");
        }
        let mut core = core(false);
        core.socket_full = true;
        core.out.bytes.resize(100, 0);
        for second in 0..100 {
            core.out.wrote(1);
            core.look(Duration::from_secs(30 * second), &DEADLINES);
        }
        assert!(core.ended.is_none(), "some is taken each time");
    }

    /// A server may still answer; a client has nobody to answer to.
    #[test]
    fn who_does_not_go_on_with_a_body_loses_its_stream() {
        for server in [true, false] {
            let mut core = core(server);
            for id in [1, 3] {
                core.streams.insert(id, awaited());
            }
            core.streams.insert(5, Stream::new(100, 100));
            core.look(Duration::ZERO, &DEADLINES);
            core.look(DEADLINES.body - ONE, &DEADLINES);
            assert_eq!((core.watched.cut, core.out.len()), ([0; 4], 0));
            core.look(DEADLINES.body, &DEADLINES);
            assert_eq!(core.watched.cut, [0, 2, 0, 0]);
            for id in [1, 3] {
                let stream = &core.streams[&id];
                let reset = (!server).then_some(ResetCause::Stalled);
                assert_eq!((stream.stalled, stream.reset), (server, reset));
                assert!(stream.receiver.is_none(), "it hears of it");
            }
            let mut resets = Vec::new();
            if !server {
                frame::number(&mut resets, kind::RST_STREAM, 1, ErrorCode::CANCEL.0);
                frame::number(&mut resets, kind::RST_STREAM, 3, ErrorCode::CANCEL.0);
            }
            let mut said: Vec<_> = core.out.pending().chunks(13).collect();
            said.sort_unstable();
            assert_eq!(said.concat(), resets);
            let other = &core.streams[&5];
            assert!(!other.stalled && other.reset.is_none());
            core.look(3 * DEADLINES.body, &DEADLINES);
            assert_eq!(core.watched.cut, [0, 2, 0, 0], "once");
        }
    }

    #[test]
    fn who_takes_no_more_of_a_body_loses_its_stream() {
        for (server, code) in [(true, ErrorCode::INTERNAL_ERROR), (false, ErrorCode::CANCEL)] {
            let mut core = core(server);
            for id in [1, 3] {
                core.streams.insert(id, full());
            }
            core.unsent = 20;
            core.look(Duration::ZERO, &DEADLINES);
            core.look(DEADLINES.write - ONE, &DEADLINES);
            assert_eq!((core.watched.cut, core.out.len()), ([0; 4], 0));
            if let Some(stream) = core.streams.get_mut(&3) {
                stream.sent += 1;
            }
            core.look(DEADLINES.write, &DEADLINES);
            assert_eq!(core.watched.cut, [0, 0, 1, 0]);
            let mut resets = Vec::new();
            frame::number(&mut resets, kind::RST_STREAM, 1, code.0);
            assert_eq!(core.out.pending(), resets);
            assert_eq!((core.streams[&1].reset, core.streams[&3].reset), (Some(ResetCause::Stalled), None));
            core.look(2 * DEADLINES.write, &DEADLINES);
            assert_eq!(core.watched.cut, [0, 0, 2, 0]);
        }
    }

    #[test]
    fn a_body_is_awaited_where_somebody_waits_for_more_of_what_was_said() {
        type Change = fn(&mut Stream);
        let changes: [(Change, Option<u64>); 10] = [
            (|_| {}, Some(10)),
            (|stream| stream.length_left = Some(1), Some(1)),
            (|stream| stream.length_left = Some(0), None),
            (|stream| stream.length_left = None, None),
            (|stream| stream.receiver = None, None),
            (|stream| stream.head_seen = false, None),
            (|stream| stream.keep(b"x"), None),
            (|stream| stream.receiving = Way::Ended, None),
            (|stream| stream.reset = Some(ResetCause::Full), None),
            (|stream| stream.stalled = true, None),
        ];
        for (index, (change, expected)) in changes.into_iter().enumerate() {
            let mut stream = awaited();
            change(&mut stream);
            assert_eq!(stream.awaits(), expected, "{index}");
        }
    }

    #[test]
    fn what_waits_to_be_sent_is_to_be_taken_unless_it_may_rest() {
        type Change = fn(&mut Stream);
        let changes: [(Change, Option<u64>); 8] = [
            (|_| {}, Some(0)),
            (|stream| stream.sent = 7, Some(7)),
            (|stream| stream.unsent_length = 0, None),
            (|stream| stream.at_hand = 1, Some(0)),
            (|stream| (stream.unsent_length, stream.at_hand) = (0, 1), Some(0)),
            (|stream| stream.reset = Some(ResetCause::Full), None),
            (|stream| stream.is_tunnel = true, None),
            // It needs no window.
            (|stream| (stream.unsent_length, stream.finish) = (0, Some(Finish::End)), None),
        ];
        for (index, (change, expected)) in changes.into_iter().enumerate() {
            let mut stream = full();
            change(&mut stream);
            assert_eq!(stream.offers(), expected, "{index}");
        }
    }

    #[test]
    fn whoever_holds_a_connection_has_it_looked_at() {
        let mut core = core(true);
        core.streams.insert(1, full());
        core.unsent = 10;
        let handle = Handle(Rc::new(RefCell::new(core)), None);
        handle.look(Duration::ZERO, &DEADLINES);
        handle.look(DEADLINES.write, &DEADLINES);
        assert_eq!((handle.take_cut(), handle.take_cut()), ([0, 0, 1, 0], [0; 4]));
    }

    #[test]
    fn a_sender_says_what_it_has_at_hand_and_that_it_may_rest() {
        let mut core = core(true);
        let mut bytes = Vec::new();
        let block = [0x83, 0x86, 0x84, 0x01, 1, b'c'];
        frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 1);
        bytes.extend(block);
        core.receive(&bytes, Duration::ZERO);
        let incoming = core.accepted.pop_front().unwrap();
        let core = Rc::new(RefCell::new(core));
        let (mut sender, _receiver) = Handle(core.clone(), None).incoming(&incoming);
        sender.wants_room(7);
        assert_eq!(core.borrow().streams[&1].offers(), Some(0));
        assert_eq!(core.borrow().streams[&1].at_hand, 7);
        sender.is_tunnel();
        assert_eq!(core.borrow().streams[&1].offers(), None);
    }
}
