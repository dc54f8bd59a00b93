//! Answers that the mesh makes itself. Each says so in `tulle-reason`, so that nobody takes it for the
//! application's.

use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode, Version};
use tulle_model::authorization::{
    self, DENIED_BY, EXTERNAL_UNAVAILABLE, INVALID_TOKEN, NO_ALLOW_POLICY, TOKEN_REQUIRED,
};
use tulle_model::grpc::code_of;

use crate::budget::Shed;
use crate::error::{Denied, UpstreamError, UpstreamErrorKind};
use crate::http::body::Body;
use crate::http::grpc;
use crate::http::headers::is_grpc;
use crate::http2::{self, Unfit};
use crate::inquiry::ByExternal;
use crate::mesh_headers::{ANSWERED, REASON, RESET, RETRY};
use crate::reason::{DENIED, Reason};

/// What the mesh's own words to people begin with.
const PREFIX: &str = "tulle: ";

/// An answer with that reason. The message is for people: what failed, and at which object.
pub fn reply(reason: Reason, message: &str) -> Response<Body> {
    in_words(reason.status(), reason.as_str(), message)
}

/// The same for a reason that only nodes tell each other.
pub fn in_words(status: StatusCode, reason: &'static str, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{PREFIX}{message}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The answer to a request that an upstream failed; marked for the other side of a link when nothing
/// of the request can have reached the application.
pub fn failed(error: &UpstreamError) -> Response<Body> {
    let mut response = failed_for(error, Version::HTTP_2);
    if error.safe_to_retry {
        let how = if error.is_nobodys() { "free" } else { "safe" };
        response.headers_mut().insert(RETRY, HeaderValue::from_static(how));
    }
    response
}

/// The answer to the client whose request an upstream failed. `version`: its own, which may have no codes.
pub fn failed_for(error: &UpstreamError, version: Version) -> Response<Body> {
    let mut response = reply(error.kind.into(), &error.message);
    let denied = error.denied.as_ref().and_then(|denied| HeaderValue::try_from(&denied.reason).ok());
    if let Some(reason) = denied {
        if error.kind == UpstreamErrorKind::Unauthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge(&reason));
        }
        response.headers_mut().insert(REASON, reason);
    }
    if let UpstreamErrorKind::Reset(code) = error.kind
        && version == Version::HTTP_2
    {
        response.headers_mut().insert(RESET, code.into());
    }
    response
}

/// How to get in, for that reason (RFC 6750, section 3).
fn challenge(reason: &HeaderValue) -> HeaderValue {
    HeaderValue::from_static(match reason == INVALID_TOKEN {
        true => "Bearer error=\"invalid_token\"",
        false => "Bearer",
    })
}

/// The code that the application reset a request with, instead of an answer.
pub fn reset_code(answer: &HeaderMap) -> Option<http2::ErrorCode> {
    let code = answer.get(RESET)?.to_str().ok()?;
    code.parse().ok().map(http2::ErrorCode)
}

/// The failure that an answer over a link stands for, if the other node made it: the headers that say so are taken off
/// what applications answer.
pub fn told(response: &mut Response<Body>) -> Option<UpstreamError> {
    use UpstreamErrorKind as Failure;
    if response.status().is_success() {
        return None;
    }
    if response.headers_mut().remove(ANSWERED).is_some() {
        let reason = response.headers().get(REASON).and_then(|reason| reason.to_str().ok()).unwrap_or(DENIED);
        let message = format!("it is denied by whom a policy asks ({reason})");
        response.extensions_mut().insert(ByExternal(message.into()));
        return None;
    }
    let reason = response.headers().get(REASON)?;
    let retry = response.headers().get(RETRY).map(HeaderValue::as_bytes);
    let shed = std::str::from_utf8(reason.as_bytes()).ok().and_then(Shed::of);
    let kind = match reason.as_bytes() {
        b"connect-failed" => Failure::Connect,
        b"draining" => Failure::Draining,
        b"timeout" => Failure::Timeout,
        b"streams-full" => Failure::StreamsFull,
        b"connection-lost" if retry == Some(b"free") => Failure::WentAway,
        b"connection-lost" if let Some(code) = reset_code(response.headers()) => Failure::Reset(code.0),
        b"connection-lost" => Failure::ConnectionLost,
        b"bad-answer" => Failure::BadAnswer,
        b"headers-too-large" => Failure::HeadersTooLarge,
        b"answer-headers-too-large" => Failure::AnswerHeadersTooLarge,
        b"bad-request" => Failure::Caller,
        b"not-upgraded" => Failure::NotUpgraded,
        b"unsupported" => Failure::Unsupported,
        b"wrong-identity" => Failure::WrongIdentity,
        reason if is_denial(reason) => Failure::Denied,
        reason if is_about_tokens(reason) => Failure::Unauthenticated,
        _ => shed.map_or(Failure::Refused, Failure::ShedThere),
    };
    let denied =
        reason.to_str().ok().filter(|_| matches!(kind, Failure::Denied | Failure::Unauthenticated)).map(
            |reason| Box::new(Denied { reason: reason.to_owned(), by: authorization::decision_of(reason) }),
        );
    // Other endpoints would say the same, whatever the peer says of that.
    let safe_to_retry = denied.is_none() && matches!(retry, Some(b"safe" | b"free"));
    // What it says to people nearly always comes with the head.
    let said = response.body_mut().take_whole().and_then(|said| String::from_utf8(said.to_vec()).ok());
    let said = said.as_deref().and_then(|said| Some(said.strip_prefix(PREFIX)?.trim_end().to_owned()));
    let message = said
        .unwrap_or_else(|| format!("the endpoint's node answered {} ({})", response.status(), kind.reason()));
    Some(UpstreamError { kind, safe_to_retry, message, denied })
}

