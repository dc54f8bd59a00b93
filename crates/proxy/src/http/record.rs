//! What is counted and logged of a request, at its end.
//!
//! The latency of a request is the time from its head being there to the head of its answer being there;
//! how long bodies take is not part of it. A request fails when the application's status is 5xx, when its
//! connection breaks before the answer's end, or when a gRPC status says that the service failed. Of an answer
//! that the mesh makes itself, [`Reason::verdict`] says who is to blame; a body that its client broke is the
//! client's affair.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{Response, Version};
use tokio::time::Instant;
use tulle_model::name::ServiceName;

use crate::http::body::{Body, Event};
use crate::http::fault;
use crate::http::grpc::{self, Messages};
use crate::http::headers;
use crate::http::reply::grpc_failure;
use crate::http::server::Connection;
use crate::loads::LoadGuard;
use crate::mesh_headers::REASON;
use crate::metrics::{EXTERNAL, Edge, EdgeMetrics, Protocol, UNKNOWN};
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
    log: Option<Box<LogHead>>,
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
    method: http::Method,
    uri: http::Uri,
    version: Version,
}

/// Where a request goes, as it is counted.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    Service(ServiceName),
    /// No part of the mesh.
    External,
    /// It does not say, or to a service that does not exist.
    Unknown,
}

impl Destination {
    /// What it is counted as.
    pub fn name(&self) -> Cow<'_, ServiceName> {
        match self {
            Self::Service(service) => Cow::Borrowed(service),
            Self::External => Cow::Owned(ServiceName::new("", EXTERNAL)),
            Self::Unknown => Cow::Owned(ServiceName::new("", UNKNOWN)),
        }
    }
}

impl From<ServiceName> for Destination {
    fn from(service: ServiceName) -> Self {
        Self::Service(service)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::External => f.write_str(EXTERNAL),
            Self::Unknown => f.write_str(UNKNOWN),
        }
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
        let log = connection.worker.local.state.load().snapshot.mesh.access_log.then(|| {
            let (method, uri) = (head.method.clone(), head.uri.clone());
            Box::new(LogHead { connection: connection.clone(), method, uri, version: head.version })
        });
        let protocol = if headers::is_grpc(&head.headers) { Protocol::Grpc } else { Protocol::Http };
        Self {
            started: Instant::now(),
            protocol,
            whole: Cell::new(0),
            sent: OnceCell::new(),
            destination: OnceCell::new(),
            security: Cell::new(Security::Unsent),
            log,
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
        let Some(head) = &self.log else { return };
        tracing::info!(
            target: "tulle::access",
            source = %cx.source.name,
            destination = %destination,
            method = %head.method,
            authority = head.uri.authority().map(|a| a.as_str()),
            path = head.uri.path(),
            version = ?head.version,
            result = Verdict::Abandoned.as_str(),
            security = security.as_str(),
            latency_ms = latency.as_secs_f64() * 1e3,
        );
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
        let reason = self.log.as_ref().and_then(|_| response.headers().get(REASON).cloned());
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
        let mut state = Some((self.log, outcome));
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
                let Some(head) = log else { return };
                let cut = head.connection.cut.get().then_some(Reason::HalfClosed.as_str());
                tracing::info!(
                    target: "tulle::access",
                    source = %source.name,
                    destination = %outcome.destination,
                    endpoint = outcome.endpoint.map(tracing::field::display),
                    method = %head.method,
                    authority = head.uri.authority().map(|a| a.as_str()),
                    path = head.uri.path(),
                    version = ?head.version,
                    status = status.as_u16(),
                    reason = reason.as_ref().and_then(|r| r.to_str().ok()).or(cut),
                    result = verdict.as_str(),
                    security = outcome.security.as_str(),
                    attempts = outcome.attempts,
                    latency_ms = latency.as_secs_f64() * 1e3,
                    bytes_received = received,
                    end = match event {
                        Event::Broken(_) => "broken",
                        Event::Abandoned => "abandoned",
                        _ => "complete",
                    },
                );
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

/// What was recognized of a request that was not read whole.
#[derive(Default)]
pub(crate) struct Outline {
    pub method: Option<String>,
    pub path: Option<String>,
    pub version: Option<String>,
}

impl Outline {
    /// So much of a request's target is logged.
    const PATH: usize = 256;

    /// Of the bytes that an HTTP/1 connection went on with.
    pub fn of(bytes: &[u8]) -> Self {
        let line = bytes.trim_ascii_start();
        let line = &line[..line.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(line.len())];
        let mut words = line.split(|byte| *byte == b' ');
        let method = words.next().and_then(|word| http::Method::from_bytes(word).ok());
        // The version is what tells a request's line from anything else.
        let last = words.next_back().filter(|word| word.starts_with(b"HTTP/") && word.len() <= 16);
        let (Some(method), Some(version)) = (method.filter(|method| method.as_str().len() <= 32), last)
        else {
            return Self::default();
        };
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let target = words.next().map(|target| text(&target[..target.len().min(Self::PATH)]));
        Self { method: Some(method.to_string()), path: target, version: Some(text(version)) }
    }
}

/// Counts and logs a request that was refused before it was read whole.
pub(crate) fn unread(
    worker: &Worker,
    source: &LocalWorkload,
    destination: &Destination,
    reason: Reason,
    outline: &Outline,
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
    if worker.local.state.load().snapshot.mesh.access_log {
        tracing::info!(
            target: "tulle::access",
            source = %source.name,
            destination = %destination,
            method = outline.method,
            path = outline.path,
            version = outline.version,
            status = reason.status().as_u16(),
            reason = reason.as_str(),
            result = reason.verdict().as_str(),
            security = Security::Unsent.as_str(),
            attempts = 0,
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_recognized_by_its_first_line() {
        let of = |bytes: &[u8]| {
            let Outline { method, path, version } = Outline::of(bytes);
            (method.unwrap_or_default(), path.unwrap_or_default(), version.unwrap_or_default())
        };
        let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(of(b"\r\nGET /x?y HTTP/1.1\r\nh: \x01"), three("GET", "/x?y", "HTTP/1.1"));
        assert_eq!(of(b"GET /\xff\" y HTTP/1.1\r\n"), three("GET", "/\\xff\\\"", "HTTP/1.1"));
        assert_eq!(of(b"GET /x\r\n"), three("", "", ""));
        assert_eq!(of(b"\x16\x03\x01 / HTTP/1.1"), three("", "", ""));
        let long = [b"GET /".as_slice(), &[b'x'; 5000], b" HTTP/1.1\r\n"].concat();
        assert_eq!(of(&long).1.len(), Outline::PATH);
        assert_eq!(of(b""), three("", "", ""));
    }
}
