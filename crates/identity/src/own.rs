//! A certificate of one's own, parsed where it arrives.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tulle_model::identity::SpiffeId;
use tulle_model::stamp::Stamp;

use crate::certificate::{Certificate, NoIdentity};
use crate::peers::{Expected, Peers};
use crate::refusal::Refusal;
use crate::roots::{InvalidRoots, Roots};
use crate::tls::provider;

/// What is given as an SVID is of no use.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSvid {
    #[error("there is no certificate")]
    NoCertificate,
    #[error("{0}")]
    Certificate(#[from] Refusal),
    #[error("{0}")]
    NoIdentity(#[from] NoIdentity),
    #[error("the certificate and its key are of no use together: {0}")]
    Key(#[from] rustls::Error),
    #[error("{0}")]
    Roots(#[from] InvalidRoots),
}

/// An X.509-SVID with its key, and the roots to hold others against.
#[derive(Clone)]
pub struct Svid {
    identity: SpiffeId,
    not_after: i64,
    stamp: Option<Stamp>,
    key: Arc<CertifiedKey>,
    roots: Roots,
}

impl Svid {
    /// From a chain, leaf first, the leaf's key, and roots. Whether they trust the chain is not asked: others do.
    ///
    /// # Errors
    /// Where a part is of no use, or does not fit the others.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, InvalidSvid> {
        let leaf = Certificate::read(chain.first().ok_or(InvalidSvid::NoCertificate)?)?;
        Ok(Self {
            identity: leaf.identity?,
            not_after: leaf.not_after,
            stamp: leaf.stamp,
            key: Arc::new(CertifiedKey::from_der(chain, key, &provider())?),
            roots: Roots::new(roots)?,
        })
    }

    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When it ends, in seconds since the epoch.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// To which joining of a node it was issued.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// What is shown of it, and its key.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Peers of its trust domain, by its roots.
    pub fn peers(&self, expected: Expected) -> Peers {
        Peers::of(self.roots.clone(), self.identity.trust_domain(), expected)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("identity", &self.identity).field("not_after", &self.not_after).finish()
    }
}
