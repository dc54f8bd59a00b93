//! The mesh's authority: a root and an issuing intermediate for one trust domain, and the
//! certificates of nodes, workloads and servers (X.509-SVID standard).
//!
//! States of the intermediate: *current*; *due*, when less than a third of a year is left of it and another
//! one would live longer, or its life has not begun (the clock was set back): a new one is made under the
//! same root, and what it signs from then on carries it along, so nobody has to be told. *Last*: it ends
//! with its root, or is the user's own, and there is no root key here: it cannot be renewed, and the server
//! warns instead, once a day.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime,
};
use tulle_identity::{Expected, Peers, Roots, Use, fingerprint, validity};
use tulle_model::clock::verification_time;
use tulle_model::identity::{SpiffeId, Subject, TrustDomain};
use tulle_model::stamp::Stamp;

use super::kept::{
    bind_domain, check_authority, kept_intermediate, new_intermediate, own_root, read_certificates, read_key,
    self_signed,
};
use super::seal::{MasterKey, hex};
use super::{CaError, DAY, YEAR, expiry, generate_key, is_of_the_future, parameters, since_epoch};

/// How long a workload's certificate lives.
pub const WORKLOAD_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a node's or a server's certificate lives.
pub const NODE_LIFETIME: Duration = DAY;
pub(super) const INTERMEDIATE_LIFETIME: Duration = YEAR;
/// How much longer a new intermediate must live to be made: one that ends with its root is due from its
/// birth, and so is the next.
const WORTH_RENEWING: Duration = DAY;
/// The server warns when less than this is left of what signs, and nothing can be done about it here.
const WARN_BEFORE: Duration = DAY.saturating_mul(30);
/// A signing request holds a public key and a signature; this is plenty.
const CSR_LIMIT: usize = 16 * 1024;

/// An authority of the user's own, in PEM files.
#[derive(Debug, Clone)]
pub struct AuthorityFiles {
    /// The issuing certificate, and after it those that lead to the root. A root may be given
    /// instead (a single certificate that signed itself): an intermediate is then made under it.
    pub certificate: PathBuf,
    /// The private key of the first certificate (PKCS#8, or SEC 1).
    pub key: PathBuf,
    /// The roots to trust, when `certificate` is an intermediate.
    pub roots: Option<PathBuf>,
}

/// A signed certificate, with all that its owner needs.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub roots: Vec<CertificateDer<'static>>,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
}

/// Signs the certificates of one trust domain.
pub struct MeshAuthority {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    issuer: ArcSwap<Intermediate>,
    renewal: Renewal,
    issued: AtomicU64,
    /// When the server last warned that what signs runs out.
    warned: Mutex<Option<SystemTime>>,
}

/// What signs leaves.
pub(super) struct Intermediate {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// The issuing certificate and what leads from it to the root, without the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) expires: SystemTime,
}

impl Intermediate {
    /// Whether another one is to be made, under a root that ends at `limit`.
    fn is_due(&self, now: SystemTime, limit: SystemTime) -> bool {
        let next = limit.min(now + INTERMEDIATE_LIFETIME);
        self.expires <= now + INTERMEDIATE_LIFETIME / 3 && next >= self.expires + WORTH_RENEWING
            || self.chain.first().is_some_and(|own| is_of_the_future(own, now))
    }
}

/// Where the next intermediate comes from.
enum Renewal {
    /// From this root, into that folder.
    Root { root: Box<Issuer<'static, KeyPair>>, expires: SystemTime, dir: PathBuf, master: MasterKey },
    /// From the user.
    Foreign,
}

impl MeshAuthority {
    /// Opens the authority kept in `dir`; a `new` mesh's is made there. The trust domain cannot change
    /// later.
    pub fn open(
        dir: &Path,
        master: MasterKey,
        domain: &TrustDomain,
        files: Option<&AuthorityFiles>,
        new: bool,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        bind_domain(dir, domain, new)?;
        let Some(files) = files else {
            let (certificate, key) = own_root(dir, &master, domain, new, now)?;
            return Self::under_root(dir, master, domain, certificate, key, now);
        };
        let chain = read_certificates(&files.certificate)?;
        let key = read_key(&files.key)?;
        check_authority(&files.certificate, &chain[0], &key, now)?;
        if self_signed(&chain[0]) {
            let authority = Self::under_root(dir, master, domain, chain[0].clone(), key, now)?;
            return authority.checked(&files.certificate, now);
        }
        let roots = match &files.roots {
            Some(path) => read_certificates(path)?,
            None => {
                return Err(CaError::Content {
                    path: files.certificate.clone(),
                    problem: "is an intermediate: the file with the roots to trust must be named too"
                        .to_owned(),
                });
            }
        };
        let expires = expiry(&chain[0]).unwrap_or(now);
        let issuer = Issuer::from_ca_cert_der(&chain[0], key)?;
        let chain = chain.into_iter().filter(|c| !self_signed(c)).collect();
        let authority = Self {
            domain: domain.clone(),
            roots,
            issuer: ArcSwap::from_pointee(Intermediate { issuer, chain, expires }),
            renewal: Renewal::Foreign,
            issued: AtomicU64::new(0),
            warned: Mutex::default(),
        };
        authority.checked(&files.certificate, now)
    }

