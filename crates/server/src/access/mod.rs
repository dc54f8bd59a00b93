//! Who may do what with the API, as of now: the roles, bindings and tokens in the store, followed as they change.
//!
//! States: *loaded*: what the store had when this was opened, without which nobody is served; *following*: the task of
//! [`Access::follow`] takes in each change; where the store fails, what was known stays in force, and it is tried again.
//! Whoever has written a role waits with [`Access::settled`], so that the next request is decided by it.

mod tokens;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tulle_model::rbac::{ApiAction, Asker, NotCovered, Permit, Rbac, ScopedName, covers};
use tulle_model::registry::KindId;

pub use self::tokens::{ApiTokenRequest, KnownApiToken, TokenError};
use self::tokens::{KeptApiToken, TOKENS};
use crate::objects::{ObjectError, ObjectWatch, Objects, WriteOptions};
use crate::store::{self, Store};

/// How long it is waited until the store is asked again after it failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long a writer waits for what it has written.
const SETTLING: Duration = Duration::from_secs(5);
/// The kinds that say who may do what.
const KINDS: [KindId; 4] =
    [KindId::Role, KindId::ClusterRole, KindId::RoleBinding, KindId::ClusterRoleBinding];

/// Who may do what; clones share it.
#[derive(Clone)]
pub struct Access {
    store: Store,
    objects: Objects,
    known: Arc<RwLock<Known>>,
    /// Up to where changes are known.
    position: Arc<watch::Sender<SeenUpTo>>,
    /// Where following goes on.
    streams: Arc<Mutex<Option<Streams>>>,
}

/// The revisions of the last changes that are known, for each stream: they are not in step.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeenUpTo {
    pub roles: u64,
    pub tokens: u64,
}

#[derive(Default)]
struct Known {
    rbac: Rbac,
    /// By their ids.
    tokens: HashMap<String, KeptApiToken>,
}

struct Streams {
    roles: ObjectWatch,
    tokens: store::Watch,
}

