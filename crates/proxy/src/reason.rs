//! Why the mesh answers or ends something itself, and who is to blame for what became of a request or connection.

use http::StatusCode;
use tulle_model::routing::decide::Why;

use crate::budget::Shed;
use crate::error::UpstreamErrorKind;

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
    /// TLS that a policy asks for failed, or could not be begun, to the outside of the mesh.
    TlsFailed,
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
    /// It names another destination than the one that its address was resolved for.
    Misdirected,
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
    /// A newer configuration does not let in what was open.
    Withdrawn,
    /// A copy of a request was not taken as fast as the request passed.
    MirrorBehind,
    /// A policy does not let the caller in.
    Denied,
    /// A policy asks for a token, and that of the request is not valid, or it has none.
    Unauthenticated,
    /// It would have cost more than there is for the one who asks.
    Shed(Shed),
}

/// The word for [`Reason::Denied`], where no more is said.
pub const DENIED: &str = "denied";

/// The same for [`Reason::Unauthenticated`].
pub const UNAUTHENTICATED: &str = "unauthenticated";

/// The same for [`Reason::TlsFailed`].
pub const TLS_FAILED: &str = tulle_model::egress::originated::TLS_FAILED.1;

/// All of them.
pub const REASONS: [Reason; 28] = [
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
    Reason::Misdirected,
    Reason::Timeout,
    Reason::BadRequest,
    Reason::RequestTimeout,
    Reason::HalfClosed,
    Reason::HeadersTooLarge,
    Reason::AnswerHeadersTooLarge,
    Reason::Unsupported,
    Reason::NotUpgraded,
    Reason::MaxForwards,
    Reason::Withdrawn,
    Reason::MirrorBehind,
    Reason::Denied,
    Reason::Unauthenticated,
    Reason::Shed(Shed::Memory),
    Reason::Shed(Shed::Descriptors),
    Reason::Shed(Shed::Applications),
    Reason::TlsFailed,
];

impl Reason {
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
            Self::Misdirected => 10,
            Self::Timeout => 11,
            Self::BadRequest => 12,
            Self::RequestTimeout => 13,
            Self::HalfClosed => 14,
            Self::HeadersTooLarge => 15,
            Self::AnswerHeadersTooLarge => 16,
            Self::Unsupported => 17,
            Self::NotUpgraded => 18,
            Self::MaxForwards => 19,
            Self::Withdrawn => 20,
            Self::MirrorBehind => 21,
            Self::Denied => 22,
            Self::Unauthenticated => 23,
            Self::Shed(Shed::Memory) => 24,
            Self::Shed(Shed::Descriptors) => 25,
            Self::Shed(Shed::Applications) => 26,
            Self::TlsFailed => 27,
        }
    }

    /// Who is to blame, if anybody: the caller for what it sent, asked for or has used up; else the destination, or the way
    /// to it.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::NoRoute
            | Self::EgressDenied
            | Self::Misdirected
            | Self::BadRequest
            | Self::RequestTimeout
            | Self::HalfClosed
            | Self::HeadersTooLarge
            | Self::Unsupported
            | Self::Withdrawn
            | Self::Denied
            | Self::Unauthenticated
            | Self::Shed(Shed::Memory | Shed::Descriptors) => Verdict::Refused,
            // It is what was asked for.
            Self::MaxForwards => Verdict::Success,
            Self::NoEndpoints
            | Self::InvalidBackend
            | Self::ConnectFailed
            | Self::TlsFailed
            | Self::ConnectionLost
            | Self::BadAnswer
            | Self::Draining
            | Self::StreamsFull
            | Self::UnknownService
            | Self::Timeout
            | Self::AnswerHeadersTooLarge
            | Self::NotUpgraded
            | Self::MirrorBehind
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
            Self::TlsFailed => TLS_FAILED,
            Self::ConnectionLost => "connection-lost",
            Self::BadAnswer => "bad-answer",
            Self::Draining => "draining",
            Self::StreamsFull => "streams-full",
            Self::UnknownService => "unknown-service",
            Self::EgressDenied => "egress-denied",
            Self::Misdirected => "misdirected",
            Self::Timeout => "timeout",
            Self::BadRequest => "bad-request",
            Self::RequestTimeout => "request-timeout",
            Self::HalfClosed => "half-closed",
            Self::HeadersTooLarge => "headers-too-large",
            Self::AnswerHeadersTooLarge => "answer-headers-too-large",
            Self::Unsupported => "unsupported",
            Self::NotUpgraded => "not-upgraded",
            Self::MaxForwards => "max-forwards",
            Self::Withdrawn => "withdrawn",
            Self::MirrorBehind => "mirror-behind",
            Self::Denied => DENIED,
            Self::Unauthenticated => UNAUTHENTICATED,
            Self::Shed(shed) => shed.as_str(),
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::NoEndpoints | Self::ConnectFailed | Self::Draining | Self::StreamsFull | Self::Shed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoRoute => StatusCode::NOT_FOUND,
            // RFC 9110, section 15.5.20.
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Withdrawn | Self::Denied => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::InvalidBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TlsFailed
            | Self::ConnectionLost
            | Self::BadAnswer
            | Self::UnknownService
            | Self::EgressDenied
            | Self::NotUpgraded
            | Self::AnswerHeadersTooLarge => StatusCode::BAD_GATEWAY,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            // Nobody is told.
            Self::Timeout | Self::MirrorBehind => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::RequestTimeout | Self::HalfClosed => StatusCode::REQUEST_TIMEOUT,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::MaxForwards => StatusCode::OK,
        }
    }
}

impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        match why {
            Why::NoPort => Self::UnknownService,
            Why::AmbiguousPath => Self::BadRequest,
            Why::NoRoute => Self::NoRoute,
            Why::NoBackend => Self::InvalidBackend,
        }
    }
}

impl From<UpstreamErrorKind> for Reason {
    fn from(kind: UpstreamErrorKind) -> Self {
        match kind {
            UpstreamErrorKind::Connect
            | UpstreamErrorKind::LinkPending
            | UpstreamErrorKind::Tls
            | UpstreamErrorKind::WrongIdentity
            | UpstreamErrorKind::Refused
            | UpstreamErrorKind::NoCertificate => Self::ConnectFailed,
            UpstreamErrorKind::OutsideTls => Self::TlsFailed,
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
            UpstreamErrorKind::Unsupported => Self::Unsupported,
            UpstreamErrorKind::Caller => Self::BadRequest,
            UpstreamErrorKind::Denied => Self::Denied,
            UpstreamErrorKind::Unauthenticated => Self::Unauthenticated,
            UpstreamErrorKind::Shed(shed) | UpstreamErrorKind::ShedThere(shed) => Self::Shed(shed),
        }
    }
}

/// What became of a request or connection, and so who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Verdict {
    Success,
    /// The destination has failed, or the way to it.
    Failure,
    /// The mesh did not serve it, or not to its end, for what the caller sent, asked for or had used up. It says
    /// nothing about the destination.
    Refused,
    /// The caller gave it up before it was answered: nobody knows what would have become of it.
    Abandoned,
}

pub(crate) const VERDICTS: [(Verdict, &str); 4] = [
    (Verdict::Success, "success"),
    (Verdict::Failure, "failure"),
    (Verdict::Refused, "refused"),
    (Verdict::Abandoned, "abandoned"),
];

impl Verdict {
    pub fn as_str(self) -> &'static str {
        VERDICTS[self as usize].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_nowhere_is_answered_as_model_explains_it() {
        for why in [Why::NoPort, Why::AmbiguousPath, Why::NoRoute, Why::NoBackend] {
            let reason = Reason::from(why);
            assert_eq!((reason.status().as_u16(), reason.as_str()), why.answer(), "{why:?}");
        }
    }

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
            Reason::EgressDenied => Some(Reason::Misdirected),
            Reason::Misdirected => Some(Reason::Timeout),
            Reason::Timeout => Some(Reason::BadRequest),
            Reason::BadRequest => Some(Reason::RequestTimeout),
            Reason::RequestTimeout => Some(Reason::HalfClosed),
            Reason::HalfClosed => Some(Reason::HeadersTooLarge),
            Reason::HeadersTooLarge => Some(Reason::AnswerHeadersTooLarge),
            Reason::AnswerHeadersTooLarge => Some(Reason::Unsupported),
            Reason::Unsupported => Some(Reason::NotUpgraded),
            Reason::NotUpgraded => Some(Reason::MaxForwards),
            Reason::MaxForwards => Some(Reason::Withdrawn),
            Reason::Withdrawn => Some(Reason::MirrorBehind),
            Reason::MirrorBehind => Some(Reason::Denied),
            Reason::Denied => Some(Reason::Unauthenticated),
            Reason::Unauthenticated => Some(Reason::Shed(Shed::Memory)),
            Reason::Shed(Shed::Memory) => Some(Reason::Shed(Shed::Descriptors)),
            Reason::Shed(Shed::Descriptors) => Some(Reason::Shed(Shed::Applications)),
            Reason::Shed(Shed::Applications) => Some(Reason::TlsFailed),
            Reason::TlsFailed => None,
        };
        let all: Vec<Reason> =
            std::iter::successors(Some(Reason::NoEndpoints), |reason| after(*reason)).collect();
        assert_eq!(all.len(), REASONS.len());
        for reason in all {
            assert_eq!(REASONS[reason.index()], reason, "{}", reason.as_str());
            if reason.status().is_client_error() {
                assert_eq!(reason.verdict(), Verdict::Refused, "{}", reason.as_str());
            }
        }
    }
}
