//! What calls say to be by, with tokens that are fetched first (RFC 6749, section 4.4: client_credentials), and kept until they expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tulle_model::flow::fault::{Fault, FaultKind};
use tulle_model::flow::history::RunName;
use tulle_model::flow::scope::Millis;
use tulle_model::flow::uri_template::encoded;
use tulle_model::flow::workflow::{Authentication, ClientAuthentication, Credentials, OAuth2};

use super::Surroundings;
use super::book::Book;
use super::caller::{Caller, OutgoingCall};
use super::clock::Clock;
use super::masks::{Masks, beginning};
use crate::arguments::{self, Authorization, Authorizing};
use crate::scoped::{Scoped, Unanswered};

/// What is fetched beside calls, tokens and schemas, may be so large and take so long.
pub(super) const MOST_FETCHED: usize = 1 << 20;
pub(super) const FETCHED_WITHIN: Duration = Duration::from_secs(5);
/// How many characters are shown of what a token endpoint says.
const MOST_SAID: usize = 200;
/// How many tokens are kept, and how many bytes one of them may have.
const MOST_KEPT: usize = 1_000;
const LARGEST_TOKEN: usize = 16 << 10;
/// By how many bytes one is asked for at most that is kept.
const LONGEST_KEY: usize = 16 << 10;
/// For how long one is kept at most, in seconds.
const LONGEST: u64 = 3_600;
/// How long before it expires a token is not used any more, in milliseconds: a call takes its time.
const EARLY: Millis = 10_000;
/// For how long one is used that does not say when it expires, in seconds.
const UNSAID: u64 = 60;

/// Tokens, by all that they were asked for with.
#[derive(Default)]
pub(super) struct TokenCache(Mutex<HashMap<String, Token>>);

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    until: Millis,
}

/// What a call says to be by, and whether that is a token which somebody may have taken back since.
pub(super) struct Authorized {
    pub(super) authorization: Authorization,
    pub(super) is_from_before: bool,
}

/// Who asks for something beside a call.
pub(super) struct Asking<'c, B, C, K> {
    pub(super) shared: &'c Surroundings<B, C, K>,
    pub(super) run: &'c RunName,
    pub(super) path: &'c Arc<str>,
}

impl<B, C, K> Clone for Asking<'_, B, C, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B, C, K> Copy for Asking<'_, B, C, K> {}

/// The client, as its policy or its Secret has it.
struct TokenClient {
    id: String,
    secret: String,
    scopes: String,
    audiences: Vec<String>,
}

/// What an authentication says. With `is_again` no token is used that was there before. `masks` learn all that is secret in it.
pub(super) async fn authorize<B: Book, C: Caller, K: Clock>(
    asking: Asking<'_, B, C, K>,
    authentication: &Authentication,
    scoped: &Scoped<'_>,
    masks: &mut Masks,
    is_again: bool,
) -> Result<Authorized, Unanswered> {
    let authorized = match Authorization::of(authentication, scoped).await? {
        Authorizing::Known(authorization) => Authorized { authorization, is_from_before: false },
        Authorizing::ByToken(policy) => asking.token(policy, scoped, masks, is_again).await?,
    };
    masks.add(&authorized.authorization.parameter);
    Ok(authorized)
}

fn wrong(why: impl std::fmt::Display) -> Fault {
    FaultKind::Authentication.fault(format!("with.endpoint.authentication: {why}"))
}

