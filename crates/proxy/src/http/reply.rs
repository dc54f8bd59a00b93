//! Answers that the mesh makes itself. Each says so in `tulle-reason`, so that nobody takes it for the
//! application's.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use crate::budget::Shed;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http::body::Body;
use crate::http::grpc;
use crate::http::headers::is_grpc;
use crate::http2::{self, Unfit};
use crate::link::{REASON, RESET, RETRY};
use crate::metrics::Verdict;

/// Why the mesh answers instead of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The service has no endpoint that takes requests.
    NoEndpoints,
    /// The port has routes, and none matches the request.
    NoRoute,
    /// The route's backend is a reference that leads nowhere.
    InvalidBackend,
    ConnectFailed,
    /// The connection broke before the answer began.
    ConnectionLost,
    /// What the application answered cannot be passed on.
    BadAnswer,
    Draining,
    /// The application takes no more streams at a time, and too many wait for one, or one has waited too long.
    StreamsFull,
    /// There is no such service, or it has no such port.
    UnknownService,
    /// The mesh's egress policy forbids destinations outside of the mesh.
    EgressDenied,
    Timeout,
    BadRequest,
    /// The client does not go on with its request.
    RequestTimeout,
    /// The client has closed its side, and the answer did not come in time.
    HalfClosed,
    /// The head of the request, or its trailer section, is larger than is taken.
    HeadersTooLarge,
    /// The same of the answer.
    AnswerHeadersTooLarge,
    /// HTTP has it, this proxy does not.
    Unsupported,
    /// The application answered a request for a tunnel, and opened none.
    NotUpgraded,
    /// Its sender wants it to go no further.
    MaxForwards,
    /// It would have cost more than there is for the one who asks.
    Shed(Shed),
}

/// All of them.
pub const REASONS: [Reason; 22] = [
    Reason::NoEndpoints,
    Reason::NoRoute,
    Reason::InvalidBackend,
    Reason::ConnectFailed,
    Reason::ConnectionLost,
    Reason::BadAnswer,
    Reason::Draining,
    Reason::StreamsFull,
    Reason::UnknownService,
    Reason::EgressDenied,
    Reason::Timeout,
    Reason::BadRequest,
    Reason::RequestTimeout,
    Reason::HalfClosed,
    Reason::HeadersTooLarge,
    Reason::AnswerHeadersTooLarge,
    Reason::Unsupported,
    Reason::NotUpgraded,
    Reason::MaxForwards,
    Reason::Shed(Shed::Memory),
    Reason::Shed(Shed::Descriptors),
    Reason::Shed(Shed::Applications),
];

impl Reason {
    /// The one that `tulle-reason` names.
    pub fn of(name: &[u8]) -> Option<Self> {
        REASONS.into_iter().find(|reason| reason.as_str().as_bytes() == name)
    }

    /// Its place in [`REASONS`].
    pub const fn index(self) -> usize {
        match self {
            Self::NoEndpoints => 0,
            Self::NoRoute => 1,
            Self::InvalidBackend => 2,
            Self::ConnectFailed => 3,
            Self::ConnectionLost => 4,
            Self::BadAnswer => 5,
            Self::Draining => 6,
            Self::StreamsFull => 7,
            Self::UnknownService => 8,
            Self::EgressDenied => 9,
            Self::Timeout => 10,
            Self::BadRequest => 11,
            Self::RequestTimeout => 12,
            Self::HalfClosed => 13,
            Self::HeadersTooLarge => 14,
            Self::AnswerHeadersTooLarge => 15,
            Self::Unsupported => 16,
            Self::NotUpgraded => 17,
            Self::MaxForwards => 18,
            Self::Shed(Shed::Memory) => 19,
            Self::Shed(Shed::Descriptors) => 20,
            Self::Shed(Shed::Applications) => 21,
        }
    }

    /// Who is to blame, if anybody: the caller for what it sent, asked for or has used up; else the destination, or the way
    /// to it.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::NoRoute
            | Self::EgressDenied
            | Self::BadRequest
            | Self::RequestTimeout
            | Self::HalfClosed
            | Self::HeadersTooLarge
            | Self::Unsupported
            | Self::Shed(Shed::Memory | Shed::Descriptors) => Verdict::Refused,
            // It is what was asked for.
            Self::MaxForwards => Verdict::Success,
            Self::NoEndpoints
            | Self::InvalidBackend
            | Self::ConnectFailed
            | Self::ConnectionLost
            | Self::BadAnswer
            | Self::Draining
            | Self::StreamsFull
            | Self::UnknownService
            | Self::Timeout
            | Self::AnswerHeadersTooLarge
            | Self::NotUpgraded
            | Self::Shed(Shed::Applications) => Verdict::Failure,
        }
    }

    /// The value of `tulle-reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no-endpoints",
            Self::NoRoute => "no-route",
            Self::InvalidBackend => "invalid-backend",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectionLost => "connection-lost",
            Self::BadAnswer => "bad-answer",
            Self::Draining => "draining",
            Self::StreamsFull => "streams-full",
            Self::UnknownService => "unknown-service",
            Self::EgressDenied => "egress-denied",
            Self::Timeout => "timeout",
            Self::BadRequest => "bad-request",
            Self::RequestTimeout => "request-timeout",
            Self::HalfClosed => "half-closed",
            Self::HeadersTooLarge => "headers-too-large",
            Self::AnswerHeadersTooLarge => "answer-headers-too-large",
            Self::Unsupported => "unsupported",
            Self::NotUpgraded => "not-upgraded",
            Self::MaxForwards => "max-forwards",
            Self::Shed(shed) => shed.as_str(),
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::NoEndpoints | Self::ConnectFailed | Self::Draining | Self::StreamsFull | Self::Shed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ConnectionLost
            | Self::BadAnswer
            | Self::UnknownService
            | Self::EgressDenied
            | Self::NotUpgraded
            | Self::AnswerHeadersTooLarge => StatusCode::BAD_GATEWAY,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::RequestTimeout | Self::HalfClosed => StatusCode::REQUEST_TIMEOUT,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::MaxForwards => StatusCode::OK,
        }
    }
}

