//! The API's authority: the certificate that the API serves with, and the administrator's, by which
//! kubectl and `tulle` are known.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rcgen::{DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tulle_identity::{Roots, Users};

use super::seal::{MasterKey, file, write_private};
use super::{
    CaError, DAY, YEAR, authority_parameters, expires_within, generate_key, is_of_the_future, parameters,
    signed_by,
};

/// Certificates are issued anew when less than this is left of them.
const RENEW_BEFORE: std::time::Duration = DAY.saturating_mul(30);
/// The group that may do everything (Kubernetes, "system:masters").
const ADMIN_GROUP: &str = "system:masters";

/// Signs the certificates of the API and of its administrator.
pub struct ApiAuthority {
    dir: PathBuf,
    master: MasterKey,
    root: Mutex<Root>,
    admin: Mutex<Pair>,
    /// The names that the API is served under.
    names: Vec<SanType>,
    served: Arc<Served>,
    /// Its root is replaced where the clock was set back to before its beginning.
    users: Arc<Users>,
}

/// What signs.
struct Root {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: zeroize::Zeroizing<String>,
}

/// The certificate that the API shows; replaced as it ages.
#[derive(Debug)]
struct Served(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ApiAuthority {
    /// Opens the authority kept in `dir`, or makes one there, and renews what runs out. The API is
    /// served under `names` (DNS names and addresses).
    pub fn open(dir: &Path, master: MasterKey, names: &[String], now: SystemTime) -> Result<Self, CaError> {
        let names = rcgen::CertificateParams::new(names.to_vec())
            .map_err(|e| CaError::Tls(format!("a name of the API server is not valid: {e}")))?
            .subject_alt_names;
        let root = match kept(dir, &master, "api-root") {
            Some((pem, key)) if !is_spent(&certificate(&pem)?, now) => Root::new(pem, key)?,
            _ => new_root(dir, &master, now)?,
        };
        let admin = match kept(dir, &master, "admin") {
            Some((pem, key))
                if !is_spent(&certificate(&pem)?, now)
                    && signed_by(&certificate(&pem)?, &root.certificate) =>
            {
                (pem, key)
            }
            _ => new_admin(dir, &master, &root.issuer, now)?,
        };
        let served = Arc::new(Served(ArcSwap::from_pointee(new_served(&names, &root.issuer, now)?)));
        let admin = Mutex::new(Pair { certificate: admin.0, key: admin.1.serialize_pem().into() });
        let users = Arc::new(Users::of(Roots::new([&root.certificate])?));
        let dir = dir.to_owned();
        Ok(Self { dir, master, root: Mutex::new(root), admin, names, served, users })
    }

    /// Renews what runs out, or is of a time that is yet to come: the clock was set back, and clients that
    /// check a certificate's beginning refuse it. True when the kubeconfig must be written anew. Call it now
    /// and then.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, CaError> {
        let mut root = self.root.lock();
        let anew = is_spent(&root.certificate, now);
        if anew {
            let next = new_root(&self.dir, &self.master, now)?;
            self.users.replace(Roots::new([&next.certificate])?);
            *root = next;
            tracing::warn!("made a new authority for the API: copies of the kubeconfig are good no longer");
        }
        let served = self.served.0.load();
        let spent = served.cert.first().is_none_or(|certificate| is_spent(certificate, now));
        if anew || spent {
            self.served.0.store(Arc::new(new_served(&self.names, &root.issuer, now)?));
        }
        let mut admin = self.admin.lock();
        if !anew && !is_spent(&certificate(&admin.certificate)?, now) {
            return Ok(false);
        }
        let (certificate, key) = new_admin(&self.dir, &self.master, &root.issuer, now)?;
        *admin = Pair { certificate, key: key.serialize_pem().into() };
        Ok(true)
    }

    /// The TLS settings of the API: TLS 1.2 or 1.3, HTTP/2 or 1.1, and a client certificate of this
    /// authority where the client has one. A client without one is let through to be told so by the
    /// API (401), as Kubernetes does.
    pub fn tls(&self) -> Result<rustls::ServerConfig, CaError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| CaError::Tls(e.to_string()))?
            .with_client_cert_verifier(self.users.clone())
            .with_cert_resolver(self.served.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would skip the check of the client's certificate.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// A certificate by which a user is known, and its key, which is kept nowhere; in PEM. It lives for as long as the root at
    /// most.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn user(
        &self,
        name: &str,
        groups: &[String],
        lifetime: std::time::Duration,
        now: SystemTime,
    ) -> Result<(String, zeroize::Zeroizing<String>), CaError> {
        let key = generate_key()?;
        let mut params = parameters(name, now, lifetime, None);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.root.lock().issuer)?.pem();
        Ok((certificate, key.serialize_pem().into()))
    }

    /// Writes the administrator's kubeconfig, readable by its owner only. Its namespace is the one where who uses it
    /// says none; `None` leaves that to him.
    pub fn write_kubeconfig(
        &self,
        path: &Path,
        server: SocketAddr,
        cluster: &str,
        namespace: Option<&str>,
    ) -> Result<(), CaError> {
        let server = match server.ip() {
            ip if ip.is_unspecified() && ip.is_ipv4() => format!("127.0.0.1:{}", server.port()),
            ip if ip.is_unspecified() => format!("[::1]:{}", server.port()),
            _ => server.to_string(),
        };
        let namespace = namespace.map(|name| format!("    namespace: \"{name}\"\n")).unwrap_or_default();
        let (root, admin) = (self.root.lock(), self.admin.lock());
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: \"{cluster}\"\n\
             \x20 cluster:\n\
             \x20   server: https://{server}\n\
             \x20   certificate-authority-data: {ca}\n\
             contexts:\n\
             - name: \"{cluster}\"\n\
             \x20 context:\n\
             \x20   cluster: \"{cluster}\"\n\
             \x20   user: admin\n\
             {namespace}\
             current-context: \"{cluster}\"\n\
             users:\n\
             - name: admin\n\
             \x20 user:\n\
             \x20   client-certificate-data: {certificate}\n\
             \x20   client-key-data: {key}\n",
            ca = STANDARD.encode(&root.pem),
            certificate = STANDARD.encode(&admin.certificate),
            key = STANDARD.encode(admin.key.as_bytes()),
        );
        // One that is as it should be needs no room and no disk that can be written.
        match fs::read(path) {
            Ok(there) if there == text.as_bytes() => Ok(()),
            _ => write_private(path, text.as_bytes()),
        }
    }
}

