//! Tokens of the API: who sends one (`Authorization: Bearer`) is the user that it names, until it expires or is revoked.
//!
//! A token is `tulle_<id>_<secret>`. The store keeps the secret's hash alone.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Access;
use crate::ca::seal::{hex, unhex};
use crate::store::{Precondition, StoreError};
use crate::timestamp::seconds;
use crate::token_secret;

/// Outside of the API's keys: no API request reaches these.
pub(super) const TOKENS: &str = "/tulle/api-tokens/";
/// What every token begins with, so that scanners of repositories know it.
const MARK: &str = "tulle_";
/// How many tokens there may be.
const MOST: usize = 10_000;
/// The longest life of a token.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("ttlSeconds: 1 to {} are expected", LONGEST.as_secs())]
    Lifetime,
    #[error("there are {MOST} tokens already; revoke some, or wait until some expire")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a token is asked for.
#[derive(Debug, Clone)]
pub struct ApiTokenRequest {
    pub user: String,
    pub groups: Vec<String>,
    pub ttl: Duration,
}

/// A token that was made.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// A secret.
    pub text: String,
    pub about: KnownApiToken,
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownApiToken {
    pub id: String,
    pub user: String,
    pub groups: Vec<String>,
    /// Seconds since the epoch, as `expires`.
    pub made: u64,
    pub expires: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptApiToken {
    secret_sha256: String,
    user: String,
    groups: Vec<String>,
    /// Seconds since the epoch, as `expires`.
    made: u64,
    expires: u64,
}

impl KeptApiToken {
    pub(super) fn is_good(&self, secret: &[u8], now: SystemTime) -> bool {
        seconds(now) < self.expires && token_secret::is_it(secret, &self.secret_sha256)
    }

    fn known(&self, id: &str) -> KnownApiToken {
        let Self { user, groups, made, expires, .. } = self.clone();
        KnownApiToken { id: id.to_owned(), user, groups, made, expires }
    }
}

/// The id of a token, and its secret.
pub(super) fn parts(text: &str) -> Option<(&str, Vec<u8>)> {
    let (id, secret) = text.trim().strip_prefix(MARK)?.split_once('_')?;
    Some((id, unhex(secret)?))
}

impl Access {
    /// Makes a token.
    ///
    /// # Errors
    /// Where it would live for too long, there are too many, or the store fails.
    pub async fn create_token(
        &self,
        request: ApiTokenRequest,
        now: SystemTime,
    ) -> Result<ApiToken, TokenError> {
        if request.ttl.is_zero() || request.ttl > LONGEST {
            return Err(TokenError::Lifetime);
        }
        if self.known.read().tokens.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        let id = hex(&rand::random::<[u8; 8]>());
        let secret = token_secret::new();
        let kept = KeptApiToken {
            secret_sha256: token_secret::hash(&secret),
            user: request.user,
            groups: request.groups,
            made: seconds(now),
            expires: seconds(now + request.ttl),
        };
        let value = serde_json::to_vec(&kept).map_err(|e| StoreError::Database(e.to_string()))?;
        let revision = self.store.put(&format!("{TOKENS}{id}"), value, Precondition::Absent).await?;
        self.settled_where(|position| position.tokens >= revision).await;
        Ok(ApiToken { text: format!("{MARK}{id}_{}", hex(&secret)), about: kept.known(&id) })
    }

    /// Whose token it is; none where it is not known, or has expired.
    pub fn user_of_token(&self, text: &str, now: SystemTime) -> Option<KnownApiToken> {
        let known = self.known.read();
        let (id, _) = parts(text)?;
        known.token(text, now).map(|token| token.known(id))
    }

    /// Whether a token is still good, of which the id is known.
    pub fn has_token(&self, id: &str, now: SystemTime) -> bool {
        self.known.read().tokens.get(id).is_some_and(|token| seconds(now) < token.expires)
    }

    /// The tokens that are good, the oldest first.
    pub fn tokens(&self, now: SystemTime) -> Vec<KnownApiToken> {
        let known = self.known.read();
        let good = known.tokens.iter().filter(|(_, token)| seconds(now) < token.expires);
        let mut tokens: Vec<_> = good.map(|(id, token)| token.known(id)).collect();
        tokens.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
        tokens
    }

    /// Takes a token back; whose it was.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn revoke_token(&self, id: &str) -> Result<Option<KnownApiToken>, StoreError> {
        let known = self.known.read().tokens.get(id).map(|token| token.known(id));
        let Some(known) = known else { return Ok(None) };
        match self.store.delete(&format!("{TOKENS}{id}"), Precondition::Any).await {
            Ok((revision, _)) => {
                self.settled_where(|position| position.tokens >= revision).await;
                Ok(Some(known))
            }
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the tokens that have expired.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn sweep_tokens(&self, now: SystemTime) -> Result<(), StoreError> {
        let expired: Vec<String> = {
            let known = self.known.read();
            let expired = known.tokens.iter().filter(|(_, token)| seconds(now) >= token.expires);
            expired.map(|(id, _)| id.clone()).collect()
        };
        for id in expired {
            match self.store.delete(&format!("{TOKENS}{id}"), Precondition::Any).await {
                Ok(_) | Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
