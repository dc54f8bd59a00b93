//! HTTP/2 (RFC 9113), for clients, for applications and for links.
//!
//! One engine for both roles. [`Connection`] is polled by one task and moves bytes between a socket and
//! the [`core`](self::core): the state of the connection, a value without socket or clock. Requests and
//! bodies are handed over through [`Handle`], [`Sender`] and [`Receiver`], which any task of the same
//! thread may hold; what they write is collected and leaves in one write when the connection's task gets
//! its turn, after all those that have something to say.
//!
//! What a peer may cost us is bounded: streams, header lists, what is buffered for readers (flow control)
//! and for the socket, and by [`budget`] what it may do that costs us more than it.

mod alive;
mod body;
mod budget;
mod connection;
mod control;
mod core;
mod error;
mod fields;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod given_up;
mod handle;
pub mod hpack;
mod input;
mod interim;
mod line;
mod memory;
mod out;
mod receive;
mod send;
mod skipped;
mod splice;
mod stalled;
mod stream;
#[cfg(test)]
mod tests;
mod tunnel;

use http::HeaderName;

pub use alive::until_dead;
pub use body::{ReceivedBody, send_body};
pub use connection::{Connection, Plain, Transport};
pub use error::{ERROR_CODE_NAMES, Ended, Error, ErrorCode, Violation};
pub use fields::{ConnectProtocol, RequestFields};
pub use given_up::give_up;
pub use handle::{Handle, Incoming, InterimSender, Receiver, Sender, Unfit};
pub use line::{Line, Ticket};
pub use splice::splice;
pub use tunnel::Tunnel;

/// What a client does so as not to reset more streams than its peer puts up with, whoever it resets them for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenReset {
    /// It opens no more than it could reset, and further ones as time goes on.
    Wait,
    /// It opens no more on that connection when it has reset so many; there are others.
    Leave,
}

/// What one side allows the other.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one stream that may be under way without the reader having taken them.
    pub stream_window: u32,
    /// The same of all streams together.
    pub connection_window: u32,
    /// The largest frame that is taken.
    pub frame: u32,
    /// The largest header list (RFC 9113, section 6.5.2) that is taken, and the most fields. The crumbs of a
    /// cookie count as one.
    pub header_list: u32,
    pub fields: u32,
    /// Streams that the peer may have open at a time (servers).
    pub streams: u32,
    /// Streams that may be reset before they are answered, at once and in a second. A server closes the
    /// connection of a peer that resets more (CVE-2023-44487). A client does not come to that point, see
    /// [`WhenReset`].
    pub resets: u32,
    pub resets_per_second: u32,
    pub when_reset: WhenReset,
    /// Whether the peer may ask for other protocols (RFC 8441; servers).
    pub extended_connect: bool,
    /// Names of fields that the peer sends often, besides those that are common everywhere.
    pub names: &'static [HeaderName],
}