/// Whether a certificate runs out soon, or its life has not begun.
fn is_spent(der: &CertificateDer<'_>, now: SystemTime) -> bool {
    expires_within(der, now, RENEW_BEFORE) || is_of_the_future(der, now)
}

impl Root {
    fn new(pem: String, key: KeyPair) -> Result<Self, CaError> {
        let certificate = certificate(&pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, pem, issuer })
    }
}

fn new_root(dir: &Path, master: &MasterKey, now: SystemTime) -> Result<Root, CaError> {
    let key = generate_key()?;
    let params = authority_parameters("tulle API", now, 10 * YEAR, None, 0);
    let (pem, key) = keep(dir, master, "api-root", params.self_signed(&key)?.pem(), key);
    Root::new(pem, key)
}

fn new_admin(
    dir: &Path,
    master: &MasterKey,
    issuer: &Issuer<'static, KeyPair>,
    now: SystemTime,
) -> Result<(String, KeyPair), CaError> {
    let key = generate_key()?;
    let mut params = parameters("admin", now, YEAR, None);
    params.distinguished_name.push(DnType::OrganizationName, ADMIN_GROUP);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(keep(dir, master, "admin", params.signed_by(&key, issuer)?.pem(), key))
}

fn new_served(
    names: &[SanType],
    issuer: &Issuer<'static, KeyPair>,
    now: SystemTime,
) -> Result<CertifiedKey, CaError> {
    let key = generate_key()?;
    // Not the authority's own name: OpenSSL would take the certificate for a self-signed one.
    let mut params = parameters("tulle API server", now, YEAR, None);
    params.subject_alt_names = names.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let chain = vec![params.signed_by(&key, issuer)?.der().clone()];
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let private = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private)
        .map_err(|e| CaError::Tls(e.to_string()))?;
    Ok(CertifiedKey::new(chain, private))
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