    /// Checks that nodes will take what is signed with a user's own files, and puts the root that it leads to before the
    /// others: a node that joins knows that one alone.
    fn checked(mut self, path: &Path, now: SystemTime) -> Result<Self, CaError> {
        let chain = self.trial(now)?;
        let mut problem = None;
        let leads = |root: &CertificateDer<'_>| match leads_to(&chain, root, &self.domain, now) {
            Ok(()) => true,
            Err(error) => {
                problem.get_or_insert(error);
                false
            }
        };
        let Some(index) = self.roots.iter().position(leads) else {
            let why = problem.map(|error| error.to_string()).unwrap_or_default();
            return Err(CaError::Content {
                path: path.to_owned(),
                problem: format!(
                    "nodes would refuse what it signs, as that leads to none of the roots to trust ({why}): name the \
                     root that it is under, and add the certificates between the two to this file"
                ),
            });
        };
        self.roots[..=index].rotate_right(1);
        Ok(self)
    }

    /// A certificate like a server's, with what leads from it to the root, good for as long as that is.
    fn trial(&self, now: SystemTime) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let intermediate = self.issuer.load();
        let identity = SpiffeId::server(&self.domain);
        let any_time = CertificateParams::default();
        let mut params = leaf_parameters(&identity, now, NODE_LIFETIME, intermediate.expires)?;
        (params.not_before, params.not_after) = (any_time.not_before, any_time.not_after);
        let certificate = params.signed_by(&generate_key()?, &intermediate.issuer)?;
        Ok([certificate.der()].into_iter().chain(&intermediate.chain).cloned().collect())
    }

    fn under_root(
        dir: &Path,
        master: MasterKey,
        domain: &TrustDomain,
        root: CertificateDer<'static>,
        key: KeyPair,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let expires = expiry(&root).unwrap_or(now);
        let root_issuer = Issuer::from_ca_cert_der(&root, key)?;
        // The root can make another one at any time.
        let kept = kept_intermediate(dir, &master, &root, now).unwrap_or_else(|error| {
            tracing::warn!(%error, "the issuing certificate of the mesh is made anew");
            None
        });
        let intermediate = match kept {
            Some(kept) if !kept.is_due(now, expires) => kept,
            _ => new_intermediate(dir, &master, domain, &root_issuer, expires, now)?,
        };
        Ok(Self {
            domain: domain.clone(),
            roots: vec![root],
            issuer: ArcSwap::from_pointee(intermediate),
            renewal: Renewal::Root { root: Box::new(root_issuer), expires, dir: dir.to_owned(), master },
            issued: AtomicU64::new(0),
            warned: Mutex::default(),
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots to trust, the one that certificates are issued under first.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The SHA-256 of the root that certificates are issued under, in hexadecimal digits: by it a joining node knows the
    /// server.
    pub fn root_fingerprint(&self) -> String {
        hex(&fingerprint(&self.roots[0]))
    }

    /// The same of all roots that are trusted.
    pub fn root_fingerprints(&self) -> Vec<String> {
        self.roots.iter().map(|root| hex(&fingerprint(root))).collect()
    }

    /// How many certificates were signed since the start.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Makes a new intermediate when the present one is due, and warns where none can be made. Call it now
    /// and then.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<(), CaError> {
        if let Renewal::Root { root, expires, dir, master } = &self.renewal
            && self.issuer.load().is_due(now, *expires)
        {
            let next = new_intermediate(dir, master, &self.domain, root, *expires, now)?;
            self.issuer.store(next.into());
            tracing::info!("made a new issuing intermediate for the mesh's certificates");
        }
        if let Some(days) = self.warning(now) {
            let what = match &self.renewal {
                Renewal::Root { .. } => "the root that certificates are issued under",
                Renewal::Foreign => "the issuing certificate that was given",
            };
            tracing::warn!(
                days,
                "{what} runs out, and the mesh's certificates with it; replace its files and restart the server"
            );
        }
        Ok(())
    }

    /// How many days are left of what signs, where it is time to warn of that; once a day.
    fn warning(&self, now: SystemTime) -> Option<u64> {
        let left = self.issuer.load().expires.duration_since(now).unwrap_or_default();
        let mut warned = self.warned.lock();
        // After a clock that was set back the time since is not known.
        let lately = warned.and_then(|at| now.duration_since(at).ok()).is_some_and(|since| since < DAY);
        if left >= WARN_BEFORE || lately {
            return None;
        }
        *warned = Some(now);
        Some(left.as_secs() / DAY.as_secs())
    }

    /// When a node's or a server's certificate would expire that is issued now.
    pub fn next_expiry(&self, now: SystemTime) -> SystemTime {
        self.issuer.load().expires.min(now + NODE_LIFETIME)
    }

    /// Signs the public key of a request (PKCS#10, DER) for `identity`, of the node with that stamp. Nothing else of the
    /// request is used; whether the requester may have the identity, the caller has checked.
    pub fn sign(
        &self,
        identity: &SpiffeId,
        stamp: Stamp,
        csr: &[u8],
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        if csr.len() > CSR_LIMIT {
            return Err(CaError::Request(format!("the signing request has more than {CSR_LIMIT} bytes")));
        }
        // Reading checks that the request is signed with the key that it carries.
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(|e| CaError::Request(format!("the signing request (PKCS#10, DER) is not valid: {e}")))?;
        let algorithm = request.public_key.algorithm();
        let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !accepted.contains(&algorithm) {
            return Err(CaError::Request(
                "the key of the signing request must be ECDSA P-256, ECDSA P-384 or Ed25519".to_owned(),
            ));
        }
        self.certify(identity, &request.public_key, Some(stamp), now)
    }

    /// Signs a key of the server's own.
    pub fn issue(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        self.certify(identity, key, None, now)
    }

    fn certify(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        stamp: Option<Stamp>,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        if identity.trust_domain() != self.domain {
            return Err(CaError::Request(format!(
                "`{identity}` is of another trust domain than this mesh, which is `{}`",
                self.domain
            )));
        }
        let lifetime = match identity.subject() {
            Subject::Workload { .. } => WORKLOAD_LIFETIME,
            Subject::Node(_) | Subject::Server => NODE_LIFETIME,
        };
        let intermediate = self.issuer.load();
        if intermediate.expires <= now {
            return Err(CaError::Request("the server's issuing certificate has expired".to_owned()));
        }
        let mut params = leaf_parameters(identity, now, lifetime, intermediate.expires)?;
        if let Some(stamp) = stamp {
            params.serial_number = Some(SerialNumber::from_slice(&stamp.serial(rand::random())));
        }
        let certificate = params.signed_by(key, &intermediate.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(intermediate.chain.iter().cloned());
        self.issued.fetch_add(1, Ordering::Relaxed);
        Ok(Issued {
            chain,
            roots: self.roots.clone(),
            not_before: params.not_before.unix_timestamp(),
            not_after: params.not_after.unix_timestamp(),
        })
    }

    /// A fresh key and certificate for the server itself. The chain ends with the root: a joining
    /// node knows nothing but its fingerprint.
    pub fn server_certificate(
        &self,
        now: SystemTime,
    ) -> Result<(rustls::sign::CertifiedKey, SystemTime), CaError> {
        let key = generate_key()?;
        let issued = self.issue(&SpiffeId::server(&self.domain), &key, now)?;
        let expires = expiry(&issued.chain[0]).unwrap_or(now);
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let private = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private)
            .map_err(|e| CaError::Tls(e.to_string()))?;
        // A node that joins knows the root by its fingerprint alone, so the server shows it.
        let chain = issued.chain.into_iter().chain(self.roots.iter().cloned()).collect();
        Ok((rustls::sign::CertifiedKey::new(chain, private), expires))
    }
}

/// Whether a peer that trusts that root takes a chain, leaf first, from servers and clients. As everywhere in the mesh, the
/// beginning of a certificate is not held against it.
fn leads_to(
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let begun = |time, der: &CertificateDer<'_>| verification_time(time, validity(der).map(|(from, _)| from));
    let time =
        UnixTime::since_unix_epoch(Duration::from_secs(chain.iter().fold(since_epoch(now).as_secs(), begun)));
    let roots = Roots::new([root]).map_err(|error| rustls::Error::General(error.to_string()))?;
    let peers = Peers::of(roots, domain.clone(), Expected::Server);
    peers.check(Use::Server, &chain[0], &chain[1..], time)?;
    peers.check(Use::Client, &chain[0], &chain[1..], time)
}

/// X.509-SVID standard, sections 2 and 4: one URI, no authority, digital signatures only.
fn leaf_parameters(
    identity: &SpiffeId,
    now: SystemTime,
    lifetime: Duration,
    limit: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = parameters("", now, lifetime, Some(limit));
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::CertificateParams;
    use rustls::server::danger::ClientCertVerifier;
    use tulle_identity::Users;

    use super::*;
    use crate::ca::authority_parameters;
    use crate::grpc::tls::ServerCertificate;

    struct Fixture {
        home: tempfile::TempDir,
        domain: TrustDomain,
    }

    impl Fixture {
        fn new() -> Self {
            Self { home: tempfile::tempdir().unwrap(), domain: TrustDomain::new("mesh.local").unwrap() }
        }

        fn open(&self, files: Option<&AuthorityFiles>, now: SystemTime) -> Result<MeshAuthority, CaError> {
            let master = MasterKey::open_or_make(&self.home.path().join("master.key")).unwrap();
            MeshAuthority::open(&self.home.path().join("ca"), master, &self.domain, files, true, now)
        }

        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.home.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    fn workload(domain: &TrustDomain) -> SpiffeId {
        SpiffeId::workload(domain, "shop", "cart").unwrap()
    }

    /// Checks the chain as a peer would, at `now`.
    fn verify(issued: &Issued, now: SystemTime) -> Result<(), rustls::Error> {
        let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let strict = Users::of(Roots::new(&issued.roots).unwrap());
        strict.verify_client_cert(&issued.chain[0], &issued.chain[1..], time).map(drop)
    }

    #[test]
    fn what_is_signed_verifies_for_its_hour() {
        let fixture = Fixture::new();
        let now = SystemTime::now();
        let authority = fixture.open(None, now).unwrap();
        let key = generate_key().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let issued = authority.sign(&workload(&fixture.domain), Stamp(7), csr.der(), now).unwrap();
        assert_eq!(tulle_identity::Certificate::read(&issued.chain[0]).unwrap().stamp, Some(Stamp(7)));
        verify(&issued, now).unwrap();
        verify(&issued, now + Duration::from_secs(3590)).unwrap();
        assert!(verify(&issued, now + Duration::from_secs(3601)).is_err());
        verify(&issued, now - Duration::from_secs(290)).unwrap();
        assert!(verify(&issued, now - Duration::from_secs(310)).is_err());

        let foreign = TrustDomain::new("other.local").unwrap();
        assert!(authority.sign(&workload(&foreign), Stamp(7), csr.der(), now).is_err());
        let again = fixture.open(None, now).unwrap();
        assert_eq!(again.root_fingerprint(), authority.root_fingerprint());
        assert_eq!(again.issuer.load().chain, authority.issuer.load().chain);
    }

    #[test]
    fn the_intermediate_is_replaced_before_it_runs_out() {
        let fixture = Fixture::new();
        let now = SystemTime::now();
        let authority = fixture.open(None, now).unwrap();
        let chain = |a: &MeshAuthority| a.issuer.load().chain.clone();
        let first = chain(&authority);
        authority.renew_if_due(now + YEAR / 2).unwrap();
        assert_eq!(chain(&authority), first);
        let late = now + YEAR * 3 / 4;
        authority.renew_if_due(late).unwrap();
        assert_ne!(chain(&authority), first);
        let key = generate_key().unwrap();
        verify(&authority.issue(&workload(&fixture.domain), &key, late).unwrap(), late).unwrap();
        // It was kept.
        assert_eq!(chain(&fixture.open(None, late).unwrap()), chain(&authority));
    }

    #[test]
    fn an_authority_that_leads_to_no_root_is_refused_and_the_root_that_it_leads_to_comes_first() {
        let now = SystemTime::now();
        let root = |name: &str| {
            let key = generate_key().unwrap();
            (authority_parameters(name, now, YEAR, None, 2).self_signed(&key).unwrap(), key)
        };
        let under = |name: &str, issuer: (&rcgen::Certificate, &KeyPair), begins: SystemTime, length| {
            let key = generate_key().unwrap();
            let issuer = Issuer::from_ca_cert_der(issuer.0.der(), issuer.1).unwrap();
            (authority_parameters(name, begins, YEAR, None, length).signed_by(&key, &issuer).unwrap(), key)
        };
        let ((ours, ours_key), (theirs, _)) = (root("our root"), root("their root"));
        let (upper, upper_key) = under("upper", (&ours, &ours_key), now, 1);
        let (issuing, key) = under("issuing", (&upper, &upper_key), now, 0);
        // It may sign leaves only, and an intermediate is signed by it.
        let (last, last_key) = under("last", (&issuing, &key), now, 0);
        let (later, later_key) = under("later", (&ours, &ours_key), now + 10 * DAY, 0);
        let whole = issuing.pem() + &upper.pem();
        let fingerprint = |root: &rcgen::Certificate| hex(&fingerprint(root.der()));
        let too_long = last.pem() + &whole;
        let key = &key;
        for (chain, key, roots, expected) in [
            (&whole, key, vec![&ours], Some(vec![&ours])),
            (&whole, key, vec![&theirs, &ours], Some(vec![&ours, &theirs])),
            (
                &whole,
                key,
                vec![&theirs, &theirs, &ours, &theirs],
                Some(vec![&ours, &theirs, &theirs, &theirs]),
            ),
            (&whole, key, vec![&theirs], None),
            (&issuing.pem(), key, vec![&ours], None),
            (&too_long, &last_key, vec![&ours], None),
            // The clock was set back: it may be right again tomorrow.
            (&later.pem(), &later_key, vec![&ours], Some(vec![&ours])),
        ] {
            let fixture = Fixture::new();
            let files = AuthorityFiles {
                certificate: fixture.write("given.pem", chain),
                key: fixture.write("given.key", &key.serialize_pem()),
                roots: Some(
                    fixture.write("roots.pem", &roots.iter().map(|root| root.pem()).collect::<String>()),
                ),
            };
            match (fixture.open(Some(&files), now), expected) {
                (Ok(authority), Some(expected)) => {
                    let expected: Vec<_> = expected.into_iter().map(fingerprint).collect();
                    assert_eq!(authority.root_fingerprints(), expected);
                    assert_eq!(authority.root_fingerprint(), expected[0]);
                    assert_eq!(authority.issued(), 0);
                }
                (Err(error), None) => {
                    let error = error.to_string();
                    assert!(error.contains("given.pem: nodes would refuse what it signs"), "{error}");
                }
                (found, expected) => panic!("{:?} instead of {:?}", found.err(), expected.is_some()),
            }
        }
    }

    #[test]
    fn an_intermediate_that_became_due_while_the_server_was_off_is_replaced() {
        let fixture = Fixture::new();
        let now = SystemTime::now();
        let chain = |now| fixture.open(None, now).unwrap().issuer.load().chain.clone();
        let first = chain(now);
        assert_eq!(chain(now + YEAR / 2), first);
        assert_ne!(chain(now + YEAR * 3 / 4), first);
    }

    #[test]
    fn what_cannot_be_renewed_is_warned_of_once_a_day() {
        let now = SystemTime::now();
        let key = generate_key().unwrap();
        let root = authority_parameters("their root", now, 40 * DAY, None, 1).self_signed(&key).unwrap();
        let fixture = Fixture::new();
        let files = AuthorityFiles {
            certificate: fixture.write("root.pem", &root.pem()),
            key: fixture.write("root.key", &key.serialize_pem()),
            roots: None,
        };
        let authority = fixture.open(Some(&files), now).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let end = authority.issuer.load().expires;
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let begin = end - 30 * day;
        for (now, days) in [
            (begin, None),
            (begin + second, Some(29)),
            (begin + day, None),
            (begin + day + second, Some(28)),
            // The clock was set back: since when is not known.
            (begin + day - hour, Some(29)),
            (end + day, Some(0)),
        ] {
            assert_eq!(authority.warning(now), days, "{:?}", now.duration_since(begin));
        }
    }

    #[test]
    fn only_keys_that_are_strong_and_the_askers_own_are_signed() {
        let fixture = Fixture::new();
        let now = SystemTime::now();
        let authority = fixture.open(None, now).unwrap();
        let sign = |csr: &[u8]| {
            let signed = authority.sign(&workload(&fixture.domain), Stamp(7), csr, now);
            signed.map(drop).map_err(|error| error.to_string())
        };
        let csr = |algorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
        };
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            assert_eq!(sign(&csr(algorithm)), Ok(()), "{algorithm:?}");
        }
        let refused = |csr: &[u8], why: &str| {
            let found = sign(csr);
            assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{why}: {found:?}");
        };
        refused(&csr(&rcgen::PKCS_RSA_SHA256), "must be ECDSA P-256");
        // Somebody else's key, and a signature that is not by it.
        let mut forged = csr(&rcgen::PKCS_ED25519);
        *forged.last_mut().unwrap() ^= 1;
        refused(&forged, "is not valid");
        refused(&[0; 16 * 1024], "is not valid");
        refused(&[0; 16 * 1024 + 1], "more than 16384 bytes");
        assert_eq!(authority.issued(), 3);
    }

    #[test]
    fn roots_that_are_given_with_an_intermediate_are_not_shown_as_part_of_its_chain() {
        let now = SystemTime::now();
        let (root_key, key) = (generate_key().unwrap(), generate_key().unwrap());
        let root = authority_parameters("their root", now, YEAR, None, 1).self_signed(&root_key).unwrap();
        let issuer = Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
        let middle =
            authority_parameters("their issuing", now, YEAR, None, 0).signed_by(&key, &issuer).unwrap();
        let fixture = Fixture::new();
        let files = AuthorityFiles {
            certificate: fixture.write("chain.pem", &(middle.pem() + &root.pem())),
            key: fixture.write("chain.key", &key.serialize_pem()),
            roots: Some(fixture.write("root.pem", &root.pem())),
        };
        let authority = fixture.open(Some(&files), now).unwrap();
        let issued = authority.issue(&workload(&fixture.domain), &key, now).unwrap();
        assert_eq!(issued.chain[1..], [middle.der().clone()]);
        let fingerprint = hex(&fingerprint(root.der()));
        assert_eq!(authority.root_fingerprint(), fingerprint);
        assert_eq!(authority.root_fingerprints(), [fingerprint]);
        let late = now + YEAR + DAY;
        let error = authority.issue(&workload(&fixture.domain), &key, late).unwrap_err().to_string();
        assert!(error.contains("has expired"), "{error}");
    }

    #[test]
    fn an_intermediate_of_the_future_is_replaced_when_the_clock_is_set_back() {
        let fixture = Fixture::new();
        let now = SystemTime::now();
        let (later, key) = (now + 400 * DAY, generate_key().unwrap());
        let authority = fixture.open(None, now).unwrap();
        authority.renew_if_due(later).unwrap();
        assert!(verify(&authority.issue(&workload(&fixture.domain), &key, now).unwrap(), now).is_err());
        authority.renew_if_due(now).unwrap();
        verify(&authority.issue(&workload(&fixture.domain), &key, now).unwrap(), now).unwrap();
        // Two hours are no reason: authorities are dated back by a day.
        let kept = authority.issuer.load().chain.clone();
        authority.renew_if_due(now - DAY / 12).unwrap();
        assert_eq!(authority.issuer.load().chain, kept);
    }

    /// Every minute of a day from `now` on, what the server's upkeep does; how many intermediates and
    /// server's certificates are made, and how often it warns.
    fn a_day(authority: &MeshAuthority, server: &ServerCertificate, now: SystemTime) -> (usize, u64, usize) {
        let (mut intermediates, mut warnings) = (0, 0);
        let before = authority.issued();
        for minute in 0..1440 {
            let now = now + Duration::from_secs(60) * minute;
            let chain = authority.issuer.load().chain.clone();
            let warned = *authority.warned.lock();
            authority.renew_if_due(now).unwrap();
            server.renew_if_due(authority, now).unwrap();
            intermediates += usize::from(authority.issuer.load().chain != chain);
            warnings += usize::from(*authority.warned.lock() != warned);
        }
        (intermediates, authority.issued() - before, warnings)
    }

    #[test]
    fn what_ends_with_its_root_is_not_made_again_and_again() {
        let now = SystemTime::now();
        let hour = DAY / 24;
        // How long the root lives, and when the day begins.
        for (life, start, certificates) in
            [(90 * DAY, now, 1), (6 * hour, now, 0), (2 * hour, now + 3 * hour, 0), (5 * YEAR, now, 1)]
        {
            let key = generate_key().unwrap();
            let root = authority_parameters("their root", now, life, None, 1).self_signed(&key).unwrap();
            let middle_key = generate_key().unwrap();
            let middle = authority_parameters("their issuing", now, life, None, 0)
                .signed_by(&middle_key, &Issuer::from_ca_cert_der(root.der(), &key).unwrap())
                .unwrap();
            for own_root in [true, false] {
                let fixture = Fixture::new();
                let roots = fixture.write("root.pem", &root.pem());
                let (certificate, key) = if own_root { (&root, &key) } else { (&middle, &middle_key) };
                let files = AuthorityFiles {
                    certificate: fixture.write("given.pem", &certificate.pem()),
                    key: fixture.write("given.key", &key.serialize_pem()),
                    roots: (!own_root).then_some(roots),
                };
                let authority = fixture.open(Some(&files), now).unwrap();
                let server = ServerCertificate::new(&authority, now).unwrap();
                let (intermediates, issued, warnings) = a_day(&authority, &server, start);
                assert_eq!(intermediates, 0, "{life:?}");
                assert_eq!(issued, certificates, "{life:?}");
                assert_eq!(warnings, usize::from(life < WARN_BEFORE), "{life:?}");
            }
        }
    }

    #[test]
    fn a_root_or_an_intermediate_of_the_users_own_signs() {
        let now = SystemTime::now();
        let root_key = generate_key().unwrap();
        let root = authority_parameters("their root", now, YEAR, None, 1).self_signed(&root_key).unwrap();
        let root_issuer = Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
        let middle_key = generate_key().unwrap();
        let params = authority_parameters("their issuing", now, YEAR, None, 0);
        let middle = params.signed_by(&middle_key, &root_issuer).unwrap();
        let key = generate_key().unwrap();

        let fixture = Fixture::new();
        let files = AuthorityFiles {
            certificate: fixture.write("root.pem", &root.pem()),
            key: fixture.write("root.key", &root_key.serialize_pem()),
            roots: None,
        };
        let authority = fixture.open(Some(&files), now).unwrap();
        let issued = authority.issue(&workload(&fixture.domain), &key, now).unwrap();
        assert_eq!(issued.roots, [root.der().clone()]);
        verify(&issued, now).unwrap();

        let fixture = Fixture::new();
        let mut files = AuthorityFiles {
            certificate: fixture.write("middle.pem", &middle.pem()),
            key: fixture.write("middle.key", &middle_key.serialize_pem()),
            roots: Some(fixture.write("root.pem", &root.pem())),
        };
        let authority = fixture.open(Some(&files), now).unwrap();
        let issued = authority.issue(&workload(&fixture.domain), &key, now).unwrap();
        assert_eq!(issued.chain[1], *middle.der());
        verify(&issued, now).unwrap();

        let problem = |files: &AuthorityFiles| fixture.open(Some(files), now).err().unwrap().to_string();
        files.roots = None;
        assert!(problem(&files).contains("the roots to trust"), "{}", problem(&files));
        files.key = fixture.write("other.key", &key.serialize_pem());
        assert!(problem(&files).contains("does not belong"), "{}", problem(&files));
        files.key = fixture.home.path().join("missing.key");
        assert!(problem(&files).contains("missing.key"), "{}", problem(&files));
    }

    #[test]
    fn the_trust_domain_cannot_change() {
        let mut fixture = Fixture::new();
        fixture.open(None, SystemTime::now()).unwrap();
        fixture.domain = TrustDomain::new("other.local").unwrap();
        let message = fixture.open(None, SystemTime::now()).err().unwrap().to_string();
        assert!(message.contains("mesh.local"), "{message}");
    }
}
