//! What the mesh's authority has on disk: its trust domain, its root, the present intermediate, and the files of a user's
//! own authority.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tulle_model::identity::TrustDomain;

use super::mesh::{INTERMEDIATE_LIFETIME, Intermediate};
use super::seal::{MasterKey, file, write_private};
use super::{CaError, YEAR, authority_parameters, expires_within, expiry, generate_key, signed_by};

/// Remembers the trust domain of a server's state, and refuses another one.
pub(super) fn bind_domain(dir: &Path, domain: &TrustDomain, new: bool) -> Result<(), CaError> {
    let path = dir.join("trust-domain");
    match fs::read_to_string(&path) {
        Ok(kept) if kept.trim() == domain.as_str() => Ok(()),
        Ok(kept) => Err(CaError::Content {
            path,
            problem: format!(
                "this server's state belongs to the trust domain `{}`; a mesh cannot change it, so start \
                 with that one instead of `{domain}`, or with another home",
                kept.trim()
            ),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            match write_private(&path, format!("{domain}\n").as_bytes()) {
                // The store of a mesh that is there names it as well; the disk may be full.
                Err(error) if !new => tracing::warn!(%error, "the trust domain is not kept"),
                written => written?,
            }
            Ok(())
        }
        Err(e) => Err(file("read", &path)(e)),
    }
}

/// The root that is kept, and its key; a `new` mesh's is made.
pub(super) fn own_root(
    dir: &Path,
    master: &MasterKey,
    domain: &TrustDomain,
    new: bool,
    now: SystemTime,
) -> Result<(CertificateDer<'static>, KeyPair), CaError> {
    let (certificate_path, key_path) = (dir.join("root.pem"), dir.join("root.key"));
    let secret = master.read(&key_path)?;
    match secret {
        Some(secret) if certificate_path.exists() => {
            let mut certificates = read_certificates(&certificate_path)?;
            let key = key_from_der(&key_path, &secret)?;
            check_authority(&certificate_path, &certificates[0], &key, now)?;
            return Ok((certificates.swap_remove(0), key));
        }
        secret if !new => {
            let path = if secret.is_none() { key_path } else { certificate_path };
            return Err(CaError::Content {
                path,
                problem: "is gone, and the nodes trust no other root: put it back from a backup".to_owned(),
            });
        }
        // Of a first start that was not finished.
        _ => {}
    }
    let key = generate_key()?;
    let mut params = authority_parameters(&format!("{domain} root"), now, 10 * YEAR, None, 1);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    let certificate = params.self_signed(&key)?;
    // The key first: a certificate without its key would be taken for a finished authority.
    master.write(&key_path, key.serialized_der())?;
    write_private(&certificate_path, certificate.pem().as_bytes())?;
    tracing::info!(trust_domain = %domain, "made a new root for the mesh's certificates");
    Ok((certificate.der().clone(), key))
}

/// The intermediate that is kept, where it is one of that root's.
pub(super) fn kept_intermediate(
    dir: &Path,
    master: &MasterKey,
    root: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<Option<Intermediate>, CaError> {
    let (certificate_path, key_path) = (dir.join("issuer.pem"), dir.join("issuer.key"));
    if !certificate_path.exists() {
        return Ok(None);
    }
    let Some(secret) = master.read(&key_path)? else { return Ok(None) };
    let chain = read_certificates(&certificate_path)?;
    let key = key_from_der(&key_path, &secret)?;
    // A crash between the two writes, or another root than before: make a new one.
    let matches =
        check_authority(&certificate_path, &chain[0], &key, now).is_ok() && signed_by(&chain[0], root);
    let Some(expires) = expiry(&chain[0]).filter(|_| matches) else { return Ok(None) };
    let issuer = Issuer::from_ca_cert_der(&chain[0], key)?;
    Ok(Some(Intermediate { issuer, chain, expires }))
}

/// Makes an intermediate. Where it cannot be kept it is good until the next start.
pub(super) fn new_intermediate(
    dir: &Path,
    master: &MasterKey,
    domain: &TrustDomain,
    root: &Issuer<'static, KeyPair>,
    root_expires: SystemTime,
    now: SystemTime,
) -> Result<Intermediate, CaError> {
    let key = generate_key()?;
    let name = format!("{domain} issuing");
    let mut params = authority_parameters(&name, now, INTERMEDIATE_LIFETIME, Some(root_expires), 0);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    let certificate = params.signed_by(&key, root)?;
    let kept = master
        .write(&dir.join("issuer.key"), key.serialized_der())
        .and_then(|()| write_private(&dir.join("issuer.pem"), certificate.pem().as_bytes()));
    if let Err(error) = kept {
        tracing::warn!(%error, "the mesh's new issuing certificate is not kept over a restart");
    }
    let chain = vec![certificate.der().clone()];
    let expires = expiry(&chain[0]).unwrap_or(now);
    Ok(Intermediate { issuer: Issuer::from_ca_cert_der(&chain[0], key)?, chain, expires })
}

/// The certificates of a PEM file, one at least.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let pem = fs::read(path).map_err(file("read", path))?;
    let invalid = |problem: String| CaError::Content { path: path.to_owned(), problem };
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| invalid(format!("is not PEM: {e}")))?;
    if certificates.is_empty() {
        return Err(invalid("has no certificate in it (PEM is expected)".to_owned()));
    }
    for certificate in &certificates {
        if x509_parser::parse_x509_certificate(certificate).is_err() {
            return Err(invalid("has a certificate that cannot be read (X.509 is expected)".to_owned()));
        }
    }
    Ok(certificates)
}

