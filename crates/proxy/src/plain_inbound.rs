//! A connection from outside of the mesh to a process of this node, which inbound capture has diverted here: whose it is →
//! whether it may enter ([`crate::inbound`]) → the process, at the address that the client meant → bytes.
//!
//! The kernel gives such a connection the address that it was made to as its own, and the listener is the workload's. The
//! process sees this host as its client: the very address that it is reached at, which is loopback only where the client is
//! on this host and meant that.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;
use tulle_model::name::WorkloadName;

use crate::access_log::Asked;
use crate::budget::Account;
use crate::connect::prepare;
use crate::error::UpstreamError;
use crate::exchange::Exchange;
use crate::http::server::{HttpDestination, serve as serve_http};
use crate::inbound::{self, Entrance};
use crate::metrics::{Protocol, Rejection};
use crate::peer::Peer;
use crate::reason::Reason;
use crate::reset::Reset;
use crate::tcp::{self, Upstream};
use crate::worker::Worker;

/// Serves one accepted connection; `account` pays.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    name: WorkloadName,
    account: Rc<Account>,
    mut client: TcpStream,
    peer: SocketAddr,
) {
    let reject = |client: &mut TcpStream, why: Rejection, text: &str| {
        worker.local.metrics.counts().rejected(why);
        tracing::debug!(%peer, workload = %name, reason = why.as_str(), "connection from outside of the mesh refused: {text}");
        client.reset();
    };
    let Some(workload) = worker.local.workload(&name) else {
        return reject(&mut client, Rejection::NoWorkload, "its workload is no longer on this node");
    };
    // The rules divert none of them: it was made to this port itself.
    let meant = match client.local_addr() {
        Ok(address) if !worker.is_own_listener(address) => address,
        _ => return reject(&mut client, Rejection::Loop, "it was made to the proxy itself"),
    };
    // One whose host is gone without a word would stay for ever.
    prepare(&client, peer.ip().to_canonical().is_loopback());
    let peer = Peer::Plain(peer);
    let asked = || Asked::Connection { port: meant.port() };
    let mut exchange = Exchange::arrive(&worker.local, &peer, Protocol::Tcp, asked);
    exchange.is_for(&workload, meant.port());
    exchange.passes_to(meant);
    let entrance = Entrance { peer: &peer, workload: &workload, port: meant.port(), address: meant.ip() };
    let turn_away = |mut exchange: Box<Exchange>, client: &mut TcpStream, error: &UpstreamError| {
        exchange.did_not_arrive(error);
        let reason = Reason::from(error.kind);
        exchange.turned_away(reason.verdict(), None);
        let why = match reason {
            Reason::Shed(shed) => shed.into(),
            Reason::Denied => Rejection::Denied,
            _ => Rejection::ConnectFailed,
        };
        reject(client, why, &error.message);
    };
    if inbound::is_read(&worker.local, entrance)
        && let Some(arrival) = inbound::carries_http(&worker.local, entrance, &account)
    {
        if let Err(error) = inbound::admit(&worker.local, entrance) {
            return turn_away(exchange, &mut client, &error);
        }
        // What comes out of it is counted.
        exchange.forget();
        let destination = HttpDestination::Workload(Box::new(arrival));
        return Box::pin(serve_http(worker, workload, client.into(), Vec::new(), destination)).await;
    }
    let (process, _seat) = match inbound::connect(&worker, entrance, &account, None).await {
        Ok(connected) => connected,
        Err(error) => return turn_away(exchange, &mut client, &error),
    };
    exchange.sends();
    exchange.connected();
    let passed = |way, bytes| exchange.bytes(way, bytes);
    let ended = tcp::pass(&mut client, Upstream::Process(process), Vec::new(), &account, passed).await;
    exchange.ended_with(&ended);
    if let Err(error) = ended {
        tracing::debug!(%peer, workload = %name, "connection from outside of the mesh ended: {error}");
    }
}

#[cfg(test)]
mod tests;
