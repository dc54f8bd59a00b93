//! JWT-SVIDs: the keys by which they are checked, which come with every certificate and are kept on disk; and the tokens of an
//! identity, which the server signs, each used again until half of its life is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tonic::{Code, Status};
use tulle_identity::jwt_svid::JwtKeys;
use tulle_model::identity::SpiffeId;
use tulle_wire::node::{SignJwtRequest, SignJwtResponse};

use super::{CALL_DEADLINE, NodeInstance, Server, channel};
use crate::files;
use crate::keeper::KeptFile;

/// How many tokens of one identity are kept, each for other audiences. What is more is asked for anew.
const MOST_TOKENS: usize = 64;
/// How many of an identity the server is asked for at once: a process that wants ever new ones waits.
const TURNS: usize = 2;

/// The keys of the mesh's JWT-SVIDs, as far as this node knows.
pub struct JwtBundle {
    file: KeptFile,
    keys: watch::Sender<Option<Arc<JwtKeys>>>,
}

impl JwtBundle {
    pub fn load(file: KeptFile) -> Self {
        let kept = files::read_if_there(&file.path).unwrap_or_else(|e| {
            tracing::warn!("the keys of JWT-SVIDs that were kept cannot be read: {e}");
            None
        });
        let keys = kept.and_then(|text| read(&text));
        Self { file, keys: watch::Sender::new(keys) }
    }

    /// `None` until the server has named them.
    pub fn keys(&self) -> watch::Receiver<Option<Arc<JwtKeys>>> {
        self.keys.subscribe()
    }

    /// What the server names now; nothing, where it is older than that.
    pub fn learn(&self, text: &[u8]) {
        if text.is_empty() || self.keys.borrow().as_ref().is_some_and(|keys| keys.text() == text) {
            return;
        }
        if let Some(keys) = read(text) {
            self.file.keep(text.to_owned());
            self.keys.send_replace(Some(keys));
        }
    }
}

fn read(text: &[u8]) -> Option<Arc<JwtKeys>> {
    let keys = JwtKeys::read(text);
    keys.map(Arc::new).inspect_err(|e| tracing::warn!("{e}: JWT-SVIDs cannot be checked by these")).ok()
}

/// The tokens of one identity.
pub struct JwtSvids {
    server: Server,
    id: SpiffeId,
    bundle: Arc<JwtBundle>,
    /// By their audiences.
    kept: Mutex<HashMap<Vec<String>, KeptToken>>,
    turns: Semaphore,
}

#[derive(Clone)]
struct KeptToken {
    text: String,
    /// Seconds since the epoch.
    issued_at: i64,
    expires_at: i64,
}

impl KeptToken {
    fn is_fresh(&self, now: i64) -> bool {
        // One of the future is of a clock that was set back since.
        self.issued_at <= now.saturating_add(1) && now < self.issued_at.midpoint(self.expires_at)
    }

    fn is_valid(&self, now: i64) -> bool {
        now < self.expires_at
    }
}

impl JwtSvids {
    pub fn new(server: Server, id: SpiffeId, bundle: Arc<JwtBundle>) -> Self {
        Self { server, id, bundle, kept: Mutex::default(), turns: Semaphore::new(TURNS) }
    }

    /// A token for these audiences. With the server down, one that it has signed before is used until its end.
    ///
    /// # Errors
    /// Where the server refuses, and where it does not answer and there is none.
    pub async fn get(&self, audiences: &[String]) -> Result<String, Status> {
        if let Some(token) = self.kept(audiences, KeptToken::is_fresh) {
            return Ok(token);
        }
        match timeout(CALL_DEADLINE, self.ask(audiences)).await {
            Ok(Err(e)) if e.code() != Code::Unavailable => Err(e),
            Ok(Ok(token)) => Ok(token),
            unavailable => self.kept(audiences, KeptToken::is_valid).ok_or_else(|| match unavailable {
                Ok(Err(e)) => e,
                _ => Status::unavailable("the mesh's server gives no answer"),
            }),
        }
    }

    fn kept(&self, audiences: &[String], is_good: fn(&KeptToken, i64) -> bool) -> Option<String> {
        let now = self.now();
        self.kept.lock().get(audiences).filter(|token| is_good(token, now)).map(|token| token.text.clone())
    }

    async fn ask(&self, audiences: &[String]) -> Result<String, Status> {
        let _turn = self.turns.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        // Somebody may have had it meanwhile.
        if let Some(token) = self.kept(audiences, KeptToken::is_fresh) {
            return Ok(token);
        }
        let NodeInstance { id: instance, boot_id } = self.server.instance();
        let request = SignJwtRequest {
            identity: self.id.to_string(),
            audiences: audiences.to_vec(),
            instance: instance.clone(),
            boot_id: boot_id.clone(),
        };
        let answer = self.server.nodes().sign_jwt(request).await.map_err(|status| self.explain(&status))?;
        let SignJwtResponse { token, issued_at, expires_at, jwt_keys } = answer.into_inner();
        self.bundle.learn(&jwt_keys);
        self.keep(audiences, KeptToken { text: token.clone(), issued_at, expires_at });
        Ok(token)
    }

    /// What the server says, to a process that asks for an identity.
    fn explain(&self, status: &Status) -> Status {
        let why = channel::explain_status(status);
        match status.code() {
            Code::InvalidArgument => Status::invalid_argument(why),
            Code::PermissionDenied => {
                tracing::warn!("{} gets no token: {why}", self.id);
                Status::permission_denied("the mesh's server does not let this node have tokens of it")
            }
            Code::Unimplemented => Status::unavailable("the mesh's server is of a version without JWT-SVIDs"),
            _ => Status::unavailable(format!("the mesh's server signs nothing for now: {why}")),
        }
    }

    fn keep(&self, audiences: &[String], token: KeptToken) {
        let now = self.now();
        let mut kept = self.kept.lock();
        if kept.len() >= MOST_TOKENS {
            kept.retain(|_, token| token.is_valid(now));
        }
        if kept.len() < MOST_TOKENS || kept.contains_key(audiences) {
            kept.insert(audiences.to_vec(), token);
        }
    }

    fn now(&self) -> i64 {
        let since = self.server.clock().now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_fresh_for_half_of_its_life() {
        let token = KeptToken { text: String::new(), issued_at: 1000, expires_at: 1300 };
        let states =
            [999, 1000, 1149, 1150, 1299, 1300].map(|now| (token.is_fresh(now), token.is_valid(now)));
        let (fresh, old) = ((true, true), (false, true));
        assert_eq!(states, [fresh, fresh, fresh, old, old, (false, false)]);
        assert!(!token.is_fresh(990), "the clock was set back");
    }
}
