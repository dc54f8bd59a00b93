//! The check of clients' certificates: by their chain, and by what else the one who asks for it checks.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::CaError;

pub type Verdict = Result<ClientCertVerified, rustls::Error>;

/// Checks a certificate at a time; what it is handed checks the chain, at the time that it is told.
type Check =
    Box<dyn Fn(&CertificateDer<'_>, UnixTime, &dyn Fn(UnixTime) -> Verdict) -> Verdict + Send + Sync>;

/// Checks clients' certificates by roots that can be replaced. A client without one is let through.
pub struct Clients {
    chain: ArcSwap<Arc<dyn ClientCertVerifier>>,
    /// The roots' names, which are those of the next ones, too.
    names: Vec<DistinguishedName>,
    check: Check,
}

impl Clients {
    /// # Errors
    /// Where a root is none.
    pub fn new(
        roots: &[CertificateDer<'static>],
        check: impl Fn(&CertificateDer<'_>, UnixTime, &dyn Fn(UnixTime) -> Verdict) -> Verdict
        + Send
        + Sync
        + 'static,
    ) -> Result<Self, CaError> {
        let chain = chain(roots)?;
        let names = chain.root_hint_subjects().to_vec();
        Ok(Self { chain: ArcSwap::from_pointee(chain), names, check: Box::new(check) })
    }

    /// Checks by these roots from now on; their names must be those of the ones before.
    ///
    /// # Errors
    /// Where a root is none; then those before stay.
    pub fn replace(&self, roots: &[CertificateDer<'static>]) -> Result<(), CaError> {
        self.chain.store(Arc::new(chain(roots)?));
        Ok(())
    }
}

fn chain(roots: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, CaError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|e| CaError::Tls(format!("a root is not valid: {e}")))?;
    }
    WebPkiClientVerifier::builder_with_provider(store.into(), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|e| CaError::Tls(e.to_string()))
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Clients {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Verdict {
        let chain = self.chain.load();
        (self.check)(end_entity, now, &|now| chain.verify_client_cert(end_entity, intermediates, now))
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.load().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.load().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.load().supported_verify_schemes()
    }
}
