//! Heads of messages: how large they may be, and what is read of their fields alike in all places.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

/// How large the head or the trailer section of a message may be, counted alike for all versions of HTTP: the
/// name and value of each field and 32 bytes, those of a request's line and of a status as pseudo-header fields
/// (RFC 9113, section 6.5.2), and the crumbs of a cookie as one field.
pub const HEADER_LIMIT: usize = 64 << 10;
/// How many fields it may have, pseudo-header fields and `Host` apart.
pub const FIELD_LIMIT: usize = 256;
/// What a field counts for beside its name and value (RFC 7541, section 4.1).
pub const ENTRY_OVERHEAD: usize = 32;
/// A field of a head in memory, beside the bytes of its name and value.
pub const FIELD_COST: usize = 256;

/// Whether a head is within the limits, counted as on HTTP/2 (RFC 9113, section 6.5.2): a request's `Host` is a
/// pseudo-header field there, and the crumbs of a cookie are one field.
#[cold]
pub fn fits<'f>(pseudo: &[(&str, &str)], fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> bool {
    let mut bytes: usize = pseudo.iter().map(|(name, value)| name.len() + value.len() + ENTRY_OVERHEAD).sum();
    let request = pseudo.iter().any(|(name, _)| *name == ":method");
    let named = pseudo.iter().any(|(name, _)| *name == ":authority");
    let (mut count, mut cookie) = (0, false);
    for (mut name, value) in fields {
        if name.eq_ignore_ascii_case("cookie") && std::mem::replace(&mut cookie, true) {
            bytes += "; ".len() + value.len();
            continue;
        }
        if request && name.eq_ignore_ascii_case("host") {
            if named {
                continue;
            }
            name = ":authority";
        } else {
            count += 1;
        }
        bytes += name.len() + value.len() + ENTRY_OVERHEAD;
    }
    bytes <= HEADER_LIMIT && count <= FIELD_LIMIT
}

/// What the fields of a head or a trailer section cost in memory, in bytes.
#[inline]
pub fn cost(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_COST).sum()
}

/// Whether a head that was changed is one that would have been taken at the first door: links count on that. `target`: the
/// length of its path with the query.
pub fn may_go_on(fields: &HeaderMap, target: usize) -> bool {
    let (count, bytes) = (fields.len(), cost(fields) + target);
    (count <= FIELD_LIMIT && bytes <= HEADER_LIMIT) || may_go_on_in_pieces(fields, count, bytes)
}

/// The same where the crumbs of a cookie are counted as one field.
#[cold]
fn may_go_on_in_pieces(fields: &HeaderMap, count: usize, bytes: usize) -> bool {
    let crumbs = fields.get_all(COOKIE).iter().count().saturating_sub(1);
    let saved = crumbs * (FIELD_COST + COOKIE.as_str().len() - "; ".len());
    count - crumbs <= FIELD_LIMIT && bytes - saved <= HEADER_LIMIT
}

/// Whether the only transfer coding is `chunked`, and that once: another one would be lost with the framing (RFC 9112,
/// sections 6.1 and 7.1).
#[inline]
pub fn plain_framing(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Reads a `Content-Length` of a message whose others said `known`, and whether the length is said more than once: several are
/// one if they are the same (RFC 9112, section 6.3); differing ones are a way to smuggle a message past a proxy.
#[inline]
pub fn content_length(value: &[u8], known: &mut Option<u64>) -> Result<bool, &'static str> {
    const BAD: &str = "the Content-Length is not valid";
    let mut again = false;
    for text in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        // Digits only: `parse` would take a plus.
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return Err(BAD);
        }
        let text = std::str::from_utf8(text).map_err(|_| BAD)?;
        let length = text.parse().map_err(|_| BAD)?;
        if let Some(other) = known.replace(length) {
            if other != length {
                return Err("there are several Content-Length headers, and they differ");
            }
            again = true;
        }
    }
    Ok(again)
}

/// The fields that a message's `Connection` names, whose place may be in its trailers.
pub fn named_by_connection(headers: &HeaderMap) -> Box<[HeaderName]> {
    list(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        // A sender must not name what is meant for the recipient; framing and routing hang on these.
        .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER, TE, EXPECT].contains(name))
        .collect()
}

/// Whether the sender understands trailers in the answer (RFC 9110, section 10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    list(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

/// What a client asks to go on in instead of HTTP (RFC 9110, section 7.8), as it named it, in one line. HTTP in
/// another version is no such wish (RFC 9113, section 3.1 removed `h2c`): requests in it would pass unseen. Nor is TLS,
/// which nobody would take up inside of a captured connection. What is left of a request without those is served in
/// HTTP/1.1.
#[inline]
pub fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(UPGRADE)?;
    if !list(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let is_http_or_tls = |protocol: &&str| {
        ["h2c", "h2", "http", "tls"].iter().any(|name| name.eq_ignore_ascii_case(protocol_name(protocol)))
    };
    let wanted: Vec<_> = list(headers, &UPGRADE).filter(|protocol| !is_http_or_tls(protocol)).collect();
    if wanted.is_empty() { None } else { HeaderValue::try_from(wanted.join(", ")).ok() }
}

/// The name of a protocol of `Upgrade`, without its version.
pub fn protocol_name(protocol: &str) -> &str {
    protocol.split(|c: char| c == '/' || c == ';' || c.is_whitespace()).next().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crumbs_of_a_cookie_are_one_field() {
        let head = |name: &'static str, count: usize, size: usize| {
            let value = HeaderValue::try_from("v".repeat(size)).unwrap();
            (0..count).fold(HeaderMap::new(), |mut fields, _| {
                fields.append(name, value.clone());
                fields
            })
        };
        assert!(may_go_on(&head("cookie", 1000, 3), 1) && !may_go_on(&head("x", 1000, 3), 1));
        let most = HEADER_LIMIT - FIELD_COST - "cookie".len() - "; ".len();
        assert!(may_go_on(&head("cookie", 2, most / 2), 0) && !may_go_on(&head("cookie", 2, most / 2), 1));
    }
}
