//! Opaque connections from a workload of this node to a service, or out of the mesh: where it goes, how that is reached,
//! and what passes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout_at};
use tulle_model::routing::decide::{self, Unrouted};
use tulle_model::snapshot::ServiceConfig;

use crate::access_log::End;
use crate::attempts::{Again, Attempts};
use crate::budget::Account;
use crate::connect::{Counted, EGRESS_CONNECT};
use crate::error::{UpstreamError, UpstreamErrorKind as Kind};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::reset::Reset;
use crate::tcp::{self, Upstream};
use crate::worker::Worker;

/// How long it may take in all to open a connection to an endpoint of a service.
const DEADLINE: Duration = Duration::from_secs(5);

/// A connection to an endpoint, not counted yet: detection may still find that it is not needed.
pub(crate) struct Opened {
    upstream: Upstream,
    exchange: Box<Exchange>,
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
        let Self { upstream, mut exchange, account, _counted } = self;
        exchange.connected();
        let passed = |way, bytes| exchange.bytes(way, bytes);
        let ended = tcp::pass(&mut client, upstream, first, &account, passed).await;
        exchange.ended(if ended.is_ok() { End::Complete } else { End::Broken });
        if let Err(error) = ended {
            tracing::debug!("opaque connection ended: {error}");
        }
    }
}

/// Connects to an endpoint that answers for `port` of `service`, or of a backend of its TCPRoute. A
/// failed connect is tried again elsewhere: nothing was sent. What comes back otherwise says why there is none.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    mut exchange: Box<Exchange>,
    service: &ServiceConfig,
    port: u16,
) -> Result<Opened, Box<Exchange>> {
    let view = worker.local.view();
    let attempts = match decide::connection(service, port, || worker.local.random()) {
        Ok((backend, port, decision)) => {
            if let Some(decision) = decision {
                exchange.decided(|| decision);
            }
            Attempts::at(&worker.local, &view, &mut exchange, backend.clone(), port)
        }
        Err(unrouted) => {
            let Unrouted { decision, message, .. } = *unrouted;
            exchange.decided(|| decision);
            exchange.refuse(Reason::InvalidBackend, message);
            return Err(exchange);
        }
    };
    drop(view);
    connect(worker, exchange, attempts, DEADLINE).await
}

/// Connects to the first of the addresses of a destination outside of the mesh that accepts.
pub(crate) async fn open_outside(
    worker: &Rc<Worker>,
    mut exchange: Box<Exchange>,
    addresses: Vec<SocketAddr>,
) -> Result<Opened, Box<Exchange>> {
    let attempts = Attempts::outside(&mut exchange, addresses);
    connect(worker, exchange, attempts, EGRESS_CONNECT).await
}

async fn connect(
    worker: &Rc<Worker>,
    mut exchange: Box<Exchange>,
    mut attempts: Attempts,
    deadline: Duration,
) -> Result<Opened, Box<Exchange>> {
    let end = Instant::now() + deadline;
    let source = exchange.source().clone();
    let account = worker.local.account(&source.name);
    loop {
        let Ok(hop) = attempts.next(worker, &mut exchange) else { return Err(exchange) };
        let error = match timeout_at(end, hop.connect(worker, &source, &account, None)).await {
            Ok(Ok((upstream, _counted))) => {
                attempts.succeeded(worker, &mut exchange, hop, None);
                return Ok(Opened { upstream, exchange, account, _counted });
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let error = UpstreamError::safe(Kind::Timeout, format!("no connection in {deadline:?}"));
                exchange.attempt_failed(&error, None);
                exchange.lost(&error);
                return Err(exchange);
            }
        };
        match attempts.failed(worker, &mut exchange, &hop, &error, false, true) {
            Again::No => return Err(exchange),
            Again::Now => {}
            Again::After(pause) => sleep(pause).await,
        }
    }
}