impl From<UpstreamErrorKind> for Reason {
    fn from(kind: UpstreamErrorKind) -> Self {
        match kind {
            UpstreamErrorKind::NoEndpoints => Self::NoEndpoints,
            UpstreamErrorKind::Connect
            | UpstreamErrorKind::LinkPending
            | UpstreamErrorKind::Tls
            | UpstreamErrorKind::Refused
            | UpstreamErrorKind::NoCertificate => Self::ConnectFailed,
            UpstreamErrorKind::ConnectionLost | UpstreamErrorKind::Reset(_) | UpstreamErrorKind::WentAway => {
                Self::ConnectionLost
            }
            UpstreamErrorKind::BadAnswer => Self::BadAnswer,
            UpstreamErrorKind::StreamsFull => Self::StreamsFull,
            UpstreamErrorKind::Draining => Self::Draining,
            UpstreamErrorKind::Timeout => Self::Timeout,
            UpstreamErrorKind::HeadersTooLarge => Self::HeadersTooLarge,
            UpstreamErrorKind::AnswerHeadersTooLarge => Self::AnswerHeadersTooLarge,
            UpstreamErrorKind::NotUpgraded => Self::NotUpgraded,
            UpstreamErrorKind::Caller => Self::BadRequest,
            UpstreamErrorKind::Shed(shed) => Self::Shed(shed),
        }
    }
}

/// An answer with that reason. The message is for people: what failed, and at which object.
pub fn reply(reason: Reason, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("tulle: {message}\n")));
    *response.status_mut() = reason.status();
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason.as_str()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The answer to a request that an upstream failed; marked for the other side of a link when nothing
/// of the request can have reached the application.
pub fn failed(error: &UpstreamError) -> Response<Body> {
    let mut response = reply(error.kind.into(), &error.message);
    if error.safe_to_retry {
        let how = if error.is_nobodys() { "free" } else { "safe" };
        response.headers_mut().insert(RETRY, HeaderValue::from_static(how));
    }
    if let UpstreamErrorKind::Reset(code) = error.kind {
        response.headers_mut().insert(RESET, code.into());
    }
    response
}

/// The code that the application reset a request with, instead of an answer.
pub fn reset_code(answer: &HeaderMap) -> Option<http2::Reason> {
    let code = answer.get(RESET)?.to_str().ok()?;
    code.parse().ok().map(http2::Reason)
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
/// that gRPC derives from the HTTP status.
pub fn for_grpc(mut response: Response<Body>) -> Response<Body> {
    let code = match response.status() {
        StatusCode::BAD_REQUEST => "13",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::FORBIDDEN => "7",
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => "12",
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => "14",
        _ => "2",
    };
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
    fn each_reason_has_a_place_of_its_own_and_blames_the_caller_for_4xx() {
        // A new one has no place here until it is named.
        let after = |reason| match reason {
            Reason::NoEndpoints => Some(Reason::NoRoute),
            Reason::NoRoute => Some(Reason::InvalidBackend),
            Reason::InvalidBackend => Some(Reason::ConnectFailed),
            Reason::ConnectFailed => Some(Reason::ConnectionLost),
            Reason::ConnectionLost => Some(Reason::BadAnswer),
            Reason::BadAnswer => Some(Reason::Draining),
            Reason::Draining => Some(Reason::StreamsFull),
            Reason::StreamsFull => Some(Reason::UnknownService),
            Reason::UnknownService => Some(Reason::EgressDenied),
            Reason::EgressDenied => Some(Reason::Timeout),
            Reason::Timeout => Some(Reason::BadRequest),
            Reason::BadRequest => Some(Reason::RequestTimeout),
            Reason::RequestTimeout => Some(Reason::HalfClosed),
            Reason::HalfClosed => Some(Reason::HeadersTooLarge),
            Reason::HeadersTooLarge => Some(Reason::AnswerHeadersTooLarge),
            Reason::AnswerHeadersTooLarge => Some(Reason::Unsupported),
            Reason::Unsupported => Some(Reason::NotUpgraded),
            Reason::NotUpgraded => Some(Reason::MaxForwards),
            Reason::MaxForwards => Some(Reason::Shed(Shed::Memory)),
            Reason::Shed(Shed::Memory) => Some(Reason::Shed(Shed::Descriptors)),
            Reason::Shed(Shed::Descriptors) => Some(Reason::Shed(Shed::Applications)),
            Reason::Shed(Shed::Applications) => None,
        };
        let all: Vec<Reason> =
            std::iter::successors(Some(Reason::NoEndpoints), |reason| after(*reason)).collect();
        assert_eq!(all.len(), REASONS.len());
        for reason in all {
            assert_eq!(REASONS[reason.index()], reason, "{}", reason.as_str());
            assert_eq!(Reason::of(reason.as_str().as_bytes()), Some(reason));
            if reason.status().is_client_error() {
                assert_eq!(reason.verdict(), Verdict::Refused, "{}", reason.as_str());
            }
        }
    }

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