impl Access {
    /// Who may do what by a store as it is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn open(objects: Objects, store: Store) -> Result<Self, ObjectError> {
        let (known, streams, revision) = load(&objects, &store).await?;
        Ok(Self {
            store,
            objects,
            known: Arc::new(RwLock::new(known)),
            position: Arc::new(watch::Sender::new(SeenUpTo { roles: revision, tokens: revision })),
            streams: Arc::new(Mutex::new(Some(streams))),
        })
    }

    /// What allows something.
    pub fn decide(&self, asker: Asker<'_>, action: &ApiAction<'_>) -> Option<Permit> {
        self.known.read().rbac.decide(asker, action)
    }

    /// Looks at the roles and bindings.
    pub fn with<T>(&self, look: impl FnOnce(&Rbac) -> T) -> T {
        look(&self.known.read().rbac)
    }

    /// Whether somebody has all that a role in that namespace (empty: none) allows, or will when a default one is put right.
    /// `None` where there is no such role.
    pub fn covers_role(
        &self,
        asker: Asker<'_>,
        namespace: &str,
        role: &ScopedName,
    ) -> Option<Result<(), NotCovered>> {
        self.with(|rbac| rbac.given(role).map(|wanted| covers(&rbac.rules(asker, namespace), wanted)))
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<SeenUpTo> {
        self.position.subscribe()
    }

    /// Waits until a role or binding that was written at a revision counts.
    pub async fn settled(&self, revision: u64) {
        self.settled_where(|position| position.roles >= revision).await;
    }

    async fn settled_where(&self, holds: impl FnMut(&SeenUpTo) -> bool) {
        let mut position = self.position.subscribe();
        if tokio::time::timeout(SETTLING, position.wait_for(holds)).await.is_err() {
            tracing::warn!("a change of who may do what is not in force yet: the store is slow");
        }
    }

    /// Follows the store until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        loop {
            let streams = self.streams.lock().take();
            let result = match streams {
                Some(streams) => tokio::select! {
                    () = stop.cancelled() => return,
                    result = self.take_in(streams) => result,
                },
                None => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "who may do what is read anew");
            }
            match load(&self.objects, &self.store).await {
                Ok((known, streams, revision)) => {
                    *self.known.write() = known;
                    *self.streams.lock() = Some(streams);
                    self.position.send_replace(SeenUpTo { roles: revision, tokens: revision });
                }
                Err(error) => {
                    tracing::error!(%error, "who may do what cannot be read: what was known stays in force");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// Takes in changes until the store fails.
    async fn take_in(&self, mut streams: Streams) -> Result<(), ObjectError> {
        loop {
            tokio::select! {
                event = streams.roles.next() => {
                    let event = event?;
                    let object = event.object.as_deref();
                    self.known.write().rbac.set(event.kind, &event.namespace, &event.name, object);
                    self.position.send_modify(|position| position.roles = event.revision);
                }
                event = streams.tokens.next() => {
                    let event = event?;
                    self.known.write().set_token(&event.key, event.value.as_deref());
                    self.position.send_modify(|position| position.tokens = event.revision);
                }
            }
        }
    }

    /// Makes sure that the roles and bindings that every mesh has are there, with all that they have to say. `false` where
    /// there is no room for it now.
    ///
    /// # Errors
    /// Where the store fails otherwise.
    pub async fn ensure_defaults(objects: &Objects) -> Result<bool, ObjectError> {
        let options = WriteOptions::controller();
        for (kind, wanted) in tulle_model::rbac::defaults::objects() {
            let kind = kind.kind();
            let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
            let made = match objects.get(kind, "", name).await? {
                None => objects.create(kind, "", wanted.clone(), &options).await.map(drop),
                // Its role cannot change.
                Some(there) if there["roleRef"]["name"] != wanted["roleRef"]["name"] => {
                    tracing::warn!(
                        "the default {} \"{name}\" gives another role: it stays as it is",
                        kind.kind
                    );
                    Ok(())
                }
                // Nothing is written where nothing is missing.
                Some(_) => {
                    let complete = |current: &serde_json::Value| {
                        let completed = tulle_model::rbac::defaults::completed(current, &wanted);
                        Ok(completed.unwrap_or_else(|| current.clone()))
                    };
                    objects.modify(kind, "", name, &options, complete).await.map(drop)
                }
            };
            match made {
                Ok(()) | Err(ObjectError::AlreadyExists { .. }) => {}
                // Administrators need none of them, nor do nodes.
                Err(error) if error.is_for_want_of_room() => {
                    tracing::warn!(%error, "a default role is missing, and cannot be made now");
                    return Ok(false);
                }
                Err(error @ ObjectError::Store(_)) => return Err(error),
                // Whoever may change a role keeps nobody's server from starting by it.
                Err(error) => tracing::warn!(%error, "a default role stays as it is"),
            }
        }
        Ok(true)
    }
}

impl Known {
    fn set_token(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(id) = key.strip_prefix(TOKENS) else { return };
        match value.and_then(|value| serde_json::from_slice(value).ok()) {
            Some(token) => drop(self.tokens.insert(id.to_owned(), token)),
            None => drop(self.tokens.remove(id)),
        }
    }

    /// Whose token it is; none where it is not known, or has expired.
    fn token(&self, text: &str, now: SystemTime) -> Option<&KeptApiToken> {
        let (id, secret) = tokens::parts(text)?;
        self.tokens.get(id).filter(|token| token.is_good(&secret, now))
    }
}

/// All that is known, and what follows it.
async fn load(objects: &Objects, store: &Store) -> Result<(Known, Streams, u64), ObjectError> {
    // From before the lists: what is taken in twice is the same.
    let revision = objects.revision().await?;
    let mut known = Known::default();
    for kind in KINDS {
        for object in objects.list(kind.kind(), None).await?.items {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            known.rbac.set(kind.kind(), text("namespace"), text("name"), Some(&object));
        }
    }
    for (key, stored) in store.list(TOKENS, None, usize::MAX).await?.items {
        known.set_token(&key, Some(&stored.value));
    }
    let streams = Streams {
        roles: objects.watch_group(KindId::Role.kind(), revision).await?,
        tokens: store.watch(TOKENS, revision).await?,
    };
    Ok((known, streams, revision))
}
