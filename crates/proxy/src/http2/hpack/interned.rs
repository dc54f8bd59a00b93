//! Names and values that are common, as statics: those are cloned without a reference count, which is most
//! of what an indexed field costs.

use http::{HeaderName, HeaderValue};

/// Common names that the `http` crate does not know.
static NAMES: [HeaderName; 19] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("priority"),
    HeaderName::from_static("x-requested-with"),
    HeaderName::from_static("x-api-version"),
];

/// Values that are the same wherever they come from.
static VALUES: [&str; 20] = [
    "*/*",
    "0",
    "application/grpc",
    "application/grpc+proto",
    "application/json",
    "application/x-protobuf",
    "application/octet-stream",
    "br",
    "gzip",
    "gzip, deflate, br",
    "http",
    "https",
    "identity",
    "identity,deflate,gzip",
    "no-cache",
    "text/html",
    "text/html; charset=utf-8",
    "text/plain",
    "text/plain; charset=utf-8",
    "trailers",
];

/// The static of that name, which is a common one or one of `more`.
pub(super) fn name(name: &[u8], more: &'static [HeaderName]) -> Option<HeaderName> {
    NAMES.iter().chain(more).find(|common| common.as_str().as_bytes() == name).cloned()
}

/// Only for what is kept: it pays from the first clone on.
pub(super) fn intern(value: &mut HeaderValue) {
    if let Some(common) = VALUES.iter().find(|common| common.as_bytes() == value.as_bytes()) {
        *value = HeaderValue::from_static(common);
    }
}
