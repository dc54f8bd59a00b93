//! The check of a peer's X.509-SVID (X509-SVID standard, section 5), at both ends of a connection.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tulle_model::identity::{SpiffeId, Subject, TrustDomain};

use crate::certificate::{Certificate, Fingerprint, fingerprint};
use crate::refusal::{Claimed, Refusal};
use crate::roots::{Roots, Use};
use crate::tls::{algorithms, tls13_signature};

/// As whom a peer is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Exactly(SpiffeId),
    Workload,
    Server,
    Anyone,
}

impl Expected {
    fn includes(&self, identity: &SpiffeId) -> bool {
        match self {
            Self::Exactly(expected) => expected == identity,
            Self::Workload => matches!(identity.subject(), Subject::Workload { .. }),
            Self::Server => identity.subject() == Subject::Server,
            Self::Anyone => true,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exactly(identity) => identity.as_str(),
            Self::Workload => "a workload",
            Self::Server => "a server",
            Self::Anyone => "anyone",
        })
    }
}

#[derive(Debug, Clone)]
enum Trust {
    Mesh {
        roots: Roots,
        domain: TrustDomain,
    },
    /// The one root of that fingerprint, which the peer sends along. Of what trust domain it is, is not known.
    Pinned(Fingerprint),
}

/// Takes peers of a mesh, as which they are expected.
#[derive(Debug, Clone)]
pub struct Peers {
    trust: Trust,
    expected: Expected,
    /// Whether a client has to show a certificate.
    mandatory: bool,
    /// Is told who claims a certificate whose life is over: the error that says so has no room for it.
    expired: Option<fn(&Claimed)>,
}

impl Peers {
    /// Peers of a trust domain, by its roots.
    pub fn of(roots: Roots, domain: TrustDomain, expected: Expected) -> Self {
        Self { trust: Trust::Mesh { roots, domain }, expected, mandatory: true, expired: None }
    }

    /// The servers of the mesh of which the root's fingerprint alone is known.
    pub fn pinned(root: Fingerprint) -> Self {
        Self { trust: Trust::Pinned(root), expected: Expected::Server, mandatory: true, expired: None }
    }

    /// Lets clients in that show no certificate.
    pub fn or_nobody(mut self) -> Self {
        self.mandatory = false;
        self
    }

    /// Has `told` called with who claims a certificate that is refused because its life is over, in the handshake's
    /// thread.
    pub fn telling_of_expired(mut self, told: fn(&Claimed)) -> Self {
        self.expired = Some(told);
        self
    }

    /// Whether a peer that shows these is taken at that time. The trust domain is looked at first: a peer of another
    /// mesh fails its chain as well, and this says more. Everybody else is held against what is expected when the
    /// chain is known to be good.
    ///
    /// # Errors
    /// A [`Refusal`], or rustls' own where the certificate's life is over.
    pub fn check(
        &self,
        shown_for: Use,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = Certificate::read(end_entity)?;
        let identity = certificate.identity.as_ref().ok();
        let pinned;
        let roots = match &self.trust {
            Trust::Mesh { roots, domain } => {
                if let Some(peer) = identity.filter(|peer| peer.trust_domain() != *domain) {
                    let (peer, mesh) = (peer.clone(), domain.clone());
                    return Err(Refusal::ForeignTrustDomain { peer, mesh }.into());
                }
                roots
            }
            Trust::Pinned(root) => {
                let root = intermediates.iter().find(|sent| fingerprint(sent) == *root);
                let root = Roots::new([root.ok_or(Refusal::NotPinned)?]);
                pinned = root.map_err(|error| Refusal::Unreadable(error.to_string()))?;
                &pinned
            }
        };
        let claimed = || Claimed(identity.cloned());
        let time = certificate.verification_time(now);
        roots.check(shown_for, end_entity, intermediates, time).map_err(|error| match error {
            // As it is, for the alert that tells the peer: it renews then.
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => {
                if let Some(told) = self.expired {
                    told(&claimed());
                }
                error
            }
            error => Refusal::by_chain(claimed(), &error).into(),
        })?;
        if let Some(problem) = certificate.misuse {
            return Err(Refusal::KeyUsage { claimed: claimed(), problem }.into());
        }
        let identity = certificate.identity.map_err(Refusal::NoIdentity)?;
        if !self.expected.includes(&identity) {
            return Err(Refusal::Unexpected { expected: self.expected.clone(), got: identity }.into());
        }
        Ok(())
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken within the mesh".to_owned()))
}

impl ServerCertVerifier for Peers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(Use::Server, end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
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

impl ClientCertVerifier for Peers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match &self.trust {
            Trust::Mesh { roots, .. } => roots.names(),
            Trust::Pinned(_) => &[],
        }
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(Use::Client, end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
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
