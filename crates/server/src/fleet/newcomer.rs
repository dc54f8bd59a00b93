//! A second node of one name. A node that starts again, or connects again, has left its older stream; a
//! clone of it (the image of a virtual machine, a copied home) comes while the older one is there. Only
//! who runs can answer, so the older stream is pinged: the newcomer waits until that ends (it takes its
//! place), answers (the newcomer is fenced), or has been silent for too long (it takes its place).

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;
use tulle_wire::node::{NodeInfo, ReportReply};

use super::{NodeTask, Record};
use crate::grpc::legible;

/// How long an older stream may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a node that was fenced is shown; it tries again more often than that.
pub(super) const SHOWN: Duration = Duration::from_secs(120);

/// Where replies of a report stream go.
pub(super) type Replies = mpsc::Sender<Result<ReportReply, Status>>;

/// A report stream that asks to be the node's.
pub(super) struct Newcomer {
    pub session: u64,
    pub info: NodeInfo,
    /// The address that it comes from.
    pub peer: String,
    pub replies: Replies,
    /// Takes the answer.
    pub admitted: oneshot::Sender<Result<(), Status>>,
}

/// A newcomer that waits for what the older stream says.
pub(super) struct Waiting {
    pub newcomer: Newcomer,
    /// What the older stream has been asked to say.
    pub ping: u64,
    pub deadline: Instant,
}

impl Waiting {
    /// Asks the older stream. Where another newcomer waits already, its deadline stays.
    pub fn ask(newcomer: Newcomer, older: &Replies, deadline: Option<Instant>) -> Self {
        let ping = rand::random_range(1..=u64::MAX);
        // A node that takes no replies answers none.
        let _ = older.try_send(Ok(ReportReply { ping, ..Default::default() }));
        Self { newcomer, ping, deadline: deadline.unwrap_or_else(|| Instant::now() + PATIENCE) }
    }
}

/// A node that was kept out.
#[derive(Debug, Clone)]
pub(super) struct Fenced {
    pub peer: String,
    pub link_address: String,
    pub at: Instant,
}

/// What the one that is kept out is told.
fn refusal(node: &str, link_address: &str) -> Status {
    Status::already_exists(format!(
        "another node `{node}`, at {link_address}, runs and answers, so this one is kept out: it looks like a \
         clone of it. Stop this node, remove the folder `node` of its home, and let it join with a name and a \
         token of its own (`tulle node --name NAME --token TOKEN`)"
    ))
}

impl NodeTask {
    /// Nothing was heard of the older stream: who waits takes its place.
    pub(super) async fn admit_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.admit(waiting.newcomer).await;
        }
    }

    /// Makes a stream the node's.
    pub(super) async fn admit(&mut self, newcomer: Newcomer) {
        let Newcomer { session, mut info, replies, admitted, .. } = newcomer;
        if admitted.send(Ok(())).is_err() {
            return; // It is gone.
        }
        info.version = legible(&info.version, 100).into_owned();
        info.capture_mode = legible(&info.capture_mode, 100).into_owned();
        if let Some((_, older)) = self.session.replace((session, replies)) {
            let _ = older.try_send(Err(Status::aborted("the node has opened a newer report stream")));
        }
        self.instance.clone_from(&info.instance);
        let moved = self.link_address != info.link_address;
        if moved && !self.link_address.is_empty() {
            tracing::info!(node = %self.node, from = self.link_address, to = info.link_address, "a node has moved");
        }
        self.link_address.clone_from(&info.link_address);
        let workloads = self.reported.clone().into();
        let now = Instant::now();
        let record = Record {
            info,
            connected: true,
            last_heard: now,
            config_age_seconds: 0,
            config_generation: 0,
            config_heard: now,
            clock_ahead: None,
            workloads,
            stale_since: None,
            refused: self.refused.clone().into(),
            fenced: None,
        };
        if let Some(known) = self.fleet.nodes.lock().get_mut(&self.node) {
            known.record = Some(record);
        }
        self.heard();
        if moved && !self.reported.is_empty() {
            self.write().await;
        }
        self.reply();
    }

    /// Keeps a node out whose name a node that answers bears.
    pub(super) fn fence(&mut self, newcomer: Newcomer) {
        let Newcomer { info, peer, admitted, .. } = newcomer;
        self.fleet.metrics.nodes_fenced.add(1);
        let fenced =
            Fenced { peer, link_address: legible(&info.link_address, 100).into_owned(), at: Instant::now() };
        let mut before = None;
        self.update(|record| before = record.fenced.replace(fenced.clone()));
        // It tries again and again.
        if before.is_none_or(|before| before.peer != fenced.peer || before.at.elapsed() > SHOWN) {
            tracing::warn!(
                node = %self.node, at = self.link_address, other = fenced.peer,
                "another node of this name is kept out: it looks like a clone; let it join with a name of its own"
            );
        }
        let _ = admitted.send(Err(refusal(&self.node, &self.link_address)));
    }
}
