//! Servers outside of the mesh to which a node originates TLS for a workload (Gateway API, GEP-1897): a chain to a root that a policy
//! names, and one of the names that it does (RFC 9525).

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::verify_tls12_signature;
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tulle_model::snapshot::CertificateName;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::tls::{algorithms, provider, tls13_signature};

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A certificate has none of the names that it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OtherNames {
    /// As a policy writes them.
    expected: Vec<String>,
    shown: Vec<String>,
}

/// How many of the names of a certificate are told.
const MOST_NAMED: usize = 8;

impl fmt::Display for OtherNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |names: &[String]| match names {
            [] => "no name".to_owned(),
            names => names.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", "),
        };
        write!(f, "its certificate is for {}, and not for {}", all(&self.shown), all(&self.expected))
    }
}

/// Checks the certificates of servers of the outside.
#[derive(Debug)]
struct Outsiders {
    roots: Arc<RootCertStore>,
    /// None: the name that is asked for.
    names: Vec<CertificateName>,
}

/// For a node that connects to such servers: by those roots, and with one of those names; where there is none, with that which is asked
/// for. Certificates are held against the time of `clock`. No session is resumed, which would skip the check.
pub fn client(
    roots: Arc<RootCertStore>,
    names: Vec<CertificateName>,
    clock: Arc<dyn TimeProvider>,
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites of both")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Outsiders { roots, names }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

impl Outsiders {
    fn check_names(
        &self,
        parsed: &ParsedCertificate<'_>,
        end_entity: &CertificateDer<'_>,
        asked: &ServerName<'_>,
    ) -> Result<(), Error> {
        let shown = names_of(end_entity)?;
        let found = match &*self.names {
            [] => verify_server_name(parsed, asked).is_ok(),
            names => names.iter().any(|name| is_shown(name, parsed, &shown)),
        };
        if found {
            return Ok(());
        }
        let expected = match &*self.names {
            [] => vec![asked.to_str().into_owned()],
            names => names.iter().map(text).collect(),
        };
        let other = OtherNames { expected, shown: shown.iter().map(text).collect() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))))
    }
}

/// The names of a certificate that are DNS names, in lower case, or URIs.
fn names_of(certificate: &CertificateDer<'_>) -> Result<Vec<CertificateName>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let extensions = parsed.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let names = extensions.flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(CertificateName::Host(name.to_ascii_lowercase().into())),
        GeneralName::URI(uri) => Some(CertificateName::Uri((*uri).into())),
        _ => None,
    });
    Ok(names.collect())
}

/// Whether a certificate, which shows those, has a name.
fn is_shown(name: &CertificateName, parsed: &ParsedCertificate<'_>, shown: &[CertificateName]) -> bool {
    let CertificateName::Host(host) = name else { return shown.contains(name) };
    match host.strip_prefix('*') {
        // Any below: `*.example.com` itself, or one of them.
        Some(below) => shown.iter().any(|shown| {
            matches!(shown, CertificateName::Host(shown) if shown.len() > below.len() && shown.ends_with(below))
        }),
        None => ServerName::try_from(&**host).is_ok_and(|host| verify_server_name(parsed, &host).is_ok()),
    }
}

fn text(name: &CertificateName) -> String {
    match name {
        CertificateName::Host(name) | CertificateName::Uri(name) => name.to_string(),
    }
}

impl ServerCertVerifier for Outsiders {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = algorithms().all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.check_names(&parsed, end_entity, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::time_provider::DefaultTimeProvider;
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::store;

    /// Whether a certificate with these names (a URI has a colon) is taken where those are expected.
    fn takes(shown: &[&str], expected: &[&str]) -> Result<(), String> {
        let san = |name: &&str| match name.contains(':') {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = shown.iter().map(san).collect();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let name = |name: &&str| match name.contains(':') {
            true => CertificateName::Uri((*name).into()),
            false => CertificateName::Host((*name).into()),
        };
        let outsiders =
            Outsiders { roots: RootCertStore::empty().into(), names: expected.iter().map(name).collect() };
        let der = certificate.der();
        let asked = ServerName::try_from("api.example.com").unwrap();
        let parsed = ParsedCertificate::try_from(der).unwrap();
        outsiders.check_names(&parsed, der, &asked).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => other.to_string(),
            other => panic!("{other}"),
        })
    }

