//! Why something upstream of us did not work, and whether it may be tried again.

use std::fmt;

use tulle_model::decision::Decision;

use crate::budget::Shed;
use crate::reason::{DENIED, TLS_FAILED, UNAUTHENTICATED};

/// What went wrong between this proxy and an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamErrorKind {
    /// TCP: refused, unreachable or not answered in time.
    Connect,
    /// The link is still being opened: it may take more time than a request has for it.
    LinkPending,
    /// The TLS handshake of a link failed.
    Tls,
    /// TLS that a policy asks for failed, to the outside of the mesh.
    OutsideTls,
    /// Who is there is not who was promised, or one of the two did not accept the other's identity.
    WrongIdentity,
    /// The link's peer answered that it did not take the connection or request to the application.
    Refused,
    /// The caller has no certificate yet.
    NoCertificate,
    /// The connection ended, or the stream was reset, before the answer was complete.
    ConnectionLost,
    /// Something of an answer came, and it is malformed, breaks off in its head, or switches protocols unasked.
    BadAnswer,
    /// The application reset the stream before it answered, with that code (RFC 9113, section 7).
    Reset(u32),
    /// The peer takes no more streams at a time. Where a repetition is safe, the peer has sent the request back
    /// and what of it was sent is no longer at hand; otherwise it waited in vain.
    StreamsFull,
    /// The peer went away before it looked at the request, and what of that was sent is no longer at hand.
    WentAway,
    /// A workload is stopping.
    Draining,
    /// Took longer than allowed.
    Timeout,
    /// The request's header fields are larger than somebody on the way takes.
    HeadersTooLarge,
    /// The answer's header fields are.
    AnswerHeadersTooLarge,
    /// The application answered a request for a tunnel, and opened none.
    NotUpgraded,
    /// The application understands no such request.
    Unsupported,
    /// Reading what the caller sends failed.
    Caller,
    /// A policy does not let the caller in ([`UpstreamError::denied`]).
    Denied,
    /// A policy asks for a token, and that of the request is not valid, or it has none ([`UpstreamError::denied`]).
    Unauthenticated,
    /// It would have cost more than there is for the one who asks.
    Shed(Shed),
    /// The same on the endpoint's node, which says nothing about other nodes.
    ShedThere(Shed),
}

impl UpstreamErrorKind {
    /// The value of `tulle-reason` for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connect
            | Self::LinkPending
            | Self::Tls
            | Self::WrongIdentity
            | Self::Refused
            | Self::NoCertificate => "connect-failed",
            Self::OutsideTls => TLS_FAILED,
            Self::ConnectionLost | Self::Reset(_) | Self::WentAway => "connection-lost",
            Self::BadAnswer => "bad-answer",
            Self::StreamsFull => "streams-full",
            Self::Draining => "draining",
            Self::Timeout => "timeout",
            Self::HeadersTooLarge => "headers-too-large",
            Self::AnswerHeadersTooLarge => "answer-headers-too-large",
            Self::NotUpgraded => "not-upgraded",
            Self::Unsupported => "unsupported",
            Self::Caller => "bad-request",
            Self::Denied => DENIED,
            Self::Unauthenticated => UNAUTHENTICATED,
            Self::Shed(shed) | Self::ShedThere(shed) => shed.as_str(),
        }
    }
}

/// A failed attempt to reach an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamError {
    pub kind: UpstreamErrorKind,
    /// Nothing of it can have reached the application.
    pub safe_to_retry: bool,
    pub message: String,
    /// Of [`UpstreamErrorKind::Denied`], [`UpstreamErrorKind::Unauthenticated`] and [`UpstreamErrorKind::OutsideTls`].
    pub denied: Option<Box<Denied>>,
}

/// What a policy says to whom it does not let in.
#[derive(Debug, Clone)]
pub struct Denied {
    /// The value of `tulle-reason`, for callers of the mesh.
    pub reason: String,
    /// What decided, as far as it is known here.
    pub by: Option<Decision>,
}

impl UpstreamError {
    /// A failure; whether it may be tried again, who knows says.
    pub fn new(kind: UpstreamErrorKind, safe_to_retry: bool, message: impl Into<String>) -> Self {
        Self { kind, safe_to_retry, message: message.into(), denied: None }
    }

    /// A failure that happened before anything was sent to the application.
    pub fn safe(kind: UpstreamErrorKind, message: impl Into<String>) -> Self {
        Self::new(kind, true, message)
    }

    /// Refused by a policy. Other endpoints would say the same: it is not tried again.
    pub fn denied(denied: Denied, message: String) -> Self {
        Self { denied: Some(Box::new(denied)), ..Self::new(UpstreamErrorKind::Denied, false, message) }
    }

    /// The same for want of a valid token.
    pub fn unauthenticated(denied: Denied, message: String) -> Self {
        Self { kind: UpstreamErrorKind::Unauthenticated, ..Self::denied(denied, message) }
    }

    /// Refused because there is no more for the one who asks.
    pub fn shed(shed: Shed) -> Self {
        Self::safe(UpstreamErrorKind::Shed(shed), shed.message())
    }

    /// An answer came that cannot be passed on: the application has had the request.
    pub fn bad_answer(message: impl Into<String>) -> Self {
        Self::after_sending(UpstreamErrorKind::BadAnswer, message)
    }

    /// Nobody has failed: the peer sent the request back because it takes no more at a time, or goes away. It is
    /// charged neither to the endpoint nor to the retries that its service may have.
    pub fn is_nobodys(&self) -> bool {
        matches!(self.kind, UpstreamErrorKind::StreamsFull | UpstreamErrorKind::WentAway)
    }

    /// A failure after which nobody knows what the application has seen.
    pub fn after_sending(kind: UpstreamErrorKind, message: impl Into<String>) -> Self {
        Self::new(kind, false, message)
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UpstreamError {}
