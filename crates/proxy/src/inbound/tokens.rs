//! Tokens that requests bring (RFC 7519), checked before policies are asked. What was found valid is kept for a while, as most
//! requests bring one that came before.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use tulle_identity::jwt::{InvalidToken, KeySet, Unverified, Verified};
use tulle_model::snapshot::{AccessPolicies, FastMap, JwtIssuer, Token, TokenPlace, take_away};

use super::answers::Answers;
use crate::state::UnknownKeys;

/// How many bytes of valid tokens a worker keeps; then it begins anew.
const MOST_KEPT: usize = 1 << 20;
/// How many sets of keys a worker keeps.
const MOST_SETS: usize = 256;
/// How often a worker asks the server for the keys of an issuer anew.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a worker knows of tokens.
pub(crate) struct Tokens {
    unknown_keys: UnknownKeys,
    cache: RefCell<TokenCache>,
}

/// A token, as one issuer's.
type Taken = (Arc<JwtIssuer>, Arc<Verified>);

#[derive(Default)]
struct TokenCache {
    sets: FastMap<Arc<str>, Arc<KeySet>>,
    /// By their texts, for each issuer that takes them.
    valid: FastMap<String, Vec<Taken>>,
    /// Bytes of the tokens.
    size: usize,
    asked: FastMap<Arc<str>, Instant>,
}

/// What came of the tokens of a request that was let in.
#[derive(Default)]
pub(crate) struct Brought {
    pub tokens: KeptTokens,
    /// Headers that the application gets of claims; `None`: it gets none of that name.
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// What came of questions about it.
    pub answers: Option<Box<Answers>>,
}

/// What became of the tokens of a request, by the issuers that there were then.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptTokens(Vec<(Arc<JwtIssuer>, Token)>);

impl KeptTokens {
    /// For the issuers that there are now, in their order; `None` where there is another one among them.
    pub fn under(&self, policies: &AccessPolicies) -> Option<Vec<Token>> {
        let of = |issuer: &Arc<JwtIssuer>| {
            let known = self.0.iter().find(|(known, _)| known.takes_what(issuer))?;
            Some(known.1.clone())
        };
        policies.issuers().iter().map(of).collect()
    }

    pub fn have_valid(&self) -> bool {
        self.0.iter().any(|(_, token)| matches!(token, Token::Valid(_)))
    }

    /// Where the valid ones came.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let valid = self.0.iter().filter(|(_, token)| matches!(token, Token::Valid(_)));
        valid.map(|(issuer, _)| &issuer.place.header)
    }
}

impl Brought {
    /// `tokens`: in the order of the policies' issuers.
    pub fn new(policies: &AccessPolicies, port: u16, tokens: &[Token]) -> Self {
        let mut headers: Vec<(HeaderName, Option<HeaderValue>)> = Vec::new();
        for (_, place) in policies.issuers_at(port) {
            for output in &policies.issuers()[place].claim_headers {
                let value = match tokens.get(place) {
                    Some(Token::Valid(claims)) => claims.as_header(&output.claim),
                    _ => None,
                };
                let value = value.and_then(|value| HeaderValue::try_from(value).ok());
                match headers.iter_mut().find(|(name, _)| *name == output.header) {
                    Some((_, said)) => *said = said.take().or(value),
                    None => headers.push((output.header.clone(), value)),
                }
            }
        }
        let tokens = policies.issuers().iter().cloned().zip(tokens.iter().cloned()).collect();
        Self { tokens: KeptTokens(tokens), headers, answers: None }
    }

    /// Of a request at whose port there are no policies any more.
    pub fn answered(answers: &mut Option<Box<Answers>>) -> Option<Box<Self>> {
        let answers = answers.take()?;
        Some(Box::new(Self { answers: Some(answers), ..Self::default() }))
    }

    /// Whether it changes what the application is told.
    pub fn changes_headers(&self) -> bool {
        !self.headers.is_empty() || self.answers.as_ref().is_some_and(|answers| answers.changes_headers())
    }

    /// Tells the application what tokens say, and those who were asked, and nothing that clients say in the place of claims: to many
    /// applications `x_user` is `x-user`, too.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            take_away(headers, name);
            if let Some(value) = value {
                headers.insert(name.clone(), value.clone());
            }
        }
        self.answers.iter().for_each(|answers| answers.write_headers(headers));
    }
}

