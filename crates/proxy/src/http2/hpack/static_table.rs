//! The static table (RFC 7541, appendix A) as the decoder needs it: fields that are ready to be cloned.

use http::header::*;
use http::uri::Scheme;
use http::{Method, StatusCode};

use super::Field;
use crate::uri::Path;

/// How many entries it has. The indices of the dynamic table follow.
pub(super) const LENGTH: usize = 61;

/// The second entry and those after it. The first, an authority that is empty, is good for its name
/// only.
static FIELDS: [Field; LENGTH - 1] = [
    Field::Method(Method::GET),
    Field::Method(Method::POST),
    Field::Path(Path::from_static("/")),
    Field::Path(Path::from_static("/index.html")),
    Field::Scheme(Scheme::HTTP),
    Field::Scheme(Scheme::HTTPS),
    Field::Status(StatusCode::OK),
    Field::Status(StatusCode::NO_CONTENT),
    Field::Status(StatusCode::PARTIAL_CONTENT),
    Field::Status(StatusCode::NOT_MODIFIED),
    Field::Status(StatusCode::BAD_REQUEST),
    Field::Status(StatusCode::NOT_FOUND),
    Field::Status(StatusCode::INTERNAL_SERVER_ERROR),
    header(ACCEPT_CHARSET, ""),
    header(ACCEPT_ENCODING, "gzip, deflate"),
    header(ACCEPT_LANGUAGE, ""),
    header(ACCEPT_RANGES, ""),
    header(ACCEPT, ""),
    header(ACCESS_CONTROL_ALLOW_ORIGIN, ""),
    header(AGE, ""),
    header(ALLOW, ""),
    header(AUTHORIZATION, ""),
    header(CACHE_CONTROL, ""),
    header(CONTENT_DISPOSITION, ""),
    header(CONTENT_ENCODING, ""),
    header(CONTENT_LANGUAGE, ""),
    header(CONTENT_LENGTH, ""),
    header(CONTENT_LOCATION, ""),
    header(CONTENT_RANGE, ""),
    header(CONTENT_TYPE, ""),
    header(COOKIE, ""),
    header(DATE, ""),
    header(ETAG, ""),
    header(EXPECT, ""),
    header(EXPIRES, ""),
    header(FROM, ""),
    header(HOST, ""),
    header(IF_MATCH, ""),
    header(IF_MODIFIED_SINCE, ""),
    header(IF_NONE_MATCH, ""),
    header(IF_RANGE, ""),
    header(IF_UNMODIFIED_SINCE, ""),
    header(LAST_MODIFIED, ""),
    header(LINK, ""),
    header(LOCATION, ""),
    header(MAX_FORWARDS, ""),
    header(PROXY_AUTHENTICATE, ""),
    header(PROXY_AUTHORIZATION, ""),
    header(RANGE, ""),
    header(REFERER, ""),
    header(REFRESH, ""),
    header(RETRY_AFTER, ""),
    header(SERVER, ""),
    header(SET_COOKIE, ""),
    header(STRICT_TRANSPORT_SECURITY, ""),
    header(TRANSFER_ENCODING, ""),
    header(USER_AGENT, ""),
    header(VARY, ""),
    header(VIA, ""),
    header(WWW_AUTHENTICATE, ""),
];

/// What each counts for a list of fields (RFC 7541, 4.1). Written down, because the length of a standard
/// name has to be looked for.
static SIZES: [u8; LENGTH - 1] = [
    42, 43, 38, 48, 43, 44, 42, 42, 42, 42, 42, 42, 42, 46, 60, //
    47, 45, 38, 59, 35, 37, 45, 45, 51, 48, 48, 46, 48, 45, 44, //
    38, 36, 36, 38, 39, 36, 36, 40, 49, 45, 40, 51, 45, 36, 40, //
    44, 50, 51, 37, 39, 39, 43, 38, 42, 57, 49, 42, 36, 35, 48, //
];

const fn header(name: HeaderName, value: &'static str) -> Field {
    Field::Header(name, HeaderValue::from_static(value))
}

/// The entry of an index, and its size; none for the first, and for what is no index of this table.
#[inline]
pub(super) fn get(index: usize) -> Option<(&'static Field, usize)> {
    let at = index.wrapping_sub(2);
    Some((FIELDS.get(at)?, usize::from(*SIZES.get(at)?)))
}
