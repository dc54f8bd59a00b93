//! TLS towards the server: who it must be, and as whom the node speaks.

use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tulle_identity::{Expected, Fingerprint, Peers, Refusal, Svid, tls};
use tulle_model::columns::duration;
use tulle_proxy::clock::MeshClock;

/// For a node that joins: it has no certificate, and knows the fingerprint of the mesh's root. The
/// server sends its root along in its chain.
pub fn joining(root: Fingerprint) -> ClientConfig {
    // It has not been told the time yet.
    tls::client(Peers::pinned(root), None, Arc::new(MeshClock::default()))
}

/// For a node that has a certificate; the server's is held against the time of `clock`.
pub fn joined(own: &Svid, clock: Arc<MeshClock>) -> ClientConfig {
    tls::client(own.peers(Expected::Server), Some(own), clock)
}

/// Why a connection failed; the reason of our own verifier where it was that.
pub fn explain(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match tls {
        Some(error) if let Some(refusal) = Refusal::of(error) => {
            format!("the server's certificate is refused: {refusal}")
        }
        Some(Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
            let ended = i64::try_from(time.as_secs().saturating_sub(not_after.as_secs())).unwrap_or(i64::MAX);
            format!(
                "the server's certificate ended {} ago by the clock that this host goes by: one of the two is wrong",
                duration(ended)
            )
        }
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "the server says that this node's certificate has expired: the node was off for too long, or one of \
             the two clocks is wrong; set the clocks right, or join again with a new token"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn why_a_connection_to_the_server_failed_is_said_in_words() {
        let of = |error: Error| explain(&io::Error::other(error));
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(Duration::from_secs(100)),
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(70)),
        };
        for (text, expected) in [
            (of(Refusal::NotPinned.into()), "the server's certificate is refused: none of the certificates"),
            (of(Error::InvalidCertificate(expired)), "ended 30s ago by the clock that this host goes by"),
            (of(Error::AlertReceived(AlertDescription::CertificateExpired)), "join again with a new token"),
            (of(Error::HandshakeNotComplete), "handshake not complete"),
            (explain(&io::Error::other("broken pipe")), "broken pipe"),
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