/// A certificate (PEM) and its key as they were kept; `None` where they are missing, cannot be read, or
/// don't belong together (a crash between the two writes). No node depends on them: new ones are made.
fn kept(dir: &Path, master: &MasterKey, name: &str) -> Option<(String, KeyPair)> {
    read_kept(dir, master, name).unwrap_or_else(|error| {
        tracing::warn!(%error, "the API gets new credentials");
        None
    })
}

fn read_kept(dir: &Path, master: &MasterKey, name: &str) -> Result<Option<(String, KeyPair)>, CaError> {
    let (pem_path, key_path) = paths(dir, name);
    let Some(secret) = master.read(&key_path)? else { return Ok(None) };
    let pem = fs::read_to_string(&pem_path).map_err(file("read", &pem_path))?;
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(secret.as_slice()))?;
    let der = certificate(&pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| CaError::Content { path: pem_path, problem: format!("is no certificate: {e}") })?;
    let own = parsed.public_key().subject_public_key.data.as_ref() == rcgen::PublicKeyData::der_bytes(&key);
    Ok(own.then_some((pem, key)))
}

/// Keeps a certificate and its key. Where that fails they are good until the next start.
fn keep(dir: &Path, master: &MasterKey, name: &str, pem: String, key: KeyPair) -> (String, KeyPair) {
    let (pem_path, key_path) = paths(dir, name);
    let kept =
        master.write(&key_path, key.serialized_der()).and_then(|()| write_private(&pem_path, pem.as_bytes()));
    if let Err(error) = kept {
        tracing::warn!(%error, "a certificate of the API is not kept over a restart");
    }
    (pem, key)
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, CaError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| CaError::Tls(format!("a kept certificate is not PEM: {e}")))
}

#[cfg(test)]
mod tests {
    use rustls::server::danger::ClientCertVerifier;
    use rustls_pki_types::UnixTime;

    use super::*;

    #[test]
    fn certificates_are_kept_until_thirty_days_before_they_expire() {
        let home = tempfile::tempdir().unwrap();
        let open = |now| {
            let master = MasterKey::open_or_make(&home.path().join("master.key")).unwrap();
            ApiAuthority::open(&home.path().join("api"), master, &["localhost".to_owned()], now).unwrap()
        };
        let admin = |authority: &ApiAuthority| authority.admin.lock().certificate.clone();
        let served_until = |authority: &ApiAuthority| {
            tulle_identity::validity(&authority.served.0.load().cert[0]).unwrap().1
        };
        let now = SystemTime::now();
        let (first, again, late) = (open(now), open(now + DAY), open(now + YEAR - 29 * DAY));
        assert_eq!(admin(&first), admin(&again));
        assert_ne!(admin(&first), admin(&late));
        assert_eq!(first.root.lock().pem, late.root.lock().pem, "the root stays");
        let der = certificate(&admin(&first)).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=admin, O=system:masters");

        let (served, kept) = (served_until(&first), admin(&first));
        assert!(!first.renew_if_due(now + DAY).unwrap());
        assert_eq!(served_until(&first), served);
        assert!(first.renew_if_due(now + YEAR - 29 * DAY).unwrap());
        assert!(served_until(&first) > served && admin(&first) != kept);

        // The clock is set back: clients that check the beginning of a certificate get another one.
        let (served, kept) = (served_until(&first), admin(&first));
        assert!(first.renew_if_due(now).unwrap());
        assert!(served_until(&first) < served && admin(&first) != kept);
    }

