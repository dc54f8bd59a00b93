//! The keys that sign JWT-SVIDs (JWT-SVID standard), and the JWK Set of them that nodes are given with every certificate.
//!
//! States of a key: *announced*: in the set, and signs nothing until all nodes with a valid certificate have had it; *signing*,
//! for a month; *retired*: in the set until the last token that it signed has expired.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tulle_identity::jwt_svid::{ALGORITHM, USE};
use tulle_model::audience::audience_problem;
use tulle_model::identity::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use super::mesh::WORKLOAD_LIFETIME;
use super::seal::{MasterKey, hex};
use super::{BACKDATE, CaError, DAY, generate_key, since_epoch};

/// How long a token lives.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// How long a key signs.
const SIGNS_FOR: Duration = DAY.saturating_mul(30);
/// Nodes hear of it with their workloads' certificates, so whoever has not in that time has no valid one.
const ANNOUNCED_FOR: Duration = WORKLOAD_LIFETIME.saturating_mul(2);
/// How long it is in the set after that. Hosts' clocks differ.
const RETIRED_FOR: Duration = TOKEN_LIFETIME.saturating_add(BACKDATE);

/// Signs the tokens of one trust domain.
pub struct JwtAuthority {
    domain: TrustDomain,
    path: PathBuf,
    master: MasterKey,
    keys: ArcSwap<Keys>,
}

/// A signed token.
#[derive(Clone)]
pub struct IssuedJwt {
    /// JWS Compact Serialization (RFC 7515, section 7.1).
    pub token: String,
    /// Seconds since the epoch.
    pub issued_at: i64,
    pub expires_at: i64,
}

/// In the order in which they sign; one at least.
struct Keys {
    keys: Vec<SigningKey>,
    set: Bytes,
}

/// As it lies on disk, sealed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SigningKey {
    id: String,
    /// Seconds since the epoch.
    signs_from: u64,
    /// PKCS#8, in base64.
    key: Zeroizing<String>,
}

impl JwtAuthority {
    /// Opens the keys that are kept in `dir`, or makes the first. Where they cannot be kept, or read, nodes have to hear of new
    /// ones: no reason not to start.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn open(
        dir: &Path,
        master: MasterKey,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let path = dir.join("jwt.keys");
        let kept = read(&path, &master).unwrap_or_else(|error| {
            tracing::warn!(%error, "the keys of JWT-SVIDs are made anew, as the old ones cannot be read");
            Vec::new()
        });
        let keys = Keys::of(kept)?;
        let authority = Self { domain: domain.clone(), path, master, keys: ArcSwap::from_pointee(keys) };
        authority.renew_if_due(now)?;
        Ok(authority)
    }

    /// Makes the next key when it is time, and forgets those that no token is signed with any more. Call it now and then.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<(), CaError> {
        let seconds = since_epoch(now).as_secs();
        let old = self.keys.load();
        let mut keys = old.keys.clone();
        let starts: Vec<_> = keys.iter().map(|key| key.signs_from).collect();
        if let Some(signs_from) = next_start(&starts, seconds) {
            keys.push(SigningKey::generate(signs_from)?);
            keys.sort_by_key(|key| key.signs_from);
        }
        let starts: Vec<_> = keys.iter().map(|key| key.signs_from).collect();
        let mut wanted = is_wanted(&starts, seconds).into_iter();
        keys.retain(|_| wanted.next().unwrap_or(true));
        if keys.iter().map(|key| &key.id).eq(old.keys.iter().map(|key| &key.id)) {
            return Ok(());
        }
        let secret = Zeroizing::new(serde_json::to_vec(&keys).unwrap_or_default());
        if let Err(error) = self.master.write(&self.path, &secret) {
            tracing::warn!(%error, "the keys of JWT-SVIDs are not kept over a restart");
        }
        self.keys.store(Keys::of(keys)?.into());
        Ok(())
    }

    /// The JWK Set (RFC 7517, section 5) of the public keys.
    pub fn set(&self) -> Bytes {
        self.keys.load().set.clone()
    }

    /// A token for `identity`; whether the requester may have it, the caller has checked.
    ///
    /// # Errors
    /// Where what is asked for makes no sense.
    pub fn sign(
        &self,
        identity: &SpiffeId,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<IssuedJwt, CaError> {
        if identity.trust_domain() != self.domain {
            let message =
                format!("`{identity}` is of another trust domain than this mesh, which is `{}`", self.domain);
            return Err(CaError::Request(message));
        }
        if let Some(problem) = audience_problem(audiences) {
            return Err(CaError::Request(problem));
        }
        let keys = self.keys.load();
        let issued_at = since_epoch(now).as_secs();
        let expires_at = issued_at + TOKEN_LIFETIME.as_secs();
        let starts: Vec<_> = keys.keys.iter().map(|key| key.signs_from).collect();
        let key = &keys.keys[signing(&starts, issued_at)];
        let header = Header { kid: Some(key.id.clone()), ..Header::new(ALGORITHM) };
        let claims =
            json!({ "sub": identity.as_str(), "aud": audiences, "iat": issued_at, "exp": expires_at });
        let failed = |problem: String| CaError::Content { path: self.path.clone(), problem };
        let secret = EncodingKey::from_ec_der(&key.secret().map_err(|e| failed(e.to_string()))?);
        let token = encode(&header, &claims, &secret)
            .map_err(|e| failed(format!("has a key that cannot sign: {e}")))?;
        let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        Ok(IssuedJwt { token, issued_at: whole(issued_at), expires_at: whole(expires_at) })
    }
}

