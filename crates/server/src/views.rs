//! What the API shows beside resources: edges, nodes, join tokens, health, metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tulle_model::exposition::Metric;
use tulle_model::registry::KindId;
use tulle_model::summary::SummaryView;

use crate::access::Access;
use crate::audit::Audit;
use crate::ca::api::ApiAuthority;
use crate::ca::mesh::MeshAuthority;
use crate::enrolment::{Enrolment, EnrolmentError, TokenRequest};
use crate::fleet::{EvictError, Fleet, NodeView};
use crate::flows::{FlowTally, Flows};
use crate::history::{History, uid_of};
use crate::metrics::{Metrics, REFUSAL_REASONS};
use crate::objects::{ObjectError, Objects};
use crate::publication::Publication;
use crate::telemetry::{DestinationView, EdgeView, RATE_WINDOW};
use crate::timestamp::{self, seconds};

/// Of how many Flows metrics say something.
const MOST_FLOWS: usize = 1_000;
/// How long a join token lives where nothing is said.
const DEFAULT_TTL: u64 = 600;

/// `GET /tulle/v1alpha1/edges`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edges {
    pub edges: Vec<EdgeView>,
    /// Over how many seconds rates are taken.
    pub window_seconds: u64,
}

/// `GET /tulle/v1alpha1/summaries`
#[derive(Debug, Serialize)]
pub struct SummariesView {
    pub summaries: Vec<SummaryView>,
}

/// `GET /tulle/v1alpha1/destinations`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destinations {
    pub destinations: Vec<DestinationView>,
    /// Over how many seconds rates are taken.
    pub window_seconds: u64,
}

/// `GET /tulle/v1alpha1/nodes`
#[derive(Debug, Serialize)]
pub struct Nodes {
    pub nodes: Vec<NodeView>,
    /// What is wrong with the server itself, a sentence each.
    pub problems: Vec<String>,
}

/// The body of `POST /tulle/v1alpha1/tokens`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// `namespace/service-account`, `namespace/*`, or `*`.
    pub identities: Vec<String>,
    /// Namespaces whose Flows the node runs, or `*` for all.
    #[serde(default)]
    pub flows: Vec<String>,
    /// Ten minutes where nothing is said.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// The only node that may use it.
    #[serde(default)]
    pub node: Option<String>,
}

/// The answer to it.
#[derive(Debug, Serialize)]
pub struct Token {
    /// A secret.
    pub token: String,
    #[serde(flatten)]
    pub about: TokenView,
}

/// A token without its secret.
#[derive(Debug, Serialize)]
pub struct TokenView {
    /// The second part of the token.
    pub id: String,
    /// `namespace/service-account`, `namespace/*`, or `*` for all.
    pub identities: Vec<String>,
    /// Namespaces whose Flows the node runs, or `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<String>,
    /// The only node that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// RFC 3339, as `expires`.
    pub created: String,
    pub expires: String,
}

/// `GET /tulle/v1alpha1/tokens`
#[derive(Debug, Serialize)]
pub struct Tokens {
    pub tokens: Vec<TokenView>,
}

/// The views of a running server; clones share it.
#[derive(Clone)]
pub struct Views {
    pub(crate) objects: Objects,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) enrolment: Enrolment,
    pub(crate) publication: Arc<Publication>,
    pub(crate) flows: Arc<Flows>,
    pub(crate) authority: Arc<MeshAuthority>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access: Access,
    pub(crate) audit: Audit,
    pub(crate) history: History,
    pub(crate) api_authority: Arc<ApiAuthority>,
}

impl Views {
    /// That of a Namespace; `None` for what is in none. Empty where there is no such Namespace.
    pub(crate) async fn namespace_uid(&self, name: &str) -> Result<Option<String>, ObjectError> {
        if name.is_empty() {
            return Ok(None);
        }
        let namespace = self.objects.get(KindId::Namespace.kind(), "", name).await?;
        Ok(Some(namespace.as_ref().map(uid_of).unwrap_or_default()))
    }

