//! An authority and two certificates, made anew for each run: what both proxies of a pair show to
//! each other. ECDSA P-256, as the certificates of Tulle's workloads are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// Paths of the files of one side of a pair.
#[derive(Debug, Clone)]
pub struct SideFiles {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificate and key in one file, for those who want that.
    pub bundle: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Certificates {
    pub client: SideFiles,
    pub server: SideFiles,
}

/// Writes them into `folder`.
pub fn make(folder: &Path) -> Result<Certificates> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "bench authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    let authority = folder.join("authority.pem");
    write(&authority, &issuer.pem())?;
    Ok(Certificates {
        client: side(folder, &authority, &issuer, "client")?,
        server: side(folder, &authority, &issuer, "server")?,
    })
}

fn side(
    folder: &Path,
    authority: &Path,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
) -> Result<SideFiles> {
    let mut params = CertificateParams::new(vec![format!("{name}.bench")])?;
    params.distinguished_name.push(DnType::CommonName, format!("{name}.bench"));
    params.subject_alt_names.push(SanType::URI(format!("spiffe://bench/ns/default/sa/{name}").try_into()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, issuer)?;
    let files = SideFiles {
        authority: authority.to_owned(),
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        bundle: folder.join(format!("{name}.bundle.pem")),
    };
    write(&files.certificate, &certificate.pem())?;
    write(&files.key, &key.serialize_pem())?;
    write(&files.bundle, &format!("{}{}", certificate.pem(), key.serialize_pem()))?;
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_what_the_templates_name() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(folder.path()).unwrap();
        for side in [made.client, made.server] {
            assert!(fs::read_to_string(side.authority).unwrap().contains("BEGIN CERTIFICATE"));
            let bundle = fs::read_to_string(side.bundle).unwrap();
            assert!(bundle.contains("BEGIN CERTIFICATE") && bundle.contains("PRIVATE KEY"));
        }
    }
}