    #[test]
    fn an_authority_of_the_future_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let open = |now| {
            let master = MasterKey::open_or_make(&home.path().join("master.key")).unwrap();
            ApiAuthority::open(&home.path().join("api"), master, &["localhost".to_owned()], now).unwrap()
        };
        let now = SystemTime::now();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let time = UnixTime::since_unix_epoch(seconds);
        // Whether the API takes the administrator, who takes the API's root.
        let good = |authority: &ApiAuthority| {
            let admin = certificate(&authority.admin.lock().certificate).unwrap();
            let root = authority.root.lock();
            let kept = fs::read_to_string(home.path().join("api/api-root.pem")).unwrap();
            !is_of_the_future(&root.certificate, now)
                && signed_by(&authority.served.0.load().cert[0], &root.certificate)
                && kept == root.pem
                && authority.users.verify_client_cert(&admin, &[], time).is_ok()
        };
        let ahead = open(now + 3 * DAY);
        assert!(!good(&ahead));
        assert!(ahead.renew_if_due(now).unwrap(), "the kubeconfig has another root");
        assert!(good(&ahead));
        assert!(!ahead.renew_if_due(now).unwrap(), "once");
        let root = ahead.root.lock().pem.clone();
        assert_eq!(open(now).root.lock().pem, root, "it was kept");

        // Set right while the server does not run.
        fs::remove_dir_all(home.path().join("api")).unwrap();
        open(now + 3 * DAY);
        assert!(good(&open(now)));
    }

    #[test]
    fn the_kubeconfig_is_private_and_names_an_address_that_can_be_reached() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let master = MasterKey::open_or_make(&home.path().join("master.key")).unwrap();
        let authority = ApiAuthority::open(home.path(), master, &[], SystemTime::now()).unwrap();
        let path = home.path().join("kubeconfig");
        for (listen, expected) in [
            ("0.0.0.0:15014", "https://127.0.0.1:15014\n"),
            ("[::]:15014", "https://[::1]:15014\n"),
            ("10.0.0.1:15014", "https://10.0.0.1:15014\n"),
        ] {
            authority.write_kubeconfig(&path, listen.parse().unwrap(), "tulle", None).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(expected) && !text.contains("namespace"), "{text}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let write =
            |listen: &str| authority.write_kubeconfig(&path, listen.parse().unwrap(), "tulle", Some("shop"));
        write("10.0.0.1:15014").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("    user: admin\n    namespace: \"shop\"\ncurrent-context: "), "{text}");
        // One that is as it should be needs no disk that can be written.
        fs::create_dir(home.path().join("kubeconfig.new")).unwrap();
        write("10.0.0.1:15014").unwrap();
        assert!(write("10.0.0.2:15014").is_err());
    }

    #[test]
    fn credentials_that_do_not_belong_together_are_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let master = || MasterKey::open_or_make(&home.path().join("master.key")).unwrap();
        let open = || {
            let authority = ApiAuthority::open(home.path(), master(), &[], now).unwrap();
            let (root, admin) =
                (authority.root.lock().pem.clone(), authority.admin.lock().certificate.clone());
            (root, admin)
        };
        let first = open();
        assert_eq!(open(), first);
        // A crash between the two writes: a new key, and the certificate of the one before; or none.
        let key = generate_key().unwrap();
        master().write(&home.path().join("admin.key"), key.serialized_der()).unwrap();
        let second = open();
        assert!(second.0 == first.0 && second.1 != first.1);
        fs::remove_file(home.path().join("admin.pem")).unwrap();
        let third = open();
        assert!(third.0 == first.0 && third.1 != second.1);
        // An administrator of another root is none.
        master().write(&home.path().join("api-root.key"), key.serialized_der()).unwrap();
        let fourth = open();
        assert!(fourth.0 != third.0 && fourth.1 != third.1);
        assert_eq!(open(), fourth);
    }
}
