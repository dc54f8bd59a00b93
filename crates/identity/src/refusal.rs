//! Why a peer's certificate is refused, in the words in which whoever refuses it says so.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};
use tulle_model::identity::{SpiffeId, TrustDomain};

use crate::certificate::NoIdentity;
use crate::peers::Expected;

/// Why a certificate is refused. That its life is over is rustls' own error, for the alert that tells the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("invalid certificate: it cannot be read: {0}")]
    Unreadable(String),
    #[error("foreign trust domain: the peer is {peer}, this mesh is {mesh}")]
    ForeignTrustDomain { peer: SpiffeId, mesh: TrustDomain },
    #[error("unknown issuer: the certificate says {0}, and no root that is trusted here signed it")]
    UnknownIssuer(Claimed),
    /// It has another fault of its chain.
    #[error("invalid certificate of {claimed}: {problem}")]
    Chain { claimed: Claimed, problem: String },
    #[error("invalid certificate of {claimed}: its key usage says that {problem}")]
    KeyUsage { claimed: Claimed, problem: &'static str },
    /// It was issued to a node that may nothing any more.
    #[error("revoked certificate of {0}: the node that it was issued to was revoked")]
    Revoked(SpiffeId),
    #[error("wrong identity: {0}")]
    NoIdentity(#[from] NoIdentity),
    #[error("wrong identity: expected {expected}, got {got}")]
    Unexpected { expected: Expected, got: SpiffeId },
    #[error(
        "none of the certificates that the server sent is the root that the join token names: \
         the token is of another mesh, or something else answers at the server's address"
    )]
    NotPinned,
}

/// Who a certificate says to be, true or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed(pub(crate) Option<SpiffeId>);

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("nobody", SpiffeId::as_str))
    }
}

/// Refusals as logs and metrics count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ForeignTrustDomain,
    UnknownIssuer,
    InvalidCertificate,
    Revoked,
    WrongIdentity,
}

impl Refusal {
    /// Under what it is counted.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ForeignTrustDomain { .. } => Kind::ForeignTrustDomain,
            Self::UnknownIssuer(_) | Self::NotPinned => Kind::UnknownIssuer,
            Self::Unreadable(_) | Self::Chain { .. } | Self::KeyUsage { .. } => Kind::InvalidCertificate,
            Self::Revoked(_) => Kind::Revoked,
            Self::NoIdentity(_) | Self::Unexpected { .. } => Kind::WrongIdentity,
        }
    }

    /// The refusal that a handshake failed with on this side, where it was one.
    pub fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }

    pub(crate) fn by_chain(claimed: Claimed, error: &Error) -> Self {
        match error {
            // A root of the same name with another key shows as a bad signature.
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Self::UnknownIssuer(claimed)
            }
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
                Self::Chain { claimed, problem: other.to_string() }
            }
            Error::InvalidCertificate(invalid) => Self::Chain { claimed, problem: invalid.to_string() },
            other => Self::Chain { claimed, problem: other.to_string() },
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}