/// The private key of a PEM file.
pub(super) fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let pem = zeroize::Zeroizing::new(fs::read(path).map_err(file("read", path))?);
    let invalid = |problem: String| CaError::Content { path: path.to_owned(), problem };
    let der = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| invalid(format!("has no private key in it (PEM is expected): {e}")))?;
    KeyPair::try_from(&der).map_err(|e| invalid(format!("has a private key that cannot be used: {e}")))
}

fn key_from_der(path: &Path, der: &[u8]) -> Result<KeyPair, CaError> {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(der))
        .map_err(|e| CaError::Content { path: path.to_owned(), problem: format!("is no private key: {e}") })
}

/// Checks that a certificate may sign others and that the key is its own.
pub(super) fn check_authority(
    path: &Path,
    der: &CertificateDer<'_>,
    key: &KeyPair,
    now: SystemTime,
) -> Result<(), CaError> {
    let invalid = |problem: &str| CaError::Content { path: path.to_owned(), problem: problem.to_owned() };
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| invalid("is no X.509 certificate"))?;
    if !certificate.is_ca() {
        return Err(invalid("is no authority's certificate (basicConstraints must say CA:TRUE)"));
    }
    if certificate.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(invalid("does not belong to the private key that was given"));
    }
    if expires_within(der, now, Duration::ZERO) {
        return Err(invalid("has expired"));
    }
    Ok(())
}

