//! HPACK, the compression of HTTP/2's header blocks (RFC 7541).
//!
//! Links between nodes repeat the same fields request after request, so both sides are made for
//! repetition. The [`Decoder`]'s tables hold typed fields: what a peer refers to by index is a
//! clone, a reference count at most. The [`Encoder`] finds a repeated field with one hash, and lets
//! into its table only what it has seen before: what differs from request to request (identifiers,
//! most paths) never pushes out what repeats.
//!
//! The tables of the two ends of a connection must never differ. So whatever a block holds, it is
//! decoded to its end: a field that is malformed (RFC 9113, 8.2.1) or one too many for the list
//! (RFC 9113, 6.5.2) fails its request only, and [`DecodeError`] keeps that apart from what fails the
//! connection.

mod decode;
mod dynamic_table;
mod encode;
mod encoder_table;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod huffman;
mod integer;
mod interned;
mod known_names;
mod static_table;
#[cfg(test)]
mod tests;

use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode};

pub use decode::{Decoder, ListLimit};
pub use encode::Encoder;
pub use tulle_model::head::ENTRY_OVERHEAD;

use crate::uri::Path;

/// What either side's dynamic table may hold until SETTINGS say otherwise (RFC 9113, 6.5.2).
pub const DEFAULT_TABLE_SIZE: usize = 4096;

/// One field of a header block. Each is well-formed by itself: names are in lower case, values hold no
/// control bytes (RFC 9113, 8.2.1). Order and number are up to whoever takes them.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    Method(Method),
    Scheme(Scheme),
    Authority(Authority),
    /// `*`, or a path that starts with a slash; never a fragment.
    Path(Path),
    /// Of an extended CONNECT (RFC 8441): visible ASCII.
    Protocol(HeaderValue),
    Status(StatusCode),
    /// Its value is marked as sensitive if the peer asked that nobody index it (RFC 7541, 6.2.3).
    Header(HeaderName, HeaderValue),
}

/// Why a block could not be decoded to a list of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// An error of the connection, COMPRESSION_ERROR: the tables of the two ends differ from now on.
    #[error("compression error: {0}")]
    Compression(#[from] CompressionError),
    /// An error of the stream, PROTOCOL_ERROR (RFC 9113, 8.1.1). The first of the block.
    #[error("malformed: {0}")]
    Malformed(#[from] MalformedField),
    /// More than the list's limit. What was within was handed over.
    #[error("the list of header fields is too large")]
    Oversized,
}

/// What a peer's encoder did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    #[error("the block ends within a field")]
    Truncated,
    #[error("an integer is too large")]
    IntegerOverflow,
    #[error("an index points to no entry")]
    InvalidIndex,
    #[error("a Huffman code is invalid")]
    InvalidHuffman,
    #[error("a size update exceeds the announced limit")]
    TableTooLarge,
    #[error("a size update stands after a field")]
    MisplacedSizeUpdate,
}

/// What is wrong with a field, or with its place among the others (RFC 9113, 8.2 and 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedField {
    #[error("a field's name is empty, holds upper case, or is no token")]
    Name,
    #[error("a field's value holds a control byte, or starts or ends with white space")]
    Value,
    #[error("a pseudo-header's value is invalid")]
    PseudoValue,
    #[error("`:authority` is no host with an optional port")]
    Authority,
    #[error("a pseudo-header is unknown")]
    UnknownPseudo,
}
