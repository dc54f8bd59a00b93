//! TCP connections that this proxy opens, and what they count as.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tulle_sys::{mark_of_node, mark_to_process};

use crate::budget::{Account, Seat, cost};
use crate::error::{UpstreamError, UpstreamErrorKind};

/// How long a TCP connect may take.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Destinations outside of the mesh may be far away.
pub(crate) const EGRESS_CONNECT: Duration = Duration::from_secs(10);
/// A process that is alive refuses at once or accepts, unless its backlog is full, and many have room for
/// a handful only: then the kernel tries again after one and three seconds.
const APP_CONNECT_DEADLINE: Duration = Duration::from_secs(4);
/// After how long a silence a peer on another host is asked whether it lives, and how often then.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Within a host nothing is lost and nothing queues, so what congestion control costs there is for nothing:
/// this one counts, and sets no timers.
pub(crate) const LOCAL_CONGESTION: &[u8] = b"reno";

/// Who is at the other end of a connection in plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    /// A process of this node's, which has passed what there is to pass: inbound capture lets the connection through.
    Process,
    /// Anybody. Even where that is a process of this node's, the connection enters as any other. Where it is `marked`, the
    /// rules know it for the node's.
    Anybody { marked: bool },
}

/// Opens a TCP connection in plain for somebody who has a share left; within that time, where it is not the usual.
pub async fn connect_for(
    account: &Rc<Account>,
    callee: Callee,
    address: SocketAddr,
    within: Option<Duration>,
) -> Result<(TcpStream, Seat), UpstreamError> {
    let seat = account.seat(cost::APPLICATION).map_err(UpstreamError::shed)?;
    let tcp = match within {
        Some(deadline) => open_within(callee, address, deadline).await?,
        None => connect(callee, address).await?,
    };
    Ok((tcp, seat))
}

/// Opens a TCP connection in plain: within a second, or a little more on this host.
pub async fn connect(callee: Callee, address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let local = callee == Callee::Process || address.ip().to_canonical().is_loopback();
    open_within(callee, address, if local { APP_CONNECT_DEADLINE } else { CONNECT_DEADLINE }).await
}

/// Opens a TCP connection in plain, within `deadline`.
pub(crate) async fn open_within(
    callee: Callee,
    address: SocketAddr,
    deadline: Duration,
) -> Result<TcpStream, UpstreamError> {
    let local = callee == Callee::Process || address.ip().to_canonical().is_loopback();
    let why = match timeout(deadline, open(callee, address)).await {
        Ok(Ok(tcp)) => {
            prepare(&tcp, local);
            return Ok(tcp);
        }
        Ok(Err(error)) => format!("cannot connect to {address}: {error}"),
        Err(_) => format!("{address} did not accept a connection in {deadline:?}"),
    };
    Err(UpstreamError::safe(UpstreamErrorKind::Connect, why))
}

async fn open(callee: Callee, address: SocketAddr) -> io::Result<TcpStream> {
    if callee == (Callee::Anybody { marked: false }) {
        return TcpStream::connect(address).await;
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    match callee {
        // Who may not needs it not: there are no rules that look for it.
        Callee::Process => _ = mark_to_process(&socket),
        // Without it, it would come back to this proxy.
        Callee::Anybody { .. } => mark_of_node(&socket)?,
    }
    socket.connect(address).await
}

/// Sets a connection's options. Peers on other hosts may be gone without a word, and the one who would
/// ask by keep-alive is on the other side of this proxy.
pub(crate) fn prepare(tcp: &TcpStream, local: bool) {
    let _ = tcp.set_nodelay(true);
    if local {
        let _ = SockRef::from(tcp).set_tcp_congestion(LOCAL_CONGESTION);
    } else {
        let ask = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_INTERVAL);
        let _ = SockRef::from(tcp).set_tcp_keepalive(&ask);
    }
}