impl Tokens {
    pub fn new(unknown_keys: UnknownKeys) -> Self {
        Self { unknown_keys, cache: RefCell::default() }
    }

    /// What becomes of the tokens of a request to a port for each issuer that the policies have. `now`: seconds since the epoch.
    pub fn check(&self, policies: &AccessPolicies, port: u16, headers: &HeaderMap, now: f64) -> Vec<Token> {
        // Those that only audit vouch for nobody.
        let there: Vec<&JwtIssuer> =
            policies.issuers_at(port).map(|(_, place)| &*policies.issuers()[place]).collect();
        let mut places: Vec<TokenAt<'_>> = Vec::new();
        let mut tokens = Vec::new();
        for issuer in policies.issuers() {
            let known = places.iter().position(|at| *at.place == issuer.place).unwrap_or_else(|| {
                places.push(TokenAt::new(&issuer.place, headers));
                places.len() - 1
            });
            tokens.push(self.for_issuer(&there, issuer, &places[known], now));
        }
        tokens
    }

    fn for_issuer(&self, there: &[&JwtIssuer], issuer: &Arc<JwtIssuer>, at: &TokenAt<'_>, now: f64) -> Token {
        let text = match at.text {
            Ok(Some(text)) => text,
            Ok(None) => return Token::Missing,
            Err(why) => return Token::Invalid(why),
        };
        if let Some(known) = self.known(text, issuer) {
            return match known.problem_at(now) {
                None => Token::Valid(known.claims.clone()),
                Some(problem) => Token::Invalid(problem.why),
            };
        }
        let token = match at.read.get_or_init(|| Unverified::read(text)) {
            Ok(token) => token,
            Err(problem) => return Token::Invalid(problem.why),
        };
        let is_by = |other: &JwtIssuer| token.issuer() == Some(&*other.issuer);
        if !is_by(issuer) {
            let mut at_place = there.iter().filter(|other| other.place == issuer.place);
            return match at_place.any(|other| is_by(other)) {
                true => Token::Missing,
                false => Token::Invalid("is of an issuer whose tokens are not taken here"),
            };
        }
        let Some(set) = &issuer.keys.set else {
            return Token::Invalid("cannot be checked: the server could not read the keys of its issuer yet");
        };
        match token.verify(issuer, &self.set(set), now) {
            Ok(verified) => {
                let verified = Arc::new(verified);
                self.keep(text, issuer, verified.clone());
                Token::Valid(verified.claims.clone())
            }
            Err(InvalidToken { why, unknown_key }) => {
                if let Some(source) = issuer.keys.source.as_ref().filter(|_| unknown_key) {
                    self.ask_for_keys(source);
                }
                Token::Invalid(why)
            }
        }
    }

    fn known(&self, text: &str, issuer: &Arc<JwtIssuer>) -> Option<Arc<Verified>> {
        let cache = self.cache.borrow();
        let of_text = cache.valid.get(text)?;
        let known = of_text.iter().find(|(of, _)| Arc::ptr_eq(of, issuer) || of == issuer)?;
        Some(known.1.clone())
    }

    fn keep(&self, text: &str, issuer: &Arc<JwtIssuer>, verified: Arc<Verified>) {
        let mut cache = self.cache.borrow_mut();
        if cache.size + text.len() > MOST_KEPT {
            cache.valid = FastMap::default();
            cache.size = 0;
        }
        cache.size += text.len();
        cache.valid.entry(text.to_owned()).or_default().push((issuer.clone(), verified));
    }

    fn set(&self, text: &Arc<str>) -> Arc<KeySet> {
        let mut cache = self.cache.borrow_mut();
        if cache.sets.len() >= MOST_SETS && !cache.sets.contains_key(text) {
            cache.sets.clear();
        }
        cache.sets.entry(text.clone()).or_insert_with(|| Arc::new(KeySet::read(text))).clone()
    }

    /// Where the queue is full, others have asked, and clients will again.
    fn ask_for_keys(&self, source: &Arc<str>) {
        let mut cache = self.cache.borrow_mut();
        let now = Instant::now();
        cache.asked.retain(|_, at| now.duration_since(*at) < ASK_AGAIN);
        if cache.asked.len() < MOST_SETS && !cache.asked.contains_key(source) {
            cache.asked.insert(source.clone(), now);
            let _ = self.unknown_keys.try_send(source.clone());
        }
    }
}

