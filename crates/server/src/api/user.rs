//! Who asks, by the client certificate.

use rustls_pki_types::CertificateDer;

/// The group of those who may do everything; nobody else may do anything.
pub(super) const ADMINISTRATORS: &str = "system:masters";

/// Who asks, as the client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The certificate's common name.
    pub(super) name: String,
    /// Its organizations.
    pub(super) groups: Vec<String>,
}

impl User {
    /// The user of a certificate that TLS has verified.
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
        Some(Self { name, groups: groups.map(str::to_owned).collect() })
    }

    pub(super) fn is_administrator(&self) -> bool {
        self.groups.iter().any(|group| group == ADMINISTRATORS)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

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
            assert_eq!(found.as_ref().map(User::is_administrator), administrator, "{name:?} {group:?}");
            assert_eq!(found.map(|user| user.name).as_deref(), name.filter(|_| administrator.is_some()));
        }
        assert_eq!(User::of_certificate(&CertificateDer::from(b"x".to_vec())), None);
    }
}
