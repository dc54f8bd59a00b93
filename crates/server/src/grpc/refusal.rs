//! Why connections of nodes are refused, as logs and metrics say it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{CertificateError, OtherError};

use crate::metrics::Metrics;

/// Refusals that are logged; all are counted.
const LOGGED_PER_SECOND: u32 = 20;

/// Why a connection was refused; the names are those of the links' handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    ForeignTrustDomain,
    UnknownIssuer,
    InvalidCertificate,
    WrongIdentity,
    Timeout,
    Overload,
    /// No TLS that we speak, or a connection that ended.
    Broken,
}

/// The reasons in their order, for metrics.
pub const REASONS: [&str; 7] = [
    "foreign-trust-domain",
    "unknown-issuer",
    "invalid-certificate",
    "wrong-identity",
    "timeout",
    "overload",
    "broken",
];

/// A refused connection.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for rustls::Error {
    fn from(refused: Refused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

impl Refused {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// `claimed`: who the peer says that it is, where that is known and the error does not say so.
    pub(super) fn by_handshake(error: io::Error, claimed: Option<String>) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))))
                if let Some(refused) = inner.downcast_ref::<Refused>() =>
            {
                refused.clone()
            }
            Some(rustls::Error::InvalidCertificate(invalid)) => {
                let of = claimed.map(|claimed| format!(" of {claimed}")).unwrap_or_default();
                Self::new(Reason::InvalidCertificate, format!("invalid certificate{of}: {invalid}"))
            }
            Some(rustls::Error::AlertReceived(alert)) => {
                Self::new(Reason::Broken, format!("the peer refused the TLS handshake with alert {alert:?}"))
            }
            _ => Self::new(Reason::Broken, format!("TLS handshake failed: {error}")),
        }
    }

    pub(super) fn by_chain(claimed: &str, error: &rustls::Error) -> Self {
        match error {
            // A root of the same name with another key shows as a bad signature.
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => Self::new(
                Reason::UnknownIssuer,
                format!("unknown issuer: the certificate says {claimed}, and no root of this mesh signed it"),
            ),
            rustls::Error::InvalidCertificate(invalid) => {
                Self::new(Reason::InvalidCertificate, format!("invalid certificate of {claimed}: {invalid}"))
            }
            other => Self::new(Reason::InvalidCertificate, format!("certificate of {claimed}: {other}")),
        }
    }
}

/// Counts refusals, and logs so many of them that a flood does not fill a disk.
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    logged: Mutex<(Instant, u32)>,
}

impl Refusals {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, logged: Mutex::new((Instant::now(), 0)) }
    }

    pub(super) fn note(&self, address: SocketAddr, refused: &Refused) {
        self.metrics.connections_refused[refused.reason as usize].add(1);
        let mut logged = self.logged.lock();
        if logged.0.elapsed() >= Duration::from_secs(1) {
            *logged = (Instant::now(), 0);
        }
        logged.1 += 1;
        if logged.1 <= LOGGED_PER_SECOND {
            let reason = REASONS[refused.reason as usize];
            tracing::warn!(peer = %address, reason, "refused a connection: {refused}");
        }
    }
}
