//! Opaque connections from a workload of this node to a service: which endpoint, how it is reached,
//! and what is counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tulle_model::name::ServiceName;
use tulle_model::routing::pick_backend;
use tulle_model::snapshot::{BackendTarget, Endpoint, ServiceConfig};

use crate::budget::{Account, cost};
use crate::connect::{Counted, prepare};
use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::http::retry::Attempts;
use crate::loads::LoadGuard;
use crate::metrics::{EdgeKey, EdgeMetrics, Protocol};
use crate::reach::Hop;
use crate::reason::{Reason, Verdict};
use crate::reset::{Reset, Way};
use crate::security::Security;
use crate::state::LocalWorkload;
use crate::tcp::{self, Upstream};
use crate::worker::Worker;

/// Endpoints that are tried before a connection fails, and how long that may take in all.
const ATTEMPTS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(5);

/// Destinations outside of the mesh may be far away.
pub(crate) const EGRESS_CONNECT: Duration = Duration::from_secs(10);

/// A connection to an endpoint, not counted yet: detection may still find that it is not needed.
pub struct Opened {
    upstream: Upstream,
    edge: Arc<EdgeMetrics>,
    took: Duration,
    _load: Option<LoadGuard>,
    account: Rc<Account>,
    _counted: Counted,
}

impl Opened {
    pub fn upstream(&mut self) -> &mut Upstream {
        &mut self.upstream
    }

    /// Passes bytes until both ways are closed. `first` is what was already read from the upstream.
    pub async fn serve<IO>(self, mut client: IO, first: Vec<u8>)
    where
        IO: AsyncRead + AsyncWrite + Reset + Unpin,
    {
        let edge = &self.edge;
        edge.request(None, Verdict::Success, self.took);
        edge.opened();
        let _closed = Closed(edge);
        let ended = tcp::pass(&mut client, self.upstream, first, &self.account, |way, bytes| match way {
            Way::Up => edge.sent(bytes),
            Way::Down => edge.received(bytes),
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!("opaque connection ended: {error}");
        }
    }
}

/// Counts a connection as closed also when its task is dropped.
struct Closed<'e>(&'e EdgeMetrics);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// A connection that could not be made, not counted yet either.
pub struct Failed {
    pub error: UpstreamError,
    pub destination: ServiceName,
    took: Duration,
}

impl Failed {
    pub fn count(self, worker: &Worker, source: &LocalWorkload) -> UpstreamError {
        let key = EdgeKey::new(source, &self.destination, Protocol::Tcp, Security::Unsent);
        let verdict = Reason::from(self.error.kind).verdict();
        worker.local.metrics.edge(&key).request(None, verdict, self.took);
        self.error
    }
}

