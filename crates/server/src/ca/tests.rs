//! What all authorities have in common, and handshakes with what they sign.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::Issuer;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tulle_identity::{Peers, Svid, fingerprint};
use tulle_model::identity::{SpiffeId, TrustDomain};

use super::api::ApiAuthority;
use super::mesh::MeshAuthority;
use super::seal::MasterKey;
use super::*;
use crate::grpc::tls::{ServerCertificate, tls};

fn mesh(home: &Path, now: SystemTime) -> MeshAuthority {
    let master = MasterKey::open_or_make(&home.join("master.key")).unwrap();
    let domain = TrustDomain::new("mesh.local").unwrap();
    MeshAuthority::open(&home.join("ca"), master, &domain, None, true, now).unwrap()
}

fn api(home: &Path, now: SystemTime) -> ApiAuthority {
    let master = MasterKey::open_or_make(&home.join("master.key")).unwrap();
    ApiAuthority::open(&home.join("api"), master, &["localhost".to_owned()], now).unwrap()
}

fn from_pem(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A self-signed certificate of that name.
fn root(name: &str, now: SystemTime) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = generate_key().unwrap();
    let params = authority_parameters(name, now, YEAR, None, 1);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    (certificate, Issuer::new(params, key))
}

#[test]
fn certificates_live_as_long_as_they_should_and_have_begun_a_while_ago() {
    let home = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let mesh = mesh(home.path(), now);
    let api = api(home.path(), now);
    let (minutes, day) = (5 * 60, 24 * 3600);
    let domain = mesh.trust_domain().clone();
    let key = generate_key().unwrap();
    let issued = |identity| mesh.issue(&identity, &key, now).unwrap();
    let workload = issued(SpiffeId::workload(&domain, "shop", "cart").unwrap());
    let (server, expires) = mesh.server_certificate(now).unwrap();
    let read = |name: &str| from_pem(&home.path().join(name));
    let kubeconfig = home.path().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig, SocketAddr::from(([127, 0, 0, 1], 1)), "tulle", None).unwrap();
    for (name, certificate, before, after) in [
        ("a workload", &workload.chain[0], minutes, 3600),
        ("a node", &issued(SpiffeId::node(&domain, "n1").unwrap()).chain[0], minutes, day),
        ("the server", &server.cert[0], minutes, day),
        ("what signs those", &workload.chain[1], day, 365 * day),
        ("the mesh's root", &workload.roots[0], day, 3650 * day),
        ("the API's root", &read("api/api-root.pem"), day, 3650 * day),
        ("the administrator", &read("api/admin.pem"), day, 365 * day),
    ] {
        let now = i64::try_from(now.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let (from, until) = validity(certificate).unwrap();
        assert_eq!((now - from, until - now), (before, after), "{name}");
    }
    assert_eq!((workload.not_before, workload.not_after), validity(&workload.chain[0]).unwrap());
    assert_eq!(expires, expiry(&server.cert[0]).unwrap());
    // Nothing outlives what signed it.
    let late = now + 365 * DAY - Duration::from_secs(60);
    let last = mesh.issue(&SpiffeId::server(&domain), &key, late).unwrap();
    assert_eq!(expiry(&last.chain[0]), expiry(&workload.chain[1]));
}

#[test]
fn who_a_certificate_is_for_stands_where_its_reader_looks() {
    let home = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let mesh = mesh(home.path(), now);
    let api = api(home.path(), now);
    let _kept = api;
    let identity = SpiffeId::node(mesh.trust_domain(), "n1").unwrap();
    let issued = mesh.issue(&identity, &generate_key().unwrap(), now).unwrap();
    let admin = from_pem(&home.path().join("api/admin.pem"));
    let subject = |der: &CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        (certificate.subject().to_string(), certificate.is_ca())
    };
    for (certificate, name, is_ca) in [
        (&issued.chain[0], "", false),
        (&issued.chain[1], "CN=mesh.local issuing", true),
        (&issued.roots[0], "CN=mesh.local root", true),
        (&admin, "CN=admin, O=system:masters", false),
    ] {
        assert_eq!(subject(certificate), (name.to_owned(), is_ca));
    }
    // The path of a chain is no longer than this mesh's.
    let lengths = [&issued.chain[1], &issued.roots[0]].map(|der| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        certificate.basic_constraints().unwrap().unwrap().value.path_len_constraint
    });
    assert_eq!(lengths, [Some(0), Some(1)]);
}

#[test]
fn serial_numbers_are_positive_and_of_one_length() {
    for _ in 0..64 {
        let serial = parameters("", SystemTime::now(), DAY, None).serial_number.unwrap().to_bytes();
        assert!(serial.len() == 16 && serial[0] & 0xc0 == 0x40, "{serial:?}");
    }
}

#[test]
fn a_certificates_times_are_read_to_the_second() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let begun = 1_800_000_000;
    let mut params = parameters("a", at(begun), DAY, None);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(begun);
    let certificate = params.self_signed(&generate_key().unwrap()).unwrap();
    let (der, end) = (certificate.der(), begun + 24 * 3600);
    assert_eq!(validity(der), Some((begun as i64, end as i64)));
    assert_eq!(expiry(der), Some(at(end)));
    for (now, future) in [(begun - 1, true), (begun, false), (begun + 1, false)] {
        assert_eq!(is_of_the_future(der, at(now)), future, "{now}");
    }
    let rest = Duration::from_secs(60);
    for (now, expires) in [(end - 61, false), (end - 60, false), (end - 59, true), (end + 1, true)] {
        assert_eq!(expires_within(der, at(now), rest), expires, "{now}");
    }
    // What cannot be read is of no time.
    assert_eq!((validity(b"x"), expiry(b"x")), (None, None));
    assert!(is_of_the_future(b"x", at(begun)) && expires_within(b"x", at(begun), rest));
}

