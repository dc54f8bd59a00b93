//! The check of JWT-SVIDs (JWT-SVID standard), by the keys that the mesh's server publishes (RFC 7517): one algorithm, ES256,
//! a key that the token names, one of its audiences, an end, a subject that is a workload of the mesh. How a token is taken
//! apart and its signature checked is the same for all ([`crate::jwt`]).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use tulle_model::identity::{SpiffeId, Subject, TrustDomain};
use tulle_model::legible::legible_start;

use crate::jwt::Unverified;

/// How JWT-SVIDs of a mesh are signed (ECDSA P-256 with SHA-256; RFC 7518, section 3.4).
pub const ALGORITHM: Algorithm = Algorithm::ES256;
const ALGORITHM_NAME: &str = "ES256";

/// What marks keys of JWT-SVIDs among those of a bundle (JWT-SVID standard, section 6.1).
pub const USE: &str = "jwt-svid";

/// What is given as keys is of no use.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJwtKeys {
    #[error("the keys of JWT-SVIDs are no JWK Set: {0}")]
    Unreadable(String),
    #[error("key {0} of the JWT-SVIDs is not one for ES256 with a `kid`")]
    Key(usize),
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtRefusal {
    #[error("it is no JWT-SVID: {0}")]
    Unreadable(String),
    #[error("it is signed by the algorithm {0}, and ES256 is expected")]
    Algorithm(String),
    #[error("its header has no `kid`")]
    NoKey,
    #[error("it is signed with a key that is none of this mesh's")]
    UnknownKey,
    #[error("its signature is not that key's")]
    Signature,
    #[error("it is for another audience")]
    Audience,
    #[error("it has no `{0}`")]
    Missing(String),
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("its subject is no workload of the trust domain `{0}`")]
    Subject(TrustDomain),
}

/// The public keys of a mesh's JWT-SVIDs.
pub struct JwtKeys {
    /// As they came: a JWK Set.
    text: Vec<u8>,
    by_id: BTreeMap<String, DecodingKey>,
}

/// A token that has been checked.
#[derive(Debug)]
pub struct JwtSvid {
    pub identity: SpiffeId,
    /// All that it says.
    pub claims: Map<String, Value>,
}

