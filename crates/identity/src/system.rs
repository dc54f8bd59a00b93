//! Whom this host trusts: what `SSL_CERT_FILE` and `SSL_CERT_DIR` name, else what its distribution has.

use rustls::RootCertStore;

/// This host trusts nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this host trusts no certificate authority: install some (Debian: ca-certificates), or name a file in SSL_CERT_FILE"
)]
pub struct NoAuthorities;

/// Reads it, which takes a moment of the disk.
///
/// # Errors
/// Where there is none.
pub fn authorities() -> Result<RootCertStore, NoAuthorities> {
    let mut roots = RootCertStore::empty();
    // Those that make no sense are nobody's.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(NoAuthorities) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_is_trusted_or_it_is_said() {
        match authorities() {
            Ok(roots) => assert!(!roots.is_empty()),
            Err(error) => assert!(rustls_native_certs::load_native_certs().certs.is_empty(), "{error}"),
        }
    }
}
