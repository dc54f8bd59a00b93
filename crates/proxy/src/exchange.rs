//! One request or connection: what is known of it, what was decided over it and by which object, the attempts at
//! it, and what became of it. Metrics and the access log read this and nothing else.

mod dropped;
mod sent;

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::Instant;
use tulle_model::decision::Decision;
use tulle_model::snapshot::{Endpoint, HttpRule};

use self::sent::Sent;
use crate::access_log::{Asked, AttemptFailure, End, Initiator, LogEntry, LoggedAnswer, Tried};
use crate::destination::Load;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::inbound::presence::Withdrawn;
use crate::local::Local;
use crate::metrics::{DestinationName, Edge, EdgeMetrics, Protocol};
use crate::peer::Peer;
use crate::reason::{Reason, Verdict};
use crate::reset::Direction;
use crate::security::Security;
use crate::state::LocalWorkload;

/// Decisions and attempts that the log names of one exchange.
const NAMED: usize = 16;

/// It goes nowhere: the exchange says why.
#[derive(Debug)]
pub(crate) struct Refused;

/// What the exchanges of one client's connection have in common when it ends.
#[derive(Default)]
pub(crate) struct ConnectionEnd {
    /// The client, of HTTP/1, has closed its side and was let go.
    pub cut: Cell<bool>,
    /// What is dropped now is counted already, or for nothing that the client did.
    pub counted: Cell<bool>,
}

/// Whose a request or connection is, and so on which side of it this node is.
enum Origin {
    /// A workload's of this node.
    Workload(Arc<LocalWorkload>),
    /// A workload's of another node, which came over a link. That node counts it.
    Link,
    /// Somebody's outside of the mesh, in plain.
    Outside,
}

/// What is said of an exchange that is refused. Boxed: few are, and an exchange is part of each stream.
#[derive(Default)]
struct RefusalWords {
    /// For people.
    message: String,
    /// What clients are told instead of the reason's own word.
    word: Option<String>,
}

/// One request or connection of a workload of this node, or for one of them from elsewhere.
pub(crate) struct Exchange {
    local: Rc<Local>,
    origin: Origin,
    /// Of a client that can give it up; `None` where nobody waits for an answer.
    client: Option<Rc<ConnectionEnd>>,
    protocol: Protocol,
    started: Instant,
    /// When it could be attempted, where it had to wait for that.
    ready: Option<Instant>,
    destination: DestinationName,
    /// How the last attempt is protected of which something may have reached an endpoint, the one under way included.
    security: Cell<Security>,
    /// The same without the one under way.
    reached: Security,
    /// How what is sent by the attempt under way would be protected.
    way: Security,
    attempts: u32,
    /// Where the last attempt went.
    endpoint: Option<SocketAddr>,
    /// Held until the answer has passed.
    load: Option<Load>,
    /// When an attempt was answered, or had opened its connection.
    answered: Option<Instant>,
    /// Why the mesh answers or ends it itself, if it does.
    reason: Option<Reason>,
    words: Option<Box<RefusalWords>>,
    /// What its rule has it answered.
    answer: Option<Box<Response<()>>>,
    /// The length of a body that was there as a whole.
    whole: u64,
    /// What passes of one that was not.
    body: OnceCell<Rc<Sent>>,
    log: Option<Box<LogEntry>>,
    stage: Stage,
}

/// How far it is.
enum Stage {
    Begun,
    /// A connection of bytes that is counted, and passes them.
    Open(Option<Arc<EdgeMetrics>>),
    /// The same of a request whose application has left HTTP.
    Switched(Option<Arc<EdgeMetrics>>),
    /// All is counted.
    Over,
}

