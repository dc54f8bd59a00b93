//! Users: certificates and tokens by which people and tools are known.
//!
//! Who makes one for a user could act as him: it takes the verb `impersonate` of that user and of his groups, beside the path.

use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tulle_model::legible::legible_start;

use super::body::{self, RequestBody};
use super::caller::Caller;
use super::reply::{Reply, view};
use super::status::Failure;
use crate::access::ApiTokenRequest;
use crate::access::{KnownApiToken, TokenError};
use crate::objects::ObjectError;
use crate::timestamp;
use crate::views::Views;

/// How long a name may be, and how many groups a user may have.
const LONGEST_NAME: usize = 256;
const MOST_GROUPS: usize = 64;
/// The longest life of a certificate, which nobody can take back.
const LONGEST_CERTIFICATE: Duration = Duration::from_secs(366 * 24 * 3600);

/// The body of `POST /tulle/v1alpha1/users` and `/tulle/v1alpha1/usertokens`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewUser {
    name: String,
    #[serde(default)]
    groups: Vec<String>,
    ttl_seconds: u64,
}

impl NewUser {
    fn check(&self) -> Result<(), Failure> {
        let bad = |text: &String| {
            text.is_empty() || text.len() > LONGEST_NAME || text.chars().any(char::is_control)
        };
        if bad(&self.name) || self.groups.iter().any(bad) {
            return Err(Failure::bad_request(format!(
                "name, groups: names of 1 to {LONGEST_NAME} printable characters are expected"
            )));
        }
        if self.groups.len() > MOST_GROUPS {
            return Err(Failure::bad_request(format!("groups: a user has {MOST_GROUPS} at most")));
        }
        Ok(())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds)
    }
}

async fn read(caller: &Caller, request: &Parts, body: &mut RequestBody) -> Result<NewUser, Failure> {
    body::check_type(&request.headers, &body::OBJECTS)?;
    let wanted = body::object(&request.headers, &body.read().await?)?;
    let wanted: NewUser = serde_json::from_value(wanted)
        .map_err(|error| Failure::bad_request(format!("the body does not describe a user: {error}")))?;
    wanted.check()?;
    caller.require_impersonation(&wanted.name, &wanted.groups)?;
    Ok(wanted)
}

/// `/tulle/v1alpha1/users`: a certificate of a user, and its key.
pub(super) async fn certificate(
    views: &Views,
    caller: &Caller,
    request: &Parts,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    if request.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let wanted = read(caller, request, body).await?;
    if wanted.ttl().is_zero() || wanted.ttl() > LONGEST_CERTIFICATE {
        let longest = LONGEST_CERTIFICATE.as_secs();
        return Err(Failure::bad_request(format!("ttlSeconds: 1 to {longest} are expected")));
    }
    let now = SystemTime::now();
    let made = views.api_authority.user(&wanted.name, &wanted.groups, wanted.ttl(), now);
    let (certificate, key) = made.map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
    })?;
    let expires = timestamp::at(timestamp::seconds(now + wanted.ttl()));
    caller
        .note(json!({ "certificate": { "user": wanted.name, "groups": wanted.groups, "expires": expires } }));
    let answer = json!({
        "name": wanted.name, "groups": wanted.groups, "expires": expires, "certificate": certificate, "key": *key,
    });
    view(StatusCode::CREATED, &answer)
}

/// `/tulle/v1alpha1/usertokens`
pub(super) async fn tokens(
    views: &Views,
    caller: &Caller,
    request: &Parts,
    body: &mut RequestBody,
) -> Result<Reply, Failure> {
    let now = SystemTime::now();
    match request.method {
        Method::GET => {
            let tokens: Vec<_> = views.access.tokens(now).iter().map(shown).collect();
            view(StatusCode::OK, &json!({ "tokens": tokens }))
        }
        Method::POST => {
            let wanted = read(caller, request, body).await?;
            let ttl = wanted.ttl();
            let wanted = ApiTokenRequest { user: wanted.name, groups: wanted.groups, ttl };
            let token = views.access.create_token(wanted, now).await.map_err(failure)?;
            caller.note(json!({ "token": shown(&token.about) }));
            let mut answer = shown(&token.about);
            answer["token"] = token.text.into();
            view(StatusCode::CREATED, &answer)
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// `/tulle/v1alpha1/usertokens/<id>`
pub(super) async fn token(
    views: &Views,
    caller: &Caller,
    id: &str,
    request: &Parts,
) -> Result<Reply, Failure> {
    if request.method != Method::DELETE {
        return Err(Failure::method_not_allowed());
    }
    match views.access.revoke_token(id).await.map_err(|error| Failure::from(ObjectError::from(error)))? {
        Some(token) => {
            caller.note(json!({ "revoked": shown(&token) }));
            view(StatusCode::OK, &json!({ "id": id }))
        }
        None => {
            let message = format!("there is no token `{}`", legible_start(id, 64));
            Err(Failure::new(StatusCode::NOT_FOUND, "NotFound", message))
        }
    }
}

fn shown(token: &KnownApiToken) -> Value {
    json!({
        "id": token.id,
        "name": token.user,
        "groups": token.groups,
        "created": timestamp::at(token.made),
        "expires": timestamp::at(token.expires),
    })
}

fn failure(error: TokenError) -> Failure {
    match error {
        TokenError::Store(error) => ObjectError::from(error).into(),
        error => Failure::bad_request(error.to_string()),
    }
}