impl<B: Book, C: Caller, K: Clock> Asking<'_, B, C, K> {
    async fn token(
        self,
        policy: &OAuth2,
        scoped: &Scoped<'_>,
        masks: &mut Masks,
        is_again: bool,
    ) -> Result<Authorized, Unanswered> {
        let (given, authority) = given(policy, scoped).await?;
        let client = TokenClient::read(&given)?;
        masks.add(&client.secret);
        let RunName { namespace, flow, .. } = self.run;
        let TokenClient { id, secret, scopes, audiences } = &client;
        let path = policy.token_path.as_deref().unwrap_or_default();
        let key =
            [&**namespace, flow, &authority, path, id, secret, scopes, &audiences.join("\n")].join("\0");
        let cache = &self.shared.tokens;
        let bearer = |token: &Token| Authorization { scheme: "Bearer", parameter: token.text.to_string() };
        if !is_again && let Some(token) = cache.get(&key, self.shared.clock.now()) {
            return Ok(Authorized { authorization: bearer(&token), is_from_before: true });
        }
        let mut issuers = Vec::new();
        for issuer in &policy.issuers {
            issuers.push(arguments::uri(issuer, scoped).await?);
        }
        let endpoint = match &policy.token_path {
            Some(path) => format!("{}{path}", authority.trim_end_matches('/')),
            None => self.token_endpoint(&authority, &issuers, masks).await?,
        };
        let token = self.fetch(policy, &client, &endpoint, masks).await?;
        if !issuers.is_empty() && policy.token_path.is_some() {
            let issuer =
                issuer_of(&token.text).ok_or_else(|| wrong("the token does not say who has issued it"))?;
            among(&issuers, &issuer)?;
        }
        let authorization = bearer(&token);
        cache.keep(key, token, self.shared.clock.now());
        Ok(Authorized { authorization, is_from_before: false })
    }

    /// Where tokens are to be had, as the authority's metadata say (OpenID Connect Discovery 1.0, section 4).
    async fn token_endpoint(
        self,
        authority: &str,
        issuers: &[String],
        masks: &Masks,
    ) -> Result<String, Fault> {
        let at = format!("{}/.well-known/openid-configuration", authority.trim_end_matches('/'));
        let (status, said) = self.fetched(Method::GET, &at, HeaderMap::new(), Bytes::new(), masks).await?;
        if status != StatusCode::OK {
            return Err(wrong(format_args!("the metadata at {at} were answered with {}", status.as_u16())));
        }
        let issuer = said["issuer"].as_str().unwrap_or_default();
        let own = [authority.to_owned()];
        among(if issuers.is_empty() { &own } else { issuers }, issuer)?;
        let endpoint = said["token_endpoint"].as_str();
        endpoint
            .map(str::to_owned)
            .ok_or_else(|| wrong(format_args!("the metadata at {at} name no token_endpoint")))
    }

    async fn fetch(
        self,
        policy: &OAuth2,
        client: &TokenClient,
        endpoint: &str,
        masks: &Masks,
    ) -> Result<Token, Fault> {
        let mut headers = HeaderMap::new();
        let mut fields = vec![("grant_type", "client_credentials".to_owned())];
        match policy.client_authentication {
            ClientAuthentication::Basic => {
                let both = format!("{}:{}", encoded(&client.id), encoded(&client.secret));
                let mut header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(both)))
                    .map_err(|_| wrong("the client's id and secret fit no header"))?;
                header.set_sensitive(true);
                headers.insert(AUTHORIZATION, header);
            }
            ClientAuthentication::Post => {
                fields.push(("client_id", client.id.clone()));
                fields.push(("client_secret", client.secret.clone()));
            }
            ClientAuthentication::None if client.id.is_empty() => {}
            ClientAuthentication::None => fields.push(("client_id", client.id.clone())),
        }
        if !client.scopes.is_empty() {
            fields.push(("scope", client.scopes.clone()));
        }
        let (media, body) = if policy.is_json {
            let mut all: Map<_, _> =
                fields.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
            match &client.audiences[..] {
                [] => {}
                [one] => drop(all.insert("audience".to_owned(), one.as_str().into())),
                more => drop(all.insert("audience".to_owned(), json!(more))),
            }
            ("application/json", Value::Object(all).to_string())
        } else {
            fields.extend(client.audiences.iter().map(|audience| ("audience", audience.clone())));
            let pairs: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
            ("application/x-www-form-urlencoded", pairs.join("&"))
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        let asked = self.shared.clock.now();
        let (status, said) = self.fetched(Method::POST, endpoint, headers, body.into(), masks).await?;
        let text = |field: &str| said[field].as_str().unwrap_or_default();
        if status != StatusCode::OK {
            let words = [text("error"), text("error_description")].join(" ");
            let words = beginning(words.trim(), MOST_SAID);
            let words = if words.is_empty() { words } else { format!(": {words}") };
            return Err(wrong(format_args!("{endpoint} gives no token, but {}{words}", status.as_u16())));
        }
        let token = text("access_token");
        if token.is_empty() {
            return Err(wrong(format_args!("{endpoint} answers without an access_token")));
        }
        if token.len() > LARGEST_TOKEN {
            return Err(wrong(format_args!("{endpoint} gives a token of more than {LARGEST_TOKEN} bytes")));
        }
        if said["token_type"].as_str().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(wrong(format_args!("{endpoint} gives a token of a type other than Bearer")));
        }
        let lasts = &said["expires_in"];
        let lasts = lasts.as_u64().or_else(|| lasts.as_str()?.parse().ok()).unwrap_or(UNSAID).min(LONGEST);
        let until = asked.saturating_add(lasts.saturating_mul(1_000)).saturating_sub(EARLY);
        Ok(Token { text: token.into(), until })
    }

    /// What is answered, where it is JSON.
    async fn fetched(
        self,
        method: Method,
        uri: &str,
        mut headers: HeaderMap,
        body: Bytes,
        masks: &Masks,
    ) -> Result<(StatusCode, Value), Fault> {
        let uri: Uri = uri.parse().map_err(|_| wrong(format_args!("{uri:?} is no URI")))?;
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
        let call = OutgoingCall {
            run: self.run.clone(),
            path: self.path.clone(),
            method,
            shown_path: masks.shown_path(&uri),
            uri,
            headers,
            body,
            most_answer: MOST_FETCHED,
            within: FETCHED_WITHIN,
        };
        let answer = self.shared.send(call).await?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_default()))
    }
}