impl Exchange {
    /// One that a workload of this node begins now. `asked` is looked at where it is logged.
    pub fn begin(
        local: &Rc<Local>,
        source: &Arc<LocalWorkload>,
        protocol: Protocol,
        destination: DestinationName,
        asked: impl FnOnce() -> Asked,
    ) -> Self {
        let origin = source.outside.map_or_else(|| Origin::Workload(source.clone()), |_| Origin::Outside);
        Self::new(local, origin, protocol, destination, || Initiator::of(source), asked)
    }

    /// One that comes from elsewhere now, for a workload of this node that is not known yet. Boxed, as the future that
    /// holds it is there once for each stream of a link.
    pub fn arrive(
        local: &Rc<Local>,
        peer: &Peer,
        protocol: Protocol,
        asked: impl FnOnce() -> Asked,
    ) -> Box<Self> {
        let origin = match peer {
            Peer::Mesh(_) => Origin::Link,
            Peer::Plain(_) => Origin::Outside,
        };
        let source = || Initiator::Peer(peer.clone());
        Box::new(Self::new(local, origin, protocol, DestinationName::Unknown, source, asked))
    }

    fn new(
        local: &Rc<Local>,
        origin: Origin,
        protocol: Protocol,
        destination: DestinationName,
        source: impl FnOnce() -> Initiator,
        asked: impl FnOnce() -> Asked,
    ) -> Self {
        let view = local.view();
        let snapshot = &view.snapshot;
        let entry = || Box::new(LogEntry::new(source(), protocol, snapshot.generation, asked()));
        let log = snapshot.mesh.access_log.then(entry);
        Self {
            local: local.clone(),
            origin,
            client: None,
            protocol,
            started: Instant::now(),
            ready: None,
            destination,
            security: Cell::new(Security::Unsent),
            reached: Security::Unsent,
            way: Security::Unsent,
            attempts: 0,
            endpoint: None,
            load: None,
            answered: None,
            reason: None,
            words: None,
            answer: None,
            whole: 0,
            body: OnceCell::new(),
            log,
            stage: Stage::Begun,
        }
    }

