//! The check of the API's users: by their chain alone. Who they are stands in the subject, as Kubernetes has it, and what
//! they may do the API decides.

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::verify_tls12_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::roots::{Roots, Use};
use crate::tls::{algorithms, tls13_signature};

/// Checks certificates by roots that can be replaced. A user without one is let through, to be told so by the API.
#[derive(Debug)]
pub struct Users {
    roots: ArcSwap<Roots>,
    /// The roots' names, which are those of the next ones, too.
    names: Vec<DistinguishedName>,
}

impl Users {
    pub fn of(roots: Roots) -> Self {
        let names = roots.names().to_vec();
        Self { roots: ArcSwap::from_pointee(roots), names }
    }

    /// Checks by these roots from now on; their names must be those of the ones before.
    pub fn replace(&self, roots: Roots) {
        self.roots.store(roots.into());
    }
}

impl ClientCertVerifier for Users {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.roots.load().check(Use::Client, end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
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
