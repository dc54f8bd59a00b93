//! Deadlines of progress: peers that begin something and do not go on with it.
//!
//! What has a deadline: a head, header block or trailer section that was begun; a body or chunk whose length was
//! said, while somebody waits for more of it; data that a peer does not take. A body without a length, an idle
//! stream, an answer that is long in coming only need a live connection.
//! [`crate::sweep`] looks after them.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::{HEADER_LIMIT, spelling};
use crate::http2::hpack::ENTRY_OVERHEAD;
use crate::mesh_headers::SPELLING;

/// How long what was begun may make no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A message's head or header block may take that long from its first byte to its last.
    pub head: Duration,
    /// A body whose length was said may bring nothing for so long while it is awaited.
    pub body: Duration,
    /// A peer may take nothing for so long of what waits to be sent to it.
    pub write: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { head: Duration::from_secs(30), body: Duration::from_secs(60), write: Duration::from_secs(60) }
    }
}

impl Deadlines {
    pub(crate) fn of(&self, what: Stall) -> Duration {
        match what {
            Stall::Head => self.head,
            Stall::Body => self.body,
            Stall::Write | Stall::Interim | Stall::HalfClosed => self.write,
        }
    }

    /// On a link the node that has the cause at its own door is to find it first.
    pub(crate) fn on_links(&self) -> Self {
        let longer = |deadline: Duration| deadline + deadline / 4;
        Self { head: longer(self.head), body: longer(self.body), write: longer(self.write) }
    }
}

/// Interim answers (1xx) that may come before one answer, and how large they may be in all, as heads are counted.
pub const INTERIM_ANSWERS: u32 = 32;
const INTERIM_BYTES: usize = HEADER_LIMIT;

/// What came of them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Interim {
    count: u32,
    bytes: usize,
}

impl Interim {
    /// Whether one more may be passed on that has these fields.
    pub fn admits(&mut self, fields: &HeaderMap) -> bool {
        let size = |(name, value): (&HeaderName, &HeaderValue)| match name == SPELLING {
            // How it is written is not in it where it comes from.
            true => value.len().saturating_sub(spelling::MOST),
            false => name.as_str().len() + value.len() + ENTRY_OVERHEAD,
        };
        self.count += 1;
        self.bytes += fields.iter().map(size).sum::<usize>();
        self.count <= INTERIM_ANSWERS && self.bytes <= INTERIM_BYTES
    }

    /// How many there were.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// Who made no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Side {
    Client,
    Application,
    Link,
}

pub(crate) const SIDES: [(Side, &str); 3] =
    [(Side::Client, "client"), (Side::Application, "application"), (Side::Link, "link")];

/// With what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stall {
    Head,
    Body,
    Write,
    /// Interim answers without end.
    Interim,
    /// A client of HTTP/1 that has closed its side takes nothing of an answer.
    HalfClosed,
}

pub(crate) const STALLS: [(Stall, &str); 5] = [
    (Stall::Head, "head"),
    (Stall::Body, "body"),
    (Stall::Write, "write"),
    (Stall::Interim, "interim"),
    (Stall::HalfClosed, "half-closed"),
];

/// The error of a body that its sender does not go on with.
#[derive(Debug)]
pub(crate) struct Stalled;

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its sender does not go on with it")
    }
}

impl std::error::Error for Stalled {}
