//! A second node of one name. A node that starts again, or connects again, has left its older stream; a
//! clone of it (the image of a virtual machine, a copied home) comes while the older one is there. Only
//! who runs can answer, so the older stream is pinged while the newcomer waits: an answer fences it.
//!
//! Silence is worth what the newcomer is: one of the same boot of the same host is the node started again,
//! and takes the place after [`PATIENCE`]. One of another boot may be a clone, and the older one merely cut off or frozen for
//! a while: it waits until the older one's lease has run out, too. A server that has just started remembers the boot that the
//! node was last heard from, and gives it the time of a lease to come back; a host that runs the server, too, was started with it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;
use tulle_model::legible::legible_start;
use tulle_model::registry::KindId;
use tulle_model::stamp::Stamp;
use tulle_wire::node::{NodeInfo, ReportReply};

use super::lease::LeaseState;
use super::{Fleet, NodeTask, Record};
use crate::events::Severity;

/// How long an older stream may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// That is counted in steps: one in which this process did not listen itself does not count.
const STEP: Duration = Duration::from_millis(250);
const STEPS: u32 = 8;
/// How many leases a newcomer waits at most, while the older one reports but does not answer.
const LONGEST: u32 = 3;
/// How long a node that was fenced is shown; it tries again more often than that.
pub(super) const SHOWN: Duration = Duration::from_secs(120);

/// Where replies of a report stream go.
pub(super) type Replies = mpsc::Sender<Result<ReportReply, Status>>;

/// A report stream that asks to be the node's.
pub(super) struct Newcomer {
    pub session: u64,
    /// Of the certificate with which it comes.
    pub stamp: Option<Stamp>,
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
    silence: Silence,
    /// When the first who waited came.
    since: Instant,
}

/// How long an older stream has been silent after it was asked.
#[derive(Debug)]
struct Silence {
    /// What it has been asked to say.
    ping: u64,
    /// Whether that is on its way. A full channel is a slow reader's, which need not be silent.
    asked: bool,
    /// How many steps it has been silent for.
    steps: u32,
    /// When the present step ends.
    due: Instant,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self { ping: rand::random_range(1..=u64::MAX), asked: false, steps: 0, due: now + STEP }
    }

    /// Asks the older stream, where it has not been asked.
    fn ask(&mut self, older: Option<&Replies>) {
        let reply = ReportReply { ping: self.ping, ..Default::default() };
        // A stream that has ended is as silent as can be.
        self.asked =
            self.asked || older.is_none_or(|older| older.is_closed() || older.try_send(Ok(reply)).is_ok());
    }

    /// Ends a step.
    fn step(&mut self, now: Instant) {
        // This process was stopped, or the host suspended: the answer may be in the socket.
        let late = now.duration_since(self.due) >= STEP / 2;
        if self.asked && !late {
            self.steps += 1;
        }
        self.due = now + STEP;
    }

    fn is_long(&self) -> bool {
        self.steps >= STEPS
    }
}

impl Waiting {
    /// When it is looked at next.
    pub fn due(&self) -> Instant {
        self.silence.due
    }

    pub fn is_answered_by(&self, pong: u64) -> bool {
        self.silence.ping == pong
    }
}

/// A node that was kept out.
#[derive(Debug, Clone)]
pub(super) struct Fenced {
    pub peer: String,
    pub link_address: String,
    pub at: Instant,
}

