//! Tells the server which workloads run here and what they did, and so holds the node's lease.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tulle_model::clock::{SkewNews, SkewWatch, describe};
use tulle_model::name::WorkloadName;
use tulle_proxy::clock::{MeshClock, wall_millis};
use tulle_proxy::{EdgeCounts, Proxy, Security};
use tulle_wire::node as wire;

use super::advertise::Advertised;
use super::discovery::ConfigAge;
use super::seen::SeenSummaries;
use super::{CALL_DEADLINE, Server, channel, stream_backoff};

/// How often counts are sent. The server's lease is several times as long.
const TELEMETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often at first, and how many times: who has just started a mesh wants to see what goes on.
const EARLY_INTERVAL: Duration = Duration::from_millis(200);
const EARLY_REPORTS: u32 = 50;

/// How long to wait where the server does not take this node: another one of its name may end.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

/// How long the goodbye may take.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// How many reports may wait for the server to take them; later ones replace earlier ones anyway.
const OUTBOX: usize = 4;

/// What a node reports.
pub struct Reporter {
    pub server: Server,
    /// With the address that is advertised at the time.
    pub info: wire::NodeInfo,
    pub advertised: Advertised,
    /// The node's workloads as they are now; a change is reported at once.
    pub workloads: watch::Receiver<Reported>,
    /// What the server makes of them.
    pub verdicts: watch::Sender<Verdict>,
    pub proxy: Arc<Proxy>,
    pub config_age: watch::Receiver<ConfigAge>,
    pub skew: Skew,
    pub seen: SeenSummaries,
}

fn telemetry_ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The node's workloads, counted at each change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    pub version: u64,
    pub workloads: wire::Workloads,
}

/// What the server has said to the workloads of a report.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// The version that it has taken note of; 0 where there is none yet.
    pub version: u64,
    /// Those that it does not take, and why.
    refused: BTreeMap<WorkloadName, String>,
    /// Why it takes none of this node at all. That stands until the server says something else: an outage
    /// does not.
    pub node_refused: Option<String>,
}

impl Verdict {
    /// Why the server does not take a workload of this node.
    pub fn refusal(&self, name: &WorkloadName) -> Option<&String> {
        self.node_refused.as_ref().or_else(|| self.refused.get(name))
    }
}

/// Why a stream of reports has ended.
enum StreamEnd {
    /// The node stops, and the server has been told.
    Left,
    Again,
    /// The server answers, and does not take this node: another one bears its name, or it was revoked.
    Refused(String),
    Broken(String),
}

impl StreamEnd {
    fn with(status: &tonic::Status) -> Self {
        let why = channel::explain_status(status);
        match status.code() {
            Code::AlreadyExists | Code::PermissionDenied => Self::Refused(why),
            _ => Self::Broken(why),
        }
    }
}

