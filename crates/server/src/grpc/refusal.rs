//! Why connections of nodes are refused, as logs and metrics say it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tulle_identity::{Kind, Refusal};

use crate::metrics::{Metrics, REFUSAL_REASONS, RefusalReason};

/// Refusals that are logged; all are counted.
const LOGGED_PER_SECOND: u32 = 20;

/// A refused connection.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) reason: RefusalReason,
    pub(super) message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let reason = match refusal.kind() {
            Kind::ForeignTrustDomain => RefusalReason::ForeignTrustDomain,
            Kind::UnknownIssuer => RefusalReason::UnknownIssuer,
            Kind::InvalidCertificate | Kind::Revoked => RefusalReason::InvalidCertificate,
            Kind::WrongIdentity => RefusalReason::WrongIdentity,
        };
        Self::new(reason, refusal.to_string())
    }
}

impl Refused {
    pub(super) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// `claimed`: who the peer says that it is, where that is known and the error does not say so.
    pub(super) fn by_handshake(error: io::Error, claimed: Option<String>) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) if let Some(refusal) = Refusal::of(error) => refusal.into(),
            Some(rustls::Error::InvalidCertificate(invalid)) => {
                let of = claimed.map(|claimed| format!(" of {claimed}")).unwrap_or_default();
                Self::new(RefusalReason::InvalidCertificate, format!("invalid certificate{of}: {invalid}"))
            }
            Some(rustls::Error::AlertReceived(alert)) => Self::new(
                RefusalReason::Broken,
                format!("the peer refused the TLS handshake with alert {alert:?}"),
            ),
            _ => Self::new(RefusalReason::Broken, format!("TLS handshake failed: {error}")),
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
            let reason = REFUSAL_REASONS[refused.reason as usize];
            tracing::warn!(peer = %address, reason, "refused a connection: {refused}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tulle_identity::NoIdentity;

    use super::*;

    #[test]
    fn a_refusal_is_counted_as_what_it_is() {
        let foreign = Refusal::ForeignTrustDomain {
            peer: "spiffe://other.local/node/n1".parse().unwrap(),
            mesh: tulle_model::identity::TrustDomain::new("mesh.local").unwrap(),
        };
        for (refusal, reason) in [
            (foreign, "foreign-trust-domain"),
            (Refusal::NotPinned, "unknown-issuer"),
            (Refusal::Unreadable("?".to_owned()), "invalid-certificate"),
            (NoIdentity::None.into(), "wrong-identity"),
        ] {
            let error = io::Error::other(rustls::Error::from(refusal.clone()));
            let refused = Refused::by_handshake(error, None);
            assert_eq!(
                (REFUSAL_REASONS[refused.reason as usize], refused.message),
                (reason, refusal.to_string())
            );
        }
    }
}
