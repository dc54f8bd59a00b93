//! TLS between nodes: TLS 1.3 only, hybrid post-quantum key exchange preferred, SPIFFE identities on
//! both sides (X509-SVID section 5: exactly one URI SAN).
//!
//! The client asks by SNI for the identity that discovery promised, and takes no other. The server
//! answers with the certificate of the workload that the SNI names, and holds the client against that
//! certificate's roots. Sessions are never resumed: a resumed handshake would skip both verifiers.

mod handshake;
mod record;
mod stream;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, OtherError, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tulle_model::clock;
use tulle_model::identity::{SpiffeId, Subject};
use tulle_model::snapshot::FastMap;

pub(crate) use self::handshake::Hello;
pub(crate) use self::stream::TlsStream;
#[cfg(any(test, fuzzing))]
pub(crate) use self::stream::fuzzing;
use crate::clock::MeshClock;
use crate::metrics::Handshake;
use crate::state::{NodeState, WorkloadCertificate};

const ALPN: &[u8] = b"h2";

/// The one crypto provider: the process may have another default, links have this.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // AES-128 first, as browsers and servers have it: ten rounds instead of fourteen.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

/// Why a handshake failed.
#[derive(Debug, Clone)]
pub struct TlsFailure {
    pub kind: Handshake,
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
        Self::new(Handshake::Broken, message)
    }

    /// The peer did not finish its side within the time allowed.
    pub(crate) fn unfinished(deadline: Duration) -> Self {
        Self::new(Handshake::Timeout, format!("the peer did not finish the handshake in {deadline:?}"))
    }

    pub(crate) fn new(kind: Handshake, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), expired: None }
    }
}

impl From<TlsFailure> for Error {
    fn from(failure: TlsFailure) -> Self {
        CertificateError::Other(OtherError(Arc::new(failure))).into()
    }
}

impl TlsFailure {
    /// What an error of a connection means for a handshake in which this side is `own`, where that is known.
    pub(crate) fn of(error: &io::Error, own: Option<&SpiffeId>) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Self::new(
                Handshake::Broken,
                format!("the connection broke in the TLS handshake: {error}"),
            );
        };
        match tls {
            Error::NoCertificatesPresented => {
                Self::new(Handshake::NoCertificate, "no certificate: the peer presented none")
            }
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref::<TlsFailure>().cloned().unwrap_or_else(|| {
                    Self::new(Handshake::InvalidCertificate, format!("invalid certificate: {inner}"))
                })
            }
            Error::InvalidCertificate(invalid) => {
                Self::new(Handshake::InvalidCertificate, format!("invalid certificate: {invalid}"))
            }
            Error::AlertReceived(AlertDescription::CertificateExpired) => Self {
                expired: own.cloned(),
                ..Self::broken(
                    "the peer says that this side's certificate has expired: it is renewed; if this goes on, \
                     one of the two clocks is wrong"
                        .to_owned(),
                )
            },
            Error::AlertReceived(alert) => {
                Self::broken(format!("the peer refused the TLS handshake with alert {alert:?}"))
            }
            other => Self::broken(format!("TLS handshake failed: {other}")),
        }
    }
}

/// The identity in a certificate: its only URI SAN.
fn identity_of(certificate: &CertificateDer<'_>) -> Result<SpiffeId, TlsFailure> {
    let invalid = |why: String| TlsFailure::new(Handshake::WrongIdentity, format!("wrong identity: {why}"));
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|e| TlsFailure::new(Handshake::InvalidCertificate, format!("invalid certificate: {e}")))?;
    let mut names = parsed.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name.parse().map_err(|e| invalid(format!("{e}"))),
        (None, _) => Err(invalid("the peer's certificate has no SPIFFE ID".to_owned())),
        (Some(_), Some(_)) => Err(invalid("the peer's certificate has more than one URI name".to_owned())),
    }
}

/// A certificate that fails the check of its chain, with who it says to be.
fn broken_chain(certificate: &CertificateDer<'_>, error: Error) -> Error {
    let claimed = identity_of(certificate).map_or("nobody".to_owned(), |id| id.to_string());
    match error {
        // A root of the same name with another key shows as a bad signature.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            TlsFailure::new(
                Handshake::UnknownIssuer,
                format!(
                    "unknown issuer: the certificate says {claimed}, and no root that is trusted here signed it"
                ),
            )
            .into()
        }
        // As it is, for the alert that tells the peer: it renews then.
        error @ Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => error,
        Error::InvalidCertificate(invalid) => TlsFailure::new(
            Handshake::InvalidCertificate,
            format!("invalid certificate of {claimed}: {invalid}"),
        )
        .into(),
        other => other,
    }
}

