//! TLS between nodes (the crate `identity` says how it is spoken and who is taken).
//!
//! The client asks by SNI for the identity that discovery promised, and takes no other. The server
//! answers with the certificate of the workload that the SNI names, and holds the client against that
//! certificate's roots.

mod handshake;
mod record;
mod stream;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, OtherError};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tulle_identity::tls::ALPN;
use tulle_identity::{Certificate, Kind, Refusal};
use tulle_model::identity::SpiffeId;
use tulle_model::stamp::{Revoked, Stamp};

pub(crate) use self::handshake::Hello;
pub(crate) use self::stream::TlsStream;
#[cfg(any(test, fuzzing))]
pub(crate) use self::stream::fuzzing;
use crate::certificate::WorkloadCertificate;
use crate::metrics::HandshakeResult;
use crate::state::NodeState;

/// Why a handshake failed.
#[derive(Debug, Clone)]
pub struct TlsFailure {
    pub kind: HandshakeResult,
    pub message: String,
    /// Whose certificate, of this node's own, the peer refused because of its age.
    pub expired: Option<SpiffeId>,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TlsFailure {}

impl TlsFailure {
    /// The connection is of no use.
    pub(crate) fn broken(message: String) -> Self {
        Self::new(HandshakeResult::Broken, message)
    }

    /// The peer did not finish its side within the time allowed.
    pub(crate) fn unfinished(deadline: Duration) -> Self {
        Self::new(HandshakeResult::Timeout, format!("the peer did not finish the handshake in {deadline:?}"))
    }

    pub(crate) fn new(kind: HandshakeResult, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), expired: None }
    }
}

impl From<&Refusal> for TlsFailure {
    fn from(refusal: &Refusal) -> Self {
        let kind = match refusal.kind() {
            Kind::ForeignTrustDomain => HandshakeResult::ForeignTrustDomain,
            Kind::UnknownIssuer => HandshakeResult::UnknownIssuer,
            Kind::InvalidCertificate => HandshakeResult::InvalidCertificate,
            Kind::Revoked => HandshakeResult::Revoked,
            Kind::WrongIdentity => HandshakeResult::WrongIdentity,
        };
        Self::new(kind, refusal.to_string())
    }
}

impl From<Refusal> for TlsFailure {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl TlsFailure {
    /// What an error of a connection means for a handshake in which this side is `own`, where that is known.
    pub(crate) fn of(error: &io::Error, own: Option<&SpiffeId>) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Self::new(
                HandshakeResult::Broken,
                format!("the connection broke in the TLS handshake: {error}"),
            );
        };
        match tls {
            error if let Some(refusal) = Refusal::of(error) => refusal.into(),
            Error::NoCertificatesPresented => {
                Self::new(HandshakeResult::NoCertificate, "no certificate: the peer presented none")
            }
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
                Self::new(HandshakeResult::InvalidCertificate, format!("invalid certificate: {other}"))
            }
            Error::InvalidCertificate(invalid) => {
                Self::new(HandshakeResult::InvalidCertificate, format!("invalid certificate: {invalid}"))
            }
            Error::AlertReceived(AlertDescription::CertificateExpired) => Self {
                expired: own.cloned(),
                ..Self::broken(
                    "the peer says that this side's certificate has expired: it is renewed; if this goes on, \
                     one of the two clocks is wrong"
                        .to_owned(),
                )
            },
            // The server name stands for the identity (RFC 6066, section 3).
            Error::AlertReceived(AlertDescription::UnrecognisedName) => Self::new(
                HandshakeResult::NoSuchWorkload,
                "wrong identity: the node runs no workload that is who was promised (alert UnrecognisedName)",
            ),
            Error::AlertReceived(alert) => {
                Self::broken(format!("the peer refused the TLS handshake with alert {alert:?}"))
            }
            other => Self::broken(format!("TLS handshake failed: {other}")),
        }
    }
}

/// A link that was opened.
pub(crate) struct Connected {
    pub stream: TlsStream,
    /// Of the certificate that was shown.
    pub stamp: Option<Stamp>,
}