/// What stands at a place, for all issuers that look there.
struct TokenAt<'h> {
    place: &'h TokenPlace,
    text: Result<Option<&'h str>, &'static str>,
    /// Taken apart, where that was needed.
    read: OnceCell<Result<Unverified<'h>, InvalidToken>>,
}

impl<'h> TokenAt<'h> {
    fn new(place: &'h TokenPlace, headers: &'h HeaderMap) -> Self {
        Self { place, text: token_at(place, headers), read: OnceCell::new() }
    }
}

/// The token at a place, if there is one; an error where another reader could find another one.
fn token_at<'h>(place: &TokenPlace, headers: &'h HeaderMap) -> Result<Option<&'h str>, &'static str> {
    let mut values = headers.get_all(&place.header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("stands in a header that comes in several lines");
    }
    let text = value.to_str().map_err(|_| "stands in a header that is no text")?;
    Ok(place.token(text))
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tulle_model::snapshot::{AccessPolicy, Action, ClaimHeader, Claims, JwtKeys};

    use super::*;

    const NOW: f64 = 1_800_000_000.0;

    struct Signer(EncodingKey);

    impl Signer {
        fn new() -> Self {
            Self(EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der()))
        }

        fn token(&self, issuer: &str, key: &str, more: Value) -> String {
            let mut claims = json!({ "iss": issuer, "sub": "ada", "exp": NOW + 60.0 });
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let header = Header { kid: Some(key.to_owned()), ..Header::new(Algorithm::ES256) };
            jsonwebtoken::encode(&header, &claims, &self.0).unwrap()
        }

        fn issuer(&self, issuer: &str) -> JwtIssuer {
            let mut key = Jwk::from_encoding_key(&self.0, Algorithm::ES256).unwrap();
            key.common.key_id = Some("k".to_owned());
            let set = json!({ "keys": [key] }).to_string();
            JwtIssuer {
                issuer: issuer.to_owned(),
                audiences: Vec::new(),
                keys: JwtKeys { source: Some("http://keys.test/".into()), set: Some(set.into()) },
                place: TokenPlace::bearer(),
                claim_headers: vec![ClaimHeader {
                    claim: "sub".into(),
                    header: HeaderName::from_static("x-user"),
                }],
                max_stream_age: None,
            }
        }
    }

    fn policy(action: Action, at: Option<Vec<u16>>, issuers: &[JwtIssuer]) -> AccessPolicy {
        let issuers = issuers.iter().cloned().map(Arc::new).collect();
        AccessPolicy {
            name: "shop/p".parse().unwrap(),
            action,
            at,
            issuers,
            rules: Vec::new(),
            external: None,
        }
    }

    fn bearing(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_judged_for_each_issuer() {
        let (signer, stranger) = (Signer::new(), Signer::new());
        let (asked, mut missing) = mpsc::channel(4);
        let tokens = Tokens::new(asked);
        let [a, b, c] = ["a", "b", "c"].map(|name| signer.issuer(name));
        let policies = AccessPolicies::from(vec![
            policy(Action::Allow, None, &[a.clone(), b]),
            policy(Action::Audit, None, &[c]),
        ]);
        let of = |values: &[&str], now: f64| {
            tokens.check(&policies, 80, &bearing(values), now).into_iter().map(|token| match token {
                Token::Missing => "missing".to_owned(),
                Token::Invalid(why) => why.to_owned(),
                Token::Valid(claims) => claims.as_header("sub").unwrap(),
            })
        };
        let of = |values: &[&str], now: f64| of(values, now).collect::<Vec<_>>();
        let good = format!("Bearer {}", signer.token("a", "k", json!({})));
        let not_taken = "is of an issuer whose tokens are not taken here";
        // Twice, as what was valid once is remembered.
        for _ in 0..2 {
            assert_eq!(of(&[&good], NOW), ["ada", "missing", "missing"]);
        }
        assert_eq!(of(&[&good], NOW + 60.0)[0], "has expired");
        assert_eq!(of(&[], NOW), ["missing", "missing", "missing"]);
        assert_eq!(of(&["Basic x"], NOW), ["missing", "missing", "missing"]);
        assert_eq!(of(&["Bearer é"], NOW)[0], "stands in a header that is no text");
        assert_eq!(of(&[&good, &good], NOW)[0], "stands in a header that comes in several lines");
        // Who only audits vouches for nobody.
        let of_c = format!("Bearer {}", signer.token("c", "k", json!({})));
        assert_eq!(of(&[&of_c], NOW), [not_taken, not_taken, "ada"]);
        assert!(missing.try_recv().is_err());
        let forged = format!("Bearer {}", stranger.token("a", "k", json!({})));
        assert_eq!(of(&[&forged], NOW)[0], "has a signature that is not by its issuer's key");
        assert!(missing.try_recv().is_err());
        let unknown = format!("Bearer {}", signer.token("a", "new", json!({})));
        for _ in 0..3 {
            assert!(of(&[&unknown], NOW)[0].starts_with("is signed by a key that its issuer does not have"));
        }
        assert_eq!(missing.try_recv().as_deref(), Ok("http://keys.test/"));
        assert!(missing.try_recv().is_err(), "once is enough for now");
        let keyless = JwtIssuer { keys: JwtKeys { source: None, set: None }, ..a };
        let policies = AccessPolicies::from(vec![policy(Action::Allow, None, &[keyless])]);
        let unread = tokens.check(&policies, 80, &bearing(&[&good]), NOW);
        assert!(matches!(unread[..], [Token::Invalid(why)] if why.starts_with("cannot be checked")));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let signer = Signer::new();
        let tokens = Tokens::new(mpsc::channel(1).0);
        let policies = AccessPolicies::from(vec![policy(Action::Allow, None, &[signer.issuer("a")])]);
        let long = "x".repeat(8 << 10);
        let mut sizes = Vec::new();
        for number in 0..200 {
            let token = signer.token("a", "k", json!({ "long": long, "number": number }));
            let checked = tokens.check(&policies, 80, &bearing(&[&format!("Bearer {token}")]), NOW);
            assert!(matches!(checked[..], [Token::Valid(_)]));
            let cache = tokens.cache.borrow();
            assert_eq!(cache.size, cache.valid.keys().map(String::len).sum::<usize>());
            sizes.push(cache.size);
        }
        let most = sizes.iter().max().unwrap();
        assert!((MOST_KEPT / 2..=MOST_KEPT).contains(most), "{most}");
        for number in 0..MOST_SETS + 10 {
            drop(tokens.set(&format!("{{\"keys\":[],\"n\":{number}}}").into()));
        }
        assert!(tokens.cache.borrow().sets.len() <= MOST_SETS);
        assert!(tokens.cache.borrow().sets.len() > 1);
    }

    #[test]
    fn applications_are_told_what_tokens_say_and_nothing_else() {
        let signer = Signer::new();
        let issuer = signer.issuer("a");
        let policies =
            AccessPolicies::from(vec![policy(Action::Allow, Some(vec![80]), std::slice::from_ref(&issuer))]);
        let claims = Claims(json!({ "sub": "ada" }).as_object().unwrap().clone());
        let client = || {
            let fields = [("x-user", "root"), ("x_user", "root"), ("x-users", "kept")];
            fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        };
        for (port, token, expected) in [
            (80, Token::Valid(Arc::new(claims.clone())), vec![("x-user", "ada"), ("x-users", "kept")]),
            (80, Token::Missing, vec![("x-users", "kept")]),
            (81, Token::Missing, vec![("x-user", "root"), ("x-users", "kept"), ("x_user", "root")]),
        ] {
            let brought = Brought::new(&policies, port, &[token]);
            assert_eq!(brought.changes_headers(), port == 80);
            let mut headers = HeaderMap::from_iter(client());
            brought.write_headers(&mut headers);
            let mut told: Vec<_> =
                headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            told.sort_unstable();
            assert_eq!(told, expected);
        }
        // What was found for an issuer is found for it alone.
        let kept = Brought::new(&policies, 80, &[Token::Valid(Arc::new(claims))]).tokens;
        assert_eq!(kept.headers().collect::<Vec<_>>(), [&AUTHORIZATION]);
        assert!(matches!(kept.under(&policies).as_deref(), Some([Token::Valid(_)])));
        let other = AccessPolicies::from(vec![policy(Action::Allow, None, &[signer.issuer("b"), issuer])]);
        assert!(kept.under(&other).is_none());
        assert_eq!(kept.under(&AccessPolicies::default()).as_deref(), Some(&[][..]));
        assert!(KeptTokens::default().headers().next().is_none());
    }
}
