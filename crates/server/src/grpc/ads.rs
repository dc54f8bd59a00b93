//! Discovery: Envoy's incremental xDS transport (xDS REST and gRPC protocol, "Incremental xDS") with
//! Tulle's own resource types.
//!
//! One task a stream. It answers subscriptions, sends what changed, and takes confirmations (a
//! request with the nonce of a response) and refusals (the same with an error). A node that comes
//! back says which versions it has, and gets only what differs. A name without a resource is
//! answered in `removed_resources`, and in the same way one that is not for this node, which the audit log alone tells
//! apart. Which node asks, its certificate says. A node that runs nothing yet waits a moment for its answer: what it runs may
//! be known just then.
//!
//! Bounded: names for each stream, bytes and names for each response, responses that are not yet
//! confirmed. A node that takes nothing for half a minute loses its stream and may come back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};
use tulle_model::legible::legible_start;
use tulle_wire::type_url;
use tulle_wire::xds::aggregated_discovery_service_server::AggregatedDiscoveryService;
use tulle_wire::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::{CallingNode, caller, note_refusal};
use crate::audit::{Audit, AuditEntry};
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::metrics::Metrics;
use crate::publication::{Key, Publication, ResourceType, STREAMS_OF_A_NODE, StreamHandle, Withheld};

/// How many names one stream may subscribe to.
const NAMES_LIMIT: usize = 50_000;
/// How many bytes a name has at most: two DNS names and a slash.
const LONGEST_NAME: usize = 2 * 253 + 1;
/// How many resources, and about how many bytes, one response holds.
const RESPONSE_NAMES: usize = 256;
const RESPONSE_BYTES: usize = 1 << 20;
/// How many responses may wait for their confirmation.
const UNCONFIRMED: usize = 16;
/// How long a node that runs nothing waits until it is answered that there are no Services: longer than it waits itself for a
/// request that asks (2 s), so that none fails for it just when a workload has come.
const IDLE_WAIT: Duration = Duration::from_secs(3);
/// How long a node may take nothing while something waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The discovery service.
#[derive(Clone)]
pub struct Discovery {
    pub enrolment: Enrolment,
    pub publication: Arc<Publication>,
    pub metrics: Arc<Metrics>,
    pub audit: Audit,
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let CallingNode { name: node, stamp, expires } = caller(&request, "discover", &self.audit)?;
        let inbound = request.into_inner();
        let (outbound, responses) = mpsc::channel(4);
        let handle = self.publication.open(node).ok_or_else(|| {
            Status::resource_exhausted(format!("a node may have {STREAMS_OF_A_NODE} discovery streams"))
        })?;
        // After it was opened: who is revoked from now on loses it.
        if let Err(refused) = self.enrolment.require_grant(&handle.node, stamp).await {
            self.publication.close(&handle, &[]);
            let status = refused.into();
            note_refusal(&self.audit, &handle.node, "discover", "discovery", &status);
            return Err(status);
        }
        let stream = Stream {
            handle,
            publication: self.publication.clone(),
            metrics: self.metrics.clone(),
            audit: self.audit.clone(),
            sent: HashMap::new(),
            unconfirmed: VecDeque::new(),
            idle: IdleNames::default(),
            nonce: 0,
        };
        tokio::spawn(stream.run(inbound, outbound, expires, self.stop.clone()));
        let mut response = Response::new(ReceiverStream::new(responses));
        if let Ok(known) = MetadataValue::try_from(known_types()) {
            response.metadata_mut().insert(type_url::KNOWN, known);
        }
        Ok(response)
    }
}

fn known_types() -> String {
    ResourceType::ALL.map(ResourceType::url).join(", ")
}

/// What a node has of a name that it subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Has {
    /// Nothing that we know of.
    Unknown,
    /// The knowledge that it does not exist.
    Absent,
    /// The same, though it may exist.
    Withheld,
    Version(Arc<str>),
}