impl Keys {
    fn of(keys: Vec<SigningKey>) -> Result<Self, CaError> {
        let public = keys.iter().map(SigningKey::public).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { keys, set: json!({ "keys": public }).to_string().into() })
    }
}

impl SigningKey {
    fn generate(signs_from: u64) -> Result<Self, CaError> {
        let key = Zeroizing::new(BASE64_STANDARD.encode(generate_key()?.serialized_der()));
        Ok(Self { id: hex(&rand::random::<[u8; 8]>()), signs_from, key })
    }

    fn secret(&self) -> Result<Zeroizing<Vec<u8>>, base64::DecodeError> {
        BASE64_STANDARD.decode(&*self.key).map(Zeroizing::new)
    }

    /// RFC 7518, section 6.2.1, with the use that the JWT-SVID standard asks for (section 6.1).
    fn public(&self) -> Result<serde_json::Value, CaError> {
        let secret = self.secret().unwrap_or_default();
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(secret.as_slice()))?;
        // SEC 1, section 2.3.3: 4, and the two coordinates of 32 bytes.
        let (x, y) = pair.der_bytes().get(1..65).map(|point| point.split_at(32)).unwrap_or_default();
        let [x, y] = [x, y].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        Ok(json!({ "kty": "EC", "use": USE, "kid": self.id, "crv": "P-256", "x": x, "y": y }))
    }
}

fn read(path: &Path, master: &MasterKey) -> Result<Vec<SigningKey>, CaError> {
    let Some(secret) = master.read(path)? else { return Ok(Vec::new()) };
    let invalid = |problem: String| CaError::Content { path: path.to_owned(), problem };
    let keys: Vec<SigningKey> =
        serde_json::from_slice(&secret).map_err(|e| invalid(format!("has no keys in it: {e}")))?;
    keys.iter().try_for_each(|key| key.public().map(drop)).map_err(|e| invalid(e.to_string()))?;
    Ok(keys)
}

/// Which key signs, of those that begin at these times in their order: the last that has begun. After a clock that was set
/// back, the first.
fn signing(starts: &[u64], now: u64) -> usize {
    starts.iter().rposition(|start| *start <= now).unwrap_or(0)
}

/// When another key is to begin that is to be made now. The first of all begins at once, as no node knows another.
fn next_start(starts: &[u64], now: u64) -> Option<u64> {
    let Some(since) = starts.get(signing(starts, now)) else { return Some(now) };
    let begin = now + ANNOUNCED_FOR.as_secs();
    let is_made = starts[signing(starts, now) + 1..].iter().any(|start| *start <= begin);
    (begin >= since + SIGNS_FOR.as_secs() && !is_made).then_some(begin)
}

