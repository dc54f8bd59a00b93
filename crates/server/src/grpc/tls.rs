//! TLS with nodes: the certificate that the server shows them, and the check of theirs.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::CertificateError;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use tulle_model::clock::verification_time;
use tulle_model::identity::SpiffeId;

use super::refusal::{Reason, Refused};
use crate::ca::clients::{Clients, Verdict};
use crate::ca::mesh::{MeshAuthority, NODE_LIFETIME};
use crate::ca::{CaError, is_of_the_future, validity};

/// How much longer the server's next certificate must live to be made.
const WORTH_RENEWING: Duration = Duration::from_secs(3600);

tokio::task_local! {
    /// Who the peer of a handshake claims to be, where its certificate is refused with an error that has no
    /// room for that.
    pub(super) static CLAIMED: RefCell<Option<String>>;
}

/// The certificate that the server shows to nodes; replaced as it ages.
#[derive(Debug)]
pub struct ServerCertificate {
    current: ArcSwap<(Arc<CertifiedKey>, SystemTime)>,
}

impl ServerCertificate {
    pub fn new(authority: &MeshAuthority, now: SystemTime) -> Result<Arc<Self>, CaError> {
        let (key, expires) = authority.server_certificate(now)?;
        Ok(Arc::new(Self { current: ArcSwap::from_pointee((key.into(), expires)) }))
    }

    /// Replaces the certificate when it is past half of its life and the next one would live longer, or
    /// when its life has not begun: the clock was set back.
    pub fn renew_if_due(&self, authority: &MeshAuthority, now: SystemTime) -> Result<(), CaError> {
        let current = self.current.load();
        let left = current.1.duration_since(now).unwrap_or_default();
        let early = current.0.cert.first().is_some_and(|own| is_of_the_future(own, now));
        // The authority's end bounds both.
        let longer = authority.next_expiry(now) >= current.1 + WORTH_RENEWING;
        if early || left < NODE_LIFETIME / 2 && longer {
            let (key, expires) = authority.server_certificate(now)?;
            self.current.store(Arc::new((key.into(), expires)));
        }
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().0.clone())
    }
}

