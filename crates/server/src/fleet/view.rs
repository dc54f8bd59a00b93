//! Nodes as people see them: what the API shows, and the commands.

use std::time::SystemTime;

use serde::Serialize;
use tokio::time::Instant;
use tulle_model::clock;
use tulle_model::legible::legible_start;
use tulle_model::summary::SummaryView;

use super::{Fleet, Record, newcomer, node_objects};
use crate::telemetry::{DestinationView, EdgeView};
use crate::timestamp::seconds;

/// A node, for people.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub name: String,
    pub link_address: String,
    pub version: String,
    pub capture_mode: String,
    pub connected: bool,
    pub last_seen_seconds: u64,
    /// Since its configuration last changed or was confirmed, as the node said.
    pub config_age_seconds: u64,
    pub config_generation: u64,
    /// By how many seconds its clock is ahead of the server's (negative: behind), where it is known.
    pub clock_ahead_seconds: Option<f64>,
    /// A sentence about that, where it is notable.
    pub clock_problem: Option<String>,
    pub workloads: Vec<NodeWorkloadView>,
    /// Another node of this name that was kept out lately.
    pub fenced: Option<FencedView>,
}

/// A node that is kept out, as another one bears its name and answers.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FencedView {
    /// Where it connects from.
    pub peer: String,
    /// Where it says that it takes links.
    pub link_address: String,
    /// Since it last tried.
    pub last_seen_seconds: u64,
}

/// A workload of a node, for people.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeWorkloadView {
    pub namespace: String,
    pub name: String,
    pub ready: bool,
    pub reason: String,
    /// For how long nothing was heard of its node; none where it is heard.
    pub stale_seconds: Option<u64>,
    /// None where it has no certificate yet; negative when it has expired.
    pub certificate_expires_in_seconds: Option<i64>,
}

/// A node as its record shows it, at a time; none of the workloads of one that is drained takes traffic.
pub(super) fn view(name: &str, record: &Record, drained: bool, now: Instant, time: SystemTime) -> NodeView {
    let time = i64::try_from(seconds(time)).unwrap_or(i64::MAX);
    let refusal_of = |namespace: &str, name: &str| {
        record.refused.iter().find(|r| r.namespace == namespace && r.name == name).map(|r| &r.message)
    };
    let workloads =
        record.workloads.iter().map(|workload| (workload, refusal_of(&workload.namespace, &workload.name)));
    let workloads = workloads.map(|(workload, refusal)| NodeWorkloadView {
        namespace: legible_start(&workload.namespace, 253).into_owned(),
        name: legible_start(&workload.name, 253).into_owned(),
        ready: workload.ready && refusal.is_none() && !drained,
        reason: match refusal {
            None if drained => node_objects::DRAINED.to_owned(),
            refusal => legible_start(refusal.unwrap_or(&workload.reason), 1000).into_owned(),
        },
        stale_seconds: record.stale_since.map(|since| time.saturating_sub(since).try_into().unwrap_or(0)),
        certificate_expires_in_seconds: (workload.certificate_not_after != 0)
            .then(|| workload.certificate_not_after.saturating_sub(time)),
    });
    NodeView {
        name: name.to_owned(),
        link_address: record.info.link_address.clone(),
        version: record.info.version.clone(),
        capture_mode: record.info.capture_mode.clone(),
        connected: record.connected,
        last_seen_seconds: (now - record.last_heard).as_secs(),
        config_age_seconds: record.config_age_seconds.saturating_add((now - record.config_heard).as_secs()),
        config_generation: record.config_generation,
        clock_ahead_seconds: record.clock_ahead.map(|ahead| ahead as f64 / 1000.0),
        clock_problem: record.clock_ahead.filter(|&ahead| clock::is_notable(ahead, 0)).map(|ahead| {
            format!("the clock of the node `{name}` is {} the server's", clock::describe(ahead))
        }),
        workloads: workloads.collect(),
        fenced: record.fenced.as_ref().filter(|f| now - f.at < newcomer::SHOWN).map(|f| FencedView {
            peer: f.peer.clone(),
            link_address: f.link_address.clone(),
            last_seen_seconds: (now - f.at).as_secs(),
        }),
    }
}

impl Fleet {
    /// Who calls whom.
    pub fn edges(&self) -> Vec<EdgeView> {
        let now = self.second();
        let mut edges = self.roll_up.lock().view(now);
        self.summaries.lock().name_addresses(&mut edges, now);
        edges
    }

    /// What was asked of workloads in the last day, of that namespace or of all.
    pub fn summaries(&self, namespace: Option<&str>) -> Vec<SummaryView> {
        self.summaries.lock().view(namespace, self.second(), SystemTime::now())
    }

    /// How those fare that are called.
    pub fn destinations(&self) -> Vec<DestinationView> {
        self.roll_up.lock().destinations(self.second())
    }
}
