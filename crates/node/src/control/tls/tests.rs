use std::io;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use tulle_model::identity::TrustDomain;

use super::*;

/// The first second of 2026, since the epoch.
const BEGIN: u64 = 1_767_225_600;

struct Root {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Good for ever, nearly.
    fn leaf(&self, uris: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.sign(CertificateParams::new(vec!["server".to_owned()]).unwrap(), uris)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        uris: &[&str],
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

fn domain() -> TrustDomain {
    TrustDomain::new("mesh.local").unwrap()
}

fn server() -> String {
    SpiffeId::server(&domain()).to_string()
}

fn verify(
    trust: Trust,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: u64,
) -> Result<(), Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ServerVerifier { trust, provider };
    let name = ServerName::try_from("elsewhere").unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier.verify_server_cert(leaf, others, &name, &[], now).map(drop)
}

fn pinned(root: &Root) -> Trust {
    Trust::Pinned(fingerprint(&root.certificate))
}

fn roots(root: &Root) -> Trust {
    let mut roots = RootCertStore::empty();
    roots.add(root.certificate.clone()).unwrap();
    Trust::Roots { roots, domain: "mesh.local".to_owned() }
}

fn is_refused(result: &Result<(), Error>, by: &str) -> bool {
    result.as_ref().is_err_and(|error| format!("{error:?}").contains(by))
}

#[test]
fn the_server_is_one_of_the_mesh_or_of_the_root_that_the_token_names() {
    let (ours, theirs) = (Root::new(), Root::new());
    let (good, _) = ours.leaf(&[&server()]);
    let sent = [theirs.certificate.clone(), ours.certificate.clone()];
    assert_eq!(verify(pinned(&ours), &good, &sent, BEGIN), Ok(()));
    assert_eq!(verify(roots(&ours), &good, &[], BEGIN), Ok(()));
    // The root was not sent; the token is of another mesh; the root that was sent signed nothing.
    assert!(is_refused(&verify(pinned(&ours), &good, &[], BEGIN), "NotPinned"));
    assert!(is_refused(&verify(pinned(&theirs), &good, &sent[1..], BEGIN), "NotPinned"));
    assert!(is_refused(&verify(pinned(&theirs), &good, &sent, BEGIN), "BadSignature"));
    assert!(is_refused(&verify(roots(&theirs), &good, &sent, BEGIN), "BadSignature"));
}

#[test]
fn only_a_server_of_the_same_trust_domain_is_the_server() {
    let root = Root::new();
    let node = SpiffeId::node(&domain(), "n1").unwrap().to_string();
    let workload = SpiffeId::workload(&domain(), "default", "server").unwrap().to_string();
    let elsewhere = SpiffeId::server(&TrustDomain::new("other.local").unwrap()).to_string();
    let server = server();
    // What it says that it is; whether a node that joins takes it, and one that has joined.
    for (uris, joins, joined) in [
        (&[server.as_str()][..], true, true),
        // The token says nothing of the trust domain.
        (&[&elsewhere], true, false),
        (&[&node], false, false),
        (&[&workload], false, false),
        (&[], false, false),
        (&[&server, &node], false, false),
        (&[&node, &server], false, false),
        (&["https://mesh.local/server"], false, false),
    ] {
        let (leaf, _) = root.leaf(uris);
        let sent = [root.certificate.clone()];
        for (trust, expected) in [(pinned(&root), joins), (roots(&root), joined)] {
            let result = verify(trust, &leaf, &sent, BEGIN);
            let as_expected = if expected { result.is_ok() } else { is_refused(&result, "NoServer") };
            assert!(as_expected, "{uris:?}: {result:?}");
        }
    }
}

#[test]
fn the_servers_certificate_ends_and_may_begin_later_than_now() {
    let root = Root::new();
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 1, 2);
    let (leaf, _) = root.sign(params, &[&server()]);
    let end = BEGIN + 24 * 3600;
    for (now, good) in [(BEGIN - 7200, true), (BEGIN, true), (end, true), (end + 1, false)] {
        assert_eq!(verify(roots(&root), &leaf, &[], now).is_ok(), good, "{now}");
    }
}

#[test]
fn a_certificates_fingerprint_is_its_sha_256() {
    let digits = |bytes: Fingerprint| bytes.map(|byte| format!("{byte:02x}")).concat();
    let of = |bytes: &'static [u8]| digits(fingerprint(&CertificateDer::from(bytes)));
    assert_eq!(of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/// The two sides once they have shaken hands, or why they do not.
fn handshake(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("server").unwrap())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    for _ in 0..10 {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        let mut there = there.as_slice();
        while !there.is_empty() {
            server.read_tls(&mut there).unwrap();
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut back = back.as_slice();
        while !back.is_empty() {
            client.read_tls(&mut back).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// A server of the mesh that would speak anything.
fn lax_server(root: &Root) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut trusted = RootCertStore::empty();
    trusted.add(root.certificate.clone()).unwrap();
    let anyone = WebPkiClientVerifier::builder_with_provider(trusted.into(), provider.clone());
    let (leaf, key) = root.leaf(&[&server()]);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_client_cert_verifier(anyone.allow_unauthenticated().build().unwrap())
        .with_single_cert(vec![leaf, root.certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    config
}

#[test]
fn a_node_speaks_http_2_over_tls_13_and_as_itself_once_it_has_joined() {
    let (root, other) = (Root::new(), Root::new());
    let identity = SpiffeId::node(&domain(), "n1").unwrap();
    let (leaf, key) = root.leaf(&[identity.as_str()]);
    let certificate = WorkloadCertificate {
        identity,
        chain: vec![leaf.clone()],
        key,
        roots: vec![root.certificate.clone()],
        not_after: 0,
    };
    let joins = joining(fingerprint(&root.certificate)).unwrap();
    let joined = joined(&certificate, Arc::default()).unwrap();
    for (client, shown) in [(joins, None), (joined, Some(leaf))] {
        let (client, server) = handshake(client, lax_server(&root)).unwrap();
        assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(server.peer_certificates().map(|chain| chain[0].clone()), shown);
    }
    let joins = joining(fingerprint(&other.certificate)).unwrap();
    assert!(handshake(joins, lax_server(&root)).is_err());
}

#[test]
fn why_a_connection_to_the_server_failed_is_said_in_words() {
    let of = |error: Error| explain(&io::Error::other(error));
    let expired = CertificateError::ExpiredContext {
        time: UnixTime::since_unix_epoch(Duration::from_secs(100)),
        not_after: UnixTime::since_unix_epoch(Duration::from_secs(70)),
    };
    for (text, expected) in [
        (of(Refusal::NoServer.into()), "the server's certificate is refused: it has no SPIFFE ID"),
        (of(Error::InvalidCertificate(expired)), "ended 30s ago by the clock that this host goes by"),
        (of(Error::AlertReceived(AlertDescription::CertificateExpired)), "join again with a new token"),
        (of(Error::HandshakeNotComplete), "handshake not complete"),
        (explain(&io::Error::other("broken pipe")), "broken pipe"),
    ] {
        assert!(text.contains(expected), "{text}");
    }
}
