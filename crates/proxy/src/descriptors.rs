//! Accepting connections where there is no descriptor left for them.

use std::fs::File;
use std::io;

use futures_util::FutureExt;
use tokio::net::{TcpListener, UnixListener};

use crate::reset::Reset;

/// A descriptor that is held for the moment when there is no other. A listener that cannot accept would
/// stay ready, and its clients would wait for what does not come: with this one they are accepted, and
/// turned away.
pub struct Spare(Option<File>);

impl Spare {
    pub fn new() -> Self {
        Self(open())
    }

    /// Whether an error of accept(2) says that there is no descriptor left, in this process or on this host.
    pub fn is_wanted(error: &io::Error) -> bool {
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
    }

    /// Turns away the connection that waits at `listener`. `false`: that is not possible either, and the
    /// caller should wait for a while.
    pub async fn turn_away(&mut self, listener: &impl Accept) -> bool {
        let had = self.0.take().is_some();
        let turned_away = had && listener.accept_now();
        self.0 = open();
        // Others of this thread, which may give descriptors back, get their turn.
        tokio::task::yield_now().await;
        turned_away
    }
}

impl Default for Spare {
    fn default() -> Self {
        Self::new()
    }
}

fn open() -> Option<File> {
    File::open("/dev/null").ok()
}

/// What connections wait at.
pub trait Accept {
    /// Accepts one that waits, and ends it; whether there was one.
    fn accept_now(&self) -> bool;
}

impl Accept for TcpListener {
    fn accept_now(&self) -> bool {
        match self.accept().now_or_never() {
            Some(Ok((mut tcp, _))) => {
                tcp.reset();
                true
            }
            _ => false,
        }
    }
}

impl Accept for UnixListener {
    fn accept_now(&self) -> bool {
        matches!(self.accept().now_or_never(), Some(Ok(_)))
    }
}