    /// Who calls whom.
    pub fn edges(&self) -> Edges {
        Edges { edges: self.fleet.edges(), window_seconds: RATE_WINDOW }
    }

    /// What was asked of workloads in the last day, of that namespace or of all.
    pub fn summaries(&self, namespace: Option<&str>) -> SummariesView {
        SummariesView { summaries: self.fleet.summaries(namespace) }
    }

    /// How those fare that are called.
    pub fn destinations(&self) -> Destinations {
        Destinations { destinations: self.fleet.destinations(), window_seconds: RATE_WINDOW }
    }

    /// The nodes and their workloads.
    pub fn nodes(&self) -> Nodes {
        let problems = self.objects.trouble().map(|trouble| trouble.to_string()).into_iter().collect();
        Nodes { nodes: self.fleet.nodes(), problems }
    }

    /// Removes a node that does not come back, and its workloads; returns how many.
    pub async fn evict(&self, node: &str) -> Result<usize, EvictError> {
        let evicted = self.fleet.evict(node, false).await;
        self.removed(node, evicted, false).await
    }

    /// Removes what is left of a node that is not known any more, or was removed; tells of it.
    async fn removed(
        &self,
        node: &str,
        evicted: Result<usize, EvictError>,
        revoked: bool,
    ) -> Result<usize, EvictError> {
        let evicted = match evicted {
            // It went long ago, or the server has started since.
            Err(EvictError::Unknown(_)) if self.fleet.has_object(node).await => Ok(0),
            other => other,
        };
        if evicted.is_ok() {
            self.fleet.forget_object(node).await?;
            self.fleet.tell_removal(node, revoked);
        }
        evicted
    }

    /// Removes a node, connected or not, that may not come back with the certificate that it has.
    pub async fn revoke(&self, node: &str) -> Result<usize, EvictError> {
        let had = self.enrolment.revoke(node, SystemTime::now()).await?;
        // Whoever comes from now on is refused.
        self.publication.revoke(node);
        self.flows.revoke(node);
        let evicted = match self.fleet.evict(node, true).await {
            Err(EvictError::Unknown(_)) if had => Ok(0),
            other => other,
        };
        self.removed(node, evicted, true).await
    }

    /// Makes a join token. [`EnrolmentError::Invalid`] is the client's fault.
    pub async fn create_token(&self, request: NewToken) -> Result<Token, EnrolmentError> {
        let request = TokenRequest {
            identities: request.identities,
            flows: request.flows,
            ttl: Duration::from_secs(request.ttl_seconds.unwrap_or(DEFAULT_TTL)),
            node: request.node,
            replace: false,
        };
        let now = SystemTime::now();
        let (identities, flows) = (request.identities.clone(), request.flows.clone());
        let node = request.node.clone();
        let token = self.enrolment.create_token(request, now).await?;
        let id = token.text.split('.').nth(1).unwrap_or_default().to_owned();
        let (created, expires) = (timestamp::at(seconds(now)), timestamp::at(seconds(token.expires)));
        let about = TokenView { id, identities, flows, node, created, expires };
        Ok(Token { token: token.text, about })
    }

    /// The join tokens that nobody has used yet.
    pub async fn tokens(&self) -> Result<Tokens, EnrolmentError> {
        let known = self.enrolment.tokens(SystemTime::now()).await?.into_iter();
        let views = known.map(|token| TokenView {
            id: token.id,
            identities: token.identities,
            flows: token.flows,
            node: token.node,
            created: timestamp::at(token.made),
            expires: timestamp::at(token.expires),
        });
        Ok(Tokens { tokens: views.collect() })
    }