impl Has {
    fn version(&self) -> Option<&Arc<str>> {
        match self {
            Self::Version(version) => Some(version),
            Self::Unknown | Self::Absent | Self::Withheld => None,
        }
    }

    /// Whether the node has heard that there is nothing.
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Absent | Self::Withheld)
    }
}

struct Stream {
    handle: Arc<StreamHandle>,
    publication: Arc<Publication>,
    metrics: Arc<Metrics>,
    audit: Audit,
    /// All subscriptions.
    sent: HashMap<Key, Has>,
    unconfirmed: VecDeque<Unconfirmed>,
    idle: IdleNames,
    nonce: u64,
}

/// Names of Services that a node which runs nothing has asked for.
#[derive(Default)]
struct IdleNames {
    /// Until when each waits; in order, with some that do not wait any more.
    queue: VecDeque<(Instant, Key)>,
    waiting: HashSet<Key>,
    /// They have waited.
    due: HashSet<Key>,
}

impl IdleNames {
    /// Whether a name has waited long enough; else it waits.
    fn take(&mut self, key: &Key) -> bool {
        if self.due.remove(key) || self.queue.len() >= NAMES_LIMIT {
            return true;
        }
        if self.waiting.insert(key.clone()) {
            self.queue.push_back((Instant::now() + IDLE_WAIT, key.clone()));
        }
        false
    }

    /// When the next of them has waited.
    fn next(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _)| *at)
    }

    /// Those that have waited.
    fn ripen(&mut self) -> Vec<Key> {
        let now = Instant::now();
        let mut ripe = Vec::new();
        while self.queue.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, key)) = self.queue.pop_front()
        {
            if self.waiting.remove(&key) {
                self.due.insert(key.clone());
                ripe.push(key);
            }
        }
        ripe
    }

    fn forget(&mut self, key: &Key) {
        self.waiting.remove(key);
        self.due.remove(key);
    }
}

struct Unconfirmed {
    nonce: String,
    versions: Vec<(Key, Option<Arc<str>>)>,
}

impl Stream {
    async fn run(
        mut self,
        inbound: Streaming<DeltaDiscoveryRequest>,
        outbound: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        expires: Instant,
        stop: CancellationToken,
    ) {
        let end = self.serve(inbound, &outbound, expires, &stop).await;
        let names: Vec<_> = self.sent.keys().cloned().collect();
        self.publication.close(&self.handle, &names);
        if let Err(status) = end {
            tracing::info!(node = %self.handle.node, "discovery stream ended: {}", status.message());
            let _ = tokio::time::timeout(Duration::from_secs(1), outbound.send(Err(status))).await;
        }
    }

