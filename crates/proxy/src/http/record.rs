//! What is counted and logged of a request, at its end.
//!
//! The latency of a request is the time from its head being there to the head of its answer being there;
//! how long bodies take is not part of it. A request fails when the application's status is 5xx, when its
//! connection breaks before the answer's end, or when a gRPC status says that the service failed. Of an answer
//! that the mesh makes itself, [`Reason::verdict`] says who is to blame; a body that its client broke is the
//! client's affair.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Response, Version};
use tokio::time::Instant;
use tulle_model::snapshot::HttpRule;

use crate::access_log::{Answer, Asked, End, Entry, Outline};
use crate::http::body::{Body, Event};
use crate::http::fault;
use crate::http::grpc::{self, Messages};
use crate::http::headers;
use crate::http::reply::grpc_failure;
use crate::http::server::Connection;
use crate::loads::LoadGuard;
use crate::metrics::{Destination, Edge, EdgeMetrics, Protocol};
use crate::reason::{Reason, Verdict};
use crate::security::Security;
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
    /// Where it goes, once that is known.
    destination: OnceCell<Destination>,
    /// How it is protected, once something of it may have reached an endpoint.
    security: Cell<Security>,
    log: RefCell<Option<Box<LogHead>>>,
}

/// The request's bytes. Which edge they belong to is known only when an endpoint is picked.
#[derive(Default)]
struct Sent {
    edge: OnceCell<Arc<EdgeMetrics>>,
    bytes: Cell<u64>,
    /// What was wrong with it.
    fault: Cell<Option<(Reason, &'static str)>>,
}

struct LogHead {
    connection: Rc<Connection>,
    generation: Cell<u64>,
    rule: OnceCell<Arc<HttpRule>>,
    method: http::Method,
    uri: http::Uri,
    version: Version,
}

impl LogHead {
    /// A line without what is known only at its end.
    fn entry(self, source: &LocalWorkload, destination: Destination, result: Verdict) -> Entry {
        let Self { generation, rule, method, uri, version, .. } = self;
        let asked = Asked::Whole { method, uri, version };
        let entry = Entry::new(&source.name, destination, generation.get(), asked, result);
        Entry { rule: rule.into_inner(), ..entry }
    }
}

/// How a request went.
pub(crate) struct Outcome {
    pub destination: Destination,
    /// How the last attempt was protected of which something may have reached an endpoint.
    pub security: Security,
    /// Why the mesh answered in place of the application, if it did.
    pub reason: Option<Reason>,
    /// Where it went at last.
    pub endpoint: Option<std::net::SocketAddr>,
    pub attempts: u32,
    /// Held until the answer has passed.
    pub load: Option<LoadGuard>,
}

impl Outcome {
    /// Nothing was sent anywhere.
    pub fn unsent(destination: Destination, reason: Reason) -> Self {
        let (security, reason) = (Security::Unsent, Some(reason));
        Self { destination, security, reason, endpoint: None, attempts: 0, load: None }
    }
}

impl Record {
    pub(super) fn begin(connection: &Rc<Connection>, head: &Parts) -> Self {
        let state = connection.worker.local.state.load();
        let log = state.snapshot.mesh.access_log.then(|| {
            Box::new(LogHead {
                connection: connection.clone(),
                generation: Cell::new(state.snapshot.generation),
                rule: OnceCell::new(),
                method: head.method.clone(),
                uri: head.uri.clone(),
                version: head.version,
            })
        });
        let protocol = if headers::is_grpc(&head.headers) { Protocol::Grpc } else { Protocol::Http };
        Self {
            started: Instant::now(),
            protocol,
            whole: Cell::new(0),
            sent: OnceCell::new(),
            destination: OnceCell::new(),
            security: Cell::new(Security::Unsent),
            log: RefCell::new(log),
        }
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Notes where it goes.
    pub fn goes_to(&self, destination: Destination) {
        let _ = self.destination.set(destination);
    }

    /// Notes the configuration that it is decided on, for the log.
    pub fn decided_on(&self, generation: u64) {
        if let Some(log) = &*self.log.borrow() {
            log.generation.set(generation);
        }
    }

    /// Notes the rule that decides where it goes, for the log.
    pub fn ruled_by(&self, rule: &Arc<HttpRule>) {
        if let Some(log) = &*self.log.borrow() {
            let _ = log.rule.set(rule.clone());
        }
    }

    /// Notes how it is protected where it is sent now.
    pub fn is_sent(&self, security: Security) {
        self.security.set(security);
    }

    /// Counts the request's body.
    pub fn watch(&self, body: &mut Body) {
        if let Some(length) = body.whole_length() {
            self.whole.set(length);
            return;
        }
        let sent = self.sent.get_or_init(Rc::default).clone();
        body.observe(move |event| match event {
            Event::Data(bytes) => {
                sent.bytes.set(sent.bytes.get() + bytes as u64);
                if let Some(edge) = sent.edge.get() {
                    edge.sent(bytes as u64);
                }
            }
            Event::Broken(error) => sent.fault.set(fault::of(error)),
            Event::Trailers(_) | Event::End | Event::Abandoned => {}
        });
    }

    /// What was wrong with the body of the request, as far as it was read, and what to say of it.
    pub fn fault(&self) -> Option<(Reason, &'static str)> {
        self.sent.get().and_then(|sent| sent.fault.get())
    }

    pub fn edge(&self, worker: &Worker, source: &LocalWorkload, outcome: &Outcome) -> Arc<EdgeMetrics> {
        let destination = outcome.destination.name();
        worker.local.metrics.edge(&Edge::new(source, &destination, self.protocol, outcome.security))
    }

    /// Counts a request whose client has given it up.
    #[cold]
    fn abandoned(&self, cx: &Connection) {
        let (security, latency) = (self.security.get(), self.started.elapsed());
        let destination = self.destination.get().cloned().unwrap_or_else(|| cx.destination());
        let edge = cx.worker.local.metrics.edge(&Edge::new(
            &cx.source,
            &destination.name(),
            self.protocol,
            security,
        ));
        edge.sent(self.whole.get() + self.sent.get().map_or(0, |sent| sent.bytes.get()));
        edge.request(None, Verdict::Abandoned, latency);
        if let Some(log) = self.log.take() {
            let entry = log.entry(&cx.source, destination, Verdict::Abandoned);
            cx.worker.local.log(Entry { security, latency: Some(latency), ..entry });
        }
    }

    /// Counts the answer, now and as its body passes.
    pub fn finish(
        self,
        worker: &Worker,
        source: &Arc<LocalWorkload>,
        outcome: Outcome,
        response: &mut Response<Body>,
    ) {
        let edge = self.edge(worker, source, &outcome);
        edge.sent(self.whole.get());
        if let Some(sent) = self.sent.get() {
            edge.sent(sent.bytes.get());
            let _ = sent.edge.set(edge.clone());
        }
        let latency = self.started.elapsed();
        let status = response.status();
        let is_grpc = self.is_grpc();
        let mut verdict = match outcome.reason {
            Some(reason) => {
                worker.local.metrics.counts().refused(reason);
                reason.verdict()
            }
            None if status.is_server_error() => Verdict::Failure,
            None if is_grpc && grpc_failure(response.headers()).unwrap_or(false) => Verdict::Failure,
            None => Verdict::Success,
        };
        let source = source.clone();
        let sent = self.sent.get().cloned();
        // Next to the application it was seen to already.
        let messages = (is_grpc
            && response.version() == Version::HTTP_2
            && outcome.security != Security::SameNode
            && headers::is_grpc(response.headers()))
        .then(Messages::default);
        if messages.is_some() {
            // It would be a lie where the answer breaks, and gRPC has no use for it.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        // The status of a gRPC call; one that ends without is a failure to its client, whatever HTTP says.
        let mut missing = is_grpc && status.is_success() && !response.headers().contains_key(grpc::STATUS);
        let mut state = Some((self.log.into_inner(), outcome));
        let mut received = 0;
        response.body_mut().observe_as(messages, move |event| match event {
            Event::Data(bytes) => {
                received += bytes as u64;
                edge.received(bytes as u64);
            }
            Event::Trailers(trailers) if is_grpc => {
                let failed = grpc_failure(trailers);
                missing &= failed.is_none();
                if verdict == Verdict::Success && failed.unwrap_or(false) {
                    verdict = Verdict::Failure;
                }
            }
            Event::Trailers(_) => {}
            Event::End | Event::Broken(_) | Event::Abandoned => {
                let Some((log, outcome)) = state.take() else { return };
                let by_client = sent.as_ref().is_some_and(|sent| sent.fault.get().is_some());
                verdict = match (&event, verdict) {
                    (Event::Broken(_), _) | (Event::Abandoned, Verdict::Success) if by_client => {
                        Verdict::Refused
                    }
                    (Event::Broken(_), Verdict::Success) => Verdict::Failure,
                    (Event::End, Verdict::Success) if missing => Verdict::Failure,
                    (_, verdict) => verdict,
                };
                edge.request(Some(status.as_u16()), verdict, latency);
                let Some(log) = log else { return };
                let connection = log.connection.clone();
                let Outcome { destination, security, reason, endpoint, attempts, .. } = outcome;
                let end = match event {
                    Event::Broken(_) => End::Broken,
                    Event::Abandoned => End::Abandoned,
                    _ => End::Complete,
                };
                connection.worker.local.log(Entry {
                    security,
                    attempts,
                    endpoint,
                    status: Some(status.as_u16()),
                    reason: reason.or(connection.cut.get().then_some(Reason::HalfClosed)),
                    latency: Some(latency),
                    answer: Some(Answer { bytes: received, end }),
                    ..log.entry(&source, destination, verdict)
                });
            }
        });
    }
}

/// Counts a request as given up where it is dropped before it is answered.
pub(super) struct Awaited<'a> {
    connection: &'a Connection,
    record: &'a Record,
    answered: bool,
}

impl<'a> Awaited<'a> {
    pub fn begin(connection: &'a Connection, record: &'a Record) -> Self {
        Self { connection, record, answered: false }
    }

    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        // Who was let go is counted as that.
        if !self.answered && !self.connection.cut.get() && !self.connection.counted.get() {
            self.record.abandoned(self.connection);
        }
    }
}

/// Counts and logs a request that was refused before it was read whole.
pub(crate) fn unread(
    worker: &Worker,
    source: &LocalWorkload,
    destination: &Destination,
    reason: Reason,
    outline: Outline,
) {
    worker.local.metrics.counts().refused(reason);
    count_unsent(
        worker,
        source,
        destination,
        Protocol::Http,
        Some(reason.status().as_u16()),
        reason.verdict(),
    );
    let state = worker.local.state.load();
    if state.snapshot.mesh.access_log {
        let (generation, asked) = (state.snapshot.generation, Asked::Part(outline));
        let entry = Entry::new(&source.name, destination.clone(), generation, asked, reason.verdict());
        let status = Some(reason.status().as_u16());
        worker.local.log(Entry { status, reason: Some(reason), ..entry });
    }
}

/// Counts what was not sent anywhere.
pub(crate) fn count_unsent(
    worker: &Worker,
    source: &LocalWorkload,
    destination: &Destination,
    protocol: Protocol,
    status: Option<u16>,
    verdict: Verdict,
) {
    let edge = worker.local.metrics.edge(&Edge::new(source, &destination.name(), protocol, Security::Unsent));
    edge.request(status, verdict, std::time::Duration::ZERO);
}