    /// It counts as given up where it is dropped before it is over, unless its client's end says otherwise.
    pub fn of_client(mut self, client: &Rc<ConnectionEnd>) -> Self {
        self.client = Some(client.clone());
        self
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// The workload of this node whose it is, if it is one's.
    pub fn source(&self) -> Option<&LocalWorkload> {
        match &self.origin {
            Origin::Workload(source) => Some(source),
            Origin::Link | Origin::Outside => None,
        }
    }

    /// Whether somebody outside of the mesh has begun it.
    pub fn is_from_outside(&self) -> bool {
        matches!(self.origin, Origin::Outside)
    }

    pub fn security(&self) -> Security {
        self.security.get()
    }

    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Why it goes nowhere, for people.
    pub fn message(&self) -> &str {
        self.words.as_ref().map_or("", |words| &words.message)
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    pub fn is_logged(&self) -> bool {
        self.log.is_some()
    }

    /// Whether somebody reads what it notes: its metrics or its line.
    pub fn is_read(&self) -> bool {
        self.is_logged() || !matches!(self.origin, Origin::Link)
    }

    /// It arrived for that port of a workload.
    pub fn is_for(&mut self, workload: &LocalWorkload, port: u16) {
        if !self.is_read() {
            return;
        }
        self.destination = workload.service_name().into();
        if let Some(log) = &mut self.log {
            (log.workload, log.port) = (Some(workload.name.clone()), Some(port));
        }
    }

    /// It arrived, and goes to the process at that address now.
    pub fn passes_to(&mut self, address: SocketAddr) {
        let came =
            if matches!(self.origin, Origin::Link) { Security::MutualTls } else { Security::Plaintext };
        self.attempt(address, came);
    }

    /// Notes what it asks for, which was not known yet.
    pub fn asks(&mut self, asked: impl FnOnce() -> Asked) {
        if let Some(log) = &mut self.log {
            log.asked = asked();
        }
    }

    /// Notes where it goes.
    pub fn goes_to(&mut self, destination: impl Into<DestinationName>) {
        self.destination = destination.into();
    }

    /// Notes the configuration that it is decided on.
    pub fn decided_on(&mut self, generation: u64) {
        if let Some(log) = &mut self.log {
            log.generation = generation;
        }
    }

    /// Notes the rule that decides where it goes.
    pub fn ruled_by(&mut self, rule: &Arc<HttpRule>, decision: impl FnOnce() -> Option<Decision>) {
        if let Some(log) = &mut self.log {
            log.rule = Some(rule.clone());
            log.decisions.extend(decision());
        }
    }

    /// Notes what was decided over it, and by what.
    pub fn decided(&mut self, decision: impl FnOnce() -> Decision) {
        if let Some(log) = &mut self.log
            && log.decisions.len() < NAMED
        {
            log.decisions.push(decision());
        }
    }

    /// Refuses it.
    pub fn refuse(&mut self, reason: Reason, message: impl Into<String>) -> Refused {
        self.refuse_as(reason, None, message.into())
    }

    /// The same; `word`: what clients are told instead of the reason's own.
    pub fn refuse_as(&mut self, reason: Reason, word: Option<String>, message: String) -> Refused {
        self.reason = Some(reason);
        self.words = Some(Box::new(RefusalWords { message, word }));
        Refused
    }

    /// What clients are told instead of the reason's own word.
    pub fn take_word(&mut self) -> Option<String> {
        self.words.as_mut()?.word.take()
    }

    /// It goes nowhere: its rule has it answered so, without a body.
    pub fn answers(&mut self, answer: Response<()>) -> Refused {
        self.answer = Some(Box::new(answer));
        Refused
    }

    pub fn take_answer(&mut self) -> Option<Response<()>> {
        self.answer.take().map(|answer| *answer)
    }

    /// An attempt begins; nothing is sent yet.
    pub fn attempt(&mut self, address: SocketAddr, way: Security) {
        self.attempts += 1;
        (self.endpoint, self.way) = (Some(address), way);
    }

    /// Something of it may reach an endpoint from now on.
    pub fn sends(&self) {
        self.security.set(self.way);
    }

    /// The attempt under way failed; `endpoint`: where it went, in the mesh.
    pub fn attempt_failed(&mut self, error: &UpstreamError, endpoint: Option<&Endpoint>) {
        let security = self.way;
        if !error.safe_to_retry {
            self.reached = security;
        }
        self.security.set(self.reached);
        self.tried(security, AttemptFailure::Reason(error.kind.reason()));
        let Some(log) = &self.log else { return };
        if let Some(decision) = error.denied.as_ref().and_then(|denied| denied.by.clone()) {
            return self.decided(|| decision);
        }
        let decision = match (error.kind, endpoint, &log.workload) {
            (UpstreamErrorKind::Draining, Some(endpoint), _) => Decision::draining(endpoint),
            (UpstreamErrorKind::WrongIdentity, Some(endpoint), _) => Decision::wrong_identity(endpoint),
            (UpstreamErrorKind::Draining, None, Some(workload)) => Decision::stopping(workload.clone()),
            (UpstreamErrorKind::Refused, None, Some(workload)) => Decision::no_such_port(workload.clone()),
            _ => return,
        };
        self.decided(|| decision);
    }

    /// The attempt under way was answered with that status, which nobody is told: another follows.
    pub fn attempt_answered(&mut self, status: StatusCode) {
        self.reached = self.way;
        self.tried(self.way, AttemptFailure::Status(status.as_u16()));
    }

    /// Notes that the attempt under way was not the last, for that.
    fn tried(&mut self, security: Security, failure: AttemptFailure) {
        if let Some(log) = &mut self.log
            && let Some(address) = self.endpoint
            && log.tried.len() < NAMED
        {
            log.tried.push(Tried { address, security, after: self.started.elapsed(), failure });
        }
    }

    /// The attempt that failed does not count: it was sent back for nobody's fault.
    pub fn take_back(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// It is tried once more, after a failed attempt.
    pub fn retry(&self) {
        if let Some(edge) = self.edge() {
            edge.retry();
        }
    }

    /// No attempt got an answer, the last one for that.
    pub fn lost(&mut self, error: &UpstreamError) {
        self.refuse(error.kind.into(), error.message.clone());
    }

    /// It came from elsewhere, and does not get to the process, for that.
    pub fn did_not_arrive(&mut self, error: &UpstreamError) {
        self.attempt_failed(error, None);
        self.lost(error);
    }

    /// An attempt was answered, or opened its connection: what it keeps in flight is held until that is over.
    pub fn answered(&mut self, load: Option<Load>, now: Instant) {
        (self.load, self.answered) = (load, Some(now));
    }

    /// Notes the length of a body that is there as a whole.
    pub fn sends_whole(&mut self, length: u64) {
        self.whole = length;
    }

    /// What its body is counted by.
    pub fn body(&self) -> Rc<Sent> {
        self.body.get_or_init(Rc::default).clone()
    }

    /// What was wrong with its body, as far as it was read, and what to say of it.
    pub fn fault(&self) -> Option<(Reason, &'static str)> {
        self.body.get().and_then(|sent| sent.fault.get())
    }

    /// Its counters, as far as it is known where it goes; `None` where another node counts it.
    fn edge(&self) -> Option<Arc<EdgeMetrics>> {
        let (destination, protocol, security) = (self.destination.name(), self.protocol, self.security.get());
        let edge = match &self.origin {
            Origin::Workload(source) => Edge::new(source, &destination, protocol, security),
            Origin::Outside => Edge::from_outside(&destination, protocol, security),
            Origin::Link => return None,
        };
        Some(self.local.metrics.edge(&edge))
    }

    /// Its edge, on which what its body sends is counted from now on.
    pub fn count_body(&self) -> Option<Arc<EdgeMetrics>> {
        let edge = self.edge()?;
        edge.sent(self.bytes_sent());
        if let Some(sent) = self.body.get() {
            let _ = sent.edge.set(edge.clone());
        }
        self.count_refusal();
        Some(edge)
    }

    /// Counts why the mesh answers or ends it itself, if it does.
    pub fn count_refusal(&self) {
        if let Some(reason) = self.reason {
            self.local.metrics.counts().refused(reason);
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.whole + self.body.get().map_or(0, |sent| sent.bytes.get())
    }

    /// How long it took until it was answered, or until now.
    pub fn latency(&self) -> Duration {
        self.answered.unwrap_or_else(Instant::now).saturating_duration_since(self.started)
    }

    /// The answer to a request has passed.
    pub fn passed(
        &mut self,
        edge: Option<&EdgeMetrics>,
        status: u16,
        verdict: Verdict,
        latency: Duration,
        answer: LoggedAnswer,
    ) {
        self.stage = Stage::Over;
        self.load = None;
        if let Some(edge) = edge {
            edge.request(Some(status), verdict, latency);
        }
        if self.log.is_none() {
            return;
        }
        let cut = self.client.as_ref().is_some_and(|client| client.cut.get());
        let reason = self.reason.or(cut.then_some(Reason::HalfClosed));
        self.write(|entry| {
            (entry.status, entry.reason, entry.latency) = (Some(status), reason, Some(latency));
            entry.answer = Some(answer);
            entry.result = verdict;
        });
    }

    /// Counts and logs a request that is refused without being read whole, or a connection that leads nowhere: nothing
    /// was sent anywhere. `status`: what its client is told.
    pub fn turned_away(mut self, verdict: Verdict, status: Option<u16>) {
        self.stage = Stage::Over;
        if let Some(reason) =
            self.reason.filter(|_| self.protocol != Protocol::Tcp && !matches!(self.origin, Origin::Link))
        {
            self.local.metrics.counts().refused(reason);
        }
        let latency = if self.attempts > 0 { self.latency() } else { Duration::ZERO };
        if let Some(edge) = self.edge() {
            edge.request(status, verdict, latency);
        }
        let (reason, tried) = (self.reason, self.attempts > 0);
        self.write(|entry| {
            (entry.status, entry.reason, entry.result) = (status, reason, verdict);
            entry.latency = tried.then_some(latency);
        });
    }

    /// Counts it as that from now on.
    pub fn counts_as(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        if let Some(log) = &mut self.log {
            log.protocol = protocol;
        }
    }

    /// No client waits for its answer any more.
    pub fn leaves_client(&mut self) {
        self.client = None;
    }

    /// What it waited for before it could be attempted is there.
    pub fn waited(&mut self) {
        self.ready = Some(Instant::now());
    }

    /// When it could be attempted.
    pub fn ready(&self) -> Instant {
        self.ready.unwrap_or(self.started)
    }

    /// It is no more: what it was about is counted as another one.
    pub fn forget(mut self) {
        self.stage = Stage::Over;
    }

    /// A connection is there, and passes bytes from now on.
    pub fn connected(&mut self) {
        if !self.is_read() {
            self.stage = Stage::Open(None);
            return;
        }
        let latency = self.latency();
        let edge = self.edge();
        if let Some(edge) = &edge {
            edge.request(None, Verdict::Success, latency);
            edge.opened();
        }
        self.opens(None, latency);
        self.stage = Stage::Open(edge);
    }

    /// Its application has left HTTP with that status, and bytes pass from now on.
    pub fn switched(&mut self, status: StatusCode) {
        let latency = self.latency();
        let edge = self.count_body();
        if let Some(edge) = &edge {
            edge.request(Some(status.as_u16()), Verdict::Success, latency);
        }
        self.opens(Some(status.as_u16()), latency);
        self.stage = Stage::Switched(edge);
    }

    fn opens(&mut self, status: Option<u16>, latency: Duration) {
        if let Some(log) = &mut self.log {
            (log.status, log.latency) = (status, Some(latency));
            log.answer = Some(LoggedAnswer { bytes: 0, end: End::Abandoned });
        }
    }

    /// Bytes of a connection.
    pub fn bytes(&mut self, way: Direction, bytes: u64) {
        let (Stage::Open(edge) | Stage::Switched(edge)) = &self.stage else { return };
        match way {
            Direction::Up => {
                self.whole += bytes;
                if let Some(edge) = edge {
                    edge.sent(bytes);
                }
            }
            Direction::Down => {
                if let Some(edge) = edge {
                    edge.received(bytes);
                }
                if let Some(answer) = self.log.as_mut().and_then(|log| log.answer.as_mut()) {
                    answer.bytes += bytes;
                }
            }
        }
    }

    /// How a connection ended.
    pub fn ended(&mut self, end: End) {
        if let Some(answer) = self.log.as_mut().and_then(|log| log.answer.as_mut()) {
            answer.end = end;
        }
    }

    /// The same, by what came of passing its bytes.
    pub fn ended_with(&mut self, passed: &io::Result<()>) {
        self.ended(if passed.is_ok() { End::Complete } else { End::Broken });
        if let Some(withdrawn) = passed.as_ref().err().and_then(Withdrawn::of) {
            self.refuse(Reason::Withdrawn, withdrawn.to_string());
        }
    }

    /// Has its line written.
    fn write(&mut self, complete: impl FnOnce(&mut LogEntry)) {
        let Some(mut entry) = self.log.take() else { return };
        entry.destination = self.destination.clone();
        (entry.security, entry.attempts, entry.endpoint) =
            (self.security.get(), self.attempts, self.endpoint);
        entry.bytes_sent = self.bytes_sent();
        entry.message = self.words.take().unwrap_or_default().message;
        complete(&mut entry);
        self.local.log(entry);
    }
}
