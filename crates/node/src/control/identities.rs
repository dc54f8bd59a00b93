//! The certificates of this node and of its workloads: one key and one certificate for each identity,
//! shared by the replicas that have it, renewed at half of its life, kept on disk so that a restart
//! works with the server down.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tulle_model::identity::{SpiffeId, Subject};
use tulle_proxy::state::WorkloadCertificate;
use tulle_wire::node::SignRequest;

use super::credential::{Credential, KeyRequest, file_of};
use super::{CALL_DEADLINE, Server, channel};
use crate::backoff::Backoff;

/// A wall clock may be set: nobody sleeps through more of it than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// The identities of the workloads that run here.
pub struct Identities {
    server: Server,
    folder: PathBuf,
    known: Mutex<HashMap<SpiffeId, Weak<Identity>>>,
}

/// An identity that is kept valid for as long as somebody holds it.
pub struct Identity {
    certificate: watch::Receiver<Option<Arc<WorkloadCertificate>>>,
    _task: AbortOnDropHandle<()>,
}

impl Identity {
    /// The current certificate: `None` until the first one was issued.
    pub fn certificate(&self) -> watch::Receiver<Option<Arc<WorkloadCertificate>>> {
        self.certificate.clone()
    }
}

impl Identities {
    /// Certificates are kept in `folder`, which exists.
    pub fn new(server: Server, folder: &Path) -> Arc<Self> {
        Arc::new(Self { server, folder: folder.to_owned(), known: Mutex::default() })
    }

    /// The identity of a workload; the first who asks has it issued.
    pub fn get(&self, namespace: &str, service_account: &str) -> (SpiffeId, Arc<Identity>) {
        let id = self.server.workload_identity(namespace, service_account);
        let mut known = self.known.lock();
        known.retain(|_, identity| identity.strong_count() > 0);
        if let Some(identity) = known.get(&id).and_then(Weak::upgrade) {
            return (id, identity);
        }
        let file = file_of(&self.folder, namespace, service_account);
        let identity = Arc::new(keep_valid(self.server.clone(), id.clone(), file));
        known.insert(id.clone(), Arc::downgrade(&identity));
        (id, identity)
    }
}

fn keep_valid(server: Server, id: SpiffeId, file: PathBuf) -> Identity {
    let stored = Credential::load(&file).unwrap_or_else(|e| {
        tracing::warn!("a new certificate is needed for {id}: {e}");
        None
    });
    let stored = stored.filter(|c| c.identity == id.as_str() && c.is_valid(SystemTime::now()));
    let decoded = stored.as_ref().and_then(|c| c.decode().ok()).map(Arc::new);
    let (sender, certificate) = watch::channel(decoded);
    let task = tokio::spawn(renew_for_ever(server, id, file, stored, move |certificate| {
        sender.send_replace(Some(certificate));
    }));
    Identity { certificate, _task: AbortOnDropHandle::new(task) }
}

/// Keeps the node's own certificate valid, and has the node speak with it.
pub async fn keep_node_valid(server: Server, id: SpiffeId, file: PathBuf, credential: Credential) {
    let speaker = server.clone();
    renew_for_ever(server, id, file, Some(credential), move |certificate| {
        if let Err(e) = speaker.use_certificate(&certificate) {
            tracing::warn!("the node's new certificate is of no use: {e:#}");
        }
    })
    .await;
}

async fn renew_for_ever(
    server: Server,
    id: SpiffeId,
    file: PathBuf,
    mut credential: Option<Credential>,
    renewed: impl Fn(Arc<WorkloadCertificate>),
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    loop {
        if let Some(credential) = &credential {
            // The share of its life after which it is renewed is drawn once for each certificate.
            let random = rand::random();
            loop {
                let wait = credential.renewal_in(SystemTime::now(), random);
                if wait.is_zero() {
                    break;
                }
                sleep(wait.min(LONGEST_SLEEP)).await;
            }
        }
        match issue(&server, &id).await.and_then(|c| Ok((Arc::new(c.decode()?), c))) {
            Ok((certificate, new)) => {
                backoff.reset();
                // One that cannot be written is good until the next restart.
                if let Err(e) = new.save(&file) {
                    tracing::warn!("the certificate of {id} is not kept over a restart: {e}");
                }
                tracing::debug!(not_after = new.not_after, "{id} has a new certificate");
                let life = new.not_after - new.not_before;
                credential = Some(new);
                renewed(certificate);
                if life <= 0 {
                    backoff.wait().await;
                }
            }
            Err(e) => {
                let state = match &credential {
                    Some(c) if c.is_valid(SystemTime::now()) => "the old one is still good",
                    Some(_) => "the old one has expired",
                    None => "it has none yet",
                };
                tracing::warn!("{id} gets no new certificate for now, {state}: {e:#}");
                backoff.wait().await;
            }
        }
    }
}

async fn issue(server: &Server, id: &SpiffeId) -> anyhow::Result<Credential> {
    let key = KeyRequest::generate()?;
    let request = SignRequest { identity: id.to_string(), csr: key.csr.clone() };
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
    key.certified(id.clone(), answer.into_inner().certificate)
}