/// The client's fields, and who gives the tokens.
async fn given(policy: &OAuth2, scoped: &Scoped<'_>) -> Result<(Value, String), Unanswered> {
    let given = match &policy.client {
        Credentials::Given(template) => scoped.template(template).await?,
        Credentials::Secret(name) => {
            let secret = scoped.secret(name).cloned();
            secret.ok_or_else(|| wrong(format_args!("there is no Secret {name} that it may read")))?
        }
    };
    let authority = match &policy.authority {
        Some(authority) => arguments::uri(authority, scoped).await?,
        None => {
            let authority = given["authority"].as_str();
            authority.ok_or_else(|| wrong("the Secret has no text as `authority`"))?.trim().to_owned()
        }
    };
    Ok((given, authority))
}

impl TokenClient {
    fn read(given: &Value) -> Result<Self, Fault> {
        let text = |field: &str| match &given[field] {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            _ => Err(wrong(format_args!("the client's `{field}` is no text"))),
        };
        // In a Secret there are texts alone.
        let texts = |field: &str| match &given[field] {
            Value::Null => Ok(Vec::new()),
            Value::String(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
            Value::Array(items) => {
                let items = items.iter().map(|item| item.as_str().map(str::to_owned));
                items
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(|| wrong(format_args!("`{field}` are not all texts")))
            }
            _ => Err(wrong(format_args!("`{field}` is no list of texts"))),
        };
        Ok(Self {
            id: text("id")?,
            secret: text("secret")?,
            scopes: texts("scopes")?.join(" "),
            audiences: texts("audiences")?,
        })
    }
}

fn among(issuers: &[String], issuer: &str) -> Result<(), Fault> {
    let same = |known: &String| known.trim_end_matches('/') == issuer.trim_end_matches('/');
    if issuers.iter().any(same) {
        return Ok(());
    }
    let issuer = beginning(issuer, MOST_SAID);
    Err(wrong(format_args!("tokens are issued by {issuer:?}, which is none of those that may")))
}

/// The claim `iss` of a token, if it is a JWT (RFC 7519). It is for whom the token is shown to, to see whether that is so.
fn issuer_of(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

/// The part of a token's key that says which Flow has asked for it.
fn flow_of(key: &str) -> &str {
    let end = key.match_indices('\0').nth(1).map_or(key.len(), |(at, _)| at);
    &key[..end]
}

impl TokenCache {
    fn get(&self, key: &str, now: Millis) -> Option<Token> {
        self.0.lock().get(key).filter(|token| token.until > now).cloned()
    }

    fn keep(&self, key: String, token: Token, now: Millis) {
        if key.len() > LONGEST_KEY {
            return;
        }
        let mut tokens = self.0.lock();
        if tokens.len() >= MOST_KEPT {
            tokens.retain(|_, token| token.until > now);
        }
        if tokens.len() >= MOST_KEPT {
            // One of the Flow's that has the most: nobody's are pushed out by another's.
            let mut of_flows: HashMap<&str, usize> = HashMap::new();
            tokens.keys().for_each(|key| *of_flows.entry(flow_of(key)).or_default() += 1);
            let first = tokens
                .iter()
                .min_by_key(|(key, token)| (std::cmp::Reverse(of_flows[flow_of(key)]), token.until));
            let first = first.map(|(key, _)| key.clone());
            first.map(|key| tokens.remove(&key));
        }
        tokens.insert(key, token);
    }
}