/// The address without the port, which is another for each attempt.
fn host(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

/// What the one that is kept out is told.
fn refusal(node: &str, link_address: &str) -> Status {
    Status::already_exists(format!(
        "another node `{node}`, at {link_address}, runs and answers, so this one is kept out: it looks like a \
         clone of it. Stop this node, remove the folder `node` of its home, and let it join with a name and a \
         token of its own (`tulle node --name NAME --token TOKEN`)"
    ))
}

/// What the one is told that asks while another process is connected, which nobody has asked whether it runs.
fn connected(node: &str, link_address: &str) -> Status {
    Status::unavailable(format!(
        "another process of the node `{node}`, at {link_address}, is still connected: there are no certificates \
         for this one before it is gone, or silent for as long as its lease; trying again helps"
    ))
}

/// What the one is told that comes from another boot than the node that the server waits for.
fn expected_back(node: &str) -> Status {
    Status::unavailable(format!(
        "the server has just started, and waits for the node `{node}` on the boot of its host that it knows: there \
         are no certificates for another before the time of a lease is over; trying again helps"
    ))
}

/// What the one that comes too late is told.
fn newer() -> Status {
    Status::aborted("the node has opened a newer report stream")
}

impl Fleet {
    /// Checks that a process which asks for something in a node's name is not another than the one that bears it: that one is
    /// connected, or was a moment ago; or the server has just started, and waits for it on another boot, `known_boot`. Nothing
    /// is known of who does not say who he is, and who lies about it is believed: this holds off accidents.
    ///
    /// # Errors
    /// Where it is another. It may try again: nobody has asked the older one whether it still runs, and it may be this host's
    /// own, of before it booted anew.
    pub fn check_bearer(
        &self,
        node: &str,
        instance: &str,
        boot_id: &str,
        known_boot: &str,
    ) -> Result<(), Status> {
        let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        let nodes = self.nodes.lock();
        let bearer = nodes.get(node).and_then(|known| known.record.as_ref());
        let Some(bearer) = bearer.filter(|bearer| !bearer.info.instance.is_empty()) else {
            let another = differ(boot_id, known_boot) && boot_id != self.boot_id;
            return if another && self.has_just_started(Instant::now()) {
                Err(expected_back(node))
            } else {
                Ok(())
            };
        };
        let lately = bearer.last_heard.elapsed() < PATIENCE;
        let is_there = bearer.connected || lately && differ(boot_id, &bearer.info.boot_id);
        if differ(instance, &bearer.info.instance) && is_there {
            return Err(connected(node, &bearer.info.link_address));
        }
        Ok(())
    }

    /// Whether nodes may not yet have come back since the server started.
    fn has_just_started(&self, now: Instant) -> bool {
        now < self.started + self.leases.lease
    }
}

impl NodeTask {
    /// A stream asks to be the node's.
    pub(super) async fn opened(&mut self, newcomer: Newcomer) {
        let now = Instant::now();
        let open = self.session.as_ref().is_some_and(|(_, older)| !older.is_closed());
        // Before it may keep others waiting.
        if let Err(refused) = self.fleet.enrolment.require_grant(&self.node, newcomer.stamp).await {
            let _ = newcomer.admitted.send(Err(refused.into()));
            return;
        }
        let restart = self.is_restart(&newcomer.info);
        let lately = self.closed_at.is_some_and(|at| now < at + PATIENCE);
        let expected = lately || self.is_expected_back(now);
        if !open && (restart || self.boot_id.is_empty() || self.state != LeaseState::Leased || !expected) {
            self.admit(newcomer).await;
            // Who waited has another to ask now.
            if let Some(waiting) = &mut self.waiting {
                waiting.silence = Silence::new(now);
            }
            return;
        }
        // What the older one was asked stands: many newcomers do not prolong the wait, nor make an answer void.
        let (silence, since) = match self.waiting.take() {
            Some(before) if self.is_restart(&before.newcomer.info) && !restart => {
                let why = "another node of this name waits until its older connection is silent";
                let _ = newcomer.admitted.send(Err(Status::aborted(why)));
                self.waiting = Some(before);
                return;
            }
            Some(Waiting { newcomer: before, silence, since }) => {
                let _ = before.admitted.send(Err(newer()));
                (silence, since)
            }
            None => (Silence::new(now), now),
        };
        let mut waiting = Waiting { newcomer, silence, since };
        waiting.silence.ask(self.session.as_ref().map(|(_, older)| older));
        self.waiting = Some(waiting);
    }

    /// Whether a newcomer runs on the same boot of the same host as the node that is known, or on the server's own host.
    fn is_restart(&self, info: &NodeInfo) -> bool {
        let known = [self.boot_id.as_str(), self.fleet.boot_id.as_str()];
        !info.boot_id.is_empty() && known.contains(&info.boot_id.as_str())
    }

    /// Remembers from which boot the node was heard when the server ran before.
    pub(super) async fn recall_boot(&mut self) {
        if let Ok(Some(grant)) = self.fleet.enrolment.grant(&self.node).await {
            self.boot_id = grant.boot_id;
        }
    }

    /// Whether the server has started within a lease, and has not heard the node since.
    fn is_expected_back(&self, now: Instant) -> bool {
        self.instance.is_empty() && self.fleet.has_just_started(now)
    }

    /// Looks after who waits: asks the older stream if it has not been asked, and decides what its silence means.
    pub(super) async fn look_at_waiting(&mut self) {
        let now = Instant::now();
        let Some(mut waiting) = self.waiting.take() else { return };
        if waiting.newcomer.admitted.is_closed() {
            return; // It is gone.
        }
        waiting.silence.step(now);
        waiting.silence.ask(self.session.as_ref().map(|(_, older)| older));
        let ended = self.session.as_ref().is_none_or(|(_, older)| older.is_closed());
        let ended = ended && !self.is_expected_back(now);
        let decides = ended || self.state != LeaseState::Leased || self.is_restart(&waiting.newcomer.info);
        let longest = LONGEST * self.fleet.leases.lease.max(PATIENCE);
        let over = now.duration_since(waiting.since) > longest;
        if waiting.silence.is_long() && decides || over && self.state != LeaseState::Leased {
            tracing::info!(node = %self.node, "its older connection is silent and is replaced");
            self.admit(waiting.newcomer).await;
        } else if over {
            // It reports, so it runs.
            self.fence(waiting.newcomer);
        } else {
            self.waiting = Some(waiting);
        }
    }

    /// The node's stream has ended: one that waits and runs on the same boot takes its place. Another waits on: the
    /// node may come back at once.
    pub(super) async fn closed(&mut self) {
        self.session = None;
        self.closed_at = Some(Instant::now());
        self.update(|record| record.connected = false);
        if let Some(waiting) = self.waiting.take() {
            if self.is_restart(&waiting.newcomer.info) {
                self.admit(waiting.newcomer).await;
            } else {
                let silence = Silence { asked: true, ..Silence::new(Instant::now()) };
                self.waiting = Some(Waiting { silence, ..waiting });
            }
        }
    }

    /// Makes a stream the node's.
    pub(super) async fn admit(&mut self, newcomer: Newcomer) {
        let Newcomer { session, stamp, mut info, replies, admitted, .. } = newcomer;
        // It may have waited since it had one.
        if let Err(refused) = self.fleet.enrolment.require_grant(&self.node, stamp).await {
            let _ = admitted.send(Err(refused.into()));
            return;
        }
        if admitted.send(Ok(())).is_err() {
            return; // It is gone.
        }
        info.version = legible_start(&info.version, 100).into_owned();
        info.capture_mode = legible_start(&info.capture_mode, 100).into_owned();
        if let Some((_, older)) = self.session.replace((session, replies)) {
            let _ = older.try_send(Err(newer()));
        }
        self.instance.clone_from(&info.instance);
        let booted = self.boot_id != info.boot_id;
        self.boot_id.clone_from(&info.boot_id);
        self.closed_at = None;
        let moved = self.link_address != info.link_address;
        if moved {
            self.log_move(&info.link_address);
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
            left: false,
        };
        if let Some(known) = self.fleet.nodes.lock().get_mut(&self.node) {
            known.record = Some(record);
        }
        self.heard().await;
        self.fleet.nodes_changed.notify_one();
        if moved && !self.reported.is_empty() {
            self.write().await;
        }
        self.reply();
        if booted && let Err(error) = self.fleet.enrolment.booted(&self.node, &self.boot_id).await {
            tracing::debug!(node = %self.node, %error, "the boot of a node's host is not kept");
        }
    }

    /// Keeps a node out whose name a node that answers bears.
    pub(super) fn fence(&mut self, newcomer: Newcomer) {
        let Newcomer { info, peer, admitted, .. } = newcomer;
        self.fleet.metrics.nodes_fenced.add(1);
        let message =
            format!("another node of this name, from {}, was kept out: this one answers", host(&peer));
        self.fleet.events.record(
            Severity::Warning,
            (KindId::Node.kind(), "", &self.node),
            "Fenced",
            &message,
        );
        let fenced = Fenced {
            peer,
            link_address: legible_start(&info.link_address, 100).into_owned(),
            at: Instant::now(),
        };
        let mut before = None;
        self.update(|record| before = record.fenced.replace(fenced.clone()));
        self.log_fenced(&fenced, before.as_ref());
        let _ = admitted.send(Err(refusal(&self.node, &self.link_address)));
    }

    fn log_move(&self, to: &str) {
        if !self.link_address.is_empty() {
            tracing::info!(node = %self.node, from = self.link_address, to, "a node has moved");
        }
    }

    /// Not each time that it tries again.
    fn log_fenced(&self, fenced: &Fenced, before: Option<&Fenced>) {
        if before.is_none_or(|before| host(&before.peer) != host(&fenced.peer) || before.at.elapsed() > SHOWN)
        {
            tracing::warn!(
                node = %self.node, at = self.link_address, other = fenced.peer,
                "another node of this name is kept out: it looks like a clone; let it join with a name of its own"
            );
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
