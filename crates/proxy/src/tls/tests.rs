//! Who is let in and who is not, with certificates made on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType, date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tulle_model::identity::TrustDomain;
use tulle_model::name::WorkloadName;

use super::*;
use crate::state::LocalWorkload;

/// Certificates of these tests are good from 2000 to 2100; these are seconds since the epoch.
const FROM: i64 = 946_684_800;
pub(crate) const UNTIL: i64 = 4_102_444_800;
const NOW: u64 = 1_800_000_000;

pub(crate) struct Authority {
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new(domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { domain: TrustDomain::new(domain).unwrap(), issuer: Issuer::new(params, key), root }
    }

    pub(crate) fn identity(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(&self.domain, "default", account).unwrap()
    }

    fn sign(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2100, 1, 1));
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    fn leaf(&self, identity: &SpiffeId) -> CertificateDer<'static> {
        self.sign(&[identity.as_str()], |_| ()).0
    }

    /// The certificate of a workload that says to end then.
    pub(crate) fn issue(&self, identity: &SpiffeId, not_after: i64) -> Arc<WorkloadCertificate> {
        let (leaf, key) = self.sign(&[identity.as_str()], |_| ());
        Arc::new(WorkloadCertificate {
            identity: identity.clone(),
            chain: vec![leaf],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            roots: vec![self.root.clone()],
            not_after,
        })
    }

    /// Holds peers against this authority's root.
    fn verifier(&self, expected: Option<&SpiffeId>) -> PeerVerifier {
        let own = self.issue(&self.identity("own"), UNTIL);
        let credentials = Credentials::new(own, Arc::default()).unwrap();
        PeerVerifier {
            trust_domain: self.identity("own"),
            roots: credentials.roots,
            expected: expected.cloned(),
            chain: credentials.chain,
        }
    }
}

/// What a verifier says of a peer, as client and as server, which is the same.
fn verdict(verifier: &PeerVerifier, leaf: &CertificateDer<'_>) -> Result<(), TlsFailure> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let name = ServerName::try_from("some.name").unwrap();
    let server = verifier.verify_server_cert(leaf, &[], &name, &[], now).map(drop);
    let client = verifier.verify_client_cert(leaf, &[], now).map(drop);
    let [server, client] = [server, client].map(|found| found.map_err(|error| of(error, None)));
    let kinds = [&server, &client].map(|found| found.as_ref().map_err(|failure| failure.kind));
    assert_eq!(kinds[0], kinds[1], "{server:?} {client:?}");
    server
}

fn of(error: Error, own: Option<&SpiffeId>) -> TlsFailure {
    TlsFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error), own)
}

fn kind<T>(outcome: Result<T, TlsFailure>) -> Handshake {
    outcome.map_or_else(|failure| failure.kind, |_| Handshake::Ok)
}

#[test]
fn a_certificate_says_exactly_one_identity() {
    let ours = Authority::new("mesh.test");
    let id = ours.identity("a");
    assert_eq!(identity_of(&ours.leaf(&id)).unwrap(), id);
    for (names, why) in [
        (&[][..], "no SPIFFE ID"),
        (&[id.as_str(), "spiffe://mesh.test/server"], "more than one URI name"),
        (&["https://mesh.test/ns/default/sa/a"], "it must start with spiffe://"),
    ] {
        let failure = identity_of(&ours.sign(names, |_| ()).0).unwrap_err();
        assert_eq!(failure.kind, Handshake::WrongIdentity);
        assert!(failure.message.contains(why), "{failure}");
    }
    assert_eq!(kind(identity_of(&CertificateDer::from_slice(b"0"))), Handshake::InvalidCertificate);
}

