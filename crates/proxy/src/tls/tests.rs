//! Who is let in and who is not, with certificates made on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, SerialNumber, date_time_ymd,
};
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tulle_identity::{Expected, NoIdentity, Svid, tls};
use tulle_model::identity::TrustDomain;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{MeshSettings, Snapshot};
use tulle_model::stamp::UNIQUE;

use super::*;
use crate::clock::MeshClock;
use crate::state::LocalWorkload;

/// When the certificates of these tests end, in seconds since the epoch: in 2100.
pub(crate) const UNTIL: i64 = 4_102_444_800;

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

    /// A certificate with that only URI name, and its key.
    fn sign(
        &self,
        identity: &SpiffeId,
        stamp: Option<Stamp>,
        not_after: i64,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after.try_into().unwrap());
        params.serial_number = stamp.map(|stamp| SerialNumber::from_slice(&stamp.serial([7; UNIQUE])));
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (leaf, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// The certificate of a workload that ends then.
    pub(crate) fn issue(&self, identity: &SpiffeId, not_after: i64) -> Arc<WorkloadCertificate> {
        self.issue_to(None, identity, not_after)
    }

    /// The same, of a node with that stamp.
    pub(crate) fn issue_to(
        &self,
        stamp: Option<Stamp>,
        identity: &SpiffeId,
        not_after: i64,
    ) -> Arc<WorkloadCertificate> {
        let (leaf, key) = self.sign(identity, stamp, not_after);
        let svid = Svid::new(vec![leaf], key, std::slice::from_ref(&self.root)).unwrap();
        Arc::new(WorkloadCertificate::new(svid, Arc::default()))
    }
}

fn of(error: Error, own: Option<&SpiffeId>) -> TlsFailure {
    TlsFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error), own)
}

#[test]
fn a_refusal_is_counted_as_what_it_is() {
    let ours = Authority::new("mesh.test");
    let refusals = [
        (Refusal::from(NoIdentity::None), HandshakeResult::WrongIdentity),
        (Refusal::Unreadable("?".to_owned()), HandshakeResult::InvalidCertificate),
        (Refusal::NotPinned, HandshakeResult::UnknownIssuer),
        (
            Refusal::ForeignTrustDomain { peer: ours.identity("a"), mesh: ours.domain.clone() },
            HandshakeResult::ForeignTrustDomain,
        ),
    ];
    for (refusal, kind) in refusals {
        let failure = of(refusal.clone().into(), Some(&ours.identity("own")));
        assert_eq!((failure.kind, failure.expired), (kind, None));
        assert_eq!(failure.message, refusal.to_string());
    }
}

fn kind<T>(outcome: Result<T, TlsFailure>) -> HandshakeResult {
    outcome.map_or_else(|failure| failure.kind, |_| HandshakeResult::Ok)
}

#[test]
fn failures_say_what_they_are() {
    let ours = Authority::new("mesh.test");
    let own = ours.identity("own");
    let invalid = Error::InvalidCertificate(CertificateError::BadEncoding);
    let other =
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(io::Error::other("?")))));
    for (error, expected, text) in [
        (Error::NoCertificatesPresented, HandshakeResult::NoCertificate, "presented none"),
        (invalid, HandshakeResult::InvalidCertificate, "invalid certificate"),
        (other, HandshakeResult::InvalidCertificate, "invalid certificate: ?"),
        (Error::AlertReceived(AlertDescription::AccessDenied), HandshakeResult::Broken, "AccessDenied"),
        (Error::DecryptError, HandshakeResult::Broken, "TLS handshake failed"),
    ] {
        let failure = of(error, Some(&own));
        assert_eq!((failure.kind, failure.expired.as_ref()), (expected, None), "{failure}");
        assert!(failure.to_string().contains(text), "{failure}");
    }
    // Only this one is about our own certificate.
    let failure = of(Error::AlertReceived(AlertDescription::CertificateExpired), Some(&own));
    assert_eq!((failure.kind, failure.expired), (HandshakeResult::Broken, Some(own)));
    let failure = TlsFailure::of(&io::ErrorKind::ConnectionReset.into(), None);
    assert_eq!(failure.kind, HandshakeResult::Broken);
    assert!(failure.message.contains("the connection broke"), "{failure}");
}

/// What a node runs: a workload for each of these certificates.
fn running(certificates: &[&Arc<WorkloadCertificate>]) -> NodeState {
    let all = certificates.iter().map(|certificate| (certificate.svid().identity(), *certificate));
    running_as(&all.collect::<Vec<_>>())
}