    /// Takes a join token back; whether there was one.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, EnrolmentError> {
        self.enrolment.revoke_token(id).await
    }

    /// The runs of Flows.
    pub fn flows(&self) -> &Arc<Flows> {
        &self.flows
    }

    /// Whether the server can do its work; the text says what is in the way.
    pub async fn ready(&self) -> Result<(), String> {
        self.objects
            .get(tulle_model::registry::KindId::Mesh.kind(), "", "default")
            .await
            .map(drop)
            .map_err(|error| format!("the store cannot be read: {error}"))
    }

    /// What is counted of runs, of so many Flows.
    fn add_runs(&self, text: &mut String) {
        Metric::gauge("tulle_flow_runners", "Nodes that run Flows and are connected.")
            .single(text, self.flows.runners());
        let tallies = self.flows.tallies();
        let shown = || {
            let shown = tallies.iter().take(MOST_FLOWS);
            shown.map(|(flow, tally)| {
                (format!("namespace=\"{}\",flow=\"{}\"", flow.namespace, flow.name), tally)
            })
        };
        let total = Metric::counter(
            "tulle_flow_runs_total",
            "Runs of Flows since the server's start, by what became of them.",
        );
        total.head(text);
        for (labels, tally) in shown() {
            for (state, count) in [
                ("started", tally.started),
                ("completed", tally.completed),
                ("faulted", tally.faulted),
                ("cancelled", tally.cancelled),
                ("refused", tally.refused),
            ] {
                total.line(text, "", &format!("{labels},state=\"{state}\""), count);
            }
        }
        for (metric, count) in [
            (
                Metric::gauge("tulle_flow_runs_active", "Runs of Flows that have begun and are not over."),
                (|tally| tally.open) as fn(&FlowTally) -> usize,
            ),
            (Metric::gauge("tulle_flow_runs_queued", "Runs of Flows that wait for their turn."), |tally| {
                tally.queued
            }),
        ] {
            metric.head(text);
            shown().for_each(|(labels, tally)| metric.line(text, "", &labels, count(tally)));
        }
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The server's metrics in Prometheus' text format.
    pub async fn metrics(&self) -> String {
        let mut text = String::new();
        for (name, help, value) in self.metrics.counters() {
            Metric::counter(name, help).single(&mut text, value);
        }
        let refused = Metric::counter(
            "tulle_server_connections_refused_total",
            "Connections to the nodes' port that were refused.",
        );
        refused.head(&mut text);
        for (reason, count) in REFUSAL_REASONS.into_iter().zip(&self.metrics.connections_refused) {
            refused.line(&mut text, "", &format!("reason=\"{reason}\""), count.get());
        }
        Metric::counter(
            "tulle_server_certificates_issued_total",
            "Certificates of the mesh that were signed.",
        )
        .single(&mut text, self.authority.issued());
        Metric::counter(
            "tulle_server_audit_lost_total",
            "Entries of the audit log that could not be written.",
        )
        .single(&mut text, self.audit.lost());
        let (streams, subscriptions) = self.publication.load();
        let (connected, stale, edges) = self.fleet.load();
        let writable = usize::from(self.objects.trouble().is_none());
        for (name, help, value) in [
            ("tulle_server_discovery_streams", "Open discovery streams.", streams),
            ("tulle_server_discovery_subscriptions", "Names that nodes subscribe to.", subscriptions),
            ("tulle_server_nodes_connected", "Nodes with an open report stream.", connected),
            ("tulle_server_workloads_stale", "Workloads of nodes that are not heard of.", stale),
            ("tulle_server_edges", "Edges with traffic in the last minute.", edges),
            (
                "tulle_server_store_writable",
                "Whether the store takes all writes: 0 on a full disk, and on one that can only be read.",
                writable,
            ),
        ] {
            Metric::gauge(name, help).single(&mut text, value);
        }
        self.add_runs(&mut text);
        // Where it cannot be asked for, it is not known.
        if let Ok(revision) = self.objects.revision().await {
            Metric::gauge("tulle_server_store_revision", "The revision of the latest write.")
                .single(&mut text, revision);
        }
        text
    }
}
