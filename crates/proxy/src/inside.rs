//! Connections of bytes to a workload of this node whose requests are read inside of the process, as policies look at them.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;

use crate::budget::Account;
use crate::http::server::{self, HttpDestination};
use crate::inbound::{self, Entrance};
use crate::pair::PairEnd;
use crate::peer::Peer;
use crate::state::LocalWorkload;
use crate::tcp::Downstream;
use crate::worker::Worker;

/// Serves what `peer` writes at the other end. Where nobody looks at requests any more, that end sees a reset.
pub(crate) fn serve(
    worker: Rc<Worker>,
    peer: Peer,
    workload: Arc<LocalWorkload>,
    port: u16,
    end: PairEnd,
    account: Rc<Account>,
) -> LocalBoxFuture<'static, ()> {
    Box::pin(async move {
        let mut io = Downstream::Tunnel(Box::new(end));
        let entrance = Entrance::to(&peer, &workload, port);
        let Some(arrival) = inbound::carries_http(&worker.local, entrance, &account) else {
            return crate::reset::Reset::reset(&mut io);
        };
        server::serve(worker, workload, io, Vec::new(), HttpDestination::Workload(Box::new(arrival))).await;
    })
}