#[test]
fn peers_are_held_against_the_root_the_trust_domain_and_who_is_expected() {
    let [ours, forger, others] = ["mesh.test", "mesh.test", "other.test"].map(Authority::new);
    let (a, b) = (ours.identity("a"), ours.identity("b"));
    let node = SpiffeId::node(&ours.domain, "n1").unwrap();
    let anyone = ours.verifier(None);
    let only_a = ours.verifier(Some(&a));
    for (leaf, with_anyone, with_a) in [
        (ours.leaf(&a), Handshake::Ok, Handshake::Ok),
        (ours.leaf(&b), Handshake::Ok, Handshake::WrongIdentity),
        (ours.leaf(&node), Handshake::WrongIdentity, Handshake::WrongIdentity),
        (ours.leaf(&SpiffeId::server(&ours.domain)), Handshake::WrongIdentity, Handshake::WrongIdentity),
        (ours.sign(&[], |_| ()).0, Handshake::WrongIdentity, Handshake::WrongIdentity),
        // Whoever is nobody of ours is told apart before it is looked at who it says to be.
        (forger.leaf(&a), Handshake::UnknownIssuer, Handshake::UnknownIssuer),
        (forger.leaf(&node), Handshake::UnknownIssuer, Handshake::UnknownIssuer),
        (others.leaf(&others.identity("a")), Handshake::ForeignTrustDomain, Handshake::ForeignTrustDomain),
        // Not even with a certificate of ours.
        (ours.leaf(&others.identity("a")), Handshake::ForeignTrustDomain, Handshake::ForeignTrustDomain),
    ] {
        let claimed = identity_of(&leaf).map_or("nobody".to_owned(), |id| id.to_string());
        assert_eq!(kind(verdict(&anyone, &leaf)), with_anyone, "{claimed}");
        assert_eq!(kind(verdict(&only_a, &leaf)), with_a, "{claimed}");
    }
    assert_eq!(kind(verdict(&ours.verifier(Some(&node)), &ours.leaf(&node))), Handshake::Ok);
    let failure = verdict(&anyone, &forger.leaf(&a)).unwrap_err();
    assert!(failure.message.contains("the certificate says spiffe://mesh.test/ns/default/sa/a"), "{failure}");
}

#[test]
fn a_certificate_is_held_against_its_end_and_not_against_its_beginning() {
    let ours = Authority::new("mesh.test");
    let id = ours.identity("a");
    let verifier = ours.verifier(None);
    let of_years = |from: i32, until: i32| {
        let (leaf, _) = ours.sign(&[id.as_str()], |params| {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        });
        leaf
    };
    assert_eq!(validity(&of_years(2000, 2100)), Some((FROM, UNTIL)));
    assert_eq!(validity(&CertificateDer::from_slice(b"0")), None);
    // It is 2027.
    assert_eq!(kind(verdict(&verifier, &of_years(2090, 2100))), Handshake::Ok);
    let failure = verdict(&verifier, &of_years(2000, 2027)).unwrap_err();
    assert_eq!(failure.kind, Handshake::InvalidCertificate);
    assert!(failure.message.contains("expired"), "{failure}");
    // The alert says so: rustls must know why.
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let error = verifier.verify_client_cert(&of_years(2000, 2027), &[], now).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{error:?}");
}

#[test]
fn a_certificate_that_asks_for_more_than_is_known_is_invalid() {
    let ours = Authority::new("mesh.test");
    let id = ours.identity("a");
    let (leaf, _) = ours.sign(&[id.as_str()], |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    assert_eq!(kind(verdict(&ours.verifier(None), &leaf)), Handshake::InvalidCertificate);
    // What is for servers only opens no link.
    let (leaf, _) = ours.sign(&[id.as_str()], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let failure = of(ours.verifier(None).verify_client_cert(&leaf, &[], now).unwrap_err(), None);
    assert_eq!(failure.kind, Handshake::InvalidCertificate);
    assert!(failure.message.contains("invalid certificate of spiffe://mesh.test"), "{failure}");
}

#[test]
fn failures_say_what_they_are() {
    let ours = Authority::new("mesh.test");
    let own = ours.identity("own");
    let invalid = Error::InvalidCertificate(CertificateError::BadEncoding);
    let other =
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(io::Error::other("?")))));
    for (error, expected, text) in [
        (Error::NoCertificatesPresented, Handshake::NoCertificate, "presented none"),
        (invalid, Handshake::InvalidCertificate, "invalid certificate"),
        (other, Handshake::InvalidCertificate, "invalid certificate: ?"),
        (Error::AlertReceived(AlertDescription::AccessDenied), Handshake::Broken, "AccessDenied"),
        (Error::DecryptError, Handshake::Broken, "TLS handshake failed"),
        (TlsFailure::new(Handshake::Overload, "full").into(), Handshake::Overload, "full"),
    ] {
        let failure = of(error, Some(&own));
        assert_eq!((failure.kind, failure.expired.as_ref()), (expected, None), "{failure}");
        assert!(failure.to_string().contains(text), "{failure}");
    }
    // Only this one is about our own certificate.
    let failure = of(Error::AlertReceived(AlertDescription::CertificateExpired), Some(&own));
    assert_eq!((failure.kind, failure.expired), (Handshake::Broken, Some(own)));
    let failure = TlsFailure::of(&io::ErrorKind::ConnectionReset.into(), None);
    assert_eq!(failure.kind, Handshake::Broken);
    assert!(failure.message.contains("the connection broke"), "{failure}");
}

