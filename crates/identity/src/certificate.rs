//! What the mesh reads of a certificate itself; chains and signatures are rustls'.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, UnixTime};
use tulle_model::clock;
use tulle_model::identity::{InvalidIdentity, SpiffeId};
use tulle_model::stamp::Stamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::refusal::Refusal;

/// The SHA-256 of a certificate's DER.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
    bytes
}

/// When a certificate begins and ends, in seconds since the epoch; `None` where it cannot be read.
pub fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(validity_of(&certificate))
}

fn validity_of(certificate: &X509Certificate<'_>) -> (i64, i64) {
    let validity = certificate.validity();
    (validity.not_before.timestamp(), validity.not_after.timestamp())
}

/// Why a certificate says of nobody who it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    #[error("the certificate has no SPIFFE ID")]
    None,
    #[error("the certificate has more than one URI name")]
    Several,
    #[error("{0}")]
    Malformed(#[from] InvalidIdentity),
    #[error("the certificate's URI name is no text")]
    NoText,
}

/// A certificate that could be read. It says all of this of itself; that it is true, a chain proves.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Its only URI name (X509-SVID standard, section 2).
    pub identity: Result<SpiffeId, NoIdentity>,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
    /// To which joining of a node it was issued; `None` where it was not to a node of a mesh.
    pub stamp: Option<Stamp>,
    /// What its key usage says that an SVID's may not.
    pub(crate) misuse: Option<&'static str>,
}

impl Certificate {
    /// # Errors
    /// Where it is no certificate, or has a name or a use in it that cannot be read.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Refusal> {
        let unreadable = |error: String| Refusal::Unreadable(error);
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
        let usage = certificate.key_usage().map_err(|e| unreadable(e.to_string()))?;
        let misuse = usage.and_then(|usage| match usage.value {
            // X509-SVID standard, section 5.2.
            usage if usage.key_cert_sign() || usage.crl_sign() => Some("it may sign certificates"),
            // The same, section 4.3, and RFC 8446, section 4.4.2.2.
            usage if !usage.digital_signature() => Some("it may not sign handshakes"),
            _ => None,
        });
        let (not_before, not_after) = validity_of(&certificate);
        let identity = identity(names.iter().flat_map(|names| &names.value.general_names));
        let stamp = Stamp::of_serial(certificate.raw_serial());
        Ok(Self { identity, not_before, not_after, stamp, misuse })
    }

    /// The time at which it is checked; see [`clock::verification_time`].
    pub(crate) fn verification_time(&self, now: UnixTime) -> UnixTime {
        let seconds = clock::verification_time(now.as_secs(), Some(self.not_before));
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }
}

/// The one SPIFFE ID among a certificate's names. A URI that is no text is one as well: it is not passed over.
fn identity<'a>(names: impl Iterator<Item = &'a GeneralName<'a>>) -> Result<SpiffeId, NoIdentity> {
    const URI: u32 = 6;
    let mut uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        GeneralName::Invalid(tag, _) if tag.0 == URI => Some(Err(NoIdentity::NoText)),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri?.parse()?),
        (None, _) => Err(NoIdentity::None),
        (Some(_), Some(_)) => Err(NoIdentity::Several),
    }
}
