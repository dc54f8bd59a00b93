//! TLS that nodes originate to the outside, as a BackendTLSPolicy says.

use std::sync::Arc;

use crate::name::NamespacedName;

/// What says that something leaves in TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TlsAsker {
    /// A BackendTLSPolicy.
    Policy(NamespacedName),
    /// The URL of a Flow's call, at an endpoint that this ExternalService lists.
    Url(NamespacedName),
}

/// In which TLS something leaves, and whom it has to find at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginatedTls {
    pub by: TlsAsker,
    /// The server that is asked for (SNI: RFC 6066, section 3).
    pub hostname: Arc<str>,
    /// The certificate has to have one of these; where there is none, the name of the server.
    pub names: Vec<CertificateName>,
    pub roots: OriginatedRoots,
}

/// A name that a certificate may have (RFC 5280, section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// In lower case; `*.example.com` is any name below.
    Host(Arc<str>),
    Uri(Arc<str>),
}

/// Who may have signed the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginatedRoots {
    /// Whom the node's host trusts.
    System,
    /// These, in DER.
    Given(Arc<[Arc<[u8]>]>),
    /// Nobody: nothing leaves, for this reason.
    Nobody { field: Arc<str>, why: Arc<str> },
}

impl OriginatedTls {
    /// The field that says which names the certificate has to have.
    pub fn names_field(&self) -> &'static str {
        if self.names.is_empty() { "spec.validation.hostname" } else { "spec.validation.subjectAltNames" }
    }

    /// The field that says who may have signed it.
    pub fn roots_field(&self) -> &str {
        match &self.roots {
            OriginatedRoots::System => "spec.validation.wellKnownCACertificates",
            OriginatedRoots::Given(_) => "spec.validation.caCertificateRefs",
            OriginatedRoots::Nobody { field, .. } => field,
        }
    }
}
