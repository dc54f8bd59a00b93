//! A certificate with its key and the roots to trust, on disk: one file each, so that they always fit.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tulle_identity::{Fingerprint, Svid, fingerprint};
use tulle_model::identity::SpiffeId;
use tulle_wire::node::Certificate;

use crate::files;
use crate::keeper::KeptFile;

/// A key, and the request to certify it.
pub struct KeyRequest {
    key: rcgen::KeyPair,
    /// DER, PKCS#10.
    pub csr: Bytes,
}

impl KeyRequest {
    /// A new ECDSA P-256 key.
    pub fn generate() -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate().context("no key can be made")?;
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .context("no certificate request can be made")?;
        Ok(Self { csr: Bytes::copy_from_slice(csr.der()), key })
    }

    /// Together with what the server made of it.
    pub fn certified(
        self,
        identity: SpiffeId,
        certificate: Option<Certificate>,
    ) -> anyhow::Result<Credential> {
        let certificate = certificate.context("the server's answer has no certificate")?;
        ensure!(!certificate.chain.is_empty(), "the server's answer has no certificate");
        ensure!(!certificate.roots.is_empty(), "the server's answer names no root certificate");
        let credential = Credential {
            identity: identity.to_string(),
            key: BASE64_STANDARD.encode(self.key.serialized_der()),
            chain: certificate.chain.iter().map(|c| BASE64_STANDARD.encode(c)).collect(),
            roots: certificate.roots.iter().map(|c| BASE64_STANDARD.encode(c)).collect(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        };
        let svid = credential.decode().context("the server's answer is of no use")?;
        ensure!(*svid.identity() == identity, "the server certified another identity than the one asked for");
        Ok(credential)
    }
}

/// What the file holds; DER in base64.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    pub identity: String,
    key: String,
    chain: Vec<String>,
    roots: Vec<String>,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
}

impl Credential {
    /// What the file holds; `None` where there is none, or nothing that makes sense.
    pub fn load(file: &Path) -> io::Result<Option<Self>> {
        let Some(content) = files::read_if_there(file)? else { return Ok(None) };
        match serde_json::from_slice(&content) {
            Ok(credential) => Ok(Some(credential)),
            Err(e) => {
                tracing::warn!("{} is ignored: {e}", file.display());
                Ok(None)
            }
        }
    }

    /// Writes it, now or when the disk takes it.
    pub fn keep(&self, file: &KeptFile) {
        // Texts and numbers are never refused.
        file.keep(serde_json::to_vec_pretty(self).unwrap_or_default());
    }

    /// In the form that the proxy and TLS use.
    pub fn decode(&self) -> anyhow::Result<Svid> {
        let key = PrivatePkcs8KeyDer::from(BASE64_STANDARD.decode(&self.key)?);
        let (chain, roots) = (certificates(&self.chain)?, certificates(&self.roots)?);
        let svid = Svid::new(chain, key.into(), &roots)?;
        ensure!(svid.identity().as_str() == self.identity, "it is the certificate of {}", svid.identity());
        Ok(svid)
    }

    /// The chain, the key and the roots in DER; certificates one after the other.
    pub fn to_der(&self) -> Result<[Vec<u8>; 3], base64::DecodeError> {
        let joined = |texts: &[String]| {
            certificates(texts).map(|all| all.iter().flat_map(|one| one.iter().copied()).collect())
        };
        Ok([joined(&self.chain)?, BASE64_STANDARD.decode(&self.key)?, joined(&self.roots)?])
    }

    /// Whether a root of that fingerprint came with it.
    pub fn comes_with(&self, root: Fingerprint) -> bool {
        certificates(&self.roots).is_ok_and(|roots| roots.iter().any(|own| fingerprint(own) == root))
    }

    /// How long to wait before it is renewed: until half of its life is over, give or take a tenth
    /// (`random` is from 0 to 1). Zero where that moment has passed, and where its life has not begun: the
    /// clock was set back, and others may not take it.
    pub fn renewal_in(&self, now: SystemTime, random: f64) -> Duration {
        if seconds(now) < self.not_before as f64 {
            return Duration::ZERO;
        }
        let life = self.not_after.saturating_sub(self.not_before).max(0) as f64;
        let moment = self.not_before as f64 + life * (0.45 + 0.1 * random.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(moment - seconds(now)).unwrap_or(Duration::ZERO)
    }

    pub fn is_valid(&self, now: SystemTime) -> bool {
        seconds(now) < self.not_after as f64
    }
}

fn certificates(texts: &[String]) -> Result<Vec<CertificateDer<'static>>, base64::DecodeError> {
    texts.iter().map(|text| BASE64_STANDARD.decode(text).map(CertificateDer::from)).collect()
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The file of a workload identity's credential in `folder`. A namespace has no dot, so names don't
/// clash.
pub fn file_of(folder: &Path, namespace: &str, service_account: &str) -> PathBuf {
    folder.join(format!("{namespace}.{service_account}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_at_half_of_its_life() {
        let mut credential = Credential {
            identity: String::new(),
            key: String::new(),
            chain: vec![],
            roots: vec![],
            not_before: 1000,
            not_after: 2000,
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(credential.renewal_in(at(1000), 0.5), Duration::from_secs(500));
        assert_eq!(credential.renewal_in(at(1000), 0.0), Duration::from_secs(450));
        assert_eq!(credential.renewal_in(at(1600), 1.0), Duration::ZERO);
        assert!(credential.is_valid(at(1999)) && !credential.is_valid(at(2000)));
        assert_eq!(credential.renewal_in(at(999), 1.0), Duration::ZERO, "the clock was set back");
        credential.not_after = 0;
        assert_eq!(credential.renewal_in(at(1600), 1.0), Duration::ZERO);
    }
}
