//! Why a stream or a connection ended.

use std::fmt;
use std::sync::Arc;

/// An error code (RFC 9113, section 7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const CONNECT_ERROR: Self = Self(10);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
    pub const INADEQUATE_SECURITY: Self = Self(12);
    pub const HTTP_1_1_REQUIRED: Self = Self(13);
}

/// What the codes are called.
pub const ERROR_CODE_NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ERROR_CODE_NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the peer did that may not be: the connection is closed with this code (RFC 9113, section 5.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    pub code: ErrorCode,
    pub what: &'static str,
}

impl Violation {
    pub(crate) const fn new(code: ErrorCode, what: &'static str) -> Self {
        Self { code, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self::new(ErrorCode::PROTOCOL_ERROR, what)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.code)
    }
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// In good order.
    Closed,
    /// The bytes under it failed.
    Io(Arc<std::io::Error>),
    /// The peer sent a GOAWAY with an error.
    ByPeer(ErrorCode),
    /// We closed it.
    Violation(Violation),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed"),
            Self::Io(error) => error.fmt(f),
            Self::ByPeer(code) => write!(f, "the peer closed the connection: {code}"),
            Self::Violation(violation) => write!(f, "the peer broke HTTP/2's rules: {violation}"),
        }
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Why a stream failed.
#[derive(Debug, Clone)]
pub enum Error {
    /// The peer reset it.
    Reset(ErrorCode),
    /// We reset it: nobody waits for it any longer, or (servers) the peer's message is malformed.
    ResetHere(ErrorCode),
    /// We reset it: what the peer answered is malformed (clients).
    Malformed(ErrorCode),
    /// The peer goes away, and has not looked at it.
    NotProcessed,
    /// The peer has refused it: as many are open as it takes at a time.
    Full,
    /// The peer did not go on with what it sent, or does not take what is sent.
    Stalled,
    /// The connection takes no new streams.
    Unavailable,
    /// What the peer sent has more fields, or larger ones, than is taken.
    Oversized,
    /// The request was not sent: its fields are larger than the peer takes (RFC 9113, section 6.5.2), which
    /// is this many bytes.
    TooLargeForPeer(usize),
    Connection(Ended),
}

impl Error {
    /// The code that the peer reset the stream with, whatever for.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Reset(code) => Some(*code),
            Self::Full => Some(ErrorCode::REFUSED_STREAM),
            _ => None,
        }
    }

    /// The peer has certainly not processed the request (RFC 9113, section 8.7).
    pub fn is_unprocessed(&self) -> bool {
        matches!(
            self,
            Self::Reset(ErrorCode::REFUSED_STREAM) | Self::NotProcessed | Self::Full | Self::Unavailable
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(code) => write!(f, "the peer reset the stream: {code}"),
            Self::ResetHere(code) => write!(f, "the stream was reset: {code}"),
            Self::Malformed(code) => write!(f, "it is malformed, and its stream was reset: {code}"),
            Self::NotProcessed => f.write_str("the peer went away before it looked at the request"),
            Self::Full => f.write_str("the peer takes no more streams at a time"),
            Self::Stalled => f.write_str("the peer made no progress for too long"),
            Self::Unavailable => f.write_str("the connection takes no new streams"),
            Self::Oversized => f.write_str("the header fields are too large, or too many"),
            Self::TooLargeForPeer(limit) => {
                write!(f, "the header fields are larger than the {limit} bytes that the peer takes")
            }
            Self::Connection(ended) => ended.fmt(f),
        }
    }
}

impl std::error::Error for Error {}
