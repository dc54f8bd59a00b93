//! How large the heads of messages may be.

use http::HeaderMap;

/// How large the head or the trailer section of a message may be, counted alike for all versions of HTTP: the
/// name and value of each field and 32 bytes, those of a request's line and of a status as pseudo-header fields
/// (RFC 9113, section 6.5.2), and the crumbs of a cookie as one field.
pub const HEADER_LIMIT: usize = 64 << 10;
/// How many fields it may have, pseudo-header fields and `Host` apart.
pub const FIELD_LIMIT: usize = 256;
/// A field of a head in memory, beside the bytes of its name and value.
pub const FIELD_COST: usize = 256;

/// Whether a head that was changed is one that would have been taken at the first door: links count on that. `target`: the
/// length of its path with the query.
pub fn may_go_on(fields: &HeaderMap, target: usize) -> bool {
    let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_COST).sum();
    fields.len() <= FIELD_LIMIT && size + target <= HEADER_LIMIT
}