#[test]
fn an_issuer_is_known_by_its_name_and_its_key() {
    let now = SystemTime::now();
    let (ours, issuer) = root("a", now);
    let (namesake, _) = root("a", now);
    let key = generate_key().unwrap();
    let leaf = parameters("leaf", now, DAY, None).signed_by(&key, &issuer).unwrap();
    // Another name with the same key.
    let renamed = authority_parameters("b", now, YEAR, None, 1).self_signed(issuer.key()).unwrap();
    for (issuer, expected) in [
        (&ours, true),
        (&namesake, false),
        (renamed.der(), false),
        (leaf.der(), false),
        (&CertificateDer::from(b"x".to_vec()), false),
    ] {
        assert_eq!(signed_by(leaf.der(), issuer), expected);
    }
    assert!(!signed_by(&CertificateDer::from(b"x".to_vec()), &ours));
}

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Who trusts a root.
fn client(
    version: &'static rustls::SupportedProtocolVersion,
    root: &CertificateDer<'static>,
    shows: Option<Credentials>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(tulle_identity::tls::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(tulle_identity::store([root]).unwrap());
    let mut config = match shows {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    config
}

/// Both sides once they have shaken hands, or why they do not.
fn handshake(
    client: Arc<ClientConfig>,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, "localhost".try_into().unwrap())?;
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

fn credentials(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Credentials {
    (chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

#[test]
fn the_api_takes_who_it_has_certified_and_those_who_show_nothing() {
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = SystemTime::now();
    let (api, mesh) = (api(home.path(), now), mesh(home.path(), now));
    let kubeconfig = home.path().join("kubeconfig");
    let admin = |authority: &ApiAuthority| {
        authority
            .write_kubeconfig(&kubeconfig, SocketAddr::from(([127, 0, 0, 1], 1)), "tulle", None)
            .unwrap();
        let text = std::fs::read_to_string(&kubeconfig).unwrap();
        let data = |field: &str| {
            let (_, rest) = text.split_once(field).unwrap();
            STANDARD.decode(rest.lines().next().unwrap().trim()).unwrap()
        };
        let chain = vec![CertificateDer::from_pem_slice(&data("client-certificate-data: ")).unwrap()];
        (chain, PrivateKeyDer::from_pem_slice(&data("client-key-data: ")).unwrap())
    };
    let ours = || admin(&api);
    let root = from_pem(&home.path().join("api/api-root.pem"));
    let other = self::api(elsewhere.path(), now);
    let key = generate_key().unwrap();
    let workload = SpiffeId::workload(mesh.trust_domain(), "a", "b").unwrap();
    let workload = mesh.issue(&workload, &key, now).unwrap().chain;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (name, shows, expected) in [
            ("nothing", None, Some(false)),
            ("the administrator's", Some(ours()), Some(true)),
            ("another server's", Some(admin(&other)), None),
            ("a workload's", Some(credentials(workload.clone(), &key)), None),
        ] {
            let result = handshake(Arc::new(client(version, &root, shows)), api.tls().unwrap());
            let shown = result.ok().map(|(_, server)| server.peer_certificates().is_some());
            assert_eq!(shown, expected, "{name}, {version:?}");
        }
    }
    // Each handshake is a whole one, else the certificate's check would be skipped; HTTP/2 where both can.
    let client = Arc::new(client(&rustls::version::TLS13, &root, Some(ours())));
    for _ in 0..2 {
        let (client, server) = handshake(client.clone(), api.tls().unwrap()).unwrap();
        assert_ne!(client.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[test]
fn the_nodes_port_speaks_tls_13_and_http_2_with_nodes_of_this_mesh() {
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = SystemTime::now();
    let (ours, theirs) = (mesh(home.path(), now), mesh(elsewhere.path(), now));
    let server = || tls(&ours, ServerCertificate::new(&ours, now).unwrap()).unwrap();
    let identity = SpiffeId::node(ours.trust_domain(), "n1").unwrap();
    let key = generate_key().unwrap();
    let node = |authority: &MeshAuthority| {
        let issued = authority.issue(&identity, &key, now).unwrap();
        let (chain, key) = credentials(issued.chain, &key);
        Some(Svid::new(chain, key, authority.roots()).unwrap())
    };
    // Who joins knows the root by its fingerprint alone.
    let client = |shows: Option<Svid>| {
        let servers = Peers::pinned(fingerprint(&ours.roots()[0]));
        Arc::new(tulle_identity::tls::client(servers, shows.as_ref(), Arc::new(DefaultTimeProvider)))
    };
    for (shows, shown) in [(None, false), (node(&ours), true)] {
        let (client, server) = handshake(client(shows), server()).unwrap();
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(server.peer_certificates().is_some(), shown);
        let chain = client.peer_certificates().unwrap();
        assert_eq!(chain.last(), ours.roots().first());
    }
    assert!(handshake(client(node(&theirs)), server()).is_err());
    let old = Arc::new(self::client(&rustls::version::TLS12, &ours.roots()[0], None));
    assert!(matches!(handshake(old, server()), Err(rustls::Error::PeerIncompatible(_))));
}
