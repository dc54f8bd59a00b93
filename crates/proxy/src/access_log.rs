//! The access log: one line for each request and each connection of bytes, at its end, written by the control runtime. A worker hands a plain value over and
//! waits for nobody; what has no room is counted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Uri, Version};
use tokio::sync::mpsc;
use tulle_model::decision::Decision;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::HttpRule;

use crate::in_process::FlowStep;
use crate::metrics::{DestinationName, Protocol};
use crate::peer::Peer;
use crate::reason::{Reason, Verdict};
use crate::security::Security;
use crate::state::LocalWorkload;

/// Lines of one worker that may wait to be written.
pub(crate) const WAITING: usize = 1024;

/// One line.
pub(crate) struct LogEntry {
    pub source: Initiator,
    pub destination: DestinationName,
    pub protocol: Protocol,
    /// Of the configuration that was decided on ([`tulle_model::snapshot::Snapshot::generation`]).
    pub generation: u64,
    /// What decided where it went, if a route did.
    pub rule: Option<Arc<HttpRule>>,
    /// All that was decided over it, in order.
    pub decisions: Vec<Decision>,
    pub asked: Asked,
    /// Of what came from elsewhere: the workload of this node that it was for, and the port of its process.
    pub workload: Option<WorkloadName>,
    pub port: Option<u16>,
    pub security: Security,
    pub attempts: u32,
    /// Those that failed.
    pub tried: Vec<Tried>,
    /// Where it went at last.
    pub endpoint: Option<SocketAddr>,
    /// What its client got.
    pub status: Option<u16>,
    pub reason: Option<Reason>,
    /// Why, for people; empty where there is nothing to say.
    pub message: String,
    pub result: Verdict,
    pub latency: Option<Duration>,
    pub bytes_sent: u64,
    pub answer: Option<LoggedAnswer>,
}

/// Whose a request or connection was.
pub(crate) enum Initiator {
    /// A workload's of this node.
    Workload(WorkloadName),
    /// Somebody's elsewhere.
    Peer(Peer),
}

impl Initiator {
    /// Whoever connects by this node.
    pub fn of(source: &LocalWorkload) -> Self {
        match source.outside {
            None => Self::Workload(source.name.clone()),
            Some(_) => Self::Peer(source.peer()),
        }
    }
}

/// An attempt that failed.
pub(crate) struct Tried {
    pub address: SocketAddr,
    pub security: Security,
    /// When it failed, from the beginning of the request or connection.
    pub after: Duration,
    pub failure: AttemptFailure,
}

/// Why an attempt was not the last.
pub(crate) enum AttemptFailure {
    /// In the words of `tulle-reason`.
    Reason(&'static str),
    /// It was answered with a status after which its rule wants another one.
    Status(u16),
}

/// What a request asked for, as far as it was read.
pub(crate) enum Asked {
    Whole {
        method: Method,
        uri: Uri,
        version: Version,
        /// Of a call that a run of a Flow makes.
        step: Option<FlowStep>,
    },
    Part(Outline),
    /// A connection of bytes to that port.
    Connection {
        port: u16,
    },
}

impl Asked {
    /// A request, read whole.
    pub fn of(head: &Parts) -> Self {
        Self::Whole {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            step: head.extensions.get().cloned(),
        }
    }
}

/// How the body of an answer passed, or what came back on a connection.
pub(crate) struct LoggedAnswer {
    pub bytes: u64,
    pub end: End,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Complete,
    Broken,
    /// Its reader went away.
    Abandoned,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Broken => "broken",
            Self::Abandoned => "abandoned",
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

/// What a worker's lines wait in, and who is to write them.
pub(crate) fn channel() -> (mpsc::Sender<Box<LogEntry>>, mpsc::Receiver<Box<LogEntry>>) {
    mpsc::channel(WAITING)
}

/// Writes a worker's lines until it has ended.
pub(crate) async fn write(mut entries: mpsc::Receiver<Box<LogEntry>>) {
    while let Some(entry) = entries.recv().await {
        entry.write();
    }
}

impl LogEntry {
    /// A line of what begins.
    pub fn new(source: Initiator, protocol: Protocol, generation: u64, asked: Asked) -> Self {
        Self {
            source,
            destination: DestinationName::Unknown,
            protocol,
            generation,
            rule: None,
            decisions: Vec::new(),
            asked,
            workload: None,
            port: None,
            security: Security::Unsent,
            attempts: 0,
            tried: Vec::new(),
            endpoint: None,
            status: None,
            reason: None,
            message: String::new(),
            result: Verdict::Success,
            latency: None,
            bytes_sent: 0,
            answer: None,
        }
    }

    fn write(&self) {
        let (mut method, mut authority, mut path, mut version, mut port) =
            (None, None, None, None, self.port);
        let mut step = None;
        match &self.asked {
            Asked::Whole { method: asked, uri, version: of, step: made_by } => {
                step = made_by.as_ref();
                let shown = step.and_then(|step| step.shown_path.as_deref());
                (method, path) = (Some(asked.as_str()), Some(shown.unwrap_or(uri.path())));
                authority = uri.authority().map(|authority| authority.as_str());
                version = Some(format!("{of:?}"));
            }
            Asked::Part(outline) => {
                (method, path) = (outline.method.as_deref(), outline.path.as_deref());
                version = outline.version.clone();
            }
            Asked::Connection { port: to } => port = port.or(Some(*to)),
        }
        let rule = self.rule.as_deref();
        let (direction, source) = match &self.source {
            Initiator::Workload(workload) => {
                ("outbound", tracing::field::display(workload as &dyn fmt::Display))
            }
            Initiator::Peer(peer) => ("inbound", tracing::field::display(peer as &dyn fmt::Display)),
        };
        tracing::info!(
            target: "tulle::access",
            direction,
            source,
            destination = %self.destination,
            workload = self.workload.as_ref().map(tracing::field::display),
            protocol = self.protocol.as_str(),
            port,
            generation = self.generation,
            route = rule.map(|rule| tracing::field::display(&rule.route)),
            rule = rule.map(|rule| rule.index),
            rule_name = rule.and_then(|rule| rule.name.as_deref()),
            decisions = listed(&self.decisions),
            endpoint = self.endpoint.map(tracing::field::display),
            method,
            authority,
            path,
            version = version.map(tracing::field::display),
            run = step.map(|step| &*step.run),
            task = step.map(|step| &*step.task),
            status = self.status,
            reason = self.reason.map(Reason::as_str),
            detail = (!self.message.is_empty()).then_some(&*self.message),
            result = self.result.as_str(),
            security = self.security.as_str(),
            attempts = self.attempts,
            tried = listed(&self.tried),
            // In thousandths, as more digits say nothing.
            latency_ms = self.latency.map(|latency| latency.as_micros() as f64 / 1e3),
            bytes_sent = self.bytes_sent,
            bytes_received = self.answer.as_ref().map(|answer| answer.bytes),
            end = self.answer.as_ref().map(|answer| answer.end.as_str()),
        );
    }
}

/// Several in one field; `None` where there are none.
fn listed(all: &[impl fmt::Display]) -> Option<String> {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

impl fmt::Display for AttemptFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reason(reason) => f.write_str(reason),
            Self::Status(status) => write!(f, "status-{status}"),
        }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.after.as_secs_f64() * 1e3;
        write!(f, "{} {} {} after {after:.1} ms", self.address, self.security.as_str(), self.failure)
    }
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