/// Connects to an endpoint that answers for `port` of `service`, or of a backend of its TCPRoute. A
/// failed connect is tried again elsewhere: nothing was sent.
pub async fn open(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    service: &ServiceConfig,
    port: u16,
) -> Result<Opened, Failed> {
    let (destination, port) = destination(worker, service, port).map_err(|error| Failed {
        error,
        destination: service.name.clone(),
        took: Duration::ZERO,
    })?;
    let begin = Instant::now();
    worker.budgets.record_request(&destination, begin);
    let account = worker.local.account(&source.name);
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let none = format!("{destination} has no ready endpoint for port {port}");
    let mut failure = UpstreamError::safe(Kind::NoEndpoints, none);
    let mut failures = 0;
    let mut attempts = Attempts::default();
    // Whether another attempt adds to the load of the service.
    let mut costs = false;
    while failures < ATTEMPTS {
        let picked = worker.local.pick(&destination, port, &tried).or_else(|| {
            // A link that is still being opened is waited for where there is nothing else.
            (failure.kind == Kind::LinkPending).then(|| worker.local.pick(&destination, port, &[]))?
        });
        let Some(picked) = picked else { break };
        let endpoint = picked.endpoint.clone();
        if costs {
            if !worker.budgets.try_retry(&destination) {
                tracing::debug!(service = %destination, "no retry: the budget is used up");
                break;
            }
            let unsent = EdgeKey::new(source, &destination, Protocol::Tcp, Security::Unsent);
            worker.local.metrics.edge(&unsent).retry();
        }
        attempts.begin();
        let hop = Hop::to(&worker.local, picked);
        let attempt = timeout_at(begin + DEADLINE, hop.connect(worker, source, &account)).await;
        match attempt {
            Ok(Ok((upstream, counted))) => {
                worker.local.health.worked(&endpoint);
                let key = EdgeKey::new(source, &destination, Protocol::Tcp, hop.security());
                return Ok(Opened {
                    upstream,
                    edge: worker.local.metrics.edge(&key),
                    took: begin.elapsed(),
                    _load: hop.load,
                    account,
                    _counted: counted,
                });
            }
            Ok(Err(error)) => {
                tracing::debug!(service = %destination, endpoint = %endpoint.address, "connect failed: {error}");
                if let Kind::Shed(_) = error.kind {
                    failure = error;
                    break;
                }
                let nobodys = error.is_nobodys();
                costs = !nobodys && error.kind != Kind::LinkPending;
                if costs {
                    failures += 1;
                    if !matches!(error.kind, Kind::ShedThere(_)) {
                        worker.local.health.failed(&endpoint, Instant::now());
                    }
                }
                failure = error;
                if nobodys {
                    if !attempts.take_back() || begin.elapsed() >= DEADLINE {
                        break;
                    }
                    tokio::time::sleep(attempts.pause()).await;
                    continue;
                }
            }
            Err(_) => {
                failure = UpstreamError::safe(Kind::Timeout, format!("no connection in {DEADLINE:?}"));
                break;
            }
        }
        if !tried.contains(&endpoint) {
            tried.push(endpoint);
        }
    }
    Err(Failed { error: failure, destination, took: begin.elapsed() })
}

/// The service whose endpoints take the connection.
fn destination(
    worker: &Worker,
    service: &ServiceConfig,
    port: u16,
) -> Result<(ServiceName, u16), UpstreamError> {
    let Some(rule) = service.port(port).and_then(|p| p.tcp_route.as_ref()) else {
        return Ok((service.name.clone(), port));
    };
    match pick_backend(&rule.backends, worker.local.random()).map(|backend| &backend.target) {
        Some(BackendTarget::Service { name, port }) => Ok((name.clone(), *port)),
        Some(BackendTarget::Invalid { reason }) => {
            let message = format!("TCPRoute {}: {reason}", rule.route);
            Err(UpstreamError::safe(Kind::NoEndpoints, message))
        }
        None => {
            let message = format!("TCPRoute {} has no backend", rule.route);
            Err(UpstreamError::safe(Kind::NoEndpoints, message))
        }
    }
}

/// Connects to the first of the addresses of a destination outside of the mesh that accepts.
pub(crate) async fn open_outside(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    addresses: &[SocketAddr],
    deadline: Duration,
) -> Result<Opened, Failed> {
    let begin = Instant::now();
    let destination = ServiceName::new("", crate::metrics::EXTERNAL);
    let account = worker.local.account(&source.name);
    let seat = account.seat(cost::APPLICATION);
    let seat = seat.map_err(|shed| {
        let destination = destination.clone();
        Failed { error: UpstreamError::shed(shed), destination, took: Duration::ZERO }
    })?;
    let mut failure = "it has no address".to_owned();
    for address in addresses {
        match timeout_at(begin + deadline, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                prepare(&tcp, address.ip().to_canonical().is_loopback());
                let key = EdgeKey::new(source, &destination, Protocol::Tcp, Security::Plaintext);
                let edge = worker.local.metrics.edge(&key);
                let (upstream, took) = (Upstream::Tcp(tcp), begin.elapsed());
                return Ok(Opened { upstream, edge, took, _load: None, account, _counted: seat.into() });
            }
            Ok(Err(error)) => failure = format!("cannot connect to {address}: {error}"),
            Err(_) => {
                failure = format!("{address} did not accept a connection in {deadline:?}");
                break;
            }
        }
    }
    let error = UpstreamError::safe(Kind::Connect, failure);
    Err(Failed { error, destination, took: begin.elapsed() })
}
