//! TLS that nodes originate to the outside.

use std::sync::Arc;

use tulle_model::snapshot::{CertificateName, OriginatedRoots, OriginatedTls, TlsAsker};
use wire::certificate_name::Name;
use wire::originated_tls::Roots;

use super::{ConvertError, Result, error, list, object_name};
use crate::discovery as wire;

impl From<&OriginatedTls> for wire::OriginatedTls {
    fn from(tls: &OriginatedTls) -> Self {
        let OriginatedTls { by, hostname, names, roots } = tls;
        // What a URL asks for is made where the call is.
        let (TlsAsker::Policy(policy) | TlsAsker::Url(policy)) = by;
        let name = |name: &CertificateName| wire::CertificateName {
            name: Some(match name {
                CertificateName::Host(host) => Name::Host(host.to_string()),
                CertificateName::Uri(uri) => Name::Uri(uri.to_string()),
            }),
        };
        let roots = match roots {
            OriginatedRoots::System => Roots::System(wire::SystemRoots {}),
            OriginatedRoots::Given(certificates) => Roots::Given(wire::GivenRoots {
                certificates: certificates.iter().map(|der| der.to_vec().into()).collect(),
            }),
            OriginatedRoots::Nobody { field, why } => {
                Roots::Nobody(wire::NobodyTrusted { field: field.to_string(), why: why.to_string() })
            }
        };
        Self {
            policy_namespace: policy.namespace.to_string(),
            policy_name: policy.name.to_string(),
            hostname: hostname.to_string(),
            names: names.iter().map(name).collect(),
            roots: Some(roots),
        }
    }
}

impl TryFrom<wire::OriginatedTls> for OriginatedTls {
    type Error = ConvertError;

    fn try_from(tls: wire::OriginatedTls) -> Result<Self> {
        let name = |name: wire::CertificateName| match name.name {
            Some(Name::Host(host)) => Ok(CertificateName::Host(host.into())),
            Some(Name::Uri(uri)) => Ok(CertificateName::Uri(uri.into())),
            None => Err(error("", "is of no sort that this node knows")),
        };
        let roots = match tls.roots {
            Some(Roots::System(_)) => OriginatedRoots::System,
            Some(Roots::Given(given)) => {
                OriginatedRoots::Given(given.certificates.iter().map(|der| Arc::from(&der[..])).collect())
            }
            Some(Roots::Nobody(wire::NobodyTrusted { field, why })) => {
                OriginatedRoots::Nobody { field: field.into(), why: why.into() }
            }
            None => return Err(error("roots", "are none that this node knows: it would trust anybody")),
        };
        Ok(Self {
            by: TlsAsker::Policy(object_name("policy_", tls.policy_namespace, tls.policy_name)?),
            hostname: tls.hostname.into(),
            names: list("names", tls.names, name)?,
            roots,
        })
    }
}