    async fn serve(
        &mut self,
        mut inbound: Streaming<DeltaDiscoveryRequest>,
        outbound: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        expires: Instant,
        stop: &CancellationToken,
    ) -> Result<(), Status> {
        let expiry = tokio::time::sleep_until(expires);
        tokio::pin!(expiry);
        // Since when something waits to be sent.
        let mut waiting: Option<Instant> = None;
        loop {
            let dirty = !self.handle.is_clean();
            if !dirty {
                waiting = None;
            }
            let since = dirty.then(|| *waiting.get_or_insert_with(Instant::now));
            let stalled = async {
                match since {
                    Some(since) => tokio::time::sleep_until(since + PATIENCE).await,
                    None => std::future::pending().await,
                }
            };
            let idle_until = self.idle.next();
            let idle = async {
                match idle_until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let may_send = dirty && self.unconfirmed.len() < UNCONFIRMED;
            tokio::select! {
                biased;
                () = self.handle.revoked.cancelled() => return Err(EnrolmentError::not_known(&self.handle.node).into()),
                () = stop.cancelled() => return Err(Status::unavailable("the server stops")),
                message = inbound.message() => match message? {
                    Some(request) => self.take(request)?,
                    None => return Ok(()),
                },
                permit = outbound.reserve(), if may_send => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(response) = self.next_response() {
                        permit.send(Ok(response));
                        waiting = None;
                    }
                }
                () = self.handle.woken(), if !dirty => {}
                () = idle => self.handle.mark_dirty(self.idle.ripen()),
                () = stalled => return Err(Status::deadline_exceeded(
                    "the node takes no discovery responses; reconnect")),
                () = &mut expiry => return Err(Status::unauthenticated(
                    "the node's certificate has expired; reconnect with a new one")),
            }
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            let (asked, known) = (legible_start(&request.type_url, 200), known_types());
            let status =
                Status::invalid_argument(format!("there is no resource type `{asked}`; known are {known}"));
            note_refusal(&self.audit, &self.handle.node, "subscribe", &asked, &status);
            return Err(status);
        };
        self.take_answer(&request);
        let key = |name: String| Key::new(kind, name);

        let gone: Vec<_> = request.resource_names_unsubscribe.into_iter().map(key).collect();
        for key in &gone {
            self.sent.remove(key);
            self.idle.forget(key);
        }
        self.publication.unsubscribe(&self.handle, &gone);

        let mut versions = request.initial_resource_versions;
        let mut confirmed = Vec::new();
        let mut names = Vec::new();
        for name in request.resource_names_subscribe {
            if name.len() > LONGEST_NAME {
                return Err(Status::invalid_argument(format!(
                    "a name of a resource has at most {LONGEST_NAME} bytes"
                )));
            }
            if self.sent.len() >= NAMES_LIMIT {
                return Err(Status::resource_exhausted(format!(
                    "a node may subscribe to {NAMES_LIMIT} names; this one has more"
                )));
            }
            let version: Option<Arc<str>> = versions.remove(&name).map(Into::into);
            let key = key(name);
            // A name that is subscribed to again is sent again, even if the node should have it.
            let has = match version {
                Some(version) => {
                    confirmed.push((key.clone(), Some(version.clone())));
                    Has::Version(version)
                }
                None => Has::Unknown,
            };
            self.sent.insert(key.clone(), has);
            names.push(key);
        }
        if !names.is_empty() {
            self.publication.subscribe(&self.handle, &names);
            self.publication.confirm(&self.handle, &confirmed);
        }
        Ok(())
    }

    /// Takes the confirmation or refusal in a request, if it has one.
    fn take_answer(&mut self, request: &DeltaDiscoveryRequest) {
        if request.response_nonce.is_empty() {
            return;
        }
        let Some(at) = self.unconfirmed.iter().position(|u| u.nonce == request.response_nonce) else {
            return; // Of an older stream: it says nothing here.
        };
        let Some(answered) = self.unconfirmed.remove(at) else { return };
        match &request.error_detail {
            None => {
                self.metrics.discovery_confirmations.add(1);
                self.publication.confirm(&self.handle, &answered.versions);
            }
            Some(error) => {
                self.metrics.discovery_refusals.add(1);
                let why = legible_start(&error.message, 500);
                let names: Vec<_> = answered.versions.iter().map(|(key, _)| &*key.name).take(5).collect();
                tracing::warn!(
                    node = %self.handle.node, resources = names.join(", "),
                    "a node refuses its configuration: {why}"
                );
                let (refused, taken) = told_apart(answered.versions, &error.message);
                self.publication.confirm(&self.handle, &taken);
                self.publication.refuse(&self.handle, &refused, &why);
            }
        }
    }