/// The TLS settings of the nodes' port: TLS 1.3 and HTTP/2 only.
pub fn tls(
    authority: &MeshAuthority,
    certificate: Arc<ServerCertificate>,
) -> Result<rustls::ServerConfig, CaError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trust_domain: Arc<str> = authority.trust_domain().as_str().into();
    let check = move |peer: &CertificateDer<'_>, now, chain: &dyn Fn(UnixTime) -> Verdict| {
        check_peer(peer, &trust_domain, now, chain)
    };
    let verifier = Arc::new(Clients::new(authority.roots(), check)?);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| CaError::Tls(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check of the peer's certificate.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Checks a peer's chain, and says of one that fails who it claims to be.
fn check_peer(
    peer: &CertificateDer<'_>,
    trust_domain: &str,
    now: UnixTime,
    chain: &dyn Fn(UnixTime) -> Verdict,
) -> Verdict {
    // A node that was certified before this host's clock was set back is let in.
    let not_before = validity(peer).map(|(not_before, _)| not_before);
    let seconds = verification_time(now.as_secs(), not_before);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    // The identity first: a peer of another mesh fails the chain as well, and this says more.
    let identity = spiffe_id(peer, trust_domain);
    if let Err(refused) = &identity
        && refused.reason == Reason::ForeignTrustDomain
    {
        return Err(refused.clone().into());
    }
    let checked = chain(now).map_err(|error| {
        let claimed = identity.as_ref().map_or("a peer without a SPIFFE ID", SpiffeId::as_str);
        match error {
            // As it is, for the alert that tells the node.
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => {
                let _ = CLAIMED.try_with(|kept| *kept.borrow_mut() = Some(claimed.to_owned()));
                error
            }
            other => Refused::by_chain(claimed, &other).into(),
        }
    })?;
    identity?;
    Ok(checked)
}

/// The one SPIFFE ID of a certificate (X.509-SVID standard, section 5.2).
pub(super) fn spiffe_id(der: &CertificateDer<'_>, trust_domain: &str) -> Result<SpiffeId, Refused> {
    let wrong = |why: String| Refused::new(Reason::WrongIdentity, format!("wrong identity: {why}"));
    let certificate = webpki::EndEntityCert::try_from(der).map_err(|e| {
        Refused::new(Reason::InvalidCertificate, format!("invalid certificate: it cannot be read: {e}"))
    })?;
    let mut names = certificate.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(wrong("the certificate does not have exactly one URI name".to_owned()));
    };
    let identity: SpiffeId = name.parse().map_err(|e| wrong(format!("{e}")))?;
    if identity.trust_domain().as_str() != trust_domain {
        let message = format!("foreign trust domain: the peer is {identity}, this mesh is {trust_domain}");
        return Err(Refused::new(Reason::ForeignTrustDomain, message));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair, SanType};
    use rustls::server::danger::ClientCertVerified;
    use tulle_model::identity::TrustDomain;

    use super::*;
    use crate::ca::seal::MasterKey;

    fn leaf(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn refused(error: rustls::Error) -> Refused {
        Refused::by_handshake(std::io::Error::other(error), None)
    }

    #[test]
    fn a_peer_that_is_refused_is_refused_for_what_says_most() {
        let good = || Ok(ClientCertVerified::assertion());
        let unknown = || Err(CertificateError::UnknownIssuer.into());
        let revoked = || Err(CertificateError::Revoked.into());
        type Chain = fn() -> Verdict;
        let ours = "spiffe://mesh.local/node/n1";
        for (uris, chain, expected) in [
            (&[ours][..], good as Chain, None),
            (
                &[ours],
                unknown,
                Some((Reason::UnknownIssuer, "the certificate says spiffe://mesh.local/node/n1")),
            ),
            (&[ours], revoked, Some((Reason::InvalidCertificate, "of spiffe://mesh.local/node/n1"))),
            // A chain that is good makes none of these one of us; one of another mesh is told so first.
            (
                &["spiffe://other.local/node/n1"],
                good,
                Some((Reason::ForeignTrustDomain, "this mesh is mesh.local")),
            ),
            (&["spiffe://other.local/node/n1"], unknown, Some((Reason::ForeignTrustDomain, "other.local"))),
            (&[], good, Some((Reason::WrongIdentity, "exactly one URI"))),
            (&[], unknown, Some((Reason::UnknownIssuer, "a peer without a SPIFFE ID"))),
            (&[ours, "spiffe://mesh.local/node/n2"], good, Some((Reason::WrongIdentity, "exactly one URI"))),
            (&["https://mesh.local/node/n1"], good, Some((Reason::WrongIdentity, "wrong identity"))),
        ] {
            let now = UnixTime::now();
            let verdict = check_peer(&leaf(uris), "mesh.local", now, &|_| chain());
            let found = verdict.map(drop).map_err(refused);
            match expected {
                None => assert!(found.is_ok(), "{uris:?}: {found:?}"),
                Some((reason, text)) => {
                    let found = found.expect_err(text);
                    assert_eq!(found.reason, reason, "{uris:?}: {found}");
                    assert!(found.message.contains(text), "{uris:?}: {found}");
                }
            }
        }
        let unreadable =
            check_peer(&CertificateDer::from(b"x".to_vec()), "mesh.local", UnixTime::now(), &|_| good());
        assert_eq!(
            unreadable.map(drop).map_err(|error| refused(error).reason),
            Err(Reason::InvalidCertificate)
        );
    }

    #[test]
    fn a_peer_that_was_certified_before_the_clock_was_set_back_is_let_in() {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![SanType::URI("spiffe://mesh.local/node/n1".try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        let peer = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let begin = 1_767_225_600;
        for (now, checked_at) in [(begin - 3600, begin), (begin, begin), (begin + 1, begin + 1)] {
            let at = std::cell::Cell::new(0);
            let chain = |time: UnixTime| {
                at.set(time.as_secs());
                Ok(ClientCertVerified::assertion())
            };
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            check_peer(peer.der(), "mesh.local", now, &chain).unwrap();
            assert_eq!(at.get(), checked_at);
        }
    }

    #[test]
    fn the_servers_certificate_is_renewed_past_half_of_its_life() {
        let home = tempfile::tempdir().unwrap();
        let master = MasterKey::open_or_make(&home.path().join("master.key")).unwrap();
        let domain = TrustDomain::new("mesh.local").unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority =
            MeshAuthority::open(&home.path().join("ca"), master, &domain, None, true, now).unwrap();
        let half = Duration::from_secs(12 * 3600);
        let second = Duration::from_secs(1);
        for (after, renewed) in [(Duration::ZERO, 0), (half, 0), (half + second, 1), (2 * half + second, 1)] {
            let certificate = ServerCertificate::new(&authority, now).unwrap();
            let before = authority.issued();
            certificate.renew_if_due(&authority, now + after).unwrap();
            assert_eq!(authority.issued() - before, renewed, "{after:?}");
        }
        // Its life has not begun: the clock was set back.
        let certificate = ServerCertificate::new(&authority, now).unwrap();
        let before = authority.issued();
        for _ in 0..2 {
            certificate.renew_if_due(&authority, now - half).unwrap();
        }
        assert_eq!(authority.issued() - before, 1);
    }
}