/// The same, of whatever identity.
fn running_as(workloads: &[(&SpiffeId, &Arc<WorkloadCertificate>)]) -> NodeState {
    let mut state = NodeState::default();
    for (number, (identity, certificate)) in workloads.iter().enumerate() {
        let name = WorkloadName { namespace: "default".into(), name: format!("w-{number}").into() };
        let workload = LocalWorkload {
            name: name.clone(),
            service: "w".into(),
            identity: SpiffeId::clone(identity),
            app_address: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: Vec::new(),
            certificate: Some(Arc::clone(certificate)),
            draining: false,
            in_process: None,
            outside: None,
        };
        state.workloads.insert(name, Arc::new(workload));
    }
    state
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Opens a link as the holder of `own` to whoever is `expected` on a node that runs `there`.
async fn link(
    own: &WorkloadCertificate,
    expected: &SpiffeId,
    there: NodeState,
) -> (Result<(), TlsFailure>, Result<Accepted, TlsFailure>) {
    let (near, far) = sockets().await;
    // The client's stream is kept until the server has answered.
    let none = Revoked::default();
    let opening = connect(own, expected, &none, near);
    let answering = async { accept(&there, hello(far).await?).await };
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
    let (near, far) = link(&own, &server, running(&[&old, &new, &other])).await;
    near.unwrap();
    let far = far.unwrap();
    assert_eq!((far.peer, far.expires), (client, UNTIL - 5));
    assert!(Arc::ptr_eq(&far.certificate, &new));
    let (_, far) = link(&own, &server, running(&[&ever])).await;
    assert_eq!(far.unwrap().expires, UNTIL, "the client's ends first");

    let (near, far) = link(&own, &server, running(&[&other])).await;
    assert_eq!(kind(far.map(drop)), HandshakeResult::NoSuchWorkload);
    let near = near.unwrap_err();
    assert_eq!(near.kind, HandshakeResult::NoSuchWorkload);
    assert!(near.message.contains("UnrecognisedName"), "{near}");

    // It answers to the name, and is another.
    let impostor = ours.issue(&ours.identity("other"), UNTIL);
    let (near, far) = link(&own, &server, running_as(&[(&server, &impostor)])).await;
    assert_eq!((kind(near), kind(far.map(drop))), (HandshakeResult::WrongIdentity, HandshakeResult::Broken));

    // One who takes the server, and whom the server does not take.
    let stranger = others.issue(&others.identity("client"), UNTIL);
    let peers = own.svid().peers(Expected::Exactly(server.clone()));
    let mut config = tls::client(peers, Some(stranger.svid()), Arc::<MeshClock>::default());
    config.enable_secret_extraction = true;
    let name = ServerName::try_from(server.server_name().unwrap()).unwrap();
    let (near, far) = sockets().await;
    let there = running(&[&new]);
    let answering = async { accept(&there, hello(far).await?).await };
    let (_near, far) = tokio::join!(handshake::connect(Arc::new(config), name, near), answering);
    assert_eq!(kind(far.map(drop)), HandshakeResult::ForeignTrustDomain);

    let long = SpiffeId::workload(&ours.domain, &"n".repeat(63), &"s".repeat(240)).unwrap();
    let (near, far) = link(&own, &long, running(&[&new])).await;
    assert_eq!((kind(near), kind(far.map(drop))), (HandshakeResult::WrongIdentity, HandshakeResult::Broken));
}

#[tokio::test]
async fn neither_side_takes_a_certificate_of_a_node_that_was_revoked() {
    let ours = Authority::new("mesh.test");
    let (client, server) = (ours.identity("client"), ours.identity("server"));
    let own = ours.issue_to(Some(Stamp(1)), &client, UNTIL);
    let theirs = ours.issue_to(Some(Stamp(2)), &server, UNTIL);
    let list = |stamps: &[u64]| Revoked::of(stamps.iter().copied().map(Stamp));
    for (to_client, to_server, near_result, far_result) in [
        (list(&[]), list(&[]), HandshakeResult::Ok, HandshakeResult::Ok),
        (list(&[1, 3]), list(&[2, 3]), HandshakeResult::Ok, HandshakeResult::Ok),
        (list(&[2]), list(&[]), HandshakeResult::Revoked, HandshakeResult::Ok),
        (list(&[]), list(&[1]), HandshakeResult::Ok, HandshakeResult::Revoked),
    ] {
        let mut there = running(&[&theirs]);
        let mesh = MeshSettings { revoked: to_server.into(), ..MeshSettings::default() };
        there.snapshot = Arc::new(Snapshot { mesh: mesh.into(), ..Snapshot::default() });
        let (near, far) = sockets().await;
        let opening = connect(&own, &server, &to_client, near);
        let answering = async { accept(&there, hello(far).await?).await };
        let (near, far) = tokio::join!(opening, answering);
        for (stamp, own) in
            [(near.as_ref().ok().map(|n| n.stamp), 2), (far.as_ref().ok().map(|f| f.stamp), 1)]
        {
            assert!(stamp.is_none_or(|stamp| stamp == Some(Stamp(own))), "{stamp:?}");
        }
        for failure in [near.as_ref().err(), far.as_ref().err()].into_iter().flatten() {
            assert!(failure.message.contains("the node that it was issued to was revoked"), "{failure}");
        }
        assert_eq!((kind(near), kind(far)), (near_result, far_result));
    }
}

#[tokio::test]
async fn both_sides_must_speak_http2_and_show_a_certificate() {
    let ours = Authority::new("mesh.test");
    let (client, server) = (ours.identity("client"), ours.identity("server"));
    let (own, theirs) = (ours.issue(&client, UNTIL), ours.issue(&server, UNTIL));
    let there = running(&[&theirs]);
    let name = || ServerName::try_from(server.server_name().unwrap()).unwrap();

    // A server that does not say that it speaks HTTP/2.
    let (near, far) = sockets().await;
    let mut config = (*theirs.server()).clone();
    config.alpn_protocols.clear();
    let answering = async { handshake::hello(far).await?.accept(Arc::new(config)).await };
    let none = Revoked::default();
    let (near, _far) = tokio::join!(connect(&own, &server, &none, near), answering);
    let failure = near.map(drop).unwrap_err();
    assert!(failure.message.contains("does not speak HTTP/2"), "{failure}");

    // A client that does not ask for it, and one that shows no certificate.
    let mut silent = own.client(&server);
    silent.alpn_protocols.clear();
    let mut nobody = own.client(&server);
    nobody.client_auth_cert_resolver = Arc::new(NoCertificate);
    for (config, expected, text) in [
        (silent, HandshakeResult::Broken, "does not offer HTTP/2"),
        (nobody, HandshakeResult::NoCertificate, "presented none"),
    ] {
        let (near, far) = sockets().await;
        let answering = async { accept(&there, hello(far).await?).await };
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
