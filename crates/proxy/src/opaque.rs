//! Opaque connections from a workload of this node to a service, or out of the mesh: where it goes, how that is reached,
//! and what passes.

use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tulle_model::egress::originated::Onward;
use tulle_model::routing::decide::{self, Unrouted};
use tulle_model::snapshot::ServiceConfig;

use crate::attempts::Attempts;
use crate::budget::{Account, Seat};
use crate::exchange::{Exchange, Refused};
use crate::metrics::Protocol;
use crate::outside::OutsidePlace;
use crate::reset::Reset;
use crate::state::LocalWorkload;
use crate::tcp::{self, Upstream};
use crate::worker::Worker;

/// A connection to an endpoint, not counted yet: detection may still find that it is not needed.
pub(crate) struct Opened {
    upstream: Upstream,
    exchange: Box<Exchange>,
    account: Rc<Account>,
    _seat: Option<Seat>,
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
        let Self { upstream, mut exchange, account, _seat } = self;
        exchange.connected();
        let passed = |way, bytes| exchange.bytes(way, bytes);
        let ended = tcp::pass(&mut client, upstream, first, &account, passed).await;
        exchange.ended_with(&ended);
        if let Err(error) = ended {
            tracing::debug!("opaque connection ended: {error}");
        }
    }
}

/// Connects to an endpoint that answers for `port` of `service`, or of a backend of its TCPRoute, or of the TLSRoute that is for
/// `server`, which the client names. A failed connect is tried again elsewhere: nothing was sent. What comes back otherwise
/// says why there is none.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    mut exchange: Box<Exchange>,
    service: &ServiceConfig,
    port: u16,
    server: Option<&str>,
) -> Result<Opened, Box<Exchange>> {
    exchange.counts_as(Protocol::Tcp);
    let view = worker.local.view();
    let random = || worker.local.random();
    let attempts = match decide::connection(service, port, &source.name.namespace, server, random) {
        Ok((backend, port, decision)) => {
            if let Some(decision) = decision {
                exchange.decided(|| decision);
            }
            Attempts::at(&worker.local, &view, &mut exchange, backend.clone(), port)
        }
        Err(unrouted) => {
            let Unrouted { why, decision, message, .. } = *unrouted;
            exchange.decided(|| decision);
            exchange.refuse(why.into(), message);
            return Err(exchange);
        }
    };
    drop(view);
    connect(worker, source, exchange, attempts).await
}

/// Connects to the first of the addresses of a place outside of the mesh that accepts.
pub(crate) async fn open_outside(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    mut exchange: Box<Exchange>,
    place: &OutsidePlace,
    onward: Onward,
) -> Result<Opened, Box<Exchange>> {
    exchange.counts_as(Protocol::Tcp);
    let attempts = Attempts::outside(worker, &mut exchange, place, onward);
    connect(worker, source, exchange, attempts).await
}

async fn connect(
    worker: &Rc<Worker>,
    source: &LocalWorkload,
    mut exchange: Box<Exchange>,
    mut attempts: Attempts,
) -> Result<Opened, Box<Exchange>> {
    let account = worker.local.account(source);
    match attempts.connect(worker, &mut exchange, source, &account).await {
        Ok((hop, upstream, _seat)) => {
            exchange.sends();
            exchange.leaves_client();
            exchange.answered(hop.into_load(), Instant::now());
            Ok(Opened { upstream, exchange, account, _seat })
        }
        Err(Refused) => Err(exchange),
    }
}
