//! Heads of messages: how large they may be, and what is read of their fields alike in all places.

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName};

/// How large the head or the trailer section of a message may be, counted alike for all versions of HTTP: the
/// name and value of each field and 32 bytes, those of a request's line and of a status as pseudo-header fields
/// (RFC 9113, section 6.5.2), and the crumbs of a cookie as one field.
pub const HEADER_LIMIT: usize = 64 << 10;
/// How many fields it may have, pseudo-header fields and `Host` apart.
pub const FIELD_LIMIT: usize = 256;
/// A field of a head in memory, beside the bytes of its name and value.
pub const FIELD_COST: usize = 256;

/// What the fields of a head or a trailer section cost in memory, in bytes.
#[inline]
pub fn cost(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_COST).sum()
}

/// Whether a head that was changed is one that would have been taken at the first door: links count on that. `target`: the
/// length of its path with the query.
pub fn may_go_on(fields: &HeaderMap, target: usize) -> bool {
    fields.len() <= FIELD_LIMIT && cost(fields) + target <= HEADER_LIMIT
}

/// Whether the only transfer coding is `chunked`: another one would be lost with the framing (RFC 9112,
/// section 6.1).
#[inline]
pub fn plain_framing(headers: &HeaderMap) -> bool {
    list(headers, &TRANSFER_ENCODING).all(|coding| coding.eq_ignore_ascii_case("chunked"))
}

/// The elements of a comma-separated header, over all its lines.
#[inline]
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}
