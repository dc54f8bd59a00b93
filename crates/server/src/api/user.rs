//! Who asks: by the client certificate, or by a token (`Authorization: Bearer`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use tulle_model::rbac::{AUTHENTICATED, Asker};

use crate::access::Access;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The certificate's common name, or the token's user.
    pub(super) name: String,
    /// The certificate's organizations or the token's groups, and [`AUTHENTICATED`].
    pub(super) groups: Vec<String>,
    /// Until when it is known.
    expires: Option<SystemTime>,
    /// The id of the token by which it is known.
    token: Option<String>,
}

impl User {
    pub(super) fn new(name: String, groups: Vec<String>, expires: Option<SystemTime>) -> Self {
        let mut groups = groups;
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name, groups, expires, token: None }
    }

    /// The user of a certificate that TLS has verified.
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
        let expires = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(expires))?;
        Some(Self::new(name, groups.map(str::to_owned).collect(), Some(expires)))
    }

    /// The user of the token in a request; none where it has none, or one that is not good.
    pub(super) fn of_token(headers: &HeaderMap, access: &Access, now: SystemTime) -> Option<Self> {
        let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let token = access.user_of_token(token, now)?;
        Some(Self { token: Some(token.id), ..Self::new(token.user, token.groups, None) })
    }

    /// Whether it is still known: a certificate expires while its connection stands, and a token may be revoked.
    pub(super) fn is_good(&self, access: &Access, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
            && self.token.as_ref().is_none_or(|id| access.has_token(id, now))
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker { name: &self.name, groups: &self.groups }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use tulle_model::rbac::ADMINISTRATORS;

    use super::*;

    #[test]
    fn a_user_is_who_the_certificates_subject_says() {
        let user = |name: Option<&str>, group: Option<&str>| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            for (of, value) in [(DnType::CommonName, name), (DnType::OrganizationName, group)] {
                if let Some(value) = value {
                    params.distinguished_name.push(of, value);
                }
            }
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            User::of_certificate(certificate.der())
        };
        for (name, group, administrator) in [
            (Some("admin"), Some(ADMINISTRATORS), Some(true)),
            (Some(ADMINISTRATORS), None, Some(false)),
            (Some("admin"), Some("system:authenticated"), Some(false)),
            (Some("admin"), Some("system:masters2"), Some(false)),
            (None, Some(ADMINISTRATORS), None),
        ] {
            let found = user(name, group);
            assert_eq!(
                found.as_ref().map(|user| user.asker().is_administrator()),
                administrator,
                "{name:?} {group:?}"
            );
            assert_eq!(found.map(|user| user.name).as_deref(), name.filter(|_| administrator.is_some()));
        }
        assert_eq!(User::of_certificate(&CertificateDer::from(b"x".to_vec())), None);
    }
}
