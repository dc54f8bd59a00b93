//! Tokens that people and programs bring (RFC 7519): signed texts (RFC 7515), checked against the public keys of those who
//! issue them (RFC 7517). What the token says may then be asked of policies ([`tulle_model::authorization`]).
//!
//! Only signatures by private keys are taken: neither `none`, nor what is signed with a secret, for which a public key could be
//! taken (RFC 8725, section 2.1).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use tulle_model::snapshot::{Claims, JwtIssuer};

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 << 10;
/// How many keys of a set are looked at.
const MOST_KEYS: usize = 100;
/// By how much the clock of an issuer may be ahead, in seconds.
const AHEAD: f64 = 5.0;

/// The public keys of an issuer that sign tokens.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    /// Those that it is for.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A token, of which nothing is known to be true yet.
pub struct Unverified<'t> {
    header: Header,
    claims: Map<String, Value>,
    /// What is signed, and how.
    signed: &'t str,
    signature: &'t str,
}

/// RFC 7515, section 4.1.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// A token is not valid: why, as a part of a sentence that has the token as its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token {why}")]
pub struct InvalidToken {
    pub why: &'static str,
    /// It is signed by a key that is not in the set: the issuer may have a new one.
    pub unknown_key: bool,
}

const fn invalid(why: &'static str) -> InvalidToken {
    InvalidToken { why, unknown_key: false }
}

impl KeySet {
    /// The keys of a set that can be used to check signatures: others are left out (RFC 7517, section 5).
    pub fn read(set: &str) -> Self {
        let Ok(set) = serde_json::from_str::<Value>(set) else { return Self::default() };
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.into_iter().flatten().take(MOST_KEYS).filter_map(Key::read);
        Self { keys: keys.collect() }
    }

    /// Whether a signature is by a key of the set.
    fn check(&self, token: &Unverified<'_>) -> Result<(), InvalidToken> {
        let algorithm = token.algorithm()?;
        let kid = token.header.kid.as_deref();
        let mut fit = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        let candidates: Vec<&Key> = match kid {
            Some(kid) => fit.filter(|key| key.id.as_deref() == Some(kid)).collect(),
            // Of one that does not say which key, only where there is no choice.
            None => match (fit.next(), fit.next()) {
                (Some(key), None) => vec![key],
                (None, _) => Vec::new(),
                (Some(_), Some(_)) => return Err(invalid("does not say by which key it is signed (`kid`)")),
            },
        };
        if candidates.is_empty() {
            let why = "is signed by a key that its issuer does not have, as far as it is known here";
            return Err(InvalidToken { why, unknown_key: true });
        }
        match candidates.iter().any(|key| token.is_signed_by(&key.key, algorithm)) {
            true => Ok(()),
            false => Err(invalid("has a signature that is not by its issuer's key")),
        }
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
            return None;
        }
        let of_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(of) if of.curve == EllipticCurve::P256 => vec![ES256],
            AlgorithmParameters::EllipticCurve(of) if of.curve == EllipticCurve::P384 => vec![ES384],
            AlgorithmParameters::OctetKeyPair(of) if of.curve == EllipticCurve::Ed25519 => vec![EdDSA],
            _ => return None,
        };
        let named = value.get("alg").and_then(Value::as_str);
        let algorithms: Vec<_> = of_kind
            .into_iter()
            .filter(|of| named.is_none_or(|named| algorithm(named) == Some(*of)))
            .collect();
        if algorithms.is_empty() {
            return None;
        }
        Some(Self { id: jwk.common.key_id.clone(), algorithms, key: DecodingKey::from_jwk(&jwk).ok()? })
    }
}

/// RFC 7518, section 3.1, and RFC 8037; those that need no secret.
fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

impl<'t> Unverified<'t> {
    /// Takes a token apart (RFC 7515, section 3.1).
    ///
    /// # Errors
    /// It has not the form of one.
    pub fn read(token: &'t str) -> Result<Self, InvalidToken> {
        const MALFORMED: InvalidToken = invalid("is no JSON Web Token");
        if token.len() > LONGEST {
            return Err(invalid("is longer than 16 KiB"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
        let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| MALFORMED)?;
        let claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| MALFORMED)?;
        if header.crit.is_some() {
            return Err(invalid("asks for extensions that are not known (`crit`)"));
        }
        Ok(Self { header, claims, signed, signature })
    }

    /// Who says that it has issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// How it says that it is signed (RFC 7518).
    pub(crate) fn named_algorithm(&self) -> &str {
        &self.header.alg
    }

    /// By which key it says that it is signed.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// What it says.
    pub(crate) fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Whether it is signed in that way by that key.
    pub(crate) fn is_signed_by(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        let verified = jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm);
        matches!(verified, Ok(true))
    }

    /// A time, in seconds since the epoch, perhaps with a fraction (RFC 7519, section 2).
    pub(crate) fn time(&self, claim: &str) -> Result<Option<f64>, InvalidToken> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(time) => time.as_f64().map(Some).ok_or(invalid("has a time that is no number")),
        }
    }

    /// Whether it is for that audience (RFC 7519, section 4.1.3).
    pub(crate) fn is_for(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    fn algorithm(&self) -> Result<Algorithm, InvalidToken> {
        algorithm(&self.header.alg)
            .ok_or(invalid("is signed in a way that is not taken (RS, PS, ES and EdDSA are)"))
    }

    /// What it says, if it is by the issuer's key, for one of its audiences, and of this time. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// Why it is not valid.
    pub fn verify(&self, issuer: &JwtIssuer, keys: &KeySet, now: f64) -> Result<Verified, InvalidToken> {
        if self.issuer() != Some(&*issuer.issuer) {
            return Err(invalid("is of another issuer"));
        }
        keys.check(self)?;
        let until = self.time("exp")?.ok_or(invalid("does not say until when it is valid (`exp`)"))?;
        let life = Life { from: self.time("nbf")?.unwrap_or(f64::MIN), until };
        if let Some(problem) = life.problem_at(now) {
            return Err(problem);
        }
        if !issuer.audiences.is_empty() && !issuer.audiences.iter().any(|audience| self.is_for(audience)) {
            return Err(invalid("is for another audience"));
        }
        Ok(Verified { claims: Arc::new(Claims(self.claims.clone())), life })
    }
}

/// A token that is valid.
#[derive(Debug)]
pub struct Verified {
    pub claims: Arc<Claims>,
    life: Life,
}

impl Verified {
    /// Why it is not valid at another time, if so.
    pub fn problem_at(&self, now: f64) -> Option<InvalidToken> {
        self.life.problem_at(now)
    }
}

/// When a token is valid, in seconds since the epoch (RFC 7519, sections 4.1.4 and 4.1.5).
#[derive(Debug, Clone, Copy)]
struct Life {
    from: f64,
    until: f64,
}

impl Life {
    fn problem_at(self, now: f64) -> Option<InvalidToken> {
        if self.until <= now {
            return Some(invalid("has expired"));
        }
        (self.from > now + AHEAD).then_some(invalid("is not valid yet"))
    }
}

#[cfg(test)]
mod tests;
