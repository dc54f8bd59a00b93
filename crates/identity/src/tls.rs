//! TLS as it is spoken within the mesh: 1.3 and HTTP/2 only, hybrid post-quantum key exchange preferred. Sessions are never
//! resumed: a resumed handshake would skip the check of certificates.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, Error, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::own::Svid;
use crate::peers::Peers;

/// What both sides have to agree on (ALPN).
pub const ALPN: &[u8] = b"h2";

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The one crypto provider: the process may have another default, the mesh has this.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // AES-128 first, as browsers and servers have it: ten rounds instead of fourteen.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

/// The mesh's cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

pub(crate) fn tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, certificate, signature, &algorithms())
}

/// For whoever connects: to those peers, as the owner of a certificate, if it has one. Theirs is held against the time of
/// `clock`.
pub fn client(peers: Peers, own: Option<&Svid>, clock: Arc<dyn TimeProvider>) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(peers));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key().clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// For whoever is connected to: it shows what `shown` has, and takes those peers, whose certificates are held against the
/// time of `clock`.
pub fn server(
    peers: Peers,
    shown: Arc<dyn ResolvesServerCert>,
    clock: Arc<dyn TimeProvider>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(peers))
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}
