use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use jsonwebtoken::EncodingKey;
use rcgen::KeyPair;
use serde_json::json;
use tulle_model::snapshot::{JwtKeys, TokenPlace};

use super::*;

const NOW: f64 = 1_800_000_000.0;

fn ec() -> EncodingKey {
    EncodingKey::from_ec_der(&KeyPair::generate().unwrap().serialize_der())
}

fn rsa() -> EncodingKey {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    // The key itself (PKCS #1) stands behind what says of what kind it is.
    EncodingKey::from_rsa_der(&der.as_ref()[26..])
}

/// The public half of a key, as JSON.
fn public(key: &EncodingKey, algorithm: Algorithm, id: Option<&str>) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap();
    jwk["kid"] = id.map_or(Value::Null, Value::from);
    jwk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    jwk
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::read(&json!({ "keys": keys }).to_string())
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn signed(header: &Value, claims: &Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn issuer(audiences: &[&str]) -> JwtIssuer {
    JwtIssuer {
        issuer: "https://a.test".to_owned(),
        audiences: audiences.iter().map(|&audience| audience.to_owned()).collect(),
        keys: JwtKeys { source: None, set: None },
        place: TokenPlace::bearer(),
        claim_headers: Vec::new(),
        max_stream_age: None,
    }
}

fn verify(token: &str, issuer: &JwtIssuer, keys: &KeySet) -> Result<Verified, InvalidToken> {
    Unverified::read(token)?.verify(issuer, keys, NOW)
}

fn good() -> Value {
    json!({ "iss": "https://a.test", "sub": "ada", "aud": "shop", "exp": NOW + 60.0 })
}

/// Each way of signing, with and without names of keys.
#[test]
fn what_the_issuers_key_has_signed_is_valid() {
    let (ec, rsa) = (ec(), rsa());
    for (key, algorithm, name) in [
        (&ec, Algorithm::ES256, "ES256"),
        (&rsa, Algorithm::RS256, "RS256"),
        (&rsa, Algorithm::RS512, "RS512"),
        (&rsa, Algorithm::PS256, "PS256"),
    ] {
        for id in [Some("k"), None] {
            let keys = set(&[public(key, algorithm, id), json!({ "kty": "new" })]);
            let mut header = json!({ "alg": name, "typ": "JWT" });
            if let Some(id) = id {
                header["kid"] = id.into();
            }
            let token = signed(&header, &good(), key, algorithm);
            let verified = verify(&token, &issuer(&["cart", "shop"]), &keys).unwrap();
            assert_eq!(verified.claims.get("sub"), Some(&json!("ada")), "{name} {id:?}");
            assert_eq!(verified.problem_at(NOW + 59.0), None);
            assert_eq!(verified.problem_at(NOW + 60.0).unwrap().why, "has expired");
        }
    }
}

#[test]
fn what_is_not_valid_says_why() {
    let key = ec();
    let keys = set(&[public(&key, Algorithm::ES256, Some("k"))]);
    let header = json!({ "alg": "ES256", "kid": "k" });
    let with = |change: fn(&mut Value)| {
        let mut claims = good();
        change(&mut claims);
        signed(&header, &claims, &key, Algorithm::ES256)
    };
    let of_header = |header: Value| signed(&header, &good(), &key, Algorithm::ES256);
    let token = with(|_| ());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (head, claims) = message.split_once('.').unwrap();
    let forged =
        encoded(&json!({ "iss": "https://a.test", "sub": "root", "aud": "shop", "exp": NOW + 60.0 }));
    let none = encoded(&json!({ "alg": "none" }));
    for (token, why) in [
        (with(|claims| claims["exp"] = (NOW - 1.0).into()), "has expired"),
        (with(|claims| claims["exp"] = NOW.into()), "has expired"),
        (with(|claims| claims["exp"] = "soon".into()), "has a time that is no number"),
        (
            with(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
            "does not say until when it is valid (`exp`)",
        ),
        (with(|claims| claims["nbf"] = (NOW + 60.0).into()), "is not valid yet"),
        (with(|claims| claims["aud"] = "bank".into()), "is for another audience"),
        (with(|claims| claims["aud"] = json!(["bank", 7])), "is for another audience"),
        (with(|claims| drop(claims.as_object_mut().unwrap().remove("aud"))), "is for another audience"),
        (with(|claims| claims["iss"] = "https://b.test".into()), "is of another issuer"),
        (with(|claims| drop(claims.as_object_mut().unwrap().remove("iss"))), "is of another issuer"),
        (format!("{none}.{claims}."), "is signed in a way that is not taken (RS, PS, ES and EdDSA are)"),
        (
            format!("{none}.{claims}.{signature}"),
            "is signed in a way that is not taken (RS, PS, ES and EdDSA are)",
        ),
        (format!("{head}.{claims}."), "has a signature that is not by its issuer's key"),
        (format!("{head}.{forged}.{signature}"), "has a signature that is not by its issuer's key"),
        (format!("{head}.{claims}.AAAA"), "has a signature that is not by its issuer's key"),
        (
            signed(&header, &good(), &ec(), Algorithm::ES256),
            "has a signature that is not by its issuer's key",
        ),
        (
            of_header(json!({ "alg": "ES256", "kid": "other" })),
            "is signed by a key that its issuer does not have, as far as it is known here",
        ),
        (
            of_header(json!({ "alg": "RS256", "kid": "k" })),
            "is signed by a key that its issuer does not have, as far as it is known here",
        ),
        (
            of_header(json!({ "alg": "ES256", "kid": "k", "crit": ["x"] })),
            "asks for extensions that are not known (`crit`)",
        ),
        (of_header(json!({ "kid": "k" })), "is no JSON Web Token"),
        (
            of_header(json!({ "alg": "es256", "kid": "k" })),
            "is signed in a way that is not taken (RS, PS, ES and EdDSA are)",
        ),
        (format!("{token}."), "is no JSON Web Token"),
        (format!("{token}="), "has a signature that is not by its issuer's key"),
        (format!("{head}.{claims}"), "is no JSON Web Token"),
        (format!("{head}=.{claims}.{signature}"), "is no JSON Web Token"),
        (format!("{head}.{}.{signature}", encoded(&json!([1]))), "is no JSON Web Token"),
        (format!("{head}.{}.{signature}", "[".repeat(8000)), "is no JSON Web Token"),
        (
            format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode("[".repeat(10_000))),
            "is no JSON Web Token",
        ),
        ("..".to_owned(), "is no JSON Web Token"),
        (String::new(), "is no JSON Web Token"),
        ("a".repeat(20_000), "is longer than 16 KiB"),
    ] {
        assert_eq!(verify(&token, &issuer(&["shop"]), &keys).map(drop).unwrap_err().why, why, "{token:.200}");
    }
    assert!(
        verify(&with(|claims| claims["aud"] = json!(["bank", "shop"])), &issuer(&["shop"]), &keys).is_ok()
    );
    assert!(verify(&with(|claims| claims["aud"] = "bank".into()), &issuer(&[]), &keys).is_ok());
    assert!(verify(&with(|claims| claims["nbf"] = (NOW + 4.0).into()), &issuer(&[]), &keys).is_ok());
}

/// RFC 8725, section 2.1: a public key is no secret.
#[test]
fn a_public_key_signs_nothing() {
    let rsa = rsa();
    let public = public(&rsa, Algorithm::RS256, Some("k"));
    let part = |name: &str| URL_SAFE_NO_PAD.decode(public[name].as_str().unwrap()).unwrap();
    for secret in [public.to_string().into_bytes(), part("n"), [part("n"), part("e")].concat()] {
        for key in [public.clone(), json!({ "kty": "oct", "kid": "k", "k": URL_SAFE_NO_PAD.encode(&secret) })]
        {
            let header = json!({ "alg": "HS256", "kid": "k" });
            let token = signed(&header, &good(), &EncodingKey::from_secret(&secret), Algorithm::HS256);
            let refused = verify(&token, &issuer(&[]), &set(&[key])).map(drop).unwrap_err();
            assert_eq!(refused.why, "is signed in a way that is not taken (RS, PS, ES and EdDSA are)");
        }
    }
}

/// Keys are for what they say that they are for, and one is not guessed among several.
#[test]
fn keys_are_taken_for_what_they_are_for() {
    let (one, other) = (ec(), ec());
    let token = |header: Value| signed(&header, &good(), &one, Algorithm::ES256);
    let key = |change: fn(&mut Value)| {
        let mut key = public(&one, Algorithm::ES256, Some("k"));
        change(&mut key);
        key
    };
    let named = token(json!({ "alg": "ES256", "kid": "k" }));
    let nameless = token(json!({ "alg": "ES256" }));
    let why = |token: &str, keys: &[Value]| {
        verify(token, &issuer(&[]), &set(keys)).map(drop).err().map(|e| (e.why, e.unknown_key))
    };
    let unknown =
        Some(("is signed by a key that its issuer does not have, as far as it is known here", true));
    assert_eq!(why(&named, &[key(|_| ())]), None);
    assert_eq!(why(&nameless, &[key(|_| ())]), None);
    assert_eq!(why(&named, &[key(|key| key["use"] = "enc".into())]), unknown);
    assert_eq!(why(&named, &[key(|key| key["alg"] = "ES384".into())]), unknown);
    assert_eq!(why(&named, &[key(|key| key["kid"] = "K".into())]), unknown);
    assert_eq!(why(&named, &[]), unknown);
    assert_eq!(why(&named, &[public(&other, Algorithm::ES256, Some("k")), key(|_| ())]), None);
    let two = [key(|_| ()), public(&other, Algorithm::ES256, Some("o"))];
    assert_eq!(why(&nameless, &two), Some(("does not say by which key it is signed (`kid`)", false)));
    for broken in ["", "[]", "{\"keys\":7}", "{\"keys\":[7,{\"kty\":\"RSA\",\"n\":\"?\",\"e\":\"AQAB\"}]}"] {
        assert!(KeySet::read(broken).keys.is_empty(), "{broken}");
    }
}
