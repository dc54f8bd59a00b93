//! Connections and streams that can be ended so that the peer sees a failure.

use std::io;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

/// A stream that can be ended so that the peer sees a failure and not an orderly end.
pub trait Reset {
    fn reset(&mut self);

    /// The same where the other side failed so: its own code is passed on where both have one.
    fn reset_for(&mut self, _other: &io::Error) {
        self.reset();
    }

    /// Ready, with the reason, where what let it in no longer does: it is to be reset, whatever else is waited for.
    fn poll_withdrawn(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl Reset for TcpStream {
    fn reset(&mut self) {
        // Fails for what was not redirected here, which ends when it is dropped.
        if tulle_sys::conntrack::reset_redirected(self).is_err() {
            let _ = self.set_zero_linger();
        }
    }
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// How one direction stands of a connection whose bytes are passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DirectionState {
    Open,
    /// Everything has been passed on, but not the end.
    Ended,
    Shut,
}
