//! HTTP/1.0 and HTTP/1.1 (RFC 9112) towards clients ([`server`]) and applications ([`client`]).
//!
//! A connection is a plain struct: a socket, what was read of it and not used yet ([`input`]), and what
//! was not written yet ([`output`]). No task, channel or timer stands between the one who waits for a
//! message and the socket, and a message that is there as a whole is read by one system call and written
//! by one. Heads are parsed in [`head`] and written in [`encode`]; [`framing`] finds the ends of bodies.
//!
//! What can be understood in two ways is refused (section 11.2): a message passes on only what this
//! module has parsed, never the sender's bytes.

mod buffers;
pub(crate) mod client;
mod date;
mod encode;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
#[cfg(any(test, fuzzing))]
mod in_pieces;
mod input;
mod output;
pub(super) mod server;
mod spelled;
#[cfg(test)]
mod tests;

pub(crate) use buffers::give_headers;
pub(crate) use framing::{Malformed, TRAILERS_TOO_LARGE};
pub(super) use head::{Bad, RequestHead};
pub(crate) use input::Cut;
pub(super) use input::NoHead;
