//! TLS with nodes: the certificate that the server shows them, and the check of theirs.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::DefaultTimeProvider;
use tulle_identity::{Expected, Peers, Roots};

use crate::ca::mesh::{MeshAuthority, NODE_LIFETIME};
use crate::ca::{CaError, is_of_the_future};

/// How much longer the server's next certificate must live to be made.
const WORTH_RENEWING: Duration = Duration::from_secs(3600);

tokio::task_local! {
    /// Who the peer of a handshake claims to be, where its certificate has expired.
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

/// The TLS settings of the nodes' port. Who joins has no certificate yet.
pub fn tls(
    authority: &MeshAuthority,
    certificate: Arc<ServerCertificate>,
) -> Result<rustls::ServerConfig, CaError> {
    let roots = Roots::new(authority.roots())?;
    let nodes = Peers::of(roots, authority.trust_domain().clone(), Expected::Anyone)
        .or_nobody()
        .telling_of_expired(|claimed| {
            let _ = CLAIMED.try_with(|kept| *kept.borrow_mut() = Some(claimed.to_string()));
        });
    Ok(tulle_identity::tls::server(nodes, certificate, Arc::new(DefaultTimeProvider)))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tulle_model::identity::TrustDomain;

    use super::*;
    use crate::ca::seal::MasterKey;

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
