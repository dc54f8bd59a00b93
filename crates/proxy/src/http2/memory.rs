//! What a connection takes of memory beside its streams, and how its peer is made to wait where there is no more.
//!
//! What a peer was given room for cannot be refused without cutting a stream. So the room of all streams is taken
//! back when whose they are gets no more memory to spare, by a smaller initial window (RFC 9113, section 6.9.2),
//! and given again when it does. Until the peer has heard of that, it gets nothing back of the connection's window.

use std::time::Duration;

use super::core::{Core, OUT_LIMIT};
use super::error::{Ended, ErrorCode, Violation};
use super::frame::{self, setting};
use crate::budget::cost;

/// Streams wait for their turn when that much is to be written already, where there is no more memory.
const OUT_LIMIT_SQUEEZED: usize = 8 << 10;
/// The connection's buffers are charged in such steps.
const STEP: usize = 16 << 10;
/// The window of a stream then.
const SMALL_WINDOW: u32 = 16 << 10;
/// How long that stays at least: a peer may take it amiss to be told over and over.
const SMALL_FOR: Duration = Duration::from_secs(1);

/// How much the peer may send on a stream that begins.
pub(super) struct Windows {
    most: u32,
    told: u32,
    /// As far as the peer has confirmed to have heard it.
    confirmed: u32,
    /// Whether there is anything that it has not confirmed.
    unconfirmed: bool,
    /// The first stream that we open since then (clients).
    since: u32,
    changed: Duration,
    /// A stream has got memory for what came, and would not have got any to spare.
    pub short: bool,
    /// Memory ran short, and the peer may still use large windows: nothing of the connection's window is given back
    /// until it has confirmed small ones, or there is memory again.
    pub unheard: bool,
}

impl Windows {
    pub(super) fn new(most: u32) -> Self {
        let (unconfirmed, changed) = (true, Duration::ZERO);
        Self {
            most,
            told: most,
            confirmed: most,
            unconfirmed,
            since: 0,
            changed,
            short: false,
            unheard: false,
        }
    }

    /// A stream has got no memory to spare.
    #[cold]
    pub(super) fn run_short(&mut self) {
        self.short = true;
        self.unheard |= self.confirmed > SMALL_WINDOW;
    }

    /// What the peer was told.
    pub(super) fn told(&self) -> u32 {
        self.told
    }

    /// What it had heard when it sent what comes now.
    pub(super) fn confirmed(&self) -> u32 {
        self.confirmed
    }

    /// What a stream's window begins with, as far as it is known to have been heard.
    #[cfg(any(test, fuzzing))]
    pub(super) fn granted(&self, id: u32, server: bool) -> u32 {
        if server || id < self.since { self.confirmed } else { self.told }
    }
}

impl Core {
    /// So much may be waiting to be written before streams wait for their turn.
    pub(super) fn out_limit(&self) -> usize {
        if self.payer.is_over() { OUT_LIMIT_SQUEEZED } else { OUT_LIMIT }
    }

    /// Charges what the connection's own buffers take, and makes the windows fit what there is.
    pub(super) fn charge_buffers(&mut self) {
        let begun = self.input.held().saturating_sub(cost::WAITING);
        let (size, charged) = (self.out.bytes.capacity() + begun, self.payer.bytes());
        if size > charged || size + 2 * STEP <= charged {
            let size = size.next_multiple_of(STEP);
            if begun != 0 && self.server && self.streams.is_empty() {
                if self.payer.resize(size).is_err() {
                    let what = "there is no memory for the head that it sends";
                    self.end(Ended::Violation(Violation::new(ErrorCode::ENHANCE_YOUR_CALM, what)));
                }
            } else {
                // What is there is there; less is written from now on.
                self.payer.set(size);
            }
        }
        let short = std::mem::take(&mut self.windows.short) || self.payer.is_over();
        if short != (self.windows.told < self.windows.most) {
            self.change_windows(short);
        }
        // Where it was told and does not confirm, others need not wait for that.
        let told = self.windows.told < self.windows.most;
        if self.windows.unheard
            && !short
            && !(told && self.now.saturating_sub(self.windows.changed) < SMALL_FOR)
        {
            self.return_window();
        }
    }

    #[cold]
    fn change_windows(&mut self, small: bool) {
        let windows = &mut self.windows;
        let early = !small && self.now.saturating_sub(windows.changed) < SMALL_FOR;
        if windows.unconfirmed || early || self.ended.is_some() {
            return;
        }
        let (old, new) = (windows.told, if small { SMALL_WINDOW.min(windows.most) } else { windows.most });
        (windows.told, windows.unconfirmed, windows.changed) = (new, true, self.now);
        windows.since = self.next_stream;
        frame::settings(&mut self.out.bytes, &[(setting::INITIAL_WINDOW_SIZE, new)]);
        if small {
            // What was to be told later is what they have left now.
            for id in self.streams.keys().copied().collect::<Vec<u32>>() {
                self.credit_stream(id, 0);
            }
        } else {
            windows.confirmed = new;
            self.streams.values_mut().for_each(|stream| stream.receive_window += i64::from(new - old));
        }
        self.wake_driver();
    }

    /// The peer has heard what it was told of windows.
    pub(super) fn settings_confirmed(&mut self) {
        let windows = &mut self.windows;
        windows.unconfirmed = false;
        let less = i64::from(windows.confirmed - windows.told);
        windows.confirmed = windows.told;
        if less > 0 {
            let before = self.streams.iter_mut().filter(|(id, _)| self.server || **id < windows.since);
            before.for_each(|(_, stream)| stream.receive_window -= less);
        }
        if self.windows.unheard && self.windows.confirmed <= SMALL_WINDOW {
            self.return_window();
        }
    }
}
