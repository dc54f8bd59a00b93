//! What a node says of itself: on its socket as JSON, on its admin port as metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tulle_model::exposition::{Metric, escaped};
use tulle_model::name::WorkloadName;
use tulle_proxy::Proxy;

use crate::capture::CaptureMode;
use crate::control::Server;
use crate::control::discovery::ConfigAge;
use crate::exposure;
use crate::node_state::StatePublisher;
use crate::passage::Outside;
use crate::workloads::{WAITS_FOR_CERTIFICATE, WorkloadStatus, Workloads};

/// The state of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub name: String,
    pub version: String,
    pub trust_domain: String,
    pub capture_mode: String,
    /// Why it captures in this way.
    pub capture_reason: String,
    /// Where it takes links.
    pub link_address: String,
    pub server: String,
    pub connected: bool,
    /// 0 while the server is connected.
    pub config_age_seconds: u64,
    pub config_generation: u64,
    /// By how many seconds this host's clock is ahead of the server's (negative: behind); `None` until the
    /// server has told its time.
    #[serde(default)]
    pub clock_ahead_seconds: Option<f64>,
    /// How many services the node knows of, because its workloads use them.
    pub services: usize,
    pub workloads: Vec<WorkloadStatus>,
    /// Workloads that are to come (`tulle up`), and what they wait for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingWorkload>,
    /// What whoever runs the host should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What is good to know, and no trouble.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A workload that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingWorkload {
    pub namespace: String,
    pub name: String,
    /// What it waits for.
    pub reason: String,
}

fn waiting((name, reason): (WorkloadName, String)) -> WaitingWorkload {
    WaitingWorkload { namespace: name.namespace.to_string(), name: name.name.to_string(), reason }
}

/// Where the state is read from.
pub(crate) struct StatusSource {
    pub name: String,
    pub capture_mode: &'static str,
    pub capture_reason: String,
    pub link_address: watch::Receiver<SocketAddr>,
    pub server_address: String,
    pub server: Server,
    pub workloads: Arc<Workloads>,
    pub state: Arc<StatePublisher>,
    pub config_age: watch::Receiver<ConfigAge>,
    pub proxy: Arc<Proxy>,
    /// `None` where it comes to the proxy.
    pub outside: Option<Arc<Outside>>,
}

impl StatusSource {
    pub fn status(&self) -> NodeStatus {
        let mut status = self.facts();
        if self.capture_mode == CaptureMode::Explicit.as_str() {
            let exposed = exposure::exposed(&self.state.cell().load());
            status.warnings.extend(exposed.iter().map(ToString::to_string));
        }
        status
    }

    /// What takes no look at the host.
    fn facts(&self) -> NodeStatus {
        let age = *self.config_age.borrow();
        let connected = *self.server.connected().borrow();
        let mut workloads = self.workloads.list();
        for workload in workloads.iter_mut().filter(|w| !connected && w.reason == WAITS_FOR_CERTIFICATE) {
            workload.reason += &format!(", and the server at {} does not answer", self.server_address);
        }
        NodeStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.server.trust_domain().to_string(),
            capture_mode: self.capture_mode.to_owned(),
            capture_reason: self.capture_reason.clone(),
            link_address: self.link_address.borrow().to_string(),
            server: self.server_address.clone(),
            connected,
            config_age_seconds: age.age().as_secs(),
            config_generation: age.generation,
            clock_ahead_seconds: self.server.clock().wall_ahead().map(|(ahead, _)| ahead as f64 / 1000.0),
            services: self.state.cell().load().snapshot.services.len(),
            workloads,
            waiting: self.workloads.announced().into_iter().map(waiting).collect(),
            warnings: self.workloads.warnings(),
            notes: self.workloads.notes(),
        }
    }

    /// Ready to serve: the configuration is known, from the server or from disk.
    pub fn is_ready(&self) -> bool {
        *self.server.connected().borrow() || self.config_age.borrow().generation > 0
    }

    /// The proxy's metrics and the node's own, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut text = self.proxy.metrics();
        // OpenMetrics ends with this line; what is added has to stand before it.
        let end = "# EOF\n";
        let ended = text.ends_with(end);
        if ended {
            text.truncate(text.len() - end.len());
        }
        if let Some(outside) = &self.outside {
            outside.metrics(&mut text);
        }
        let status = self.facts();
        let ready = status.workloads.iter().filter(|w| w.ready).count();
        let stale: usize = self.state.cell().load().snapshot.endpoints.values().map(|set| set.stale()).sum();
        let gauges = [
            ("tulle_node_server_connected", "Whether the server answers.", u64::from(status.connected)),
            (
                "tulle_node_config_generation",
                "How often the configuration has changed.",
                status.config_generation,
            ),
            ("tulle_node_config_age_seconds", "How old the configuration may be.", status.config_age_seconds),
            ("tulle_node_services", "Services that the node knows of.", status.services as u64),
            ("tulle_node_endpoints_stale", "Endpoints whose node the server does not hear of.", stale as u64),
            ("tulle_node_workloads", "Workloads of the node.", status.workloads.len() as u64),
            ("tulle_node_workloads_ready", "Workloads that take traffic.", ready as u64),
        ];
        for (name, help, value) in gauges {
            Metric::gauge(name, help).single(&mut text, value);
        }
        if let Some(ahead) = status.clock_ahead_seconds {
            let help = "How far the host's clock is ahead of the server's.";
            Metric::gauge("tulle_node_clock_ahead_seconds", help).single(&mut text, ahead);
        }
        let expiry = Metric::gauge(
            "tulle_node_certificate_expiry_timestamp_seconds",
            "When a workload's certificate expires.",
        );
        expiry.head(&mut text);
        for workload in &status.workloads {
            if let Some(not_after) = workload.certificate_not_after {
                let labels = format!(
                    "namespace=\"{}\",workload=\"{}\"",
                    escaped(&workload.namespace),
                    escaped(&workload.name)
                );
                expiry.line(&mut text, "", &labels, not_after);
            }
        }
        if ended {
            text.push_str(end);
        }
        text
    }
}