    /// The next response out of what is dirty; `None` if the node has it all already.
    fn next_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        let mut names = self.handle.take_dirty(RESPONSE_NAMES).into_iter();
        let kind = names.as_slice().first()?.kind;
        let mut response = DeltaDiscoveryResponse { type_url: kind.url().to_owned(), ..Default::default() };
        let mut versions = Vec::new();
        let mut bytes = 0;
        for key in names.by_ref() {
            let Some(has) = self.sent.get_mut(&key) else { continue };
            let present = self.publication.get(&self.handle.node, &key);
            let (now, version) = match &present {
                Ok(Some(resource)) => {
                    (Has::Version(resource.version.clone()), Some(resource.version.clone()))
                }
                Ok(None) => (Has::Absent, None),
                Err(Withheld::Idle) if !self.idle.take(&key) => continue,
                Err(Withheld::Idle | Withheld::OfAnother) => (Has::Withheld, None),
            };
            if *has == now {
                continue;
            }
            if present.is_ok() {
                self.idle.forget(&key);
            }
            // It is told the same of both.
            let tells = now.version().is_some() || !has.is_nothing();
            *has = now;
            if let Err(withheld) = present {
                self.audit.note(refused(&self.handle.node, &key, withheld));
            }
            if !tells {
                continue;
            }
            versions.push((key.clone(), version));
            match present {
                Ok(None) | Err(_) => response.removed_resources.push(key.name.to_string()),
                Ok(Some(resource)) => {
                    bytes += resource.body.len();
                    let value = resource.body.to_vec();
                    response.resources.push(Resource {
                        version: resource.version.to_string(),
                        resource: Some(prost_types::Any { type_url: kind.url().to_owned(), value }),
                        name: key.name.to_string(),
                        aliases: Vec::new(),
                    });
                }
            }
            if bytes >= RESPONSE_BYTES {
                break;
            }
        }
        self.handle.mark_dirty(names);
        if versions.is_empty() {
            return None;
        }
        self.nonce += 1;
        response.nonce = self.nonce.to_string();
        self.unconfirmed.push_back(Unconfirmed { nonce: response.nonce.clone(), versions });
        self.metrics.discovery_responses.add(1);
        Some(response)
    }
}

type SentVersion = (Key, Option<Arc<str>>);

/// What a node refuses of a response, and what it takes: it names each resource that makes no sense, and takes the others. All
/// are refused where it names none, and where what it says is so long that it may be cut off.
fn told_apart(versions: Vec<SentVersion>, error: &str) -> (Vec<SentVersion>, Vec<SentVersion>) {
    let names = |name: &str| {
        error.split("; ").any(|part| part.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")))
    };
    let (refused, taken): (Vec<_>, Vec<_>) = versions.into_iter().partition(|(key, _)| names(&key.name));
    match refused.is_empty() || error.len() >= type_url::LONGEST_ERROR {
        true => (refused.into_iter().chain(taken).collect(), Vec::new()),
        false => (refused, taken),
    }
}

/// What the audit log says of a name that is not for a node.
fn refused(node: &str, key: &Key, withheld: Withheld) -> AuditEntry {
    let kind = key.kind.url().rsplit(['/', '.']).next().unwrap_or_default();
    let reason = match withheld {
        Withheld::OfAnother => "it runs on another node, which alone is told what applies to it",
        Withheld::Idle => "the node says of no workload that it runs, which could use a Service",
    };
    AuditEntry::of_node(node, "subscribe", format!("{kind}/{}", key.name), reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_refuses_what_it_names() {
        let sent = || ["a/b", "a/c"].map(|name| (Key::new(ResourceType::Workload, name), None)).to_vec();
        let long = format!("a/c: {}", "x".repeat(type_url::LONGEST_ERROR));
        for (error, expected) in [
            ("a/c: no such action", vec!["a/c"]),
            ("a/b: 1; a/c: 2", vec!["a/b", "a/c"]),
            ("it is all wrong", vec!["a/b", "a/c"]),
            ("", vec!["a/b", "a/c"]),
            (&long, vec!["a/c", "a/b"]),
        ] {
            let (refused, taken) = told_apart(sent(), error);
            let names: Vec<_> = refused.iter().map(|(key, _)| &*key.name).collect();
            assert_eq!((names, taken.len()), (expected.clone(), 2 - expected.len()), "{error}");
        }
    }
}
