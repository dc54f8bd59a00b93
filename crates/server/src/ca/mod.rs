//! The certificate authorities of a server: one for the mesh, whose certificates carry SPIFFE IDs,
//! and one for the API, whose certificates carry Kubernetes users and groups. They share nothing,
//! so that a workload's certificate can never open the API, nor an administrator's a link.
//!
//! All keys are ECDSA P-256, and lie on disk sealed with the server's master key
//! ([`seal::MasterKey`]).

pub mod api;
pub mod jwt;
mod kept;
pub mod mesh;
pub mod seal;
pub mod session;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use tulle_identity::{InvalidRoots, validity};

/// How far before its issue a certificate becomes valid: hosts' clocks differ, and are set back. One that
/// lives for an hour or a day, and one that lives for years.
const BACKDATE: Duration = Duration::from_secs(300);
const LONG_BACKDATE: Duration = DAY;

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What goes wrong with an authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{}: {problem}", path.display())]
    Content { path: PathBuf, problem: String },
    /// What was asked for cannot be signed; the text is for the one who asked.
    #[error("{0}")]
    Request(String),
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    #[error("cannot set up TLS: {0}")]
    Roots(#[from] InvalidRoots),
}

/// The start of every set of parameters: a random serial number, and validity from a while ago
/// until `lifetime` from `now`, or until `limit` where that is earlier.
fn parameters(
    common_name: &str,
    now: SystemTime,
    lifetime: Duration,
    limit: Option<SystemTime>,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let not_after = limit.map_or(now + lifetime, |limit| limit.min(now + lifetime));
    let backdate = if lifetime > DAY { LONG_BACKDATE } else { BACKDATE };
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now - backdate);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
    params.distinguished_name = DistinguishedName::new();
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    let mut serial: [u8; 16] = rand::random();
    // A positive number of a fixed length (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params
}

/// The parameters of an authority's own certificate.
fn authority_parameters(
    common_name: &str,
    now: SystemTime,
    lifetime: Duration,
    limit: Option<SystemTime>,
    path_length: u8,
) -> CertificateParams {
    let mut params = parameters(common_name, now, lifetime, limit);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn generate_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn since_epoch(time: SystemTime) -> Duration {
    // Whole seconds: X.509 has no fractions.
    Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn expiry(der: &[u8]) -> Option<SystemTime> {
    let (_, not_after) = validity(der)?;
    Some(UNIX_EPOCH + Duration::from_secs(not_after.try_into().ok()?))
}

/// Whether a certificate is of a time that is yet to come: the clock was set back since, and whoever checks
/// its beginning refuses it.
pub(crate) fn is_of_the_future(der: &[u8], now: SystemTime) -> bool {
    let now = i64::try_from(since_epoch(now).as_secs()).unwrap_or(i64::MAX);
    validity(der).is_none_or(|(not_before, _)| not_before > now)
}

/// Whether less than `rest` is left of a certificate.
fn expires_within(der: &[u8], now: SystemTime, rest: Duration) -> bool {
    expiry(der).is_none_or(|end| end < now + rest)
}

/// Whether a certificate names another one as its issuer, and was signed with that one's key.
fn signed_by(der: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok((_, certificate)), Ok((_, issuer))) =
        (x509_parser::parse_x509_certificate(der), x509_parser::parse_x509_certificate(issuer))
    else {
        return false;
    };
    certificate.issuer() == issuer.subject()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

#[cfg(test)]
mod tests;