pub(super) fn self_signed(der: &CertificateDer<'_>) -> bool {
    signed_by(der, der)
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn master(&self) -> MasterKey {
            MasterKey::open_or_make(&self.path().join("master.key")).unwrap()
        }

        fn root(&self, new: bool) -> Result<(CertificateDer<'static>, KeyPair), CaError> {
            own_root(self.path(), &self.master(), &domain(), new, SystemTime::now())
        }

        fn write(&self, name: &str, content: &str) -> std::path::PathBuf {
            let path = self.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    fn domain() -> TrustDomain {
        TrustDomain::new("mesh.local").unwrap()
    }

    fn problem<T>(result: Result<T, CaError>) -> String {
        result.err().expect("a problem").to_string()
    }

    #[test]
    fn a_trust_domain_that_cannot_be_kept_begins_no_mesh() {
        let folder = Folder::new();
        let path = folder.path().join("trust-domain");
        let bind = |new| bind_domain(folder.path(), &domain(), new);
        // Nothing can be written beside this.
        let blocked = folder.path().join("trust-domain.new");
        fs::create_dir(&blocked).unwrap();
        assert!(problem(bind(true)).contains("cannot write"));
        bind(false).unwrap();
        assert!(!path.exists());
        fs::remove_dir(blocked).unwrap();
        bind(false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mesh.local\n");
        // One that is there and cannot be read is none that is absent.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        for new in [true, false] {
            assert!(problem(bind(new)).contains("cannot read"), "{new}");
        }
    }

    #[test]
    fn a_mesh_that_is_there_gets_no_other_root() {
        let folder = Folder::new();
        assert!(problem(folder.root(false)).contains("root.key: is gone"));
        let first = folder.root(true).unwrap().0;
        for new in [true, false] {
            assert_eq!(folder.root(new).unwrap().0, first);
        }
        fs::remove_file(folder.path().join("root.pem")).unwrap();
        assert!(problem(folder.root(false)).contains("root.pem: is gone"));
        // A first start that was not finished has a key at most.
        let second = folder.root(true).unwrap().0;
        assert_ne!(second, first);
        fs::remove_file(folder.path().join("root.key")).unwrap();
        assert!(problem(folder.root(false)).contains("root.key: is gone"));
        assert_eq!(read_certificates(&folder.path().join("root.pem")).unwrap(), [second]);
    }

    #[test]
    fn an_intermediate_is_kept_with_its_key_and_its_root_only() {
        let (folder, other) = (Folder::new(), Folder::new());
        let (now, master) = (SystemTime::now(), folder.master());
        let ((root, key), (foreign, _)) = (folder.root(true).unwrap(), other.root(true).unwrap());
        let kept = |root: &CertificateDer<'_>, now| {
            let kept = kept_intermediate(folder.path(), &master, root, now).unwrap();
            kept.map(|intermediate| (intermediate.chain, intermediate.expires))
        };
        assert!(kept(&root, now).is_none());
        let issuer = Issuer::from_ca_cert_der(&root, key).unwrap();
        let expires = expiry(&root).unwrap();
        let made = new_intermediate(folder.path(), &master, &domain(), &issuer, expires, now).unwrap();
        assert_eq!(kept(&root, now), Some((made.chain.clone(), made.expires)));
        assert_eq!(made.expires, expiry(&made.chain[0]).unwrap());
        assert!(kept(&foreign, now).is_none(), "of another root");
        assert!(kept(&root, made.expires + Duration::from_secs(1)).is_none(), "expired");
        // A crash between the two writes.
        master.write(&folder.path().join("issuer.key"), generate_key().unwrap().serialized_der()).unwrap();
        assert!(kept(&root, now).is_none());
        fs::remove_file(folder.path().join("issuer.key")).unwrap();
        assert!(kept(&root, now).is_none());
    }

    #[test]
    fn a_users_own_files_must_be_an_authoritys() {
        let folder = Folder::new();
        let now = SystemTime::now();
        let (key, other) = (generate_key().unwrap(), generate_key().unwrap());
        let authority = authority_parameters("their root", now, YEAR, None, 1).self_signed(&key).unwrap();
        let leaf = parameters("leaf", now, YEAR, None).self_signed(&key).unwrap();
        let path = Path::new("given.pem");
        let check = |certificate: &rcgen::Certificate, key, now| {
            check_authority(path, certificate.der(), key, now).map_err(|error| error.to_string())
        };
        assert_eq!(check(&authority, &key, now), Ok(()));
        let after = now + YEAR + Duration::from_secs(1);
        for (result, expected) in [
            (check(&leaf, &key, now), "given.pem: is no authority's certificate"),
            (check(&authority, &other, now), "given.pem: does not belong to the private key"),
            (check(&authority, &key, after), "given.pem: has expired"),
        ] {
            assert!(result.as_ref().is_err_and(|why| why.starts_with(expected)), "{expected}: {result:?}");
        }
        let issuer = Issuer::from_ca_cert_der(authority.der(), &key).unwrap();
        let issued = authority_parameters("their issuing", now, YEAR, None, 0).signed_by(&other, &issuer);
        let issued = issued.unwrap();
        assert!(self_signed(authority.der()) && !self_signed(issued.der()));

        let both = folder.write("both.pem", &(issued.pem() + &authority.pem()));
        assert_eq!(read_certificates(&both).unwrap(), [issued.der().clone(), authority.der().clone()]);
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, content, expected) in [
            ("empty.pem", "", "has no certificate in it"),
            ("key.pem", &key.serialize_pem(), "has no certificate in it"),
            ("garbage.pem", garbage, "cannot be read"),
            ("half.pem", &(authority.pem() + garbage), "cannot be read"),
            ("broken.pem", &authority.pem()[..100], "is not PEM"),
        ] {
            let path = folder.write(name, content);
            let found = problem(read_certificates(&path));
            assert!(found.contains(name) && found.contains(expected), "{name}: {found}");
        }
        let good = folder.write("good.key", &key.serialize_pem());
        assert_eq!(read_key(&good).unwrap().serialized_der(), key.serialized_der());
        assert!(problem(read_key(&both)).contains("has no private key in it"));
    }
}
