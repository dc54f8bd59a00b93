//! TLS towards the server: who it must be, and as whom the node speaks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use tulle_model::clock::verification_time;
use tulle_model::columns::duration;
use tulle_model::identity::{SpiffeId, Subject};
use tulle_proxy::clock::MeshClock;
use tulle_proxy::state::WorkloadCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The SHA-256 of a root certificate's DER.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// For a node that joins: it has no certificate, and knows the fingerprint of the mesh's root. The
/// server sends its root along in its chain.
pub fn joining(root: Fingerprint) -> anyhow::Result<ClientConfig> {
    // It has not been told the time yet.
    let builder = builder(Trust::Pinned(root), Arc::new(MeshClock::default()))?;
    Ok(finish(builder.with_no_client_auth()))
}

/// For a node that has a certificate; the server's is held against the time of `clock`.
pub fn joined(certificate: &WorkloadCertificate, clock: Arc<MeshClock>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in &certificate.roots {
        roots.add(root.clone()).context("a root certificate of the mesh makes no sense")?;
    }
    let domain = certificate.identity.trust_domain().to_string();
    let builder = builder(Trust::Roots { roots, domain }, clock)?;
    let config = builder
        .with_client_auth_cert(certificate.chain.clone(), certificate.key.clone_key())
        .context("the node's certificate does not fit its key")?;
    Ok(finish(config))
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(trust: Trust, clock: Arc<MeshClock>) -> anyhow::Result<Builder> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(ServerVerifier { trust, provider: provider.clone() });
    Ok(ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed handshake would skip the verifier.
    config.resumption = Resumption::disabled();
    config
}

#[derive(Debug)]
enum Trust {
    Pinned(Fingerprint),
    Roots { roots: RootCertStore, domain: String },
}

/// Accepts a chain to a root of the mesh whose leaf is the identity of a server.
#[derive(Debug)]
struct ServerVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "none of the certificates that the server sent is the root that the join token names: \
         the token is of another mesh, or something else answers at the server's address"
    )]
    NotPinned,
    #[error("it has no SPIFFE ID of a server of this mesh")]
    NoServer,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// Why a connection failed; the reason of our own verifier where it was that.
pub fn explain(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))) => {
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

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seconds = verification_time(now.as_secs(), not_before(end_entity));
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let pinned;
        let (roots, domain) = match &self.trust {
            Trust::Roots { roots, domain } => (roots, Some(domain.as_str())),
            Trust::Pinned(expected) => {
                let root =
                    intermediates.iter().find(|c| fingerprint(c) == *expected).ok_or(Refusal::NotPinned)?;
                let mut store = RootCertStore::empty();
                store.add(root.clone().into_owned())?;
                pinned = store;
                (&pinned, None)
            }
        };
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let identity = spiffe_id(end_entity).ok_or(Refusal::NoServer)?;
        let right_domain = domain.is_none_or(|domain| domain == identity.trust_domain().as_str());
        if identity.subject() != Subject::Server || !right_domain {
            return Err(Refusal::NoServer.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn not_before(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_before.timestamp())
}

/// The SPIFFE ID of an X.509-SVID: its only URI SAN (X509-SVID standard, section 2).
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let only = uris.next().filter(|_| uris.next().is_none())?;
    only.parse().ok()
}

#[cfg(test)]
mod tests;