impl JwtKeys {
    /// From a JWK Set (RFC 7517, section 5). Keys of other uses are none of ours (JWT-SVID standard, section 6.2).
    ///
    /// # Errors
    /// Where it is none, or one of its keys is of no use.
    pub fn read(text: &[u8]) -> Result<Self, InvalidJwtKeys> {
        let set: Value =
            serde_json::from_slice(text).map_err(|e| InvalidJwtKeys::Unreadable(e.to_string()))?;
        let keys = set["keys"].as_array();
        let keys = keys.ok_or_else(|| InvalidJwtKeys::Unreadable("it has no `keys`".to_owned()))?;
        let ours = keys.iter().enumerate().filter(|(_, key)| key["use"] == USE);
        let read = |(index, key): (usize, &Value)| {
            let text = |name: &str| key[name].as_str();
            let parts = || {
                (text("kty")? == "EC" && text("crv")? == "P-256").then_some(())?;
                Some((text("kid")?.to_owned(), DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?))
            };
            parts().ok_or(InvalidJwtKeys::Key(index))
        };
        let by_id = ours.map(read).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), by_id })
    }

    /// The JWK Set.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Checks a token that is meant for `audience`, at the mesh's time.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(
        &self,
        token: &str,
        audience: &str,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<JwtSvid, JwtRefusal> {
        let token = Unverified::read(token).map_err(|e| JwtRefusal::Unreadable(e.to_string()))?;
        // The algorithm is ours to choose, whatever a token says (section 2).
        if token.named_algorithm() != ALGORITHM_NAME {
            let named = legible_start(token.named_algorithm(), 16).into_owned();
            return Err(JwtRefusal::Algorithm(named));
        }
        let key = self.by_id.get(token.key_id().ok_or(JwtRefusal::NoKey)?).ok_or(JwtRefusal::UnknownKey)?;
        if !token.is_signed_by(key, ALGORITHM) {
            return Err(JwtRefusal::Signature);
        }
        let missing = |claim: &str| JwtRefusal::Missing(claim.to_owned());
        let claims = token.claims();
        if let Some(claim) = ["aud", "sub"].into_iter().find(|claim| !claims.contains_key(*claim)) {
            return Err(missing(claim));
        }
        if !token.is_for(audience) {
            return Err(JwtRefusal::Audience);
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let until = token.time("exp").ok().flatten().ok_or_else(|| missing("exp"))?;
        if until <= now {
            return Err(JwtRefusal::Expired);
        }
        // The server that signs has the mesh's time, so that none is ahead.
        if token.time("nbf").map_or(true, |from| from.is_some_and(|from| from > now)) {
            return Err(JwtRefusal::Early);
        }
        let subject = claims.get("sub").and_then(Value::as_str).and_then(|sub| sub.parse::<SpiffeId>().ok());
        let is_ours =
            |id: &SpiffeId| id.trust_domain() == *domain && matches!(id.subject(), Subject::Workload { .. });
        let identity = subject.filter(is_ours).ok_or_else(|| JwtRefusal::Subject(domain.clone()))?;
        Ok(JwtSvid { identity, claims: claims.clone() })
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PublicKeyData};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn url(bytes: &[u8]) -> String {
        use base64::Engine as _;
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn jwk(key: &KeyPair, id: &str) -> Value {
        let point = key.der_bytes();
        json!({ "kty": "EC", "use": USE, "kid": id, "crv": "P-256", "x": url(&point[1..33]), "y": url(&point[33..]) })
    }

    fn header(id: Option<&str>) -> Header {
        Header { kid: id.map(str::to_owned), ..Header::new(ALGORITHM) }
    }

    fn token(key: &KeyPair, header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap()
    }

    fn claims() -> Value {
        json!({ "sub": "spiffe://mesh.local/ns/shop/sa/cart", "aud": ["a", "b"], "exp": NOW + 300, "iat": NOW })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    #[test]
    fn a_token_is_of_a_workload_for_somebody_for_a_while() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let foreign_use = json!({ "kty": "RSA", "use": "x509-svid" });
        let set = json!({ "keys": [jwk(&key, "one"), foreign_use] });
        let keys = JwtKeys::read(set.to_string().as_bytes()).unwrap();
        assert_eq!(keys.text(), set.to_string().as_bytes());
        let domain = TrustDomain::new("mesh.local").unwrap();
        let check = |token: &str, audience: &str, second: u64| {
            keys.check(token, audience, &domain, SystemTime::UNIX_EPOCH + Duration::from_secs(second))
        };
        let one = header(Some("one"));
        let good = token(&key, &one, &claims());
        for (audience, second) in [("a", NOW), ("b", NOW + 299)] {
            let checked = check(&good, audience, second).unwrap();
            assert_eq!(checked.identity.as_str(), "spiffe://mesh.local/ns/shop/sa/cart");
            assert_eq!(Value::Object(checked.claims), claims());
        }
        assert!(check(&token(&key, &one, &with("aud", json!("a"))), "a", NOW).is_ok(), "one is no list");
        assert!(check(&token(&key, &one, &with("nbf", json!(NOW))), "a", NOW).is_ok());

        let (head, rest) = good.split_once('.').unwrap();
        let (body, signature) = rest.split_once('.').unwrap();
        let none = format!("{}.{body}.", url(br#"{"alg":"none"}"#));
        let changed = format!("{head}.{}.{signature}", url(with("aud", json!("c")).to_string().as_bytes()));
        // The public key as the secret of a MAC.
        let hmac = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
        let hmac = encode(&hmac, &claims(), &EncodingKey::from_secret(key.der_bytes())).unwrap();
        let subject = JwtRefusal::Subject(domain.clone());
        let missing = |name: &str| JwtRefusal::Missing(name.to_owned());
        let sub = |id: &str| token(&key, &one, &with("sub", json!(id)));
        for (token, audience, second, refusal) in [
            (good.clone(), "c", NOW, JwtRefusal::Audience),
            (good.clone(), "", NOW, JwtRefusal::Audience),
            (good.clone(), "a", NOW + 300, JwtRefusal::Expired),
            (token(&other, &one, &claims()), "a", NOW, JwtRefusal::Signature),
            (changed, "c", NOW, JwtRefusal::Signature),
            (token(&other, &header(Some("two")), &claims()), "a", NOW, JwtRefusal::UnknownKey),
            (token(&key, &header(None), &claims()), "a", NOW, JwtRefusal::NoKey),
            (hmac, "a", NOW, JwtRefusal::Algorithm("HS256".to_owned())),
            (none, "a", NOW, JwtRefusal::Algorithm("none".to_owned())),
            (token(&key, &one, &without("aud")), "a", NOW, missing("aud")),
            (token(&key, &one, &without("exp")), "a", NOW, missing("exp")),
            (token(&key, &one, &with("exp", json!("soon"))), "a", NOW, missing("exp")),
            (token(&key, &one, &without("sub")), "a", NOW, missing("sub")),
            (token(&key, &one, &with("nbf", json!(NOW + 1))), "a", NOW, JwtRefusal::Early),
            (token(&key, &one, &with("nbf", json!("later"))), "a", NOW, JwtRefusal::Early),
            (sub("cart"), "a", NOW, subject.clone()),
            (sub("spiffe://other.local/ns/shop/sa/cart"), "a", NOW, subject.clone()),
            (sub("spiffe://mesh.local/node/n1"), "a", NOW, subject),
        ] {
            assert_eq!(check(&token, audience, second).unwrap_err(), refusal, "{token}");
        }
        for nonsense in ["", ".", "..", "a.b.c", &format!("{good}.x"), body] {
            let refusal = check(nonsense, "a", NOW).unwrap_err();
            assert!(matches!(refusal, JwtRefusal::Unreadable(_)), "{nonsense}: {refusal}");
        }
    }

    #[test]
    fn keys_that_are_of_no_use_are_refused() {
        let key = KeyPair::generate().unwrap();
        let set = |change: fn(&mut Value)| {
            let mut jwk = jwk(&key, "one");
            change(&mut jwk);
            json!({ "keys": [jwk] }).to_string()
        };
        assert!(JwtKeys::read(set(|_| ()).as_bytes()).is_ok());
        let changes: [fn(&mut Value); 5] = [
            |key| key["kty"] = json!("RSA"),
            |key| key["crv"] = json!("P-384"),
            |key| key["kid"] = Value::Null,
            |key| key["x"] = json!("!"),
            |key| key["y"] = Value::Null,
        ];
        for change in changes {
            assert!(matches!(JwtKeys::read(set(change).as_bytes()), Err(InvalidJwtKeys::Key(0))));
        }
        for nonsense in ["", "[]", "{}", r#"{"keys": 1}"#] {
            assert!(matches!(JwtKeys::read(nonsense.as_bytes()), Err(InvalidJwtKeys::Unreadable(_))));
        }
    }
}