    /// By a root, for the name that is asked for, while it lasts.
    #[test]
    fn a_certificate_has_a_chain_to_a_root() {
        let signer = || {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "authority");
            let root = params.self_signed(&key).unwrap().der().clone();
            (Issuer::new(params, key), root)
        };
        let ((own, root), (stranger, _)) = (signer(), signer());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let leaf = |issuer: &Issuer<'_, KeyPair>, name: &str, ends: u64| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_before = at(1_700_000_000).into();
            params.not_after = at(ends).into();
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, issuer).unwrap().der().clone()
        };
        let outsiders = Outsiders { roots: Arc::new(store([&root]).unwrap()), names: Vec::new() };
        let name = "api.example.com";
        let asked = ServerName::try_from(name).unwrap();
        let (good, late) = (1_900_000_000, 1_799_999_999);
        for (certificate, taken) in [
            (leaf(&own, name, good), true),
            (leaf(&own, "other.test", good), false),
            (leaf(&own, name, late), false),
            (leaf(&stranger, name, good), false),
        ] {
            let found = outsiders.verify_server_cert(&certificate, &[], &asked, &[], now);
            assert_eq!(found.is_ok(), taken, "{found:?}");
        }
        assert!(!outsiders.supported_verify_schemes().is_empty());
    }

    /// Whether a handshake in that version ends well with who shows a certificate, and signs with that key.
    fn shakes(
        version: &'static rustls::SupportedProtocolVersion,
        certificate: &rcgen::Certificate,
        key: &KeyPair,
    ) -> bool {
        let roots = Arc::new(store([certificate.der()]).unwrap());
        let client = client(roots, Vec::new(), Arc::new(DefaultTimeProvider));
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        let asked = ServerName::try_from("api.example.com").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), asked).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        for _ in 0..4 {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            server.read_tls(&mut &*sent).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            let mut sent = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut sent).unwrap();
            }
            let mut sent = &*sent;
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
                if client.process_new_packets().is_err() {
                    return false;
                }
            }
        }
        !client.is_handshaking() && !server.is_handshaking()
    }

    /// A certificate is everybody's to show, and nobody else's to sign with.
    #[test]
    fn who_shows_a_certificate_has_its_key() {
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
        let certificate = params.self_signed(&own).unwrap();
        for version in VERSIONS.iter().copied() {
            assert!(shakes(version, &certificate, &own), "{version:?}");
            assert!(!shakes(version, &certificate, &other), "{version:?}");
        }
    }

    #[test]
    fn a_certificate_has_one_of_the_names() {
        for (shown, expected, good) in [
            (&["api.example.com"][..], &[][..], true),
            (&["x.test", "API.example.com"], &[], true),
            (&["*.example.com"], &[], true),
            (&["*.com"], &[], false),
            (&["example.com"], &[], false),
            (&[], &[], false),
            // The name that is asked for is none that is expected then.
            (&["api.example.com"], &["other.test"], false),
            (&["other.test"], &["other.test"], true),
            (&["*.x.test"], &["a.y.test", "b.x.test"], true),
            (&["*.test"], &["a.test"], false),
            (&["a.example.com"], &["*.example.com"], true),
            (&["*.example.com"], &["*.example.com"], true),
            (&["example.com"], &["*.example.com"], false),
            (&["badexample.com"], &["*.example.com"], false),
            (&["spiffe://m/a"], &["spiffe://m/a"], true),
            (&["spiffe://m/A"], &["spiffe://m/a"], false),
            (&["spiffe://m/a", "api.example.com"], &["spiffe://m/b"], false),
        ] {
            assert_eq!(takes(shown, expected).is_ok(), good, "{shown:?} {expected:?}");
        }
        let told = takes(&["a.test", "spiffe://m/a"], &["*.example.com"]).unwrap_err();
        assert_eq!(told, "its certificate is for a.test, spiffe://m/a, and not for *.example.com");
        let told = takes(&[], &[]).unwrap_err();
        assert_eq!(told, "its certificate is for no name, and not for api.example.com");
    }
}
