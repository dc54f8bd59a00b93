//! The certificates of this node and of its workloads: one key and one certificate for each identity,
//! shared by the replicas that have it, renewed at half of its life, kept on disk so that a restart
//! works with the server down.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tulle_identity::Svid;
use tulle_model::identity::{InvalidIdentity, SpiffeId, Subject};
use tulle_model::stamp::Revoked;
use tulle_proxy::certificate::WorkloadCertificate;
use tulle_proxy::state::StateCell;
use tulle_wire::node::SignRequest;

use super::credential::{Credential, KeyRequest, file_of};
use super::jwt::{JwtBundle, JwtSvids};
use super::{CALL_DEADLINE, NodeInstance, Server, channel};
use crate::backoff::Pace;
use crate::keeper::{Keeper, KeptFile};

/// Clocks are set, and hosts are suspended: nobody sleeps longer before he looks at the time again.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// How soon a certificate is asked for again, after a failure or because the one that came is of no use
/// either, how seldom after a while, and after which quiet time that is forgotten.
const SOONEST: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(120);

/// Beside the credentials, whose names have a dot.
const KEYS_FILE: &str = "jwt-keys";

/// The identities of the workloads that run here.
pub struct Identities {
    server: Server,
    folder: PathBuf,
    keeper: Keeper,
    bundle: Arc<JwtBundle>,
    known: Mutex<HashMap<SpiffeId, Weak<Identity>>>,
    /// Whose certificates peers do not take.
    revoked: watch::Sender<Arc<Revoked>>,
}

/// An identity that is kept valid for as long as somebody holds it.
pub struct Identity {
    certificate: watch::Receiver<Option<Arc<WorkloadCertificate>>>,
    credential: watch::Receiver<Option<Arc<Credential>>>,
    tokens: JwtSvids,
    /// A peer says that the certificate has expired.
    expired: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Identity {
    /// The current certificate: `None` until the first one was issued.
    pub fn certificate(&self) -> watch::Receiver<Option<Arc<WorkloadCertificate>>> {
        self.certificate.clone()
    }

    /// What it is made of: the key, too.
    pub fn credential(&self) -> watch::Receiver<Option<Arc<Credential>>> {
        self.credential.clone()
    }

    pub fn tokens(&self) -> &JwtSvids {
        &self.tokens
    }
}

impl Identities {
    /// Certificates are kept in `folder`, which exists.
    pub fn new(server: Server, folder: &Path, keeper: Keeper) -> Arc<Self> {
        let bundle = Arc::new(JwtBundle::load(keeper.file(folder.join(KEYS_FILE))));
        let (known, revoked) = (Mutex::default(), watch::Sender::default());
        Arc::new(Self { server, folder: folder.to_owned(), keeper, bundle, known, revoked })
    }

    /// The keys of the mesh's JWT-SVIDs.
    pub fn jwt_bundle(&self) -> &Arc<JwtBundle> {
        &self.bundle
    }