#[test]
fn aes_128_comes_first_and_tls_1_2_is_not_spoken() {
    assert_eq!(PROVIDER.cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    let ours = Authority::new("mesh.test");
    let verifier = ours.verifier(None);
    // As rustls has it for those that take all that it takes.
    assert!(ClientCertVerifier::supported_verify_schemes(&verifier).contains(&SignatureScheme::ED25519));
    assert!(ServerCertVerifier::supported_verify_schemes(&verifier).contains(&SignatureScheme::ED25519));
    let hints = ClientCertVerifier::root_hint_subjects(&verifier);
    assert!(hints.len() == 1 && !hints[0].as_ref().is_empty());
}

/// What a node runs: a workload for each of these certificates.
fn running(certificates: &[&Arc<WorkloadCertificate>]) -> Arc<NodeState> {
    let mut state = NodeState::default();
    for (number, certificate) in certificates.iter().enumerate() {
        let name = WorkloadName { namespace: "default".into(), name: format!("w-{number}").into() };
        let workload = LocalWorkload {
            name: name.clone(),
            service: "w".into(),
            identity: certificate.identity.clone(),
            app_address: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: Vec::new(),
            certificate: Some((*certificate).clone()),
            draining: false,
        };
        state.workloads.insert(name, Arc::new(workload));
    }
    Arc::new(state)
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Opens a link as the holder of `own` to whoever is `expected` on a node that runs `there`.
async fn link(
    own: &Arc<WorkloadCertificate>,
    expected: &SpiffeId,
    there: &[&Arc<WorkloadCertificate>],
) -> (Result<(), TlsFailure>, Result<Accepted, TlsFailure>) {
    let (near, far) = sockets().await;
    let [client, server] = [(), ()].map(|()| TlsCache::new(Arc::default()));
    let state = running(&[own]);
    // The client's stream is kept until the server has answered.
    let opening = connect(&client, &state, own, expected, near);
    let answering = async { accept(&server, running(there), hello(far).await?).await };
    let (near, far) = tokio::join!(opening, answering);
    (near.map(drop), far)
}

#[tokio::test]
async fn a_link_is_between_those_that_both_sides_mean() {
    let [ours, others] = ["mesh.test", "other.test"].map(Authority::new);
    let (client, server) = (ours.identity("client"), ours.identity("server"));
    let own = ours.issue(&client, UNTIL);
    let [old, new, ever] = [UNTIL - 10, UNTIL - 5, UNTIL + 5].map(|end| ours.issue(&server, end));
    let other = ours.issue(&ours.identity("other"), UNTIL + 20);

    // Of replicas, the certificate that lasts longest answers; the link ends with the first of both.
    let (near, far) = link(&own, &server, &[&old, &new, &other]).await;
    near.unwrap();
    let far = far.unwrap();
    assert_eq!((far.peer, far.expires), (client.clone(), UNTIL - 5));
    assert!(Arc::ptr_eq(&far.certificate, &new));
    let (_, far) = link(&own, &server, &[&ever]).await;
    assert_eq!(far.unwrap().expires, UNTIL, "the client's ends first");

    let (near, far) = link(&own, &server, &[&other]).await;
    assert_eq!(kind(far.map(drop)), Handshake::NoSuchWorkload);
    let near = near.unwrap_err();
    assert!(near.message.contains("UnrecognisedName"), "{near}");

    // It answers to the name, and is another.
    let mut impostor = Arc::into_inner(ours.issue(&ours.identity("other"), UNTIL)).unwrap();
    impostor.identity = server.clone();
    let (near, far) = link(&own, &server, &[&Arc::new(impostor)]).await;
    assert_eq!((kind(near), kind(far.map(drop))), (Handshake::WrongIdentity, Handshake::Broken));

    let mut stranger = Arc::into_inner(others.issue(&others.identity("client"), UNTIL)).unwrap();
    stranger.roots = vec![ours.root.clone()];
    stranger.identity = client;
    let (_, far) = link(&Arc::new(stranger), &server, &[&new]).await;
    assert_eq!(kind(far.map(drop)), Handshake::ForeignTrustDomain);

    let long = SpiffeId::workload(&ours.domain, &"n".repeat(63), &"s".repeat(240)).unwrap();
    let (near, far) = link(&own, &long, &[&new]).await;
    assert_eq!((kind(near), kind(far.map(drop))), (Handshake::WrongIdentity, Handshake::Broken));
}

#[tokio::test]
async fn both_sides_must_speak_http2_and_show_a_certificate() {
    let ours = Authority::new("mesh.test");
    let (client, server) = (ours.identity("client"), ours.identity("server"));
    let (own, theirs) = (ours.issue(&client, UNTIL), ours.issue(&server, UNTIL));
    let there = running(&[&theirs]);
    let cache = TlsCache::new(Arc::default());
    let credentials = cache.credentials(&there, &own).unwrap();
    let name = || ServerName::try_from(server.server_name().unwrap()).unwrap();

    // A server that does not say that it speaks HTTP/2.
    let (near, far) = sockets().await;
    let mut config = (*cache.credentials(&there, &theirs).unwrap().server).clone();
    config.alpn_protocols.clear();
    let answering = async { handshake::hello(far).await?.accept(Arc::new(config)).await };
    let (near, _far) = tokio::join!(connect(&cache, &there, &own, &server, near), answering);
    let failure = near.map(drop).unwrap_err();
    assert!(failure.message.contains("does not speak HTTP/2"), "{failure}");

    // A client that does not ask for it, and one that shows no certificate.
    let mut silent = credentials.client(&server, Arc::default()).unwrap();
    silent.alpn_protocols.clear();
    let mut nobody = credentials.client(&server, Arc::default()).unwrap();
    nobody.client_auth_cert_resolver = Arc::new(NoCertificate);
    for (config, expected, text) in [
        (silent, Handshake::Broken, "does not offer HTTP/2"),
        (nobody, Handshake::NoCertificate, "presented none"),
    ] {
        let (near, far) = sockets().await;
        let answering = async { accept(&cache, there.clone(), hello(far).await?).await };
        let (_near, far) = tokio::join!(handshake::connect(Arc::new(config), name(), near), answering);
        let failure = far.map(drop).unwrap_err();
        assert_eq!(failure.kind, expected);
        assert!(failure.message.contains(text), "{failure}");
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn parsed_certificates_are_kept_while_they_are_in_use() {
    let ours = Authority::new("mesh.test");
    let cache = TlsCache::new(Arc::default());
    let used: Vec<_> = (0..40).map(|n| ours.issue(&ours.identity(&format!("u{n}")), UNTIL)).collect();
    let state = running(&used.iter().collect::<Vec<_>>());
    let first = cache.credentials(&state, &used[0]).unwrap();
    // Twice as many as there are workloads, and then those that are not in use go.
    for _ in 1..80 {
        let gone = ours.issue(&ours.identity("gone"), UNTIL);
        cache.credentials(&state, &gone).unwrap();
    }
    assert_eq!(cache.known.borrow().len(), 80);
    assert!(Rc::ptr_eq(&first, &cache.credentials(&state, &used[0]).unwrap()));
    cache.credentials(&state, &used[1]).unwrap();
    assert_eq!(cache.known.borrow().len(), 2);
    assert!(Rc::ptr_eq(&first, &cache.credentials(&state, &used[0]).unwrap()));
}