/// Which of them are to stay in the set: not those that were followed by another one a while ago, nor those that a clock which
/// was ahead has left.
fn is_wanted(starts: &[u64], now: u64) -> Vec<bool> {
    let current = signing(starts, now);
    let latest = now + ANNOUNCED_FOR.as_secs() + RETIRED_FOR.as_secs();
    let of = |index: usize| {
        let replaced = starts.get(index + 1).filter(|_| index < current);
        replaced.is_none_or(|at| at + RETIRED_FOR.as_secs() > now)
            && (index <= current || starts[index] <= latest)
    };
    (0..starts.len()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use tulle_identity::jwt_svid::JwtKeys;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::new("mesh.local").unwrap()
    }

    fn open(dir: &Path, now: SystemTime) -> JwtAuthority {
        let master = MasterKey::open_or_make(&dir.join("master.key")).unwrap();
        JwtAuthority::open(dir, master, &domain(), now).unwrap()
    }

    fn token(authority: &JwtAuthority, now: SystemTime) -> IssuedJwt {
        let id = SpiffeId::workload(&domain(), "shop", "cart").unwrap();
        authority.sign(&id, &["a".to_owned()], now).unwrap()
    }

    fn ids(authority: &JwtAuthority) -> Vec<String> {
        authority.keys.load().keys.iter().map(|key| key.id.clone()).collect()
    }

    #[test]
    fn a_token_is_taken_by_the_keys_that_are_published_and_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = open(dir.path(), now);
        let issued = token(&first, now);
        assert_eq!(issued.expires_at - issued.issued_at, 300);
        let again = open(dir.path(), now);
        assert_eq!(first.set(), again.set());
        let keys = JwtKeys::read(&again.set()).unwrap();
        let check = |at| keys.check(&issued.token, "a", &domain(), at);
        assert_eq!(check(now).unwrap().identity.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
        assert!(check(now + TOKEN_LIFETIME).is_err());
        let content = std::fs::read(dir.path().join("jwt.keys")).unwrap();
        assert!(!content.windows(9).any(|w| w == b"signsFrom"), "it is sealed");

        let other = SpiffeId::workload(&TrustDomain::new("other.local").unwrap(), "shop", "cart").unwrap();
        for (id, audiences) in
            [(other, vec!["a".to_owned()]), (SpiffeId::workload(&domain(), "shop", "cart").unwrap(), vec![])]
        {
            assert!(matches!(again.sign(&id, &audiences, now), Err(CaError::Request(_))));
        }
        std::fs::write(dir.path().join("jwt.keys"), "spoilt").unwrap();
        assert_ne!(open(dir.path(), now).set(), again.set());
    }

    #[test]
    fn a_key_is_announced_before_it_signs_and_stays_as_long_as_its_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let start = SystemTime::now();
        let authority = open(dir.path(), start);
        let first = ids(&authority);
        let mut known = authority.set();
        let (mut rotations, mut now) = (0, start);
        // Two months and a day, by every ten minutes; nodes hear of the keys every hour, and tokens live for five minutes.
        for step in 0..8784 {
            let before = token(&authority, now);
            now += Duration::from_secs(600);
            let old = ids(&authority);
            authority.renew_if_due(now).unwrap();
            rotations += usize::from(ids(&authority).len() > old.len());
            let just = JwtKeys::read(&known).unwrap();
            just.check(&token(&authority, now).token, "a", &domain(), now).unwrap();
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(before.expires_at as u64 - 1);
            JwtKeys::read(&authority.set()).unwrap().check(&before.token, "a", &domain(), end).unwrap();
            assert!(ids(&authority).len() <= 2);
            if step % 6 == 0 {
                known = authority.set();
            }
        }
        assert_eq!(rotations, 2);
        assert_eq!(ids(&authority).len(), 1);
        assert!(!ids(&authority).contains(&first[0]));
    }

    #[test]
    fn clocks_that_are_set_leave_a_key_that_signs() {
        let (month, hours, retired) = (SIGNS_FOR.as_secs(), ANNOUNCED_FOR.as_secs(), RETIRED_FOR.as_secs());
        assert_eq!(next_start(&[], 7), Some(7));
        assert_eq!((signing(&[10, 20], 9), signing(&[10, 20], 10), signing(&[10, 20], 20)), (0, 0, 1));
        assert_eq!(next_start(&[0], month - hours - 1), None);
        assert_eq!(next_start(&[0], month - hours), Some(month));
        assert_eq!(next_start(&[0, month], month - hours), None);
        assert_eq!(next_start(&[0, month], month - 1), None);
        // Set back: what is there goes on, and what is too far ahead is forgotten.
        assert_eq!(next_start(&[5 * month], 0), None);
        assert_eq!(is_wanted(&[5 * month], 0), [true]);
        assert_eq!(is_wanted(&[0, 5 * month], month), [true, false]);
        assert_eq!(is_wanted(&[0, month], month - hours), [true, true]);
        assert_eq!(is_wanted(&[0, month], month + retired - 1), [true, true]);
        assert_eq!(is_wanted(&[0, month], month + retired), [false, true]);
    }
}
