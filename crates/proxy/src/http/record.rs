//! What is counted and logged of a request, at its end.
//!
//! The latency of a request is the time from its head being there to the head of its answer being there;
//! how long bodies take is not part of it. A request fails when its status is 5xx, when its connection
//! breaks before the answer's end, or when a gRPC status says that the service failed.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{Response, Version};
use tokio::time::Instant;
use tulle_model::name::ServiceName;

use crate::Security;
use crate::endpoints::LoadGuard;
use crate::http::body::{Body, Event};
use crate::http::grpc::{self, Messages};
use crate::http::headers;
use crate::http::reply::grpc_failure;
use crate::link::REASON;
use crate::metrics::{Edge, EdgeMetrics, OTHER, Protocol};
use crate::state::LocalWorkload;
use crate::worker::Worker;

/// What is known of a request while it is served.
pub(crate) struct Record {
    started: Instant,
    protocol: Protocol,
    /// The length of a body that was there as a whole.
    whole: Cell<u64>,
    /// What passes of one that was not.
    sent: OnceCell<Rc<Sent>>,
    log: Option<Box<LogHead>>,
}

/// The request's bytes. Which edge they belong to is known only when an endpoint is picked.
#[derive(Default)]
struct Sent {
    edge: OnceCell<Arc<EdgeMetrics>>,
    bytes: Cell<u64>,
}

struct LogHead {
    method: http::Method,
    uri: http::Uri,
    version: Version,
}

/// How a request went.
pub(crate) struct Outcome {
    pub destination: Option<ServiceName>,
    pub security: Security,
    /// Where it went at last.
    pub endpoint: Option<std::net::SocketAddr>,
    pub attempts: u32,
    /// Held until the answer has passed.
    pub load: Option<LoadGuard>,
}

impl Outcome {
    /// Nothing was sent anywhere.
    pub fn unsent(destination: Option<ServiceName>) -> Self {
        let security = if destination.is_some() { Security::MutualTls } else { Security::Plaintext };
        Self { destination, security, endpoint: None, attempts: 0, load: None }
    }
}

impl Record {
    pub fn begin(worker: &Worker, head: &Parts) -> Self {
        let log = worker.state.load().snapshot.mesh.access_log.then(|| {
            let (method, uri) = (head.method.clone(), head.uri.clone());
            Box::new(LogHead { method, uri, version: head.version })
        });
        let protocol = if headers::is_grpc(&head.headers) { Protocol::Grpc } else { Protocol::Http };
        Self { started: Instant::now(), protocol, whole: Cell::new(0), sent: OnceCell::new(), log }
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Counts the request's body.
    pub fn watch(&self, body: Body) -> Body {
        if let Some(length) = body.whole_length() {
            self.whole.set(length);
            return body;
        }
        let sent = self.sent.get_or_init(Rc::default).clone();
        body.observed(move |event| {
            if let Event::Data(bytes) = event {
                sent.bytes.set(sent.bytes.get() + bytes as u64);
                if let Some(edge) = sent.edge.get() {
                    edge.sent(bytes as u64);
                }
            }
        })
    }

    pub fn edge(&self, worker: &Worker, source: &LocalWorkload, outcome: &Outcome) -> Arc<EdgeMetrics> {
        let outside;
        let destination = match &outcome.destination {
            Some(destination) => destination,
            None => {
                outside = ServiceName::new("", OTHER);
                &outside
            }
        };
        worker.metrics.edge(&Edge::new(source, destination, self.protocol, outcome.security))
    }

    /// Counts the answer, now and as its body passes.
    pub fn finish(
        self,
        worker: &Worker,
        source: &Arc<LocalWorkload>,
        outcome: Outcome,
        response: Response<Body>,
    ) -> Response<Body> {
        let edge = self.edge(worker, source, &outcome);
        edge.sent(self.whole.get());
        if let Some(sent) = self.sent.get() {
            edge.sent(sent.bytes.get());
            let _ = sent.edge.set(edge.clone());
        }
        let latency = self.started.elapsed();
        let status = response.status();
        let reason = self.log.as_ref().and_then(|_| response.headers().get(REASON).cloned());
        let is_grpc = self.is_grpc();
        let mut failed =
            status.is_server_error() || (is_grpc && grpc_failure(response.headers()).unwrap_or(false));
        let source = source.clone();
        // Next to the application it was seen to already.
        let messages = (is_grpc
            && response.version() == Version::HTTP_2
            && outcome.security != Security::SameNode
            && grpc::has_messages(response.headers()))
        .then(Messages::default);
        let mut state = Some((self.log, outcome));
        let mut received = 0;
        response.map(|body| {
            body.observed_as(messages, move |event| match event {
                Event::Data(bytes) => {
                    received += bytes as u64;
                    edge.received(bytes as u64);
                }
                Event::Trailers(trailers) if is_grpc => {
                    failed |= grpc_failure(trailers).unwrap_or(false);
                }
                Event::Trailers(_) => {}
                Event::End | Event::Broken | Event::Abandoned => {
                    let broken = matches!(event, Event::Broken);
                    let Some((log, outcome)) = state.take() else { return };
                    edge.request(Some(status.as_u16()), !failed && !broken, latency);
                    let Some(head) = log else { return };
                    tracing::info!(
                        target: "tulle::access",
                        source = %source.name,
                        destination = outcome.destination.as_ref().map(tracing::field::display),
                        endpoint = outcome.endpoint.map(tracing::field::display),
                        method = %head.method,
                        authority = head.uri.authority().map(|a| a.as_str()),
                        path = head.uri.path(),
                        version = ?head.version,
                        status = status.as_u16(),
                        reason = reason.as_ref().and_then(|r| r.to_str().ok()),
                        security = ?outcome.security,
                        attempts = outcome.attempts,
                        latency_ms = latency.as_secs_f64() * 1e3,
                        bytes_received = received,
                        end = match event {
                            Event::Broken => "broken",
                            Event::Abandoned => "abandoned",
                            _ => "complete",
                        },
                    );
                }
            })
        })
    }
}