/// Opens TLS to a node as the holder of `certificate`; who answers must be `expected`, and on a node that is not among those.
pub(crate) async fn connect(
    certificate: &WorkloadCertificate,
    expected: &SpiffeId,
    revoked: &Revoked,
    tcp: TcpStream,
) -> Result<Connected, TlsFailure> {
    let name = expected.server_name().and_then(|name| ServerName::try_from(name).ok()).ok_or_else(|| {
        TlsFailure::new(
            HandshakeResult::WrongIdentity,
            format!("{expected} is too long for a TLS server name"),
        )
    })?;
    let established = handshake::connect(Arc::new(certificate.client(expected)), name, tcp).await;
    let own = certificate.svid().identity();
    let established = established.map_err(|error| TlsFailure::of(&error, Some(own)))?;
    if established.alpn.as_deref() != Some(ALPN) {
        return Err(TlsFailure::new(
            HandshakeResult::Broken,
            "the peer does not speak HTTP/2 on its link port",
        ));
    }
    // The handshake has checked it: it is there, and can be read.
    let leaf = established.leaf.as_ref().ok_or_else(no_certificate)?;
    let stamp = not_revoked(&Certificate::read(leaf)?, revoked)?;
    Ok(Connected { stream: established.stream, stamp })
}

fn no_certificate() -> TlsFailure {
    TlsFailure::new(HandshakeResult::NoCertificate, "no certificate: the peer presented none")
}

/// The stamp of a certificate that is good otherwise. It is looked at before anything that the peer has sent.
fn not_revoked(shown: &Certificate, revoked: &Revoked) -> Result<Option<Stamp>, Refusal> {
    match &shown.identity {
        Ok(peer) if revoked.includes(shown.stamp) => Err(Refusal::Revoked(peer.clone())),
        _ => Ok(shown.stamp),
    }
}

/// A link that was let in.
pub(crate) struct Accepted {
    pub stream: TlsStream,
    /// Who calls.
    pub peer: SpiffeId,
    /// With which we answered.
    pub certificate: Arc<WorkloadCertificate>,
    /// Seconds since the epoch: when the first of the two certificates ends.
    pub expires: i64,
    /// Of the peer's certificate.
    pub stamp: Option<Stamp>,
}

/// Waits until a peer has said whom it wants: its whole ClientHello.
pub(crate) async fn hello(tcp: TcpStream) -> Result<Hello, TlsFailure> {
    handshake::hello(tcp).await.map_err(|error| TlsFailure::of(&error, None))
}

/// Answers a TLS handshake as the workload that the SNI names.
pub(crate) async fn accept(state: &NodeState, hello: Hello) -> Result<Accepted, TlsFailure> {
    let name = hello.server_name.clone();
    let Some(certificate) = name.as_deref().and_then(|name| certificate_for(state, name)) else {
        // RFC 8446 section 6.2: a fatal unrecognized_name alert.
        hello.refuse(112).await;
        return Err(TlsFailure::new(
            HandshakeResult::NoSuchWorkload,
            match name {
                Some(name) => format!("no such workload here: the peer asked for `{name}` (SNI)"),
                None => "no such workload here: the peer named none (no SNI)".to_owned(),
            },
        ));
    };
    let own = certificate.svid();
    let established = hello.accept(certificate.server()).await;
    let established = established.map_err(|error| TlsFailure::of(&error, Some(own.identity())))?;
    if established.alpn.as_deref() != Some(ALPN) {
        return Err(TlsFailure::new(HandshakeResult::Broken, "the peer does not offer HTTP/2 (ALPN h2)"));
    }
    let shown = Certificate::read(established.leaf.as_ref().ok_or_else(no_certificate)?)?;
    let stamp = not_revoked(&shown, &state.snapshot.mesh.revoked)?;
    let peer = shown.identity.map_err(Refusal::from)?;
    let expires = shown.not_after.min(own.not_after());
    Ok(Accepted { peer, certificate, expires, stamp, stream: established.stream })
}

/// The certificate of the workload with that server name; of several replicas, the one that lasts longest.
fn certificate_for(state: &NodeState, server_name: &str) -> Option<Arc<WorkloadCertificate>> {
    state
        .workloads
        .values()
        .filter(|w| w.identity.server_name().is_some_and(|own| own.eq_ignore_ascii_case(server_name)))
        .filter_map(|w| w.certificate.clone())
        .max_by_key(|certificate| certificate.svid().not_after())
}

#[cfg(test)]
pub(crate) mod tests;