impl Reporter {
    /// Reports until `leaving` turns true; then says goodbye, if the server listens.
    pub async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        let mut backoff = stream_backoff();
        let mut told = false;
        loop {
            let started = Instant::now();
            if self.advertised.refresh().await {
                self.server.reconnect();
            }
            match self.stream(&mut leaving).await {
                StreamEnd::Left => return,
                StreamEnd::Again => continue,
                StreamEnd::Refused(why) => {
                    let before = self.verdicts.borrow().node_refused.clone();
                    if before.as_ref() != Some(&why) {
                        tracing::error!(
                            "this node is not in the mesh, and takes no workload until that is mended: {why}"
                        );
                        self.verdicts.send_modify(|verdict| verdict.node_refused = Some(why));
                    }
                    tokio::select! {
                        () = tokio::time::sleep(REFUSED_WAIT) => {}
                        () = turned_true(&mut leaving) => return,
                    }
                    continue;
                }
                // Once for each outage.
                StreamEnd::Broken(why) if told => tracing::debug!("the server still gets no reports: {why}"),
                StreamEnd::Broken(why) => {
                    told = true;
                    tracing::warn!("the server gets no reports of this node for now: {why}");
                }
            }
            if started.elapsed() > Duration::from_secs(10) {
                backoff.reset();
                told = false;
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = turned_true(&mut leaving) => return,
            }
        }
    }

    async fn stream(&mut self, leaving: &mut watch::Receiver<bool>) -> StreamEnd {
        let mut certificates = self.server.certificate_changes();
        certificates.mark_unchanged();
        let (sender, receiver) = mpsc::channel(OUTBOX);
        self.seen.begin();
        let Reported { version, workloads } = self.workloads.borrow_and_update().clone();
        self.info.link_address = self.advertised.watch().borrow().to_string();
        let first = wire::NodeReport {
            info: Some(self.info.clone()),
            workloads: Some(workloads),
            telemetry: Some(self.telemetry()),
            clock: Some(self.clock()),
            ..Default::default()
        };
        let _ = sender.try_send(first);
        let mut client = self.server.nodes();
        let call = client.report(ReceiverStream::new(receiver));
        let mut replies = tokio::select! {
            answer = timeout(CALL_DEADLINE, call) => match answer {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return StreamEnd::with(&status),
                Err(_) => return StreamEnd::Broken("it gives no answer".to_owned()),
            },
            // The server does not even answer: there is nobody to say goodbye to.
            () = turned_true(leaving) => return StreamEnd::Left,
        };
        let mut ticks = telemetry_ticks(EARLY_INTERVAL);
        let mut early = EARLY_REPORTS;
        let mut report = wire::NodeReport::default();
        let mut refused = Vec::new();
        // One reply comes for the opening of the stream, and one for each report, in their order.
        let mut unanswered = VecDeque::from([None, Some(version)]);
        loop {
            tokio::select! {
                reply = replies.message() => match reply {
                    Ok(Some(reply)) if reply.ping != 0 => {
                        report.pong = reply.ping;
                        unanswered.push_back(None);
                    }
                    Ok(Some(reply)) => {
                        let answered = unanswered.pop_front().flatten();
                        if let Some(clock) = reply.clock {
                            self.skew.measured(self.server.clock(), clock);
                        }
                        if reply.refused != refused {
                            refused = reply.refused;
                            for wire::RefusedWorkload { namespace, name, message } in &refused {
                                tracing::warn!("the server refuses the workload {namespace}/{name}: {message}");
                            }
                        }
                        let by_name = refused.iter().map(|r: &wire::RefusedWorkload| {
                            (WorkloadName::new(r.namespace.as_str(), r.name.as_str()), r.message.clone())
                        });
                        let refused = by_name.collect();
                        self.verdicts.send_modify(|verdict| {
                            verdict.refused = refused;
                            verdict.node_refused = None;
                            verdict.version = answered.unwrap_or(verdict.version);
                        });
                        continue;
                    }
                    Ok(None) => return StreamEnd::Broken("it has ended the stream".to_owned()),
                    Err(status) => return StreamEnd::with(&status),
                },
                Ok(()) = self.workloads.changed() => {
                    let Reported { version, workloads } = self.workloads.borrow_and_update().clone();
                    report.workloads = Some(workloads);
                    unanswered.push_back(Some(version));
                }
                _ = ticks.tick() => {
                    if self.advertised.refresh().await {
                        self.server.reconnect();
                        return StreamEnd::Again;
                    }
                    report.telemetry = Some(self.telemetry());
                    report.clock = Some(self.clock());
                    unanswered.push_back(None);
                    early = early.saturating_sub(1);
                    if early == 0 && ticks.period() == EARLY_INTERVAL {
                        ticks = telemetry_ticks(TELEMETRY_INTERVAL);
                    }
                }
                () = turned_true(leaving) => {
                    report.telemetry = Some(self.telemetry());
                    report.leaving = true;
                    let _ = sender.send_timeout(std::mem::take(&mut report), LEAVE_DEADLINE).await;
                    // The server ends its side once it has taken note.
                    drop(sender);
                    let _ = timeout(LEAVE_DEADLINE, async {
                        while let Ok(Some(_)) = replies.message().await {}
                    })
                    .await;
                    return StreamEnd::Left;
                }
                _ = certificates.changed() => return StreamEnd::Again,
            }
            if sender.send_timeout(std::mem::take(&mut report), CALL_DEADLINE).await.is_err() {
                return StreamEnd::Broken("it takes no messages".to_owned());
            }
        }
    }

    fn clock(&self) -> wire::NodeClock {
        let ahead = self.server.clock().wall_ahead();
        wire::NodeClock {
            steady_millis: MeshClock::steady(),
            unix_millis: wall_millis(),
            ahead_millis: ahead.map(|(ahead, _)| ahead),
        }
    }

    fn telemetry(&mut self) -> wire::Telemetry {
        let summaries = self.seen.report(self.proxy.take_summaries());
        let age = *self.config_age.borrow();
        wire::Telemetry {
            edges: self.proxy.edges().into_iter().map(edge).collect(),
            config_age_seconds: age.age().as_secs(),
            config_generation: age.generation,
            summaries,
        }
    }
}

/// Says once when this host's clock and the server's begin to differ, and once when they agree again.
#[derive(Debug, Default)]
pub struct Skew(SkewWatch);

impl Skew {
    fn measured(&mut self, clock: &MeshClock, answer: wire::ServerClock) {
        clock.measured(answer.asked_millis, MeshClock::steady(), answer.unix_millis);
        let Some((ahead, uncertainty)) = clock.wall_ahead() else { return };
        match self.0.look(ahead, uncertainty, MeshClock::steady()) {
            Some(SkewNews::Differ) => tracing::warn!(
                "this host's clock is {} the server's: certificates are checked by the server's time; set the \
                 clocks right (NTP)",
                describe(ahead)
            ),
            Some(SkewNews::Agree) => tracing::info!("this host's clock and the server's agree again"),
            None => {}
        }
    }
}

/// The value stays borrowed no longer than this takes.
async fn turned_true(value: &mut watch::Receiver<bool>) {
    // A sender that is gone has nothing more to say, and neither have we.
    let _ = value.wait_for(|value| *value).await;
}

fn edge(counts: EdgeCounts) -> wire::Edge {
    let security = match counts.security {
        Security::MutualTls => wire::Security::MutualTls,
        Security::SameNode => wire::Security::SameNode,
        Security::Plaintext => wire::Security::Plaintext,
        Security::Tls => wire::Security::Tls,
        Security::Unsent => wire::Security::Unsent,
    };
    wire::Edge {
        source_namespace: counts.source_namespace.to_string(),
        source: counts.source.to_string(),
        destination_namespace: counts.destination.namespace.to_string(),
        destination: counts.destination.name.to_string(),
        security: security.into(),
        protocol: counts.protocol.to_owned(),
        requests: counts.requests,
        failures: counts.failures,
        latency_buckets: counts.latency_buckets.to_vec(),
        bytes_sent: counts.bytes_sent,
        bytes_received: counts.bytes_received,
        refused: counts.refused,
    }
}