    /// The identity of a workload; the first who asks has it issued.
    ///
    /// # Errors
    /// Where one of the names cannot be part of one.
    pub fn get(
        &self,
        namespace: &str,
        service_account: &str,
    ) -> Result<(SpiffeId, Arc<Identity>), InvalidIdentity> {
        let id = self.server.workload_identity(namespace, service_account)?;
        let mut known = self.known.lock();
        known.retain(|_, identity| identity.strong_count() > 0);
        if let Some(identity) = known.get(&id).and_then(Weak::upgrade) {
            return Ok((id, identity));
        }
        let file = self.keeper.file(file_of(&self.folder, namespace, service_account));
        let (server, bundle, revoked) = (self.server.clone(), self.bundle.clone(), self.revoked.subscribe());
        let identity = Arc::new(keep_valid(server, id.clone(), file, bundle, revoked));
        known.insert(id.clone(), Arc::downgrade(&identity));
        Ok((id, identity))
    }
}

/// Has identities renewed that the proxy names because a peer took their certificate for expired.
pub async fn renew_expired(identities: Weak<Identities>, mut expired: mpsc::Receiver<SpiffeId>) {
    while let Some(id) = expired.recv().await {
        let Some(identities) = identities.upgrade() else { return };
        let identity = identities.known.lock().get(&id).and_then(Weak::upgrade);
        if let Some(identity) = identity {
            identity.expired.notify_one();
        }
    }
}

/// Has certificates replaced that are taken back: those of before this node was revoked, after it has joined anew.
pub async fn renew_revoked(identities: Weak<Identities>, state: Arc<StateCell>) {
    let mut changes = state.subscribe();
    loop {
        changes.mark_unchanged();
        let Some(identities) = identities.upgrade() else { return };
        let now = state.load().snapshot.mesh.revoked.clone();
        identities.revoked.send_if_modified(|known| {
            let differs = *known != now;
            *known = now;
            differs
        });
        drop(identities);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn keep_valid(
    server: Server,
    id: SpiffeId,
    file: KeptFile,
    bundle: Arc<JwtBundle>,
    revoked: watch::Receiver<Arc<Revoked>>,
) -> Identity {
    let stored = Credential::load(&file.path).unwrap_or_else(|e| {
        tracing::warn!("a new certificate is needed for {id}: {e}");
        None
    });
    let stored = stored.filter(|c| c.identity == id.as_str() && c.is_valid(server.clock().now()));
    let decoded = stored.as_ref().and_then(|c| c.decode().ok());
    let clock = server.clock().clone();
    let for_proxy = move |svid| Arc::new(WorkloadCertificate::new(svid, clock.clone()));
    let (sender, certificate) = watch::channel(decoded.map(&for_proxy));
    let stored = stored.map(Arc::new);
    let (credentials, credential) = watch::channel(stored.clone());
    let tokens = JwtSvids::new(server.clone(), id.clone(), bundle.clone());
    let expired = Arc::new(Notify::new());
    let refused = Refused { expired: expired.clone(), revoked };
    let task = renew_for_ever(server, id, file, stored, refused, move |svid, renewed| {
        bundle.learn(&renewed.jwt_keys);
        credentials.send_replace(Some(renewed.credential));
        sender.send_replace(Some(for_proxy(svid)));
    });
    Identity { certificate, credential, tokens, expired, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
}

/// Keeps the node's own certificate valid, and has the node speak with it.
pub async fn keep_node_valid(server: Server, id: SpiffeId, file: KeptFile, credential: Credential) {
    let speaker = server.clone();
    // Nobody but the server sees it, and it would not let the node ask for another one.
    let refused = Refused { expired: Arc::default(), revoked: watch::channel(Arc::default()).1 };
    let renewed = move |svid: Svid, _| speaker.use_certificate(&svid);
    renew_for_ever(server, id, file, Some(Arc::new(credential)), refused, renewed).await;
}

/// What says that others do not take a certificate, though its time is not over.
struct Refused {
    expired: Arc<Notify>,
    revoked: watch::Receiver<Arc<Revoked>>,
}

async fn renew_for_ever(
    server: Server,
    id: SpiffeId,
    file: KeptFile,
    mut credential: Option<Arc<Credential>>,
    mut refused: Refused,
    renewed: impl Fn(Svid, Renewed),
) {
    // Whatever the clocks say and the server answers, nothing here is a hot loop.
    let mut pace = Pace::new(SOONEST, SELDOM, QUIET);
    loop {
        if let Some(credential) = &credential {
            due(&server, credential, &mut refused).await;
        }
        pace.turn().await;
        match issue(&server, &id).await.and_then(|c| Ok((c.credential.decode()?, c))) {
            Ok((svid, issued)) => {
                let new = &issued.credential;
                // One that cannot be written is good until the next restart.
                new.keep(&file);
                if new.is_valid(server.clock().now()) {
                    tracing::debug!(not_after = new.not_after, "{id} has a new certificate");
                } else {
                    tracing::warn!(
                        "the new certificate of {id} has expired already by this host's clock: is the clock right?"
                    );
                }
                credential = Some(new.clone());
                renewed(svid, issued);
            }
            Err(e) => {
                let state = match &credential {
                    Some(c) if c.is_valid(server.clock().now()) => "the old one is still good",
                    Some(_) => "the old one has expired",
                    None => "it has none yet",
                };
                tracing::warn!("{id} gets no new certificate for now, {state}: {e:#}");
            }
        }
    }
}

/// Waits until a credential is to be renewed: by the time of the mesh, by what a peer says, or because it was taken back.
async fn due(server: &Server, credential: &Credential, Refused { expired, revoked }: &mut Refused) {
    let stamp = credential.decode().ok().and_then(|svid| svid.stamp());
    let mut clock_changes = server.clock().changes();
    // The share of its life after which it is renewed is drawn once for each certificate.
    let random = rand::random();
    loop {
        let wait = credential.renewal_in(server.clock().now(), random);
        if wait.is_zero() || revoked.borrow_and_update().includes(stamp) {
            return;
        }
        tokio::select! {
            () = sleep(wait.min(LONGEST_SLEEP)) => {}
            Ok(()) = clock_changes.changed() => {}
            Ok(()) = revoked.changed() => {}
            () = expired.notified() => return,
        }
    }
}

/// What the server has signed, and what came with it.
struct Renewed {
    credential: Arc<Credential>,
    jwt_keys: Bytes,
}

async fn issue(server: &Server, id: &SpiffeId) -> anyhow::Result<Renewed> {
    let key = KeyRequest::generate()?;
    let NodeInstance { id: instance, boot_id } = server.instance();
    let request = SignRequest {
        identity: id.to_string(),
        csr: key.csr.clone(),
        instance: instance.clone(),
        boot_id: boot_id.clone(),
    };
    let mut client = server.nodes();
    let answer = timeout(CALL_DEADLINE, client.sign(request)).await.context("the server gives no answer")?;
    let answer = answer.map_err(|status| {
        let why = channel::explain_status(&status);
        match (status.code(), id.subject()) {
            (tonic::Code::PermissionDenied, Subject::Workload { .. }) => anyhow::anyhow!(
                "the server does not let this node have it: {why}; join again with a token that allows it"
            ),
            (tonic::Code::Unauthenticated, _) => {
                anyhow::anyhow!("the server does not know this node: {why}; join again with a new token")
            }
            _ => anyhow::anyhow!("{why}"),
        }
    })?;
    let certificate = answer.into_inner().certificate;
    let jwt_keys = certificate.as_ref().map(|c| c.jwt_keys.clone()).unwrap_or_default();
    Ok(Renewed { credential: Arc::new(key.certified(id.clone(), certificate)?), jwt_keys })
}