/// Whether a `tulle-reason` says that a policy does not let the caller in.
fn is_denial(reason: &[u8]) -> bool {
    reason == DENIED.as_bytes()
        || reason == EXTERNAL_UNAVAILABLE.as_bytes()
        || reason == NO_ALLOW_POLICY.as_bytes()
        || reason.starts_with(DENIED_BY.as_bytes())
}

/// Whether it says that a valid token is needed.
fn is_about_tokens(reason: &[u8]) -> bool {
    reason == INVALID_TOKEN.as_bytes() || reason == TOKEN_REQUIRED.as_bytes()
}

/// What to answer to a request of HTTP/2 that is not taken, and what to say of it.
pub fn unfit_for(unfit: Unfit) -> (Reason, &'static str) {
    match unfit {
        Unfit::Misdirected => {
            (Reason::BadRequest, "the request's :authority is no host name with an optional port")
        }
        Unfit::Malformed => (Reason::BadRequest, "the request is malformed"),
        Unfit::Oversized | Unfit::Unaffordable => (Reason::HeadersTooLarge, HEADERS_TOO_LARGE),
    }
}

/// That answer. `headers` are the request's own, as far as they came.
pub fn unfit(unfit: Unfit, headers: &HeaderMap) -> Response<Body> {
    let (reason, message) = unfit_for(unfit);
    let response = reply(reason, message);
    if is_grpc(headers) { for_grpc(response) } else { response }
}

/// See [`HEADER_LIMIT`](crate::http::HEADER_LIMIT) and [`FIELD_LIMIT`](crate::http::FIELD_LIMIT).
pub const HEADERS_TOO_LARGE: &str = "the header fields of the request are larger than 64 KiB, or more than 256 (docs/limits.md says how they are counted)";

/// The same answer as a gRPC client understands it: "Trailers-Only" of gRPC over HTTP/2, with the code
/// that stands for the HTTP status.
pub fn for_grpc(mut response: Response<Body>) -> Response<Body> {
    let (code, _) = code_of(response.status().as_u16());
    let reason = response.headers().get(REASON).and_then(|r| r.to_str().ok()).unwrap_or("unknown");
    let message = HeaderValue::try_from(format!("tulle: {reason}"));
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    headers.remove(http::header::CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(grpc::STATUS, HeaderValue::from_static(code));
    if let Ok(message) = message {
        headers.insert(grpc::MESSAGE, message);
    }
    response
}

/// Whether a `grpc-status` says that the service failed, rather than that the caller asked for something
/// that it cannot have: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS. `None`: no status.
pub fn grpc_failure(headers: &HeaderMap) -> Option<bool> {
    let status = headers.get(grpc::STATUS)?;
    Some(matches!(status.as_bytes(), b"2" | b"4" | b"13" | b"14" | b"15"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        let response = for_grpc(reply(Reason::NoEndpoints, "none"));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["tulle-reason"], "no-endpoints");
        assert_eq!(grpc_failure(response.headers()), Some(true));
        assert_eq!(grpc_failure(&HeaderMap::new()), None);
    }
}
