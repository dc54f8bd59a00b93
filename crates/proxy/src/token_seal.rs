//! What nobody but the nodes of the mesh can make or read: the tokens of sessions (Gateway API, GEP-1619).

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tulle_model::routing::session::Held;
use tulle_model::snapshot::SessionKey;

const TAG: usize = 16;
/// How long a token is.
pub(crate) const TOKEN: usize = ((NONCE_LEN + Held::LENGTH + TAG) * 4).div_ceil(3);

/// Seals and opens tokens.
pub(crate) struct TokenSeal(RandomizedNonceKey);

impl TokenSeal {
    /// `None`: the library has no such keys.
    pub fn new(SessionKey(bytes): &SessionKey) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, bytes).ok().map(Self)
    }

    /// A token that says that, for that scope alone; no two are the same. `None`: the library has no random numbers.
    pub fn seal(&self, held: Held, scope: &str) -> Option<String> {
        let mut bytes = held.to_bytes().to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(scope), &mut bytes).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// What a token says; `None`: it was not sealed here for that scope.
    pub fn open(&self, token: &[u8], scope: &str) -> Option<Held> {
        if token.len() != TOKEN {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        Held::from_bytes(self.0.open_in_place(nonce, Aad::from(scope), sealed).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tulle_model::name::{NamespacedName, ServiceName};
    use tulle_model::snapshot::{Backend, BackendTarget, HttpRule};

    use super::*;

    #[test]
    fn only_what_was_sealed_here_for_that_rule_opens() {
        let seal = TokenSeal::new(&SessionKey([7; 32])).unwrap();
        let target = BackendTarget::Service { name: ServiceName::new("shop", "cart"), port: 80 };
        let route = NamespacedName::new("shop", "r");
        let rule = HttpRule::new(route, 0, None, vec![Backend::new(target, 1)]);
        let held = Held::new(&rule, 0, (9, 8080), Duration::from_secs(1)).unwrap();
        let token = seal.seal(held, "a").unwrap();
        assert_eq!((token.len(), seal.open(token.as_bytes(), "a")), (TOKEN, Some(held)));
        assert_ne!(seal.seal(held, "a").unwrap(), token, "no two are the same");
        assert_eq!(seal.open(token.as_bytes(), "b"), None);
        assert_eq!(TokenSeal::new(&SessionKey([8; 32])).unwrap().open(token.as_bytes(), "a"), None);
        for at in 0..TOKEN {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(&forged, "a"), None, "{at}");
        }
        for length in [0, 1, TOKEN - 1] {
            assert_eq!(seal.open(&token.as_bytes()[..length], "a"), None);
        }
        assert_eq!(seal.open(&[0xff; TOKEN], "a"), None);
    }
}