/// The time at which a certificate is checked; see [`clock::verification_time`].
fn verification_time(certificate: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
    let not_before = validity(certificate).map(|(not_before, _)| not_before);
    let seconds = clock::verification_time(now.as_secs(), not_before);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Holds a peer against the roots and trust domain of one workload's certificate.
#[derive(Debug)]
struct PeerVerifier {
    trust_domain: SpiffeId,
    roots: Arc<RootCertStore>,
    /// `None`: any workload of the trust domain.
    expected: Option<SpiffeId>,
    /// The chain check for clients, which has the hints too.
    chain: Arc<dyn ClientCertVerifier>,
}

impl PeerVerifier {
    /// Trust domain first: a peer of another mesh fails the chain as well, and this says more.
    fn check_identity(&self, certificate: &CertificateDer<'_>) -> Result<(), TlsFailure> {
        let identity = identity_of(certificate)?;
        if identity.trust_domain() != self.trust_domain.trust_domain() {
            return Err(TlsFailure::new(
                Handshake::ForeignTrustDomain,
                format!(
                    "foreign trust domain: the peer is {identity}, this mesh is {}",
                    self.trust_domain.trust_domain()
                ),
            ));
        }
        match &self.expected {
            Some(expected) if *expected != identity => Err(TlsFailure::new(
                Handshake::WrongIdentity,
                format!("wrong identity: expected {expected}, got {identity}"),
            )),
            None if !matches!(identity.subject(), Subject::Workload { .. }) => Err(TlsFailure::new(
                Handshake::WrongIdentity,
                format!("wrong identity: expected a workload, got {identity}"),
            )),
            _ => Ok(()),
        }
    }
}

impl PeerVerifier {
    /// A foreign trust domain is named before its chain is looked at, which no root here has signed;
    /// every other identity is held against what is expected once the chain is known to be good.
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        chain: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let identity = self.check_identity(certificate);
        if let Err(failure) = &identity
            && failure.kind == Handshake::ForeignTrustDomain
        {
            return Err(failure.clone().into());
        }
        chain().map_err(|error| broken_chain(certificate, error))?;
        Ok(identity?)
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = verification_time(end_entity, now);
        self.check(end_entity, || {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                algorithms().all,
            )
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = verification_time(end_entity, now);
        self.check(end_entity, || self.chain.verify_client_cert(end_entity, intermediates, now).map(drop))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// What TLS needs of one certificate, parsed once.
struct Credentials {
    /// Keeps the pointer that it is found by from being given to another.
    certificate: Arc<WorkloadCertificate>,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    chain: Arc<dyn ClientCertVerifier>,
    server: Arc<ServerConfig>,
}

impl Credentials {
    fn new(certificate: Arc<WorkloadCertificate>, clock: Arc<MeshClock>) -> Result<Self, Error> {
        let key = PROVIDER.key_provider.load_private_key(certificate.key.clone_key())?;
        let key = Arc::new(CertifiedKey::new(certificate.chain.clone(), key));
        let mut roots = RootCertStore::empty();
        for root in &certificate.roots {
            roots.add(root.clone())?;
        }
        let roots = Arc::new(roots);
        let chain =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), PROVIDER.clone()).build().map_err(
                |e| Error::General(format!("the roots of {} cannot be used: {e}", certificate.identity)),
            )?;
        let verifier = PeerVerifier {
            trust_domain: certificate.identity.clone(),
            roots: roots.clone(),
            expected: None,
            chain: chain.clone(),
        };
        let mut server = ServerConfig::builder_with_details(PROVIDER.clone(), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        Ok(Self { certificate, key, roots, chain, server: Arc::new(server) })
    }

    fn client(&self, expected: &SpiffeId, clock: Arc<MeshClock>) -> Result<ClientConfig, Error> {
        let verifier = PeerVerifier {
            trust_domain: self.certificate.identity.clone(),
            roots: self.roots.clone(),
            expected: Some(expected.clone()),
            chain: self.chain.clone(),
        };
        let mut client = ClientConfig::builder_with_details(PROVIDER.clone(), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Ok(client)
    }
}

/// One worker's parsed certificates, by the address of their `Arc`.
pub struct TlsCache {
    known: RefCell<FastMap<usize, Rc<Credentials>>>,
    clock: Arc<MeshClock>,
}

/// More than the workloads of most nodes; beyond it, what is no longer in use is dropped.
const CACHED: usize = 64;

impl TlsCache {
    /// Certificates are held against the time of `clock`.
    pub fn new(clock: Arc<MeshClock>) -> Self {
        Self { known: RefCell::default(), clock }
    }

    fn credentials(
        &self,
        state: &NodeState,
        certificate: &Arc<WorkloadCertificate>,
    ) -> Result<Rc<Credentials>, TlsFailure> {
        let key = Arc::as_ptr(certificate) as usize;
        if let Some(known) = self.known.borrow().get(&key) {
            return Ok(known.clone());
        }
        let credentials = Credentials::new(certificate.clone(), self.clock.clone());
        let credentials = credentials.map(Rc::new).map_err(|error| {
            let why = format!("the certificate of {} cannot be used: {error}", certificate.identity);
            TlsFailure::new(Handshake::InvalidCertificate, why)
        })?;
        let mut known = self.known.borrow_mut();
        if known.len() >= CACHED.max(2 * state.workloads.len()) {
            let used: Vec<usize> = state
                .workloads
                .values()
                .filter_map(|w| w.certificate.as_ref())
                .map(|c| Arc::as_ptr(c) as usize)
                .collect();
            known.retain(|key, _| used.contains(key));
        }
        known.insert(key, credentials.clone());
        Ok(credentials)
    }
}

/// Opens TLS to a node as the holder of `certificate`; who answers must be `expected`.
pub(crate) async fn connect(
    cache: &TlsCache,
    state: &NodeState,
    certificate: &Arc<WorkloadCertificate>,
    expected: &SpiffeId,
    tcp: TcpStream,
) -> Result<TlsStream, TlsFailure> {
    let name = expected.server_name().and_then(|name| ServerName::try_from(name).ok()).ok_or_else(|| {
        TlsFailure::new(Handshake::WrongIdentity, format!("{expected} is too long for a TLS server name"))
    })?;
    let config = cache
        .credentials(state, certificate)?
        .client(expected, cache.clock.clone())
        .map_err(|e| TlsFailure::new(Handshake::InvalidCertificate, e.to_string()))?;
    let established = handshake::connect(Arc::new(config), name, tcp).await;
    let established = established.map_err(|error| TlsFailure::of(&error, Some(&certificate.identity)))?;
    if established.alpn.as_deref() != Some(ALPN) {
        return Err(TlsFailure::new(Handshake::Broken, "the peer does not speak HTTP/2 on its link port"));
    }
    Ok(established.stream)
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
}

/// Waits until a peer has said whom it wants: its whole ClientHello.
pub(crate) async fn hello(tcp: TcpStream) -> Result<Hello, TlsFailure> {
    handshake::hello(tcp).await.map_err(|error| TlsFailure::of(&error, None))
}

/// Answers a TLS handshake as the workload that the SNI names.
pub(crate) async fn accept(
    cache: &TlsCache,
    state: Arc<NodeState>,
    hello: Hello,
) -> Result<Accepted, TlsFailure> {
    let name = hello.server_name.clone();
    let Some(certificate) = name.as_deref().and_then(|name| certificate_for(&state, name)) else {
        // RFC 8446 section 6.2: a fatal unrecognized_name alert.
        hello.refuse(112).await;
        return Err(TlsFailure::new(
            Handshake::NoSuchWorkload,
            match name {
                Some(name) => format!("no such workload here: the peer asked for `{name}` (SNI)"),
                None => "no such workload here: the peer named none (no SNI)".to_owned(),
            },
        ));
    };
    let credentials = cache.credentials(&state, &certificate)?;
    let established = hello.accept(credentials.server.clone()).await;
    let established = established.map_err(|error| TlsFailure::of(&error, Some(&certificate.identity)))?;
    if established.alpn.as_deref() != Some(ALPN) {
        return Err(TlsFailure::new(Handshake::Broken, "the peer does not offer HTTP/2 (ALPN h2)"));
    }
    let leaf = established.leaf.as_ref().ok_or_else(|| {
        TlsFailure::new(Handshake::NoCertificate, "no certificate: the peer presented none")
    })?;
    let peer = identity_of(leaf)?;
    let expires = validity(leaf).map_or(i64::MAX, |(_, not_after)| not_after).min(certificate.not_after);
    Ok(Accepted { peer, certificate, expires, stream: established.stream })
}

/// The certificate of the workload with that server name; of several replicas, the one that lasts longest.
fn certificate_for(state: &NodeState, server_name: &str) -> Option<Arc<WorkloadCertificate>> {
    state
        .workloads
        .values()
        .filter(|w| w.identity.server_name().is_some_and(|own| own.eq_ignore_ascii_case(server_name)))
        .filter_map(|w| w.certificate.clone())
        .max_by_key(|c| c.not_after)
}

/// When a certificate begins and ends, in seconds since the epoch.
fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
pub(crate) mod tests;
