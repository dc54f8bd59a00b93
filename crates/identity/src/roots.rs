//! The certificates that others are held against.

use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DistinguishedName, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::{algorithms, provider};

/// What is given as roots is of no use.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRoots {
    #[error("a root certificate makes no sense: {0}")]
    Root(#[from] Error),
    #[error("the root certificates are of no use: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// What a certificate is shown for (extended key usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To be connected to.
    Server,
    /// To connect.
    Client,
}

/// Roots, parsed once; cheap to clone.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// The check of a client's chain, which has the hints too.
    clients: Arc<dyn ClientCertVerifier>,
}

impl Roots {
    /// # Errors
    /// Where there is none, or one that is no certificate.
    pub fn new<'a>(
        certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
    ) -> Result<Self, InvalidRoots> {
        let store = Arc::new(store(certificates)?);
        let clients = WebPkiClientVerifier::builder_with_provider(store.clone(), provider()).build()?;
        Ok(Self { store, clients })
    }

    /// Whether one of them, at that time, signed a certificate by way of the others, for that use.
    pub(crate) fn check(
        &self,
        shown_for: Use,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match shown_for {
            Use::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.store,
                intermediates,
                now,
                algorithms().all,
            ),
            Use::Client => self.clients.verify_client_cert(end_entity, intermediates, now).map(drop),
        }
    }

    /// What a client is told of whose certificates are taken.
    pub(crate) fn names(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    /// Whether who is trusted by `others` is trusted by these.
    pub fn include(&self, others: &Self) -> bool {
        others.store.roots.iter().all(|root| self.store.roots.contains(root))
    }
}

/// Roots as rustls takes them.
///
/// # Errors
/// Where one is no certificate.
pub fn store<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone().into_owned())?;
    }
    Ok(store)
}
